"""Making a snapshot: one thread walks, a few read and cut, all cores hash, compress and seal.

    walker ──large files──▶ readers ──chunks of a window──▶ sealers ──packs──▶ uploaders
       │                    (cutting.py)                    (blobs.py)            ▲
       ├────small files, by the batch──▶ helper processes ──sealed blobs──────────┤
       │                                 (small.py)                               │
       └────folders and names in them──▶ helper processes ──nodes, sealed blobs───┘
                                         (gathering.py)

The walker goes depth first and keeps at most FILES_IN_FLIGHT files open. Folders are closed in the order the
walk leaves them (children before parents), as soon as their files are done; a tree is stored then.

Bounds: those of cutting.py, small.py, gathering.py and blobs.py; FILES_IN_FLIGHT descriptors; NODES_PENDING nodes not
yet in a tree. What grows with the snapshot is one packed line a file, and the index.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from blake3 import blake3
from msgspec import Struct

from mover.repository import gathering
from mover.repository.blobs import BlobWriter
from mover.repository.crypto import MasterKey
from mover.repository.cutting import CUT_MAX_BYTES, READERS, FileReader, Stored, Tally, read_xattrs, stored
from mover.repository.facts import Disk, Folder, MemoryFile, ProtectedFiles
from mover.repository.gathering import Gathering
from mover.repository.gathering_child import SMALL_BYTES
from mover.repository.index import Index
from mover.repository.nodes import node_of
from mover.repository.reading import BATCH, DirectReader, FolderHandle, Found, Reader, found_of, open_reader
from mover.repository.small import SmallFiles
from mover.repository.tree import Node, Xattr, encode_facts, encode_node, encode_tree, with_name

FILES_IN_FLIGHT = 256
NODES_PENDING = 4096
HARD_LINKS_REMEMBERED = 100_000
# One descriptor per level is open during the walk.
MAX_DEPTH = 200
# A file written so shortly before its parent snapshot may have changed again within one tick of the file
# system's clock: its equal fingerprint proves nothing and it is read.
RACY_NS = 2_000_000_000

LoadTree = Callable[[bytes], list[Node]]
Read = Future[list[Stored | OSError]]


class ParentView(Struct, frozen=True):
    """What an earlier snapshot offers: its tree, its time, and the BLAKE3 digests the catalog kept for it.
    A file whose digest is not known is read again, since a snapshot answers for every file's digest."""

    tree_id: bytes
    time_ns: int
    digests: Mapping[str, str]
    load_tree: LoadTree
    index: Index


class _Frame:
    """A folder that the walk is in, or has left but not yet stored."""

    def __init__(self, name: bytes, path: bytes, facts: Found, *, xattrs: tuple[Xattr, ...] = ()) -> None:
        self.name, self.path, self.facts, self.xattrs = name, path, facts, xattrs
        self.nodes: dict[bytes, bytes] = {}
        self.waiting: list[tuple[bytes, Read, int]] = []
        self.reads: list[Read] = []
        self.gathered = 0  # batches on their way
        self.text = os.fsdecode(path) + "/"
        self.earlier: dict[bytes, Node] = {}

    @property
    def done(self) -> bool:
        return not self.gathered and all(read.done() for read in self.reads)


class _Places:
    """A semaphore that takes several at once."""

    def __init__(self, free: int) -> None:
        self._free, self._changed = free, threading.Condition()

    def take(self, count: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= count)
            self._free -= count

    def give(self, count: int) -> None:
        with self._changed:
            self._free += count
            self._changed.notify()


