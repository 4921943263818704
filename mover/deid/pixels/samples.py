"""From stored bytes to samples and back: frames of an object as arrays, native ones without a copy too many.

Compressed frames are decoded by pydicom, so that what is written after masking equals, outside the mask, what every
reader of the original sees; where pydicom has no decoder at hand, imagecodecs is asked. Native frames are read here.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from msgspec import Struct

from mover.deid.pixels.words import PixelFacts, Span, Written
from mover.errors import LimitExceeded, RedactionUnproven
from mover.model.source import ByteSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_FRAME_BYTES: Final = 512 << 20

_NATIVE: Final = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"})
BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"


class Frame(Struct, frozen=True):
    """One frame's samples, (rows, columns) or (rows, columns, samples), in the colours that `photometric` names.

    Samples of a native frame are the stored words; of a compressed one, what the decoder made of them.
    """

    samples: Any
    photometric: str


def is_native(facts: PixelFacts) -> bool:
    return facts.transfer_syntax in _NATIVE or facts.transfer_syntax == BIG_ENDIAN


def check(facts: PixelFacts) -> None:
    """Raises RedactionUnproven for facts that no picture can have, LimitExceeded for one too large to be read."""
    sound = (
        0 < facts.rows <= 65535
        and 0 < facts.columns <= 65535
        and facts.samples in (1, 3)
        and facts.bits_allocated in (1, 8, 16, 32)
        and 0 < facts.bits_stored <= facts.bits_allocated
        and facts.frames
        and facts.planar in (0, 1)
    )
    if not sound:
        raise RedactionUnproven("a picture whose attributes do not make one cannot be searched for text")
    if frame_bytes(facts) > MAX_FRAME_BYTES:
        raise LimitExceeded(f"a frame of more than {MAX_FRAME_BYTES >> 20} MiB")


def frame_bytes(facts: PixelFacts) -> int:
    """The bytes of one native frame. Native 4:2:2 shares colours between two pixels (PS3.3 C.7.6.3.1.2)."""
    pixels = facts.rows * facts.columns
    if facts.bits_allocated == 1:
        return -(-pixels // 8)
    if _packed(facts):
        return pixels * 2
    return pixels * facts.samples * facts.bits_allocated // 8


def dtype(facts: PixelFacts) -> np.dtype[Any]:
    order = ">" if facts.transfer_syntax == BIG_ENDIAN else "<"
    return np.dtype(f"{order}{'i' if facts.signed else 'u'}{facts.bits_allocated // 8}")


def read_frame(source: ByteSource, facts: PixelFacts, index: int) -> Frame:
    """One frame's samples. Raises RedactionUnproven for a frame that cannot be decoded: who cannot see a picture
    cannot say that it holds no text."""
    data = b"".join(source.read(span.offset, span.length) for span in facts.frames[index])
    if is_native(facts):
        return Frame(unpacked(data, facts), facts.photometric)
    try:
        return _decoded(data, facts)
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, IndexError, OSError, KeyError,
            struct.error) as error:  # fmt: skip
        raise RedactionUnproven("a frame cannot be decoded, so nobody can say that it holds no text") from error


def unpacked(data: bytes, facts: PixelFacts) -> NDArray[Any]:
    """The samples of a native frame, in the shape (rows, columns[, samples])."""
    need = frame_bytes(facts)
    if len(data) < need:
        raise RedactionUnproven("a picture is shorter than its rows and columns say")
    rows, columns = facts.rows, facts.columns
    if facts.bits_allocated == 1:
        if len(data) > need + 1:  # several frames without a byte's border: nobody has seen text in one
            raise RedactionUnproven("a film of one bit a pixel cannot be searched for text")
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return bits[: rows * columns].reshape(rows, columns)
    if _packed(facts):
        pairs = np.frombuffer(data, np.uint8, need).reshape(rows, columns // 2, 4)
        chroma = np.repeat(pairs[:, :, 2:], 2, axis=1)
        return np.concatenate([pairs[:, :, :2].reshape(rows, columns, 1), chroma], axis=2)
    flat = np.frombuffer(data, dtype(facts), rows * columns * facts.samples)
    if facts.samples == 1:
        return flat.reshape(rows, columns)
    if facts.planar:
        return flat.reshape(facts.samples, rows, columns).transpose(1, 2, 0)
    return flat.reshape(rows, columns, facts.samples)


def _packed(facts: PixelFacts) -> bool:
    return facts.photometric == "YBR_FULL_422" and facts.samples == 3 and is_native(facts)


def _decoded(data: bytes, facts: PixelFacts) -> Frame:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    decoder = get_decoder(UID(facts.transfer_syntax))
    if not decoder.is_available:
        return _otherwise(data, facts)
    values: dict[str, Any] = {
        "rows": facts.rows,
        "columns": facts.columns,
        "number_of_frames": 1,
        "samples_per_pixel": facts.samples,
        "photometric_interpretation": facts.photometric,
        "bits_allocated": facts.bits_allocated,
        "bits_stored": facts.bits_stored,
        "pixel_representation": int(facts.signed),
        "pixel_keyword": "PixelData",
    }
    if facts.samples > 1:
        values["planar_configuration"] = facts.planar
    try:
        samples, meta = decoder.as_array(_encapsulated(data), index=0, **values)
    except RuntimeError:
        return _otherwise(data, facts)
    return Frame(samples, str(meta["photometric_interpretation"]))


def _encapsulated(data: bytes) -> bytes:
    """A frame as an encapsulated value of one fragment with an empty offset table (PS3.5 A.4)."""
    even = data + b"\0" * (len(data) % 2)
    return (
        b"\xfe\xff\x00\xe0\0\0\0\0"
        + struct.pack("<HHI", 0xFFFE, 0xE000, len(even))
        + even
        + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )


def _otherwise(data: bytes, facts: PixelFacts) -> Frame:
    """Lossless JPEG, JPEG-LS and twelve bits by imagecodecs, where it is installed."""
    try:
        import imagecodecs
    except ImportError:
        raise RedactionUnproven("a frame's compression has no decoder here, so nobody can look at it") from None
    last = facts.transfer_syntax.rpartition(".4.")[2]
    name = {"50": "jpeg8", "51": "jpeg8", "57": "ljpeg", "70": "ljpeg", "80": "jpegls", "81": "jpegls"}.get(
        last, "jpeg2k"
    )
    samples = getattr(imagecodecs, f"{name}_decode")(data)
    colours = "RGB" if facts.samples == 3 else facts.photometric
    expected = (facts.rows, facts.columns, 3) if facts.samples == 3 else (facts.rows, facts.columns)
    if samples.shape != expected:
        raise RedactionUnproven("a frame decodes to another size than its attributes say")
    return Frame(samples, colours)


def written(facts: PixelFacts, frame: Frame) -> Written:
    """How decoded samples are written natively: explicit VR little endian, colour by pixel."""
    bits = frame.samples.dtype.itemsize * 8
    stored = min(bits, facts.bits_stored)
    return Written(
        transfer_syntax=EXPLICIT_LITTLE,
        photometric=frame.photometric,
        samples=facts.samples,
        planar=0,
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=stored - 1,
        signed=facts.signed,
    )


def span_of(facts: PixelFacts, index: int) -> Span:
    """Where a native frame lies, which is one range."""
    spans = facts.frames[index]
    if len(spans) != 1:
        raise RedactionUnproven("a native frame in several pieces")
    return spans[0]
