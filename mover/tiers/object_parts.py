"""Large objects in parts that survive us: the upload's id is all that a later process needs.

    begin -> put_part of every number, from any threads, in any order -> complete

A kill before `complete` leaves an upload that nobody can read: `resume` goes on with it, or the sweep aborts it by
age. A kill during or after `complete` leaves the upload or the whole object, never a part of one. When the answer to
a completion is lost, the store is asked what it has: about half had happened.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress

from mover.errors import EntryExists, EntryMissing, IllegalTransition, MoverError, TierError, TierUnavailable
from mover.model.tiers import Fingerprint, Traits
from mover.tiers.object_control import Control
from mover.tiers.object_place import Place
from mover.tiers.object_wire import Wire

PARTS_MAX = 10_000  # S3 API
PART_STEP_BYTES = 16 << 20  # a part holds whole segments
PART_BYTES = 32 << 20
PUT_PART_BYTES = 16 << 20
PARTS_IN_FLIGHT = 4
PARTS_PER_SIZE = 1_000  # of an upload of unknown length: then parts double, so that 10,000 hold 5 TiB
_MD5_ETAG = re.compile(r'^"?([0-9a-f]{32})"?$')


def part_bytes(size_bytes: int) -> int:
    """Of every part but the last: whole segments, and no more parts than the store counts."""
    least = -(-size_bytes // PARTS_MAX)
    return max(PART_BYTES, -(-least // PART_STEP_BYTES) * PART_STEP_BYTES)


class Uploads:
    """What attempts on one bucket share."""

    def __init__(
        self,
        where: Place,
        control: Control,
        wire: Wire,
        *,
        traits: Callable[[], Traits],
        head: Callable[[str], Fingerprint],
        remove: Callable[[str], None],
    ) -> None:
        self.where, self.control, self.wire = where, control, wire
        self.traits, self.head, self.remove = traits, head, remove

    def sweep(self, prefix: str, *, idle_since_s: float) -> int:
        """Abort uploads of the tier's own prefix that got nothing since; how many. One that is slow still grows."""
        below = self.where.full_key(prefix) if prefix else self.where.prefix
        old = [
            one
            for one in self.control.uploads(f"{below}/" if below else "")
            if 0 < one.begun_s < idle_since_s
        ]
        dead = [one for one in old if self.control.grew_s(one) < idle_since_s]
        for one in dead:
            self.control.abort(one.key, one.id)
        return len(dead)


class PartedUpload:
    """One upload of one key, by the store's id of it."""

    def __init__(self, uploads: Uploads, key: str, *, resume: str = "") -> None:
        self._uploads, self._key, self._tier = uploads, key, uploads.where.tier
        self._full_key = uploads.where.full_key(key)
        self._resume = resume
        self._id = ""
        self._etag = ""  # of the object that is ours beyond doubt
        self.unproved = False  # something stands under the key that may be ours: its bytes must be read

    def begin(self) -> str:
        if not self._id:
            control = self._uploads.control
            known = self._resume and control.parts(self._full_key, self._resume) is not None
            self._id = self._resume if known else control.create(self._full_key)
        return self._id

    def put_part(self, number: int, data: bytes | memoryview) -> str:
        try:
            return self._uploads.wire.put_part(
                self._key,
                self._open(),
                number,
                memoryview(data),
                checksum=self._uploads.traits().checksum_rejection,
            )
        except EntryMissing:
            raise self._gone() from None

    def parts(self) -> dict[int, tuple[str, int]]:
        found = self._uploads.control.parts(self._full_key, self._open())
        if found is None:
            raise self._gone()
        return found

    def complete(self, parts: Sequence[tuple[int, str]], *, if_none_match: bool = True) -> None:
        listed = sorted(parts)
        conditional = if_none_match and self._uploads.traits().conditional_complete
        if if_none_match and not conditional and self._standing() is not None:
            raise EntryExists("the name is taken", where=self._tier)
        try:
            etag = self._uploads.control.complete(
                self._full_key, self._open(), listed, if_none_match=conditional
            )
            self._etag = etag or _etag_of(listed)
        except (EntryExists, EntryMissing, TierUnavailable) as error:
            self._settle(listed, error)
        self._id = ""

    def _settle(self, parts: Sequence[tuple[int, str]], error: MoverError) -> None:
        """No clear answer. Ours is what has the etag of our parts. Where our upload was used up and something of
        another etag stands, the bytes decide (`unproved`), and `abandon` leaves it alone."""
        found, wanted = self._standing(), _etag_of(parts)
        if found is not None and wanted and found.mark.strip('"') == wanted:
            self._etag = found.mark
            return
        if self._uploads.control.parts(self._full_key, self._open()) is None:
            if found is None:
                raise self._gone() from None
            self.unproved = True
        elif found is not None:
            raise EntryExists("the name is taken", where=self._tier) from None
        elif isinstance(error, TierUnavailable):
            raise error
        else:
            raise TierUnavailable("the store did not complete the upload", where=self._tier) from None

    def stand(self) -> None:
        """See `ObjectAttempt.stand`."""
        self._etag = ""

    def abandon(self) -> None:
        """Abort what is open; remove the object if it is ours beyond doubt and unchanged."""
        opened, self._id = self._id or self._resume, ""
        self._resume = ""
        with suppress(TierError):  # the sweep comes by later
            if opened:
                self._uploads.control.abort(self._full_key, opened)
        with suppress(TierError):
            if self._etag and self._uploads.head(self._key).mark.strip('"') == self._etag.strip('"'):
                self._uploads.remove(self._key)
        self._etag = ""

    def _standing(self) -> Fingerprint | None:
        try:
            return self._uploads.head(self._key)
        except EntryMissing:
            return None

    def _open(self) -> str:
        if not self._id:
            raise IllegalTransition("an upload is begun before its parts", where=self._tier)
        return self._id

    def _gone(self) -> TierUnavailable:
        return TierUnavailable(
            "the multipart upload is gone, and no object came of it", where=self._tier, hint="Begin it anew."
        )


def put_in_parts(upload: PartedUpload, chunks: Iterable[bytes]) -> None:
    """A stream of unknown length: parts of growing size, a few in flight, one conditional completion."""
    upload.begin()
    done: list[tuple[int, str]] = []
    waiting: set[Future[tuple[int, str]]] = set()
    with ThreadPoolExecutor(PARTS_IN_FLIGHT, thread_name_prefix="part") as pool:
        try:
            for number, data in enumerate(_cut(chunks), start=1):
                waiting.add(pool.submit(_sent, upload, number, data))
                if len(waiting) >= PARTS_IN_FLIGHT:
                    ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    done += [one.result() for one in ended]
            done += [one.result() for one in waiting]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    upload.complete(done)


def _sent(upload: PartedUpload, number: int, data: bytes) -> tuple[int, str]:
    return number, upload.put_part(number, data)


def _cut(chunks: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = number = 0
    wanted = PUT_PART_BYTES
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        while size >= wanted:
            joined = b"".join(held)
            yield joined[:wanted]
            held, size = [joined[wanted:]], size - wanted
            number += 1
            wanted = PUT_PART_BYTES * 2 ** (number // PARTS_PER_SIZE)
    if size:
        yield b"".join(held)


def _etag_of(parts: Sequence[tuple[int, str]]) -> str:
    """What most stores call the object of these parts: the MD5 of their MD5s, and how many. "" where etags are
    something else (encrypted buckets)."""
    found = [_MD5_ETAG.match(etag) for _, etag in parts]
    if not all(found):
        return ""
    joined = b"".join(bytes.fromhex(one[1]) for one in found if one)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"
