"""`mover restore`."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING

import click

from mover.cli.common import as_of_option, plan_option, timeout_option, wait_option, with_client

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient

SHOWN = 20


@click.command("restore")
@click.argument("snapshot", required=False)
@click.option("--run", help="Instead of a snapshot: the newest one of this run.")
@click.option(
    "--series", help="Instead of a snapshot: the newest one of this series (folder:ID; `mover snapshot list` names it)."
)
@as_of_option
@click.option("--to", required=True, metavar="FOLDER", help="A new folder; with --in-place, one that stands.")
@click.option("--path", default="/", show_default=True, help="Only this path of the snapshot.")
@click.option(
    "--first", multiple=True, metavar="GLOB",
    help="Bring these files first ('*.pt'; again for more): they are in FOLDER as soon as all of them stand.",
)  # fmt: skip
@click.option("--in-place", is_flag=True, help="Replace what differs in FOLDER; it is moved aside, never deleted.")
@click.option("--agreed", metavar="DIGEST", help="With --in-place: the digest that --plan printed.")
@click.option("--key", help="The same key gives the same restore, however often it is asked for.")
@plan_option
@wait_option
@timeout_option
@with_client
def command(
    *, mover: SyncClient, out: Output, snapshot: str | None, run: str | None, series: str | None,
    as_of: datetime | None, to: str, path: str, first: tuple[str, ...], in_place: bool, agreed: str | None,
    key: str | None, plan: bool, wait: bool, timeout_s: float | None,
) -> int:  # fmt: skip
    """Bring a snapshot, or a path of it, into a new folder, or in place."""
    from mover.model import wire
    from mover.randomness import new_id

    body = wire.RestoreRequest(
        to=os.path.abspath(to), snapshot=snapshot, run=run, series=series, path=path, first=list(first),
        as_of=as_of, in_place=in_place, agreed=agreed,
    )  # fmt: skip
    if plan:
        show_plan(out, mover.restores.plan_request(body))
        return 0
    asked = mover.restores.request(body, key=key or new_id("restore"))
    seen = wait_for(mover, out, asked.id, timeout_s) if wait else asked
    show_restore(out, seen)
    if not wait:
        out.note(f"follow it: mover restores show {seen.id} --wait")
    return status_of(seen)


def wait_for(mover: SyncClient, out: Output, restore: str, timeout_s: float | None) -> wire.Restore:
    from mover.cli.output import Bar

    with Bar(out, total=lambda seen: (seen.bytes, seen.of_bytes or 0)) as bar:
        done: wire.Restore = mover.restores.wait(restore, progress=bar, timeout_s=timeout_s)
    return done


def status_of(seen: wire.Restore) -> int:
    """5, as for a damaged repository, when something could not be brought back."""
    return {"incomplete": 5, "failed": 1, "cancelled": 1}.get(seen.state, 0)


def show_plan(out: Output, plan: wire.Plan) -> None:
    from mover.cli.output import size

    out.plan(plan)
    if plan.seconds_low is None:
        out.note("how long: nothing was restored from there yet, so nobody knows")
    else:
        out.note(f"how long: {plan.seconds_low:.1f} to {plan.seconds_high:.1f} s, as others took")
    if plan.needed_bytes is not None and plan.free_bytes is not None:
        fits = "it fits" if plan.needed_bytes <= plan.free_bytes else "[red]it does not fit[/]"
        out.note(f"needs about {size(plan.needed_bytes)}, {size(plan.free_bytes)} are free there: {fits}")
    if plan.digest is not None:
        out.note(f"what is listed as move-aside would be replaced; to agree: --in-place --agreed {plan.digest}")


def show_restore(out: Output, seen: wire.Restore) -> None:
    from mover.cli.output import size, state

    of_files = "" if seen.of_files is None else f" of {seen.of_files}"
    of_bytes = "" if seen.of_bytes is None else f" of {size(seen.of_bytes)}"
    out.facts(
        seen,
        [
            ("restore", seen.id),
            ("state", state(seen.state) + (", stopping" if seen.cancelling and seen.finished_at is None else "")),
            ("why", " – ".join(part for part in (seen.reason, seen.explanation) if part)),
            ("snapshot", f"{seen.snapshot}, {seen.path}"),
            ("to", seen.to),
            ("first", f"{' '.join(seen.first)}: {seen.first_at or 'not yet'}" if seen.first else None),
            ("files", f"{seen.files}{of_files}"),
            ("bytes", f"{size(seen.bytes)}{of_bytes}"),
            ("pace", None if seen.rate_bytes_s is None else f"{size(seen.rate_bytes_s)}/s"),
            ("time left", None if seen.eta_s is None else f"about {seen.eta_s:.0f} s"),
            ("took", f"{seen.seconds:.1f} s" if seen.finished_at else None),
            ("replaced", None if seen.aside is None else f"lies beside it, in {seen.aside}"),
        ],
    )
    for word, paths, count in (
        ("damaged, left out", seen.damaged, seen.damaged_count),
        ("stays, something stood there", seen.left, seen.left_count),
        ("warning", seen.warnings, seen.warnings_count),
    ):
        for path in paths[:SHOWN]:
            out.note(f"  {word}: {path}")
        if count > SHOWN:
            out.note(f"  {word}: {count - SHOWN} more")
