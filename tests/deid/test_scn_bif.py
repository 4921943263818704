"""Leica SCN and Ventana BIF: XML that readers need stays as numbers, pages that readers count stay blank."""

from __future__ import annotations

import base64
import io
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mover.deid.outcome import SlidePlan
from mover.deid.search import Seeker
from mover.deid.slides import plan_and_draw, plan_slide
from mover.deid.verify import render_thumbnail, verify_slide
from mover.errors import IdentityError, PlaceUnknown
from mover.model.source import MemorySource
from scanners.tiff import read_structure
from tests.support import scn_bif, slides

NAME, NUMBER, DATE = "Quincy-Øster", "MRN60338241", "2014:02:12 18:02:10"
PLANTED = f"{NAME} {NUMBER} {DATE}"
OWN = (
    "771001",
    "77100155",
    "SS1923821",
    "2014-02-12",
    "BI-SS771001",
    "technician77",
    "PATHSCAN",
    "Dec 12 2016",
    "Quincy",
)

CODED = {
    "plain": PLANTED.encode(),
    "utf-16": PLANTED.encode("utf-16-le"),
    "base64": base64.b64encode(PLANTED.encode()),
    "deflated": zlib.compress(PLANTED.encode() * 3),
}
ATTRIBUTES = f'Patient="{PLANTED}" note="{base64.b64encode(PLANTED.encode()).decode()}"'
MORE = f'<!-- {PLANTED} --><Case id="{NUMBER}">{NAME}<![CDATA[{DATE}]]></Case><?lis {PLANTED}?>'

VARIANTS: dict[str, Any] = {
    "scn": lambda **more: (scn_bif.scn(**more), ".scn"),
    "scn of two images": lambda **more: (scn_bif.scn(second=True, **more), ".scn"),
    "scn without thinned colours": lambda **more: (scn_bif.scn(encode=slides.jpeg, thinned=(1, 1), **more), ".scn"),
    "scn in a classic TIFF": lambda **more: (scn_bif.scn(layout=slides.Layout(), **more), ".scn"),
    "scn with slack": lambda **more: (scn_bif.scn(layout=slides.Layout(big=True, gap=CODED["plain"]), **more), ".scn"),
    "bif": lambda **more: (scn_bif.bif(**more), ".bif"),
    "bif with a bare iScan": lambda **more: (scn_bif.bif(wrapped=False, overlap=0, **more), ".bif"),
    "bif in a classic TIFF": lambda **more: (scn_bif.bif(layout=slides.Layout(tail=CODED["utf-16"]), **more), ".bif"),
    "ventana tiff": lambda **more: (scn_bif.bif(stitched=False, **more), ".tif"),
}


def clean(data: bytes, suffix: str, **options: Any) -> tuple[bytes, SlidePlan]:
    source = MemorySource(data)
    plan = plan_slide(source, suffix=suffix, **options)
    verify_slide(source, plan)
    return slides.run_recipe(data, plan.recipe.segments), plan


def assert_gone(output: bytes, *strings: str) -> None:
    assert Seeker(strings or (NAME, NUMBER, DATE, *OWN)).find(output) == 0


