"""From planted slide to clean slide: whatever stands wherever, none of it gets through, and no tile is lost."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scanners
from mover.deid.outcome import SlidePlan
from mover.deid.search import Seeker
from mover.deid.slides import plan_slide
from mover.deid.verify import render_thumbnail, verify_slide
from mover.errors import IdentityError, RedactionUnproven
from mover.model.recipe import Copy
from mover.model.source import MemorySource
from scanners.tiff import read_structure, read_value
from tests.support import slides

NAME, NUMBER, DATE = "Quincy-Øster", "MRN60338241", "2024:03:04 11:22:33"
PLANTED = f"{NAME} {NUMBER} {DATE}"

CODED = {
    "plain": PLANTED.encode(),
    "utf-16": PLANTED.encode("utf-16-le"),
    "base64": base64.b64encode(PLANTED.encode()),
    "hex": PLANTED.encode().hex().encode(),
    "deflated": zlib.compress(PLANTED.encode() * 3),
}

KEYS = (
    f"AppMag = 20|ScanScope ID = {NUMBER}|Filename = {NAME}|Title = {NAME}, Ada|Date = {DATE}|User = {NAME}"
    f"|MPP = 0.4990|Barcode = {NUMBER};A1|Site Key = {PLANTED}|Left = 25.1|Top = {NUMBER}"
)

VARIANTS: dict[str, Any] = {
    "classic": {},
    "bigtiff": {"layout": slides.Layout(big=True)},
    "big-endian": {"layout": slides.Layout(big=True, order=">")},
    "gt450": {"gt450": True},
    "jpeg2000 ycbcr": {"encode": slides.jp2k, "compression": 33003},
    "jpeg2000 rgb": {"encode": slides.jp2k, "compression": 33005},
    "missing tiles": {"empty": frozenset({2, 7})},
    "slack": {"layout": slides.Layout(gap=PLANTED.encode() + b"\0", tail=CODED["utf-16"])},
}


def clean(data: bytes, suffix: str = ".svs", **options: Any) -> tuple[bytes, SlidePlan]:
    source = MemorySource(data)
    plan = plan_slide(source, suffix=suffix, **options)
    verify_slide(source, plan)
    return slides.run_recipe(data, plan.recipe.segments), plan


def assert_gone(output: bytes, *strings: str) -> None:
    """Searched over every output byte, tiles included, by the tests' own list of strings."""
    assert Seeker(strings or (NAME, NUMBER, DATE)).find(output) == 0


@pytest.mark.parametrize("name", ["Perio", "Filte", "Library"])
def test_a_person_whose_name_is_part_of_a_scanners_word_loses_no_slide_and_no_key(name: str) -> None:
    """`Perio` of Aperio and `Filte` of USM Filter are sought outside of these words; `Library` is one of them."""
    keys = f"AppMag = 20|MPP = 0.4990|Parmset = USM Filter|User = {name}"
    output, plan = clean(slides.svs(keys=keys), known=(name,))
    assert b"USM Filter" in output and b"Aperio" in output
    assert (name in plan.removed) == (name != "Library")


