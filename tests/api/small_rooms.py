"""Rooms small enough to hold in one hand, for tests of HTTP itself: what comes in is remembered, what goes out is
made up. The real rooms are tested where they live; nothing here pretends to be a workflow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from msgspec import structs

from mover.access.sessions import Vouched
from mover.api import Rooms
from mover.audit import Wanted
from mover.decide.access import ROLES, actions_of
from mover.errors import CatalogUnavailable, NotFound, NotProtected, RunRefused, Unauthenticated
from mover.model import wire
from mover.model.access import Identity
from mover.model.pictures import Picture

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PLAN = wire.Plan(
    step="small", counts={"slides": 1}, bytes=7,
    steps=[wire.PlanStep(action="copy", subject="pack 1", reason="it was asked for", bytes=7)],
)  # fmt: skip


def batch(id: str, state: str) -> wire.Batch:
    return wire.Batch(id=id, state=state, tier="intake", policy="images", created_at=AT)  # type: ignore[arg-type]


def run(id: str, state: str = "staging") -> wire.Run:
    return wire.Run(id=id, state=state, tier="flash", policy="stage", created_at=AT)


class Room:
    """Remembers calls as (method, arguments); a subclass says what is answered."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.states = ["working"]
        self.asked = asyncio.Event()

    def saw(self, method: str, *arguments: Any) -> None:
        self.calls.append((method, arguments))
        self.asked.set()

    def next_state(self) -> str:
        """The last state stays."""
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


class SmallBatches(Room):
    async def declare(self, project: str, actor: str, body: wire.BatchRequest, *, request: str = "") -> wire.Batch:
        self.saw("declare", project, actor, body, request)
        return batch("batch-1", "declared")

    async def plan_declare(self, project: str, actor: str, body: wire.BatchRequest) -> wire.Plan:
        self.saw("plan_declare", project, actor, body)
        return PLAN

    async def view(self, project: str, id: str) -> wire.Batch:
        self.saw("view", project, id)
        if id == "batch-boom":
            raise RuntimeError("SMITH, JANE in /intake/S26-10482.svs")
        if id == "batch-none":
            raise NotFound("no such batch", where=id)
        return batch(id, self.next_state())

    async def list(self, project: str, after: str | None, limit: int) -> wire.BatchPage:
        return wire.BatchPage(batches=[batch("batch-1", "working")])

    async def packs(self, project: str, id: str, state: str | None, after: str | None, limit: int) -> wire.PackPage:
        self.saw("packs", project, id, state, after, limit)
        return wire.PackPage(packs=[])

    async def slides(
        self, project: str, after: str | None, limit: int, *, only: wire.SlideFilter
    ) -> wire.SlidePage:
        self.saw("slides", project, after, limit, only)
        return wire.SlidePage(slides=[])

    async def slide(self, project: str, number: str) -> wire.Slide:
        return wire.Slide(number=number, family="aperio", size_bytes=1, digest="0" * 64, facts={})

    async def evidence(self, project: str, number: str) -> wire.SlideEvidence:
        return wire.SlideEvidence(number=number, family="aperio", tier="archive", published_at=AT)

    async def thumbnail(self, project: str, number: str) -> wire.SlideThumbnail:
        return wire.SlideThumbnail(number=number, media_type="image/jpeg", digest="0" * 64, data=b"\xff\xd8")

    async def reveal(self, project: str, actor: str, body: wire.RevealRequest) -> wire.Revealed:
        self.saw("reveal", project, actor, body)
        return wire.Revealed(names={id: ["a name"] for id in body.packs})


class SmallViewing:
    async def view(self, project: str, number: str) -> wire.SlideView:
        return wire.SlideView(
            number=number, width=1, height=1, tile_px=512, levels=1, first_level=0, digest="0" * 64
        )

    async def tile(self, project: str, number: str, level: str, place: str, *, known: str) -> Picture:
        return Picture(None if known == '"seen"' else b"\xff\xd8", '"seen"')

    async def region(self, project: str, number: str, **asked: Any) -> Picture:
        return Picture(b"\xff\xd8")


class SmallRecords(Room):
    def _set(self, id: str) -> wire.RecordSet:
        return wire.RecordSet(
            id=id, batch="batch-1", version=1, state="waiting-for-images", policy="records", created_at=AT,
            explanation="its batch failed; declare the batch again" if id == "record-failed" else None,
        )  # fmt: skip

    async def declare(
        self, project: str, actor: str, body: wire.RecordsRequest, *, request: str = ""
    ) -> wire.RecordSet:
        self.saw("declare", project, actor, body, request)
        return self._set("record-1")

    async def plan_declare(self, project: str, actor: str, body: wire.RecordsRequest) -> wire.Plan:
        return PLAN

    async def found(self, project: str, actor: str, body: wire.TablesLook, *, request: str = "") -> wire.FoundTables:
        self.saw("found", project, actor, body, request)
        table = wire.FoundTable(path="tables/csv1.csv", bytes=7, changed_at=AT)
        return wire.FoundTables(tier="intake", policy="records", tables=["imagery"], found=[table], whole=False)

    async def view(self, project: str, id: str) -> wire.RecordSet:
        return self._set(id)

    async def list(self, project: str, batch: str | None, after: str | None, limit: int) -> wire.RecordSetPage:
        return wire.RecordSetPage(records=[self._set("record-1")])

    async def ledger(
        self, project: str, id: str, table: str | None, state: str | None, after: str | None, limit: int
    ) -> wire.LedgerPage:
        return wire.LedgerPage(lines=[])


class SmallCertificates:
    async def issue(self, project: str, actor: str, role: str, batch: str, *, request: str = "") -> str:
        return '{"batch": "certified"}\n'


