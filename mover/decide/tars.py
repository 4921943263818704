"""Layout `shards`: which files of a run stand in which tar, and where in it.

Decided from the numbers and sizes of the files alone, so that the same set gives the same tars, whoever asks and
whenever. The range of all numbers is halved as often as it takes until what falls into a part fits into a tar.
Numbers are random, so the tars of one run are of about one size, between half of `shard_bytes` and all of it; and a
slide that comes or goes changes the one tar into whose range it falls. Arrival would keep a growing cohort's tars
better, and no other's: a tar would depend on what else the catalog ever held.

Names follow WebDataset: the files of one slide, which are one sample, stand side by side, and share their name up to
the first dot: `<number>.svs`, `<number>.im2.dcm`. A sample never spans tars.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from operator import itemgetter

from blake3 import blake3
from msgspec import Struct

from mover.errors import RequestInvalid
from mover.model.ids import NUMBER_BITS, number_value
from mover.model.tar import END_BYTES, header_bytes, padded

# files in one tar, whose rows stand in memory while it is made
MEMBERS_MAX = 16_384
FORMAT = "mover-tar 1"


class File(Struct, frozen=True):
    """A file of the run, at the path that it has in the manifest."""

    path: str
    number: str
    size_bytes: int
    digest: str
    split: str | None = None


class Member(Struct, frozen=True):
    """A file in a tar: its name there, where its header begins, and where its bytes do."""

    file: File
    name: str
    header_at: int
    offset: int


class Tar(Struct, frozen=True):
    path: str
    made_of: str
    size_bytes: int
    members: tuple[Member, ...]


class _Sample(Struct, frozen=True):
    """The files of one slide, in their order in the tar."""

    value: int
    files: tuple[tuple[str, File], ...]
    size_bytes: int


def cut(files: Iterable[File], *, shard_bytes: int) -> list[Tar]:
    """Every file in exactly one tar of its split: `data/000000.tar`, or `data/<split>/000000.tar`. None is larger than
    `shard_bytes`, but one that holds a single slide."""
    tars = []
    ordered = sorted(files, key=lambda one: one.split or "")
    for split, ours in groupby(ordered, key=lambda one: one.split):
        folder = f"data/{split}" if split else "data"
        for at, some in enumerate(_halved(_samples(ours), NUMBER_BITS, shard_bytes)):
            tars.append(_arranged(f"{folder}/{at:06}.tar", some))
    return tars


def arrange(path: str, files: Iterable[File]) -> Tar:
    """The tar of these files: what stands where, and what it is made of."""
    return _arranged(path, _samples(files))


def _arranged(path: str, samples: Sequence[_Sample]) -> Tar:
    members, at, lines = [], 0, [FORMAT]
    for name, file in (one for sample in samples for one in sample.files):
        offset = at + header_bytes(name, file.size_bytes)
        members.append(Member(file, name, at, offset))
        lines.append(f"{name}\t{file.size_bytes}\t{file.digest}")
        at = offset + padded(file.size_bytes)
    return Tar(path, blake3("\n".join(lines).encode()).hexdigest(), at + END_BYTES, tuple(members))


def _halved(samples: Sequence[_Sample], bits: int, shard_bytes: int) -> Iterator[Sequence[_Sample]]:
    """The samples of one range of numbers, of which the lower `bits` differ; both halves of it where they are too
    many."""
    size, count = sum(one.size_bytes for one in samples) + END_BYTES, sum(len(one.files) for one in samples)
    if len(samples) == 1 or (size <= shard_bytes and count <= MEMBERS_MAX):
        yield samples
        return
    upper = next((at for at, one in enumerate(samples) if one.value >> (bits - 1) & 1), len(samples))
    for half in (samples[:upper], samples[upper:]):
        if half:
            yield from _halved(half, bits - 1, shard_bytes)


def _samples(files: Iterable[File]) -> list[_Sample]:
    """By number."""
    ordered = sorted(files, key=lambda one: one.number)
    return [_sample(number, list(these)) for number, these in groupby(ordered, key=lambda one: one.number)]


def _sample(number: str, files: list[File]) -> _Sample:
    named = sorted(((member_name(one), one) for one in files), key=itemgetter(0))
    if any(one[0] == other[0] for one, other in pairwise(named)):
        raise RequestInvalid("two files of a slide would have one name in a tar: ask for another layout", where=number)
    size = sum(header_bytes(name, file.size_bytes) + padded(file.size_bytes) for name, file in named)
    return _Sample(number_value(number), tuple(named), size)


def member_name(file: File) -> str:
    """`<number>.<extension>`, and `<number>.<name>` for a file beside the main one. A name's own folders are escaped:
    readers take what stands before the first dot for the sample's key, folders and all."""
    below = file.path.removeprefix(f"data/{file.split}/" if file.split else "data/")
    name = below.removeprefix(f"{file.number}/").replace("%", "%25").replace("/", "%2F")
    return name if name.startswith(f"{file.number}.") else f"{file.number}.{name}"
