"""`mover run`: steps 3 to 5 as a scheduler's job script calls them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mover.cli.common import after_option, limit_option, plan_option, timeout_option, wait_option, with_client
from mover.cli.watching import WholeLines
from mover.model.amounts import counted

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient

HOLDING = frozenset({"ready"})
# a run that could not be protected whole goes back to `ready` and says why: that ends the wait too
PROTECTED = frozenset({"protected", "cleaning", "ready"})
# a cleanup that failed for good leaves the run `protected` again, with the reason
CLEANED = frozenset({"cleaned", "protected"})
# of a hook's last words
HOOK_LINES = 10


@click.group("run", cls=WholeLines)
def command() -> None:
    """Steps 3 to 5: request, wait, finish, clean."""


@command.command("request")
@click.option("--cohort", help="A cohort by name, name@version or id.")
@click.option("--expression", help="An expression instead of a cohort.")
@click.option("--files", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A file with slide numbers, one a line.")  # fmt: skip
@click.option("--selection", metavar="ID", help="A frozen list: mover cohort freeze, mover cohort split.")
@click.option("--like", metavar="RUN", help="Exactly the slides of an earlier run.")
@click.option("--split", "splits", multiple=True, metavar="NAME=WHAT",
              help="A part: a frozen list, a cohort, an expression, or @FILE with numbers; said for each.")  # fmt: skip
@click.option("--key", help="The same key gives the same run: cluster/job/submit-time/restart. Default: a fresh one.")
@click.option("--tier", help="The flash tier.")
@click.option("--policy", help="The stage policy, where there is more than one.")
@click.option("--layout", type=click.Choice(["flat", "number", "label", "split", "shards"]),
              help="How data/ is laid out; `shards`: tars, for very many small files.")  # fmt: skip
@click.option("--label", help="The fact that names the folders of layout `label`.")
@click.option("--shard-bytes", type=click.IntRange(65_536), metavar="BYTES", help="The most in a tar; default 256 MiB.")
@click.option("--lease", "lease_s", type=click.IntRange(60), metavar="SECONDS", help="How long without a heartbeat.")
@click.option("--priority", type=click.IntRange(-10, 10), default=0, help="Before or after others.")
@click.option("--deadline", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]), metavar="2026-11-22T18:00:00+0100",
              help="Refused when it was not let in by then; sooner ones are let in first.")  # fmt: skip
@wait_option
@timeout_option
@plan_option
@with_client
def request(
    *,
    mover: SyncClient,
    out: Output,
    files: Path | None,
    splits: tuple[str, ...],
    key: str | None,
    label: str | None,
    wait: bool,
    timeout_s: float | None,
    plan: bool,
    **said: object,
) -> int:
    """Ask for a set of slides on flash. A set that is not whole is refused before the first byte."""
    from mover.model import wire
    from mover.randomness import random_bytes

    numbers = _numbers(files) if files is not None else None
    body = wire.RunRequest(
        files=numbers, splits=_splits(splits), layout_label=label, **said,  # type: ignore[arg-type]
    )  # fmt: skip
    if plan:
        out.plan(mover.runs.plan_request(body))
        return 0
    run = mover.runs.request(body, key=key or f"cli/{random_bytes(10).hex()}")
    if wait:
        run = _wait(mover, out, run.id, HOLDING, timeout_s)
    _show(out, run)
    return _status(run)


@command.command("list")
@after_option
@limit_option
@with_client
def list_runs(*, mover: SyncClient, out: Output, after: str | None, limit: int) -> None:
    """The runs of the project, newest first."""
    from mover.cli.output import size, state

    page = mover.runs.list(after=after, limit=limit)
    rows = [(r.id, state(r.state), r.count, size(r.bytes), r.reason, r.lease_until, r.created_at) for r in page.runs]
    out.table(
        page,
        "run state slides> bytes> reason lease requested",
        rows,
        empty="no runs yet: mover run request --cohort NAME",
    )
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("show")
@click.argument("run")
@wait_option
@timeout_option
@with_client
def show(*, mover: SyncClient, out: Output, run: str, wait: bool, timeout_s: float | None) -> int:
    """One run: its root, its lease, its proofs. --wait stays until it is ready or over."""
    seen = _wait(mover, out, run, HOLDING, timeout_s) if wait else mover.runs.view(run)
    _show(out, seen)
    return _status(seen)


@command.command("events")
@click.argument("run")
@click.option("--after", type=click.IntRange(0), default=0, metavar="EVENT", help="Only what came after this event.")
@with_client
def events(*, mover: SyncClient, out: Output, run: str, after: int) -> None:
    """Every state of a run, and then each as it comes, until its end; with --json a line each."""
    import msgspec

    from mover.cli.output import size
    from mover.model import wire

    for event in mover.runs.events(run, after=after):
        if out.as_json:
            click.echo(msgspec.json.encode(event))
        elif isinstance(event, wire.RunEvent):
            out.note(f"{event.at:%Y-%m-%d %H:%M:%SZ}  {event.id:>6}  {event.state}  {event.reason or ''}".rstrip())
        else:
            pace = "" if event.rate_bytes_s is None else f", {size(event.rate_bytes_s)}/s"
            place = f", {_place(event.queue)}" if event.queue else ""
            out.note(f"{'':22}  {size(event.staged_bytes)} of {size(event.bytes)}{pace}{place}")


@command.command("manifest")
@click.argument("run")
@with_client
def manifest(*, mover: SyncClient, out: Output, run: str) -> None:
    """The sealed manifest, as it was sealed (JSON lines)."""
    click.echo(mover.runs.manifest(run), nl=False)


@command.command("ready")
@click.argument("run")
@after_option
@limit_option
@with_client
def ready(*, mover: SyncClient, out: Output, run: str, after: str | None, limit: int) -> None:
    """The files that may be read already, as they came, while the rest is still staged."""
    from mover.cli.output import size

    page = mover.runs.ready(run, after=after, limit=limit)
    rows = [(e.path, e.number, size(e.size_bytes), e.digest[:16]) for e in page.entries]
    out.table(page, "path number bytes> digest", rows, empty="nothing else stands there yet")
    if page.cursor:
        out.note(f"{'more' if page.next else 'what comes later'}: --after {page.cursor}")


@command.command("strays")
@click.argument("run")
@after_option
@limit_option
@with_client
def strays(*, mover: SyncClient, out: Output, run: str, after: str | None, limit: int) -> None:
    """What cleanup found in a run's root and moved aside instead of removing it."""
    from mover.cli.output import size

    page = mover.runs.strays(run, after=after, limit=limit)
    rows = [(s.path, size(s.size_bytes), s.why, s.moved_to) for s in page.strays]
    out.table(page, "path bytes> why moved", rows, empty="nothing was moved aside")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("heartbeat")