def tags(coded: bytes) -> list[slides.Entry]:
    codes = [slides.raw(code, coded + b"\0", 2) for code in (269, 285, 306, 315, 316, 33432)]
    return [*codes, slides.raw(33723, coded), slides.raw(65123, coded), slides.raw(37510, coded)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_planted_slide_comes_out_clean_and_whole(variant: str, tmp_path: Path) -> None:
    """Vendor, geometry, resolution, objective and every pixel stay; names, dates, serials and the label go."""
    data, suffix = VARIANTS[variant](label=PLANTED, extra=tags(CODED["plain"]), attributes=ATTRIBUTES, more=MORE)
    output, plan = clean(data, suffix)
    assert_gone(output)
    before, after = tmp_path / f"before{suffix}", tmp_path / f"after.{plan.extension}"
    before.write_bytes(data)
    after.write_bytes(output)
    assert "openslide-pixels" in verify_slide(MemorySource(data), plan).methods
    with openslide.OpenSlide(before) as old, openslide.OpenSlide(after) as new:
        assert new.level_dimensions == old.level_dimensions
        kept = ("vendor", "mpp-x", "mpp-y", "objective-power", "bounds-x", "region[0].x", "region[1].y")
        for name in kept:
            assert new.properties.get(f"openslide.{name}") == old.properties.get(f"openslide.{name}"), name
        assert set(new.associated_images) == {"macro"}
        assert len(np.unique(np.asarray(new.associated_images["macro"]).reshape(-1, 4), axis=0)) == 1
        for level in range(old.level_count):
            for number in range(2):
                x, y = (int(old.properties.get(f"openslide.region[{number}].{axis}", 0)) for axis in "xy")
                assert new.read_region((x, y), level, (256, 256)) == old.read_region((x, y), level, (256, 256))
    assert tiles_of(after)[-plan.tile_count :] == tiles_of(before)[-plan.tile_count :]


def tiles_of(path: Path) -> list[bytes]:
    with tifffile.TiffFile(path) as tiff:
        found = []
        for page in tiff.pages:
            for at, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                tiff.filehandle.seek(at)
                found.append(tiff.filehandle.read(count))
        return found


@pytest.mark.parametrize("coded", CODED)
@pytest.mark.parametrize("variant", ["scn", "bif"])
def test_a_tag_says_nothing_in_any_coding(variant: str, coded: str) -> None:
    data, suffix = VARIANTS[variant](extra=tags(CODED[coded]))
    assert_gone(clean(data, suffix)[0])


def test_directories_of_a_leica_slide_keep_their_numbers() -> None:
    """The description names directories by number: the overview's must still be there, and nothing of it."""
    output, plan = clean(*VARIANTS["scn"](label=PLANTED))
    structure = read_structure(MemorySource(output))
    assert len(structure.directories) == 3
    assert b'ifd="0"' in output and b'ifd="2"' in output
    assert plan.facts.levels == ((192, 128), (48, 32))


def test_a_directory_no_image_names_shows_nothing() -> None:
    """Some scanners add the label as a directory of its own that only a further element names."""
    images = scn_bif.scn_image((25000000, 75000000, 0, 0), [(64, 192)], 0, objective="0.6")
    images += scn_bif.scn_image((96000, 64000, 4000000, 30000000), [(192, 128)], 2)
    told = scn_bif.scn_text(images + '<supplementalImage type="label" ifd="1"/>')
    label = scn_bif.tiled(slides.label_picture(PLANTED, 64, 64))
    first = scn_bif.tiled(slides.label_picture(PLANTED, 64, 192), extra=[slides.text(270, told)])
    data = slides.assemble([first, label, scn_bif.tiled(slides.tissue(192, 128))], slides.Layout(big=True))
    output, plan = clean(data, ".scn")
    with tifffile.TiffFile(io.BytesIO(output)) as tiff:
        assert [len(np.unique(page.asarray())) == 1 for page in tiff.pages] == [True, True, False]
    assert plan.tile_count == 6


def test_an_image_as_coarse_as_an_overview_is_none_of_tissue_whatever_its_view() -> None:
    """A label's part of the glass is no "macro" to OpenSlide, and would pass for tissue."""
    images = scn_bif.scn_image((25000000, 25000000, 0, 0), [(64, 192)], 0, objective="0.6", light="fluorescence")
    images += scn_bif.scn_image((96000, 64000, 4000000, 30000000), [(192, 128), (48, 32)], 1)
    output, _ = clean(scn_bif.scn(description=scn_bif.scn_text(images), label=PLANTED), ".scn")
    with tifffile.TiffFile(io.BytesIO(output)) as tiff:
        assert len(np.unique(tiff.pages[0].asarray())) == 1


def test_a_fluorescence_slide_is_proved_without_openslide() -> None:
    """OpenSlide shows brightfield images only; the second parser decodes the tiles itself."""
    images = scn_bif.scn_image((25000000, 75000000, 0, 0), [(64, 192)], 0, objective="0.6")
    images += scn_bif.scn_image((96000, 64000, 4000000, 30000000), [(192, 128), (48, 32)], 1, light="fluorescence")
    data = scn_bif.scn(description=scn_bif.scn_text(images), label=PLANTED)
    source = MemorySource(data)
    plan = plan_slide(source, suffix=".scn")
    evidence = verify_slide(source, plan)
    assert "tifffile-pixels" in evidence.methods and "openslide-pixels" not in evidence.methods
    assert evidence.tiles_decoded == 7
    assert render_thumbnail(source, plan, edge_px=32)[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE scn [<!ENTITY a "Quincy">]>' + scn_bif.scn_text("&a;"),
        scn_bif.scn_text(scn_bif.scn_image((96000, 64000, 0, 0), [(192, 128)], 7)),
        scn_bif.scn_text(scn_bif.scn_image((96000, 64000, 0, 0), [(64, 191)], 0)),
        scn_bif.scn_text(scn_bif.scn_image((25000000, 75000000, 0, 0), [(64, 192)], 0)),
        scn_bif.scn_text("<image>") + "<",
        scn_bif.scn_text("<a>" * 100 + "</a>" * 100),
    ],
    ids=["entity", "directory", "size", "overview only", "malformed", "deep"],
)
def test_a_description_that_contradicts_the_file_is_refused(text: str) -> None:
    with pytest.raises(IdentityError):
        plan_slide(MemorySource(scn_bif.scn(description=text)), suffix=".scn")


