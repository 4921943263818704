"""The API's nouns as methods. Each answers with the wire type its route names; with `plan`, see the `plan_…`
twin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar

from msgspec import structs

from mover.errors import Conflict, LimitExceeded, MoverError, NotFound, StillWorking
from mover.model import wire
from mover.sdk.events import run_events
from mover.sdk.rootcheck import Checked, check
from mover.sdk.transport import Ask, Transport

# how long one long poll lasts: short when a person watches the counts move
POLL_S = 30.0
WATCHED_POLL_S = 1.0
POLL_SLACK_S = 30.0
# three of these are the shortest lease
KEEP_EVERY_S = 20.0


class Stateful(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def state(self) -> Any: ...


# in a class that has a method `list`, the word means that method
PackIds = list[str]
NamesByPack = dict[str, list[str]]
ColumnList = list[wire.Column]
TagUses = list[wire.TagUse]

S = TypeVar("S", bound=Stateful)
Progress = Callable[[Any], None]


class Noun:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def _get(self, path: str, answer: Any, /, *, timeout_s: float = 60.0, **query: Any) -> Any:
        ask = Ask("GET", path, query=query, repeatable=True, timeout_s=timeout_s)
        return await self._transport.send(ask, answer)

    async def _view(self, path: str, answer: Any, wait: float, state: str | None) -> Any:
        return await self._get(path, answer, timeout_s=wait + POLL_SLACK_S, wait=wait or None, state=state)

    async def _plan(self, path: str, body: Any = None) -> wire.Plan:
        return await self._transport.send(
            Ask("POST", path, query={"plan": True}, body=body, repeatable=True), wire.Plan
        )


async def wait_until(
    look: Callable[[float, str | None], Awaitable[S]],
    until: frozenset[str],
    *,
    progress: Progress | None = None,
    timeout_s: float | None = None,
) -> S:
    """Looks until the state is one of `until`; `progress` is called with everything seen on the way, from the
    loop's own thread. StillWorking when `timeout_s` is over."""
    seen: S | None = None
    try:
        async with asyncio.timeout(timeout_s):
            seen = await look(0, None)
            while True:
                if progress is not None:
                    progress(seen)
                if seen.state in until:
                    return seen
                seen = await look(POLL_S if progress is None else WATCHED_POLL_S, seen.state)
    except TimeoutError:
        where = f"{seen.id} is {seen.state}" if seen is not None else ""
        raise StillWorking(f"not done after {timeout_s:g} s", where=where) from None


class Batches(Noun):
    FINAL = frozenset({"complete", "failed"})

    async def declare(self, body: wire.BatchRequest) -> wire.Batch:
        """The same folder again is the same batch, so this may be repeated."""
        return await self._transport.send(Ask("POST", "/v1/batches", body=body, repeatable=True), wire.Batch)

    async def plan_declare(self, body: wire.BatchRequest) -> wire.Plan:
        return await self._plan("/v1/batches", body)

    async def list(self, *, after: str | None = None, limit: int = 100) -> wire.BatchPage:
        return await self._get("/v1/batches", wire.BatchPage, after=after, limit=limit)

    async def view(self, id: str, *, wait: float = 0, state: str | None = None) -> wire.Batch:
        return await self._view(f"/v1/batches/{id}", wire.Batch, wait, state)

    async def wait(self, id: str, *, progress: Progress | None = None, timeout_s: float | None = None) -> wire.Batch:
        return await wait_until(
            lambda wait, state: self.view(id, wait=wait, state=state), self.FINAL,
            progress=progress, timeout_s=timeout_s,
        )  # fmt: skip

    async def packs(
        self, id: str, *, state: str | None = None, after: str | None = None, limit: int = 100
    ) -> wire.PackPage:
        return await self._get(f"/v1/batches/{id}/packs", wire.PackPage, state=state, after=after, limit=limit)

    async def certificate(self, id: str) -> str:
        """As it was signed, byte for byte."""
        return await self._get(f"/v1/batches/{id}/certificate", str, timeout_s=600.0)

    async def reveal(self, packs: PackIds, *, purpose: str) -> NamesByPack:
        """Original names by pack id. Each call is an audit record, so it is never repeated by itself."""
        body = wire.RevealRequest(packs=packs, purpose=purpose)
        return (await self._transport.send(Ask("POST", "/v1/reveal", body=body), wire.Revealed)).names


class Quarantine(Noun):
    """What waits for a person, by cause, and the decisions about it."""

    async def list(self, *, batch: str | None = None) -> wire.QuarantineCauses:
        return await self._get("/v1/quarantine", wire.QuarantineCauses, batch=batch)

    async def view(self, cause: str, *, after: str | None = None, limit: int = 100) -> wire.QuarantineCause:
        return await self._get(f"/v1/quarantine/{cause}", wire.QuarantineCause, after=after, limit=limit)

    async def decide(
        self, cause: str, action: Any, *, reason: str, packs: PackIds | None = None, standing: bool | None = None
    ) -> wire.QuarantineDecision:
        """About everything that waits for the cause, or the packs given. Never repeated by itself: a second decision
        is another one."""
        body = wire.QuarantineDecisionRequest(action=action, reason=reason, packs=packs, standing=standing)
        ask = Ask("POST", f"/v1/quarantine/{cause}/decisions", body=body)
        return await self._transport.send(ask, wire.QuarantineDecision)

    async def plan_decide(
        self, cause: str, action: Any, *, reason: str, packs: PackIds | None = None, standing: bool | None = None
    ) -> wire.Plan:
        body = wire.QuarantineDecisionRequest(action=action, reason=reason, packs=packs, standing=standing)
        return await self._plan(f"/v1/quarantine/{cause}/decisions", body)

    async def draft(self, cause: str, *, column: str | None = None) -> wire.QuarantineDraft:
        """The text of the policy that would list what is not listed; `policies.change` saves it."""
        ask = Ask("POST", f"/v1/quarantine/{cause}/draft", body=wire.QuarantineDraftRequest(column=column))
        return await self._transport.send(ask, wire.QuarantineDraft)

    async def proposals(self, *, open: bool = False) -> wire.QuarantineProposals:
        return await self._get("/v1/quarantine-proposals", wire.QuarantineProposals, open=open or None)

    async def review(self, id: str, decision: Any, *, reason: str) -> wire.QuarantineDecision:
        """`confirm` or `decline` what another person proposed. The same word again is the same."""
        body = wire.QuarantineReview(decision=decision, reason=reason)
        ask = Ask("POST", f"/v1/quarantine-proposals/{id}/review", body=body)
        return await self._transport.send(ask, wire.QuarantineDecision)

    async def rules(self, *, standing: bool = False) -> wire.QuarantineRules:
        return await self._get("/v1/quarantine-rules", wire.QuarantineRules, standing=standing or None)

    async def revoke(self, rule: str, *, reason: str) -> wire.QuarantineRule:
        ask = Ask("POST", f"/v1/quarantine-rules/{rule}/revoke", body=wire.QuarantineRevokeRequest(reason=reason))
        return await self._transport.send(ask, wire.QuarantineRule)