class SmallCohorts(Room):
    def _cohort(self, name: str, expression: str = "gleason >= 7") -> wire.Cohort:
        return wire.Cohort(id="cohort-1", name=name, version=1, expression=expression, created_at=AT, count=2, bytes=9)

    async def save(self, project: str, actor: str, body: wire.CohortRequest) -> wire.Cohort:
        return self._cohort(body.name, body.expression)

    async def list(self, project: str, after: str | None, limit: int) -> wire.CohortPage:
        return wire.CohortPage(cohorts=[self._cohort("prostate")])

    async def get(self, project: str, ref: str) -> wire.Cohort:
        return self._cohort(ref)

    async def columns(self, project: str, *, values: bool = False) -> wire.Columns:
        top: list[Any] | None = [7, 8] if values else None
        return wire.Columns(columns=[wire.Column(name="gleason", type="integer", table="case", values=top)])

    async def count(self, project: str, expression: str) -> tuple[int, int]:
        return 2, 9

    async def explain(self, project: str, expression: str) -> wire.Explanation:
        clause = wire.Clause(depth=0, words="gleason is at least 7", count=2)
        return wire.Explanation(expression=expression, count=2, bytes=9, slides=4, row_by_row=1, clauses=[clause],
                                columns=["gleason"], plan=["Index Scan of fact_block by fact_block_pkey"])  # fmt: skip

    async def describe(self, project: str, body: wire.DescribeRequest) -> wire.Description:
        spread = wire.Distribution(
            column="gleason", type="integer", known=2, missing=1, distinct=1, low=7, high=7,
            values=[wire.ValueCount(value=7, count=2)], histogram=[wire.Bin(low=7, high=8, count=2)],
        )  # fmt: skip
        return wire.Description(count=3, bytes=9, columns=[spread])

    async def freeze(self, project: str, actor: str, ref: str) -> wire.Selection:
        return wire.Selection(id="selection-1", cohort="cohort-1", expression="gleason >= 7", count=2, bytes=9,
                              root="ab" * 32, frozen_at=AT)  # fmt: skip

    async def split(self, identity: Identity, ref: str, body: wire.SplitRequest) -> wire.CohortSplit:
        parts = [wire.SplitPart(name=name, selection="selection-1", count=2, bytes=9, groups=1, root="ab" * 32)
                 for name in body.parts]  # fmt: skip
        shares = [wire.SplitShare(part=name, value=None, count=2, wanted=1.5) for name in body.parts]
        return wire.CohortSplit(cohort="cohort-1", seed=body.seed, by=body.by, parts=parts, shares=shares, worst=0.5,
                                unknown_patients=1)  # fmt: skip

    async def selection(self, project: str, id: str, after: str | None, limit: int) -> wire.SelectionPage:
        return wire.SelectionPage(selection=await self.freeze(project, "a", "prostate"), numbers=["N1", "N2"])


class SmallRuns(Room):
    def __init__(self) -> None:
        super().__init__()
        self.over = asyncio.Event()

    async def request(self, identity: Identity, body: wire.RunRequest, *, key: str, request: str) -> wire.Run:
        self.saw("request", identity, body, key, request)
        if body.files:
            raise RunRefused("1 of 1 unusable", where="run-1", details=[{"number": body.files[0], "why": "unknown"}])
        return run("run-1", "requested")

    async def plan_request(self, identity: Identity, body: wire.RunRequest) -> wire.Plan:
        return PLAN

    async def view(self, project: str, id: str) -> wire.Run:
        return run(id, self.next_state())

    async def list(self, project: str, after: str | None, limit: int) -> wire.RunPage:
        return wire.RunPage(runs=[run("run-1")])

    async def manifest(self, project: str, id: str) -> AsyncIterator[bytes]:
        yield b'{"format":"mover-manifest",'
        yield b'"version":1}\n'

    async def ready(self, project: str, id: str, after: str | None, limit: int) -> wire.StagedPage:
        first = int(after or 0)
        entries = [
            wire.StagedEntry(path=f"data/{n}.svs", number=str(n), size_bytes=1, digest="0" * 64)
            for n in range(first, min(first + limit, 3))
        ]
        cursor = str(first + len(entries))
        return wire.StagedPage(entries=entries, next=cursor if len(entries) == limit else None, cursor=cursor)

    async def strays(self, project: str, id: str, after: str | None, limit: int) -> wire.StrayPage:
        stray = wire.Stray(path="data/x", size_bytes=1, why="stranger", moved_to=f".mover/strays/{id}/data/x")
        return wire.StrayPage(strays=[stray])

    @contextmanager
    def watching(self, id: str) -> Iterator[Callable[[float], Awaitable[None]]]:
        yield asyncio.sleep

    async def events(self, project: str, id: str, *, after: int) -> AsyncIterator[wire.RunEvent | wire.RunProgress]:
        """Two states and a look in between; of `run-watched` a third as soon as it is `over`."""
        self.saw("events", project, id, after)
        if id == "run-none":
            raise NotFound("no such run", where=id)
        for number, state in ((3, "staging"), (4, "ready")):
            if number > after:
                yield wire.RunEvent(id=number, run=id, state=state, at=AT)
                yield wire.RunProgress(run=id, state=state, count=2, bytes=20, staged_count=1, staged_bytes=10)
        if id == "run-watched":
            await self.over.wait()
            yield wire.RunEvent(id=5, run=id, state="cleaned", at=AT)

    async def heartbeat(self, project: str, id: str) -> wire.Run:
        self.saw("heartbeat", project, id)
        return run(id, "ready")

    async def finish(self, identity: Identity, id: str, body: wire.FinishRequest) -> wire.Run:
        self.saw("finish", identity, id, body)
        return run(id, "finishing")

    async def clean(self, identity: Identity, id: str) -> wire.Run:
        raise NotProtected("1 artifact is not proved protected", where=id, details=[{"path": "out/model.pt"}])

    async def plan_clean(self, project: str, id: str) -> wire.Plan:
        return PLAN

    async def cancel(self, identity: Identity, id: str) -> wire.Run:
        return run(id, "cancelled")


class SmallRebuild(Room):
    async def request(self, identity: Identity) -> wire.Rebuilds:
        return wire.Rebuilds(policies=["protect"])


class SmallArchives(Room):
    def _archive(self, id: str) -> wire.Archive:
        turn = wire.ArchiveTurn(state="done", started_at=AT, copied=1, bytes=1, failed=0, locked=0, missing=0)
        return wire.Archive(
            policy=id, tier="archive", slides=1, bytes=1, copied=0, late=0, failed=0, damaged=0, doubted=0, turn=turn
        )

    async def list(self, project: str) -> wire.Archives:
        return wire.Archives(archives=[self._archive("archive")])

    async def ask(self, identity: Identity, id: str, *, request: str = "") -> wire.Archive:
        self.saw("keep", identity, id)
        return self._archive(id)


class SmallFolders(Room):
    def _folder(self, id: str) -> wire.ProtectedFolder:
        return wire.ProtectedFolder(id=id, policy="protect", name="plans", path="/srv/plans", state="idle")

    async def list(self, project: str) -> wire.ProtectedFolders:
        return wire.ProtectedFolders(folders=[self._folder("folder-1")])

    async def ask(self, identity: Identity, id: str) -> wire.ProtectedFolder:
        return self._folder(id)


class SmallSnapshots(Room):
    def _snapshot(self, id: str) -> wire.Snapshot:
        return wire.Snapshot(
            id=id, repository_id="a" * 64, run="run-1", state="checked", tier="protect", policy="protect",
            files=1, bytes=2, added_bytes=1, recorded_at=AT, series="run:run-1",
        )  # fmt: skip

    async def list(self, project: str, **asked: Any) -> wire.SnapshotPage:
        self.saw("list", asked)
        return wire.SnapshotPage(snapshots=[self._snapshot("snapshot-1")])

    async def view(self, project: str, id: str) -> wire.Snapshot:
        return self._snapshot(id)

    async def files(self, project: str, id: str, path: str, after: str | None, limit: int) -> wire.SnapshotFiles:
        return wire.SnapshotFiles(files=[wire.SnapshotFile(path=path, type="dir", size_bytes=0)])

    async def check(self, project: str) -> wire.Check:
        return wire.Check(whole=True, tier="protect", snapshots=1, blobs=1, bytes=1)


