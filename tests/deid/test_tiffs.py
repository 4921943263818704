"""Pyramids of no vendor, OME-TIFF and Philips TIFF: from planted slide to clean slide, and no tile lost."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
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
from mover.errors import FormatUnsupported, IdentityError, PlaceUnknown, RedactionUnproven, StructureInvalid
from mover.model.recipe import Literal, Recipe
from mover.model.source import MemorySource
from tests.support import slides, tiffs
from tests.support.slides import Layout
from tests.support.tiffs import Sheet, label, ome_image, ome_xml

NAME, NUMBER, DATE = "Quincy-Øster", "MRN60338241", "2024-03-04T11:22:33"
PLANTED = f"{NAME} {NUMBER} {DATE}"
CODED = {
    "plain": PLANTED.encode(),
    "utf-16": PLANTED.encode("utf-16-le"),
    "base64": base64.b64encode(PLANTED.encode()),
    "hex": PLANTED.encode().hex().encode(),
    "deflated": zlib.compress(PLANTED.encode() * 3),
}


def clean(data: bytes, **options: Any) -> tuple[bytes, SlidePlan]:
    source = MemorySource(data)
    plan = plan_slide(source, suffix=".tif", **options)
    verify_slide(source, plan)
    return slides.run_recipe(data, plan.recipe.segments), plan


def assert_gone(output: bytes, *strings: str) -> None:
    """Searched over every output byte, tiles included, by the tests' own list of strings."""
    assert Seeker(strings or (NAME, NUMBER, DATE)).find(output) == 0


def series_of(data: bytes) -> list[tuple[str, list[tuple[int, ...]]]]:
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        return [(one.kind, [level.shape for level in one.levels]) for one in tiff.series]


