"""Published slides as pictures: drawn in the parsing child from levels alone, for who may see the slide, bounded."""

from __future__ import annotations

import asyncio
import errno
import io
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from blake3 import blake3
from PIL import Image
from psycopg.types.json import Jsonb

from mover.catalog.database import Database
from mover.demo.seaweed import Seaweed
from mover.errors import (
    Conflict,
    DigestMismatch,
    EntryMissing,
    FormatUnsupported,
    LimitExceeded,
    NotFound,
    RequestInvalid,
    SandboxFailed,
    StillWorking,
    StructureInvalid,
    TierFull,
    TierUnavailable,
)
from mover.model.ids import make_number
from mover.sandbox import Limits, Sandbox
from mover.tiers.port import ReadTier
from mover.tiers.posix import PosixTier
from mover.viewing import room as rooms
from mover.viewing import shelf
from mover.viewing.pyramid import READ_PIXELS, TILE_PX, Area, Pyramid
from mover.viewing.room import Viewing, viewing_sandbox
from tests.rooms.rig import OTHER, PROJECT, Rig
from tests.support.facts import insert
from tests.support.objects import whole_slide
from tests.support.postgres import Dsns
from tests.support.seaweed import object_tier
from tests.support.slides import label_picture, svs, tissue

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
SAMPLES = os.environ.get("MOVER_SAMPLES", "")
SIZE = (1300, 900)


@pytest.fixture(scope="module")
def child() -> Iterator[Sandbox]:
    with viewing_sandbox() as ready:
        yield ready


class Ward:
    """Slides published by hand, and the room that shows them."""

    def __init__(self, rig: Rig, child: Sandbox) -> None:
        self.rig, self.child = rig, child
        self.made = 0
        self._open: list[Viewing] = []

    def show(
        self, *, tiers: Mapping[str, ReadTier] | None = None, child: Sandbox | None = None, **more: Any
    ) -> Viewing:
        known = {"spool": self.rig.folder, "spool_bytes": 1 << 30} | more
        one = Viewing(self.rig.database, tiers or self.rig.tiers, child or self.child, **known)
        self._open.append(one)
        return one

    def publish(
        self, data: bytes, *, tier: ReadTier | None = None, extension: str = "svs", family: str = "aperio-svs",
        facts: Mapping[str, object] = {}, files: Mapping[str, bytes] = {},
    ) -> str:  # fmt: skip
        self.made += 1
        number = make_number(self.made.to_bytes(10, "big"))
        target = tier or self.rig.tiers["archive"]
        key = f"slides/{number}/1/{number}.{extension}"
        whole = {"root": "0" * 64, "files_count": len(files), "files_bytes": 1} if files else {}
        with psycopg.connect(self.rig.dsns.superuser) as conn:
            insert(conn, "slide", number=number, site="ward", family=family, extension=extension, tier=target.name,
                   size_bytes=len(data), digest=blake3(data).hexdigest(), key=key, facts=Jsonb(dict(facts)),
                   **whole)  # fmt: skip
            insert(conn, "slide_grant", project_id=PROJECT, number=number)
            for name, body in files.items():
                insert(conn, "slide_file", number=number, name=name, size_bytes=len(body), tier=target.name,
                       digest=blake3(body).hexdigest(), key=f"slides/{number}/1/{name}")  # fmt: skip
        for place, body in {key: data, **{f"slides/{number}/1/{name}": body for name, body in files.items()}}.items():
            target.put(place, [body], size_bytes=len(body))  # type: ignore[attr-defined]
        return number

    async def close(self) -> None:
        for one in self._open:
            await one.close()


@pytest.fixture
async def ward(tmp_path: Path, dsns: Dsns, database: Database, child: Sandbox) -> AsyncIterator[Ward]:
    made = Ward(Rig(tmp_path, dsns, database), child)
    yield made
    await made.close()


def picture(data: bytes | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(data)).convert("RGB")


def open_below(folder: Path) -> list[str]:
    """The slides that this process holds open."""
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return [
        place
        for link in links
        if os.path.lexists(link) and (place := os.readlink(link)).startswith(str(folder)) and place.endswith(".svs")
    ]


def apart(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, "f4") - np.asarray(other, "f4")).mean())


# --- what is shown -----------------------------------------------------------------------------------------