def extra_tags(coded: bytes, order: str = "<") -> list[slides.Entry]:
    return [
        *[slides.raw(code, coded + b"\0", 2) for code in (269, 285, 305, 306, 315, 316, 33432)],
        slides.raw(700, coded, 1),
        *[slides.raw(code, coded) for code in (33723, 34377, 37510, 50001, 65123)],
        slides.entry(34853, 4, *struct.unpack(f"{order}12I", coded.ljust(48, b"\0")[:48]), order=order),
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_planted_slide_comes_out_clean_and_whole(variant: str, tmp_path: Path) -> None:
    """The whole promise in one test, for every way an Aperio slide is laid out."""
    options = VARIANTS[variant]
    order = options.get("layout", slides.Layout()).order
    data = slides.svs(keys=KEYS, extra=extra_tags(CODED["plain"], order), label=PLANTED, **options)
    output, plan = clean(data)
    assert_gone(output)
    before, after = write(tmp_path, "before.svs", data), write(tmp_path, "after.svs", output)
    with openslide.OpenSlide(before) as old, openslide.OpenSlide(after) as new:
        assert new.properties["openslide.vendor"] == "aperio"
        assert new.level_dimensions == old.level_dimensions
        assert new.properties["openslide.mpp-x"] == old.properties["openslide.mpp-x"] == "0.499"
        assert new.properties["openslide.objective-power"] == "20"
        assert set(new.associated_images) == {"thumbnail"}
        assert new.read_region((0, 0), 0, (320, 256)) == old.read_region((0, 0), 0, (320, 256))
    assert segments_of(after) == segments_of(before)
    assert plan.tile_count == len([one for one in segments_of(before) if one])


@pytest.mark.parametrize("coded", CODED)
def test_a_private_tag_says_nothing_in_any_coding(coded: str) -> None:
    output, _ = clean(slides.svs(extra=extra_tags(CODED[coded])))
    assert_gone(output)


def test_a_planted_hamamatsu_slide_comes_out_clean_and_whole(tmp_path: Path) -> None:
    words = (
        f"Created=2024/03/04\r\nProduct=C13210\r\nNDP.S/N={NUMBER}\r\nPatientName={NAME}\r\nObjective.Lens.Magnificant=17.58"
        f"\r\n;NDP Shading Data\r;Date={DATE}\r;SerialNumber={NUMBER}\r"
    )
    data = slides.ndpi(
        reference=f"{NAME}_{NUMBER}", properties=words, extra=[slides.raw(65123, CODED["utf-16"])], tail=CODED["plain"]
    )
    output, _ = clean(data, ".ndpi")
    assert_gone(output, NAME, NUMBER, DATE, "2024/03/04", "770011", "S24-771001")
    before, after = write(tmp_path, "before.ndpi", data), write(tmp_path, "after.ndpi", output)
    with openslide.OpenSlide(before) as old, openslide.OpenSlide(after) as new:
        assert new.properties["openslide.vendor"] == "hamamatsu"
        assert new.level_dimensions == old.level_dimensions
        for name in ("openslide.mpp-x", "openslide.mpp-y", "openslide.objective-power"):
            assert new.properties[name] == old.properties[name]
        assert not new.associated_images
        assert new.read_region((0, 0), 0, (256, 192)) == old.read_region((0, 0), 0, (256, 192))
    with tifffile.TiffFile(after) as tiff:
        assert tiff.is_ndpi
        assert len(tiff.pages) == 2
        assert (tiff.pages[0].asarray() == tifffile.imread(before, key=0)).all()


def test_hamamatsu_offsets_beyond_4_gib_keep_their_high_words() -> None:
    """Levels of a large slide lie there; a lost high word would point every reader at other bytes."""
    shift = 5 << 30
    data = slides.ndpi()
    source = ShiftedNdpi(data, shift)
    plan = plan_slide(source, suffix=".ndpi")
    assert all(one.offset >= shift for one in plan.recipe.segments if isinstance(one, Copy))
    verify_slide(source, plan)


class ShiftedNdpi:
    """The same NDPI with everything behind its header moved beyond 4 GiB."""

    def __init__(self, data: bytes, shift: int) -> None:
        self.shift = shift
        self.size_bytes = len(data) + shift
        moved = bytearray(data)
        structure = read_structure(MemorySource(data))
        struct.pack_into("<Q", moved, 4, structure.directories[0].offset + shift)
        for directory in structure.directories:
            entries = len(directory.tags)
            after = directory.offset + 2 + 12 * entries
            (following,) = struct.unpack_from("<Q", moved, after)
            struct.pack_into("<Q", moved, after, following + shift if following else 0)
            for index, tag in enumerate(directory.tags.values()):
                field = directory.offset + 2 + 12 * index + 8
                if tag.inline is None or tag.code == 273:
                    at = tag.at or int(read_value(MemorySource(data), "<", tag)[0])
                    struct.pack_into("<I", moved, field, (at + shift) & 0xFFFFFFFF)
                    struct.pack_into("<I", moved, after + 8 + 4 * index, (at + shift) >> 32)
        self._data = bytes(moved)

    def read(self, offset: int, length: int) -> bytes:
        """The header stays where it is; the zeros between are never interesting."""
        out = bytearray(length)
        for at, piece in ((0, self._data[:12]), (self.shift + 12, self._data[12:])):
            start, end = max(at, offset), min(at + len(piece), offset + length)
            if start < end:
                out[start - offset : end - offset] = piece[start - at : end - at]
        return bytes(out)


def series_of(path: Path) -> dict[str, list[tuple[int, ...]]]:
    """As tifffile, and tiffslide on top of it, understand the directories."""
    with tifffile.TiffFile(path) as tiff:
        return {one.name: [level.shape for level in one.levels] for one in tiff.series}


NO_LABEL = frozenset({3, 4})


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        (frozenset[int](), {"Baseline": [(256, 320, 3), (64, 80, 3)], "Thumbnail": [(64, 80, 3)]}),
        (frozenset({1}), {"Baseline": [(256, 320, 3), (64, 80, 3)], "Thumbnail": [(64, 80, 3)]}),
        (frozenset({2}), {"Baseline": [(256, 320, 3)], "Thumbnail": [(64, 80, 3)]}),
        (frozenset({1, 2}), {"Baseline": [(256, 320, 3)]}),
        (NO_LABEL, {"Baseline": [(256, 320, 3), (64, 80, 3)], "Thumbnail": [(64, 80, 3)]}),
        (NO_LABEL | {1, 2}, {"Baseline": [(256, 320, 3)]}),
    ],
)
def test_readers_that_take_the_second_directory_for_the_thumbnail_find_one_there(
    left_out: frozenset[int], expected: dict[str, list[tuple[int, ...]]], tmp_path: Path
) -> None:
    """Only OpenSlide asks what a directory is; to the others the pyramid would lack its second level."""
    output, _ = clean(slides.svs(leave_out=left_out))
    path = write(tmp_path, "out.svs", output)
    assert series_of(path) == expected
    with openslide.OpenSlide(path) as slide:
        assert set(slide.associated_images) == ({"thumbnail"} if "Thumbnail" in expected else set())


