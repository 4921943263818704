"""Every identifier planted in the hospital, and a search that finds them in any disguise.

`search_everything` looks through files, folders (their names too) and bytes for each value in UTF-8,
Latin-1, UTF-16, base64 at three alignments, hex and reversed, whatever the case. It is how the demo
and the tests prove that nothing leaked, so it must itself be proven on the originals.

How it stays fast (600 MB/s a thread): each disguise is reduced to its last eight bytes; every position
of the lower-cased data goes through two sieves at numpy speed, and only what passes both is compared.
All values are at least eight bytes long and carry letters or separators, so a hit is never chance.
"""

from __future__ import annotations

import base64
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from mover.demo import art
from mover.demo.plan import Plan, staff

SHORTEST = 8
CHUNK = 4 << 20
MAX_HITS = 1000  # a search stops collecting there: one hit is failure enough
WINDOW = 512 << 10  # small enough for the processor's cache
_TABLE_BITS = 20
_MULTIPLIER = np.uint32(0x9E3779B1)


class Planted(msgspec.Struct, frozen=True):
    value: str
    kind: str


class Hit(msgspec.Struct, frozen=True):
    value: str
    kind: str
    form: str
    where: str
    offset: int


def list_planted(plan: Plan) -> list[Planted]:
    found: dict[str, str] = {}
    for case in (*plan.cases, *plan.unlisted):
        who = case.person
        found[who.last] = "person"
        found[who.mrn] = "mrn"
        found[case.number] = "accession"
        found[who.phone] = "phone"
        found[who.address] = "address"
        found[who.email] = "email"
        for form in ("%Y-%m-%d", "%m/%d/%Y", "%d.%m.%Y"):
            found[f"{who.born:{form}}"] = "birth-date"
    for pack in plan.packs:
        found[pack.stem] = "file-name"
        found[art.barcode_text(pack)] = "barcode"
        found[f"{pack.scanned:%Y:%m:%d %H:%M:%S}"] = "scan-time"
        found[f"{pack.scanned:%Y-%m-%d %H:%M:%S}"] = "scan-time"
    members = staff()
    found |= {name.split()[-1]: "staff" for name in members["pathologist"]}
    found |= dict.fromkeys(members["operator"], "operator") | dict.fromkeys(members["serial"], "serial")
    return [Planted(value=value, kind=kind) for value, kind in sorted(found.items())]


