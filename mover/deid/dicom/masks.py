"""Masked pictures, looked at a second time: outside of the boxes they are the source's, inside of one colour.

Pixels that were compressed and had to be decoded to be masked share no byte with their source, so frames of both are
decoded and compared; of long films as many as `PIXELS` allow, evenly spaced, the first and the last among them. The
output is read by what its own attributes say, as re-read by the second parser.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from mover.deid.pixels import Box, PixelFacts
from mover.errors import RedactionUnproven
from mover.model.source import ByteSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXELS: Final = 64 << 20  # of all frames that are compared
LEAST_FRAMES: Final = 3
# (0028,xxxx) of the output that say how its picture is read
ATTRIBUTES: Final = (
    0x00280002, 0x00280004, 0x00280006, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280103,
)  # fmt: skip
_DECODER_ERRORS: Final = (
    RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, IndexError, OSError, KeyError,
    struct.error,
)  # fmt: skip
_BY_NUMBER: Final = {
    "50": "jpeg8", "51": "jpeg8", "57": "ljpeg", "70": "ljpeg", "80": "jpegls", "81": "jpegls", "90": "jpeg2k",
    "91": "jpeg2k",
}  # fmt: skip

Read = Callable[[int, int], bytes]


def sampled(count: int, pixels: int) -> Sequence[int]:
    most = max(LEAST_FRAMES, PIXELS // max(1, pixels))
    return range(count) if count <= most else sorted({int(one) for one in np.linspace(0, count - 1, most)})


def inside(boxes: Sequence[Box], rows: int, columns: int) -> NDArray[np.bool_]:
    mask = np.zeros((rows, columns), bool)
    for box in boxes:
        mask[box.top : box.bottom, box.left : box.right] = True
    return mask


def check_one_colour(samples: NDArray[Any], mask: NDArray[np.bool_]) -> None:
    """`samples` are (rows, columns, ...). A box that still holds a picture holds what was to be hidden."""
    hidden = samples[mask]
    if len(hidden) and (hidden != hidden[0]).any():
        raise RedactionUnproven("a box that was to be blanked holds a picture")


def check_decoded(
    source: ByteSource, facts: PixelFacts, boxes: Sequence[Box], told: Mapping[int, bytes], read: Read
) -> None:
    """Frames of the output, `read` from its pixel value, against the source's. Raises RedactionUnproven."""
    number = {tag: int.from_bytes(told.get(tag, b""), "little") for tag in ATTRIBUTES}
    rows, columns, samples = number[0x00280010], number[0x00280011], number[0x00280002]
    sample_bytes = number[0x00280100] // 8
    if (rows, columns) != (facts.rows, facts.columns) or samples not in (1, 3) or sample_bytes not in (1, 2, 4):
        raise RedactionUnproven("a masked picture of another size than the source's")
    if samples > 1 and number[0x00280006] != 0:
        raise RedactionUnproven("a masked picture whose colours stand otherwise than they were written")
    kind = np.dtype(f"<{'i' if number[0x00280103] else 'u'}{sample_bytes}")
    shape = (rows, columns, samples) if samples > 1 else (rows, columns)
    colours = told.get(0x00280004, b"").decode("latin-1").strip(" \0")
    mask, size = inside(boxes, rows, columns), rows * columns * samples * sample_bytes
    for frame in sampled(len(facts.frames), rows * columns):
        made = np.frombuffer(read(frame * size, size), kind).reshape(shape)
        known, known_colours = _decoded(source, facts, frame)
        same = known.shape == made.shape and known_colours == colours and np.array_equal(known[~mask], made[~mask])
        if not same:
            raise RedactionUnproven("pixels outside the masks were changed")
        check_one_colour(made, mask)


def _decoded(source: ByteSource, facts: PixelFacts, frame: int) -> tuple[NDArray[Any], str]:
    data = b"".join(source.read(span.offset, span.length) for span in facts.frames[frame])
    try:
        return _by_pydicom(data, facts)
    except _DECODER_ERRORS:
        return _by_imagecodecs(data, facts)


def _by_pydicom(data: bytes, facts: PixelFacts) -> tuple[NDArray[Any], str]:
    """As a reader of one frame of the source: a dataset with its attributes and its bytes."""
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = UID(facts.transfer_syntax)
    one.Rows, one.Columns, one.SamplesPerPixel = facts.rows, facts.columns, facts.samples
    one.BitsAllocated, one.BitsStored, one.HighBit = facts.bits_allocated, facts.bits_stored, facts.bits_stored - 1
    one.PixelRepresentation, one.PhotometricInterpretation = int(facts.signed), facts.photometric
    one.NumberOfFrames = 1
    if facts.samples > 1:
        one.PlanarConfiguration = facts.planar
    one.PixelData = encapsulate([data])
    samples, meta = get_decoder(UID(facts.transfer_syntax)).as_array(one, index=0)
    return samples, str(meta["photometric_interpretation"])


def _by_imagecodecs(data: bytes, facts: PixelFacts) -> tuple[NDArray[Any], str]:
    """Where pydicom has no decoder at hand."""
    import imagecodecs

    name = _BY_NUMBER.get(facts.transfer_syntax.rpartition(".")[2])
    try:
        samples = getattr(imagecodecs, f"{name}_decode")(data)
    except _DECODER_ERRORS as error:
        raise RedactionUnproven("a masked picture whose source cannot be decoded again") from error
    return samples, "RGB" if facts.samples == 3 else facts.photometric


__all__ = ["ATTRIBUTES", "check_decoded", "check_one_colour", "inside", "sampled"]