async def test_tiles_are_the_pixels_of_the_slide_and_know_themselves_again(ward: Ward) -> None:
    """A picture beside the wrong place would be worse than none; what a browser has is not drawn twice."""
    number = ward.publish(svs(size=SIZE), facts={"width": SIZE[0], "height": SIZE[1], "mpp_x": 0.5, "mpp_y": 0.5})
    shown = ward.show()

    seen = await shown.view(PROJECT, number)

    assert (seen.width, seen.height, seen.levels, seen.mpp_x) == (*SIZE, 12, 0.5)
    full = Image.fromarray(tissue(*SIZE)).convert("RGB")
    last = await shown.tile(PROJECT, number, "11", "2_1", known="")
    box = (2 * TILE_PX, TILE_PX, *SIZE)
    assert picture(last.data).size == (SIZE[0] - 2 * TILE_PX, SIZE[1] - TILE_PX)
    assert apart(picture(last.data), full.crop(box)) < 12 < apart(picture(last.data), full.crop((0, 0, 276, 388)))
    small = await shown.tile(PROJECT, number, "9", "0_0", known="")
    assert apart(picture(small.data), full.resize((325, 225), Image.Resampling.BOX)) < 12
    assert (await shown.tile(PROJECT, number, "11", "2_1", known=last.etag)).data is None
    assert last.etag != small.etag and "exif" not in picture(last.data).info
    part = await shown.region(PROJECT, number, x=1000, y=100, width=900, height=200, edge_px=150)
    assert picture(part.data).size == (150, 100)  # cut at the right edge, then half as large
    whole = await shown.region(PROJECT, number, x=0, y=0, width=None, height=None, edge_px=64)
    assert picture(whole.data).size == (64, 44)


async def test_no_label_can_be_reached(ward: Ward) -> None:
    """Even of a file that still has one: what is asked for is pixels of levels, and there is no other question."""
    number = ward.publish(svs(size=SIZE, label="S24-771001 Quincy"))
    shown = ward.show()
    seen = await shown.view(PROJECT, number)
    label = label_picture("S24-771001 Quincy")
    sizes = set()
    for level in range(seen.first_level, seen.levels):
        sizes.add(picture((await shown.tile(PROJECT, number, str(level), "0_0", known="")).data).size)
    assert label.shape[1::-1] not in sizes
    for place in ("label", "macro", "0_0/label", "-1_0", "0_0_0"):
        with pytest.raises((RequestInvalid, NotFound)):
            await shown.tile(PROJECT, number, str(seen.levels - 1), place, known="")
    for level, place in (("99", "0_0"), ("12", "0_0"), ("11", "3_0"), ("11", "0_2")):
        with pytest.raises(NotFound):
            await shown.tile(PROJECT, number, level, place, known="")
    with pytest.raises(RequestInvalid):
        await shown.region(PROJECT, number, x=SIZE[0], y=0, width=1, height=1, edge_px=64)


async def test_a_slide_of_several_files_is_read_by_their_names(ward: Ward) -> None:
    """Of a folder of DICOM objects the levels are one slide; a label among them stays where it is."""
    objects = whole_slide()
    number = ward.publish(
        objects["volume"], extension="dcm", family="dicom-wsm", facts={"width": 128, "height": 128},
        files={"2.dcm": objects["volume2"], "below/3.dcm": objects["label"]},
    )  # fmt: skip
    shown = ward.show()
    assert (await shown.view(PROJECT, number)).levels == 8
    assert picture((await shown.tile(PROJECT, number, "7", "0_0", known="")).data).size == (128, 128)


@pytest.mark.skipif(not SAMPLES, reason="the real samples are not here (MOVER_SAMPLES)")
async def test_real_slides_are_shown(ward: Ward) -> None:
    shown = ward.show()
    for path in ("wsi/CMU-1-Small-Region.svs", "wsi/test3-DAPI-2-(387).ndpi", "wsi/boxes.tiff",
                 "planted_dev/originals/wsi/leica.scn", "planted_dev/originals/wsi/ventana.bif"):  # fmt: skip
        file = Path(SAMPLES) / path
        number = ward.publish(file.read_bytes(), extension=file.suffix[1:])
        seen = await shown.view(PROJECT, number)
        drawn = picture((await shown.tile(PROJECT, number, str(seen.levels - 1), "0_0", known="")).data)
        assert drawn.size == (min(TILE_PX, seen.width), min(TILE_PX, seen.height)), path
        whole = await shown.tile(PROJECT, number, str(max(seen.first_level, 8)), "0_0", known="")
        assert np.asarray(picture(whole.data)).std() > 1 or "leica" in path, path


