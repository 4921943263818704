"""`mover audit`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from mover.cli.common import Moment, after_option, limit_option, plan_option, with_client, with_output
from mover.cli.watching import WholeLines
from mover.model.amounts import counted

if TYPE_CHECKING:
    from datetime import datetime

    from mover.audit.packcheck import Checked
    from mover.cli.common import Where
    from mover.cli.output import Output
    from mover.model.wire import AuditRestore, AuditRetirement, AuditVerdict
    from mover.sdk import SyncClient


def _asked(command: Any) -> Any:
    """What a search asks for."""
    for option in (
        click.option("--until", type=Moment(), metavar="TIME", help="Before then."),
        click.option("--since", type=Moment(), metavar="TIME", help="From then on."),
        click.option("--action", help="Only actions that begin so, such as 'run' or 'slide remove'."),
        click.option("--actor", help="Only what this one did."),
        click.option("--subject", help="Only records about this id."),
    ):
        command = option(command)
    return command


# what fits on paper; the pack has all of them
SHEET_RECORDS = 1000
READ_MAX = 100_000


@click.group("audit", cls=WholeLines)
def command() -> None:
    """Who did what; verify and export the chains."""


@command.command("list")
@_asked
@after_option
@limit_option
@with_client
def list_records(*, mover: SyncClient, out: Output, after: str | None, limit: int, **wanted: Any) -> None:
    """The audit records, newest first."""
    page = mover.audit.page(after=after, limit=limit, **wanted)
    rows = [
        (
            r.at,
            f"{r.node}/{r.seq}",
            r.body.get("actor"),
            r.body.get("action"),
            r.body.get("subject"),
            r.body.get("reason"),
        )
        for r in page.records
    ]
    out.table(page, "at record actor action subject reason", rows, empty="no records")
    if page.next:
        out.note(f"more: --after {page.next}")
    for pack in page.earlier:
        out.note(f"older records stand on tiers in {pack} (mover audit retirements)")


@command.command("read")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_asked
@with_output
def read(*, out: Output, file: Path, **wanted: Any) -> int:
    """The records of a pack, oldest first, with no daemon: what left the catalog is searched where it stands. Of a
    pack that is broken nothing is read, exit status 5."""
    from mover.audit.packcheck import check_pack, matching

    if not check_pack(file).whole:
        out.note(f"[red]broken[/]: mover audit verify {file} says where")
        return 5
    found = list(islice(matching(file, **wanted), READ_MAX))
    rows = [
        (one.at, f"{one.node}/{one.seq}", *(body.get(name) for name in ("actor", "action", "subject", "reason")))
        for one, body in found
    ]  # fmt: skip
    told = [{"node": one.node, "seq": one.seq, "at": one.at, "body": body, "hash": one.hash} for one, body in found]
    out.table(told, "at record actor action subject reason", rows, empty="no records")
    return 0


@command.command("checkpoints")
@after_option
@limit_option
@with_client
def checkpoints(*, mover: SyncClient, out: Output, after: str | None, limit: int) -> None:
    """Where the chains ended, signed and written to other tiers; newest first."""
    page = mover.audit.checkpoints(after=after, limit=limit)
    rows = [(c.at, c.n, c.records, ", ".join(c.tiers) or "nowhere yet", c.fingerprint) for c in page.checkpoints]
    out.table(page, "at checkpoint records tiers key", rows, empty="no checkpoints: a policy of kind audit makes them")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("pack")
@click.option("--run", "run", required=True, help="The run it is about.")
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), help="A new file; default: RUN.audit.")
@with_client
def pack(*, mover: SyncClient, out: Output, run: str, to: Path | None) -> None:
    """One run with its manifest, proofs, policies, certificates, records and checkpoints as one signed file."""
    to = to or Path(f"{run}.audit")
    with _new_file(to) as file:
        written = mover.audit.pack(run, file.write)
    out.facts({"file": str(to), "bytes": written}, [("written", to), ("bytes", f"{written:,}")])
    out.note(f"check it anywhere: mover audit verify {to}")


@command.command("verify")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--key", "trusted", multiple=True, help="A fingerprint you know; signed by any other, it fails.")
@click.option("--html", "printed", type=click.Path(dir_okay=False, path_type=Path),
              help="Write what FILE holds and what the check found as a page to print; no scripts.")  # fmt: skip
@with_output
@click.pass_obj
def verify(where: Where, *, out: Output, file: Path | None, trusted: tuple[str, ...], printed: Path | None) -> int:
    """Recompute every chain, and compare it with what stands on other tiers; or, with FILE, check an audit pack, with
    no daemon. Exit status 5 when something is broken."""
    if file is not None:
        return _verify_pack(out, file, trusted, printed)
    if printed is not None:
        raise click.UsageError("--html is about an audit pack: name its file")
    with where.connect() as mover:
        return _told(out, mover.audit.verify())


def _verify_pack(out: Output, file: Path, trusted: tuple[str, ...], printed: Path | None) -> int:
    from mover.audit.packcheck import check_pack
    from mover.deid.certificate import verify as verify_certificate

    found = check_pack(file, trusted=trusted, certificate=lambda body: verify_certificate(body).problems)
    word = "[green]whole[/]" if found.whole else "[red]broken[/]"
    out.facts(found, [("pack", word), ("file", str(file)), *_held(found)])
    if printed is not None:
        with _new_file(printed) as page:
            page.write(sheet_of(file, found))
    for note in found.notes:
        out.note(f"  note: {note}")
    for problem in found.problems:
        out.note(f"  [red]broken[/]: {problem}")
    return 0 if found.whole else 5


def _held(found: Checked) -> list[tuple[str, str]]:
    """What the lines said that could be read: of a file that is cut off or no pack, some of it or nothing."""
    parts = ", ".join(f"{count:,} {kind}" for kind, count in found.lines.items() if kind not in ("pack", "end"))
    key = found.fingerprint + ("" if found.trusted else "  (compare it with the site's: this file cannot vouch for it)")
    files = f"{counted(found.files, 'file')} of {counted(found.slides, 'slide')}, root {found.manifest_root}"
    return [
        ("made", f"{found.made_at} by {found.made_by}" if found.made_at else ""),
        ("run", f"{found.run} of {found.project} at {found.site}" if found.run else ""),
        ("oldest records", f"of {found.project} at {found.site}: {_ranges(found)}" if found.before else ""),
        ("manifest", files if found.files else ""), ("holds", parts or "no line of a pack"),
        ("approvals", str(found.approvals) if found.lines else ""),
        ("covered", str(found.covered_until or "by no checkpoint") if found.lines else ""),
        ("signed by", key if found.fingerprint else "nobody that can be read"),
    ]  # fmt: skip


def _ranges(found: Checked) -> str:
    parts = ", ".join(f"{one.node} {one.after + 1} to {one.upto}" for one in found.ranges)
    return f"{parts}, all from before {found.before:%Y-%m-%d} ({found.retirement})" if found.before else ""


def sheet_of(file: Path, found: Checked) -> bytes:
    """The same bytes for the same pack: no clock, and the digest of the file that is to be believed instead."""
    from blake3 import blake3

    from mover.deid.printed import sheet
    from mover.signing import grouped

    digest = blake3(max_threads=1).update_mmap(str(file)).hexdigest()
    verdict = "whole: every line is as it was signed" if found.whole else f"NOT WHOLE, {len(found.problems)} found"
    problems = {"problems": list(found.problems)} if found.problems else {}
    check = {
        "result": verdict, **problems, "notes": list(found.notes), "key": found.fingerprint or "none",
        "key trusted": "yes" if found.trusted else "compare it with the one you were told",
        "covered by a checkpoint until": found.covered_until or "none", "BLAKE3 of the file": grouped(digest),
        "check it": f"mover audit verify {file.name}",
    }  # fmt: skip
    run = {
        "run": found.run or _ranges(found), "project": found.project, "site": found.site, "made at": found.made_at,
        "made by": found.made_by, "root of the manifest": found.manifest_root, "files": found.files,
        "slides": found.slides, "approvals": found.approvals, "lines": found.lines,
    }  # fmt: skip
    rows = [_deed(one) for one in found.about_run[:SHEET_RECORDS]]
    return sheet("Audit of a run", {"This check": check, "What the pack holds": run, "What happened to the run": rows})


def _deed(one: dict[str, Any]) -> str:
    why = f": {one['reason']}" if one.get("reason") else ""
    return f"{one['at']:%Y-%m-%d %H:%M:%S} {one['action']}, by {one['actor']}, record {one['record']}{why}"


def _told(out: Output, verdict: AuditVerdict) -> int:
    word = "[green]whole[/]" if verdict.whole else "[red]broken[/]"
    chains = ", ".join(f"{node} {count}" for node, count in sorted(verdict.chains.items()))
    copies = [
        (f"copies on {one.tier}", one.unread or f"{counted(one.count, 'checkpoint')}, the newest {one.newest}")
        for one in verdict.checkpoints
    ]  # fmt: skip
    if verdict.whole and verdict.restored:
        word = "[yellow]whole but for what is known lost[/]"
    if verdict.whole and verdict.packs_unread:
        word = "[yellow]whole but for packs that were not read[/]"
    out.facts(verdict, [("audit", f"{word}, {counted(verdict.records, 'record')}"), ("chains", chains), *copies])
    for restored in verdict.restored:
        out.note(f"  [yellow]restored[/]: {_lost(restored)}")
    for retired in verdict.retired:
        out.note(f"  retired: {_left(retired)}")
    for unread in verdict.packs_unread:
        out.note(f"  [yellow]not read[/]: the pack of {unread.id}; none of {', '.join(unread.tiers)} can be read now")
    if not verdict.checkpoints:
        out.note("  no checkpoint is kept elsewhere: who owns the database could rewrite it unseen"
                 " (a policy of kind audit makes them)")  # fmt: skip
    elif verdict.uncovered:
        out.note(f"  {counted(verdict.uncovered, 'record')} that no signed copy covers yet: the daemon signs the next"
                 " checkpoint by itself, when its policy of kind audit says (mover audit checkpoints)")  # fmt: skip
    for link in verdict.broken[:50]:
        out.note("  [red]broken[/]: " + "  ".join(f"{name}={value}" for name, value in link.items()))
    for one in verdict.checkpoints:
        for problem in one.problems:
            out.note(f"  [red]broken[/]: {one.tier}: {problem}")
    return 0 if verdict.whole else 5


def _lost(one: AuditRestore) -> str:
    chains = ", ".join(f"{part.node} {part.kept + 1} to {part.upto}" for part in one.lost) or "none"
    by = f"by {one.asked_by} and {one.approved_by}" if one.approved_by else f"by {one.asked_by}, nobody else yet"
    return f"said {one.approved_at or one.asked_at:%Y-%m-%d %H:%M} {by}: {one.reason}; records lost: {chains}"


@command.command("restores")
@with_client
def restores(*, mover: SyncClient, out: Output) -> None:
    """What people said of records that a restored catalog lost."""
    found = mover.audit.restores()
    rows = [(one.id, one.state, one.checkpoint, _lost(one)) for one in found]
    out.table(found, "statement state checkpoint said", rows, empty="the catalog was never said to be restored")


@command.command("accept-restore")
@click.option("--reason", required=True, help="What happened; it is told for ever.")
@with_client
def accept_restore(*, mover: SyncClient, out: Output, reason: str) -> None:
    """After the catalog was restored from an older dump: say so. What is lost is found on the tiers; a second person
    approves, and `verify` tells it for ever."""
    made = mover.audit.ask_restore(reason)
    _told_restore(out, made)
    if made.state == "asked":
        out.note(f"somebody else approves: mover audit approve-restore {made.id}")


@command.command("approve-restore")
@click.argument("id")
@with_client
def approve_restore(*, mover: SyncClient, out: Output, id: str) -> None:
    """The second person's word: checkpoints go on from what the tiers hold."""
    _told_restore(out, mover.audit.approve_restore(id))
    out.note("within seconds the tiers say so, too: mover audit verify")


