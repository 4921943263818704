"""`mover verify`: read again what stands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mover.cli.common import plan_option, timeout_option, wait_option, with_client

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient


@click.command("verify")
@click.argument("place", required=False, metavar="[TIER[:PREFIX]]")
@click.option("--run", help="The root of this run, against its manifest.")
@click.option("--list", "list_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Only these keys of TIER: a file with one a line, as the file system spells them.")  # fmt: skip
@click.option("--repair-from", metavar="TIER",
              help="Where a second copy stands: what is damaged is moved aside and brought from there.")  # fmt: skip
@click.option("--no-strangers", is_flag=True, help="Do not list the tier for what the catalog does not know.")
@click.option("--key", help="The same key gives the same verification. Default: a fresh one.")
@wait_option
@timeout_option
@plan_option
@with_client
def command(
    *,
    mover: SyncClient,
    out: Output,
    place: str | None,
    run: str | None,
    list_file: Path | None,
    repair_from: str | None,
    no_strangers: bool,
    key: str | None,
    wait: bool,
    timeout_s: float | None,
    plan: bool,
) -> int:
    """Read a tier, a run or a list again, and compare with the catalog.

    Every byte is read cold, oldest proof first, within the tier's budget. Differences are named: bit-rot, changed,
    missing, stranger, unreadable. Nothing is deleted, and nothing is overwritten.
    """
    from mover.cli.verification import show_verification, status_of, wait_for
    from mover.randomness import random_bytes

    body = _body(place, run, list_file, repair_from, strangers=not no_strangers)
    if plan:
        out.plan(mover.verifications.plan_request(body))
        return 0
    seen = mover.verifications.request(body, key=key or f"cli/{random_bytes(10).hex()}")
    if wait:
        seen = wait_for(mover, out, seen.id, timeout_s)
    show_verification(out, seen)
    return status_of(seen)


def _body(
    place: str | None, run: str | None, list_file: Path | None, repair_from: str | None, *, strangers: bool
) -> wire.VerificationRequest:
    from mover.model import wire
    from mover.model.names import key_text

    if (place is None) == (run is None):
        raise click.UsageError("say a TIER, or --run")
    if run is not None:
        if list_file is not None or repair_from is not None:
            raise click.UsageError("a run is verified whole, and staged again instead of repaired")
        return wire.VerificationRequest(run=run)
    assert place is not None
    tier, _, prefix = place.partition(":")
    keys = None
    if list_file is not None:
        # lines are bytes; what is no text in them travels escaped
        keys = [key_text(os.fsdecode(line)) for line in list_file.read_bytes().split(b"\n") if line]
    return wire.VerificationRequest(
        tier=tier, prefix=key_text(prefix) if not prefix.isascii() else prefix, keys=keys, strangers=strangers,
        repair_from=repair_from,
    )  # fmt: skip
