"""The demo's slides stand in for real ones, so other people's readers must take them for real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from mover.demo import texture
from mover.demo.plan import Pack, Plan

MPP = {"gt450": 0.2631, "classic": 0.4990, "nanozoomer": 0.4565}
pytestmark = pytest.mark.slow


def pack_of(plan: Plan, look: str, *, big: bool = False) -> Pack:
    return next(pack for pack in plan.packs if pack.look == look and pack.big is big and not pack.fault)


def path_of(source: Path, pack: Pack) -> Path:
    return source / pack.batch / pack.file_name


def test_openslide_opens_every_good_slide_as_its_vendors(source: Path, plan: Plan) -> None:
    """Vendor, resolution and associated pictures are what the image workflow must keep or remove."""
    for pack in (pack for pack in plan.packs if pack.fault is None):
        with openslide.OpenSlide(path_of(source, pack)) as slide:
            hamamatsu = pack.suffix == ".ndpi"
            assert slide.properties["openslide.vendor"] == ("hamamatsu" if hamamatsu else "aperio")
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(MPP[pack.look], rel=1e-3)
            wanted = {"macro"} if hamamatsu else {"label", "macro", "thumbnail"}
            assert wanted <= set(slide.associated_images)
            assert slide.level_count >= 3


def test_faulty_packs_are_faulty_in_their_own_way(source: Path, plan: Plan) -> None:
    by_fault = {pack.fault: pack for pack in plan.packs if pack.fault}
    assert not path_of(source, by_fault["no-thumbnail"]).with_suffix(".jpg").exists()
    for fault in ("truncated", "rubbish"):
        with pytest.raises(openslide.OpenSlideError):
            openslide.OpenSlide(path_of(source, by_fault[fault]))
    assert path_of(source, by_fault["unsupported"]).read_bytes().startswith(b"ZISRAWFILE")
    twin = path_of(source, plan.twin(by_fault["duplicate"]))
    assert path_of(source, by_fault["duplicate"]).read_bytes() == twin.read_bytes()


@pytest.mark.parametrize("look", [look.name for look in texture.LOOKS])
def test_each_level_is_the_downsample_of_the_one_above(source: Path, plan: Plan, look: str) -> None:
    """A pyramid made of unrelated levels would let a broken offset pass unseen."""
    with tifffile.TiffFile(path_of(source, pack_of(plan, look))) as tiff:
        levels = [level.asarray().astype(np.float32) for level in tiff.series[0].levels]
    assert len(levels) >= 3
    for above, below in zip(levels, levels[1:], strict=False):
        factor = above.shape[1] // below.shape[1]
        high, wide = below.shape[0] // 8 * 8, below.shape[1] // 8 * 8
        shrunk = above[: high * factor, : wide * factor].reshape(high, factor, wide, factor, 3).mean((1, 3))
        # Eight by eight means forgive JPEG's noise and nothing else.
        gap = _blocks(shrunk) - _blocks(below[:high, :wide])
        assert np.abs(gap).max() < 9
        assert np.abs(gap).mean() < 1.5


def _blocks(pixels: np.ndarray) -> np.ndarray:
    high, wide = (side // 8 for side in pixels.shape[:2])
    return pixels.reshape(high, 8, wide, 8, 3).mean((1, 3))


def test_two_readers_see_the_same_pixels(source: Path, plan: Plan) -> None:
    """OpenSlide finds restart intervals by the vendor's tag, tifffile by its own walk: both must agree."""
    for look in texture.LOOKS:
        path = path_of(source, pack_of(plan, look.name))
        with openslide.OpenSlide(path) as slide, tifffile.TiffFile(path) as tiff:
            first = tiff.series[0].levels[0].asarray()[: slide.dimensions[1], : slide.dimensions[0]]
            theirs = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
            assert np.abs(first.astype(int) - theirs).mean() < 0.1


def test_the_big_slide_is_bigtiff_and_the_others_are_not(source: Path, plan: Plan) -> None:
    for pack in (pack for pack in plan.packs if pack.suffix == ".svs" and pack.fault is None):
        magic = path_of(source, pack).read_bytes()[:4]
        assert magic == (b"II\x2b\0" if pack.big else b"II\x2a\0")


def test_tissue_is_tissue_and_glass_is_glass(source: Path, plan: Plan) -> None:
    """Tissue detection downstream needs both in every slide."""
    for look in texture.LOOKS:
        with openslide.OpenSlide(path_of(source, pack_of(plan, look.name))) as slide:
            pixels = np.asarray(slide.get_thumbnail((256, 256)).convert("HSV"))
            stained = (pixels[..., 1] > 25).mean()
            assert 0.1 < stained < 0.95
