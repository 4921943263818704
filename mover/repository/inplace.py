"""What a restore in place would replace, found by reading: the preview that somebody agrees to before anything moves.

Content is compared blob by blob with what the snapshot holds; equal size and time prove nothing. What stands there and
the snapshot does not know stays, and is named. Folders are opened beneath the target and without links.
"""

from __future__ import annotations

import hashlib
import os
import stat as stat_bits
from collections.abc import Callable, Iterator

from msgspec import Struct

from mover.decide.restoring import Kind, Loss, Standing, Wanted, judge, preview_digest
from mover.errors import Denied, LimitExceeded
from mover.repository.reader import BlobReader
from mover.repository.staging import FOLDER_FLAGS
from mover.repository.tree import Node
from mover.tiers import beneath

LOSSES_MAX = 1_000_000
UNKNOWN_MAX = 1000
_KINDS: dict[str, Kind] = {"file": "file", "dir": "folder", "symlink": "symlink"}


class Preview(Struct, frozen=True):
    """`losses` would be moved aside, `unknown` (the first of them) stay as they are, and `absent` are the files that
    come without replacing anything."""

    digest: str
    losses: tuple[Loss, ...]
    same: int
    absent: int
    absent_bytes: int
    unknown_count: int
    unknown: tuple[bytes, ...]


class Comparison:
    """A folder that stands beside the tree it is to become."""

    def __init__(self, blobs: BlobReader, target: int, may_write: Callable[[os.stat_result], bool]) -> None:
        self._blobs, self._target, self._may_write = blobs, target, may_write
        self._losses: list[Loss] = []
        self._unknown: list[bytes] = []
        self._same = self._absent = self._absent_bytes = self._unknown_count = 0

    def of_tree(self, tree: bytes) -> None:
        """Every folder that both have is looked at once; one that only the snapshot has is new altogether."""
        waiting = [(b"", tree)]
        while waiting:
            prefix, subtree = waiting.pop()
            waiting += self._folder(prefix, self._blobs.tree(subtree))

    def of_file(self, node: Node) -> None:
        list(self._folder(b"", [node], strangers=False))

    def preview(self, snapshot: str, path: str) -> Preview:
        losses = tuple(sorted(self._losses, key=lambda loss: loss.path))
        return Preview(
            preview_digest(snapshot, path, losses), losses, self._same, self._absent, self._absent_bytes,
            self._unknown_count, tuple(self._unknown),
        )  # fmt: skip

    def _folder(self, prefix: bytes, nodes: list[Node], *, strangers: bool = True) -> Iterator[tuple[bytes, bytes]]:
        try:
            fd = beneath.open_beneath(self._target, prefix.rstrip(b"/").split(b"/") if prefix else [], FOLDER_FLAGS)
        except FileNotFoundError:
            self._count_absent(nodes)
            return
        try:
            writable = self._may_write(os.fstat(fd))
            names = {os.fsencode(name) for name in os.listdir(fd)}
            if strangers and writable:  # in others' folders nothing would change, and their names are not told
                self._note_unknown(prefix, names - {node.name for node in nodes})
            for node in nodes:
                if node.name not in names:
                    self._count_absent([node])
                    changes = True
                else:
                    changes = self._compare(fd, prefix + node.name, node)
                if changes and not writable:
                    raise Denied("the requester may not change a folder that this restore would change")
                if node.type == "dir" and node.subtree is not None and not changes:
                    yield prefix + node.name + b"/", node.subtree
        finally:
            os.close(fd)

    def _compare(self, folder: int, path: bytes, node: Node) -> bool:
        """Would anything move here? Of a folder that stands, only its members may."""
        facts = os.lstat(node.name, dir_fd=folder)
        wanted = Wanted(_KINDS.get(node.type, "other"), node.size, node.mtime_ns)
        loss = judge(path, standing_of(facts), wanted, same_content=self._same_content(folder, node, facts))
        if loss is None:
            self._same += 1
            return False
        self._losses.append(loss)
        if len(self._losses) > LOSSES_MAX:
            raise LimitExceeded(f"more than {LOSSES_MAX} things would be replaced", hint="Restore to a new folder.")
        if node.type == "dir":
            self._absent += 1
        return True

    def _same_content(self, folder: int, node: Node, facts: os.stat_result) -> bool:
        if stat_bits.S_ISLNK(facts.st_mode):
            return os.readlink(node.name, dir_fd=folder) == node.target
        if not stat_bits.S_ISREG(facts.st_mode) or node.type != "file" or facts.st_size != node.size:
            return False
        fd = os.open(node.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            return self._has_blobs(fd, node)
        finally:
            os.close(fd)

    def _has_blobs(self, fd: int, node: Node) -> bool:
        offset = 0
        for blob_id in node.content or ():
            size = self._blobs.locate("data", blob_id).size_bytes
            if hashlib.sha256(os.pread(fd, size, offset)).digest() != blob_id:
                return False
            offset += size
        return offset == node.size

    def _count_absent(self, nodes: list[Node]) -> None:
        self._absent += len(nodes)
        self._absent_bytes += sum(node.size for node in nodes)

    def _note_unknown(self, prefix: bytes, names: set[bytes]) -> None:
        self._unknown_count += len(names)
        self._unknown += [prefix + name for name in sorted(names)][: max(0, UNKNOWN_MAX - len(self._unknown))]


def standing_of(facts: os.stat_result) -> Standing:
    mode = facts.st_mode
    kind: Kind = "other"
    for is_kind, word in ((stat_bits.S_ISREG, "file"), (stat_bits.S_ISDIR, "folder"), (stat_bits.S_ISLNK, "symlink")):
        if is_kind(mode):
            kind = word  # type: ignore[assignment]
    return Standing(kind, facts.st_size, facts.st_mtime_ns, mark_of(facts))


def mark_of(facts: os.stat_result) -> str:
    """Another one after every change of content or facts, and for every other thing at the same name. A folder's
    changes with its members. Where a file has several names, its change time tells nothing: it is set anew when another
    of the names moves, by ourselves too."""
    changed_ns = facts.st_ctime_ns if facts.st_nlink == 1 else 0
    return f"{facts.st_ino:x}:{changed_ns:x}:{facts.st_size:x}:{facts.st_mtime_ns:x}"