class Vault(Noun):
    """For custodians. Each of these is an audit record, so none but the look at the state is repeated by itself."""

    async def status(self) -> wire.VaultStatus:
        return await self._get("/v1/vault", wire.VaultStatus)

    async def reveal(self, body: wire.VaultRevealRequest) -> wire.VaultCopies:
        """Sealed copies; only both key files open them."""
        return await self._transport.send(Ask("POST", "/v1/vault/reveal", body=body), wire.VaultCopies)

    async def export(self, body: wire.VaultExportRequest) -> wire.VaultCopies:
        return await self._transport.send(Ask("POST", "/v1/vault/export", body=body), wire.VaultCopies)

    async def erase(self, body: wire.VaultEraseRequest, *, plan: bool = False) -> wire.VaultErased:
        ask = Ask("POST", "/v1/vault/erase", query={"plan": True} if plan else {}, body=body, timeout_s=None)
        return await self._transport.send(ask, wire.VaultErased)

    async def import_rows(self, body: wire.VaultImportRequest, *, plan: bool = False) -> wire.VaultImported:
        ask = Ask("POST", "/v1/vault/import", query={"plan": True} if plan else {}, body=body)
        return await self._transport.send(ask, wire.VaultImported)


class Dumps(Noun):
    """Sealed dumps of vault and catalog, and drills of them."""

    FINAL = frozenset({"verified", "failed", "damaged", "gone"})

    async def make(self, body: wire.DumpRequest) -> wire.Dump:
        """One that is being made is that one, so this may be repeated."""
        return await self._transport.send(Ask("POST", "/v1/dumps", body=body, repeatable=True), wire.Dump)

    async def list(self) -> wire.Dumps:
        return await self._get("/v1/dumps", wire.Dumps)

    async def view(self, id: str, *, wait: float = 0, state: str | None = None) -> wire.Dump:
        return await self._view(f"/v1/dumps/{id}", wire.Dump, wait, state)

    async def drill(self, id: str) -> wire.Dump:
        """The daemon reads both copies; with both key files at hand it restores one and compares."""
        return await self._transport.send(Ask("POST", f"/v1/dumps/{id}/drill"), wire.Dump)

    async def wait(
        self, id: str, *, progress: Progress | None = None, timeout_s: float | None = None
    ) -> wire.Dump:
        return await wait_until(
            lambda wait, state: self.view(id, wait=wait, state=state), self.FINAL,
            progress=progress, timeout_s=timeout_s,
        )  # fmt: skip


class Rulings(Noun):
    """What two people decide about withdrawn slides."""

    FINAL = frozenset({"done", "declined", "failed"})

    async def ask(self, number: str, action: Any, *, reason: str) -> wire.Ruling:
        """Never repeated by itself: one open question about a slide."""
        body = wire.RulingRequest(action=action, reason=reason)
        return await self._transport.send(Ask("POST", f"/v1/slides/{number}/rulings", body=body), wire.Ruling)

    async def decide(self, id: str, decision: Any, *, reason: str, manifests: int = 0) -> wire.Ruling:
        """`manifests`: as many kept ones as are known to break by a removal."""
        body = wire.RulingDecision(decision=decision, reason=reason, manifests=manifests)
        return await self._transport.send(Ask("POST", f"/v1/rulings/{id}/decide", body=body), wire.Ruling)

    async def list(
        self, *, open: bool = False, number: str | None = None, after: str | None = None, limit: int = 100
    ) -> wire.RulingPage:
        return await self._get(
            "/v1/rulings", wire.RulingPage, open=open or None, number=number, after=after, limit=limit
        )

    async def view(self, id: str, *, wait: float = 0, state: str | None = None) -> wire.Ruling:
        return await self._view(f"/v1/rulings/{id}", wire.Ruling, wait, state)

    async def wait(
        self, id: str, *, progress: Progress | None = None, timeout_s: float | None = None
    ) -> wire.Ruling:
        return await wait_until(
            lambda wait, state: self.view(id, wait=wait, state=state), self.FINAL,
            progress=progress, timeout_s=timeout_s,
        )  # fmt: skip


class Adoptions(Noun):
    """Scans of what claims to be clean, and the slides of it."""

    FINAL = frozenset({"scanned", "complete", "failed"})

    async def request(
        self, tier: str, *, reason: str, prefix: str = "", trust_names: bool = False, register: bool = True
    ) -> wire.Adoption:
        """A place that is being scanned is not scanned twice, so this may be repeated. Without `register` it ends with
        the verdicts."""
        body = wire.AdoptionRequest(
            tier=tier, reason=reason, prefix=prefix, trust_names=trust_names, register=register
        )
        return await self._transport.send(Ask("POST", "/v1/adoptions", body=body, repeatable=True), wire.Adoption)

    async def register(self, id: str, *, reason: str) -> wire.Adoption:
        """What is clean by the verdicts that were seen; what is registered already stays so."""
        ask = Ask("POST", f"/v1/adoptions/{id}/register", body=wire.AdoptionRegister(reason=reason), repeatable=True)
        return await self._transport.send(ask, wire.Adoption)

    async def list(self, *, after: str | None = None, limit: int = 100) -> wire.AdoptionPage:
        return await self._get("/v1/adoptions", wire.AdoptionPage, after=after, limit=limit)

    async def view(self, id: str, *, wait: float = 0, state: str | None = None) -> wire.Adoption:
        return await self._view(f"/v1/adoptions/{id}", wire.Adoption, wait, state)

    async def wait(
        self, id: str, *, progress: Progress | None = None, timeout_s: float | None = None
    ) -> wire.Adoption:
        return await wait_until(
            lambda wait, state: self.view(id, wait=wait, state=state), self.FINAL,
            progress=progress, timeout_s=timeout_s,
        )  # fmt: skip

    async def report(self, id: str, write: Callable[[bytes], object]) -> int:
        """Every file with its verdict, handed to `write` piece by piece; returns how many bytes."""
        written = 0
        async for piece in self._transport.stream(Ask("GET", f"/v1/adoptions/{id}/report", timeout_s=None)):
            write(piece)
            written += len(piece)
        return written


class Scans(Noun):
    FINAL = frozenset({"complete", "caught-up", "incomplete", "failed"})

    async def declare(self, body: wire.ScanRequest) -> wire.Scan:
        """A place that is being scanned is not scanned twice, so this may be repeated."""
        return await self._transport.send(Ask("POST", "/v1/scans", body=body, repeatable=True), wire.Scan)

    async def list(self, *, tier: str | None = None, after: str | None = None, limit: int = 100) -> wire.ScanPage:
        return await self._get("/v1/scans", wire.ScanPage, tier=tier, after=after, limit=limit)

    async def view(self, id: str, *, wait: float = 0, state: str | None = None) -> wire.Scan:
        return await self._view(f"/v1/scans/{id}", wire.Scan, wait, state)

    async def wait(self, id: str, *, progress: Progress | None = None, timeout_s: float | None = None) -> wire.Scan:
        return await wait_until(
            lambda wait, state: self.view(id, wait=wait, state=state), self.FINAL,
            progress=progress, timeout_s=timeout_s,
        )  # fmt: skip

    async def findings(self, id: str, *, after: str | None = None, limit: int = 100) -> wire.ScanFindingPage:
        return await self._get(f"/v1/scans/{id}/findings", wire.ScanFindingPage, after=after, limit=limit)