def test_whatever_the_sources_thumbnail_showed_the_outputs_shows_the_tissue(tmp_path: Path) -> None:
    """A scanner's thumbnail can show a pen's writing or a label; ours is drawn from the published tiles."""
    painted = slides.label_picture(PLANTED, 80, 64)
    output, _ = clean(slides.svs(thumbnail=painted))
    with openslide.OpenSlide(write(tmp_path, "out.svs", output)) as slide:
        shown = np.asarray(slide.associated_images["thumbnail"].convert("RGB"), int)
        level = np.asarray(slide.read_region((0, 0), 1, (80, 64)).convert("RGB"), int)
    assert np.abs(shown - level).mean() < 3
    assert np.abs(shown - painted).mean() > 30


def test_a_thumbnail_that_is_not_the_slide_in_small_does_not_lend_its_size(tmp_path: Path) -> None:
    """Readers put the thumbnail over the slide: its proportions must be the slide's."""
    output, _ = clean(slides.svs(thumbnail=slides.label_picture(PLANTED, 60, 64)))
    assert series_of(write(tmp_path, "out.svs", output))["Thumbnail"] == [(64, 80, 3)]


def test_the_same_source_gives_the_same_plan() -> None:
    data = slides.svs(keys=KEYS)
    assert plan_slide(MemorySource(data), suffix=".svs") == plan_slide(MemorySource(data), suffix=".svs")


def test_neighbouring_tiles_become_one_copy() -> None:
    """A recipe of a million segments would be slow to run; a slide without gaps needs two."""
    plan = plan_slide(MemorySource(slides.svs()), suffix=".svs")
    assert len([one for one in plan.recipe.segments if isinstance(one, Copy)]) == 2