class SmallRestores(Room):
    def __init__(self) -> None:
        super().__init__()
        self.states = ["restoring"]

    def _restore(self, id: str) -> wire.Restore:
        return wire.Restore(
            id=id, snapshot="snapshot-1", tier="protect", state=self.next_state(), to="/restored", path="/",  # type: ignore[arg-type]
            first=["*.pt"], files=1, bytes=2, of_files=30, of_bytes=40, rate_bytes_s=1.0, eta_s=38.0,
            damaged_count=30, damaged=[f"shard{n}.pt" for n in range(30)], created_by="ann", created_at=AT,
        )  # fmt: skip

    async def request(self, identity: Identity, body: wire.RestoreRequest, *, key: str, request: str) -> wire.Restore:
        self.saw("request", identity.actor, body, key, request)
        return self._restore("restore-1")

    async def plan_request(self, identity: Identity, body: wire.RestoreRequest) -> wire.Plan:
        return PLAN

    async def view(self, project: str, id: str) -> wire.Restore:
        return self._restore(id)

    async def list(self, project: str, after: str | None, limit: int) -> wire.RestorePage:
        return wire.RestorePage(restores=[self._restore("restore-1")], next="restore-1")

    async def cancel(self, identity: Identity, id: str, *, request: str) -> wire.Restore:
        self.saw("cancel", identity.actor, id)
        return self._restore(id)


class SmallVersions(Room):
    async def versions(self, project: str, path: str, **asked: object) -> wire.VersionPage:
        self.saw("versions", path, asked)
        version = wire.Version(snapshot="snapshot-1", run="run-1", series="protect", sequence=7, recorded_at=AT,
                               change="changed", size_bytes=9, digest="ab" * 32)  # fmt: skip
        return wire.VersionPage(versions=[version], next=7)

    async def diff(self, project: str, before: str, after: str, **asked: object) -> wire.SnapshotDiff:
        change = wire.SnapshotChange(path="a", change="metadata", type="file", size_bytes_after=1, facts=["mode"])
        return wire.SnapshotDiff(before=before, after=after, changes=[change], next="a")


class SmallProtection(Room):
    async def plan_finish(self, identity: Identity, id: str, body: wire.FinishRequest) -> wire.Plan:
        return PLAN


class SmallRetention(Room):
    async def forget_plan(self, project: str, policy: str | None = None) -> wire.Plan:
        return PLAN

    async def simulate(self, project: str, body: wire.SimulationRequest) -> wire.Simulation:
        self.saw("simulate", body)
        moments = [wire.SimulatedMoment(at=AT, kept=kept, bytes=kept) for kept in (0, 3, 7)]
        leaving = wire.SimulatedLeaving(snapshot="snapshot-1", series="run:run-1", at=AT, reason="no rule keeps it")
        return wire.Simulation(
            policy="protect", rules="last 2", standing=8, moments=moments, leaving=[leaving], leaving_count=1, later=4,
            shorter=["keep.last"],
        )  # fmt: skip


class SmallHolds(SmallSnapshots):
    async def hold(self, identity: Identity, id: str, body: wire.HoldRequest) -> wire.Snapshot:
        self.saw("hold", id, body)
        return self._snapshot(id)

    async def untrash(self, identity: Identity, id: str, body: wire.HoldRequest) -> wire.Snapshot:
        return self._snapshot(id)

    async def tag(self, identity: Identity, id: str, body: wire.TagRequest) -> wire.Snapshot:
        return self._snapshot(id)


class SmallShortenings(Room):
    def _shortening(self, id: str) -> wire.Shortening:
        return wire.Shortening(
            id=id, kind="shorten", state="asked", policy="protect", shorter=["keep.last"], reason="too many",
            requested_by="ann", requested_at=AT, not_before=AT, lapses_at=AT,
        )  # fmt: skip

    async def ask(self, identity: Identity, body: wire.ShorteningRequest) -> wire.Shortening:
        self.saw("ask", identity.actor, body)
        return self._shortening("shortening-1")

    async def plan(self, identity: Identity, body: wire.ShorteningRequest) -> wire.Plan:
        return PLAN

    async def list(self, project: str, after: str | None, limit: int) -> wire.ShorteningPage:
        return wire.ShorteningPage(shortenings=[self._shortening("shortening-1")])

    async def view(self, project: str, id: str) -> wire.Shortening:
        return self._shortening(id)

    async def approve(self, identity: Identity, id: str) -> wire.Shortening:
        return self._shortening(id)

    async def withdraw(self, identity: Identity, id: str) -> wire.Shortening:
        return self._shortening(id)


class SmallUpkeep(Room):
    async def view(self, project: str) -> wire.Protection:
        terms = {"keep": {"last": 3}, "trash_s": 1}
        turn = wire.ProtectTurn(
            id="turn-1", policy="protect", kind="prune", state="waiting", explanation="too much", started_at=AT
        )
        one = wire.ProtectTerms(
            policy="protect", terms=terms, since=AT, shorter=["keep.last"], snapshots={"checked": 3},
            turns=[turn],
        )  # fmt: skip
        waiting = SmallShortenings()._shortening("shortening-1")
        return wire.Protection(policies=[one], waiting=[waiting])


class SmallTurns(Room):
    async def request(self, identity: Identity, body: wire.TurnRequest, *, request: str = "") -> wire.ProtectTurn:
        self.saw("request", identity.actor, body)
        return await self.view(identity.project, "turn-1")

    async def plan_request(self, identity: Identity, body: wire.TurnRequest) -> wire.Plan:
        return PLAN

    async def view(self, project: str, id: str) -> wire.ProtectTurn:
        return wire.ProtectTurn(
            id=id, policy="protect", kind="prune", state="done", counts={"swept": 2, "freed_bytes": 9}, started_at=AT
        )


class SmallKeys(Room):
    async def list(self, policy: str | None, *, second: bool) -> wire.RepositoryKeys:
        self.saw("list", policy, second)
        key = wire.RepositoryKey(id="ab" * 32, made_by="mover@n1", created="2026-01-01T00:00:00Z", current=True)
        return wire.RepositoryKeys(tier="protect", prefix="", keys=[key])

    async def add(self, identity: Identity, body: wire.KeyRequest, *, request: str = "") -> wire.RepositoryKeys:
        self.saw("add", identity.actor, body)
        return await self.list(body.policy, second=body.second)


