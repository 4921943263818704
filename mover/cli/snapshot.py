"""`mover snapshot`: step 4, what can be gone back to."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from mover.cli.common import Moment, after_option, limit_option, with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.model.policy import KeepRules
    from mover.sdk import SyncClient


@click.group("snapshot", cls=WholeLines)
def command() -> None:
    """Step 4: what is protected, and its check."""


@command.command("list")
@click.option("--run", help="Only those of this run.")
@click.option("--series", help="Only those of this series, as `folder:<id>`: what one folder or run left.")
@click.option("--tag", help="Only those with this tag.")
@click.option("--trash", is_flag=True, help="Only what is in the trash.")
@click.option("--policy", help="Whose trash; the default policy's when it is not said.")
@click.option("--since", type=Moment(), help="Only what was recorded from then on; UTC.")
@click.option("--until", type=Moment(), help="Only what was recorded before; UTC.")
@after_option
@limit_option
@with_client
def list_snapshots(
    *, mover: SyncClient, out: Output, run: str | None, series: str | None, tag: str | None, trash: bool,
    policy: str | None, since: datetime | None, until: datetime | None, after: str | None, limit: int,
) -> None:  # fmt: skip
    """The snapshots of the project, newest first: by one of --run, --series, --tag and --trash."""
    from mover.cli.output import size, state

    page = mover.snapshots.list(
        run=run, series=series, tag=tag, state="trashed" if trash else None, policy=policy, since=since,
        until=until, after=after, limit=limit,
    )  # fmt: skip
    rows = [
        (s.id, state(s.state), _marks(s), s.series, s.files, size(s.bytes), size(s.added_bytes), s.repository_id[:8],
         s.trash_until or "", s.recorded_at)
        for s in page.snapshots
    ]  # fmt: skip
    columns = "snapshot state marks of files> bytes> added> restic until recorded"
    asked = any((run, series, tag, trash, since, until))
    out.table(page, columns, rows, empty="no such snapshots" if asked else "no snapshots yet")
    if page.next:
        out.note(f"more: --after {page.next}")


def _marks(snapshot: wire.Snapshot) -> str:
    marks = ["held"] * snapshot.held + [f"[red]{snapshot.doubt}[/]"] * bool(snapshot.doubt)
    return " ".join([*marks, *["[red]missing[/]"] * bool(snapshot.missing_at), *snapshot.tags])


@command.command("show")
@click.argument("snapshot")
@with_client
def show(*, mover: SyncClient, out: Output, snapshot: str) -> None:
    """One snapshot, and why it is kept."""
    from mover.cli.output import size, state

    seen = mover.snapshots.view(snapshot)
    out.facts(
        seen,
        [
            ("snapshot", seen.id),
            ("state", state(seen.state)),
            ("of", seen.series),
            ("files", seen.files),
            ("bytes", f"{size(seen.bytes)}, {size(seen.added_bytes)} of them new"),
            ("missing", ", ".join(seen.missing)),
            ("tags", ", ".join(seen.tags)),
            ("because", ", ".join(seen.reasons)),
            ("doubt", seen.doubt),
            ("missing since", seen.missing_at),
            ("in the trash until", seen.trash_until),
            *((f"held ({h.id})", f"{h.reason}, by {h.placed_by}, {_until(h)}") for h in seen.holds),
            ("repository", f"{seen.tier}, restic id {seen.repository_id}"),
            ("policy", seen.policy),
            ("recorded", seen.recorded_at),
        ],
    )
    out.note(f"bring it back: mover restore {seen.id} --to FOLDER")


def _until(hold: wire.Hold) -> str:
    return f"until {hold.until:%Y-%m-%d %H:%M:%SZ}" if hold.until else "until released"


@command.command("files")
@click.argument("snapshot")
@click.argument("path", default="/")
@after_option
@limit_option
@with_client
def files(*, mover: SyncClient, out: Output, snapshot: str, path: str, after: str | None, limit: int) -> None:
    """What lies under PATH of a snapshot."""
    from mover.cli.output import size

    page = mover.snapshots.files(snapshot, path=path, after=after, limit=limit)
    rows = [(f.type, size(f.size_bytes) if f.type == "file" else "", f.path) for f in page.files]
    out.table(page, "type bytes> path", rows, empty="nothing there")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("diff")
@click.argument("snapshot")
@click.argument("other")
@click.option("--path", default="/", show_default=True, help="Only below this path.")
@after_option
@limit_option
@with_client
def diff(
    *, mover: SyncClient, out: Output, snapshot: str, other: str, path: str, after: str | None, limit: int
) -> None:
    """From SNAPSHOT to OTHER: what was added, removed or changed, or has other facts with the same content."""
    from mover.cli.output import size

    page = mover.snapshots.diff(snapshot, other, path=path, after=after, limit=limit)
    rows = [
        (c.change, c.type, *("" if s is None else size(s) for s in (c.size_bytes_before, c.size_bytes_after)),
         ", ".join(c.facts), c.path)
        for c in page.changes
    ]  # fmt: skip
    out.table(page, "change type before> after> facts path", rows, empty="nothing is different")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("plan")
@click.option("--policy", help="By whose rules; the default policy's when it is not said.")
@with_client
def plan(*, mover: SyncClient, out: Output, policy: str | None) -> None:
    """What the rules of a policy would keep and forget now, with reasons; changes nothing."""
    out.plan(mover.snapshots.forget_plan(policy=policy))


@command.command("simulate")
@click.option(
    "--keep",
    "rules",
    multiple=True,
    required=True,
    metavar="RULE=N",
    help="last=20, hourly, daily, weekly, monthly, yearly, within_s, at_least_s, tag=NAME; may be repeated.",
)
@click.option("--policy", help="The protect policy whose snapshots are tried on.")
@click.option("--run", help="Only those of this run.")
@click.option("--past-days", type=click.IntRange(0, 3660), default=365, show_default=True, help="How far to look back.")
@click.option("--ahead-days", type=click.IntRange(0, 730), default=90, show_default=True, help="How far to look ahead.")
@with_client
def simulate(
    *, mover: SyncClient, out: Output, rules: tuple[str, ...], policy: str | None, run: str | None, past_days: int,
    ahead_days: int,
) -> None:  # fmt: skip
    """What other keep rules would have kept over the past and will keep; changes nothing."""
    from mover.cli.output import size
    from mover.model import wire

    body = wire.SimulationRequest(keep=_keep(rules), policy=policy, run=run, past_days=past_days, ahead_days=ahead_days)
    seen = mover.snapshots.simulate(body)
    if out.as_json:
        out.json(seen)
        return
    kept = [moment.kept for moment in seen.moments]
    first, last = seen.moments[0], seen.moments[-1]
    out.note(f"[bold]{seen.rules}[/] on {seen.policy}: {seen.standing} snapshots stand today. Nothing was changed.")
    out.note(f"  {_chart(kept)}  at most {max(kept)}")
    out.note(f"  {first.at:%Y-%m-%d} … {last.at:%Y-%m-%d}, at the end {last.kept} ({size(last.bytes)} before sharing)")
    if seen.later:
        out.note(f"  {seen.later} snapshots to come were thought up from the pace of each series")
    if seen.shorter:
        out.note(f"  it protects less than the policy ({', '.join(seen.shorter)}): that takes two persons")
    rows = [(one.snapshot, one.series, one.at, one.reason) for one in seen.leaving]
    out.table(seen, "snapshot series leaves reason", rows, empty="none of today's would go")


def _keep(rules: tuple[str, ...]) -> KeepRules:
    import msgspec

    from mover.model.policy import KeepRules

    words: dict[str, Any] = {"tags": []}
    for rule in (part for one in rules for part in one.split(",")):
        name, _, value = rule.strip().partition("=")
        if name == "tag":
            words["tags"].append(value)
        else:
            words[name] = int(value) if value.isdecimal() else value
    try:
        return msgspec.convert(words, KeepRules)
    except msgspec.ValidationError as error:
        raise click.BadParameter(str(error), param_hint="--keep") from error


def _chart(values: list[int]) -> str:
    """One character a week, as high as what is kept."""
    bars = "▁▂▃▄▅▆▇█"
    top = max(values) or 1
    return "".join(bars[value * (len(bars) - 1) // top] if value else " " for value in values)


@command.command("hold")
@click.argument("snapshot")
@click.option("--reason", required=True, help="Why; everybody reads it.")
@click.option("--until", type=Moment(), help="UTC; without it the hold stands until two persons release it.")
@with_client
def hold(*, mover: SyncClient, out: Output, snapshot: str, reason: str, until: datetime | None) -> None:
    """Keep SNAPSHOT whatever the rules say."""
    seen = mover.snapshots.hold(snapshot, reason=reason, until=until)
    out.facts(seen, [("held", seen.id), *((h.id, f"{h.reason}, {_until(h)}") for h in seen.holds)])


@command.command("untrash")
@click.argument("snapshot")
@click.option("--reason", required=True, help="Why; everybody reads it.")
@click.option("--until", type=Moment(), help="UTC; held so long, for 30 days when it is not said.")
@with_client
def untrash(*, mover: SyncClient, out: Output, snapshot: str, reason: str, until: datetime | None) -> None:
    """Bring SNAPSHOT back from the trash."""
    seen = mover.snapshots.untrash(snapshot, reason=reason, until=until)
    out.facts(seen, [("back", seen.id), *((h.id, f"{h.reason}, {_until(h)}") for h in seen.holds)])


@command.command("tag")
@click.argument("snapshot")
@click.argument("tags", nargs=-1, required=True)
@with_client
def tag(*, mover: SyncClient, out: Output, snapshot: str, tags: tuple[str, ...]) -> None:
    """Add TAGS, which keep rules may name."""
    seen = mover.snapshots.tag(snapshot, tags=tags)
    out.facts(seen, [("snapshot", seen.id), ("tags", ", ".join(seen.tags))])


@command.command("check")
@with_client
def check(*, mover: SyncClient, out: Output) -> int:
    """Read the repository back: every object decrypted and hashed. Exit status 5 when something is damaged."""
    from mover.cli.output import size

    seen = mover.snapshots.check()
    verdict = "[green]whole[/]" if seen.whole else "[red]damaged[/]"
    out.facts(
        seen,
        [
            ("repository", f"{seen.tier}: {verdict}"),
            ("read", f"{seen.snapshots} snapshots, {seen.blobs} blobs, {size(seen.bytes)}"),
        ],
    )
    for problem in seen.problems:
        out.note(f"  [red]{problem}[/]")
    return 0 if seen.whole else 5
