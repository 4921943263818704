"""What is known of an object's picture, and what is to become of it.

The DICOM engine says where the pixel bytes lie and how they are to be read (`PixelFacts`); the verdict says which
bytes stand in their place (`PixelVerdict`). Nothing here holds a value of the file but numbers.
"""

from __future__ import annotations

from msgspec import Struct

from mover.model.recipe import Segment


class Span(Struct, frozen=True, array_like=True):
    """A range of the source."""

    offset: int
    length: int


class Box(Struct, frozen=True, array_like=True):
    """Columns `left` up to but without `right`, rows `top` up to but without `bottom`."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        return max(0, self.right - self.left) * max(0, self.bottom - self.top)


class Palette(Struct, frozen=True):
    """One channel's lookup table (PS3.3 C.7.6.3.1.5): the descriptor's three numbers and the entries as stored,
    little endian. A segmented table is given as it stands and `segmented` is set."""

    entries: int
    first: int
    bits: int
    data: bytes
    segmented: bool = False


class PixelFacts(Struct, frozen=True):
    """Everything a picture needs to be read, as the object's own attributes say it (PS3.3 C.7.6.3).

    `frames` holds, per frame, the spans of its bytes within the source: one span of a native frame, and of an
    encapsulated one its fragments in order, without item headers. 1-bit frames that do not start at a byte are
    given as one span for all. `transfer_syntax` is a UID; a deflated dataset comes inflated, its source being the
    inflated bytes, and counts as explicit VR little endian.
    """

    rows: int
    columns: int
    frames: tuple[tuple[Span, ...], ...]
    transfer_syntax: str
    sop_class: str
    samples: int = 1
    photometric: str = "MONOCHROME2"
    planar: int = 0
    bits_allocated: int = 8
    bits_stored: int = 8
    signed: bool = False
    modality: str = ""
    image_type: tuple[str, ...] = ()  # in capitals
    burned_in: str = ""  # (0028,0301): YES, NO, or what else stands there
    # Regions of SequenceOfUltrasoundRegions (0018,6011): Min X0, Min Y0, Max X1, Max Y1, the latter included
    regions: tuple[Box, ...] = ()
    palettes: tuple[Palette, ...] = ()  # red, green, blue of PALETTE COLOR
    kind: str = "pixels"  # or "float", "double": Float/Double Float Pixel Data, never shown on a screen as text


class Written(Struct, frozen=True):
    """How the masked pixels are written, where they differ from the source: the attributes the dataset must say.

    Pixel Data becomes native (OW for more than 8 bits allocated or implicit VR, else OB; padded to even length),
    extended offset tables go, Lossy Image Compression and its ratio and method stay as they were: what was lost
    once stays lost.
    """

    transfer_syntax: str
    photometric: str
    samples: int
    planar: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool


class PixelVerdict(Struct, frozen=True):
    """`segments` are None where every pixel may stay as it is: the frames are then copied (`strip_frame`).

    Otherwise they make the whole value of Pixel Data, `length` bytes of it, over the same source, and `written` is
    None when the masked value is read with the attributes it had (a native source), or says what changed.
    `boxes` are what was blanked, on every frame. `passes` counts looks of the text detector, `findings` the places
    where it saw text before masking. `reason` is a fixed word for the audit record, never of the file.
    """

    reason: str
    segments: tuple[Segment, ...] | None = None
    length: int = 0
    written: Written | None = None
    boxes: tuple[Box, ...] = ()
    frames_read: int = 0
    passes: int = 0
    findings: int = 0
    detector: str = ""

    @property
    def masked(self) -> bool:
        return self.segments is not None