class SmallTransfers(Room):
    def _transfer(self, id: str) -> wire.Transfer:
        return wire.Transfer(
            id=id, verb="copy", state=self.next_state(), sources=["nas:in"], to="cold:", created_by="ann", created_at=AT
        )

    async def request(
        self, identity: Identity, body: wire.TransferRequest, *, key: str, request: str
    ) -> wire.Transfer:
        self.saw("request", identity.actor, body, key, request)
        return self._transfer("transfer-1")

    async def plan_request(self, identity: Identity, body: wire.TransferRequest) -> wire.Plan:
        return PLAN

    async def view(self, project: str, id: str) -> wire.Transfer:
        return self._transfer(id)

    async def list(self, project: str, after: str | None, limit: int) -> wire.TransferPage:
        return wire.TransferPage(transfers=[self._transfer("transfer-1")])

    async def report(self, project: str, id: str, format: str) -> AsyncIterator[bytes]:
        yield f"{id} as {format}\n".encode()

    async def pause(self, identity: Identity, id: str) -> wire.Transfer:
        return self._transfer(id)

    async def resume(self, identity: Identity, id: str) -> wire.Transfer:
        return self._transfer(id)

    async def abort(self, identity: Identity, id: str) -> wire.Transfer:
        return self._transfer(id)

    async def approve(self, identity: Identity, id: str) -> wire.Transfer:
        return self._transfer(id)

    async def restore(self, identity: Identity, id: str) -> wire.Transfer:
        return self._transfer(id)


class SmallVerifications(Room):
    damaged = False

    def __init__(self) -> None:
        super().__init__()
        self.states = ["reading"]

    def _verification(self, id: str) -> wire.Verification:
        stands, state = {"bit-rot": 1} if self.damaged else {}, self.next_state()
        return wire.Verification(
            id=id, tier="archive", scope="tier", state=state, strangers=True, entries=2, bytes=20,  # type: ignore[arg-type]
            checked=1, checked_bytes=10, listed=0, findings={"bit-rot": 1}, open=stands, repaired=1 - len(stands),
            created_by="ann", created_at=AT,
        )  # fmt: skip

    async def request(
        self, identity: Identity, body: wire.VerificationRequest, *, key: str, request: str
    ) -> wire.Verification:
        self.saw("request", identity.actor, body, key, request)
        return self._verification("verification-1")

    async def plan_request(self, identity: Identity, body: wire.VerificationRequest) -> wire.Plan:
        return PLAN

    async def view(self, project: str, id: str) -> wire.Verification:
        return self._verification(id)

    async def list(self, project: str, after: str | None, limit: int) -> wire.VerificationPage:
        return wire.VerificationPage(verifications=[self._verification("verification-1")])

    async def findings(self, project: str, id: str, after: str | None, limit: int) -> wire.FindingPage:
        found = wire.Finding(id="finding-1", kind="bit-rot", state="open", key="a", at=AT)
        return wire.FindingPage(findings=[found])

    async def report(self, project: str, id: str, format: str) -> AsyncIterator[bytes]:
        yield f"{id} as {format}\n".encode()

    async def abort(self, identity: Identity, id: str, *, request: str) -> wire.Verification:
        self.saw("abort", identity.actor, id)
        return self._verification(id)


class SmallRulings:
    """One ruling, granted at once."""

    async def ask(
        self, identity: Identity, number: str, body: wire.RulingRequest, *, request: str = ""
    ) -> wire.Ruling:
        return await self.view(identity.project, "ruling-1")

    async def decide(
        self, identity: Identity, id: str, body: wire.RulingDecision, *, request: str = ""
    ) -> wire.Ruling:
        return await self.view(identity.project, id)

    async def view(self, project: str, id: str) -> wire.Ruling:
        return wire.Ruling(
            id=id, number="0" * 17, action="reinstate", state="done", reason="a maker's name", asked_by="a",
            asked_at=AT, decided_by="c", decided_at=AT, decision="so it is",
        )  # fmt: skip

    async def list(
        self, project: str, after: str | None = None, limit: int = 100, *, open: bool = False, number: str | None = None
    ) -> wire.RulingPage:
        return wire.RulingPage(rulings=[await self.view(project, "ruling-1")])


class SmallAdoptions:
    """One scan, complete at once."""

    async def request(
        self, project: str, actor: str, body: wire.AdoptionRequest, *, request: str = ""
    ) -> wire.Adoption:
        return await self.view(project, "adoption-1")

    async def register(
        self, project: str, actor: str, id: str, body: wire.AdoptionRegister, *, request: str = ""
    ) -> wire.Adoption:
        return await self.view(project, id)

    async def view(self, project: str, id: str) -> wire.Adoption:
        return wire.Adoption(
            id=id, tier="archive", prefix="old", state="complete", trust_names=False, reason="the broker says so",
            verdicts={"clean": 1}, bytes=1, root="0" * 64, created_by="a", created_at=AT,
        )  # fmt: skip

    async def list(self, project: str, after: str | None = None, limit: int = 100) -> wire.AdoptionPage:
        return wire.AdoptionPage(adoptions=[await self.view(project, "adoption-1")])

    async def report(self, project: str, id: str) -> AsyncIterator[bytes]:
        yield b'{"key":"a.svs","verdict":"clean"}\n'


class SmallQuarantine:
    """One cause, one decision."""

    def _rule(self) -> wire.QuarantineRule:
        return wire.QuarantineRule(
            id="rule-1", cause="0" * 16, version=1, action="retry", standing=False, code="format-unknown", kind="svs",
            words="", reason="mended by hand", packs=1, decided_by="a", decided_at=AT,
        )  # fmt: skip

    async def causes(self, project: str, batch: str | None = None) -> wire.QuarantineCauses:
        return wire.QuarantineCauses(causes=[await self.cause(project, "0" * 16)])

    async def cause(
        self, project: str, id: str, after: str | None = None, limit: int = 100
    ) -> wire.QuarantineCause:
        return wire.QuarantineCause(
            id=id, code="format-unknown", kind="svs", words="", count=1, bytes=1, batches=1, since=AT, packs=["pack-1"],
            offers=[wire.QuarantineOffer(action="exclude", why="left out", standing=True, later="so are later packs")],
        )  # fmt: skip

    async def decide(
        self, identity: Identity, id: str, body: wire.QuarantineDecisionRequest, *, request: str = ""
    ) -> wire.QuarantineDecision:
        if body.action == "declare":  # two persons decide about this one
            return wire.QuarantineDecision(proposal=self._proposal("open"), left=1)
        return wire.QuarantineDecision(rule=self._rule(), packs=1, batches=["batch-1"])

    def _proposal(self, state: Any) -> wire.QuarantineProposal:
        return wire.QuarantineProposal(
            id="proposal-1", cause="0" * 16, action="declare", standing=False, code="not-declared", kind="svs",
            words="", waiting=1, reason="the ward listed them late", state=state, proposed_by="ann", proposed_at=AT,
            lapses_at=AT, decided_by=None if state == "open" else "bob", decision=None,
        )  # fmt: skip

    async def review(
        self, identity: Identity, id: str, body: wire.QuarantineReview, *, request: str = ""
    ) -> wire.QuarantineDecision:
        if body.decision == "decline":
            return wire.QuarantineDecision(proposal=self._proposal("declined"))
        return wire.QuarantineDecision(rule=self._rule(), proposal=self._proposal("confirmed"), packs=1)

    async def draft(self, project: str, id: str, body: wire.QuarantineDraftRequest) -> wire.QuarantineDraft:
        return wire.QuarantineDraft(policy="records", table="cases", digest="0" * 64, text="kind: records\n")

    async def proposals(self, project: str, *, open: bool = False) -> wire.QuarantineProposals:
        return wire.QuarantineProposals(proposals=[self._proposal("open")])

    async def plan_decide(
        self, project: str, actor: str, id: str, body: wire.QuarantineDecisionRequest
    ) -> wire.Plan:
        return wire.Plan(step="quarantine", counts={"packs": 1}, bytes=1, steps=[])

    async def rules(self, project: str, *, standing: bool = False) -> wire.QuarantineRules:
        return wire.QuarantineRules(rules=[self._rule()])

    async def revoke(
        self, project: str, actor: str, rule: str, body: wire.QuarantineRevokeRequest, *, request: str = ""
    ) -> wire.QuarantineRule:
        return self._rule()


