"""`mover protect`: what holds, and what takes two persons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mover.cli.common import after_option, limit_option, plan_option, timeout_option, wait_option, with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient

KINDS = ("shorten", "forget", "empty-trash", "release-hold", "agree", "untag", "large", "remove-key")


@click.group("protect", cls=WholeLines)
def command() -> None:
    """Step 4: the terms that hold, what waits, and what takes two persons."""


@command.command("show")
@with_client
def show(*, mover: SyncClient, out: Output) -> int:
    """What holds for each protect policy, how its last turns ended, what waits; exit status 5 when snapshots are
    missing or doubtful."""
    seen = mover.snapshots.protection()
    if out.as_json:
        out.json(seen)
    elif not seen.policies:
        out.note("nothing was protected yet")
    else:
        for one in seen.policies:
            _show_policy(out, one)
        for waiting in seen.waiting:
            out.note(_line(waiting))
    return 5 if any(one.missing or one.doubtful for one in seen.policies) else 0


def _show_policy(out: Output, one: wire.ProtectTerms) -> None:
    from mover.cli.output import state

    alarms = [f"[red]{one.missing} missing[/]: their files left the repository, and not by us"] * bool(one.missing)
    alarms += [f"[red]{one.doubtful} doubtful[/]: kept until two persons agree"] * bool(one.doubtful)
    counts = ", ".join(f"{count} {word}" for word, count in sorted(one.snapshots.items())) or "none yet"
    out.facts(
        one,
        [
            ("policy", one.policy),
            ("snapshots", counts),
            ("alarms", "; ".join(alarms)),
            ("keeps", _kept(one.terms)),
            ("terms", _terms(one.terms)),
            ("waits", _about_file(one.shorter) if one.shorter else None),
        ],
    )
    rows = [(t.kind, state(t.state), t.started_at, t.explanation or _did(t)) for t in one.turns]
    out.table(one, "turn state began what", rows, empty="no turn yet")


def _about_file(shorter: list[str]) -> str:
    if shorter == ["file"]:
        return "no file names this policy any more: its snapshots stay, and nobody judges or renews them"
    return f"its file would shorten {', '.join(shorter)}, which takes two persons: mover protect ask shorten"


def _kept(terms: dict[str, Any]) -> str:
    """The rules as people say them."""
    keep = terms.get("keep") or {}
    said = [
        f"{name} {value}" for name, value in keep.items() if value and name not in ("tags", "within_s", "at_least_s")
    ]
    said += [f"tag {tag}" for tag in keep.get("tags") or ()]
    if keep.get("within_s"):
        said.append(f"within {_time(keep['within_s'])}")
    if keep.get("at_least_s"):
        said = [*(said or ["everything"]), f"what is younger than {_time(keep['at_least_s'])} anyway"]
    return ", ".join(said or ["everything"])


def _terms(terms: dict[str, Any]) -> str:
    found = [f"trash {_time(terms.get('trash_s', 0))}", f"a shortening waits {_time(terms.get('delay_s', 0))}"]
    found.append(f"{terms.get('breaker_percent', 0)} % go at once at most")
    if terms.get("lock_s"):
        found.append(
            f"locked for {_time(terms['lock_s'])}, {'governance' if terms['lock_strength'] < 2 else 'compliance'}"
        )
    elif terms.get("lock_strength"):
        found.append("files immutable")
    if terms.get("copy"):
        found.append(f"second copy on {terms['copy'].rstrip('/')}")
    return ", ".join(found)


def _time(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:g} s"


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


policy_option = click.option("--policy", help="The protect policy; the default one when it is not said.")


def planned(kind: str, first_line: str, rest: str) -> None:
    """`mover protect KIND`, which says what it would do before it does it."""

    @command.command(kind, help=f"{first_line}\n\n{rest}")
    @policy_option
    @click.option("--plan/--apply", "plan", default=None, help="Only say what would be done; or say it and do it.")
    @wait_option
    @timeout_option
    @with_client
    def run(
        *, mover: SyncClient, out: Output, policy: str | None, plan: bool | None, wait: bool, timeout_s: float | None
    ) -> int:
        from mover.model import wire

        if plan is None:
            raise click.UsageError("say --plan, which changes nothing, or --apply")
        body = wire.TurnRequest(kind=kind, policy=policy)  # type: ignore[arg-type]
        if plan or not out.as_json:
            out.plan(mover.turns.plan_request(body), done="Nothing was changed." if plan else "It begins now.")
        return 0 if plan else _turn(mover, out, body, wait=wait, timeout_s=timeout_s)


planned(
    "keep", "Judge every snapshot of a policy by its rules now: what no rule keeps goes to the trash.",
    "What was in the trash for long enough is forgotten. The same as every hour by itself; no limit is passed by it.",
)  # fmt: skip
planned(
    "prune", "Mark the packs that no snapshot needs, and remove those that were marked for long enough.",
    "The same as every day by itself: it waits while a snapshot is missing, and while too much would go at once.",
)  # fmt: skip


def _begun(kind: str, first_line: str) -> None:
    @command.command(kind, help=first_line)
    @policy_option
    @wait_option
    @timeout_option
    @with_client
    def run(*, mover: SyncClient, out: Output, policy: str | None, wait: bool, timeout_s: float | None) -> int:
        from mover.model import wire

        word = {"check": "whole"}.get(kind, kind)
        return _turn(mover, out, wire.TurnRequest(kind=word, policy=policy), wait=wait, timeout_s=timeout_s)  # type: ignore[arg-type]


_begun("check", "Read every pack of a policy's repository in the background; damage is named by snapshot and path.")
_begun("sample", "Read a share of the packs, chosen by chance, in the background.")
_begun("drill", "Restore a few random files of a random kept snapshot, compare them, and remove them again.")
_begun("copy", "Carry what is kept to the policy's second repository now.")


def _turn(mover: SyncClient, out: Output, body: wire.TurnRequest, *, wait: bool, timeout_s: float | None) -> int:
    """5, as for a damaged repository, when it waits for somebody or found something wrong."""
    from mover.cli.output import Bar

    seen = mover.turns.request(body)
    if wait:
        with Bar(out, total=_share) as bar:
            seen = mover.turns.wait(seen.id, progress=bar, timeout_s=timeout_s)
    show_turn(out, seen)
    if not wait:
        out.note("follow it: mover protect show, or the same command with --wait")
    return 5 if seen.state in ("waiting", "failed") else 0


def _share(seen: wire.ProtectTurn) -> tuple[int, int]:
    """Of a prune, packs removed of those that go; of others nobody knows beforehand."""
    return seen.counts.get("swept", 0), seen.plan.get("sweep", 0)


def show_turn(out: Output, seen: wire.ProtectTurn) -> None:
    from mover.cli.output import state

    out.facts(
        seen,
        [
            ("turn", f"{seen.kind} of {seen.policy} ({seen.id})"),
            ("state", state(seen.state)),
            ("why", seen.explanation),
            ("did", _did(seen)),
            ("began", seen.started_at),
            ("ended", seen.finished_at),
        ],
    )


def _did(seen: wire.ProtectTurn) -> str | None:
    """That nothing was to be done is known at the end."""
    return _counted(seen.counts) if seen.finished_at or any(seen.counts.values()) else None


def _counted(counts: dict[str, int]) -> str:
    """What was done, in words: bytes as sizes, and nothing that is nothing."""
    from mover.cli.output import size

    said = []
    for name, count in counts.items():
        is_bytes, word = name == "bytes" or name.endswith("_bytes"), name.replace("_", " ").removesuffix(" bytes")
        said += [f"{word} {size(count)}".removeprefix("bytes ") if is_bytes else f"{count} {word}"] * bool(count)
    return ", ".join(said) or "nothing was to be done"


@command.group("keys", cls=WholeLines)
def keys() -> None:
    """Passwords of a policy's repository. Whoever holds one can read everything in it."""