@click.argument("run")
@with_client
def heartbeat(*, mover: SyncClient, out: Output, run: str) -> None:
    """Keep the lease."""
    seen = mover.runs.heartbeat(run)
    out.facts(seen, [("run", seen.id), ("lease until", seen.lease_until)])


@command.command("keep")
@click.argument("run")
@click.option("--every", "every_s", type=click.FloatRange(1), default=20, show_default=True, metavar="SECONDS",
              help="Between two heartbeats; a third of the lease at most.")  # fmt: skip
@with_client
def keep(*, mover: SyncClient, out: Output, run: str, every_s: float) -> int:
    """Keep the lease beside a training until the run is finished. Exit status 1: it was never ready."""
    seen = mover.runs.keep(run, every_s=every_s)
    _show(out, seen)
    return 0 if seen.ready_at is not None else 1


@command.command("finish")
@click.argument("run")
@click.option("--artifacts", multiple=True, metavar="PATH", help="Instead of the run's out/; may be given again.")
@click.option("--code", metavar="PATH", help="The source tree to keep with it.")
@click.option("--logs", multiple=True, metavar="PATH", help="Logs to keep with it; may be given again.")
@click.option("--exit", "exit_status", type=int, help="The job's exit status.")
@click.option("--env", "environment", multiple=True, metavar="NAME=VALUE", help="A word about the environment.")
@wait_option
@timeout_option
@plan_option
@with_client
def finish(
    *,
    mover: SyncClient,
    out: Output,
    run: str,
    artifacts: tuple[str, ...],
    code: str | None,
    logs: tuple[str, ...],
    exit_status: int | None,
    environment: tuple[str, ...],
    wait: bool,
    timeout_s: float | None,
    plan: bool,
) -> int:
    """Training is over: protect what it left behind. --wait stays until protection is proved."""
    from mover.model import wire

    body = wire.FinishRequest(
        artifacts=list(artifacts) or None, code=code, logs=list(logs) or None, exit=exit_status,
        environment=_pairs(environment),
    )  # fmt: skip
    if plan:
        out.plan(mover.runs.plan_finish(run, body))
        return 0
    seen = mover.runs.finish(run, body)
    if wait:
        seen = _wait(mover, out, run, PROTECTED, timeout_s)
    _show(out, seen)
    return 1 if seen.state == "ready" else _status(seen)


@command.command("clean")
@click.argument("run")
@wait_option
@timeout_option
@plan_option
@with_client
def clean(*, mover: SyncClient, out: Output, run: str, wait: bool, timeout_s: float | None, plan: bool) -> int:
    """Remove the run root. Refused, with what is unprotected, before protection is proved."""
    if plan:
        out.plan(mover.runs.plan_clean(run))
        return 0
    seen = mover.runs.clean(run)
    if wait:
        seen = _wait(mover, out, run, CLEANED, timeout_s)
    _show(out, seen)
    return 1 if wait and seen.state != "cleaned" else _status(seen)