COPIES = wire.VaultCopies(site="ward", copies=[wire.VaultCopy(kind="subject", name="S1", copy=b"sealed")])


class SmallVault(Room):
    copies = COPIES

    async def status(self, project: str) -> wire.VaultStatus:
        self.saw("status", project)
        return wire.VaultStatus(site="ward", generation=1, rekeying=False, pair=None)

    async def reveal(
        self, project: str, actor: str, body: wire.VaultRevealRequest, *, request: str = ""
    ) -> wire.VaultCopies:
        self.saw("reveal", project, actor, body, request)
        return self.copies

    async def export(
        self, project: str, actor: str, body: wire.VaultExportRequest, *, request: str = ""
    ) -> wire.VaultCopies:
        self.saw("export", project, actor, body, request)
        return self.copies

    async def erase(
        self, project: str, actor: str, body: wire.VaultEraseRequest, *, request: str = ""
    ) -> wire.VaultErased:
        self.saw("erase", project, actor, body, request)
        return wire.VaultErased(subject=body.subject, planned=False, rows={"subject": 1}, withdrawn=["N1"])

    async def plan_erase(self, project: str, actor: str, body: wire.VaultEraseRequest) -> wire.VaultErased:
        self.saw("plan_erase", project, actor, body)
        return wire.VaultErased(subject=body.subject, planned=True, rows={"subject": 1}, withdrawn=["N1"])

    async def import_rows(
        self, project: str, actor: str, body: wire.VaultImportRequest, *, plan: bool, request: str = ""
    ) -> wire.VaultImported:
        self.saw("import_rows", project, actor, body, plan, request)
        return wire.VaultImported(planned=plan, taken=len(body.rows), same=0)


DUMP = wire.Dump(
    id="dump-1", policy="dump", state="verified", why="every day at 02:30", created_by="policy:dump", started_at=AT,
    taken_at=AT, verified_at=AT, pair="0011", digest="0" * 64, size_bytes=7, tables=3, rows=5,
    copies=[wire.DumpCopy(tier="archive", key="dumps/dump-1/1.sealed", state="whole", read_at=AT)],
    drills=[wire.DumpDrill(id="drill-1", kind="read", passed=True, started_at=AT)], reasons=["last 1 of 7"],
)  # fmt: skip


class SmallDumps(Room):
    stopped: str | None = None

    async def request(self, identity: Identity, body: wire.DumpRequest, *, request: str = "") -> wire.Dump:
        self.saw("request", identity, body, request)
        return DUMP

    async def request_drill(self, identity: Identity, id: str, *, request: str = "") -> wire.Dump:
        self.saw("request_drill", identity, id, request)
        return DUMP

    async def view(self, project: str, id: str) -> wire.Dump:
        self.saw("view", project, id)
        return DUMP

    async def list(self, project: str) -> wire.Dumps:
        self.saw("list", project)
        return wire.Dumps(dumps=[DUMP], release_stopped=self.stopped)


class SmallScans(Room):
    def __init__(self) -> None:
        super().__init__()
        self.states = ["complete"]

    def _scan(self, id: str) -> wire.Scan:
        return wire.Scan(
            id=id, state=self.next_state(), tier="archive", method="listing", prefix="", folders=1, folders_left=0,  # type: ignore[arg-type]
            entries=2, bytes=3, entries_s=4.0, listings=1, listings_same=0, vanished=0, findings=1,
            drift=wire.Drift(same=1, new=1, changed=0, changed_verified=0), walk_s=0.5, merge_s=0.1, created_at=AT,
        )  # fmt: skip

    async def declare(self, project: str, actor: str, body: wire.ScanRequest, *, request: str = "") -> wire.Scan:
        self.saw("declare", project, actor, body, request)
        return self._scan("scan-1")

    async def view(self, project: str, id: str) -> wire.Scan:
        return self._scan(id)

    async def list(self, project: str, tier: str | None, after: str | None, limit: int) -> wire.ScanPage:
        return wire.ScanPage(scans=[self._scan("scan-1")])

    async def findings(self, project: str, id: str, after: str | None, limit: int) -> wire.ScanFindingPage:
        return wire.ScanFindingPage(findings=[wire.ScanFinding(code="denied", path="shut", at=AT)])


class SmallAnswers(Room):
    async def questions(self) -> wire.Questions:
        return wire.Questions(questions=[wire.Question(code="log", asks="Prove that the log is complete.")])

    async def answer(self, project: str, code: str, about: str | None) -> wire.ComplianceAnswer:
        if code == "dance":
            raise NotFound("no such question", where=code)
        return wire.ComplianceAnswer(
            question=code, asks="Prove that the log is complete.", about=about, tone="good", answer="It is.",
            columns=["kind", "asked by"], rows=[["chain", "ann"]], proof=["mover audit verify"],
        )  # fmt: skip