def test_a_file_name_given_from_outside_is_searched_for_too() -> None:
    """The barcode is the name, and the name is not in the file's tags at all."""
    data = slides.svs(keys="AppMag = 20|MPP = 0.4990|OriginalWidth = 7710012")
    _, plan = clean(data, known=("7710012",))
    assert "7710012" not in repr(plan.recipe)


def test_the_thumbnail_is_drawn_from_the_clean_pyramid_and_carries_no_words() -> None:
    data = slides.svs(keys=KEYS, label=PLANTED)
    source = MemorySource(data)
    picture = render_thumbnail(source, plan_slide(source, suffix=".svs"), edge_px=64)
    assert picture[:3] == b"\xff\xd8\xff"
    markers = {picture[at + 1] for at in range(len(picture) - 1) if picture[at] == 0xFF} - {0}
    assert not markers & {0xE1, 0xE2, 0xED, 0xFE}
    assert_gone(picture)


# --- the law, over random plants -------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=6, max_size=24)
names = words.filter(lambda text: len(text.strip()) >= 6 and not {"|", "=", "\0"} & set(text))


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    secret=names,
    code=st.sampled_from([269, 285, 305, 306, 315, 316, 33432, 33723, 37510, 40000, 65000, 65123]),
    key=st.sampled_from(["Title", "Barcode", "Left", "MPP2", "Patient", "Gamma", "Parmset"]),
    where=st.sampled_from(["tag", "key", "slack", "tail", "label"]),
    big=st.booleans(),
)
def test_whatever_is_planted_wherever_is_not_found_in_the_output(
    secret: str, code: int, key: str, where: str, big: bool
) -> None:
    """Either the slide is refused or the planted string is gone: there is no third outcome."""
    layout = slides.Layout(
        big=big,
        gap=secret.encode() if where == "slack" else b"",
        tail=secret.encode("utf-16-le") if where == "tail" else b"",
    )
    data = slides.svs(
        keys=f"AppMag = 20|MPP = 0.4990|{key} = {secret if where == 'key' else 'x'}".encode(),
        extra=[slides.raw(code, secret.encode() + b"\0", 2)] if where == "tag" else [],
        layout=layout,
        size=(128, 128),
    )
    try:
        output, _ = clean(data)
    except IdentityError:
        return
    assert_gone(output, secret)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(at=st.integers(0, 10**6), value=st.binary(min_size=1, max_size=8), ndpi=st.booleans())
def test_a_damaged_slide_is_refused_or_still_proved(at: int, value: bytes, ndpi: bool) -> None:
    """Random damage to structure: nothing but our own refusals may come out, and what passes is proved clean."""
    data = bytearray(slides.ndpi() if ndpi else slides.svs(size=(128, 128)))
    structure = read_structure(MemorySource(bytes(data)))
    spots = [0, *[directory.offset for directory in structure.directories]]
    start = (spots[at % len(spots)] + at // len(spots) % 400) % (len(data) - 8)
    data[start : start + len(value)] = value
    try:
        output, _ = clean(bytes(data), ".ndpi" if ndpi else ".svs")
    except IdentityError:
        return
    assert_gone(output, "S24-771001", "SS7719" if not ndpi else "770011")


# --- small tools -------------------------------------------------------------------------------------------


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def segments_of(path: Path) -> list[bytes]:
    """Every tile of every tiled page, by tifffile."""
    with tifffile.TiffFile(path) as tiff:
        found = []
        for page in tiff.pages:
            if page.is_tiled:
                for at, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                    tiff.filehandle.seek(at)
                    found.append(tiff.filehandle.read(count) if count else b"")
        return found


def test_a_slide_openslide_cannot_open_is_not_passed_on_trust() -> None:
    """Big-endian classic TIFF: OpenSlide does not read it, so its pixels cannot be proved."""
    source = MemorySource(slides.svs(layout=slides.Layout(order=">")))
    assert scanners.identify(source, ".svs").byte_order == ">"
    with pytest.raises(RedactionUnproven):
        plan_slide(source, suffix=".svs")