# --- who may ----------------------------------------------------------------------------------------------


async def test_others_a_withdrawn_slide_and_identified_tiers_show_nothing(ward: Ward) -> None:
    """Rights are asked for each picture: what is held open is shown to nobody who may not see the slide now."""
    number = ward.publish(svs(size=SIZE))
    shown = ward.show()
    await shown.view(PROJECT, number)
    for call in (shown.view(OTHER, number), shown.tile(OTHER, number, "11", "0_0", known="")):
        with pytest.raises(NotFound):
            await call
    intake = PosixTier("archive", "identified", ward.rig.folder / "archive", role="source", read_only=True)
    with pytest.raises(EntryMissing):
        await ward.show(tiers={"archive": intake}).view(PROJECT, number)
    found = "insert into mover.slide_withdrawal (number, reason, found_by) values (%s, 'identifier-found-later', 'x')"
    ward.rig.rows(found, number)
    with pytest.raises(Conflict, match="withdrawn"):
        await shown.tile(PROJECT, number, "11", "0_0", known="")


# --- what goes wrong ----------------------------------------------------------------------------------------


async def test_what_is_broken_or_unknown_is_said_and_costs_nobody_else(ward: Ward) -> None:
    whole = svs(size=SIZE)
    at = whole.index(b"\xff\xda") + 400
    broken = ward.publish(whole[:at] + bytes(4000) + whole[at + 4000 :])
    rubbish = ward.publish(b"II*\0rubbish")
    another = ward.publish(whole, facts={"width": 200, "height": 240})
    sound = ward.publish(whole)
    shown = ward.show()
    with pytest.raises(StructureInvalid, match="cannot be decoded"):
        await shown.tile(PROJECT, broken, "11", "0_0", known="")
    with pytest.raises(FormatUnsupported, match="no reader"):
        await shown.view(PROJECT, rubbish)
    with pytest.raises(FormatUnsupported, match="another picture"):
        await shown.view(PROJECT, another)
    assert (await shown.tile(PROJECT, sound, "11", "0_0", known="")).data
    key = ward.rig.rows("select key from mover.slide where number = %s", sound)[0].key
    os.truncate(ward.rig.folder / "archive" / key, len(whole) - 1)
    with pytest.raises(DigestMismatch):
        await ward.show().view(PROJECT, sound)


