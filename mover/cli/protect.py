"""`mover protect`: what holds, and what takes two persons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import after_option, limit_option, plan_option, with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient

KINDS = ("shorten", "forget", "empty-trash", "release-hold", "agree", "untag", "large")


@click.group("protect", cls=WholeLines)
def command() -> None:
    """Step 4: the terms that hold, what waits, and what takes two persons."""


@command.command("show")
@with_client
def show(*, mover: SyncClient, out: Output) -> int:
    """What holds for each protect policy; exit status 5 when snapshots are missing or doubtful."""
    seen = mover.snapshots.protection()
    rows = []
    for one in seen.policies:
        alarms = [f"[red]{one.missing} missing[/]"] * bool(one.missing)
        alarms += [f"[red]{one.doubtful} doubtful[/]"] * bool(one.doubtful)
        waits = [_about_file(one.shorter)] * bool(one.shorter)
        waits += [f"{turn.kind}: {turn.explanation}" for turn in one.turns if turn.explanation]
        counts = ", ".join(f"{count} {state}" for state, count in sorted(one.snapshots.items()))
        rows.append((one.policy, counts, _terms(one.terms), " ".join(alarms), "; ".join(waits)))
    out.table(seen, "policy snapshots holds alarms waits", rows, empty="nothing was protected yet")
    for waiting in seen.waiting:
        out.note(_line(waiting))
    return 5 if any(one.missing or one.doubtful for one in seen.policies) else 0


def _about_file(shorter: list[str]) -> str:
    if shorter == ["file"]:
        return "no file names this policy any more: its snapshots stay, and nobody judges or renews them"
    return f"its file would shorten {', '.join(shorter)}"


def _terms(terms: dict[str, object]) -> str:
    keep = terms.get("keep")
    rules = [f"{name} {value}" for name, value in (keep.items() if isinstance(keep, dict) else ()) if value]
    return ", ".join([*rules, *(f"{name} {value}" for name, value in sorted(terms.items()) if name != "keep")])


def _line(one: wire.Shortening) -> str:
    about = one.policy or ", ".join(one.subjects[:3])
    state = f"approved by {one.approved_by}" if one.approved_by else "waits for a second person"
    when = f"not before {one.not_before:%Y-%m-%d %H:%M}"
    return f"  {one.id}  {one.kind} {about}, asked by {one.requested_by}: {state}, {when}"


@command.command("rebuild")
@with_client
def rebuild(*, mover: SyncClient, out: Output) -> None:
    """The catalog was lost: find again the snapshots that the repositories hold and it does not know.

    Each is read whole. They count as recorded now, and are doubtful to the rules until two persons agree: nothing is
    forgotten because of them.
    """
    seen = mover.snapshots.rebuild()
    out.facts(seen, [("policies", ", ".join(seen.policies))])
    out.note("it goes on in the daemon: mover protect show, mover snapshot list")


@command.command("ask")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("subjects", nargs=-1)
@click.option("--policy", help="Of `shorten` and `large`: the protect policy.")
@click.option("--tag", "tags", multiple=True, help="Of `untag`: a tag that goes; may be repeated.")
@click.option("--reason", required=True, help="Why; everybody reads it.")
@plan_option
@with_client
def ask(
    *, mover: SyncClient, out: Output, kind: str, subjects: tuple[str, ...], policy: str | None, tags: tuple[str, ...],
    reason: str, plan: bool,
) -> None:  # fmt: skip
    """Ask for what shortens protection, of SUBJECTS (snapshots; of release-hold, holds)."""
    from mover.model import wire

    body = wire.ShorteningRequest(
        kind=kind,  # type: ignore[arg-type]
        reason=reason,
        policy=policy,
        subjects=[*subjects],
        tags=[*tags],
    )
    if plan:
        out.plan(mover.shortenings.plan_ask(body))
        return
    _tell(out, mover.shortenings.ask(body))
    out.note("another person approves it: mover protect approve ID")


@command.command("requests")
@after_option
@limit_option
@with_client
def requests(*, mover: SyncClient, out: Output, after: str | None, limit: int) -> None:
    """What was asked for, newest first."""
    page = mover.shortenings.list(after=after, limit=limit)
    rows = [
        (s.id, s.state, s.kind, s.policy or f"{len(s.subjects)} named", s.requested_by, s.approved_by, s.not_before)
        for s in page.shortenings
    ]
    out.table(page, "request state kind about asked-by approved-by not-before", rows, empty="nothing was asked for")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("request")
@click.argument("id")
@with_client
def request(*, mover: SyncClient, out: Output, id: str) -> None:
    """One request: who asked for what, who approved, not before when."""
    _tell(out, mover.shortenings.view(id))


@command.command("approve")
@click.argument("id")
@with_client
def approve(*, mover: SyncClient, out: Output, id: str) -> None:
    """Agree, as another person than who asked."""
    _tell(out, mover.shortenings.approve(id))


@command.command("withdraw")
@click.argument("id")
@with_client
def withdraw(*, mover: SyncClient, out: Output, id: str) -> None:
    """Take a request back: protection stays as it is."""
    _tell(out, mover.shortenings.withdraw(id))


def _tell(out: Output, seen: wire.Shortening) -> None:
    out.facts(
        seen,
        [
            ("request", seen.id),
            ("state", seen.state),
            ("kind", seen.kind),
            ("policy", seen.policy),
            ("about", ", ".join(seen.subjects)),
            ("shortens", ", ".join(seen.shorter)),
            ("reason", seen.reason),
            ("asked by", f"{seen.requested_by}, {seen.requested_at:%Y-%m-%d %H:%M}"),
            ("approved by", seen.approved_by),
            ("withdrawn by", seen.withdrawn_by),
            ("not before", seen.not_before),
            ("applied", seen.applied_at),
        ],
    )
