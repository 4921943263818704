"""Prune: take away what no snapshot needs, in two phases with a grace between (the judgement: `decide.pruning`).

Marks live in the index files themselves, under `packs_to_delete` (see `index`), as rustic keeps them: they survive
a crash, every daemon and every such client sees them, restic reads on as if a marked pack were absent, and may
collect it itself.

Order of durable writes, and what a crash between leaves:

    repack   under a shared lock: packs with copies, then an index file naming them. Copies too many, no loss.
    mark     under the exclusive lock: the new index file, then the old ones it stands for are removed. Between the
             two a pack is both named and marked: then it counts as not marked, and is marked anew.
    sweep    under the exclusive lock: a pack whose mark is old enough goes, then its mark. Between the two stands a
             mark without a pack, which the next rewriting drops. No index file named the pack since its mark.

Nothing is removed unless, under the exclusive lock, a fresh listing of packs, snapshots and index files proves every
blob of every snapshot file present to lie elsewhere; when one is missing altogether, nothing is removed at all. The
exclusive lock is held for about TURN_S at a time, with a pause between for those who wait to snapshot.

Bounds: one index file in memory beside the index; what `carrying` says; `repack_bytes` of copies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from mover.clock import SYSTEM, Clock, monotonic_s, pause
from mover.decide.pruning import PackFacts, PackVerdict, PruneRules, plan_prune
from mover.errors import EntryMissing, RepositoryDamaged, RepositoryLocked, TierDenied
from mover.repository.carrying import Shelf, Wanted, carry
from mover.repository.facts import PruneResult, PruneStep
from mover.repository.index import (
    MAX_FILE_BLOBS,
    PACK_FRAME_BYTES,
    Index,
    IndexDocument,
    IndexedPack,
    IndexFile,
    Location,
    encode_document,
    read_index,
)
from mover.repository.locks import Lock, locked
from mover.repository.needs import BlobKey, Needs
from mover.repository.reader import BlobReader

TURN_S = 5.0
TURN_PAUSE_S = 1.0
# Index files smaller than this are merged once there are so many of them.
SMALL_FILE_BLOBS = MAX_FILE_BLOBS // 2
MERGE_FROM_FILES = 8
NAMED_AT_MOST = 1000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

LoadRoot = Callable[[str], bytes]


class Survey:
    """What stands in the repository and what its snapshots need: fresh at each `refresh`, which loads only what
    came since the last."""

    def __init__(self, shelf: Shelf, load_root: LoadRoot) -> None:
        self._shelf, self._load_root = shelf, load_root
        self.index = Index()
        self.needs = Needs()
        self.sizes: dict[str, int] = {}
        self._seen_snapshots: set[str] = set()
        self._shares: dict[str, float] = {}

    def refresh(self) -> bool:
        """True when anything differs from what was seen before. Packs before snapshots, snapshots before the index:
        a snapshot that is listed is named whole. A snapshot that was forgotten since counts as needed still."""
        files = self._shelf.files
        before = self.sizes, set(self.index.files)
        self.sizes = {found.file_id: found.size_bytes for found in files.ids("data")}
        roots = list(self._new_roots())
        present = {found.file_id for found in files.ids("index")}
        if self.index.lost(present):
            self.index = Index()
        self.index.load_missing(present, files=files, key=self._shelf.key)
        self.needs.add(BlobReader(files, key=self._shelf.key, index=self.index).tree, roots)
        return bool(roots) or before != (self.sizes, set(self.index.files))

    def _new_roots(self) -> Iterator[bytes]:
        for found in list(self._shelf.files.ids("snapshots")):
            if found.file_id in self._seen_snapshots:
                continue
            try:
                yield self._load_root(found.file_id)
            except EntryMissing:
                continue  # forgotten since it was listed
            self._seen_snapshots.add(found.file_id)

    def pack_facts(self) -> list[PackFacts]:
        """RepositoryDamaged when a needed blob is nowhere: then every pack may be the one that somebody needs."""
        used, several = self._used_by_pack()
        for blob in several:
            place = self._home(blob)
            if place is None:
                raise _missing(f"{blob[0]} blob {blob[1].hex()}")
            used[place.pack_id] += place.packed_bytes
        for pack_id in used.keys() - self.sizes.keys():
            raise _missing(f"pack {pack_id}")
        live, marked = self.live(), self.marked()
        facts = []
        for pack_id, size in self.sizes.items():
            state = "live" if pack_id in live else "marked" if pack_id in marked else "stray"
            used_bytes = used[pack_id] + PACK_FRAME_BYTES if used[pack_id] else 0
            facts.append(PackFacts(pack_id, size, used_bytes, state, marked.get(pack_id)))  # type: ignore[arg-type]
        return facts

    def needed_of(self, packs: set[str]) -> list[Wanted]:
        """What must be copied before these packs may be marked."""
        homes = ((blob, self._home(blob)) for blob in self.needs)
        return [(blob, place) for blob, place in homes if place is not None and place.pack_id in packs]

    def live(self) -> set[str]:
        return {pack_id for file in self.index.files.values() for pack_id in file.packs}

    def marked(self) -> dict[str, datetime | None]:
        """By the latest of its marks; a mark without a time counts from the one it is given next."""
        found: dict[str, datetime | None] = {}
        for file in self.index.files.values():
            for pack_id, time_ns in file.marked:
                at = None if time_ns is None else _EPOCH + timedelta(microseconds=time_ns // 1000)
                known = found.setdefault(pack_id, at)
                found[pack_id] = max(known, at) if known and at else None
        return found

    def _used_by_pack(self) -> tuple[Counter[str], list[BlobKey]]:
        """What is needed of each pack and stands nowhere else, and the blobs with several copies, or marked ones only.
        Of several that copy stays that lies in the pack most worth keeping, if all its copies counted as its own: so
        copies gather where they were repacked to."""
        trees, several_trees = self.index.used_by_pack("tree", self.needs.trees)
        data, several_data = self.index.used_by_pack("data", self.needs.data)
        several: list[BlobKey] = [("tree", each) for each in several_trees]
        several += [("data", each) for each in several_data]
        used = Counter(trees)
        used.update(data)
        possible = used.copy()
        for blob in several:
            for place in self.index.find_all(*blob):
                possible[place.pack_id] += place.packed_bytes
        self._shares = {pack_id: count / max(1, self.sizes.get(pack_id, 0)) for pack_id, count in possible.items()}
        return used, several

    def _home(self, blob: BlobKey) -> Location | None:
        kind, blob_id = blob
        places = [place for place in self.index.find_all(kind, blob_id) if place.pack_id in self.sizes]
        if len(places) > 1:
            return max(places, key=lambda place: (self._shares.get(place.pack_id, 0.0), place.pack_id))
        place = places[0] if places else self.index.find_marked(kind, blob_id)
        return place if place is not None and place.pack_id in self.sizes else None


class Prune:
    """One prune; `run` does it and tells what was done."""

    def __init__(
        self,
        shelf: Shelf,
        load_root: LoadRoot,
        *,
        rules: PruneRules,
        now: datetime | None,
        patience_s: float,
        clock: Clock = SYSTEM,
    ) -> None:
        self._shelf, self._rules, self._clock, self._patience_s = shelf, rules, clock, patience_s
        self._survey = Survey(shelf, load_root)
        self._started = (now or clock.now(), monotonic_s())
        self._steps: tuple[PruneStep, ...] = ()
        self._prepared: list[PackVerdict] = []
        self._freed_bytes = self._added_bytes = self._copied = 0
        self._done: Counter[str] = Counter()
        self._damaged: list[BlobKey] = []
        self._denied: set[str] = set()

    def plan(self) -> PruneResult:
        self._prepare()
        return self._result(finished=False)

    def run(self) -> PruneResult:
        """Sweep and mark first, which makes room; then copy, and mark what was copied from."""
        finished = self._take_turns(first=True)
        if finished and self._repack():
            finished = self._take_turns(first=False)
        return self._result(finished=finished)

    # - under the exclusive lock

    def _take_turns(self, *, first: bool) -> bool:
        """False when somebody else's lock stood in the way after something was done: the next prune goes on."""
        while True:
            try:
                self._prepare()
                with self._locked(exclusive=True) as lock:
                    if self._turn(lock):
                        return True
            except RepositoryLocked:
                if first:
                    raise
                return False
            first = False
            pause(TURN_PAUSE_S)

    def _prepare(self) -> None:
        """What takes long is looked at beside others; the exclusive turn asks only what came since."""
        with self._locked() as lock:
            self._survey.refresh()
            self._prepared = self._verdicts()
            self._steps = self._steps or _steps(self._prepared)
            lock.assert_held()

    def _turn(self, lock: Lock) -> bool:
        if self._survey.refresh():
            self._prepared = self._verdicts()
        verdicts, deadline_s = self._prepared, monotonic_s() + TURN_S
        return self._sweep(verdicts, lock, deadline_s) and self._rewrite(verdicts, lock, deadline_s)

    def _sweep(self, verdicts: Iterable[PackVerdict], lock: Lock, deadline_s: float) -> bool:
        """At least one pack a turn, however long it took to decide; False when more are left."""
        for verdict in verdicts:
            if verdict.action != "sweep" or verdict.pack_id in self._denied:
                continue
            lock.assert_held()
            try:
                self._shelf.files.remove("data", verdict.pack_id)
            except TierDenied:  # still locked on the tier: its mark waits until the lock has run out
                self._denied.add(verdict.pack_id)
                continue
            del self._survey.sizes[verdict.pack_id]
            self._freed_bytes += verdict.size_bytes
            self._done["sweep"] += 1
            if monotonic_s() > deadline_s:
                return False
        return True

    def _rewrite(self, verdicts: Iterable[PackVerdict], lock: Lock, deadline_s: float) -> bool:
        """New before old, file by file; False when the turn was over before the last."""
        changes = _Changes(verdicts, self._survey, now=self._now())
        waiting = list(_groups(changes.files_to_rewrite(self._survey.index), self._survey.index))
        while waiting:
            self._replace(waiting.pop(), changes, lock)
            if monotonic_s() > deadline_s:
                break
        if changes.strays:
            self._replace([], changes, lock)
        self._done["mark"] += len(changes.marked)
        self._done["unmark"] += len(changes.unmarked)
        return not waiting

    def _replace(self, old: list[str], changes: _Changes, lock: Lock) -> None:
        documents = [read_index(self._shelf.files, file_id, key=self._shelf.key) for file_id in old]
        new = changes.apply(documents)
        lock.assert_held()
        if new.packs or new.marked:
            self._shelf.files.save_document("index", encode_document(new), key=self._shelf.key)
        for file_id in old:
            lock.assert_held()
            self._shelf.files.remove("index", file_id)
        self._done["index"] += len(old)

    # - beside others

    def _repack(self) -> bool:
        """Copy what is needed of wasteful packs; True when there is something to mark now."""
        with self._locked() as lock:
            self._survey.refresh()
            packs = {verdict.pack_id for verdict in self._verdicts() if verdict.action == "repack"}
            if not packs:
                return False
            written, damaged = carry(self._shelf, self._shelf, self._survey.needed_of(packs))
            lock.assert_held()
        self._damaged += damaged
        self._added_bytes += written.size_bytes
        self._copied += written.blobs
        self._done["repack"] += len(packs)
        return True

    # - words

    def _locked(self, *, exclusive: bool = False) -> AbstractContextManager[Lock]:
        return locked(
            self._shelf.files, self._shelf.key, exclusive=exclusive, clock=self._clock, patience_s=self._patience_s
        )

    def _now(self) -> datetime:
        began, began_s = self._started
        return began + timedelta(seconds=monotonic_s() - began_s)

    def _verdicts(self) -> list[PackVerdict]:
        return plan_prune(self._survey.pack_facts(), self._rules, now=self._now())

    def _result(self, *, finished: bool) -> PruneResult:
        return PruneResult(
            steps=self._steps,
            marked=self._done["mark"],
            unmarked=self._done["unmark"],
            swept=self._done["sweep"],
            freed_bytes=self._freed_bytes,
            repacked=self._done["repack"],
            copied_blobs=self._copied,
            added_bytes=self._added_bytes,
            rewritten_index_files=self._done["index"],
            damaged=[f"{kind} blob {blob_id.hex()}" for kind, blob_id in self._damaged[:NAMED_AT_MOST]],
            denied=sorted(self._denied)[:NAMED_AT_MOST],
            finished=finished,
        )


