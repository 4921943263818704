"""`mover copy` and `mover move`: the general verb."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mover.cli.common import plan_option, timeout_option, wait_option, with_client

if TYPE_CHECKING:
    from collections.abc import Callable

    from mover.cli.output import Output
    from mover.model import wire
    from mover.model.moving import Keep
    from mover.sdk import SyncClient

KEEP_WORDS = (
    "mode", "no-mode", "mtime", "no-mtime", "owner", "xattrs", "acls", "no-sparse", "symlinks=copy", "symlinks=skip",
    "symlinks=refuse", "hard-links=copy", "hard-links=link", "hard-links=refuse",
)  # fmt: skip


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What both verbs take."""
    for option in reversed([
        click.argument("places", nargs=-1, required=True, metavar="FROM... TO"),
        click.option("--list", "list_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                     help="A file with names below FROM, one a line, as the file system spells them."),
        click.option("--where", metavar="CONDITION",
                     help="Only entries for which this holds: \"age > 90d and size > 1MB and name like '%.svs'\"."),
        click.option("--catalog", is_flag=True, help="Choose from what the catalog knows, without listing the tier."),
        click.option("--canary", type=click.IntRange(0, 1_000_000), default=0, metavar="N",
                     help="Move the first N entries of each source, then wait for `mover transfer approve`."),
        click.option("--keep", "keep_words", multiple=True, type=click.Choice(KEEP_WORDS), metavar="WORD",
                     help=f"What metadata travels; may be given again: {', '.join(KEEP_WORDS)}."),
        click.option("--report-offenders", is_flag=True,
                     help="Report what cannot be moved and move the rest; else one offender refuses all."),
        click.option("--tries", type=click.IntRange(1, 10), default=3, show_default=True,
                     help="How often an entry is tried that fails for a reason that may pass."),
        click.option("--bytes-per-second", "bytes_s", type=click.IntRange(1), help="Of each source."),
        click.option("--files-per-second", "files_s", type=click.IntRange(1), help="Of each source."),
        click.option("--key", help="The same key gives the same transfer. Default: a fresh one."),
        wait_option, timeout_option, plan_option,
    ]):  # fmt: skip
        function = option(function)
    return function


@click.command("copy")
@_options
@with_client
def command(*, mover: SyncClient, out: Output, **said: Any) -> int:
    """Copy trees, lists or what a condition selects from tier to tier.

    FROM and TO are TIER or TIER:PREFIX. Every copy is read back; what stands there with the same bytes already is not
    moved again; nothing is ever overwritten.
    """
    return transfer("copy", mover, out, **said)


@click.command("move")
@_options
@click.option("--hold", "hold_s", type=click.IntRange(0), default=7 * 86_400, show_default=True, metavar="SECONDS",
              help="How long sources wait in the trash before they are purged.")  # fmt: skip
@with_client
def move(*, mover: SyncClient, out: Output, **said: Any) -> int:
    """Copy, then release the sources: trash, hold, purge.

    Each copy and each source is read again, then the source goes to the tier's trash; after the hold it is purged.
    `mover transfer restore` brings it back until then.
    """
    return transfer("move", mover, out, **said)


def transfer(
    verb: str,
    mover: SyncClient,
    out: Output,
    *,
    key: str | None,
    wait: bool,
    timeout_s: float | None,
    plan: bool,
    **said: Any,
) -> int:
    from mover.cli.transfer import show_transfer, status_of, wait_for
    from mover.randomness import random_bytes

    body = _body(verb, **said)
    if plan:
        out.plan(mover.transfers.plan_request(body))
        return 0
    seen = mover.transfers.request(body, key=key or f"cli/{random_bytes(10).hex()}")
    if wait:
        seen = wait_for(mover, out, seen.id, timeout_s)
    show_transfer(out, seen)
    return status_of(seen)


def _body(
    verb: str,
    *,
    places: tuple[str, ...],
    list_file: Path | None,
    where: str | None,
    catalog: bool,
    canary: int,
    keep_words: tuple[str, ...],
    report_offenders: bool,
    tries: int,
    bytes_s: int | None,
    files_s: int | None,
    hold_s: int = 7 * 86_400,
) -> wire.TransferRequest:
    from mover.model import wire

    if len(places) < 2:
        raise click.UsageError("say at least one FROM, and TO")
    if list_file is not None and len(places) > 2:
        raise click.UsageError("--list is of one source")
    keys = _names(list_file) if list_file is not None else None
    limits = wire.TransferLimits(bytes_s=bytes_s, files_s=files_s)
    sources = [
        wire.TransferSource(tier=tier, prefix=prefix, keys=keys, where=where, catalog=catalog, limits=limits)
        for tier, prefix in map(_place, places[:-1])
    ]
    to, prefix = _place(places[-1])
    return wire.TransferRequest(
        verb=verb, sources=sources, to=to, prefix=prefix, keep=_keep(keep_words), canary=canary, tries=tries,  # type: ignore[arg-type]
        offenders="report" if report_offenders else "refuse", release=wire.TransferRelease(hold_s=hold_s),
    )  # fmt: skip


def _place(text: str) -> tuple[str, str]:
    from mover.model.names import key_text

    tier, _, prefix = text.partition(":")
    return tier, key_text(prefix)


def _names(path: Path) -> list[str]:
    """Lines are bytes; what is no text in them travels escaped."""
    from mover.model.names import key_text

    return [key_text(os.fsdecode(line)) for line in path.read_bytes().splitlines() if line]


def _keep(words: tuple[str, ...]) -> Keep:
    from mover.model.moving import Keep

    said: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        plain = name.removeprefix("no-").replace("-", "_")
        said[plain] = value if equals else not name.startswith("no-")
    return Keep(**said)