def save(planted: list[Planted], path: Path) -> None:
    """Only its owner may read it: it is the one list of every identifier there is."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(msgspec.json.format(msgspec.json.encode(planted), indent=1))


def load(path: Path) -> list[Planted]:
    return msgspec.json.decode(path.read_bytes(), type=list[Planted])


def search_everything(
    targets: Iterable[Path | str | bytes], planted: Iterable[Planted], *, workers: int = 2
) -> list[Hit]:
    """All hits (at most MAX_HITS) in files, folders and bytes; a missing path is an error, not silence.

    `targets` may be a generator that brings one object after another: few are held at a time.
    """
    searcher = Searcher(planted)
    hits: list[Hit] = []
    waiting: deque[Future[list[Hit]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for target in _flatten(targets):
            waiting.append(pool.submit(searcher.search_one, target))
            if len(waiting) > workers:
                hits += waiting.popleft().result()
            if len(hits) >= MAX_HITS:
                break
        for found in waiting:
            hits += found.result()
    return hits[:MAX_HITS]


def _flatten(targets: Iterable[Path | str | bytes]) -> Iterator[bytes | tuple[Path, Path]]:
    """Bytes as they are, files as (file, folder it was found under)."""
    for target in targets:
        if isinstance(target, bytes):
            yield target
            continue
        path = Path(target)
        if path.is_dir():
            for folder, names, files in os.walk(path):
                yield from ((Path(folder) / name, path) for name in (*names, *files))
        else:
            path.stat()
            yield path, path.parent


class Searcher:
    """Immutable once built; many threads may search with it at the same time."""

    def __init__(self, planted: Iterable[Planted]) -> None:
        self.patterns: dict[int, list[tuple[bytes, str, Planted]]] = {}
        for item in planted:
            if len(item.value) < SHORTEST:
                raise ValueError(f"a planted {item.kind} is too short to be searched for without chance hits")
            for form, pattern in disguises(item.value):
                key = int.from_bytes(pattern[-SHORTEST:].lower(), "little")
                self.patterns.setdefault(key, []).append((pattern, form, item))
        self.keys = np.array(sorted(self.patterns), dtype=np.uint64)
        self.table = np.zeros(1 << _TABLE_BITS, dtype=bool)
        self.table[_slots((self.keys >> np.uint64(32)).astype(np.uint32))] = True
        self.longest = max((len(p) for group in self.patterns.values() for p, _, _ in group), default=SHORTEST)

    def search_one(self, target: bytes | tuple[Path, Path]) -> list[Hit]:
        if isinstance(target, bytes):
            return self.search_bytes(target)
        path, under = target
        hits = self.search_bytes(os.fsencode(path.relative_to(under)), where=f"name of {path}")
        if path.is_symlink():
            return hits + self.search_bytes(os.fsencode(os.readlink(path)), where=f"link {path}")
        return hits + (self.search_file(path) if path.is_file() else [])

    def search_file(self, path: Path) -> list[Hit]:
        hits: list[Hit] = []
        with path.open("rb") as stream:
            kept, at = b"", 0
            while chunk := stream.read(CHUNK):
                data = kept + chunk
                found = self.search_bytes(data, where=str(path), offset=at - len(kept))
                # What ends inside the kept part was already reported with the chunk before.
                hits += [hit for hit in found if not kept or hit.offset + self._length(hit) > at]
                at += len(chunk)
                kept = data[-self.longest :]
                if len(hits) >= MAX_HITS:
                    break
        return hits

    def search_bytes(self, data: bytes, *, where: str = "bytes", offset: int = 0) -> list[Hit]:
        lower = data.lower()
        hits: list[Hit] = []
        for end in self._candidates(lower):
            group = self.patterns[int.from_bytes(lower[end - SHORTEST : end], "little")]
            for pattern, form, item in group:
                start = end - len(pattern)
                if start < 0 or lower[start:end] != pattern.lower():
                    continue
                # Base64 is a disguise in one case only; folding it would invite chance.
                if form.startswith("base64") and data[start:end] != pattern:
                    continue
                hits.append(Hit(item.value, item.kind, form, where, offset + start))
                if len(hits) >= MAX_HITS:
                    return hits
        return hits

    def _candidates(self, lower: bytes) -> list[int]:
        """Ends of places whose last eight bytes are those of some pattern, in order."""
        ends: list[int] = []
        for start in range(0, len(lower), WINDOW):
            left = max(0, start - SHORTEST + 1)
            found = self._window(memoryview(lower)[left : start + WINDOW])
            ends += sorted(left + end for end in found)
        return ends

    def _window(self, window: memoryview) -> list[int]:
        """Two sieves: a table over every four bytes, then the exact eight of those that passed."""
        if len(window) < SHORTEST:
            return []
        every = np.ndarray((len(window) - SHORTEST + 1,), dtype="<u8", buffer=window, strides=(1,))
        ends: list[int] = []
        for shift in range(4):
            words = np.frombuffer(window, dtype="<u4", count=(len(window) - shift) // 4, offset=shift)
            maybe = np.flatnonzero(self.table.take(_slots(words))) * 4 + shift + 4
            maybe = maybe[maybe >= SHORTEST]
            tails = every[maybe - SHORTEST]
            place = np.minimum(np.searchsorted(self.keys, tails), len(self.keys) - 1)
            ends += maybe[self.keys[place] == tails].tolist()
        return ends

    def _length(self, hit: Hit) -> int:
        return next(len(pattern) for form, pattern in disguises(hit.value) if form == hit.form)


def disguises(value: str) -> list[tuple[str, bytes]]:
    """(form, bytes) of everything a value can hide as; each is at least eight bytes long."""
    plain = value.encode("utf-8")
    forms = {"utf-8": plain, "utf-8 upper": value.upper().encode("utf-8")}
    forms["latin-1"] = value.encode("latin-1", "replace")
    # Without its last zero the little-endian form stands inside the big-endian one too.
    forms["utf-16"] = value.encode("utf-16-le")[:-1]
    forms["hex"] = plain.hex().encode()
    forms["reversed"] = value[::-1].encode("utf-8")
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + plain)
        # Characters that also hold bits of a neighbour are cut at both ends.
        start, rest = (0, 2, 3)[shift], (shift + len(plain)) % 3
        forms[f"base64+{shift}"] = encoded[start : len(encoded) - (0, 3, 2)[rest]]
    unique: dict[bytes, str] = {}
    for form, pattern in forms.items():
        folded = pattern if form.startswith("base64") else pattern.lower()
        unique.setdefault(folded, form)
    return [(form, pattern) for pattern, form in unique.items()]


def _slots(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return (words * _MULTIPLIER) >> np.uint32(32 - _TABLE_BITS)