def _told_restore(out: Output, one: AuditRestore) -> None:
    lost = [(f"lost of {part.node}", f"records {part.kept + 1} to {part.upto}") for part in one.lost]
    out.facts(one, [
        ("statement", f"{one.id}, {one.state}"), ("reason", one.reason), ("asked by", one.asked_by),
        ("approved by", one.approved_by or "nobody yet"),
        ("checkpoints", f"{one.after + 1} to {one.checkpoint - 1} are from before, {one.checkpoint} says this"), *lost,
    ])  # fmt: skip


@command.command("retirements")
@with_client
def retirements(*, mover: SyncClient, out: Output) -> None:
    """Which of the oldest records left the catalog for packs on tiers, or are asked to."""
    found = mover.audit.retirements()
    rows = [(one.id, one.state, one.records, one.left, _left(one)) for one in found]
    out.table(found, "retirement state records left said", rows, empty="no record ever left the catalog")


@command.command("retire")
@click.option("--before", type=Moment(), required=True, metavar="DAY",
              help="Records from before then, which is six years ago or more.")  # fmt: skip
@click.option("--reason", required=True, help="Why they leave; it is told for ever.")
@plan_option
@with_client
def retire(*, mover: SyncClient, out: Output, before: datetime, reason: str, plan: bool) -> None:
    """Ask that the oldest records leave the catalog for a signed pack on every tier that checkpoints go to. It is
    written and checked there first; a second person approves."""
    if plan:
        out.plan(mover.audit.plan_retirement(before, reason=reason))
        return
    made = mover.audit.ask_retirement(before, reason=reason)
    _told_retirement(out, made)
    out.note(f"somebody else checks the pack, then: mover audit approve-retirement {made.id}")


