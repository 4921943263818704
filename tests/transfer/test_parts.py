"""Large moves in parts: killed, stopped or cut off, they go on where they were, and believe nothing unread."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from mover.errors import ChangedWhileReading, DigestMismatch, EntryExists, Stopping, TierError, TierUnavailable
from mover.model.recipe import SEGMENT_BYTES, Copy, Literal, Recipe, compact, plain_copy
from mover.tiers.posix import PosixTier
from mover.transfer import Moved, Transfer, large
from mover.transfer import parts as parting
from mover.transfer.parts import Part
from tests.support.journal import FileJournal
from tests.support.seaweed import object_tier
from tests.transfer.test_engine import flash, names, output, rests, source_tier
from tests.transfer.test_large import ISLANDS, allocated, sparse_file

__all__ = ["flash", "source_tier"]

SIZE = 5 * SEGMENT_BYTES + 12345
ENGINE = Transfer(parts_from_bytes=SEGMENT_BYTES, part_bytes=SEGMENT_BYTES)


@pytest.fixture(scope="module")
def data() -> bytes:
    return random.Random(5).randbytes(SIZE)


@pytest.fixture
def journal(tmp_path: Path) -> FileJournal:
    return FileJournal(tmp_path / "journal")


def move(source_tier: Any, target: Any, journal: FileJournal, recipe: Recipe | None = None, **asked: Any) -> Moved:
    with source_tier.open("slide") as source:
        recipe = recipe or plain_copy(source.size_bytes)
        options = {"key": "out", "attempt_id": "a", "segments": True} | asked
        return ENGINE.run_recipe(
            recipe, source=source, source_tier=source_tier, target=target, journal=journal, **options
        )


def stopped_after(journal: FileJournal, parts: int) -> Callable[[], bool]:
    """True once so many more parts are in the journal."""
    before = journal.path.read_bytes().count(b'"part"')
    return lambda: journal.path.read_bytes().count(b'"part"') >= before + parts


def cut_off(source_tier: Any, target: Any, journal: FileJournal, *, parts: int = 2, **asked: Any) -> list[Part]:
    with pytest.raises(Stopping):
        move(source_tier, target, journal, stopped=stopped_after(journal, parts), **asked)
    found = journal.parts("a")
    assert len(found) >= parts
    return found


def check(moved: Moved, tier: Any, wanted: bytes, key: str = "out") -> None:
    assert blake3(tier.read(key)).hexdigest() == moved.digest.blake3 == blake3(wanted).hexdigest()
    cuts = [wanted[at : at + SEGMENT_BYTES] for at in range(0, len(wanted), SEGMENT_BYTES)]
    assert moved.digest.segments == tuple(blake3(cut).hexdigest() for cut in cuts)


# --- on posix tiers -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("readback", [True, False])
def test_each_part_is_journalled_once_it_is_durable_and_forgotten_at_the_end(
    source_tier: PosixTier, flash: PosixTier, journal: FileJournal, data: bytes, readback: bool
) -> None:
    """The journal's lines in order: begin with the temporary's name, every part, end."""
    source_tier.put("slide", [data])
    check(move(source_tier, flash, journal, readback=readback), flash, data)
    lines = journal.path.read_text().splitlines()
    assert [line.split(",")[1] for line in lines] == ['"begin"', *['"part"'] * 6, '"end"']
    assert ".mover-tmp-" in lines[0] and journal.where("a") == "" and rests(flash) == []


@pytest.mark.slow
def test_a_stopped_move_goes_on_at_its_parts(
    source_tier: PosixTier, flash: PosixTier, journal: FileJournal, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was journalled is read from the device, not from the source; only the rest is copied."""
    source_tier.put("slide", [data])
    found = cut_off(source_tier, flash, journal)
    assert names(flash) == [] and len(rests(flash)) == 1
    read_from: list[int] = []
    honest = large.read_fully
    monkeypatch.setattr(large, "read_fully", lambda d, at, v: read_from.append(at) or honest(d, at, v))
    moved = move(source_tier, flash, journal)
    check(moved, flash, data)
    assert moved.resumed_bytes >= sum(part.length for part in found) and min(read_from) == moved.resumed_bytes
    assert moved.verified and rests(flash) == [] and journal.where("a") == ""


