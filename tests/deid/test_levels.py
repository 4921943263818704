"""A label in a level's clothes: tiled, of the slide's proportions, called reduced. Only its picture tells."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFilter

from mover.deid import child, drawing, pyramid
from mover.deid.outcome import Prepared
from mover.deid.pyramid import Grid
from mover.deid.slides import plan_slide
from mover.deid.verify import verify_slide
from mover.errors import RedactionUnproven
from tests.support import scn_bif, slides, tiffs
from tests.support.slides import Layout, Picture, text
from tests.support.tiffs import Sheet

SIZE = (640, 512)
SMALL = (320, 256)
STRANGER = "a page that passes for a level shows another picture"
HEAD = "Aperio Image Library v12.0.15\r\n640x512 [0,0 640x512] (64x64) JPEG/RGB Q=80"


def label(size: tuple[int, int], words: str = "S24-771001\nQuincy, Ann\n1950-03-04\nMRN 77100155\n" * 3) -> np.ndarray:
    return np.asarray(Image.fromarray(slides.label_picture(words, 128, 160)).resize(size))


def aperio(*below: Picture, layout: Layout = Layout()) -> bytes:  # noqa: B008 - a frozen value
    first = slides.level(SIZE, description=f"{HEAD}|AppMag = 20|MPP = 0.4990")
    small = slides.strips(slides.tissue(80, 64), description=HEAD)
    return slides.assemble([first, small, *below], layout)


def aperio_level(size: tuple[int, int], pixels: np.ndarray | None = None) -> Picture:
    told = tiffs.tiles(size, pixels=_filled(pixels, size), description=f"{HEAD} -> {size[0]}x{size[1]} JPEG/RGB Q=80")
    return told if pixels is not None else slides.level(size, description=f"{HEAD} -> {size[0]}x{size[1]} JPEG/RGB")


def _filled(pixels: np.ndarray | None, size: tuple[int, int]) -> np.ndarray | None:
    if pixels is None:
        return None
    return np.pad(pixels, ((0, -size[1] % 64), (0, -size[0] % 64), (0, 0)), mode="edge")


def generic(*below: np.ndarray) -> bytes:
    pages = [
        Sheet(tiffs.tiles((one.shape[1], one.shape[0]), kind=1, pixels=_filled(one, (one.shape[1], one.shape[0]))))
        for one in below
    ]
    return tiffs.assemble([Sheet(tiffs.tiles(SIZE)), *pages])


def ome(*below: np.ndarray) -> bytes:
    told = tiffs.ome_xml(tiffs.ome_image(0, SIZE))
    children = [
        Sheet(tiffs.tiles((one.shape[1], one.shape[0]), kind=1, pixels=_filled(one, (one.shape[1], one.shape[0]))))
        for one in below
    ]
    return tiffs.assemble([Sheet(tiffs.tiles(SIZE, description=told), tuple(children))], Layout(big=True))


def philips() -> bytes:
    told = tiffs.philips_xml()
    software = text(305, "Philips DP v1.0")
    pages = [Sheet(tiffs.tiles(SIZE, description=told, extra=[software], kind=None))]
    told = "level=1 mag=20 quality=80"
    return tiffs.assemble([*pages, Sheet(tiffs.tiles(SMALL, description=told, extra=[software], pixels=label(SMALL)))])


def ventana() -> bytes:
    xmp = f'<?xml version="1.0" encoding="utf-8"?><iScan {scn_bif.ISCAN}></iScan>'
    return slides.assemble([
        slides.strips(slides.label_picture("Q"), description="Label_Image", extra=[slides.raw(700, xmp.encode(), 1)]),
        slides.strips(slides.label_picture("Q", 64, 64), description="Thumbnail"),
        scn_bif.tiled(slides.tissue(*SIZE), extra=[text(270, "level=0 mag=40 quality=90")]),
        scn_bif.tiled(label(SMALL), extra=[text(270, "level=1 mag=20 quality=90")]),
    ], Layout(big=True))  # fmt: skip


def leica() -> bytes:
    images = scn_bif.scn_image((25000000, 75000000, 0, 0), [(64, 192)], 0, objective="0.6")
    images += scn_bif.scn_image((160000, 128000, 4000000, 30000000), [SIZE, SMALL], 1)
    overview = scn_bif.tiled(slides.label_picture("Q", 64, 192), extra=[text(270, scn_bif.scn_text(images))])
    pages = [overview, scn_bif.tiled(slides.tissue(*SIZE)), scn_bif.tiled(label(SMALL))]
    return slides.assemble(pages, Layout(big=True))


def prepared(tmp_path: Path, data: bytes, suffix: str) -> tuple[Prepared, bytes]:
    path = tmp_path / f"slide{suffix}"
    path.write_bytes(data)
    with path.open("rb") as file:
        made = msgspec.msgpack.decode(child.prepare(file.fileno(), suffix, [], 256, []), type=Prepared)
    return made, slides.run_recipe(data, made.plan.recipe.segments)


def proved(tmp_path: Path, data: bytes, suffix: str) -> int:
    path = tmp_path / f"slide{suffix}"
    path.write_bytes(data)
    with path.open("rb") as file:
        source = child.FdSource(file.fileno())
        return verify_slide(source, plan_slide(source, suffix=suffix)).levels


def sizes_in(data: bytes) -> list[tuple[int, int]]:
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        return [(one.imagewidth, one.imagelength) for page in tiff.pages for one in (page, *(page.pages or ()))]


@pytest.mark.parametrize(
    ("suffix", "data", "left"),
    [
        (".svs", aperio(aperio_level(SMALL, label(SMALL)), aperio_level((160, 128))), [SIZE, (160, 128), (160, 128)]),
        (".svs", aperio(aperio_level(SMALL), aperio_level((160, 128), label((160, 128)))), [SIZE, SMALL, SMALL]),
        (".tif", generic(label(SMALL), slides.tissue(160, 128)), [SIZE, (160, 128)]),
        (".tif", generic(label(SMALL), label((160, 128), "Prof. Quincy\n" * 9)), [SIZE]),
        (".ome.tif", ome(slides.tissue(*SMALL), label((160, 128))), [SIZE, SMALL]),
    ],
    ids=["aperio, the first", "aperio, the last", "generic, the first", "generic, both", "a SubIFD"],
)
def test_a_label_in_a_levels_clothes_is_dropped_and_the_slide_is_whole(
    tmp_path: Path, suffix: str, data: bytes, left: list[tuple[int, int]]
) -> None:
    """Where no reader misses the level, the slide crosses without it: the true levels and nothing else."""
    made, output = prepared(tmp_path, data, suffix)
    found = sizes_in(output)
    if suffix == ".svs":  # the thumbnail in the second directory is drawn anew from the smallest level
        found = [found[0], *found[2:], found[-1]]
    assert found == left
    assert made.plan.strangers
    assert any(one.place.endswith("(other)") and one.action == "drop" for one in made.plan.decisions)


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".svs", aperio(aperio_level(SMALL, label(SMALL)))),
        (".tif", generic(slides.tissue(*SMALL), label((160, 128)))),
        (".ome.tif", ome(label(SMALL))),
        (".tiff", philips()),
        (".bif", ventana()),
        (".scn", leica()),
    ],
    ids=["aperio", "generic", "ome", "philips", "ventana", "leica"],
)
def test_no_proof_lets_a_label_pass_as_a_level(tmp_path: Path, suffix: str, data: bytes) -> None:
    """Philips, Ventana and Leica count on their levels: such a slide waits for a person."""
    with pytest.raises(RedactionUnproven, match=STRANGER):
        proved(tmp_path, data, suffix)


def test_a_vendors_slide_with_such_a_page_is_refused(tmp_path: Path) -> None:
    """No second plan is made where readers count on every level."""
    with pytest.raises(RedactionUnproven, match=STRANGER):
        prepared(tmp_path, philips(), ".tiff")


def test_more_strangers_than_label_and_overview_are_refused(tmp_path: Path) -> None:
    """A pyramid of which nothing fits is not understood."""
    with pytest.raises(RedactionUnproven, match=STRANGER):
        prepared(tmp_path, generic(label(SMALL), label((160, 128)), label((240, 192), "other words\n" * 9)), ".tif")


def test_a_stranger_larger_than_any_label_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large level that fits nothing is a broken slide; training on it without its level would hide that."""
    monkeypatch.setattr(pyramid, "LABEL_PIXELS", SMALL[0] * SMALL[1] - 1)
    with pytest.raises(RedactionUnproven, match=STRANGER):
        prepared(tmp_path, generic(label(SMALL)), ".tif")