class _Changes:
    """What one turn changes in the index, applied file by file."""

    def __init__(self, verdicts: Iterable[PackVerdict], survey: Survey, *, now: datetime) -> None:
        known = survey.marked()
        chosen = [verdict for verdict in verdicts if verdict.action == "mark"]
        self._present = set(survey.sizes)
        self._live = survey.live()
        self._mark = {verdict.pack_id for verdict in chosen if verdict.pack_id in self._live}
        self._unmark = {verdict.pack_id for verdict in verdicts if verdict.action == "unmark"}
        self._now_ns = (now - _EPOCH) // timedelta(microseconds=1) * 1000
        self.strays = [
            IndexedPack(verdict.pack_id, [], self._now_ns, verdict.size_bytes)
            for verdict in chosen
            if verdict.pack_id not in self._live and verdict.pack_id not in known
        ]
        self.marked: set[str] = set()
        self.unmarked: set[str] = set()

    def files_to_rewrite(self, index: Index) -> list[str]:
        """Those that change, and the small ones once there are many."""
        small = {file_id for file_id, file in index.files.items() if file.blobs < SMALL_FILE_BLOBS}
        merge = small if len(small) >= MERGE_FROM_FILES else set()
        return sorted(file_id for file_id, file in index.files.items() if file_id in merge or self._touches(file))

    def apply(self, documents: Iterable[IndexDocument]) -> IndexDocument:
        """One document in the place of these, and the marks of strays in the first that is written."""
        packs: dict[str, IndexedPack] = {}
        marked = {stray.pack_id: stray for stray in self.strays}
        self.marked.update(marked)
        self.strays = []
        for document in documents:
            for pack in document.packs:
                if pack.pack_id in self._mark:
                    self.marked.add(pack.pack_id)
                    marked[pack.pack_id] = replace(pack, time_ns=self._now_ns)
                else:
                    packs[pack.pack_id] = pack
            for pack in document.marked:
                self._apply_mark(pack, packs, marked)
        return IndexDocument(list(packs.values()), list(marked.values()))

    def _apply_mark(self, pack: IndexedPack, packs: dict[str, IndexedPack], marked: dict[str, IndexedPack]) -> None:
        if pack.pack_id not in self._present or pack.pack_id in self._live:
            return  # swept, or void: a file names the pack
        if pack.pack_id in self._unmark:
            self.unmarked.add(pack.pack_id)
            packs.setdefault(pack.pack_id, replace(pack, time_ns=None))
        else:
            marked.setdefault(pack.pack_id, pack if pack.time_ns is not None else replace(pack, time_ns=self._now_ns))

    def _touches(self, file: IndexFile) -> bool:
        return not self._mark.isdisjoint(file.packs) or any(
            pack_id in self._unmark or pack_id in self._live or pack_id not in self._present or time_ns is None
            for pack_id, time_ns in file.marked
        )


def _groups(file_ids: Iterable[str], index: Index) -> Iterator[list[str]]:
    """Files that together fit into one."""
    group: list[str] = []
    blobs = 0
    for file_id in file_ids:
        if group and blobs + index.files[file_id].blobs > MAX_FILE_BLOBS:
            yield group
            group, blobs = [], 0
        group.append(file_id)
        blobs += index.files[file_id].blobs
    if group:
        yield group


def _steps(verdicts: Iterable[PackVerdict]) -> tuple[PruneStep, ...]:
    packs: Counter[tuple[str, str]] = Counter()
    bytes_: Counter[tuple[str, str]] = Counter()
    used: Counter[tuple[str, str]] = Counter()
    for verdict in verdicts:
        step = (verdict.action, verdict.reason)
        packs[step] += 1
        bytes_[step] += verdict.size_bytes
        used[step] += verdict.used_bytes
    return tuple(PruneStep(*step, packs[step], bytes_[step], bytes_[step] - used[step]) for step in sorted(packs))


def _missing(what: str) -> RepositoryDamaged:
    return RepositoryDamaged(
        f"{what} is needed by a snapshot and nowhere to be found",
        hint="Nothing was removed. Check the repository, rebuild its index or repair it, then prune again.",
    )