@pytest.mark.slow
def test_what_rotted_under_the_journal_is_written_again(
    source_tier: PosixTier, flash: PosixTier, journal: FileJournal, data: bytes
) -> None:
    """A journal is a claim; a bit that flipped between the crash and the resume is found by the cold read."""
    source_tier.put("slide", [data])
    cut_off(source_tier, flash, journal, parts=3)
    at = SEGMENT_BYTES + 77  # in the second part
    with open(rests(flash)[0], "r+b") as out:
        out.seek(at)
        out.write(bytes([data[at] ^ 1]))
    moved = move(source_tier, flash, journal)
    check(moved, flash, data)
    assert moved.resumed_bytes == SEGMENT_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["swept", "truncated", "journal of another size", "claims a later part only"])
def test_whatever_was_lost_is_written_again(
    source_tier: PosixTier, flash: PosixTier, journal: FileJournal, data: bytes, loss: str
) -> None:
    """Sweeps, truncations and journals of other part sizes cost time, never bytes."""
    source_tier.put("slide", [data])
    found = cut_off(source_tier, flash, journal)
    if loss == "swept":
        os.unlink(rests(flash)[0])
    elif loss == "truncated":
        os.truncate(rests(flash)[0], SEGMENT_BYTES // 2)
    elif loss == "journal of another size":
        journal.finished("a", Part(1, 0, 2 * SEGMENT_BYTES, ("x", "y")))
    else:
        where = journal.where("a")
        journal.begin("a", where=where)
        journal.finished("a", found[1])
    moved = move(source_tier, flash, journal)
    check(moved, flash, data)
    assert moved.resumed_bytes == 0 and rests(flash) == []


@pytest.mark.slow
@pytest.mark.parametrize("change", ["source", "recipe"])
def test_another_source_or_recipe_starts_anew(
    source_tier: PosixTier, flash: PosixTier, journal: FileJournal, data: bytes, change: str
) -> None:
    """Half of one file and half of another would be neither; the old half is removed."""
    source_tier.put("slide", [data])
    cut_off(source_tier, flash, journal)
    recipe, wanted = plain_copy(SIZE), data
    if change == "source":
        wanted = data[:100] + b"!" + data[101:]
        (source_tier.root / "slide").write_bytes(wanted)
    else:
        recipe = compact(SIZE, [Literal(b"head"), Copy(0, SIZE)])
        wanted = output(recipe, data)
    moved = move(source_tier, flash, journal, recipe)
    check(moved, flash, wanted)
    assert moved.resumed_bytes == 0 and rests(flash) == []


@pytest.mark.slow
def test_a_failure_of_the_bytes_is_not_resumed(
    source_tier: PosixTier, flash: PosixTier, journal: FileJournal, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed source or a wrong read-back leaves no half that could be believed later."""
    source_tier.put("slide", [data])
    with pytest.raises(DigestMismatch):
        move(source_tier, flash, journal, expected=blake3(b"other").hexdigest())
    assert rests(flash) == [] and journal.where("a") == ""
    honest = large.read_cold

    def spoiled(descriptor: int, direct: int, at: int, view: memoryview, until: int) -> int:
        count = honest(descriptor, direct, at, view, until)
        if at == 2 * SEGMENT_BYTES:
            view[5] ^= 1
        return count

    monkeypatch.setattr(large, "read_cold", spoiled)
    with pytest.raises(DigestMismatch):
        move(source_tier, flash, journal)
    monkeypatch.undo()
    assert rests(flash) == [] and journal.where("a") == ""
    assert journal.path.read_bytes().count(b'"part"') == 6 + 2  # the part that read back wrongly was never claimed
    monkeypatch.setattr(large, "write_fully", lambda *_: os.utime(source_tier.root / "slide", ns=(1, 1)))
    monkeypatch.setattr(large.Landing, "_write_direct", lambda *_: 0)
    with pytest.raises(ChangedWhileReading):
        move(source_tier, flash, journal, readback=False)
    assert rests(flash) == [] and journal.where("a") == ""


@pytest.mark.slow
def test_a_name_that_was_taken_meanwhile_ends_the_attempt(
    source_tier: PosixTier, flash: PosixTier, journal: FileJournal, data: bytes
) -> None:
    """The kill may have come between the publication and the end of the journal: the caller reads what stands."""
    source_tier.put("slide", [data])
    cut_off(source_tier, flash, journal)
    flash.put("out", [b"somebody's"])
    with pytest.raises(EntryExists):
        move(source_tier, flash, journal)
    assert flash.read("out") == b"somebody's" and journal.where("a") == ""


@pytest.mark.slow
def test_a_worker_that_slept_through_its_lease_writes_nothing_into_what_was_published(
    source_tier: PosixTier, flash: PosixTier, journal: FileJournal, data: bytes
) -> None:
    """It still has the temporary file open. Had the next worker gone on with that very file, and read it back and
    published it, the sleeper would write into it: here what the source holds by then."""
    source_tier.put("slide", [data])
    begun, turn, done = stopped_after(journal, 1), threading.Lock(), list[Moved]()

    def sleeps() -> bool:
        if not done and threading.current_thread().name.startswith("lane"):
            time.sleep(0.05)  # parts are journalled while others are still to come
        with turn:  # all of its threads
            if not done and begun():
                done.append(move(source_tier, flash, journal))
                (source_tier.root / "slide").write_bytes(bytes(SIZE))
        return False

    with pytest.raises((ChangedWhileReading, EntryExists, TierError)):
        move(source_tier, flash, journal, stopped=sleeps)
    check(done[0], flash, data)


@pytest.mark.slow
def test_sparse_files_resume_sparse(source_tier: PosixTier, flash: PosixTier, journal: FileJournal) -> None:
    """Holes among the finished parts are holes that were read back as zeros."""
    digest = sparse_file(source_tier.root / "slide", 6 * SEGMENT_BYTES + 1, ISLANDS)
    cut_off(source_tier, flash, journal)
    moved = move(source_tier, flash, journal)
    assert moved.digest.blake3 == digest and moved.resumed_bytes >= 2 * SEGMENT_BYTES
    assert allocated(flash.root / "out") <= allocated(source_tier.root / "slide") + (1 << 16)


KILLED = """
import sys
from mover.model.recipe import SEGMENT_BYTES, plain_copy
from mover.tiers.posix import PosixTier
from mover.transfer import Transfer
from tests.support.journal import FileJournal
source_tier, flash = (PosixTier(name, "deidentified", root) for name, root in zip(("archive", "flash"), sys.argv[1:]))
with source_tier.open("slide") as source:
    moved = Transfer(parts_from_bytes=SEGMENT_BYTES, part_bytes=SEGMENT_BYTES).run_recipe(
        plain_copy(source.size_bytes), source=source, source_tier=source_tier, target=flash, key="out",
        journal=FileJournal(sys.argv[3]), attempt_id="a")
print(moved.resumed_bytes, moved.digest.blake3)
"""


def spawn(source_tier: PosixTier, flash: PosixTier, journal: FileJournal) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(source_tier.root), str(flash.root), str(journal.path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (2, 3))])
def test_kill_9_at_any_point_and_the_next_process_goes_on(
    source_tier: PosixTier, flash: PosixTier, journal: FileJournal, data: bytes, seed: int
) -> None:
    """Killed again and again at random moments after the first part; in the end one whole file, and no rest."""
    source_tier.put("slide", [data])
    random_, killed = random.Random(seed), 0
    for _ in range(4):
        known = journal.path.read_bytes().count(b'"part"')
        process = spawn(source_tier, flash, journal)
        while process.poll() is None and journal.path.read_bytes().count(b'"part"') == known:
            time.sleep(0.001)
        time.sleep(random_.uniform(0, 0.05))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if names(flash):
            break
        assert len(rests(flash)) <= 1
    if not names(flash):
        answer, _ = spawn(source_tier, flash, journal).communicate()
        assert int(answer.split()[0]) >= SEGMENT_BYTES
    assert killed and flash.read("out") == data and rests(flash) == []


# --- on object tiers ------------------------------------------------------------------------------------




@pytest.mark.slow
def test_an_upload_goes_on_with_the_parts_the_store_has(
    source_tier: PosixTier,
    request: pytest.FixtureRequest,
    journal: FileJournal,
    data: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is sent twice, all of the source is digested, and the object is read back whole."""
    archive = object_tier(request.getfixturevalue("weed"))
    source_tier.put("slide", [data])
    recipe = compact(SIZE, [Literal(b"head"), Copy(4, SIZE - 4)])
    wanted = output(recipe, data)
    put: list[int] = []
    kind = type(archive.attempt("other", size_bytes=SIZE))
    if not hasattr(kind, "put_part"):
        pytest.skip("this store takes no parts that can be resumed")
    honest = kind.put_part
    monkeypatch.setattr(kind, "put_part", lambda self, n, d: put.append(n) or honest(self, n, d))
    monkeypatch.setattr(parting, "UPLOAD_LANES", 1)
    monkeypatch.setattr(kind, "part_bytes", property(lambda _: SEGMENT_BYTES))
    asked = {"recipe": recipe, "key": "slides/1/a/slide", "source_digest": True}
    found = cut_off(source_tier, archive, journal, **asked)
    assert [part.number for part in found] == put and names(archive) == []
    moved = move(source_tier, archive, journal, **asked)
    check(moved, archive, wanted, "slides/1/a/slide")
    assert sorted(put) == [1, 2, 3, 4, 5, 6] and moved.resumed_bytes == sum(part.length for part in found)
    assert moved.source_digest and moved.source_digest.blake3 == blake3(data).hexdigest() and moved.verified
    assert journal.where("a") == ""


@pytest.mark.slow
def test_between_buckets_and_back_in_ranges(
    source_tier: PosixTier, flash: PosixTier, request: pytest.FixtureRequest, journal: FileJournal, data: bytes
) -> None:
    """Object to object and object to posix, both resumed, both held against the digest known beforehand."""
    weed = request.getfixturevalue("weed")
    archive, second = object_tier(weed), object_tier(weed, "second", prefix="second")
    source_tier.put("slide", [data])
    first = move(source_tier, archive, journal, key="slide")
    cut_off(archive, flash, journal, expected=first.digest.blake3)
    back = move(archive, flash, journal, expected=first.digest.blake3)
    check(back, flash, data)
    assert back.resumed_bytes >= 2 * SEGMENT_BYTES
    between = move(archive, second, journal, key="copy", expected=first.digest.blake3)
    assert between.digest == first.digest and second.stat("copy").fingerprint.size_bytes == SIZE


def test_uploads_share_their_memory_and_each_has_a_lane() -> None:
    """Two uploads at once must stay below the engine's 300 MB, and neither may wait for the other's end."""
    room = parting.Room(160 << 20)
    with room.lanes(32 << 20) as first, room.lanes(32 << 20) as second, room.lanes(32 << 20) as third:
        assert (first, second, third) == (3, 2, 1)
    with room.lanes(512 << 20) as huge:
        assert huge == 1
    with room.lanes(16 << 20) as small:
        assert small == 6


class AwayAttempt:
    """An object store in memory that takes parts, and is away from its third part on."""

    part_bytes = SEGMENT_BYTES

    def __init__(self, store: AwayStore) -> None:
        self._store = store

    def begin(self) -> str:
        return "upload-1"

    def put_part(self, number: int, data: bytes | memoryview) -> str:
        if self._store.away and number >= 3:
            raise TierUnavailable("the store is away")
        self._store.held[number] = bytes(data)
        return f"etag-{number}-{len(data)}"

    def parts(self) -> dict[int, tuple[str, int]]:
        return {number: (f"etag-{number}-{len(data)}", len(data)) for number, data in self._store.held.items()}

    def complete(self, parts: list[tuple[int, str]], *, if_none_match: bool = True) -> None:
        assert [number for number, _ in parts] == sorted(self._store.held)
        self._store.object = b"".join(data for _, data in sorted(self._store.held.items()))

    def seal(self) -> None: ...

    def stream_cold(self) -> Any:
        yield self._store.object

    def publish(self) -> None: ...

    def abandon(self) -> None:
        self._store.abandoned = True


class AwayStore:
    name, zone, kind = "away", "deidentified", "object"

    def __init__(self) -> None:
        self.held: dict[int, bytes] = {}
        self.object, self.away, self.abandoned = b"", True, False
        self.asked: list[str] = []

    def attempt(self, key: str, *, size_bytes: int, resume: str = "") -> AwayAttempt:
        self.asked.append(resume)
        return AwayAttempt(self)


@pytest.mark.slow
def test_a_store_that_goes_away_keeps_what_it_has(
    source_tier: PosixTier, journal: FileJournal, data: bytes
) -> None:
    """An outage of an hour must not cost a day of upload. A part that the store lost, or that it holds with
    other bytes than the source has now, is sent again."""
    source_tier.put("slide", [data])
    store = AwayStore()
    with pytest.raises(TierUnavailable):
        move(source_tier, store, journal)
    assert not store.abandoned and {part.number for part in journal.parts("a")} == {1, 2}
    store.away = False
    journal.finished("a", Part(1, 0, SEGMENT_BYTES, ("not what the source holds",), f"etag-1-{SEGMENT_BYTES}"))
    moved = move(source_tier, store, journal)
    assert store.asked == ["", "upload-1"] and store.object == data and moved.resumed_bytes == SEGMENT_BYTES
    assert moved.digest.blake3 == blake3(data).hexdigest() and journal.where("a") == ""


@pytest.mark.slow
def test_an_object_of_other_bytes_than_were_sent_is_refused(
    source_tier: PosixTier, journal: FileJournal, data: bytes
) -> None:
    """The store's word for a finished upload is not the bytes."""
    source_tier.put("slide", [data])
    store = AwayStore()
    store.away = False
    store.held[3] = b""
    attempt = AwayAttempt.complete

    def spoiling(self: AwayAttempt, parts: list[tuple[int, str]], *, if_none_match: bool = True) -> None:
        attempt(self, parts)
        store.object = store.object[:-1] + bytes([store.object[-1] ^ 1])

    with pytest.MonkeyPatch.context() as patch, pytest.raises(DigestMismatch):
        patch.setattr(AwayAttempt, "complete", spoiling)
        move(source_tier, store, journal)
    assert store.abandoned and journal.where("a") == ""


@pytest.mark.slow
@pytest.mark.parametrize("unproved", [True, False])
def test_an_upload_whose_answer_was_lost_is_read_back_whatever_was_asked(
    source_tier: PosixTier, journal: FileJournal, data: bytes, unproved: bool
) -> None:
    """What stands under the key may be another writer's: only its bytes can tell."""
    source_tier.put("slide", [data])
    store = AwayStore()
    store.away = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AwayAttempt, "unproved", unproved, raising=False)
        moved = move(source_tier, store, journal, readback=False)
        assert moved.verified is unproved
        patch.setattr(AwayAttempt, "stream_cold", lambda _: iter([b"somebody's"]))
        if unproved:
            with pytest.raises(DigestMismatch):
                move(source_tier, store, journal, readback=False)
