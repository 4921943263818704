"""Boxes blanked in samples and in bytes.

A native value keeps its length: rows that no box touches are copied, the others become literals. What was compressed
is written natively, because encoding anew would change pixels that nobody asked to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from msgspec import Struct

from mover.deid.pixels.samples import Frame, frame_bytes, read_frame, span_of, unpacked, written
from mover.deid.pixels.views import entries
from mover.deid.pixels.words import Box, PixelFacts, Written
from mover.errors import LimitExceeded
from mover.model.recipe import Copy, Literal, Segment
from mover.model.source import ByteSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_WRITTEN_BYTES: Final = 256 << 20  # of a value that was compressed and is written natively
DARK: Final = 0.15  # of the range of brightness: a ground up to here may be what boxes are filled with


class Blanked(Struct, frozen=True):
    """The whole new value of Pixel Data, and what its attributes must say where they change."""

    segments: tuple[Segment, ...]
    length: int
    written: Written | None


def ground_of(frame: Frame, facts: PixelFacts, boxes: tuple[Box, ...]) -> NDArray[Any]:
    """What boxes are filled with: the commonest sample there is, where it is dark, else the darkest there is. Nothing
    new enters the histogram, so that windows computed from it stay as they were."""
    samples = frame.samples
    parts = [samples[b.top : b.bottom, b.left : b.right] for b in boxes] or [samples]
    flat = np.concatenate([part.reshape(-1, *samples.shape[2:]) for part in parts])
    everything = samples.reshape(-1, *samples.shape[2:])
    kinds, counts = np.unique(flat, axis=0, return_counts=True)
    light, all_light = _brightness(kinds, frame, facts), _brightness(everything, frame, facts)
    low, high = float(all_light.min()), float(all_light.max())
    dark = light <= low + DARK * (high - low)
    if dark.any() and 2 * int(counts[dark].max()) >= int(counts.max()):
        return np.asarray(kinds[np.where(dark, counts, -1).argmax()])
    return np.asarray(everything[all_light.argmin()])


def _brightness(samples: NDArray[Any], frame: Frame, facts: PixelFacts) -> NDArray[np.float64]:
    if samples.ndim == 2:
        channel = samples[:, 0] if frame.photometric.startswith("YBR") else samples.mean(axis=1)
        return np.asarray(channel, dtype=np.float64)
    if frame.photometric == "PALETTE COLOR" and len(facts.palettes) == 3:
        tables = [(entries(palette), palette.first) for palette in facts.palettes]
        places = [np.clip(samples.astype(np.int64) - first, 0, len(table) - 1) for table, first in tables]
        return np.mean([table[at] for (table, _), at in zip(tables, places, strict=True)], axis=0)
    # Low numbers also where they are shown white (MONOCHROME1): programs write text as the highest number there is,
    # and a box in the letters' own colour would still be their silhouette.
    return samples.astype(np.float64)


def blank(samples: NDArray[Any], boxes: Iterable[Box], ground: NDArray[Any]) -> NDArray[Any]:
    out = samples.copy()
    for box in boxes:
        out[box.top : box.bottom, box.left : box.right] = ground
    return out


def blank_native(source: ByteSource, facts: PixelFacts, boxes: tuple[Box, ...], ground: NDArray[Any]) -> Blanked:
    segments: list[Segment] = []
    for index in range(len(facts.frames)):
        segments += _native_frame(source, facts, index, boxes, ground)
    length = sum(segment.length for segment in segments)
    if length % 2:
        segments.append(Literal(b"\0"))
    return Blanked(tuple(segments), length + length % 2, None)


def _native_frame(
    source: ByteSource, facts: PixelFacts, index: int, boxes: tuple[Box, ...], ground: NDArray[Any]
) -> list[Segment]:
    """Bands of rows: literal where a box touches them, copied where none does. Colour by plane has three bands."""
    span = span_of(facts, index)
    planes = facts.samples if facts.planar and facts.samples > 1 else 1
    row_bytes = frame_bytes(facts) // planes // facts.rows
    out: list[Segment] = []
    for plane in range(planes):
        start = span.offset + plane * row_bytes * facts.rows
        for top, bottom, touched in _bands(boxes, facts.rows):
            at, length = start + top * row_bytes, (bottom - top) * row_bytes
            if not touched:
                out.append(Copy(at, length))
                continue
            band = bytearray(source.read(at, length))
            _fill(band, facts, [_shifted(box, top) for box in boxes if box.top < bottom and top < box.bottom],
                  ground if planes == 1 else ground[plane : plane + 1])  # fmt: skip
            out.append(Literal(bytes(band)))
    return out


def _bands(boxes: tuple[Box, ...], rows: int) -> list[tuple[int, int, bool]]:
    touched = np.zeros(rows, bool)
    for box in boxes:
        touched[box.top : box.bottom] = True
    edges = [0, *(np.nonzero(np.diff(touched))[0] + 1).tolist(), rows]
    return [(top, bottom, bool(touched[top])) for top, bottom in zip(edges, edges[1:], strict=False)]


def _shifted(box: Box, top: int) -> Box:
    return Box(box.left, max(0, box.top - top), box.right, box.bottom - top)


def _fill(band: bytearray, facts: PixelFacts, boxes: list[Box], ground: NDArray[Any]) -> None:
    """Set the boxes' samples in the stored bytes of some rows, all of them of one plane or colour by pixel."""
    stored = ground.astype(ground.dtype).tobytes()
    if facts.photometric == "YBR_FULL_422" and facts.samples == 3:
        pair = bytes([stored[0], stored[0], stored[1], stored[2]])
        pixels = np.frombuffer(band, np.uint8).reshape(-1, facts.columns // 2, 4)
        for box in boxes:
            pixels[box.top : box.bottom, box.left // 2 : -(-box.right // 2)] = np.frombuffer(pair, np.uint8)
        return
    pixels = np.frombuffer(band, np.uint8).reshape(-1, facts.columns, len(stored))
    for box in boxes:
        pixels[box.top : box.bottom, box.left : box.right] = np.frombuffer(stored, np.uint8)


def blank_decoded(
    source: ByteSource,
    facts: PixelFacts,
    boxes: tuple[Box, ...],
    ground: NDArray[Any],
    *,
    decode: Callable[[ByteSource, PixelFacts, int], Frame] = read_frame,
) -> Blanked:
    """Every frame decoded, blanked and written natively. Raises LimitExceeded where that would be too many bytes."""
    segments: list[Segment] = []
    length = 0
    kept: Written | None = None
    for index in range(len(facts.frames)):
        frame = decode(source, facts, index)
        kept = kept or written(facts, frame)
        if length + frame.samples.nbytes > MAX_WRITTEN_BYTES:
            raise LimitExceeded(f"masked pixels of more than {MAX_WRITTEN_BYTES >> 20} MiB once decompressed")
        little = blank(frame.samples, boxes, ground).astype(frame.samples.dtype.newbyteorder("<"))
        segments.append(Literal(little.tobytes()))
        length += little.nbytes
    if length % 2:
        segments.append(Literal(b"\0"))
    return Blanked(tuple(segments), length + length % 2, kept)


__all__ = ["Blanked", "blank", "blank_decoded", "blank_native", "ground_of", "unpacked"]
