"""`mover check`: at the job, before the first batch is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mover.cli.common import with_output

if TYPE_CHECKING:
    from mover.cli.common import Where
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import Checked

SHOWN = 50


@click.command("check")
@click.argument("root", metavar="RUN|FOLDER")
@click.option("--read", is_flag=True, help="Read every byte, too.")
@click.option("--offline", is_flag=True, help="Do not ask a daemon for the manifest that the catalog keeps.")
@with_output
@click.pass_obj
def command(where: Where, *, out: Output, root: str, read: bool, offline: bool) -> int:
    """Is a run root what was sealed? Names, sizes and times, in seconds.

    FOLDER is the root as the job sees it; a RUN is asked of the daemon. Without a daemon the files of the root must
    do: its manifest against RUN.json, everything else against the manifest. Exit status 1 names what differs.
    """
    from mover.sdk import check

    folder = Path(root)
    kept = None if offline and folder.is_dir() else _asked(where, root, folder)
    checked = check(folder if folder.is_dir() else _root_of(root, kept), read=read,
                    expected_root=kept.manifest_root if kept else None)  # fmt: skip
    _show(out, checked, with_catalog=kept is not None)
    return 0 if checked.whole else 1


def _asked(where: Where, root: str, folder: Path) -> wire.Run | None:
    """What the catalog knows of the run. A folder is checked without it, too."""
    from mover.errors import MoverError
    from mover.sdk import run_of

    try:
        run = run_of(folder) if folder.is_dir() else root
        with where.connect() as mover:
            return mover.runs.view(run)
    except MoverError:
        if not folder.is_dir():
            raise
    return None


def _root_of(run: str, kept: wire.Run | None) -> str:
    from mover.errors import NotFound

    if kept is None or kept.root is None or kept.manifest_root is None:
        raise NotFound("the run has no sealed root", where=run)
    return kept.root


def _show(out: Output, checked: Checked, *, with_catalog: bool) -> None:
    from mover.cli.output import size

    how = "names, sizes and times" + (", every byte" if checked.read else "")
    beside = "RUN.json and the catalog" if with_catalog else "RUN.json (no daemon was asked)"
    out.facts(
        checked,
        [
            ("run", checked.run), ("root", checked.root), ("files", f"{checked.count} ({size(checked.bytes)})"),
            ("manifest", checked.manifest_root), ("compared", f"{how}; the manifest with {beside}"),
            ("found", f"{checked.found} differences" if checked.found else "as it was sealed"),
        ],
    )  # fmt: skip
    for finding in checked.findings[:SHOWN]:
        out.note(f"  {finding.why}: {finding.path}: {finding.what}")
    if checked.found > SHOWN:
        out.note(f"  and {checked.found - SHOWN} more: --json")
