"""A slide before its container: which cell lies where, and the levels that follow from it.

The container modules (`svs`, `ndpi`) ask for level 0 and level 1 as lists of existing JPEG pieces and
for everything deeper as pixels. `write_pack` is the front: one pack with its fault, on disk.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from mover.demo import art, czi, ndpi, svs
from mover.demo.layout import Layout, make_layout
from mover.demo.plan import Case, Pack
from mover.demo.texture import Atlas


class Written(msgspec.Struct, frozen=True):
    """One pack on disk: files it has (relative to the source tier) and their bytes."""

    files: tuple[str, ...]
    size_bytes: int


def write_pack(source: Path, pack: Pack, *, case: Case, atlas: Atlas, seed: int) -> Written:
    """Write slide and thumbnail under `source/<batch>/`; the pack's fault is built in."""
    layout = _layout(pack, atlas=atlas, seed=seed)
    slide = source / pack.batch / pack.file_name
    overview = layout.overview()
    if pack.fault == "rubbish":
        slide.write_bytes(np.random.default_rng([seed, 5]).bytes(1_500_000))
    elif pack.fault == "unsupported":
        czi.write(slide, pack, overview=overview)
    elif pack.look == ndpi.LOOK:
        ndpi.write(slide, pack, case=case, layout=layout)
    else:
        svs.write(slide, pack, case=case, layout=layout)
    if pack.fault == "truncated":
        with slide.open("r+b") as stream:
            stream.truncate(slide.stat().st_size * 3 // 5)
    files = [slide]
    if pack.fault != "no-thumbnail":
        thumbnail = slide.with_name(pack.stem + ".jpg")
        art.draw_thumbnail(overview).save(thumbnail, "JPEG", quality=82)
        files.append(thumbnail)
    return Written(
        files=tuple(str(file.relative_to(source)) for file in files),
        size_bytes=sum(file.stat().st_size for file in files),
    )


def _layout(pack: Pack, *, atlas: Atlas, seed: int) -> Layout:
    return make_layout(atlas, columns=pack.columns, rows=pack.rows, seed=[seed, 6, pack.index])
