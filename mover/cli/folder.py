"""`mover folder`: plain folders that protect policies name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient


@click.group("folder", cls=WholeLines)
def command() -> None:
    """Plain folders that policies protect: when, how far, now.

    Which folders, and when, is said under `folders` of a protect policy.
    """


@command.command("list")
@with_client
def list_folders(*, mover: SyncClient, out: Output) -> None:
    """Each folder, its newest whole snapshot, and since when it holds something that is in none."""
    from mover.cli.output import size

    found = mover.folders.list()
    rows = [
        (
            f.name, f.policy, f.state, _when(f), f.protected_at or "never", f.unprotected_since or "",
            "" if f.files is None else f.files, "" if f.bytes is None else size(f.bytes), f.snapshot or "",
        )
        for f in found
    ]  # fmt: skip
    headings = "folder policy state when protected unprotected-since files> bytes> snapshot"
    out.table(found, headings, rows, empty="no policy names a folder")
    for f in found:
        if f.reason:
            out.note(f"{f.name}: {f.explanation} ({f.reason})")


@command.command("protect")
@click.argument("folder")
@with_client
def protect(*, mover: SyncClient, out: Output, folder: str) -> None:
    """Protect FOLDER (its name or id) now, whatever its schedule says."""
    asked = mover.folders.protect(folder)
    out.facts(asked, [("folder", asked.name), ("path", asked.path), ("newest snapshot", asked.snapshot or "none yet")])
    out.note("it begins within seconds; follow it: mover folder list")


def _when(folder: wire.ProtectedFolder) -> str:
    if folder.cron:
        return f"{folder.cron} (next {folder.next_at})" if folder.next_at else folder.cron
    return f"{folder.settled_s} s after a change" if folder.settled_s else "on demand"
