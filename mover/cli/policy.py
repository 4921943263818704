"""`mover policy`."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from mover.cli.common import after_option, limit_option, plan_option, with_client, with_output
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient

reason_option = click.option("--reason", required=True, help="Why; it stands in the audit.")


@click.group("policy", cls=WholeLines)
def command() -> None:
    """The policies in force: read and change them, agree on changes; check files."""


@command.command("list")
@with_client
def list_policies(*, mover: SyncClient, out: Output) -> None:
    """The policies the daemon follows."""
    found = mover.policies.list().policies
    out.table(found, "policy kind digest", [(p.name, p.kind, p.digest[:16]) for p in found], empty="no policies")


@command.command("show")
@click.argument("name")
@with_client
def show(*, mover: SyncClient, out: Output, name: str) -> None:
    """The text of one policy as it stands in its file; on the side what of it does not hold as written."""
    found = mover.policies.view(name)
    if out.as_json:
        out.json(found)
        return
    from mover.cli.output import say

    say(found.text.rstrip())
    for words in (*found.holds, *filter(None, (found.trouble,))):
        out.note(words)
    for waiting in found.waiting:
        out.note(f"{waiting.id} waits for a second person: {'; '.join(waiting.risks)}")


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


@command.command("schema")
@with_client
def schema(*, mover: SyncClient, out: Output) -> None:
    """The JSON Schema of policies, for editors that complete and check while one types."""
    import json

    found = mover.policies.schema()
    click.echo(json.dumps(found.document, indent=2))


# --- changes ---------------------------------------------------------------------------------------------------


@command.command("set")
@click.argument("name")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@reason_option
@plan_option
@with_client
def set_policy(*, mover: SyncClient, out: Output, name: str, file: IO[str], reason: str, plan: bool) -> None:
    """Make the policy NAME this FILE (`-`: what comes in); what is risky waits for a second person."""
    _change(mover, out, name, file.read(), _digest(mover, name), reason, plan=plan)


@command.command("edit")
@click.argument("name")
@reason_option
@plan_option
@with_client
def edit(*, mover: SyncClient, out: Output, name: str, reason: str, plan: bool) -> None:
    """Open the policy in $EDITOR, and change it by what was saved."""
    found = mover.policies.view(name)
    text = click.edit(found.text, extension=".yaml")
    if text is None or text == found.text:
        out.note("Nothing was changed.")
        return
    _change(mover, out, name, text, found.digest, reason, plan=plan)


@command.command("remove")
@click.argument("name")
@reason_option
@plan_option
@with_client
def remove(*, mover: SyncClient, out: Output, name: str, reason: str, plan: bool) -> None:
    """The policy goes; its versions stay readable."""
    from mover.model import wire

    removal = wire.PolicyRemovalRequest(digest=mover.policies.view(name).digest, reason=reason)
    if plan:
        out.plan(mover.policies.plan_remove(name, removal))
    else:
        _told(out, mover.policies.remove(name, removal))


@command.command("versions")
@click.argument("name")
@after_option
@limit_option
@with_client
def versions(*, mover: SyncClient, out: Output, name: str, after: str | None, limit: int) -> None:
    """What stood under this name, newest first."""
    page = mover.policies.versions(name, after=after, limit=limit)
    rows = [
        (v.at, v.node, (v.digest or "removed")[:16], v.changed_by or "in the file", v.approved_by or "", v.reason or "")
        for v in page.versions
    ]
    out.table(page, "since node digest by agreed why", rows, empty="no versions")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("diff")
@click.argument("name")
@click.argument("digest", required=False)
@with_client
def diff(*, mover: SyncClient, out: Output, name: str, digest: str | None) -> None:
    """What the newest version changed, or the one whose digest begins with DIGEST."""
    from mover.cli.output import say
    from mover.errors import NotFound

    for found in mover.policies.versions(name).versions:
        if (found.digest or "").startswith(digest or ""):
            if out.as_json:
                out.json(found)
            else:
                say("\n".join(found.diff))
            return
    raise NotFound("no such version among the newest hundred", where=digest or name)


@command.command("pending")
@click.option("--policy", help="Only of this one.")
@click.option("--all", "everything", is_flag=True, help="Also what is settled.")
@after_option
@limit_option
@with_client
def pending(
    *, mover: SyncClient, out: Output, policy: str | None, everything: bool, after: str | None, limit: int
) -> None:
    """Changes that wait for a second person."""
    page = mover.policies.changes(name=policy, waiting=not everything, after=after, limit=limit)
    rows = [
        (c.id, c.name, c.state, c.requested_by, c.requested_at, "; ".join(c.risks) or c.reason) for c in page.changes
    ]
    out.table(page, "change policy state by when why", rows, empty="nothing waits")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("request")
@click.argument("id")
@with_client
def request(*, mover: SyncClient, out: Output, id: str) -> None:
    """One change: its text, why it waits, who asked and who agreed."""
    _told(out, mover.policies.view_change(id))


@command.command("approve")
@click.argument("id")
@with_client
def approve(*, mover: SyncClient, out: Output, id: str) -> None:
    """Agree to a change that another person asked for; it is carried out at once."""
    _told(out, mover.policies.approve(id))


@command.command("withdraw")
@click.argument("id")
@with_client
def withdraw(*, mover: SyncClient, out: Output, id: str) -> None:
    """Take a change back: the policy stays as it is."""
    _told(out, mover.policies.withdraw(id))


def _digest(mover: SyncClient, name: str) -> str | None:
    """Of what stands there; none of a policy that is new."""
    from mover.errors import NotFound

    try:
        found: str = mover.policies.view(name).digest
    except NotFound:
        return None
    return found


def _change(
    mover: SyncClient, out: Output, name: str, text: str, digest: str | None, reason: str, *, plan: bool
) -> None:
    from mover.model import wire

    body = wire.PolicyChangeRequest(text=text, reason=reason, digest=digest)
    if plan:
        out.plan(mover.policies.plan_change(name, body))
    else:
        _told(out, mover.policies.change(name, body))


def _told(out: Output, change: wire.PolicyChange) -> None:
    facts = [
        ("change", change.id), ("policy", f"{change.name} on {change.node}"), ("state", change.state),
        ("why", change.reason), ("by", change.requested_by), ("agreed", change.approved_by or "nobody had to"),
    ]  # fmt: skip
    if change.state == "asked":
        facts[-1] = ("waits for", "another person: " + "; ".join(change.risks))
    if change.explanation:
        facts.append(("not carried out", change.explanation))
    out.facts(change, facts)
    if change.state == "asked":
        out.note(f"Another person, known here for a day, agrees: mover policy approve {change.id}")