@command.command("cancel")
@click.argument("run")
@with_client
def cancel(*, mover: SyncClient, out: Output, run: str) -> None:
    """Give up a run, wherever it is. What its job wrote is protected before anything is removed."""
    _show(out, mover.runs.cancel(run))


def _numbers(files: Path) -> list[str]:
    return [line.strip() for line in files.read_text("utf-8").splitlines() if line.strip()]


def _splits(said: tuple[str, ...]) -> dict[str, wire.SplitSource] | None:
    """What a part is, is seen by how it is written: only an expression has more than a name's letters."""
    from mover.model import wire
    from mover.model.ids import is_id

    found: dict[str, wire.SplitSource] = {}
    for pair in said:
        name, _, what = pair.partition("=")
        if not what or name in found:
            raise click.BadParameter(f"{pair!r} is not NAME=WHAT, each name once", param_hint="--split")
        if what.startswith("@"):
            found[name] = wire.SplitSource(files=_numbers(Path(what[1:])))
        elif is_id(what, "selection"):
            found[name] = wire.SplitSource(selection=what)
        elif re.fullmatch(r"[a-z0-9@-]+", what):
            found[name] = wire.SplitSource(cohort=what)
        else:
            found[name] = wire.SplitSource(expression=what)
    return found or None


def _pairs(said: tuple[str, ...]) -> dict[str, str] | None:
    pairs = {}
    for pair in said:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--env")
        pairs[name] = value
    return pairs or None


def _wait(mover: SyncClient, out: Output, run: str, until: frozenset[str], timeout_s: float | None) -> wire.Run:
    from mover.cli.output import Bar

    with Bar(out, total=lambda seen: (seen.staged_bytes, seen.bytes)) as bar:
        done: wire.Run = mover.runs.wait(run, until=until, progress=bar, timeout_s=timeout_s)
    return done


def _status(run: wire.Run) -> int:
    return 1 if run.state in ("refused", "failed", "expired") else 0


def _place(queue: wire.QueuePlace | None) -> str | None:
    from mover.cli.output import size

    if queue is None:
        return None
    missing = "" if queue.missing_bytes is None else f", waits until {size(queue.missing_bytes)} are released"
    return f"{queue.position} of those who wait{missing}"


def _estimate(estimate: wire.Estimate | None) -> str | None:
    if estimate is None:
        return None
    runs = "1 run" if estimate.based_on == 1 else f"{estimate.based_on} runs"
    return f"{estimate.low_s:.0f} to {estimate.high_s:.0f} s, likely {estimate.likely_s:.0f} s (by {runs})"


def _show_hook(out: Output, hook: wire.RunHook) -> None:
    """Of one that did not succeed also its last words."""
    again = f", attempt {hook.attempts}" if hook.attempts > 1 else ""
    out.note(f"  {hook.phase} hook {hook.name}: {hook.state}{again}" + (f" ({hook.why})" if hook.why else ""))
    if hook.state != "succeeded":
        for line in (hook.output or "").splitlines()[-HOOK_LINES:]:
            out.note(f"    | {line}")


def _show(out: Output, run: wire.Run) -> None:
    from mover.cli.output import proofs, size, state

    staged = (
        f"{run.staged_count} of {run.count} ({size(run.staged_bytes)} of {size(run.bytes)}), {run.linked_count} linked"
    )
    out.facts(
        run,
        [
            ("run", run.id),
            ("state", state(run.state)),
            ("why", " – ".join(part for part in (run.reason, run.explanation) if part)),
            ("expression", run.expression),
            ("staged", staged if run.count else None),
            ("place", _place(run.queue)),
            ("ready in", _estimate(run.estimate)),
            ("root", run.root),
            ("out", run.out),
            ("manifest", run.manifest_root),
            ("lease until", run.lease_until),
            ("snapshots", ", ".join(run.snapshots)),
            ("damaged", f"{counted(run.damaged_count, 'file')} on flash" if run.damaged_count else None),
            ("strays", f"{run.strays_count} moved aside" if run.strays_count else None),
            ("proofs", proofs(run.proofs)),
        ],
    )
    for hook in run.hooks:
        _show_hook(out, hook)
    for file in run.damaged[:20]:
        out.note(f"  damaged: {file.get('path')} was found to hold other bytes at {file.get('found_at')}")
    for stray in run.strays[:20]:
        out.note(f"  stray: {stray.get('path')} ({stray.get('why')}) is now {stray.get('moved_to')}")
    if run.strays_count > 20:
        out.note(f"  all {run.strays_count}: mover run strays {run.id}")
    for offender in run.offenders[:20]:
        out.note("  offender: " + "  ".join(str(value) for value in offender.values()))
