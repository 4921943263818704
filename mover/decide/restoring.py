"""What a restore brings first, what one in place would replace, and how long one may take.

Nothing is replaced that a person has not seen named: the preview of a restore in place has a digest, and only
whoever repeats it may go on. A folder that changed in between has another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from blake3 import blake3
from msgspec import Struct

FIRST_MAX = 16

Kind = Literal["file", "folder", "symlink", "other"]
Verdict = Literal["newer", "differs", "other-kind"]


class Standing(Struct, frozen=True):
    """What stands at a name now. `mark` changes whenever the thing does."""

    kind: Kind
    size_bytes: int
    mtime_ns: int
    mark: str


class Wanted(Struct, frozen=True):
    """What the snapshot holds under that name."""

    kind: Kind
    size_bytes: int
    mtime_ns: int


class Loss(Struct, frozen=True):
    """Something that stands there and would be moved aside. `path` lies below the target."""

    path: bytes
    verdict: Verdict
    reason: str
    standing: Standing


# what a restore costs before its first file, and a file beside its content, in bytes that could be read meanwhile
BEGIN_BYTES, FILE_BYTES = 256 << 20, 64 << 10


class Pace(Struct, frozen=True):
    """One restore of the past from the same tier, as it was measured."""

    files: int
    bytes: int
    seconds: float


def rank(path: str, first: Sequence[str]) -> int:
    """Which of the patterns names this path first; their number when none does. A pattern without a slash speaks of
    a file's name, one with a slash of its path below what is restored."""
    name = path.rsplit("/", 1)[-1]
    for position, pattern in enumerate(first):
        if fnmatchcase(path if "/" in pattern else name, pattern.lstrip("/")):
            return position
    return len(first)


def judge(path: bytes, standing: Standing, wanted: Wanted, *, same_content: bool) -> Loss | None:
    """None when nothing would be lost: equal content stays as it is, and so does a folder, whose members are judged
    one by one. `same_content` is of bytes or of a link's target; size and time alone prove nothing (D6)."""
    if standing.kind != wanted.kind:
        return Loss(path, "other-kind", f"a {standing.kind} stands where the snapshot holds a {wanted.kind}", standing)
    if wanted.kind == "folder" or same_content:
        return None
    if standing.mtime_ns > wanted.mtime_ns:
        return Loss(path, "newer", "changed since: it is newer than the snapshot's", standing)
    return Loss(path, "differs", "its content is another than the snapshot's", standing)


def preview_digest(snapshot: str, path: str, losses: Iterable[Loss]) -> str:
    """The word that says: I have seen what would be replaced. Any change of it gives another."""
    lines = sorted(b"%s\0%s\0%s\n" % (loss.path, loss.verdict.encode(), loss.standing.mark.encode()) for loss in losses)
    return blake3(b"\0".join([snapshot.encode(), path.encode("utf-8", "surrogateescape"), *lines])).hexdigest()


def estimate_s(paces: Sequence[Pace], *, files: int, bytes_: int) -> tuple[float, float] | None:
    """Between how many and how many seconds: what each restore of the past would have taken for this one, by its
    work; the middle eight tenths of that. None as long as nothing was measured."""
    work = _work(files, bytes_)
    told = sorted(work / _work(pace.files, pace.bytes) * pace.seconds for pace in paces if pace.seconds > 0)
    if not told:
        return None
    edge = len(told) // 10
    return round(told[edge], 3), round(told[-1 - edge], 3)


def _work(files: int, bytes_: int) -> int:
    """In bytes. A restore of one small file says nothing about the bytes of a large one: it is all beginning."""
    return BEGIN_BYTES + files * FILE_BYTES + bytes_
