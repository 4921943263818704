"""The front of the snapshot repository: open or create one, snapshot, list, restore, check, forget.

We are a second, independent implementation of the public restic repository format, version 2; stock restic
may work on the same repository at any time. All calls block and belong into worker threads. A Repository is
safe to share between threads.

Order of durable writes in a snapshot: packs, index files that name them, the snapshot file last. Killed at
any point, what is left is a correct repository; a repeat finds the packs already indexed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from msgspec import Struct

from mover.clock import SYSTEM, Clock
from mover.decide.pruning import PruneRules
from mover.errors import (
    Conflict,
    Denied,
    EntryExists,
    EntryMissing,
    IntegrityError,
    LeaseLost,
    NotFound,
    RepositoryDamaged,
    RequestInvalid,
)
from mover.randomness import random_bytes
from mover.repository import keys, repair
from mover.repository.blobs import BlobWriter
from mover.repository.carrying import Shelf
from mover.repository.check import Check
from mover.repository.copying import copy_blobs
from mover.repository.crypto import MasterKey, new_master_key
from mover.repository.cutting import Tally
from mover.repository.damage import name_damage
from mover.repository.facts import (
    CheckResult,
    CopyResult,
    Folder,
    KeyFacts,
    Progress,
    ProtectedFiles,
    PruneResult,
    RebuildResult,
    RepairResult,
    RestoreResult,
    SnapshotEntry,
    SnapshotFacts,
    SnapshotResult,
)
from mover.repository.files import MAX_KEY_FILE_BYTES, RepositoryFiles
from mover.repository.index import Index
from mover.repository.locks import Lock, locked
from mover.repository.polynomial import irreducible, new_polynomial
from mover.repository.prune import Prune
from mover.repository.reader import BlobReader, find_node, list_entries, walk
from mover.repository.reading import Requester
from mover.repository.restore import Order, Restore
from mover.repository.resuming import unnamed_packs
from mover.repository.spare import Opening, SparedReader
from mover.repository.tree import format_time, parse_time
from mover.repository.writer import ParentView, Walk
from mover.tiers.port import PruneTier

VERSION = 2
INCOMPLETE_TAG = "incomplete"
# A pack is rewritten when a quarter of it is waste, and one prune copies no more than this.
WASTE_SHARE = 0.25
REPACK_BYTES = 64 << 30
PROGRAM = "mover 0.1"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Config(Struct):
    version: int
    id: str
    chunker_polynomial: str


class _WireSnapshot(Struct, omit_defaults=True):
    time: str
    tree: str
    paths: list[str] | None
    hostname: str = ""
    username: str = ""
    uid: int = 0
    gid: int = 0
    excludes: list[str] = []
    tags: list[str] | None = None
    original: str | None = None
    parent: str | None = None
    program_version: str = ""


def create_repository(tier: PruneTier, password: bytes, *, prefix: str = "") -> Repository:
    """A new repository. The key comes before the config: a crash between leaves keys that open nothing,
    and creating again clears them away."""
    files = RepositoryFiles(tier, prefix)
    if files.exists(files.config_key):
        raise Conflict("a snapshot repository exists here already")
    _clear_interrupted_creation(files)
    master = new_master_key()
    config = _Config(VERSION, random_bytes(32).hex(), f"{new_polynomial():x}")
    key_id = keys.put_key(files, master, password)
    sealed = bytes(master.seal(msgspec.json.encode(config)))
    try:
        tier.put(files.config_key, [sealed], size_bytes=len(sealed))
    except EntryExists as cause:
        files.remove("keys", key_id)
        raise Conflict("somebody else created a snapshot repository here at the same moment") from cause
    return Repository(files, master, config, key_id=key_id)


def open_repository(tier: PruneTier, password: bytes, *, prefix: str = "") -> Repository:
    """Denied when no key file opens with this password; NotFound when there is no repository."""
    files = RepositoryFiles(tier, prefix)
    try:
        sealed = files.read_whole(files.config_key, max_bytes=MAX_KEY_FILE_BYTES)
    except EntryMissing as cause:
        raise NotFound("there is no snapshot repository here", hint="Create one first.") from cause
    opened = False
    for key_id, master in keys.openings(files, password):
        opened = True
        try:
            return Repository(files, master, _decode_config(master.open(sealed)), key_id=key_id)
        except RepositoryDamaged:
            continue  # a key of an interrupted creation opens nothing
    if opened:
        raise RepositoryDamaged("the config of the snapshot repository cannot be read", where="config")
    raise Denied("no key of the snapshot repository opens with this password", hint="Check the password file.")


class Repository:
    """Made by `create_repository` or `open_repository`."""

    def __init__(
        self, files: RepositoryFiles, key: MasterKey, config: _Config, *, key_id: str, clock: Clock = SYSTEM
    ) -> None:
        self._files, self._key, self._key_id, self._clock = files, key, key_id, clock
        self.repository_id = config.id
        self._seed = int(config.chunker_polynomial, 16)
        self._index = Index()
        self._index_guard = threading.Lock()

    # - writing

    def snapshot(
        self,
        source: Folder,
        *,
        hostname: str,
        username: str,
        tags: list[str],
        time: datetime,
        paths: list[str],
        parent: str | None = None,
        parent_digests: Mapping[str, str] | None = None,
        resuming: bool = False,
        progress: Progress | None = None,
    ) -> SnapshotResult:
        """Protect `source`. Files equal to the parent's by fingerprint cost one stat when their BLAKE3 is in
        `parent_digests` (path → hex, as the catalog kept it); otherwise they are read, and stored no second
        time. `resuming`: an attempt at this was cut off, and the packs that it finished are looked for first. The
        caller next looks at `complete`, then proves it with `check(True, snapshot_id)`."""
        with locked(self._files, self._key, clock=self._clock, early=True) as lock:
            index = self._fresh_index()
            tally = Tally(progress)
            with BlobWriter(self._files, key=self._key, index=index, before_put=lock.settle) as blobs:
                if resuming:
                    blobs.adopt(unnamed_packs(self._files, key=self._key, index=index))
                known = self._parent(parent, index, parent_digests or {})
                walker = Walk(blobs, tally, parent=known, now_ns=_to_ns(time), seed=self._seed, key=self._key)
                tree_id = walker.run(source)
                blobs.flush()
            lock.settle()
            lock.assert_held()  # beyond its life a prune beside us may have taken packs for unused
            self._assert_index_stands(index)
            incomplete = [INCOMPLETE_TAG] if tally.torn or tally.unreadable else []
            wire = _WireSnapshot(
                time=format_time(_to_ns(time)),
                tree=tree_id.hex(),
                paths=paths,
                hostname=hostname,
                username=username,
                uid=os.getuid(),
                gid=os.getgid(),
                tags=[*tags, *incomplete] or None,
                parent=parent if known else None,
                program_version=PROGRAM,
            )
            snapshot_id = self._files.save_document("snapshots", msgspec.json.encode(wire), key=self._key)
        return _result(snapshot_id, tree_id, tally, added_bytes=blobs.added_bytes)

    def forget(self, ids: Iterable[str]) -> list[str]:
        """Remove these snapshot files; the ids that were there. Under an exclusive lock, as the format asks
        of whoever removes: RepositoryLocked while anybody snapshots or restores."""
        with locked(self._files, self._key, exclusive=True, clock=self._clock) as lock:
            removed = []
            for snapshot_id in ids:
                lock.assert_held()
                if self._files.remove("snapshots", snapshot_id):
                    removed.append(snapshot_id)
            return removed

    def prune(
        self,
        *,
        grace: timedelta,
        plan_only: bool = False,
        now: datetime | None = None,
        waste_share: float = WASTE_SHARE,
        repack_bytes: int = REPACK_BYTES,
        patience_s: float = 0.0,
    ) -> PruneResult:
        """Mark what no snapshot needs, and sweep what was marked before the grace, which must be longer than any
        snapshot runs: so called twice, the grace apart, it takes away what is forgotten now. `now` is the
        database's; `patience_s` is how long each turn waits for somebody else's lock (RepositoryLocked, or a
        result that is not `finished`). The caller looks at `denied` and `damaged`."""
        rules = PruneRules(grace, waste_share, repack_bytes)
        prune = Prune(self._shelf, self._root_of, rules=rules, now=now, patience_s=patience_s, clock=self._clock)
        return prune.plan() if plan_only else prune.run()

    # - a second repository

    def copy_to(self, other: Repository, snapshot_id: str) -> CopyResult:
        """Give another repository this snapshot, and only what it lacks of it. A repeat adds nothing. The caller next
        proves the copy with `other.check(True, copy.snapshot_id)`."""
        with locked(self._files, self._key, clock=self._clock), other._locked() as lock:
            facts = self._require(snapshot_id)
            original = facts.original or snapshot_id
            for known in other.snapshots():
                if (known.original or known.snapshot_id) == original and known.tree_id == facts.tree_id:
                    return CopyResult(known.snapshot_id, already=True, blobs=0, added_bytes=0)
            index = other._fresh_index()
            written = copy_blobs(
                self._shelf, self._fresh_index(), other._shelf, index, root=bytes.fromhex(facts.tree_id)
            )
            lock.assert_held()
            other._assert_index_stands(index)
            copied_id = other._put_copy(self._document(snapshot_id), original)
        return CopyResult(copied_id, already=False, blobs=written.blobs, added_bytes=written.size_bytes)

    def rebuild_index(self) -> RebuildResult:
        """From the packs' own headers: after index files were lost or cannot be read. Alone, as the format asks."""
        with self._locked(exclusive=True) as lock:
            return repair.rebuild_index(self._shelf, lock)

    def repair_from(self, other: Repository, *, now: datetime | None = None) -> RepairResult:
        """Read every byte, and bring back what is lost or wrong from what is still whole here and from `other`, which
        may have other keys and other packs. The caller looks at `left`, and checks again."""
        self.rebuild_index()
        with self._locked() as lock, other._locked():
            check, snapshots, result = self._whole_check(read_data=True)
            lost, whole = self._read_again(file_id for kind, file_id in check.bad_files if kind == "snapshots")
            copies = {original: facts for original in lost for facts in other.copies_of(original)[:1]}
            every = [*snapshots, *whole, *copies.values()]
            roots = [bytes.fromhex(facts.tree_id) for facts in every]
            fetched = repair.bring_back(self._shelf, other._shelf, check, other._fresh_index(), roots=roots)
            lock.assert_held()
            back = {old: self._put_copy(other._document(facts.snapshot_id), old) for old, facts in copies.items()}
            for old, facts in copies.items():  # the copy there is known by its new name, too: it may be asked for again
                other._put_copy(other._document(facts.snapshot_id), back[old])
        with self._locked(exclusive=True) as lock:
            repair.retire(self._shelf, lock, check.bad_packs, now=now or self._clock.now())
            for old in back:
                self._files.replaced("snapshots", old)
        bad = {blob: f"{blob[0]} blob {blob[1].hex()}" for blob in fetched.left}
        found = {name: "neither repository has it" for name in bad.values()}
        left = name_damage(fetched.load, every, bad=bad, found=found)
        left += [
            each for each in result.damage if each.object in {f"snapshots/{old}" for old in lost if old not in back}
        ]
        return RepairResult(fetched.salvaged, fetched.fetched, len(check.bad_packs), back, left)

    def _read_again(self, ids: Iterable[str]) -> tuple[list[str], list[SnapshotFacts]]:
        """Which of these snapshot files are damaged, and which were only read wrongly: other bytes may come from the
        way as well as from the disk, and a damaged file goes."""
        lost, whole = [], []
        for snapshot_id in ids:
            with suppress(EntryMissing):  # forgotten meanwhile: nothing to bring back
                try:
                    whole.append(self._load_snapshot(snapshot_id))
                except IntegrityError:
                    lost.append(snapshot_id)
        return lost, whole

    def copies_of(self, snapshot_id: str) -> list[SnapshotFacts]:
        """Snapshots here that are this one, or say that they were made of it."""
        return [each for each in self.snapshots() if snapshot_id in (each.snapshot_id, each.original)]

    # - keys

    def keys(self) -> list[KeyFacts]:
        return keys.list_keys(self._files, current=self._key_id)

    def add_key(self, password: bytes) -> str:
        """One more password for the same repository; returns the key file's id, proved by opening it."""
        return keys.add_key(self._files, self._key, password)

    def key_opened_by(self, password: bytes) -> str | None:
        """The key file that this password opens, if any."""
        return keys.key_of(self._files, self._key, password)

    def remove_key(self, key_id: str, *, other_password: bytes | None = None) -> None:
        """The key in use goes only when `other_password` opens another that stays; so the last never goes."""
        self._key_id = keys.remove_key(
            self._files, self._key, key_id, current=self._key_id, other_password=other_password
        )

    def change_password(self, password: bytes) -> str:
        """A new key in the place of the one in use; its id. Killed between the two, both open the repository. The
        caller next stores the new password where the old one was, before anything else."""
        before = self._key_id
        standing = self.key_opened_by(password)  # of a change that was killed
        new = standing or self.add_key(password)
        if new != before:
            self.remove_key(before, other_password=password)
        return new

    # - reading

    def snapshot_ids(self) -> list[str]:
        """Of the snapshot files that are there, unread."""
        return [stored.file_id for stored in self._files.ids("snapshots")]

    def facts(self, snapshot_id: str) -> SnapshotFacts | None:
        """What one snapshot file says; None when it is not there."""
        try:
            return self._load_snapshot(snapshot_id)
        except EntryMissing:
            return None

    def snapshots(self) -> list[SnapshotFacts]:
        """All snapshots, in the order of the times they claim."""
        found = []
        for stored in list(self._files.ids("snapshots")):
            try:
                found.append(self._load_snapshot(stored.file_id))
            except EntryMissing:
                continue  # forgotten between listing and reading
        return sorted(found, key=lambda snapshot: (snapshot.time, snapshot.snapshot_id))

    def ls(self, snapshot_id: str, path: str = "/", *, recursive: bool = False) -> Iterator[SnapshotEntry]:
        """The members of a folder (or everything below it), or the one file at `path`."""
        facts = self._require(snapshot_id)
        yield from list_entries(self._reader(), bytes.fromhex(facts.tree_id), path, recursive=recursive)

    def restore(
        self,
        snapshot_id: str,
        target: Path,
        *,
        path: str = "/",
        owner: Requester | None = None,
        order: Order | None = None,
        progress: Progress | None = None,
        spare: Opening | None = None,
    ) -> RestoreResult:
        """Restore a folder's members, or the one file at `path`, into the folder `target`: a new one, or, with an
        order that replaces, one that stands. The caller looks at `complete`, and clears a restore with a name. What
        this repository does not give comes from the `spare` one, and the result says how much."""
        early = spare is None  # a repository that may be away cannot be asked about locks once more
        with locked(self._files, self._key, clock=self._clock, early=early) as lock, self._spared(spare) as reader:
            root = bytes.fromhex(self._require(snapshot_id).tree_id)
            node = find_node(reader, root, path)
            restore = Restore(reader, target, order or Order(owner=owner), progress=progress, settle=lock.settle)
            if node is not None and node.subtree is None:
                result = restore.run(lambda: iter([(node.name, node)]), top=None)
            else:
                subtree = root if node is None or node.subtree is None else node.subtree
                result = restore.run(lambda: walk(reader, subtree), top=node)
            return msgspec.structs.replace(result, spared=reader.taken) if isinstance(reader, SparedReader) else result

    @contextmanager
    def looking(self, snapshot_id: str, *, spare: Opening | None = None) -> Iterator[tuple[BlobReader, bytes]]:
        """A snapshot's blobs and the id of its tree, locked for as long as somebody walks it: nothing of it is
        pruned meanwhile."""
        with locked(self._files, self._key, clock=self._clock), self._spared(spare) as reader:
            yield reader, bytes.fromhex(self._require(snapshot_id).tree_id)

    @contextmanager
    def reading(self) -> Iterator[BlobReader]:
        """Blobs by their ids; nothing is pruned meanwhile."""
        with locked(self._files, self._key, clock=self._clock):
            yield self._reader()

    def check(
        self, read_data: bool, snapshot_id: str | None = None, *, sample: float | None = None, seed: str = ""
    ) -> CheckResult:
        """The whole repository: its structure, and every byte with `read_data`, or that of a random share (`sample`,
        0 to 1) of its packs. With `snapshot_id`: everything this snapshot needs, no more."""
        if sample is not None and not 0 < sample <= 1:
            raise RequestInvalid("the share of packs to read is above 0 and at most 1")
        if sample is not None and not seed:
            seed = random_bytes(8).hex()
        with self._locked():
            if snapshot_id is not None:
                facts = [self._require(snapshot_id)]
                return Check(self._shelf, self._fresh_index()).run(facts, whole=False, read_data=read_data)
            return self._whole_check(read_data=read_data, sample=sample, seed=seed)[2]

    # - inside

    def _fresh_index(self) -> Index:
        with self._index_guard:
            present = {found.file_id for found in self._files.ids("index")}
            if self._index.lost(present):
                self._index = Index()
            self._index.load_missing(present, files=self._files, key=self._key)
            return self._index

    def _whole_check(
        self, *, read_data: bool, sample: float | None = None, seed: str = ""
    ) -> tuple[Check, list[SnapshotFacts], CheckResult]:
        check = Check(self._shelf)
        listed = [each.file_id for each in self._files.ids("snapshots")]
        snapshots = check.load_snapshots(listed, self._load_snapshot)
        check.load_index()
        return check, snapshots, check.run(snapshots, whole=True, read_data=read_data, sample=sample, seed=seed)

    def _locked(self, *, exclusive: bool = False) -> AbstractContextManager[Lock]:
        return locked(self._files, self._key, exclusive=exclusive, clock=self._clock)

    def _document(self, snapshot_id: str) -> dict[str, object]:
        """The snapshot file as it is, with words of other clients that we do not know."""
        document: dict[str, object] = msgspec.json.decode(
            self._files.load_document("snapshots", snapshot_id, key=self._key)
        )
        return document

    def _put_copy(self, document: dict[str, object], original: str) -> str:
        """Its parent is a snapshot of the other repository, so it has none here."""
        words = {name: value for name, value in document.items() if name != "parent"} | {"original": original}
        return self._files.save_document("snapshots", msgspec.json.encode(words), key=self._key)

    @property
    def _shelf(self) -> Shelf:
        return Shelf(self._files, self._key)

    def _root_of(self, snapshot_id: str) -> bytes:
        return bytes.fromhex(self._load_snapshot(snapshot_id).tree_id)

    def _assert_index_stands(self, index: Index) -> None:
        """Index files go only under the exclusive lock, which cannot stand beside ours. One that went all the same
        was taken by somebody who thought us dead, and with it may go what this snapshot leans on."""
        if index.lost({found.file_id for found in self._files.ids("index")}):
            raise LeaseLost("the repository was pruned while this snapshot ran; its lock had been taken for stale")

    def _reader(self) -> BlobReader:
        return BlobReader(self._files, key=self._key, index=self._fresh_index())

    def _spared(self, spare: Opening | None) -> AbstractContextManager[BlobReader]:
        return nullcontext(self._reader()) if spare is None else closing(SparedReader(self._reader(), spare))

    def _require(self, snapshot_id: str) -> SnapshotFacts:
        try:
            return self._load_snapshot(snapshot_id)
        except EntryMissing as cause:
            raise NotFound("there is no such snapshot") from cause

    def _load_snapshot(self, snapshot_id: str) -> SnapshotFacts:
        if len(snapshot_id) != 64 or not snapshot_id.isalnum():
            raise NotFound("a snapshot id is 64 hexadecimal digits")
        document = self._files.load_document("snapshots", snapshot_id, key=self._key)
        try:
            wire = msgspec.json.decode(document, type=_WireSnapshot)
            time = _EPOCH + timedelta(microseconds=parse_time(wire.time) // 1000)
            bytes.fromhex(wire.tree)
        except ValueError as cause:
            where = f"snapshots/{snapshot_id}"
            raise RepositoryDamaged("a snapshot file cannot be decoded", where=where) from cause
        return SnapshotFacts(
            snapshot_id=snapshot_id,
            time=time,
            tree_id=wire.tree,
            parent=wire.parent,
            paths=tuple(wire.paths or ()),
            hostname=wire.hostname,
            username=wire.username,
            tags=tuple(wire.tags or ()),
            program_version=wire.program_version,
            original=wire.original,
        )

    def _parent(self, parent: str | None, index: Index, digests: Mapping[str, str]) -> ParentView | None:
        """A parent that was forgotten meanwhile is no failure: everything is read, nothing is lost."""
        if parent is None:
            return None
        try:
            facts = self._require(parent)
        except NotFound:
            return None
        reader = BlobReader(self._files, key=self._key, index=index)
        return ParentView(bytes.fromhex(facts.tree_id), _to_ns(facts.time), digests, load_tree=reader.tree, index=index)


def _result(snapshot_id: str, tree_id: bytes, tally: Tally, *, added_bytes: int) -> SnapshotResult:
    return SnapshotResult(
        snapshot_id=snapshot_id,
        tree_id=tree_id.hex(),
        files=tally.files,
        bytes=tally.bytes,
        added_bytes=added_bytes,
        entries=ProtectedFiles(tally.entries),
        torn=tally.torn,
        unreadable=tally.unreadable,
        skipped=tally.skipped,
    )


def _clear_interrupted_creation(files: RepositoryFiles) -> None:
    """Keys without a config: left by a creation that was killed, if nothing else is there. Otherwise the
    config was lost, and these keys are what somebody will need."""
    keys = list(files.ids("keys"))
    if not keys:
        return
    if next(files.ids("data"), None) or next(files.ids("snapshots"), None):
        raise RepositoryDamaged("there are keys and data of a snapshot repository, but no config")
    for key in keys:
        files.remove("keys", key.file_id)


def _decode_config(document: bytes) -> _Config:
    try:
        config = msgspec.json.decode(document, type=_Config)
        polynomial = int(config.chunker_polynomial, 16)
    except ValueError as cause:
        raise RepositoryDamaged("the config cannot be decoded", where="config") from cause
    if config.version != VERSION:
        raise RequestInvalid(
            f"the snapshot repository has format version {config.version}; version {VERSION} is needed",
            hint="Upgrade it with `restic migrate upgrade_repo_v2`.",
        )
    if not irreducible(polynomial):
        raise RepositoryDamaged("the chunker polynomial of the config is not irreducible", where="config")
    return config


def _to_ns(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000