class Slides(Noun):
    async def list(
        self,
        *,
        batch: str | None = None,
        family: str | None = None,
        state: wire.SlideState | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        tag: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> wire.SlidePage:
        """By number. `since`, `until`: when they were published."""
        return await self._get(
            "/v1/slides", wire.SlidePage, batch=batch, family=family, state=state,
            since=since and since.isoformat(), until=until and until.isoformat(), tag=tag, after=after, limit=limit,
        )  # fmt: skip

    async def view(self, number: str) -> wire.Slide:
        return await self._get(f"/v1/slides/{number}", wire.Slide)

    async def evidence(self, number: str) -> wire.SlideEvidence:
        """Before and after, masked: what was removed, changed and kept, what was looked for, what is proved."""
        return await self._get(f"/v1/slides/{number}/evidence", wire.SlideEvidence)

    async def thumbnail(self, number: str) -> wire.SlideThumbnail:
        return await self._get(f"/v1/slides/{number}/thumbnail", wire.SlideThumbnail)

    async def levels(self, number: str) -> wire.SlideView:
        """The levels that tiles are asked of. StillWorking while the slide is brought from an object tier."""
        return await self._get(f"/v1/slides/{number}/view", wire.SlideView)

    async def tile(self, number: str, level: int, column: int, row: int) -> bytes:
        """One tile as a JPEG."""
        return await self._get(f"/v1/slides/{number}/view/{level}/{column}_{row}", bytes)

    async def region(
        self, number: str, *, x: int = 0, y: int = 0, width: int | None = None, height: int | None = None,
        edge_px: int = 1024, patience_s: float = 0,
    ) -> bytes:  # fmt: skip
        """A part of the slide, or all of it, as a JPEG; in pixels of its full size. For `patience_s` it is asked again
        while the slide is brought from an object tier; then StillWorking."""
        asked: dict[str, Any] = {"x": x or None, "y": y or None, "width": width, "height": height, "edge_px": edge_px}
        try:
            async with asyncio.timeout(patience_s or None) as patience:
                while True:
                    try:
                        return await self._get(f"/v1/slides/{number}/region", bytes, **asked)
                    except StillWorking:
                        if not patience_s:
                            raise
        except TimeoutError:
            if not patience.expired():
                raise
            raise StillWorking(f"no picture after {patience_s:g} s", where=number) from None


class Records(Noun):
    FINAL = frozenset({"aligned", "quarantined"})

    async def declare(self, body: wire.RecordsRequest) -> wire.RecordSet:
        """The same content again is the same record set, so this may be repeated."""
        return await self._transport.send(Ask("POST", "/v1/records", body=body, repeatable=True), wire.RecordSet)

    async def plan_declare(self, body: wire.RecordsRequest) -> wire.Plan:
        return await self._plan("/v1/records", body)

    async def found(self, purpose: str, *, folder: str = "", policy: str | None = None) -> wire.FoundTables:
        """Files on the source tier that may be tables; the look is on record."""
        body = wire.TablesLook(purpose, folder, policy)
        return await self._transport.send(Ask("POST", "/v1/records/found", body=body), wire.FoundTables)

    async def list(
        self, *, batch: str | None = None, after: str | None = None, limit: int = 100
    ) -> wire.RecordSetPage:
        return await self._get("/v1/records", wire.RecordSetPage, batch=batch, after=after, limit=limit)

    async def view(self, id: str, *, wait: float = 0, state: str | None = None) -> wire.RecordSet:
        return await self._view(f"/v1/records/{id}", wire.RecordSet, wait, state)

    async def wait(
        self, id: str, *, progress: Progress | None = None, timeout_s: float | None = None
    ) -> wire.RecordSet:
        """Conflict where their images do not come: the batch failed, and a person has to say what is right."""

        async def look(wait: float, state: str | None) -> wire.RecordSet:
            seen = await self.view(id, wait=wait, state=state)
            if seen.state == "waiting-for-images" and seen.explanation:
                raise Conflict(
                    f"the tables wait for images that do not come: {seen.explanation}", where=seen.id,
                    hint=f"mover batch show {seen.batch} says why it failed. Declared again (mover batch ready), the "
                    "same batch goes on, and its tables by themselves.",
                )  # fmt: skip
            return seen

        return await wait_until(look, self.FINAL, progress=progress, timeout_s=timeout_s)

    async def ledger(
        self,
        id: str,
        *,
        table: str | None = None,
        state: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> wire.LedgerPage:
        return await self._get(
            f"/v1/records/{id}/ledger", wire.LedgerPage, table=table, state=state, after=after, limit=limit
        )


class Cohorts(Noun):
    async def save(self, name: str, expression: str) -> wire.Cohort:
        """The same name and expression again is the same version."""
        body = wire.CohortRequest(name=name, expression=expression)
        return await self._transport.send(Ask("POST", "/v1/cohorts", body=body, repeatable=True), wire.Cohort)

    async def list(self, *, after: str | None = None, limit: int = 100) -> wire.CohortPage:
        return await self._get("/v1/cohorts", wire.CohortPage, after=after, limit=limit)

    async def get(self, ref: str) -> wire.Cohort:
        return await self._get(f"/v1/cohorts/{ref}", wire.Cohort)

    async def columns(self, *, values: bool = False) -> ColumnList:
        """`values`: also the most frequent values of each, for whoever completes an expression."""
        answer: wire.Columns = await self._get("/v1/columns", wire.Columns, values="true" if values else None)
        return answer.columns

    async def count(self, expression: str) -> wire.Count:
        body = wire.CountRequest(expression=expression)
        return await self._transport.send(Ask("POST", "/v1/cohorts/count", body=body, repeatable=True), wire.Count)

    async def explain(self, expression: str) -> wire.Explanation:
        body = wire.CountRequest(expression=expression)
        ask = Ask("POST", "/v1/cohorts/explain", body=body, repeatable=True)
        return await self._transport.send(ask, wire.Explanation)

    async def describe(self, expression: str | None = None, *, columns: Sequence[str] = ()) -> wire.Description:
        """Counts of values, histograms and missing facts of what the expression selects, or of all slides."""
        body = wire.DescribeRequest(expression=expression, columns=[*columns] or None)
        ask = Ask("POST", "/v1/cohorts/describe", body=body, repeatable=True)
        return await self._transport.send(ask, wire.Description)

    async def freeze(self, ref: str) -> wire.Selection:
        """Again is another selection of the same root, which costs nothing but its row."""
        ask = Ask("POST", f"/v1/cohorts/{ref}/freeze", repeatable=True)
        return await self._transport.send(ask, wire.Selection)

    async def split(
        self,
        ref: str,
        parts: Mapping[str, float],
        *,
        by: str | None = None,
        seed: int = 0,
        unknown_patients: Literal["refuse", "allow"] = "refuse",
    ) -> wire.CohortSplit:
        """Fractions by name. The same seed again is the same slides in other frozen lists, of the same roots."""
        body = wire.SplitRequest(parts={**parts}, by=by, seed=seed, unknown_patients=unknown_patients)
        ask = Ask("POST", f"/v1/cohorts/{ref}/split", body=body, repeatable=True)
        return await self._transport.send(ask, wire.CohortSplit)

    async def selection(self, id: str, *, after: str | None = None, limit: int = 100) -> wire.SelectionPage:
        return await self._get(f"/v1/selections/{id}", wire.SelectionPage, after=after, limit=limit)


def _after(run: wire.Run, event: wire.RunEvent | wire.RunProgress) -> wire.Run:
    """The run as the event tells it; all else as it was last seen."""
    if isinstance(event, wire.RunEvent):
        # what is sealed is staged whole; a small run is so before the first word of its progress
        whole = {"staged_count": run.count, "staged_bytes": run.bytes} if event.state in ("sealed", "ready") else {}
        return structs.replace(run, state=event.state, reason=event.reason, event=event.id, **whole)
    said = {name: getattr(event, name) for name in ("count", "bytes", "staged_count", "staged_bytes")}
    return structs.replace(run, state=event.state, queue=event.queue, estimate=event.estimate, **said)


class Runs(Noun):
    ENDED = frozenset({"cleaned", "refused", "failed", "cancelled"})

    async def request(self, body: wire.RunRequest, *, key: str) -> wire.Run:
        """The same key gives the same run, whatever happened to the connection."""
        return await self._transport.send(Ask("POST", "/v1/runs", body=body, key=key, repeatable=True), wire.Run)

    async def plan_request(self, body: wire.RunRequest) -> wire.Plan:
        return await self._plan("/v1/runs", body)

    async def list(self, *, after: str | None = None, limit: int = 100) -> wire.RunPage:
        return await self._get("/v1/runs", wire.RunPage, after=after, limit=limit)

    async def view(self, id: str, *, wait: float = 0, state: str | None = None) -> wire.Run:
        return await self._view(f"/v1/runs/{id}", wire.Run, wait, state)

    async def wait(
        self,
        id: str,
        *,
        until: frozenset[str] = frozenset({"ready"}),
        progress: Progress | None = None,
        timeout_s: float | None = None,
    ) -> wire.Run:
        """Until one of `until` or an end; look at the state that comes back. Follows the run's events, and falls back
        to long polls where the daemon has no stream to spare."""
        ends = until | self.ENDED
        seen = await self.view(id)
        try:
            async with asyncio.timeout(timeout_s):
                seen = await self._follow(seen, ends, progress)
        except TimeoutError:
            raise StillWorking(f"not done after {timeout_s:g} s", where=id) from None
        except LimitExceeded:
            return await wait_until(
                lambda wait, state: self.view(id, wait=wait, state=state), ends, progress=progress, timeout_s=timeout_s
            )
        return seen

    async def _follow(self, seen: wire.Run, ends: frozenset[str], progress: Progress | None) -> wire.Run:
        if progress is not None:
            progress(seen)
        if seen.state in ends:
            return seen
        async with aclosing(self.events(seen.id, after=seen.event)) as events:
            async for event in events:
                seen = _after(seen, event)
                if progress is not None:
                    progress(seen)
                if seen.state in ends:
                    break
        return await self.view(seen.id)

    async def events(self, id: str, *, after: int = 0) -> AsyncGenerator[wire.RunEvent | wire.RunProgress, None]:
        """Every state after event `after`, then each as it comes, and how far it is in between; until the run's end."""
        async with aclosing(run_events(self._transport, id, after=after)) as events:
            async for event in events:
                yield event

    async def manifest(self, id: str) -> str:
        return await self._get(f"/v1/runs/{id}/manifest", str)

    async def check(self, id: str, *, root: str | None = None, read: bool = False) -> Checked:
        """The run's root as this machine sees it, compared with what was sealed and with the catalog's manifest."""
        seen = await self.view(id)
        if seen.manifest_root is None or seen.root is None:
            raise NotFound("the run has no sealed root", where=id)
        place = root or seen.root
        return await asyncio.to_thread(check, place, read=read, expected_root=seen.manifest_root)

    async def ready(self, id: str, *, after: str | None = None, limit: int = 100) -> wire.StagedPage:
        """What may be read already. Asked again after the page's `cursor` it tells what came since, and misses none."""
        return await self._get(f"/v1/runs/{id}/ready", wire.StagedPage, after=after, limit=limit)

    async def strays(self, id: str, *, after: str | None = None, limit: int = 100) -> wire.StrayPage:
        return await self._get(f"/v1/runs/{id}/strays", wire.StrayPage, after=after, limit=limit)

    async def heartbeat(self, id: str) -> wire.Run:
        return await self._change(id, "heartbeat", None)

    async def keep(self, id: str, *, every_s: float = KEEP_EVERY_S) -> wire.Run:
        """Keep the lease for as long as the run is ready, and then say what it is: whoever finishes or cancels it ends
        this. A daemon that is away is asked again; stop it by cancelling it."""
        while True:
            try:
                await self.heartbeat(id)
            except Conflict:
                return await self.view(id)
            except MoverError as error:
                if error.retry != "later":
                    raise
            await asyncio.sleep(every_s)

    async def finish(self, id: str, body: wire.FinishRequest | None = None) -> wire.Run:
        return await self._change(id, "finish", body or wire.FinishRequest())

    async def plan_finish(self, id: str, body: wire.FinishRequest | None = None) -> wire.Plan:
        return await self._plan(f"/v1/runs/{id}/finish", body or wire.FinishRequest())

    async def clean(self, id: str) -> wire.Run:
        return await self._change(id, "clean", None)

    async def plan_clean(self, id: str) -> wire.Plan:
        return await self._plan(f"/v1/runs/{id}/clean")

    async def cancel(self, id: str) -> wire.Run:
        return await self._change(id, "cancel", None)

    async def _change(self, id: str, verb: str, body: Any) -> wire.Run:
        """A run's lifecycle refuses what does not follow; only keeping the lease is repeated unasked."""
        ask = Ask("POST", f"/v1/runs/{id}/{verb}", body=body, repeatable=verb == "heartbeat")
        return await self._transport.send(ask, wire.Run)


class Transfers(Noun):
    """`ENDED` are final; `waiting` (for approval) and `paused` last until somebody says a word."""

    ENDED = frozenset({"done", "incomplete", "refused", "failed", "aborted"})
    RESTING = frozenset({"waiting", "paused"})

    async def request(self, body: wire.TransferRequest, *, key: str) -> wire.Transfer:
        """The same key gives the same transfer, whatever happened to the connection."""
        ask = Ask("POST", "/v1/transfers", body=body, key=key, repeatable=True)
        return await self._transport.send(ask, wire.Transfer)

    async def plan_request(self, body: wire.TransferRequest) -> wire.Plan:
        """Lists what is asked for, which takes what it takes."""
        ask = Ask("POST", "/v1/transfers", query={"plan": True}, body=body, repeatable=True, timeout_s=None)
        return await self._transport.send(ask, wire.Plan)

    async def list(self, *, after: str | None = None, limit: int = 100) -> wire.TransferPage:
        return await self._get("/v1/transfers", wire.TransferPage, after=after, limit=limit)

    async def view(self, id: str, *, wait: float = 0, state: str | None = None) -> wire.Transfer:
        return await self._view(f"/v1/transfers/{id}", wire.Transfer, wait, state)

    async def wait(self, id: str, *, progress: Progress | None = None, timeout_s: float | None = None) -> wire.Transfer:
        """Until an end, or until it rests: look at the state that comes back."""
        return await wait_until(
            lambda wait, state: self.view(id, wait=wait, state=state), self.ENDED | self.RESTING,
            progress=progress, timeout_s=timeout_s,
        )  # fmt: skip

    async def report(self, id: str, write: Callable[[bytes], object], *, format: str = "jsonl") -> int:
        """Every entry with its outcome, handed to `write` piece by piece; returns how many bytes."""
        written = 0
        ask = Ask("GET", f"/v1/transfers/{id}/report", query={"format": format}, timeout_s=None)
        async for piece in self._transport.stream(ask):
            write(piece)
            written += len(piece)
        return written

    async def pause(self, id: str) -> wire.Transfer:
        return await self._change(id, "pause")

    async def resume(self, id: str) -> wire.Transfer:
        return await self._change(id, "resume")

    async def abort(self, id: str) -> wire.Transfer:
        return await self._change(id, "abort")

    async def approve(self, id: str) -> wire.Transfer:
        return await self._change(id, "approve")

    async def restore(self, id: str) -> wire.Transfer:
        return await self._change(id, "restore")

    async def _change(self, id: str, verb: str) -> wire.Transfer:
        """Not repeated unasked: a lost answer is looked up with `view`."""
        return await self._transport.send(Ask("POST", f"/v1/transfers/{id}/{verb}"), wire.Transfer)


class Verifications(Noun):
    ENDED = frozenset({"complete", "failed", "aborted"})

    async def request(self, body: wire.VerificationRequest, *, key: str) -> wire.Verification:
        """The same key gives the same verification, whatever happened to the connection."""
        ask = Ask("POST", "/v1/verifications", body=body, key=key, repeatable=True)
        return await self._transport.send(ask, wire.Verification)

    async def plan_request(self, body: wire.VerificationRequest) -> wire.Plan:
        return await self._plan("/v1/verifications", body)

    async def list(self, *, after: str | None = None, limit: int = 100) -> wire.VerificationPage:
        return await self._get("/v1/verifications", wire.VerificationPage, after=after, limit=limit)

    async def view(self, id: str, *, wait: float = 0, state: str | None = None) -> wire.Verification:
        return await self._view(f"/v1/verifications/{id}", wire.Verification, wait, state)

    async def wait(
        self, id: str, *, progress: Progress | None = None, timeout_s: float | None = None
    ) -> wire.Verification:
        return await wait_until(
            lambda wait, state: self.view(id, wait=wait, state=state), self.ENDED,
            progress=progress, timeout_s=timeout_s,
        )  # fmt: skip

    async def findings(self, id: str, *, after: str | None = None, limit: int = 100) -> wire.FindingPage:
        return await self._get(f"/v1/verifications/{id}/findings", wire.FindingPage, after=after, limit=limit)

    async def report(self, id: str, write: Callable[[bytes], object], *, format: str = "jsonl") -> int:
        """Every entry with what was found, handed to `write` piece by piece; returns how many bytes."""
        written = 0
        ask = Ask("GET", f"/v1/verifications/{id}/report", query={"format": format}, timeout_s=None)
        async for piece in self._transport.stream(ask):
            write(piece)
            written += len(piece)
        return written

    async def abort(self, id: str) -> wire.Verification:
        """Aborting twice is aborting once."""
        ask = Ask("POST", f"/v1/verifications/{id}/abort", repeatable=True)
        return await self._transport.send(ask, wire.Verification)


class Archives(Noun):
    """Second copies and locks of published slides, as archive policies want them."""

    async def list(self) -> list[wire.Archive]:
        page: wire.Archives = await self._get("/v1/archives", wire.Archives)
        return page.archives

    async def keep(self, id: str) -> wire.Archive:
        """Copy and lock what is due now; by the policy's name."""
        return await self._transport.send(Ask("POST", f"/v1/archives/{id}/keep", repeatable=True), wire.Archive)


class Folders(Noun):
    """Plain folders that policies protect."""

    async def list(self) -> list[wire.ProtectedFolder]:
        page: wire.ProtectedFolders = await self._get("/v1/folders", wire.ProtectedFolders)
        return page.folders

    async def protect(self, id: str) -> wire.ProtectedFolder:
        """At the daemon's next turn; asking twice is asking once."""
        ask = Ask("POST", f"/v1/folders/{id}/protect", repeatable=True)
        return await self._transport.send(ask, wire.ProtectedFolder)


class Snapshots(Noun):
    async def list(
        self, *, run: str | None = None, series: str | None = None, tag: str | None = None, state: str | None = None,
        policy: str | None = None, since: datetime | None = None, until: datetime | None = None,
        after: str | None = None, limit: int = 100,
    ) -> wire.SnapshotPage:  # fmt: skip
        """By one of run, series, tag and state (of a policy); recorded from `since` to before `until`."""
        return await self._get(
            "/v1/snapshots", wire.SnapshotPage, run=run, series=series, tag=tag, state=state, policy=policy,
            since=since and since.isoformat(), until=until and until.isoformat(), after=after, limit=limit,
        )  # fmt: skip

    async def view(self, id: str) -> wire.Snapshot:
        return await self._get(f"/v1/snapshots/{id}", wire.Snapshot)

    async def files(
        self, id: str, *, path: str = "/", after: str | None = None, limit: int = 100
    ) -> wire.SnapshotFiles:
        return await self._get(f"/v1/snapshots/{id}/files", wire.SnapshotFiles, path=path, after=after, limit=limit)

    async def forget_plan(self, *, policy: str | None = None) -> wire.Plan:
        return await self._get("/v1/snapshots/forget-plan", wire.Plan, policy=policy)

    async def simulate(self, body: wire.SimulationRequest) -> wire.Simulation:
        ask = Ask("POST", "/v1/snapshots/simulate", body=body, repeatable=True, timeout_s=600)
        return await self._transport.send(ask, wire.Simulation)

    async def hold(self, id: str, *, reason: str, until: datetime | None = None) -> wire.Snapshot:
        """The same hold asked for again is the same hold."""
        body = wire.HoldRequest(reason=reason, until=until)
        ask = Ask("POST", f"/v1/snapshots/{id}/holds", body=body, repeatable=True)
        return await self._transport.send(ask, wire.Snapshot)

    async def untrash(self, id: str, *, reason: str, until: datetime | None = None) -> wire.Snapshot:
        body = wire.HoldRequest(reason=reason, until=until)
        return await self._transport.send(Ask("POST", f"/v1/snapshots/{id}/untrash", body=body), wire.Snapshot)

    async def tag(self, id: str, *, tags: Sequence[str]) -> wire.Snapshot:
        ask = Ask("POST", f"/v1/snapshots/{id}/tags", body=wire.TagRequest(tags=[*tags]), repeatable=True)
        return await self._transport.send(ask, wire.Snapshot)

    async def rebuild(self) -> wire.Rebuilds:
        """Snapshots that the repositories hold and the catalog does not know are recorded again."""
        return await self._transport.send(Ask("POST", "/v1/protection/rebuild", repeatable=True), wire.Rebuilds)

    async def protection(self) -> wire.Protection:
        """What holds, what is doubtful or missing, and what waits for a second person."""
        return await self._get("/v1/protection", wire.Protection)

    async def check(self) -> wire.Check:
        ask = Ask("POST", "/v1/snapshots/check", repeatable=True, timeout_s=None)
        return await self._transport.send(ask, wire.Check)

    async def diff(
        self, id: str, other: str, *, path: str = "/", after: str | None = None, limit: int = 100
    ) -> wire.SnapshotDiff:
        """From this snapshot to the other one."""
        query = {"to": other, "path": path, "after": after, "limit": limit}
        return await self._get(f"/v1/snapshots/{id}/diff", wire.SnapshotDiff, timeout_s=600.0, **query)

    async def versions(
        self, path: str, *, run: str | None = None, series: str | None = None, as_of: datetime | None = None,
        every: bool = False, after: int | None = None, limit: int = 100,
    ) -> wire.VersionPage:  # fmt: skip
        """Newest on record first; without `every` only where the content changed, came or went."""
        at = as_of.isoformat() if as_of is not None else None
        return await self._get(
            "/v1/versions", wire.VersionPage, path=path, run=run, series=series, as_of=at, every=every or None,
            after=after, limit=limit,
        )  # fmt: skip


class Restores(Noun):
    """Jobs: they go on when the caller, or the daemon, goes away."""

    FINAL = frozenset({"complete", "incomplete", "cancelled", "failed"})

    async def request(self, body: wire.RestoreRequest, *, key: str) -> wire.Restore:
        """The same key gives the same restore, whatever happened to the connection."""
        ask = Ask("POST", "/v1/restores", body=body, key=key, repeatable=True)
        return await self._transport.send(ask, wire.Restore)

    async def plan_request(self, body: wire.RestoreRequest) -> wire.Plan:
        """In place it reads what stands there, which takes what it takes."""
        ask = Ask("POST", "/v1/restores", query={"plan": True}, body=body, repeatable=True, timeout_s=None)
        return await self._transport.send(ask, wire.Plan)

    async def list(self, *, after: str | None = None, limit: int = 100) -> wire.RestorePage:
        return await self._get("/v1/restores", wire.RestorePage, after=after, limit=limit)

    async def view(self, id: str, *, wait: float = 0, state: str | None = None) -> wire.Restore:
        return await self._view(f"/v1/restores/{id}", wire.Restore, wait, state)

    async def wait(self, id: str, *, progress: Progress | None = None, timeout_s: float | None = None) -> wire.Restore:
        """Until an end: look at the state that comes back."""
        return await wait_until(
            lambda wait, state: self.view(id, wait=wait, state=state), self.FINAL,
            progress=progress, timeout_s=timeout_s,
        )  # fmt: skip

    async def cancel(self, id: str) -> wire.Restore:
        """Twice is once."""
        return await self._transport.send(Ask("POST", f"/v1/restores/{id}/cancel", repeatable=True), wire.Restore)


class Turns(Noun):
    """Upkeep of a policy's repository, now and not by the clock."""

    FINAL = frozenset({"done", "waiting", "failed"})

    async def request(self, body: wire.TurnRequest) -> wire.ProtectTurn:
        """One that runs already is that one."""
        ask = Ask("POST", "/v1/protection/turns", body=body, repeatable=True)
        return await self._transport.send(ask, wire.ProtectTurn)

    async def plan_request(self, body: wire.TurnRequest) -> wire.Plan:
        """Of a prune it reads the repository's index, which takes what it takes."""
        ask = Ask("POST", "/v1/protection/turns", query={"plan": True}, body=body, repeatable=True, timeout_s=None)
        return await self._transport.send(ask, wire.Plan)

    async def view(self, id: str, *, wait: float = 0, state: str | None = None) -> wire.ProtectTurn:
        return await self._view(f"/v1/protection/turns/{id}", wire.ProtectTurn, wait, state)

    async def wait(
        self, id: str, *, progress: Progress | None = None, timeout_s: float | None = None
    ) -> wire.ProtectTurn:
        """Until an end: look at the state that comes back; `waiting` says for what."""
        return await wait_until(
            lambda wait, state: self.view(id, wait=wait, state=state), self.FINAL,
            progress=progress, timeout_s=timeout_s,
        )  # fmt: skip


class Keys(Noun):
    """Passwords of the policies' repositories. One is removed by two persons: a shortening of kind `remove-key`."""

    async def list_keys(self, *, policy: str | None = None, second: bool = False) -> wire.RepositoryKeys:
        return await self._get("/v1/protection/keys", wire.RepositoryKeys, policy=policy, second=second or None)

    async def add_key(self, body: wire.KeyRequest) -> wire.RepositoryKeys:
        """The password is in a file on the daemon's machine that `name` names."""
        ask = Ask("POST", "/v1/protection/keys", body=body, repeatable=True, timeout_s=None)
        return await self._transport.send(ask, wire.RepositoryKeys)


class Shortenings(Noun):
    """What makes protection shorter: asked by one person, approved by another, after a delay."""

    async def ask(self, body: wire.ShorteningRequest) -> wire.Shortening:
        """Asked again while it is open, it is the same one."""
        return await self._transport.send(Ask("POST", "/v1/shortenings", body=body, repeatable=True), wire.Shortening)

    async def plan_ask(self, body: wire.ShorteningRequest) -> wire.Plan:
        return await self._plan("/v1/shortenings", body)

    async def list(self, *, after: str | None = None, limit: int = 100) -> wire.ShorteningPage:
        return await self._get("/v1/shortenings", wire.ShorteningPage, after=after, limit=limit)

    async def view(self, id: str) -> wire.Shortening:
        return await self._get(f"/v1/shortenings/{id}", wire.Shortening)

    async def approve(self, id: str) -> wire.Shortening:
        """Approving twice is approving once."""
        ask = Ask("POST", f"/v1/shortenings/{id}/approve", repeatable=True)
        return await self._transport.send(ask, wire.Shortening)

    async def withdraw(self, id: str) -> wire.Shortening:
        ask = Ask("POST", f"/v1/shortenings/{id}/withdraw", repeatable=True)
        return await self._transport.send(ask, wire.Shortening)


class Policies(Noun):
    """What people declared: read, checked, changed, agreed on."""

    async def list(self) -> wire.Policies:
        """As they are followed."""
        return await self._get("/v1/policies", wire.Policies)

    async def schema(self) -> wire.PolicySchema:
        return await self._get("/v1/policy-schema", wire.PolicySchema)

    async def check_text(self, typed: wire.PolicyCheckRequest) -> wire.PolicyChecked:
        """Every mistake, and the text as values; nothing is kept."""
        ask = Ask("POST", "/v1/policy-check", body=typed, repeatable=True)
        return await self._transport.send(ask, wire.PolicyChecked)

    async def view(self, name: str) -> wire.PolicyDetail:
        return await self._get(f"/v1/policies/{name}", wire.PolicyDetail)

    async def versions(self, name: str, *, after: str | None = None, limit: int = 100) -> wire.PolicyVersionPage:
        """Newest first, each with what was another before."""
        return await self._get(f"/v1/policies/{name}/versions", wire.PolicyVersionPage, after=after, limit=limit)

    async def change(self, name: str, body: wire.PolicyChangeRequest) -> wire.PolicyChange:
        """`applied` when it acts, `asked` when a second person agrees first. The same again is the same."""
        ask = Ask("POST", f"/v1/policies/{name}", body=body)
        return await self._transport.send(ask, wire.PolicyChange)

    async def plan_change(self, name: str, body: wire.PolicyChangeRequest) -> wire.Plan:
        return await self._plan(f"/v1/policies/{name}", body)

    async def remove(self, name: str, removal: wire.PolicyRemovalRequest) -> wire.PolicyChange:
        ask = Ask("POST", f"/v1/policies/{name}/remove", body=removal)
        return await self._transport.send(ask, wire.PolicyChange)

    async def plan_remove(self, name: str, removal: wire.PolicyRemovalRequest) -> wire.Plan:
        return await self._plan(f"/v1/policies/{name}/remove", removal)

    async def changes(
        self, *, name: str | None = None, waiting: bool = False, after: str | None = None, limit: int = 100
    ) -> wire.PolicyChangePage:
        """Newest first; with `waiting` those that nobody agreed on yet."""
        return await self._get(
            "/v1/policy-changes", wire.PolicyChangePage, name=name, waiting=waiting or None, after=after, limit=limit
        )

    async def view_change(self, id: str) -> wire.PolicyChange:
        return await self._get(f"/v1/policy-changes/{id}", wire.PolicyChange)

    async def approve(self, id: str) -> wire.PolicyChange:
        """Approving twice is approving once."""
        return await self._transport.send(
            Ask("POST", f"/v1/policy-changes/{id}/approve", repeatable=True), wire.PolicyChange
        )

    async def withdraw(self, id: str) -> wire.PolicyChange:
        return await self._transport.send(
            Ask("POST", f"/v1/policy-changes/{id}/withdraw", repeatable=True), wire.PolicyChange
        )


class Plots(Noun):
    """Figures for reports. `drawn` is `format` ("svg" or "png"), `theme` ("light" or "dark"), `width` and `height`."""

    async def get(self, name: str, **asked: Any) -> bytes:
        """Any of them by its name."""
        return await self._get(f"/v1/plots/{name}", bytes, **asked)

    async def fill(self, tier: str, *, days: int = 30, **drawn: Any) -> bytes:
        return await self.get("fill", tier=tier, days=days, **drawn)

    async def pace(
        self, *, source: str | None = None, target: str | None = None, minutes: int = 60, **drawn: Any
    ) -> bytes:
        return await self.get("pace", source=source, target=target, minutes=minutes, **drawn)

    async def treemap(self, tier: str, *, folder: str = "", **drawn: Any) -> bytes:
        return await self.get("treemap", tier=tier, folder=folder or None, **drawn)

    async def ages(self, tier: str, *, folder: str = "", **drawn: Any) -> bytes:
        return await self.get("ages", tier=tier, folder=folder or None, **drawn)

    async def distribution(self, column: str, *, expression: str = "", **drawn: Any) -> bytes:
        return await self.get("distribution", column=column, expression=expression or None, **drawn)

    async def calendar(self, *, policy: str | None = None, **drawn: Any) -> bytes:
        return await self.get("calendar", policy=policy, **drawn)

    async def ledger(self, id: str, **drawn: Any) -> bytes:
        return await self.get("ledger", id=id, **drawn)

    async def run(self, id: str, **drawn: Any) -> bytes:
        return await self.get("run", id=id, **drawn)


class Oversight(Noun):
    """What needs a person, how full and how fast tiers are, and what works."""

    async def needs(self) -> wire.Needs:
        """The most urgent first."""
        return await self._get("/v1/needs", wire.Needs)

    async def alarms(
        self, *, standing: bool = False, after: str | None = None, limit: int = 100
    ) -> wire.AlarmPage:
        """What was told to whom, newest first; with `standing` only what is not over."""
        return await self._get("/v1/alarms", wire.AlarmPage, standing=standing or None, after=after, limit=limit)

    async def try_alarm(self, receiver: str) -> wire.AlarmTest:
        """A test is sent now, each time it is asked for."""
        ask = Ask("POST", "/v1/alarms/test", body=wire.AlarmTestRequest(receiver))
        return await self._transport.send(ask, wire.AlarmTest)

    async def pace(self, *, minutes: int = 60) -> wire.Paces:
        return await self._get("/v1/pace", wire.Paces, minutes=minutes)

    async def nodes(self) -> wire.Nodes:
        return await self._get("/v1/nodes", wire.Nodes)

    async def usage(self, tier: str, *, folder: str = "") -> wire.Usage:
        """What fills it below a folder, as the scans of the project saw it."""
        return await self._get(f"/v1/tiers/{tier}/usage", wire.Usage, folder=folder or None)

    async def duplicates(self, tier: str, *, after: str | None = None, limit: int = 100) -> wire.DuplicatePage:
        """What stands there more than once, the most that could be spared first."""
        return await self._get(f"/v1/tiers/{tier}/duplicates", wire.DuplicatePage, after=after, limit=limit)

    async def cold(
        self, tier: str, *, older_s: int = 180 * 86_400, by: Literal["folder", "slide", "run", "cohort"] = "folder",
        folder: str = "", after: str | None = None, limit: int = 100,
    ) -> wire.ColdPage:  # fmt: skip
        """What nobody used for so long, the longest unused first."""
        return await self._get(
            f"/v1/tiers/{tier}/cold", wire.ColdPage, older=older_s, by=by, folder=folder or None, after=after,
            limit=limit,
        )  # fmt: skip

    async def ages(self) -> wire.TierAges:
        """How long ago what stands on each tier was last used."""
        return await self._get("/v1/ages", wire.TierAges)

    async def levels(self, *, days: int = 30) -> wire.Levels:
        return await self._get("/v1/levels", wire.Levels, days=days)

    async def shards(
        self, *, subject: str | None = None, kind: str | None = None, state: str | None = None,
        after: str | None = None, limit: int = 100,
    ) -> wire.ShardPage:  # fmt: skip
        """The newest first."""
        return await self._get(
            "/v1/shards", wire.ShardPage, subject=subject, kind=kind, state=state, after=after, limit=limit
        )


class Tags(Noun):
    """Words that people put on slides, in changes that can be taken back."""

    async def list(self) -> TagUses:
        """The most frequent first."""
        return (await self._get("/v1/tags", wire.Tags)).tags

    async def changes(
        self, *, tag: str | None = None, after: str | None = None, limit: int = 100
    ) -> wire.TagChangePage:
        """Newest first."""
        return await self._get("/v1/tags/changes", wire.TagChangePage, tag=tag, after=after, limit=limit)

    async def plan_change(self, body: wire.TagChangeRequest) -> wire.Plan:
        return await self._plan("/v1/tags/changes", body)

    async def change(self, body: wire.TagChangeRequest) -> wire.TagChange:
        """The same again changes nothing more."""
        return await self._transport.send(
            Ask("POST", "/v1/tags/changes", body=body, repeatable=True), wire.TagChange
        )

    async def plan_undo(self, id: str) -> wire.Plan:
        return await self._plan(f"/v1/tags/changes/{id}/undo")

    async def undo(self, id: str) -> wire.TagChange:
        """Undone twice is undone once."""
        return await self._transport.send(Ask("POST", f"/v1/tags/changes/{id}/undo", repeatable=True), wire.TagChange)


class Audit(Noun):
    async def page(
        self,
        *,
        subject: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> wire.AuditPage:
        """Newest first; `action` is its first words, `since` and `until` are half open."""
        return await self._get(
            "/v1/audit", wire.AuditPage, subject=subject, actor=actor, action=action,
            since=since.isoformat() if since else None, until=until.isoformat() if until else None,
            after=after, limit=limit,
        )  # fmt: skip

    async def checkpoints(self, *, after: str | None = None, limit: int = 100) -> wire.Checkpoints:
        """Where the chains ended, signed, newest first."""
        return await self._get("/v1/audit/checkpoints", wire.Checkpoints, after=after, limit=limit)

    async def pack(self, run: str, write: Callable[[bytes], object]) -> int:
        """The audit pack of a run, handed to `write` piece by piece; returns how many bytes."""
        return await self._written(Ask("GET", "/v1/audit/pack", query={"run": run}, timeout_s=None), write)

    async def restores(self) -> list[wire.AuditRestore]:
        """What was said of records that a restored catalog lost, newest first."""
        answer: wire.AuditRestores = await self._get("/v1/audit/restores", wire.AuditRestores)
        return answer.restores

    async def ask_restore(self, reason: str) -> wire.AuditRestore:
        """The first person's word, after the catalog was restored from an older dump."""
        ask = Ask("POST", "/v1/audit/restores", body=wire.AuditRestoreRequest(reason), timeout_s=600)
        return await self._transport.send(ask, wire.AuditRestore)

    async def approve_restore(self, id: str) -> wire.AuditRestore:
        ask = Ask("POST", f"/v1/audit/restores/{id}/approve", timeout_s=600)
        return await self._transport.send(ask, wire.AuditRestore)

    async def retirements(self) -> list[wire.AuditRetirement]:
        """Which of the oldest records left the catalog for packs on tiers, or are asked to, newest first."""
        answer: wire.AuditRetirements = await self._get("/v1/audit/retirements", wire.AuditRetirements)
        return answer.retirements

    async def plan_retirement(self, before: datetime, *, reason: str) -> wire.Plan:
        body = wire.AuditRetirementRequest(before, reason)
        ask = Ask("POST", "/v1/audit/retirements", query={"plan": True}, body=body, repeatable=True, timeout_s=600)
        return await self._transport.send(ask, wire.Plan)

    async def ask_retirement(self, before: datetime, *, reason: str) -> wire.AuditRetirement:
        """The first person's word; the pack stands on every tier when this returns."""
        body = wire.AuditRetirementRequest(before, reason)
        ask = Ask("POST", "/v1/audit/retirements", body=body, timeout_s=3600)
        return await self._transport.send(ask, wire.AuditRetirement)

    async def approve_retirement(self, id: str) -> wire.AuditRetirement:
        ask = Ask("POST", f"/v1/audit/retirements/{id}/approve", timeout_s=3600)
        return await self._transport.send(ask, wire.AuditRetirement)

    async def verify(self) -> wire.AuditVerdict:
        return await self._get("/v1/audit/verify", wire.AuditVerdict, timeout_s=600)

    async def export(self, write: Callable[[bytes], object]) -> int:
        """Every chain as JSON lines, as hashed, handed to `write` piece by piece; returns how many bytes."""
        return await self._written(Ask("GET", "/v1/audit/export", timeout_s=None), write)

    async def events(
        self,
        write: Callable[[bytes], object],
        *,
        subject: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> int:
        """The records as FHIR AuditEvents, one to a line, oldest first; returns how many bytes."""
        said = {
            "subject": subject, "actor": actor, "action": action, "since": since.isoformat() if since else None,
            "until": until.isoformat() if until else None,
        }  # fmt: skip
        query = {name: value for name, value in said.items() if value is not None}
        return await self._written(Ask("GET", "/v1/audit/events", query=query, timeout_s=None), write)

    async def _written(self, ask: Ask, write: Callable[[bytes], object]) -> int:
        written = 0
        async for piece in self._transport.stream(ask):
            write(piece)
            written += len(piece)
        return written


class Answers(Noun):
    """What a compliance officer asks."""

    async def questions(self) -> wire.Questions:
        return await self._get("/v1/answers", wire.Questions)

    async def answer(self, question: str, *, about: str | None = None) -> wire.ComplianceAnswer:
        """From the rows as they are now; the question about the log recomputes it."""
        return await self._get(f"/v1/answers/{question}", wire.ComplianceAnswer, about=about, timeout_s=600)


class Accounts(Noun):
    """Of people, in the caller's project."""

    async def make(self, body: wire.AccountRequest) -> wire.Account:
        """Its answer alone holds a password that was made up."""
        return await self._transport.send(Ask("POST", "/v1/accounts", body=body), wire.Account)

    async def list(self) -> list[wire.Account]:
        answer: wire.Accounts = await self._get("/v1/accounts", wire.Accounts)
        return answer.accounts

    async def password(self, name: str, body: wire.PasswordRequest) -> wire.Account:
        """Every session of the account ends."""
        return await self._transport.send(Ask("POST", f"/v1/accounts/{name}/password", body=body), wire.Account)

    async def grant(self, name: str, body: wire.GrantRequest) -> wire.Account:
        ask = Ask("POST", f"/v1/accounts/{name}/grant", body=body, repeatable=True)
        return await self._transport.send(ask, wire.Account)

    async def revoke(self, name: str) -> wire.Account:
        return await self._transport.send(Ask("POST", f"/v1/accounts/{name}/revoke", repeatable=True), wire.Account)

    async def disable(self, name: str) -> wire.Account:
        return await self._transport.send(Ask("POST", f"/v1/accounts/{name}/disable", repeatable=True), wire.Account)

    async def enable(self, name: str) -> wire.Account:
        return await self._transport.send(Ask("POST", f"/v1/accounts/{name}/enable", repeatable=True), wire.Account)

    async def sign_out(self, name: str) -> wire.SessionsEnded:
        """Everywhere; they may sign in again."""
        ask = Ask("DELETE", f"/v1/accounts/{name}/sessions", repeatable=True)
        return await self._transport.send(ask, wire.SessionsEnded)


class Tokens(Noun):
    async def make(self, body: wire.TokenRequest) -> wire.Token:
        """Its answer alone holds the secret; a lost answer leaves a token to revoke, so this is not
        repeated."""
        return await self._transport.send(Ask("POST", "/v1/tokens", body=body), wire.Token)

    async def list(self) -> list[wire.Token]:
        answer: wire.Tokens = await self._get("/v1/tokens", wire.Tokens)
        return answer.tokens

    async def revoke(self, id: str) -> wire.Token:
        return await self._transport.send(Ask("DELETE", f"/v1/tokens/{id}", repeatable=True), wire.Token)
