"""`mover policy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mover.cli.common import with_client, with_output
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient


@click.group("policy", cls=WholeLines)
def command() -> None:
    """The policies in force; check files before they are."""


@command.command("list")
@with_client
def list_policies(*, mover: SyncClient, out: Output) -> None:
    """The policies the daemon follows."""
    found = mover.policies()
    out.table(found, "policy kind digest", [(p.name, p.kind, p.digest[:16]) for p in found], empty="no policies")


@command.command("show")
@click.argument("name")
@with_client
def show(*, mover: SyncClient, out: Output, name: str) -> None:
    """The text of one policy, as the daemon read it."""
    from mover.errors import NotFound

    for found in mover.policies():
        if found.name == name:
            if out.as_json:
                out.json(found)
            else:
                click.echo(found.text.rstrip())
            return
    raise NotFound("no such policy", where=name, hint="`mover policy list` names them.")


@command.command("plan")
@click.argument("name")
@with_client
def plan(*, mover: SyncClient, out: Output, name: str) -> None:
    """What a policy of kind move would do now, and why; nothing is changed."""
    from mover.model import wire

    out.plan(mover.transfers.plan_request(wire.TransferRequest(policy=name)))


@command.command("check")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@with_output
def check(*, out: Output, paths: tuple[Path, ...]) -> int:
    """Read policy files, or folders of them, and say every mistake as file:line:column. Needs no daemon."""
    from mover.policy import load_files

    files = [file for path in paths for file in (sorted(path.glob("*.y*ml")) if path.is_dir() else [path])]
    rows = [(loaded.name, loaded.kind, loaded.file) for loaded in load_files(files).all()]
    out.table([{"name": n, "kind": k, "file": f} for n, k, f in rows], "policy kind file", rows, empty="no policies")
    return 0