async def test_a_child_that_hangs_or_is_ended_is_told_as_that_and_the_next_picture_comes(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bomb for a decoder costs its picture: time and memory are the child's own."""
    number = ward.publish(svs(size=SIZE))
    small = Limits(memory_bytes=1 << 20, file_bytes=1 << 20)
    starved = Sandbox(("mover.viewing.child",), allowed=("mover.viewing.child",), limits=small)
    with starved, pytest.raises(SandboxFailed):
        await ward.show(child=starved).tile(PROJECT, number, "9", "0_0", known="")
    shown = ward.show()
    await shown.view(PROJECT, number)
    monkeypatch.setattr(shown, "_draw_s", 0.000001)
    with pytest.raises(SandboxFailed, match="in time"):
        await shown.tile(PROJECT, number, "11", "0_0", known="")
    monkeypatch.undo()
    assert (await shown.tile(PROJECT, number, "11", "0_0", known="")).data


async def test_slides_held_and_pictures_waited_for_are_bounded(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at a thousand slides holds a few; the one that was looked at last stays."""
    monkeypatch.setattr(shelf, "OPEN_SLIDES", 2)
    numbers = [ward.publish(svs(size=(64 + 64 * n, 64))) for n in range(4)]
    shown = ward.show()
    for number in numbers:
        await shown.view(PROJECT, number)
    held = shown._shelf._slides
    assert list(held) == numbers[-2:]
    monkeypatch.setattr(shelf, "OPEN_FILES", 0)
    with pytest.raises(LimitExceeded):
        await shown.view(PROJECT, numbers[0])
    monkeypatch.setattr(rooms, "WAITING", 0)
    with pytest.raises(LimitExceeded):
        await shown.tile(PROJECT, numbers[-1], "7", "0_0", known="")
    assert len(open_below(ward.rig.folder)) == 2
    shown._shelf._idle_s = 0.0
    shown._shelf._sweep()
    assert not held and not open_below(ward.rig.folder)


async def test_a_slide_of_an_object_tier_is_brought_here_once_and_is_what_was_published(
    ward: Ward, weed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brought whole to a file without a name; until it is there, whoever asks is told how far it is."""
    bucket = object_tier(weed)
    tiers: dict[str, ReadTier] = {"archive": bucket}
    number = ward.publish(svs(size=SIZE), tier=bucket)
    monkeypatch.setattr(shelf, "WAITERS", 0)
    monkeypatch.setattr(rooms, "WAITING", 0)
    for _ in range(2):  # who waits for a slide holds no turn of those that are drawn; and may be told at once
        with pytest.raises(StillWorking, match="being brought"):
            await ward.show(tiers=tiers).tile(PROJECT, number, "11", "0_0", known="")
    monkeypatch.undo()
    other = ward.publish(svs(size=(64, 64)), tier=bucket)
    ward.rig.rows("update mover.slide set digest = %s where number = %s", "ab" * 32, other)
    shown = ward.show(tiers=tiers, wait_s=0.0)
    with pytest.raises(StillWorking, match="being brought"):
        await shown.view(PROJECT, number)
    async with asyncio.timeout(60):
        while True:
            try:
                assert (await shown.view(PROJECT, number)).width == SIZE[0]
                break
            except StillWorking:
                await asyncio.sleep(0.01)
    assert shown._shelf._slides[number].done_bytes == len(svs(size=SIZE))
    assert (await shown.tile(PROJECT, number, "11", "0_0", known="")).data
    with pytest.raises(DigestMismatch, match="not what was published"):
        await ward.show(tiers=tiers).view(PROJECT, other)
    with pytest.raises(LimitExceeded, match="larger than"):
        await ward.show(tiers=tiers, spool_bytes=100).view(PROJECT, number)


async def test_a_slide_that_could_not_be_opened_is_tried_again_by_the_next_question(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is told as that, without a path, for as long as it is full."""
    number = ward.publish(svs(size=(64, 64)))
    shown = ward.show()
    links, why = shelf._links, errno.ENOSPC

    def broken(*_: Any, **__: Any) -> Any:
        raise OSError(why, os.strerror(why), "/var/lib/somewhere")

    monkeypatch.setattr(shelf, "_links", broken)
    with pytest.raises(TierFull, match="No space left") as told:
        await shown.view(PROJECT, number)
    assert "somewhere" not in str(told.value) and told.value.where == number
    why = errno.EMFILE
    for outcome in await asyncio.gather(*(shown.view(PROJECT, number) for _ in range(2)), return_exceptions=True):
        assert isinstance(outcome, TierUnavailable), outcome
    assert not shown._shelf._slides and not open_below(ward.rig.folder)
    monkeypatch.setattr(shelf, "_links", links)
    assert (await shown.view(PROJECT, number)).width == 64


# --- arithmetic ---------------------------------------------------------------------------------------------


def test_tiles_of_every_level_cover_the_slide_once_and_read_no_more_than_they_may() -> None:
    for wide, high, downs in ((100_000, 60_001, (1.0, 4.0001, 16.0)), (70_000, 513, (1.0,)), (1, 1, (1.0,))):
        seen = Pyramid(wide, high, downs)
        for level in range(seen.first_level, seen.levels):
            times = 1 << (seen.levels - 1 - level)
            step = TILE_PX * times
            columns, rows = -(-wide // step), -(-high // step)
            areas = [seen.tile(str(level), f"{c}_{r}") for c, r in
                     {(0, 0), (columns - 1, 0), (0, rows - 1), (columns - 1, rows - 1)}]  # fmt: skip
            right = max(area.x + area.width for area in areas), max(area.y + area.height for area in areas)
            assert right == (wide, high)
            for area in areas:
                read = seen.read_size(area)
                assert read[0] * read[1] <= READ_PIXELS and 0 < area.out_width <= TILE_PX >= area.out_height > 0
            with pytest.raises(NotFound):
                seen.tile(str(level), f"{columns}_0")
    flat = Pyramid(100_000, 100_000, (1.0,))
    assert flat.first_level == flat.levels - 4
    with pytest.raises(LimitExceeded, match="small enough"):
        flat.region(0, 0, None, None, edge_px=1024)
    assert flat.region(99_990, 0, 50, 50, edge_px=1024) == Area(99_990, 0, 10, 50, 10, 50)
