"""`mover quarantine`: what waits for a person, and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mover.cli.common import after_option, limit_option, plan_option, with_client
from mover.cli.watching import WholeLines
from mover.model.amounts import counted

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient

ACTIONS = ("retry", "exclude", "accept-without-thumbnail", "declare")


@click.group("quarantine", cls=WholeLines)
def command() -> None:
    """What waits for a person, by cause; decide about all of it at once.

    Packs refused for the same thing are one cause and one decision. Nothing a decision does lets a file pass that was
    not proved: what is released is looked at and proved again.
    """


@command.command("list")
@click.option("--batch", help="Only packs of this batch.")
@with_client
def list_causes(*, mover: SyncClient, out: Output, batch: str | None) -> None:
    """The causes, the most frequent first, and the decisions that are sound for each."""
    from mover.cli.output import size

    found = mover.quarantine.list(batch=batch)
    rows = [
        (one.id, one.count, one.kind, size(one.bytes), one.code, one.words, ", ".join(_ways(one)))
        for one in found.causes
    ]
    out.table(found, "cause waiting> kind bytes> code words decisions", rows, empty="nothing waits in quarantine")
    if found.more:
        out.note(f"and {counted(found.more, 'rarer cause')}; decide about these first")
    if found.causes:
        out.note(f"look closer: mover quarantine show {found.causes[0].id}")


def _ways(one: wire.QuarantineCause) -> list[str]:
    """A rule comes first where one is sound: without it the same look finds the same."""
    return [*(["a rule"] if one.proposal else []), *(offer.action for offer in one.offers)]


@command.command("show")
@click.argument("cause")
@after_option
@limit_option
@with_client
def show(*, mover: SyncClient, out: Output, cause: str, after: str | None, limit: int) -> None:
    """One cause: what may be done, and the packs that wait for it."""
    from mover.cli.output import size

    one: wire.QuarantineCause = mover.quarantine.view(cause, after=after, limit=limit)
    out.facts(
        one,
        [
            ("cause", one.id),
            ("code", one.code),
            ("kind", one.kind),
            ("words", one.words),
            ("waiting", f"{one.count:,} in {counted(one.batches, 'batch', 'batches')}, {size(one.bytes)},"
                        f" since {one.since:%Y-%m-%d %H:%M}"),
            ("advice", one.advice),
            *((f"--action {offer.action}", offer.why + _besides(offer)) for offer in one.offers),
            ("sets" if one.kind == "records" else "packs", ", ".join(one.packs)),
        ],
    )  # fmt: skip
    if one.kind == "records" and one.proposal:
        out.note(f"first a rule for it: mover quarantine draft {one.id} [--column NAME]; then it is matched by itself")
    if one.offers:
        out.note(f"decide: mover quarantine decide {one.id} --action {one.offers[0].action} --reason TEXT [--plan]")
    if one.packs and one.kind != "records":
        out.note(f"the original names: mover batch reveal {one.packs[0]} --purpose TEXT")
    if len(one.packs) == limit and one.count > limit:
        out.note(f"more: --after {one.packs[-1]}")


def _besides(offer: wire.QuarantineOffer) -> str:
    later = f"; {offer.later}, unless you say --once" if offer.later else ""
    return later + ("; another person confirms it" if offer.reviewers > 1 else "")


@command.command("decide")
@click.argument("cause")
@click.option("--action", required=True, type=click.Choice(ACTIONS), help="See `mover quarantine show CAUSE`.")
@click.option("--reason", required=True, help="Why; it stands in the audit record (8 characters at least).")
@click.option("--packs", multiple=True, help="Only these packs, by id, separated by commas or said again.")
@click.option("--standing/--once", default=None,
              help="Also for packs that come later, or not. Default: also, where that is sound.")  # fmt: skip
@plan_option
@with_client
def decide(
    *,
    mover: SyncClient,
    out: Output,
    cause: str,
    action: str,
    reason: str,
    packs: tuple[str, ...],
    standing: bool | None,
    plan: bool,
) -> None:
    """Decide about everything that waits for CAUSE. Its batches go on by themselves.

    Where a policy says two reviewers, and by default where a proof found identity, this proposes it: another person
    confirms or declines.
    """
    chosen = [one.strip() for one in ",".join(packs).split(",") if one.strip()] or None
    if plan:
        out.plan(mover.quarantine.plan_decide(cause, action, reason=reason, packs=chosen, standing=standing))
        return
    _show(out, mover.quarantine.decide(cause, action, reason=reason, packs=chosen, standing=standing))


def _show(out: Output, made: wire.QuarantineDecision) -> None:
    """What was decided; or what waits for another person, or was declined by one."""
    if made.rule is None:
        one = made.proposal
        assert one is not None
        out.facts(
            made,
            [
                ("proposal", one.id),
                ("proposed", f"{one.action}, for {one.waiting} that wait"),
                ("by", f"{one.proposed_by}: {one.reason}"),
                ("state", one.state),
                ("until", f"{one.lapses_at:%Y-%m-%d %H:%M}" if one.state == "open" else None),
                ("declined", f"{one.decided_by}: {one.decision}" if one.decided_by else None),
            ],
        )
        if one.state == "open":
            out.note(f"somebody who is not {one.proposed_by}: mover quarantine confirm {one.id} --reason TEXT")
        return
    holds = "those that waited, and packs of this cause that come later" if made.rule.standing else "those that waited"
    out.facts(
        made,
        [
            ("rule", made.rule.id),
            ("confirmed", made.rule.confirmed_by),
            ("decided", f"{made.rule.action}, for {made.packs:,} that waited"),
            ("holds for", holds),
            ("batches", ", ".join(made.batches) or None),
            ("left waiting", f"{made.left}: {made.why_left}" if made.left else None),
        ],
    )
    if made.batches:
        out.note(f"follow it: mover batch show {made.batches[0]} --wait")


@command.command("draft")
@click.argument("cause")
@click.option("--column", help="The column's name in the file. Without it: whatever the table does not list.")
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), help="Write it here, for `mover policy set`.")
@with_client
def draft(*, mover: SyncClient, out: Output, cause: str, column: str | None, to: Path | None) -> None:
    """The policy with the rule that an unlisted column lacks: nothing of it leaves. Nothing is saved."""
    from mover.cli.output import say

    made = mover.quarantine.draft(cause, column=column)
    if to is None:
        out.show(made, lambda: say(made.text.rstrip()))
        return
    to.write_text(made.text, encoding="utf-8")
    out.facts(made, [("policy", made.policy), ("table", made.table), ("written", to.name)])
    out.note(f"save it: mover policy set {made.policy} {to} --reason TEXT [--plan]; what waits is declared again then")


@command.command("proposals")
@click.option("--open", "open_", is_flag=True, help="Only those that wait for a second person.")
@with_client
def proposals(*, mover: SyncClient, out: Output, open_: bool) -> None:
    """Decisions that one person proposed to another, newest first."""
    found = mover.quarantine.proposals(open=open_)
    rows = [
        (p.id, p.cause, p.action, p.waiting, p.state, p.code, p.proposed_by, p.decided_by or "", p.lapses_at, p.reason)
        for p in found.proposals
    ]
    columns = "proposal cause decision waiting> state code by second until reason"
    out.table(found, columns, rows, empty="nothing waits for a second person" if open_ else "nothing was proposed")
    if any(p.state == "open" for p in found.proposals):
        out.note("look: mover quarantine show CAUSE, then: mover quarantine confirm|decline PROPOSAL --reason TEXT")


@command.command("confirm")
@click.argument("proposal")
@click.option("--reason", required=True, help="What you looked at; it stands in the audit record.")
@with_client
def confirm(*, mover: SyncClient, out: Output, proposal: str, reason: str) -> None:
    """Confirm what another person proposed; then it is done."""
    _show(out, mover.quarantine.review(proposal, "confirm", reason=reason))


@command.command("decline")
@click.argument("proposal")
@click.option("--reason", required=True, help="Why not; it stands in the audit record.")
@with_client
def decline(*, mover: SyncClient, out: Output, proposal: str, reason: str) -> None:
    """Decline what was proposed, or take it back; what waits goes on waiting."""
    _show(out, mover.quarantine.review(proposal, "decline", reason=reason))


@command.command("rules")
@click.option("--standing", is_flag=True, help="Only those that hold for what comes later.")
@with_client
def rules(*, mover: SyncClient, out: Output, standing: bool) -> None:
    """The decisions, newest first: who, why, and what stays out by them."""
    found = mover.quarantine.rules(standing=standing)
    rows = [
        (
            r.id, r.cause, f"v{r.version}", r.action, _holds(r), r.packs, r.excluded,
            r.code, r.decided_by, r.decided_at, r.reason,
        )
        for r in found.rules
    ]  # fmt: skip
    columns = "rule cause version decision holds decided> out> code by at reason"
    out.table(found, columns, rows, empty="nothing was decided yet")


def _holds(rule: wire.QuarantineRule) -> str:
    return "revoked" if rule.revoked_at else "standing" if rule.standing else "once"


@command.command("revoke")
@click.argument("rule")
@click.option("--reason", required=True, help="Why; it stands in the audit record.")
@with_client
def revoke(*, mover: SyncClient, out: Output, rule: str, reason: str) -> None:
    """RULE holds no more: what it kept out waits for a person again."""
    made = mover.quarantine.revoke(rule, reason=reason)
    out.facts(made, [("rule", made.id), ("revoked by", made.revoked_by), ("cause", made.cause)])
    out.note(f"what waits again: mover quarantine show {made.cause}")