def test_a_geometry_that_repeats_what_was_removed_is_refused() -> None:
    """Nothing kept may carry an identifier, and the glass cannot do without its size."""
    with pytest.raises(PlaceUnknown):
        plan_slide(MemorySource(scn_bif.scn()), suffix=".scn", known=("30000000",))


@pytest.mark.parametrize("number", ["25000000", "25000", "0000000 25000"])
def test_a_dropped_number_that_is_part_of_the_geometry_is_no_leak(number: str) -> None:
    """A site's own attribute may repeat the glass's size, or a round number that is part of it."""
    clean(scn_bif.scn(attributes=f'width="{number}"'), ".scn")


@pytest.mark.parametrize(
    "iscan",
    [
        f"ScanRes='0.25' Magnification='40' Mode='{NAME}' ScannerModel='{NAME}' ScanWhitePoint='{NUMBER}'",
        f"ScanRes='0.25' Magnification='40' X{NUMBER}='1' Barcode=\"{NUMBER}\" Z-layers='1'",
    ],
)
def test_listed_attributes_keep_only_values_of_their_type(iscan: str) -> None:
    output, _ = clean(scn_bif.bif(iscan=iscan), ".bif")
    assert_gone(output)
    assert b'Magnification="40"' in output


@pytest.mark.parametrize(
    ("variant", "name"), [("scn", "objective"), ("scn", "numericalAperture"), ("bif", "ScanWhitePoint")]
)
def test_a_listed_name_a_profile_does_not_want_is_left_out(variant: str, name: str) -> None:
    data, suffix = VARIANTS[variant]()
    assert name.encode() in clean(data, suffix)[0]
    plan, _ = plan_and_draw(MemorySource(data), suffix=suffix, unwanted=(name.upper(), "ifd", "Tile1"))
    output = slides.run_recipe(data, plan.recipe.segments)
    assert f" {name}=".encode() not in output and f"<{name}>".encode() not in output
    assert b" ifd=" in output or b" Tile1=" in output


def test_a_levels_description_keeps_its_three_numbers() -> None:
    """OpenSlide finds levels by this text; whatever else a site writes into it goes."""
    told = f"level=0 mag=40 quality=90 case={NUMBER} {NAME}"
    info = slides.raw(700, scn_bif.encode_info(4, 4).encode(), 1)
    pictures = [
        slides.strips(slides.label_picture(NAME), description="Label_Image",
                      extra=[slides.raw(700, f"<iScan {scn_bif.ISCAN}/>".encode(), 1)]),
        scn_bif.tiled(slides.tissue(256, 256), extra=[slides.text(270, told), info]),
    ]  # fmt: skip
    output, _ = clean(slides.assemble(pictures, slides.Layout(big=True)), ".bif")
    assert_gone(output)
    assert b"level=0 mag=40 quality=90\0" in output


def test_the_thumbnail_of_a_stitched_slide_is_drawn_from_the_output() -> None:
    source = MemorySource(scn_bif.bif())
    picture = render_thumbnail(source, plan_slide(source, suffix=".bif"), edge_px=64)
    assert picture[:3] == b"\xff\xd8\xff"
    assert_gone(picture)


# --- the law, over random plants and damage --------------------------------------------------------------

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=6, max_size=24)
secrets = words.filter(lambda text: len(text.strip()) >= 6 and not set("<>&'\"=|\0") & set(text))


@cache
def _plain(ventana: bool) -> bytes:
    return clean(scn_bif.bif() if ventana else scn_bif.scn(), ".bif" if ventana else ".scn")[0]


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    secret=secrets,
    where=st.sampled_from(["name", "attribute", "element", "comment", "tag", "slack", "base64"]),
    ventana=st.booleans(),
)
def test_whatever_is_planted_wherever_is_not_found_in_the_output(secret: str, where: str, ventana: bool) -> None:
    coded = base64.b64encode(secret.encode()).decode()
    attributes = {"attribute": f'site="{secret}"', "base64": f'site="{coded}"'}.get(where, "")
    more = {"element": f"<Site>{secret}</Site>", "comment": f"<!--{secret.replace('-', '.')}-->"}.get(where, "")
    options: dict[str, Any] = {"attributes": attributes, "more": more}
    if where == "tag":
        options["extra"] = [slides.raw(65000, secret.encode() + b"\0", 2)]
    if where == "slack":
        options["layout"] = slides.Layout(big=True, gap=secret.encode())
    if where == "name" and not ventana:
        options["label"] = secret
    data = scn_bif.bif(**options) if ventana else scn_bif.scn(**options)
    assume(Seeker([secret]).find(_plain(ventana)) == 0)  # zeros are part of any glass's size
    try:
        output, _ = clean(data, ".bif" if ventana else ".scn")
    except IdentityError:
        return
    assert_gone(output, secret)