class SmallAudit(Room):
    full = False

    async def page(self, project: str, wanted: Wanted, *, after: str | None, limit: int) -> wire.AuditPage:
        record = wire.AuditRecord(node="n", seq=1, at=AT, body={"actor": "a", "action": "b"}, hash="0" * 64)
        return wire.AuditPage(records=[record])

    async def verify(self, project: str) -> wire.AuditVerdict:
        copies = [wire.CheckpointCopies(tier="archive", newest=1, count=1)]
        return wire.AuditVerdict(whole=True, records=1, chains={"n": 1}, checkpoints=copies, uncovered=1)

    async def checkpoints(self, project: str, after: str | None, limit: int) -> wire.Checkpoints:
        made = wire.Checkpoint(n=1, at=AT, digest="0" * 64, fingerprint="0f0f", records=1, tiers=["archive"])
        return wire.Checkpoints(checkpoints=[made])

    async def restores(self, project: str) -> wire.AuditRestores:
        return wire.AuditRestores(restores=[self.restored("cora")])

    async def ask_restore(self, identity: Identity, body: wire.AuditRestoreRequest) -> wire.AuditRestore:
        return self.restored(None)

    async def approve_restore(self, identity: Identity, id: str) -> wire.AuditRestore:
        return self.restored(identity.actor)

    def restored(self, by: str | None) -> wire.AuditRestore:
        return wire.AuditRestore(
            id="acceptance-1", state="accepted" if by else "asked", after=2, checkpoint=5,
            lost=[wire.LostRecords(node="n", kept=2, upto=9)], reason="the disk", asked_by="ann", asked_at=AT,
            approved_by=by, approved_at=AT if by else None,
        )  # fmt: skip

    async def retirements(self, project: str) -> wire.AuditRetirements:
        return wire.AuditRetirements(retirements=[self.retired("cora")])

    async def plan_retirement(self, project: str, body: wire.AuditRetirementRequest) -> wire.Plan:
        step = wire.PlanStep(action="retire", subject="n", reason="records 1 to 9 are older")
        return wire.Plan(step="retire", counts={"records": 9}, bytes=0, steps=[step])

    async def ask_retirement(self, identity: Identity, body: wire.AuditRetirementRequest) -> wire.AuditRetirement:
        return self.retired(None)

    async def approve_retirement(self, identity: Identity, id: str) -> wire.AuditRetirement:
        return self.retired(identity.actor)

    def retired(self, by: str | None) -> wire.AuditRetirement:
        return wire.AuditRetirement(
            id="retirement-1", state="approved" if by else "asked", before=AT,
            chains=[wire.RetiredRecords(node="n", after=0, upto=9)], records=9, left=9, pack="p", digest="0" * 64,
            bytes=9, tiers=["archive"], reason="the disk", asked_by="ann", asked_at=AT, approved_by=by,
            approved_at=AT if by else None, checkpoint=3 if by else None,
        )  # fmt: skip

    async def accessed(self, project: str, what: str, *subject: str, by: str, request: str) -> None:
        if self.full:
            raise CatalogUnavailable("the catalog is away")
        self.saw("accessed", project, what, *subject, by)

    async def pack(self, project: str, run: str, *, by: str, request: str) -> AsyncIterator[bytes]:
        yield f"{run} by {by}".encode()

    async def events(self, project: str, wanted: Wanted) -> AsyncIterator[bytes]:
        yield f'{{"resourceType":"AuditEvent","by":"{wanted.actor}"}}\n'.encode()

    async def export(self, project: str) -> AsyncIterator[bytes]:
        if project == "broken":
            raise NotFound("no chain")
        for seq in range(3):
            yield b'{"seq":%d}\n' % seq


class SmallSessions(Room):
    """The session's secret is `session-<role>`; its csrf is that backwards."""

    def __init__(self, project: str) -> None:
        super().__init__()
        self._project = project

    def identity(self, secret: str, project: str | None = None) -> Identity:
        role = secret.removeprefix("session-")
        if role not in ROLES or role == "scheduler":
            raise Unauthenticated("the session is unknown or over")
        if project not in (None, self._project, "second"):
            raise NotFound("no such project")
        return Identity(
            actor=f"a-{role}", role=role, project=project or self._project, token_id=f"session-{role}",  # type: ignore[arg-type]
            session="password", account=f"account-{role}", csrf=secret[::-1],
        )  # fmt: skip

    async def sign_in(self, body: wire.SessionRequest, *, address: str, request: str) -> str:
        self.saw("sign_in", body, address)
        self.identity(f"session-{body.name}")
        return f"session-{body.name}"

    async def vouched(self, said: Vouched, *, address: str, request: str) -> str:
        self.saw("vouched", said, address)
        return "session-viewer"

    async def identify(self, secret: str, *, project: str | None = None, attended: bool = True) -> Identity:
        if not attended:
            self.saw("unattended", secret)
        return self.identity(secret, project)

    async def view(self, identity: Identity) -> wire.Session:
        return wire.Session(
            actor=identity.actor, kind=identity.kind, project=identity.project, role=identity.role,
            actions=actions_of(identity.role),
            projects=[wire.ProjectRole(project=identity.project, role=identity.role)], proven=True, csrf=identity.csrf,
        )  # fmt: skip

    async def choose(self, identity: Identity, project: str) -> wire.Session:
        self.saw("choose", project)
        return await self.view(structs.replace(identity, project=project))

    async def end(self, identity: Identity, *, every: bool, request: str) -> wire.SessionsEnded:
        self.saw("end", identity.token_id, every)
        return wire.SessionsEnded(ended=1)

    async def repass(self, identity: Identity, body: wire.PasswordChange, *, request: str) -> wire.SessionsEnded:
        self.saw("repass", identity.actor)
        return wire.SessionsEnded(ended=0)


class SmallAccounts(Room):
    def _account(self, name: str, role: str | None = "viewer") -> wire.Account:
        return wire.Account(name=name, role=role, password=True, provider=False, created_at=AT)

    async def make(self, identity: Identity, body: wire.AccountRequest, *, request: str = "") -> wire.Account:
        self.saw("make", body)
        made_up = None if body.password else "made up"
        return structs.replace(self._account(body.name, body.role), secret=made_up)

    async def list(self, project: str) -> wire.Accounts:
        return wire.Accounts(accounts=[self._account("ann")])

    async def grant(self, identity: Identity, name: str, role: str, *, request: str = "") -> wire.Account:
        self.saw("grant", identity.project, name, role)
        return self._account(name, role)

    async def revoke(self, identity: Identity, name: str, *, request: str = "") -> wire.Account:
        self.saw("revoke", identity.project, name)
        return self._account(name, None)

    async def password(
        self, identity: Identity, name: str, body: wire.PasswordRequest, *, request: str = ""
    ) -> wire.Account:
        self.saw("password", name, body)
        return structs.replace(self._account(name), secret=None if body.password else "made up")

    async def disable(self, identity: Identity, name: str, *, disabled: bool, request: str = "") -> wire.Account:
        self.saw("disable", name, disabled)
        return structs.replace(self._account(name), disabled_at=AT if disabled else None)

    async def end_sessions(self, identity: Identity, name: str, *, request: str = "") -> wire.SessionsEnded:
        self.saw("end_sessions", name)
        return wire.SessionsEnded(ended=2)