def _with_words(pixels: np.ndarray) -> np.ndarray:
    marked = pixels.copy()
    marked[:64] = np.asarray(Image.fromarray(slides.label_picture("Q\n" * 30, 64, 320)).rotate(90, expand=True))
    return marked


def test_a_level_with_a_label_at_its_end_is_no_level(tmp_path: Path) -> None:
    """Overviews show the label beside the tissue: one end of the picture is enough."""
    with pytest.raises(RedactionUnproven, match=STRANGER):
        proved(tmp_path, generic(_with_words(slides.tissue(*SMALL))), ".tif")


def _picture(change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    return np.asarray(change(Image.fromarray(slides.tissue(*SIZE))))


LEVELS = {
    "averaged": _picture(lambda one: one.reduce(2)),
    "thinned out": slides.tissue(*SIZE)[::2, ::2],
    "sharpened": _picture(lambda one: one.reduce(2).filter(ImageFilter.UnsharpMask(2, 200, 0))),
    "two pixels aside": np.roll(_picture(lambda one: one.reduce(2)), (2, 2), (0, 1)),
    "darker": _picture(lambda one: one.reduce(2).point(lambda value: value // 2)),
    "a pixel cut off": _picture(lambda one: one.reduce(2))[:-1, :-1],
    "an eighth": _picture(lambda one: one.reduce(8)),
    "white": np.full((256, 320, 3), 255, np.uint8),
}


@pytest.mark.parametrize("kind", [name for name in LEVELS if name != "white"])
def test_what_writers_do_to_levels_does_not_make_them_strangers(tmp_path: Path, kind: str) -> None:
    """A good slide refused is a loss: sharpening, subsampling and rounding are not another picture."""
    assert proved(tmp_path, generic(LEVELS[kind]), ".tif") == 2


def test_a_white_level_of_a_white_slide_is_harmless(tmp_path: Path) -> None:
    """Blank glass proves nothing and shows nobody's name."""
    white = np.full((512, 640, 3), 243, np.uint8)
    pages = [Sheet(tiffs.tiles(SIZE, pixels=white)), Sheet(tiffs.tiles(SMALL, kind=1, pixels=LEVELS["white"]))]
    assert proved(tmp_path, tiffs.assemble(pages), ".tif") == 2


def test_focal_planes_are_no_levels_of_each_other(tmp_path: Path) -> None:
    """Planes of one size show different things; each small plane is held against its own large one."""
    pages = [Sheet(tiffs.tiles(SIZE, kind=0, seed=seed)) for seed in (1, 2)]
    pages += [Sheet(tiffs.tiles(SMALL, kind=1, seed=seed)) for seed in (1, 2)]
    assert proved(tmp_path, tiffs.assemble(pages), ".tif") == 4


def test_an_opaque_picture_is_drawn_as_it_would_be_mixed() -> None:
    """The short way of drawing gives the very bytes of the long one: the second look draws both."""
    opaque = Image.fromarray(slides.tissue(64, 48)).convert("RGBA")
    mixed = Image.new("RGB", opaque.size, (255, 255, 255))
    mixed.paste(opaque, mask=opaque.getchannel("A"))
    assert drawing.on_white(opaque) == mixed
    opaque.putpixel((3, 4), (9, 9, 9, 0))
    assert drawing.on_white(opaque).getpixel((3, 4)) == (255, 255, 255)


# --- the comparison by itself --------------------------------------------------------------------------


def grid(pixels: np.ndarray, *, tile: int = 64, missing: frozenset[int] = frozenset()) -> Grid:
    high, wide = pixels.shape[:2]
    filled = np.pad(pixels, ((0, -high % tile), (0, -wide % tile), *[(0, 0)] * (pixels.ndim - 2)))
    across, down = -(-wide // tile), -(-high // tile)
    counts = np.array([0 if one in missing else 100 for one in range(across * down)])

    def decode(number: int) -> np.ndarray:
        assert number not in missing
        y, x = number // across * tile, number % across * tile
        return filled[y : y + tile, x : x + tile]

    return Grid(wide, high, tile, tile, counts, False, decode)


def fluorescent(pixels: np.ndarray, seed: int = 3) -> np.ndarray:
    """Twelve bits with the noise of few photons."""
    return np.random.default_rng(seed).poisson(pixels[..., 1].astype(float) * 2).astype(np.uint16)


@pytest.mark.parametrize("thin", [False, True])
def test_noise_is_no_structure(thin: bool) -> None:
    """Subsampled noise correlates with nothing; only what outlasts averaging is compared."""
    fine = fluorescent(slides.tissue(*SIZE))
    coarse = fine[::4, ::4] if thin else fine.reshape(128, 4, 160, 4).mean(axis=(1, 3)).astype(np.uint16)
    assert pyramid._alike(grid(coarse), grid(fine))
    dark = np.random.default_rng(4).poisson(3, (512, 640)).astype(np.uint16) * 40
    assert pyramid._alike(grid(dark[::4, ::4]), grid(dark))
    assert not pyramid._alike(grid(label((160, 128))[..., 0].astype(np.uint16) * 9), grid(fine))


def test_missing_tiles_are_stepped_over() -> None:
    """Sparse slides leave blank tiles out; a level is proved by the others, and a label is found beside them. A finer
    level without any tile proves nothing."""
    fine = grid(slides.tissue(*SIZE), missing=frozenset(range(0, 80, 3)))
    assert pyramid._alike(grid(slides.tissue(*SMALL), missing=frozenset({1, 7})), fine)
    assert not pyramid._alike(grid(label(SMALL), missing=frozenset({1, 7})), fine)
    empty = grid(slides.tissue(*SIZE), missing=frozenset(range(80)))
    assert not pyramid._alike(grid(label(SMALL)), empty)
    assert pyramid._alike(grid(LEVELS["white"]), empty)


def test_a_padded_level_is_held_against_its_place_in_the_finer_one() -> None:
    """Philips fills levels up to whole tiles, so that their sizes do not say by how much they are smaller."""
    whole = slides.tissue(600, 450)
    small = np.asarray(Image.fromarray(whole).reduce(2))
    padded = np.pad(small, ((0, -len(small) % 64), (0, -small.shape[1] % 64), (0, 0)), constant_values=255)
    fine = np.pad(whole, ((0, -450 % 64), (0, -600 % 64), (0, 0)), constant_values=255)
    assert pyramid._alike(grid(padded), grid(fine), padded=True)


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (5, 5), (64, 64), (200, 3)])
def test_levels_of_any_size_are_compared_or_too_small_to_show_anything(shape: tuple[int, int]) -> None:
    """Deep pyramids end in levels of a few pixels, and long ones in lines."""
    high, wide = shape
    fine = np.repeat(np.repeat(slides.tissue(wide, high), 2, axis=0), 2, axis=1)
    assert pyramid._alike(grid(slides.tissue(wide, high)), grid(fine))