@pytest.mark.parametrize("ventana", [False, True])
def test_a_damaged_slide_is_refused_or_still_proved(ventana: bool) -> None:
    """Damage to the structures, and files cut short: nothing but our own refusals comes out."""
    whole = scn_bif.bif() if ventana else scn_bif.scn()
    structure = read_structure(MemorySource(whole))
    rng = np.random.default_rng(7)
    spots = [0, *(directory.offset for directory in structure.directories)]
    spots += [
        tag.at for directory in structure.directories for tag in directory.tags.values() if tag.code in (270, 700)
    ]
    for round_ in range(60):
        data = bytearray(whole)
        at = max(0, int(rng.choice(spots))) + int(rng.integers(0, 300))
        data[at : at + 2] = rng.bytes(2)
        if round_ % 4 == 0:
            del data[int(rng.integers(16, len(data))) :]
        try:
            output, _ = clean(bytes(data), ".bif" if ventana else ".scn")
        except IdentityError:
            continue
        assert_gone(output, "77100155", "SS1923821", "technician77")


@pytest.mark.parametrize("compression", [1, 5, 8])
def test_a_label_in_any_coding_stands_blank(compression: int, tmp_path: Path) -> None:
    """Scanners write the label's page without JPEG, too, in many strips."""
    pixels = slides.label_picture(PLANTED)
    rows = 64
    encode = {1: bytes, 5: lambda one: bytes(imagecodecs.lzw_encode(one)), 8: zlib.compress}[compression]
    told = f"<iScan {scn_bif.ISCAN}/>".encode()
    entries = (
        slides.entry(256, 4, 200), slides.entry(257, 4, 240), slides.entry(258, 3, 8, 8, 8),
        slides.entry(259, 3, compression), slides.entry(262, 3, 2), slides.text(270, "Label_Image"),
        slides.entry(277, 3, 3), slides.entry(278, 4, rows), slides.entry(284, 3, 1), slides.raw(700, told, 1),
    )  # fmt: skip
    strips = tuple(encode(pixels[top : top + rows].tobytes()) for top in range(0, 240, rows))
    level = scn_bif.tiled(slides.tissue(256, 256), extra=[slides.text(270, "level=0 mag=40 quality=90")])
    data = slides.assemble([slides.Picture(entries, strips, False), level], slides.Layout(big=True))
    output, _ = clean(data, ".tif")
    (tmp_path / "out.tif").write_bytes(output)
    assert_gone(output)
    with openslide.OpenSlide(tmp_path / "out.tif") as slide:
        shown = np.asarray(slide.associated_images["macro"])
        assert shown.shape == (240, 200, 4) and len(np.unique(shown)) == 1
    assert not any(strip[20:60] in output for strip in strips)


@pytest.mark.parametrize("variant", ["scn", "scn of two images", "bif", "ventana tiff"])
def test_a_large_slide_is_proved_by_its_smallest_level_and_samples(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a slide of gigabytes: the smallest levels whole, a few tiles of the others, nothing else in memory."""
    data, suffix = VARIANTS[variant]()
    source = MemorySource(data)
    plan = plan_slide(source, suffix=suffix)
    smallest = min(range(len(plan.facts.levels)), key=lambda level: plan.facts.levels[level])
    monkeypatch.setattr("mover.deid.sampling.WHOLE_BYTES", 0)
    monkeypatch.setattr("mover.deid.sampling.SMALL_BYTES", 20_000)
    evidence = verify_slide(source, plan, samples=2)
    assert smallest and evidence.tiles_decoded < plan.tile_count
    assert {"openslide-pixels", "tifffile-pixels"} <= set(evidence.methods)
    assert render_thumbnail(source, plan, edge_px=64)[:3] == b"\xff\xd8\xff"


def test_a_number_in_a_place_for_small_numbers_is_no_measure() -> None:
    """A record number is a whole number, too; most measures of a slide are far smaller."""
    data = scn_bif.scn()
    for old, new in ((b'spacingZ="0"', b'spacingZ="60338241"'), (b'<pixels sizeX="192"', b'<pixels sizeX="6033824"')):
        assert old in data
        described = read_structure(MemorySource(data)).directories[0].tags[270]
        told = data[described.at : described.at + described.size_bytes - 1].decode()
        output, _ = clean(scn_bif.scn(description=told.replace(old.decode(), new.decode())), ".scn")
        assert_gone(output, new.split(b'"')[1].decode())