class SmallChanges:
    async def events(self, identity: Identity, *, after: int) -> AsyncIterator[wire.Changed | wire.ChangesReset]:
        """One change after event 7, and what cannot be told after event 8."""
        yield wire.Changed(id=7, nouns={} if after else {"runs": ["run-1"], "audit": None})
        yield wire.ChangesReset(id=8)


class SmallAccess(Room):
    """The secret is `mvr_<role>`; the local socket knows only the uid it was made with."""

    def __init__(self, *, known_uid: int | None = None, project: str = "demo") -> None:
        super().__init__()
        self._known_uid = known_uid
        self._project = project
        self.sessions = SmallSessions(project)
        self.accounts = SmallAccounts()
        self.provider: Any = None
        self.over: set[str] = set()

    async def standing(self, held: Sequence[Identity]) -> list[bool]:
        return [one.role not in self.over for one in held]

    async def authenticate(self, secret: str) -> Identity:
        role = secret.removeprefix("mvr_")
        if role not in ROLES:
            raise Unauthenticated("the token is unknown, expired or revoked")
        return Identity(actor=f"a-{role}", role=role, project=self._project, token_id=f"token-{role}")  # type: ignore[arg-type]

    def peer(self, *, uid: int, gid: int) -> Identity:
        if uid != self._known_uid:
            raise Unauthenticated("this user of the local socket needs a token")
        return Identity(actor=f"uid:{uid}", role="admin", project=self._project, posix_uid=uid, posix_gid=gid)

    async def at(self, identity: Identity, project: str) -> Identity:
        if identity.kind != "machine":
            raise NotFound("no such project")
        return structs.replace(identity, project=project)

    async def acting(self, identity: Identity, uid: int) -> Identity:
        return structs.replace(identity, actor=f"{identity.actor} for uid:{uid}", posix_uid=uid)

    async def make_token(self, identity: Identity, body: wire.TokenRequest, *, request: str = "") -> wire.Token:
        return wire.Token(id="token-1", actor=body.actor, role=body.role, secret="mvr_secret", scopes=body.scopes)

    async def make_own(self, identity: Identity, body: wire.OwnTokenRequest, *, request: str = "") -> wire.Token:
        return wire.Token(id="token-1", actor=f"{identity.actor}/{body.label}", role=identity.role, secret="mvr_secret")

    async def list_tokens(self, project: str, *, account: str | None = None) -> wire.Tokens:
        return wire.Tokens(tokens=[wire.Token(id="token-1", actor="a", role="viewer")])

    async def revoke(
        self, identity: Identity, token_id: str, *, account: str | None = None, request: str = ""
    ) -> wire.Token:
        return wire.Token(id=token_id, actor="a", role="viewer", revoked_at=AT)


async def small_tiers() -> wire.Tiers:
    tier = wire.Tier(name="flash", kind="posix", zone="deidentified", role="flash", online=True, free_bytes=5 << 30)
    return wire.Tiers(tiers=[tier])


class SmallPolicies(Room):
    told = wire.PolicyChange(
        id="change-1", node="n1", name="stage", kind="stage", state="asked", base="0" * 64, digest="1" * 64,
        text="kind: stage\n", risks=["to: another tier"], reason="a larger flash", requested_by="ann",
        requested_at=AT, lapses_at=AT,
    )  # fmt: skip

    async def all(self) -> wire.Policies:
        view = wire.PolicyView(name="stage", kind="stage", digest="0" * 64, text="kind: stage\n")
        return wire.Policies(policies=[view])

    async def schema(self) -> wire.PolicySchema:
        return wire.PolicySchema(document={"title": "A policy of the mover"})

    async def check(self, body: wire.PolicyCheckRequest) -> wire.PolicyChecked:
        mistake = wire.PolicyMistake(line=1, column=1, what="`name` is missing")
        return wire.PolicyChecked(mistakes=[mistake], kind="stage", value={"kind": "stage"})

    async def view(self, project: str, name: str) -> wire.PolicyDetail:
        if name == "stage-two":
            raise NotFound(f"there is no policy {name}", where=name)
        return wire.PolicyDetail(
            name=name, kind="stage", digest="0" * 64, followed="0" * 64, text="kind: stage\n", file="stage.yaml",
            value={"kind": "stage"}, holds=["to: flash → flash-two"], waiting=[self.told],
            nodes=[wire.PolicyStand(node="n1", digest="0" * 64, at=AT)],
        )  # fmt: skip

    async def versions(self, name: str, after: str | None, limit: int) -> wire.PolicyVersionPage:
        one = wire.PolicyVersion(
            id="2", node="n1", digest="0" * 64, at=AT, text="kind: stage\n", diff=["+kind: stage"], change="change-0",
            changed_by="ann", reason="the first",
        )  # fmt: skip
        return wire.PolicyVersionPage(versions=[one])

    async def plan(self, identity: Identity, name: str, text: str | None, digest: str | None) -> wire.Plan:
        self.saw("plan", name, text, digest)
        return PLAN

    async def change(
        self, identity: Identity, name: str, text: str | None, digest: str | None, reason: str
    ) -> wire.PolicyChange:
        self.saw("change", name, text, digest, reason)
        return self.told

    async def changes(
        self, project: str, name: str | None, waiting: bool, after: str | None, limit: int
    ) -> wire.PolicyChangePage:
        return wire.PolicyChangePage(changes=[self.told], next="change-1")

    async def view_change(self, project: str, change: str) -> wire.PolicyChange:
        return self.told

    async def approve(self, identity: Identity, change: str) -> wire.PolicyChange:
        self.saw("approve", change)
        return structs.replace(self.told, state="applied", approved_by=identity.actor, applied_at=AT)

    async def withdraw(self, identity: Identity, change: str) -> wire.PolicyChange:
        self.saw("withdraw", change)
        return structs.replace(self.told, state="refused", explanation="the file was changed meanwhile")


async def small_status(identity: Identity) -> wire.Status:
    return wire.Status(
        version="0", node="n", project=identity.project, actor=identity.actor, role=identity.role,
        database="18.6", shards={"waiting": 0}, tiers=[], last=[wire.LastTime(what="dump")],
        moving=[wire.OnItsWay(
            noun="run", id="run-1", state="staging", done=1 << 30, total=4 << 30, unit="bytes", until=AT,
        )],
    )  # fmt: skip


async def small_reload(project: str, *, by: str, request: str = "") -> wire.Reload:
    return wire.Reload(taken=["tier nas"], restart=["workers"], refused=[])


async def healthy() -> None:
    return None


class SmallAlarms(Room):
    async def page(self, project: str, *, standing: bool, after: str | None, limit: int) -> wire.AlarmPage:
        telling = wire.AlarmTelling(receiver="night", event="opened", at=AT, told_at=AT, attempts=1)
        made = wire.Alarm(
            id="alarm-1", code="batch-failed", severity="now", noun="batch", words="a batch failed", hint="Read why.",
            count=1, opened_at=AT, tellings=[telling],
        )  # fmt: skip
        return wire.AlarmPage(alarms=[made])

    async def test(self, project: str, receiver: str) -> wire.AlarmTest:
        self.saw("test", receiver)
        return wire.AlarmTest(receiver=receiver, told=True)