second_option = click.option("--second", is_flag=True, help="Of the policy's second repository.")


@keys.command("list")
@policy_option
@second_option
@with_client
def list_keys(*, mover: SyncClient, out: Output, policy: str | None, second: bool) -> None:
    """The keys, as they say of themselves; which one the daemon works with."""
    _show_keys(out, mover.keys.list_keys(policy=policy, second=second))


@keys.command("add")
@click.argument("name")
@policy_option
@second_option
@with_client
def add_key(*, mover: SyncClient, out: Output, name: str, policy: str | None, second: bool) -> None:
    """One more password, from the file repository-key-NAME on the daemon's machine.

    Put that file beside the daemon's own password file, readable by the daemon alone, or give it as a systemd
    credential (LoadCredential=repository-key-NAME:...). A password is never typed here, and never sent.
    """
    from mover.model import wire

    _show_keys(out, mover.keys.add_key(wire.KeyRequest(name=name, policy=policy, second=second)))
    out.note("the file is not needed any more by the daemon: keep the password elsewhere, and remove the file")


@keys.command("remove")
@click.argument("key")
@policy_option
@second_option
@click.option("--reason", required=True, help="Why; everybody reads it.")
@with_client
def remove_key(*, mover: SyncClient, out: Output, key: str, policy: str | None, second: bool, reason: str) -> None:
    """Ask that KEY (its whole id, or the beginning) be removed: another person approves, and the delay passes.

    Whoever has seen the repository's master key reads on what is there; and the last key never goes.
    """
    from mover.errors import NotFound
    from mover.model import wire

    known = mover.keys.list_keys(policy=policy, second=second).keys
    found = [one.id for one in known if one.id.startswith(key)]
    if len(found) > 1:
        raise NotFound(f"{len(found)} keys begin so", where=key, hint="Say more of the id: mover protect keys list")
    body = wire.ShorteningRequest(kind="remove-key", reason=reason, policy=policy, subjects=found or [key])
    _tell(out, mover.shortenings.ask(body))
    out.note("another person approves it: mover protect approve ID")


def _show_keys(out: Output, seen: wire.RepositoryKeys) -> None:
    rows = [(one.id[:16], "the daemon's" if one.current else "", one.made_by, one.created[:19]) for one in seen.keys]
    out.note(f"keys of {seen.tier}:{seen.prefix}")
    out.table(seen, "key used made-by made", rows, empty="no key")


@command.command("ask")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("subjects", nargs=-1)
@click.option("--policy", help="Of `shorten`, `large` and `remove-key`: the protect policy.")
@click.option("--tag", "tags", multiple=True, help="Of `untag`: a tag that goes; may be repeated.")
@click.option("--reason", required=True, help="Why; everybody reads it.")
@plan_option
@with_client
def ask(
    *, mover: SyncClient, out: Output, kind: str, subjects: tuple[str, ...], policy: str | None, tags: tuple[str, ...],
    reason: str, plan: bool,
) -> None:  # fmt: skip
    """Ask for what shortens protection; another person approves, and the policy's delay passes.

    \b
    shorten       take over what the policy's file says (--policy)
    forget        SNAPSHOT... to the trash, though rules keep them
    empty-trash   SNAPSHOT... out of the trash before their time
    release-hold  HOLD... before their end
    agree         SNAPSHOT... are right as they are: no flood, no collapse
    untag         SNAPSHOT... lose a tag (--tag)
    large         for a day more may go at once than the breaker lets (--policy)
    remove-key    KEY... of the policy's repositories (--policy)
    """
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