def pages_of(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    return [one for page in tiff.pages for one in (page, *(page.pages if page.subifds else ()))]


def tiles_of(data: bytes) -> dict[tuple[int, int], list[bytes]]:
    """Every tile of every tiled page by its size, by tifffile."""
    found: dict[tuple[int, int], list[bytes]] = {}
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        for page in pages_of(tiff):
            if page.is_tiled:
                for at, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                    found.setdefault((page.imagewidth, page.imagelength), []).append(data[at : at + count])
    return found


def xml_of(data: bytes) -> str:
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        return str(tiff.pages[0].description)


def extras(coded: bytes) -> list[slides.Entry]:
    return [
        *[slides.raw(code, coded + b"\0", 2) for code in (269, 271, 272, 285, 306, 315, 316, 333, 33432, 42112)],
        slides.raw(700, coded, 1),
        *[slides.raw(code, coded) for code in (33723, 34377, 37510, 50001, 65123)],
        slides.raw(34675, slides.icc(NUMBER)),
    ]


# --- pyramids of no vendor -----------------------------------------------------------------------------


@pytest.mark.parametrize("below", [False, True], ids=["in the chain", "in SubIFDs"])
@pytest.mark.parametrize("compression", tiffs.ENCODERS)
def test_a_planted_pyramid_keeps_its_tiles_and_not_one_word(compression: int, below: bool, tmp_path: Path) -> None:
    """Tiles of whatever codec are copied and never decoded; levels stand where they stood."""
    texts = [slides.text(270, PLANTED), slides.text(305, PLANTED), *extras(CODED["plain"])]
    data = tiffs.pyramid(compression=compression, below=below, extra=texts, size=(192, 128), others=[label(PLANTED)])
    output, plan = clean(data)
    assert_gone(output)
    assert tiles_of(output) == tiles_of(data)
    assert plan.facts.vendor == "generic-tiff" and plan.facts.mpp_x == 0.25
    assert series_of(output) == [("generic", [(128, 192, 3), (64, 96, 3)])]
    if compression not in (33005, 50001):
        before, after = write(tmp_path, "before.tif", data), write(tmp_path, "after.tif", output)
        with openslide.OpenSlide(before) as old, openslide.OpenSlide(after) as new:
            assert new.properties["openslide.vendor"] == "generic-tiff"
            assert new.properties["openslide.mpp-x"] == old.properties["openslide.mpp-x"]
            assert new.level_dimensions == old.level_dimensions and not new.associated_images
            shown = [np.asarray(one.read_region((0, 0), 0, (192, 128))) for one in (old, new)]
            assert (shown[0] == shown[1]).all()


LAYOUTS = {
    "classic": Layout(gap=CODED["plain"], tail=CODED["utf-16"]),
    "bigtiff": Layout(big=True, gap=CODED["utf-16"], tail=CODED["plain"]),
    "big-endian": Layout(big=True, order=">", gap=CODED["base64"]),
}


@pytest.mark.parametrize("make", [tiffs.pyramid, tiffs.ome, tiffs.philips])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bytes_between_the_structures_are_never_copied(make: Callable[..., bytes], layout: str) -> None:
    output, _ = clean(make(layout=LAYOUTS[layout]))
    assert_gone(output)


@pytest.mark.parametrize("make", [tiffs.pyramid, tiffs.ome, tiffs.philips])
@pytest.mark.parametrize("coded", CODED)
def test_a_tag_says_nothing_in_any_coding(make: Callable[..., bytes], coded: str) -> None:
    output, _ = clean(make(extra=extras(CODED[coded])))
    assert_gone(output)


@pytest.mark.parametrize(
    "other",
    [
        label(PLANTED),
        label(PLANTED, tiled=True),
        label(PLANTED, tiled=True, kind=1),
        label(PLANTED, tiled=True, kind=None),
        Sheet(tiffs.tiles((256, 192), kind=4)),
    ],
    ids=["strips", "tiles", "tiles that call themselves reduced", "tiles that say nothing", "a mask"],
)
def test_a_picture_that_is_no_level_is_left_out(other: Sheet) -> None:
    """Whatever a label says of itself, it has other proportions than the slide."""
    output, plan = clean(tiffs.pyramid(others=[other]))
    assert set(tiles_of(output)) == {(256, 192), (128, 96)}
    assert len(series_of(output)) == 1 and len(series_of(output)[0][1]) == 2
    assert any(one.action == "drop" and one.place == "page 2 (other)" for one in plan.decisions)


def test_levels_of_writers_that_do_not_call_them_so_are_kept() -> None:
    """Halved to the pixel, in the same tiles and codec."""
    small = Sheet(tiffs.tiles((128, 96), kind=None))
    data = tiffs.assemble([Sheet(tiffs.tiles((256, 192), kind=None)), small])
    output, plan = clean(data)
    assert tiles_of(output) == tiles_of(data) and plan.facts.levels == ((256, 192), (128, 96))
    odd = tiffs.assemble([Sheet(tiffs.tiles((256, 192), kind=None)), Sheet(tiffs.tiles((112, 84), kind=None))])
    assert clean(odd)[1].facts.levels == ((256, 192),)


@pytest.mark.parametrize("levels", [1, 2])
def test_a_slide_behind_what_may_be_its_label_is_refused(levels: int) -> None:
    """Readers take the first directory for the slide; here that would be the label, and the slide would be dropped."""
    front = Sheet(tiffs.tiles((128, 192), pixels=slides.label_picture(PLANTED, 128, 192)))
    behind = [Sheet(tiffs.tiles((512 >> n, 384 >> n), kind=min(n, 1))) for n in range(levels)]
    with pytest.raises(StructureInvalid, match="first directory"):
        clean(tiffs.assemble([front, *behind]))


def test_a_slide_behind_a_label_that_has_copies_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The label was published and the slide dropped; what is larger than any label is no label behind a slide."""
    sizes = [(256, 384), (128, 192)]
    front = [
        Sheet(tiffs.tiles(size, pixels=slides.label_picture(PLANTED, *size), kind=n)) for n, size in enumerate(sizes)
    ]
    monkeypatch.setattr(scanners.generic, "LABEL_PIXELS", 512 * 512 - 1)
    with pytest.raises(StructureInvalid, match="first directory"):
        clean(tiffs.assemble([*front, Sheet(tiffs.tiles((512, 512)))]))


def test_a_tiled_label_of_more_pixels_than_the_tissue_is_dropped() -> None:
    """Behind the slide, with no copies of its own: no doubt which of the two is the slide."""
    behind = Sheet(tiffs.tiles((384, 448), pixels=slides.label_picture(PLANTED, 384, 448)))
    assert set(tiles_of(clean(tiffs.pyramid(others=[behind]))[0])) == {(256, 192), (128, 96)}


def test_planes_of_the_slides_very_size_are_kept() -> None:
    data = tiffs.pyramid(others=[Sheet(tiffs.tiles((256, 192), seed=2, kind=0))])
    output, plan = clean(data)
    assert tiles_of(output) == tiles_of(data) and plan.facts.levels[-1] == (256, 192)


def test_an_icc_profile_is_the_same_to_the_byte() -> None:
    profile = slides.icc()
    output, _ = clean(tiffs.pyramid(extra=[slides.raw(34675, profile)]))
    with tifffile.TiffFile(io.BytesIO(output)) as tiff:
        assert tiff.pages[0].tags[34675].value == profile


def test_a_word_of_the_profile_that_stands_in_a_dropped_text_does_not_stop_the_slide() -> None:
    """Exporters name the profile in the description."""
    texts = [slides.text(270, "sRGB built-in, no copyright, by Quincy"), slides.raw(34675, slides.icc())]
    output, plan = clean(tiffs.pyramid(extra=texts))
    assert "Quincy" in plan.removed
    assert b"Quincy" not in output


def test_a_picture_without_tiles_is_refused_by_name() -> None:
    data = slides.assemble([slides.strips(slides.tissue(64, 64))])
    with pytest.raises(FormatUnsupported, match="without tiles"):
        plan_slide(MemorySource(data), suffix=".tif")


# --- OME -----------------------------------------------------------------------------------------------

DATA = [f'<TiffData IFD="{number}" PlaneCount="1"/>' for number in range(4)]
SPACED = 'PhysicalSizeX="0.25" PhysicalSizeY="0.25"'
COARSE = 'PhysicalSizeX="30" PhysicalSizeY="30"'


def label_image(number: int, ifd: int, *, spacing: str = "") -> str:
    return ome_image(number, (128, 192), name="label image", data=DATA[ifd], spacing=spacing)


def planted_xml() -> str:
    inside = f"<AcquisitionDate>{DATE}</AcquisitionDate><Description>{PLANTED}</Description>"
    head = (
        f'<Experimenter ID="Experimenter:0" FirstName="Ada" LastName="{NAME}" Email="{NUMBER}@example.org"/>'
        f'<Instrument ID="Instrument:0"><Microscope SerialNumber="{NUMBER}"/>'
        '<Objective ID="Objective:0:0" NominalMagnification="40" LensNA="0.75"/></Instrument>'
    )
    tail = (
        "<StructuredAnnotations><XMLAnnotation ID='Annotation:0'><Value><OriginalMetadata><Key>Barcode</Key>"
        f"<Value>{NUMBER};A1</Value></OriginalMetadata></Value></XMLAnnotation></StructuredAnnotations><!-- {NAME} -->"
    )
    data = f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="{NAME}.ome.tif">urn:uuid:{NUMBER}</UUID></TiffData>'
    channels = f'<Channel ID="Channel:0:0" SamplesPerPixel="3" Name="{NAME}" Color="-1"/>'
    image = ome_image(0, (256, 192), name=f"{NAME} {NUMBER}", inside=inside, data=data, channels=channels)
    return ome_xml(
        image, label_image(1, 1), head=head, tail=tail, attributes=f' UUID="urn:uuid:{NUMBER}" Creator="{NAME}"'
    )


def test_a_planted_ome_tiff_keeps_geometry_objective_and_pyramid_and_nothing_else() -> None:
    data = tiffs.ome(xml=planted_xml(), others=[label(PLANTED)], extra=extras(CODED["plain"]))
    output, plan = clean(data)
    assert_gone(output)
    assert tiles_of(output) == tiles_of(data)
    assert series_of(output) == [("ome", [(192, 256, 3), (96, 128, 3)])]
    assert (plan.facts.mpp_x, plan.facts.objective, plan.extension) == (0.25, 40, "ome.tif")
    assert xml_of(output) == (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Instrument ID="Instrument:0"><Objective ID="Objective:0:0" NominalMagnification="40" LensNA="0.75"/>'
        '</Instrument><Image ID="Image:0"><InstrumentRef ID="Instrument:0"/><ObjectiveSettings ID="Objective:0:0"/>'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="256" SizeY="192" SizeC="3" SizeZ="1" '
        'SizeT="1" PhysicalSizeX="0.25" PhysicalSizeY="0.25"><Channel ID="Channel:0:0" SamplesPerPixel="3" '
        'Color="-1"/><TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    )


LABELS: dict[str, Callable[[], bytes]] = {
    "strips behind": lambda: tiffs.ome(
        xml=ome_xml(ome_image(0, (256, 192)), label_image(1, 1)), others=[label(PLANTED)]
    ),
    "tiles behind": lambda: tiffs.ome(
        xml=ome_xml(ome_image(0, (256, 192)), label_image(1, 1, spacing=SPACED)), others=[label(PLANTED, tiled=True)]
    ),
    "tiles with a pyramid": lambda: tiffs.ome(
        xml=ome_xml(ome_image(0, (256, 192)), label_image(1, 1)),
        others=[Sheet(label(PLANTED, tiled=True).picture, (Sheet(tiffs.tiles((64, 96), kind=1)),))],
    ),
    "strips in front": lambda: tiffs.ome(
        xml=ome_xml(label_image(0, 0), ome_image(1, (256, 192), data=DATA[1])), first=[label(PLANTED)]
    ),
    "tiles in front": lambda: tiffs.ome(
        xml=ome_xml(label_image(0, 0), ome_image(1, (256, 192), data=DATA[1])), first=[label(PLANTED, tiled=True)]
    ),
    "of no image": lambda: tiffs.ome(others=[label(PLANTED)]),
    "a lookalike of the slide's name": lambda: tiffs.ome(
        xml=ome_xml(ome_image(0, (256, 192), name="label image, macro"), label_image(1, 1).replace("label", "slide")),
        others=[label(PLANTED, tiled=True)],
    ),
}


@pytest.mark.parametrize("where", LABELS)
def test_an_ome_label_goes_wherever_it_stands_and_however_it_is_dressed(where: str) -> None:
    """Structure decides: other tools take the word "label" and delete the slide, or keep it for its tiles."""
    data = LABELS[where]()
    output, _ = clean(data)
    assert series_of(output) == [("ome", [(192, 256, 3), (96, 128, 3)])]
    assert set(tiles_of(output)) == {(256, 192), (128, 96)}
    assert 'IFD="0"' in xml_of(output)


@pytest.mark.parametrize("spacing", [COARSE, "", SPACED])
def test_a_small_piece_of_tissue_is_the_slide_beside_a_label_of_more_pixels(spacing: str) -> None:
    """The label was published and the tissue dropped: a label camera has a million pixels, a core may have fewer."""
    wide = slides.label_picture(PLANTED, 384, 448)
    front = Sheet(tiffs.tiles((384, 448), pixels=wide))
    images = ome_image(0, (384, 448), spacing=spacing), ome_image(1, (256, 192), data=DATA[1])
    output, _ = clean(tiffs.ome(xml=ome_xml(*images), first=[front]))
    assert series_of(output) == [("ome", [(192, 256, 3), (96, 128, 3)])]


def test_a_second_region_of_the_same_glass_is_kept() -> None:
    """Same micrometres per pixel, same tiles, as many levels: what scanners write for two pieces of tissue."""
    region = Sheet(tiffs.tiles((192, 128)), (Sheet(tiffs.tiles((96, 64), kind=1)),))
    xml = ome_xml(ome_image(0, (256, 192)), ome_image(1, (192, 128), data=DATA[1]))
    data = tiffs.ome(xml=xml, others=[region])
    output, _ = clean(data)
    assert tiles_of(output) == tiles_of(data)
    assert [levels for _, levels in series_of(output)] == [[(192, 256, 3), (96, 128, 3)], [(128, 192, 3), (64, 96, 3)]]


@pytest.mark.soak
def test_thousands_of_annotations_do_not_stop_a_slide() -> None:
    """Converters write every vendor key as one. They are all dropped; so many are sought, and counted."""
    pairs = (f"<Key>Key {n} of the scanner</Key><Value>{NAME} {n * 7919}</Value>" for n in range(9000))
    tail = "".join(f"<XMLAnnotation><Value>{pair}</Value></XMLAnnotation>" for pair in pairs)
    output, plan = clean(
        tiffs.ome(xml=ome_xml(ome_image(0, (256, 192)), tail=f"<StructuredAnnotations>{tail}</StructuredAnnotations>"))
    )
    assert_gone(output, NAME, "71271000")
    assert len(plan.decisions) < 1000 and sum(one.times for one in plan.decisions) > 18_000


def test_channels_keep_their_order_when_a_label_stood_between_them() -> None:
    """The directories' numbers in the XML are the output's."""
    stains = ["DAPI", "Cy5", NAME]
    channels = "".join(
        f'<Channel ID="Channel:0:{n}" SamplesPerPixel="1" Name="{one}"/>' for n, one in enumerate(stains)
    )
    data = "".join(f'<TiffData FirstC="{c}" IFD="{at}" PlaneCount="1"/>' for c, at in ((0, 0), (1, 1), (2, 3)))
    image = ome_image(0, (256, 192), channels=channels, data=data, kind="uint16")
    deep: dict[str, Any] = {"samples": 1, "bits": 16, "compression": 8}

    def plane(seed: int) -> Sheet:
        return Sheet(
            tiffs.tiles((256, 192), seed=seed, **deep), (Sheet(tiffs.tiles((128, 96), seed=seed, kind=1, **deep)),)
        )

    source = tiffs.ome(xml=ome_xml(image, label_image(1, 2)), others=[plane(2), label(PLANTED), plane(3)], **deep)
    output, _ = clean(source)
    assert series_of(output) == [("ome", [(3, 192, 256), (3, 96, 128)])]
    with tifffile.TiffFile(io.BytesIO(source)) as before, tifffile.TiffFile(io.BytesIO(output)) as after:
        assert (before.series[0].asarray() == after.series[0].asarray()).all()
    assert 'Name="Cy5"' in xml_of(output) and NAME not in xml_of(output)


def test_an_ome_tiff_as_tifffile_writes_it_comes_out_as_one(tmp_path: Path) -> None:
    pixels = slides.tissue(256, 192)
    told = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "Name": PLANTED}
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as writer:
        shared: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "compression": "zlib"}
        writer.write(pixels, subifds=1, metadata=told, **shared)
        writer.write(pixels[::2, ::2], subfiletype=1, **shared)
    data = path.read_bytes()
    output, plan = clean(data)
    assert series_of(output) == series_of(data) and plan.facts.mpp_x == 0.25
    assert_gone(output)


OME_REFUSED: dict[str, tuple[str, type[IdentityError]]] = {
    "planes in another file": (
        ome_xml(
            ome_image(0, (256, 192), data=DATA[0].replace("/>", '><UUID FileName="b">urn:uuid:2</UUID></TiffData>')),
            attributes=' UUID="urn:uuid:1"',
        ),
        FormatUnsupported,
    ),
    "a size that is another": (ome_xml(ome_image(0, (300, 192))), StructureInvalid),
    "directories that are not there": (ome_xml(ome_image(0, (256, 192), data=DATA[3])), StructureInvalid),
    "one directory for two images": (ome_xml(ome_image(0, (256, 192)), ome_image(1, (256, 192))), StructureInvalid),
    "no image": (ome_xml(), StructureInvalid),
    "planes without end": (
        ome_xml(ome_image(0, (256, 192), data='<TiffData IFD="0" PlaneCount="9999999"/>')), StructureInvalid
    ),
    "a size that is a word": (ome_xml(ome_image(0, (256, 192)).replace('"256"', f'"{NAME}"')), StructureInvalid),
    "a kind that is a word": (ome_xml(ome_image(0, (256, 192)).replace("XYCZT", NAME)), PlaceUnknown),
}  # fmt: skip


@pytest.mark.parametrize("why", OME_REFUSED)
def test_ome_whose_structure_contradicts_itself_is_refused(why: str) -> None:
    xml, error = OME_REFUSED[why]
    with pytest.raises(error) as caught:
        plan_slide(MemorySource(tiffs.ome(xml=xml)), suffix=".ome.tif")
    assert NAME not in str(caught.value)


# --- Philips -------------------------------------------------------------------------------------------


def planted_philips(**options: Any) -> bytes:
    root = [
        tiffs.attribute("DICOM_ACQUISITION_DATETIME", DATE),
        tiffs.attribute("DICOM_DEVICE_SERIAL_NUMBER", NUMBER),
        tiffs.attribute("PIIM_DP_SCANNER_OPERATOR_ID", NAME),
        tiffs.attribute("PIM_DP_UFS_BARCODE", base64.b64encode(PLANTED.encode()).decode()),
        tiffs.attribute("PIM_DP_UFS_INTERFACE_VERSION", "3.0"),
        tiffs.attribute("Site Key", PLANTED),
    ]
    slide = [
        tiffs.attribute("PIM_DP_SOURCE_FILE", f"{NUMBER}.isyntax"),
        tiffs.attribute("DICOM_DERIVATION_DESCRIPTION", f"tiff-sourceFilename={NAME}-LABELIMAGE"),
    ]
    pictures = [tiffs.philips_picture("LABELIMAGE", PLANTED), tiffs.philips_picture("MACROIMAGE", PLANTED)]
    return tiffs.philips(xml=tiffs.philips_xml(*root, slide=slide, pictures=pictures), **options)


def test_a_planted_philips_slide_keeps_vendor_spacing_and_levels(tmp_path: Path) -> None:
    """Its own XML speaks of LABELIMAGE, which is why another tool deletes the slide and keeps the label."""
    extra = [one for one in extras(CODED["plain"]) if one.code not in (271, 272)]
    data = planted_philips(others=[label(PLANTED)], extra=extra, empty=frozenset({2, 7}))
    output, plan = clean(data)
    assert_gone(output)
    assert tiles_of(output) == tiles_of(data)
    assert "LABELIMAGE" not in xml_of(output) and "/9j/" not in xml_of(output)
    assert (plan.facts.mpp_x, plan.facts.vendor) == (0.25, "philips")
    before, after = write(tmp_path, "before.tiff", data), write(tmp_path, "after.tiff", output)
    with openslide.OpenSlide(before) as old, openslide.OpenSlide(after) as new:
        for key in ("openslide.vendor", "openslide.mpp-x", "openslide.mpp-y"):
            assert new.properties[key] == old.properties[key]
        assert new.properties["openslide.vendor"] == "philips"
        assert new.level_dimensions == old.level_dimensions and not new.associated_images
        shown = [np.asarray(one.read_region((0, 0), 0, (256, 192))) for one in (old, new)]
        assert (shown[0] == shown[1]).all()


@pytest.mark.parametrize(
    "told",
    [
        tiffs.attribute("DICOM_MANUFACTURER", NAME),
        tiffs.attribute("PIM_DP_IMAGE_COLUMNS", "60338241"),
        tiffs.attribute("DICOM_LOSSY_IMAGE_COMPRESSION_RATIO", "60338241"),
        tiffs.attribute(NUMBER, "1"),
        tiffs.attribute("DICOM_MANUFACTURER", "PHILIPS", kind=NAME),
        f"<Comment>{PLANTED}</Comment>",
        PLANTED,
    ],
)
def test_a_listed_attribute_of_another_form_is_dropped(told: str) -> None:
    output, _ = clean(tiffs.philips(xml=tiffs.philips_xml(told, slide=[told])))
    assert_gone(output, NAME, NUMBER, DATE, "60338241")


@pytest.mark.parametrize("software", [f"Philips {PLANTED}", f"Philips DP v1.0 {PLANTED}", "Philips DP v2.1"])
def test_a_program_that_is_not_of_the_known_form_leaves_the_vendors_word_alone(software: str) -> None:
    """Without it no reader would know the vendor."""
    output, _ = clean(tiffs.philips(software=software))
    with tifffile.TiffFile(io.BytesIO(output)) as tiff:
        assert tiff.pages[0].tags[305].value == ("Philips DP v2.1" if len(software) == 15 else "Philips DP v1.0")
    assert_gone(output)


@pytest.mark.parametrize(
    "packed", [slides.jpeg(slides.tissue(256, 256)), bytes(range(256)) * 40, zlib.compress(b"a" * 9)]
)
def test_bytes_in_base64_are_sought_by_pieces(packed: bytes) -> None:
    """A profile or picture holds slashes by the hundred, and they part no words."""
    told = base64.b64encode(packed * (1 + 4000 // len(packed))).decode()
    output, plan = clean(tiffs.philips(xml=tiffs.philips_xml(tiffs.attribute("DICOM_ICCPROFILE", told))))
    assert len(plan.removed) < 200 and any(text in told and len(text) == 48 for text in plan.removed)
    assert told[100:148].encode() not in output


def test_a_levels_words_pass_by_their_form_only() -> None:
    """A level that calls itself a label is a level, and what it says is gone."""
    output, _ = clean(tiffs.philips(words=f"Label {PLANTED}"))
    assert_gone(output)
    assert set(tiles_of(output)) == {(256, 192), (128, 128)}


@pytest.mark.parametrize("images", [0, 2])
def test_xml_of_no_slide_or_of_two_is_refused(images: int) -> None:
    xml = tiffs.philips_xml(pictures=[tiffs.philips_image("WSI")] * (images - 1 if images else 0))
    with pytest.raises(IdentityError):
        clean(tiffs.philips(xml=xml if images else xml.replace(">WSI<", ">LABELIMAGE<")))


def test_tiles_that_are_no_halving_of_the_slide_are_refused() -> None:
    """OpenSlide takes every tiled page for a level, so it cannot be left out in silence."""
    with pytest.raises(PlaceUnknown):
        clean(tiffs.philips(others=[label(PLANTED, tiled=True)]))


# --- the second look, and damage -----------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[], bytes], bytes, bytes]] = {
    "a name in OME": (tiffs.ome, b'ID="Image:0"', b'ID="Quincy:"'),
    "text in OME": (tiffs.ome, b"<Channel ", b"Quincy:0 "),
    "another directory in OME": (tiffs.ome, b'IFD="0"', b'IFD="7"'),
    "a word in Philips": (tiffs.philips, b">PHILIPS<", b">Quincyy<"),
    "an attribute in Philips": (tiffs.philips, b"DICOM_MANUFACTURER", b"DICOM_PATIENTSNAME"),
    "a program in Philips": (tiffs.philips, b"Philips DP v1.0\0", b"Philips Quincy\0\0"),
    "a level's words in Philips": (tiffs.philips, b"level=1 mag=20", b"label=1 mag=20"),
    "a text tag of no vendor": (tiffs.pyramid, b"\x1c\1\3\0\1\0\0\0\1\0\0\0", b"\x0e\1\2\0\1\0\0\0\1\0\0\0"),
}


@pytest.mark.parametrize("error", WRONG)
def test_a_wrong_literal_is_seen(error: str) -> None:
    make, right, wrong = WRONG[error]
    source = MemorySource(make())
    plan = plan_slide(source, suffix=".tif")
    head = plan.recipe.segments[0]
    assert isinstance(head, Literal) and right in head.data and len(right) == len(wrong)
    changed = Literal(head.data.replace(right, wrong, 1))
    recipe = Recipe(plan.recipe.source_bytes, (changed, *plan.recipe.segments[1:]))
    with pytest.raises(RedactionUnproven):
        verify_slide(source, msgspec.structs.replace(plan, recipe=recipe))


@pytest.mark.parametrize("make", [tiffs.pyramid, tiffs.ome, tiffs.philips])
def test_a_slide_cut_short_anywhere_is_refused(make: Callable[[], bytes]) -> None:
    data = make()
    for keep in (0.02, 0.3, 0.6, 0.9, 0.99, 0.999):
        with pytest.raises(IdentityError):
            clean(data[: int(len(data) * keep)])


@pytest.mark.parametrize("make", [tiffs.pyramid, tiffs.ome, tiffs.philips])
def test_the_same_source_gives_the_same_plan_and_a_picture(make: Callable[[], bytes]) -> None:
    source = MemorySource(make())
    plan = plan_slide(source, suffix=".tif")
    assert plan == plan_slide(source, suffix=".tif")
    assert render_thumbnail(source, plan, edge_px=64)[:3] == b"\xff\xd8\xff"


@pytest.mark.slow
@settings(max_examples=90, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    at=st.integers(0, 10**6), value=st.binary(min_size=1, max_size=8), kind=st.sampled_from(["no", "ome", "philips"])
)
def test_a_damaged_slide_is_refused_or_still_proved(at: int, value: bytes, kind: str) -> None:
    """Random damage to structure and XML: nothing but our own refusals may come out, and what passes is clean."""
    data = bytearray(DAMAGED[kind])
    scan = scanners.identify(MemorySource(DAMAGED[kind]), ".tif")
    used = np.sort(np.concatenate([np.frombuffer(page.pixels.offsets, "u8") for page in scan.pages]))
    spots = [int(used[-1]) + 200, int(used[0]) - 200, len(data) - 600, 8, data.find(b"<?xml") % len(data)]
    start = (spots[at % len(spots)] + at // len(spots) % 1500) % (len(data) - 8)
    data[start : start + len(value)] = value
    try:
        output, _ = clean(bytes(data))
    except IdentityError:
        return
    assert_gone(output, NUMBER)


DAMAGED = {
    "no": tiffs.pyramid(size=(128, 64), extra=[slides.text(270, NUMBER)]),
    "ome": tiffs.ome(xml=planted_xml(), others=[label(PLANTED)]),
    "philips": planted_philips(),
}

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=6, max_size=24)
secrets = words.filter(lambda text: len(text.strip()) >= 6 and not set("<>&\"'\0") & set(text))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    secret=secrets,
    name=st.sampled_from(
        ["Name", "Type", "SizeC", "PhysicalSizeX", "PhysicalSizeXUnit", "Color", "SamplesPerPixel", "x"]
    ),
    where=st.sampled_from(["ome", "channel", "element", "philips", "slide", "comment"]),
)
def test_whatever_is_planted_in_xml_is_not_found_in_the_output(secret: str, name: str, where: str) -> None:
    """Either the slide is refused or the planted string is gone: there is no third outcome."""
    pixels = f' {name}="{secret}" ' if where == "ome" and name not in ("Type", "SizeC", "PhysicalSizeX") else ""
    inside = f"<{name}>{secret}</{name}>" if where == "element" else ""
    channel = f' {name}="{secret}"' if where == "channel" and name != "SamplesPerPixel" else ""
    told = ome_xml(
        ome_image(0, (128, 64), inside=inside, spacing=SPACED + pixels,
                  channels=f'<Channel ID="Channel:0:0" SamplesPerPixel="3"{channel}/>'),
        tail=f"<!--{secret.replace('-', '')}-->" if where == "comment" else "",
    )  # fmt: skip
    one = tiffs.attribute("DICOM_MANUFACTURER" if name == "x" else f"PIM_{name}", secret)
    xml = tiffs.philips_xml(*([one] if where == "philips" else []), slide=[one] if where == "slide" else [])
    data = tiffs.philips(xml=xml) if where in ("philips", "slide") else tiffs.ome(xml=told, size=(128, 64))
    try:
        output, _ = clean(data)
    except IdentityError:
        return
    assert_gone(output, secret)


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path