class SmallOversight(Room):
    async def needs(self, identity: Identity) -> wire.Needs:
        return wire.Needs(needs=[wire.Need(
            code="packs-quarantined", severity="soon", noun="quarantine", words="2 packs wait in quarantine",
            hint="Decide by cause.", count=2, since=AT,
        )])  # fmt: skip

    async def pace(self, minutes: int) -> wire.Paces:
        self.saw("pace", minutes)
        pair = wire.PairPace(source="archive", target="flash", bytes_s=[0.0, 2048.0])
        return wire.Paces(step_s=30, at=[AT, AT], pairs=[pair])

    async def levels(self, days: int) -> wire.Levels:
        self.saw("levels", days)
        filling = wire.Filling(rate_bytes_s=10.0, likely_s=864_000.0, early_s=432_000.0, late_s=None)
        return wire.Levels(tiers=[
            wire.TierLevels(tier="flash", capacity_bytes=100, at=[AT, AT], used_bytes=[10, 20], forecast=filling),
            wire.TierLevels(tier="protect", capacity_bytes=100, at=[AT], used_bytes=[10]),
            wire.TierLevels(tier="x", capacity_bytes=100, at=[AT], used_bytes=[10]),
        ])  # fmt: skip

    async def shards(
        self, project: str, *, subject: str | None, kind: str | None, state: str | None, after: str | None, limit: int
    ) -> wire.ShardPage:
        self.saw("shards", project, subject, kind, state, after, limit)
        return wire.ShardPage(shards=[wire.Shard(
            id="shard-1", queue="tier-flash", kind="run-stage", subject="run-1", state="running", priority=0, members=3,
            claims=1, failures=0, holder="n1-all", created_at=AT, bytes=10, done_bytes=4,
        )])  # fmt: skip


    async def nodes(self, project: str) -> wire.Nodes:
        return wire.Nodes(nodes=[wire.Node(id="n1-all", version="1", started_at=AT, seen_at=AT, shards=2)])

    async def usage(self, project: str, tier: str, /, *, folder: str) -> wire.Usage:
        self.saw("usage", project, tier, folder)
        return wire.Usage(
            tier=tier, folder=folder, count=2, bytes=30, whole=True, sizes=[10], ages_s=[60],
            folders=[wire.UsageFolder(name="data/", count=1, bytes=20, age_s=5.0),
                     wire.UsageFolder(name=None, count=1, bytes=10, age_s=70.0)],
            cells=[wire.UsageCell(size=1, age=0, count=2, bytes=30)],
        )  # fmt: skip

    async def duplicates(self, project: str, tier: str, /, *, after: str | None, limit: int) -> wire.DuplicatePage:
        self.saw("duplicates", project, tier, after, limit)
        return wire.DuplicatePage(duplicates=[
            wire.Duplicate(digest="0" * 64, count=2, bytes=10, spare_bytes=10, keys=["data/a", "data/b"]),
        ])  # fmt: skip


    async def cold(
        self, project: str, tier: str, /, *, by: str, older_s: int, folder: str, after: str | None, limit: int
    ) -> wire.ColdPage:
        self.saw("cold", project, tier, by, older_s, folder, after, limit)
        items = [
            wire.ColdItem(name="runs/", count=3, bytes=30, used_at=AT, how="staged"),
            wire.ColdItem(name=None, count=1, bytes=10, used_at=AT, how="written"),
        ]
        of = {"tier": tier, "by": by, "folder": folder, "older_s": older_s}
        return wire.ColdPage(**of, items=items, next="n", whole=False)  # type: ignore[arg-type]

    async def ages(self, project: str) -> wire.TierAges:
        return wire.TierAges(ages_s=[86_400, 180 * 86_400], tiers=[wire.TierAge(
            tier="flash", count=2, bytes=30, oldest_s=2e7, median_s=86_400.0,
            by_age=[wire.AgeBytes(age=2, count=2, bytes=30)], whole=False,
        )])  # fmt: skip


TAG_CHANGE = wire.TagChange(
    id="change-1", tag="look-again", action="add", chosen="a list", count=2, bytes=30, reason="", created_by="ann",
    created_at=AT,
)  # fmt: skip


class SmallTags(Room):
    async def list(self, project: str) -> wire.Tags:
        return wire.Tags(tags=[wire.TagUse(tag="look-again", slides=2, bytes=30, changed_at=AT)])

    async def changes(self, project: str, *, tag: str | None, after: str | None, limit: int) -> wire.TagChangePage:
        self.saw("changes", project, tag, after, limit)
        return wire.TagChangePage(changes=[TAG_CHANGE], next="change-1")

    async def plan_change(self, identity: Identity, body: wire.TagChangeRequest) -> wire.Plan:
        self.saw("plan_change", identity.project, body)
        return PLAN

    async def change(self, identity: Identity, body: wire.TagChangeRequest, *, request: str = "") -> wire.TagChange:
        self.saw("change", identity.project, body)
        return TAG_CHANGE

    async def plan_undo(self, project: str, id: str) -> wire.Plan:
        self.saw("plan_undo", project, id)
        return PLAN

    async def undo(self, identity: Identity, id: str, *, request: str = "") -> wire.TagChange:
        self.saw("undo", identity.project, id)
        return structs.replace(TAG_CHANGE, count=0, undoes=id)


def small_rooms() -> Rooms:
    return Rooms(
        batches=SmallBatches(),
        quarantine=SmallQuarantine(),
        adoptions=SmallAdoptions(),
        rulings=SmallRulings(),
        scans=SmallScans(),
        viewing=SmallViewing(),
        records=SmallRecords(),
        certificates=SmallCertificates(),
        cohorts=SmallCohorts(),
        runs=SmallRuns(),
        rebuild=SmallRebuild(),
        archives=SmallArchives(),
        folders=SmallFolders(),
        snapshots=SmallSnapshots(),
        restores=SmallRestores(),
        versions=SmallVersions(),
        retention=SmallRetention(),
        holds=SmallHolds(),
        shortenings=SmallShortenings(),
        turns=SmallTurns(),
        keys=SmallKeys(),
        upkeep=SmallUpkeep(),
        protection=SmallProtection(),
        transfers=SmallTransfers(),
        verifications=SmallVerifications(),
        vault=SmallVault(),
        dumps=SmallDumps(),
        audit=SmallAudit(),
        answers=SmallAnswers(),
        oversight=SmallOversight(),
        tags=SmallTags(),
        changes=SmallChanges(),
        alarms=SmallAlarms(),
        tiers=small_tiers,
        policies=SmallPolicies(),
        status=small_status,
        reload=small_reload,
        health=healthy,
    )