class Walk:
    """One walk over a source; `run` returns the id of the root tree."""

    def __init__(
        self, blobs: BlobWriter, tally: Tally, *, parent: ParentView | None, now_ns: int, seed: int, key: MasterKey
    ) -> None:
        self._blobs, self._tally, self._parent, self._now_ns = blobs, tally, parent, now_ns
        self._files = FileReader(blobs, tally, seed=seed)
        self._small = SmallFiles(self._files, blobs, tally, key=key)
        self._gathering: Gathering[_Frame] = Gathering(key)
        self._direct = DirectReader()
        self._seen = 0
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="read")
        self._places = _Places(FILES_IN_FLIGHT)
        self._linked: dict[tuple[int, int], tuple[Read, int]] = {}
        self._closing: deque[tuple[_Frame, _Frame | None]] = deque()
        self._pending_nodes = 0

    def run(self, source: Folder) -> bytes:
        try:
            root = _Frame(b"", b"", self._virtual(b"", "folder", source.mode))
            root.earlier = self._earlier(self._parent.tree_id if self._parent else None)
            self._walk_virtual(source, root)
            self._settle(limit=0)
            return self._store_tree(root)
        except BaseException as failure:
            self._blobs.fail(failure)
            raise
        finally:
            self._readers.shutdown(wait=True, cancel_futures=True)
            self._small.close()
            self._gathering.close()
            self._files.close()

    # - folders that exist in the snapshot only

    def _walk_virtual(self, folder: Folder, frame: _Frame) -> None:
        for name, member in sorted(folder.members.items()):
            raw = os.fsencode(name)
            path = frame.path + b"/" + raw
            if isinstance(member, MemoryFile):
                self._keep_memory(raw, path, member, frame)
            elif isinstance(member, Folder):
                below = _Frame(raw, path, self._virtual(raw, "folder", member.mode))
                below.earlier = self._earlier_below(frame, raw)
                self._walk_virtual(member, below)
                self._leave(below, frame)
            else:
                self._walk_disk(member, raw, path, frame)

    def _keep_memory(self, name: bytes, path: bytes, member: MemoryFile, frame: _Frame) -> None:
        content = tuple(
            self._blobs.store("data", member.data[start : start + CUT_MAX_BYTES])
            for start in range(0, len(member.data), CUT_MAX_BYTES)
        )
        facts = self._virtual(name, "file", member.mode)
        size = len(member.data)
        self._keep_file(name, stored(facts, content, size, blake3(member.data).hexdigest()), frame)
        self._tally.count(files=1, size_bytes=size)

    def _virtual(self, name: bytes, kind: str, mode: int) -> Found:
        return Found(
            name=name,
            kind="file" if kind == "file" else "folder",
            mode=mode,
            uid=os.geteuid(),
            gid=os.getegid(),
            links=1,
            mtime_ns=self._now_ns,
            ctime_ns=self._now_ns,
        )

    # - real folders

    def _walk_disk(self, disk: Disk, name: bytes, path: bytes, frame: _Frame) -> None:
        with ExitStack() as opened:
            reader = open_reader(disk.requester, root=disk.root, judged=disk.judged)
            opened.callback(reader.close)
            try:
                top = reader.open_root(disk.root, disk.relative)
            except OSError:
                self._tally.unreadable.append(os.fsdecode(path))
                return
            if isinstance(top, int):
                self._send([(found_of(name, os.fstat(top)), top)], frame)
                return
            below = self._enter(top, name, path, frame)
            self._walk_tree(reader, top, below)
            self._leave(below, frame)

    def _walk_tree(self, reader: Reader, top: FolderHandle, frame: _Frame) -> None:
        """Depth first with an explicit stack: each level is a generator of folders still to enter."""
        stack = [(top, frame, self._walk_one(reader, top, frame))]
        while stack:
            handle, here, folders = stack[-1]
            name = next(folders, None)
            if name is None:
                stack.pop()
                reader.leave(handle)
                if stack:
                    self._leave(here, stack[-1][1])
                continue
            path = here.path + b"/" + name
            if len(stack) >= MAX_DEPTH:
                self._tally.unreadable.append(os.fsdecode(path))
                continue
            try:
                below_handle = reader.enter(handle, name)
            except OSError:
                self._tally.unreadable.append(os.fsdecode(path))
                continue
            below = self._enter(below_handle, name, path, here)
            stack.append((below_handle, below, self._walk_one(reader, below_handle, below)))

    def _walk_one(self, reader: Reader, handle: FolderHandle, frame: _Frame) -> Iterator[bytes]:
        """Files and links of one folder first, then the names of its folders, one by one."""
        folders: list[bytes] = []
        try:
            names = self._names_left(reader, handle, frame)
        except OSError:
            self._tally.unreadable.append(os.fsdecode(frame.path) or "/")
            return
        for start in range(0, len(names), BATCH):
            looked = reader.look(handle, names[start : start + BATCH])
            self._files_of(reader, handle, looked, frame)
            folders += [found.name for found in looked if found.kind == "folder"]
        yield from folders

    def _names_left(self, reader: Reader, handle: FolderHandle, frame: _Frame) -> list[bytes]:
        """All names, or those that no helper was given: what is no plain file or was there before."""
        if not isinstance(reader, DirectReader) or self._seen < gathering.HELP_FROM_FILES:
            names = reader.names(handle)
            self._seen += len(names)
            return names
        plain, names = reader.names_by_kind(handle)
        if frame.earlier:
            names = sorted(names + [name for name in plain if name in frame.earlier])
            plain = [name for name in plain if name not in frame.earlier]
        for start in range(0, len(plain), gathering.BATCH):
            self._gather(handle.token, plain[start : start + gathering.BATCH], frame)
        return names

    def _gather(self, folder_fd: int, names: list[bytes], frame: _Frame) -> None:
        while self._gathering.full:
            self._take_gathered()
        self._gathering.send(frame, frame.path, names, folder_fd)
        frame.gathered += 1

    def _take_gathered(self) -> None:
        """The oldest batch's answer. Names for which its memory had no room are sent again; what the helper left is
        met here, like any file, in the same open folder."""
        with self._gathering.taken() as (batch, answer):
            frame, answered = batch.owner, len(answer.nodes)
            frame.gathered -= 1
            self._blobs.store_sealed(answer.blobs, batch.region)
            self._gathering.free(batch)
            nodes = {name: node for name, node in zip(batch.names, answer.nodes, strict=False) if node}
            frame.nodes.update(nodes)
            self._tally.entries += answer.entries
            self._tally.count(files=len(nodes), size_bytes=answer.size_bytes)
            if answered < len(batch.names):
                self._gather(batch.folder_fd, batch.names[answered:], frame)
            if len(nodes) < answered:
                self._meet([name for name in batch.names[:answered] if name not in nodes], batch.folder_fd, frame)

    def _meet(self, names: list[bytes], folder_fd: int, frame: _Frame) -> None:
        handle = FolderHandle(folder_fd, frame.facts, folder_fd)
        for start in range(0, len(names), BATCH):
            looked = self._direct.look(handle, names[start : start + BATCH])
            # a folder since the listing: the walk has passed, so its members would be missing in silence
            self._tally.unreadable += [_path(frame, found.name) for found in looked if found.kind == "folder"]
            self._files_of(self._direct, handle, looked, frame)

    def _files_of(self, reader: Reader, handle: FolderHandle, looked: list[Found], frame: _Frame) -> None:
        wanted: list[Found] = []
        for found in looked:
            if found.error:
                self._tally.unreadable.append(_path(frame, found.name))
            elif found.kind == "symlink":
                frame.nodes[found.name] = encode_node(node_of(found, "symlink"))
            elif found.kind == "other":
                self._tally.skipped.append(_path(frame, found.name))
            elif found.kind == "file" and not self._reuse(found, frame):
                wanted.append(found)
        if wanted:
            self._open_and_send(reader, handle, wanted, frame)

    def _open_and_send(self, reader: Reader, handle: FolderHandle, wanted: list[Found], frame: _Frame) -> None:
        small: list[tuple[Found, int]] = []
        groups: deque[list[tuple[Found, int]]] = deque()
        opened = reader.open_files(handle, [found.name for found in wanted])
        for found, fd in zip(wanted, opened, strict=True):
            if isinstance(fd, OSError):
                self._tally.unreadable.append(os.fsdecode(frame.path + b"/" + found.name))
            elif found.size_bytes <= SMALL_BYTES:
                small.append((found, fd))
            else:
                groups.append([(found, fd)])
        if small:
            groups.append(small)
        try:
            while groups:
                self._send(groups.popleft(), frame)
        finally:
            for group in groups:
                for _, fd in group:
                    os.close(fd)

    def _reuse(self, found: Found, frame: _Frame) -> bool:
        """True when nothing needs to be read: the same hard link was read in this walk, or the fingerprint
        equals the parent snapshot's, its blobs are all there and its digest is known."""
        linked = self._linked.get((found.device_id, found.inode)) if found.links > 1 else None
        if linked is not None:
            self._wait_for(found.name, *linked, frame)
            return True
        node, parent = frame.earlier.get(found.name), self._parent
        if node is None or parent is None or not _unchanged(found, node, before_ns=parent.time_ns):
            return False
        digest = parent.digests.get(_path(frame, found.name))
        content = node.content or ()
        if digest is None or not all(parent.index.knows("data", blob) for blob in content):
            return False
        kept = stored(found, content, found.size_bytes, digest, node.xattrs)
        self._keep_file(found.name, kept, frame)
        self._tally.count(files=1, size_bytes=found.size_bytes)
        return True

    def _send(self, group: list[tuple[Found, int]], frame: _Frame) -> None:
        """Hand a group of open files to a reader; from here on the descriptors are the reader's."""
        fds = [fd for _, fd in group]
        self._places.take(len(fds))
        small = group[0][0].size_bytes <= SMALL_BYTES
        read = self._readers.submit((self._small if small else self._files).read_all, fds)
        read.add_done_callback(lambda done: self._let_go(fds, done))
        for place, (found, _) in enumerate(group):
            if found.links > 1 and len(self._linked) < HARD_LINKS_REMEMBERED:
                self._linked[(found.device_id, found.inode)] = (read, place)
            self._wait_for(found.name, read, place, frame)

    def _let_go(self, fds: list[int], done: Read) -> None:
        if done.cancelled():  # never ran, so never closed them
            for fd in fds:
                os.close(fd)
        self._places.give(len(fds))

    def _wait_for(self, name: bytes, read: Read, place: int, frame: _Frame) -> None:
        frame.waiting.append((name, read, place))
        if not frame.reads or frame.reads[-1] is not read:
            frame.reads.append(read)
        self._pending_nodes += 1
        if self._pending_nodes > NODES_PENDING:
            self._collect(frame)

    # - closing folders

    def _enter(self, handle: FolderHandle, name: bytes, path: bytes, above: _Frame) -> _Frame:
        below = _Frame(name, path, handle.facts, xattrs=read_xattrs(handle.xattr_fd))
        below.earlier = self._earlier_below(above, name)
        return below

    def _leave(self, frame: _Frame, above: _Frame) -> None:
        frame.earlier = {}
        self._closing.append((frame, above))
        self._settle(limit=NODES_PENDING)

    def _settle(self, *, limit: int) -> None:
        """Store the trees of left folders, oldest first: a child always left before its parent. Beyond
        `limit` pending nodes wait for the files; below it take only what is done."""
        while self._closing and (self._pending_nodes > limit or limit == 0 or self._closing[0][0].done):
            frame, above = self._closing.popleft()
            node = node_of(frame.facts, "dir", subtree=self._store_tree(frame), xattrs=frame.xattrs)
            if above is not None:
                above.nodes[frame.name] = with_name(frame.name, encode_facts(node))

    def _store_tree(self, frame: _Frame) -> bytes:
        while frame.gathered:
            self._take_gathered()
        self._collect(frame)
        document = encode_tree([frame.nodes[name] for name in sorted(frame.nodes)])
        frame.nodes = {}
        return self._blobs.store("tree", document)

    def _collect(self, frame: _Frame) -> None:
        waiting, frame.waiting, frame.reads = frame.waiting, [], []
        asked: Read | None = None
        before = len(frame.nodes)
        for name, read, place in waiting:
            if read is not asked:
                asked, outcomes = read, read.result()
            outcome = outcomes[place]
            if isinstance(outcome, OSError):
                self._tally.unreadable.append(_path(frame, name))
            else:
                self._keep_file(name, outcome, frame)
        self._tally.count(files=len(frame.nodes) - before)
        self._pending_nodes -= len(waiting)

    def _keep_file(self, name: bytes, kept: Stored, frame: _Frame) -> None:
        frame.nodes[name] = with_name(name, kept.facts)
        path = frame.path + b"/" + name
        self._tally.entries.append(
            ProtectedFiles.pack(path, size_bytes=kept.size_bytes, blake3=kept.blake3, mtime_ns=kept.mtime_ns)
        )
        if kept.torn:
            self._tally.torn.append(_path(frame, name))

    # - the parent snapshot

    def _earlier_below(self, above: _Frame, name: bytes) -> dict[bytes, Node]:
        node = above.earlier.get(name)
        return self._earlier(node.subtree if node is not None else None)

    def _earlier(self, tree_id: bytes | None) -> dict[bytes, Node]:
        if tree_id is None or self._parent is None or not self._parent.index.knows("tree", tree_id):
            return {}
        return {node.name: node for node in self._parent.load_tree(tree_id)}


def _path(frame: _Frame, name: bytes) -> str:
    return frame.text + os.fsdecode(name)


def _unchanged(found: Found, node: Node, *, before_ns: int) -> bool:
    if node.type != "file" or found.ctime_ns > before_ns - RACY_NS or found.mtime_ns > before_ns - RACY_NS:
        return False
    now = (found.size_bytes, found.mtime_ns, found.ctime_ns, found.inode)
    return now == (node.size, node.mtime_ns, node.ctime_ns, node.inode)