@command.command("approve-retirement")
@click.argument("id")
@with_client
def approve_retirement(*, mover: SyncClient, out: Output, id: str) -> None:
    """The second person's word: the records leave within minutes, piece by piece, as long as the packs stand."""
    _told_retirement(out, mover.audit.approve_retirement(id))
    out.note("how far it is: mover audit retirements")


def _left(one: AuditRetirement) -> str:
    chains = ", ".join(f"{part.node} {part.after + 1} to {part.upto}" for part in one.chains)
    by = f"by {one.asked_by} and {one.approved_by}" if one.approved_by else f"by {one.asked_by}, nobody else yet"
    when = f"{one.approved_at or one.asked_at:%Y-%m-%d %H:%M}"
    return f"said {when} {by}: {one.reason}; {chains} in {one.pack} on {', '.join(one.tiers)}"


def _told_retirement(out: Output, one: AuditRetirement) -> None:
    chains = [(f"records of {part.node}", f"{part.after + 1} to {part.upto}") for part in one.chains]
    out.facts(one, [
        ("retirement", f"{one.id}, {one.state}"), ("from before", f"{one.before:%Y-%m-%d %H:%M}"), *chains,
        ("pack", one.pack), ("on", ", ".join(one.tiers)), ("digest", one.digest), ("bytes", f"{one.bytes:,}"),
        ("reason", one.reason), ("asked by", one.asked_by), ("approved by", one.approved_by or "nobody yet"),
        ("still in the catalog", f"{one.left:,}"),
    ])  # fmt: skip


@command.command("export")
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), help="A new file; default: standard output.")
@click.option("--fhir", is_flag=True, help="As FHIR AuditEvents (R4), oldest first; only then some of them.")
@_asked
@with_client
def export(*, mover: SyncClient, out: Output, to: Path | None, fhir: bool, **wanted: Any) -> None:
    """Every chain as JSON lines, as hashed, for an outsider to recompute (docs/formats.md); or as FHIR AuditEvents for
    the hospital's own audit repository."""
    if not fhir and any(wanted.values()):
        raise click.UsageError("a chain is whole or proves nothing: choose some records with --fhir, or take all")

    def write(piece: Any) -> int:
        return mover.audit.events(piece, **wanted) if fhir else mover.audit.export(piece)

    if to is None:
        write(sys.stdout.buffer.write)
        return
    with _new_file(to) as file:
        written = write(file.write)
    out.facts({"file": str(to), "bytes": written}, [("written", to), ("bytes", str(written))])


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """Never over another one, and nothing is left of one that was cut off."""
    with open(path, "xb") as file:
        try:
            yield file
        except BaseException:
            path.unlink()
            raise
