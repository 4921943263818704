"""DICOM objects as few programs write them, with plants in what makes them rare.

Names with escape sequences (ISO 2022: Japanese, Korean, Chinese) and in the single-byte sets, group lengths that are
somebody's number, private sequences that call themselves unknown, tables of offsets that reach beyond 4 GiB, whole
slides of several optical paths, and every coding of `encodings.ways` in private and retired attributes. `dress` works
on a dataset before it is written, `around` on the bytes afterwards: no library writes what it holds to be wrong.
"""

from __future__ import annotations

import io
import random
import struct
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.filereader import data_element_generator
from pydicom.sequence import Sequence

from bench.planted.encodings import ways
from bench.planted.people import Person
from tests.support import dicoms

if TYPE_CHECKING:
    from bench.planted.objects import Planter

# character set, the coding of a name's first part, syllables of families and given names for the second, for the third
CHARSETS: dict[str, tuple[str, str, str, str]] = {
    "\\ISO 2022 IR 87": ("ascii", "山田伊藤佐渡辺", "太郎左衛門一", "やまだいとうさ"),
    "ISO 2022 IR 13\\ISO 2022 IR 87": ("shift_jis", "小野寺林檎", "花子美智代", "おのでらはやし"),
    "\\ISO 2022 IR 87\\ISO 2022 IR 159": ("ascii", "鈴木高橋", "次郎三郎", "すずきたかはし"),
    "\\ISO 2022 IR 149": ("ascii", "洪吉南宮", "洞民秀正", "홍길남궁동민"),
    "\\ISO 2022 IR 58": ("ascii", "张王小明", "东德华强", ""),
    "GB18030": ("gb18030", "欧阳诸葛", "建国志明", ""),
    "GBK": ("gbk", "司马上官", "文轩浩然", ""),
    "ISO_IR 100": ("latin-1", "", "", ""),
    "ISO_IR 101": ("iso8859_2", "", "", ""),
    "ISO_IR 144": ("iso8859_5", "", "", ""),
    "ISO_IR 126": ("iso8859_7", "", "", ""),
    "ISO_IR 166": ("iso8859_11", "", "", ""),
    "ISO_IR 13": ("shift_jis", "", "", ""),
    "ISO 2022 IR 6\\ISO 2022 IR 100\\ISO 2022 IR 101": ("latin-1", "", "", ""),
}
ALPHABETS = {
    "ISO_IR 144": ("Кржижановская", "Феодосия"),
    "ISO_IR 126": ("Παπαδημητρίου", "Ευαγγελία"),
    "ISO_IR 166": ("สุขสวัสดิ์วงศ์", "ประเสริฐศรี"),
    "ISO_IR 13": ("ﾔﾏﾓﾄﾊﾔｼ", "ﾊﾅｺﾐﾁﾖ"),
}


def writable(who: Person, charset: str, rng: random.Random) -> Person:
    """The same person with what the character set can write, and the name in its alphabet and ideograms."""
    coding, families, givens, sounds = CHARSETS[charset]

    def kept(text: str) -> str:
        return "".join(one for one in unicodedata.normalize("NFKD", text) if one.encode(coding, "ignore"))

    changed = {one.name: kept(getattr(who, one.name)) for one in fields(who) if one.type == "str"}
    if charset in ALPHABETS:
        changed["family"], changed["given"] = ALPHABETS[charset]
    if families:
        parts = ["^".join("".join(rng.sample(of, 3)) for of in (families, givens))]
        parts += ["^".join("".join(rng.sample(sounds, 3)) for _ in range(2))] if sounds else []
        changed["eastern"] = "=".join(parts)
    return replace(who, **changed)


def dress(to: Planter) -> None:
    """Every coding of a name, in private attributes and in retired ones; a private sequence that says UN."""
    who, data = to.who, to.data
    coded = list(ways(who.full).items()) + list(ways(who.mrn).items())
    block = data.private_block(0x0031, "OBERNEUKIRCH CODES", create=True)
    for number, (_, value) in enumerate(coded):
        block.add_new(number + 1, to.rng.choice(["OB", "UN"]), value + b"\0" * (len(value) % 2))
    data.add_new(0x00204000, "LT", to.rng.choice([value for _, value in coded]).decode("latin-1"))
    data.add_new(0x00081080, "LO", ways(who.full)["percent"].decode()[:60])
    data.add_new(0x00321030, "LO", ways(who.mrn)["base64 from byte 0"].decode()[:60])
    data.add_new(0x00104000, "LT", ways(who.mrn)["hex"].decode() + " " + ways(who.accession)["reversed"].decode())
    block = data.private_block(0x4453, f"{who.station} SEQUENCES", create=True)
    block.add_new(0x0C, "UN", implicit_items(who, undefined=False))
    if to.some(0.5):
        seen = Dataset()
        inner = seen.private_block(0x3F03, "NESTED", create=True)
        inner.add_new(0x01, "UN", implicit_items(who, undefined=True))
        data.ReferencedPerformedProcedureStepSequence = Sequence([seen])
    to.atom(who.full, "person", "D4", "private codings")


def implicit_items(who: Person, *, undefined: bool) -> bytes:
    """PS3.5 6.2.2: what was a sequence when its VR was forgotten; implicit little endian whatever the file is."""
    name = f"{who.family}^{who.given}".encode()
    inner = _implicit(0x00100020, who.mrn.encode()) + _implicit(0x00081030, who.full.encode())
    content = _implicit(0x00100010, name) + _sequence(0x00081115, inner, undefined=undefined)
    return _item(content, undefined=undefined)


def _implicit(tag: int, value: bytes) -> bytes:
    even = value + b" " * (len(value) % 2)
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(even)) + even


def _item(content: bytes, *, undefined: bool) -> bytes:
    if not undefined:
        return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
    return struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + content + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)


def _sequence(tag: int, content: bytes, *, undefined: bool) -> bytes:
    item = _item(content, undefined=undefined)
    if not undefined:
        return _implicit(tag, item)
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, 0xFFFFFFFF) + item + end


def whole_slide(to: Planter) -> None:
    """Optical paths that a person described, a table of offsets of 64 bits, places in the slide frame by frame."""
    who, data = to.who, to.data
    paths = []
    for number in range(2):
        path = Dataset()
        path.OpticalPathIdentifier = str(number + 1)
        path.OpticalPathDescription = f"{who.full} {number}"[:64]
        path.IlluminationColorCodeSequence = Sequence([dicoms.coded("414298005", "SCT", f"Full {who.family}"[:60])])
        path.ICCProfile = b""
        paths.append(path)
    data.OpticalPathSequence, data.NumberOfOpticalPaths = Sequence(paths), 2
    frames = list(generate_frames(data.PixelData, number_of_frames=int(data.get("NumberOfFrames", 1))))
    body, offsets = b"", []
    for one in frames:
        offsets.append(len(body))
        even = one + b"\0" * (len(one) % 2)
        body += struct.pack("<HHI", 0xFFFE, 0xE000, len(even)) + even
    data.PixelData = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + body
    data["PixelData"].is_undefined_length = True
    data.ExtendedOffsetTable = struct.pack(f"<{len(frames)}Q", *offsets)
    data.ExtendedOffsetTableLengths = struct.pack(f"<{len(frames)}Q", *(len(one) + len(one) % 2 for one in frames))
    data.PerFrameFunctionalGroupsSequence = Sequence([_frame(who, number) for number in range(len(frames))])
    to.atom(who.full, "person", "D2", "optical path")


def _frame(who: Person, number: int) -> Dataset:
    group, path, place = Dataset(), Dataset(), Dataset()
    path.OpticalPathIdentifier = str(1 + number % 2)
    place.ColumnPositionInTotalImagePixelMatrix = 1 + 128 * number
    place.RowPositionInTotalImagePixelMatrix = 1
    group.OpticalPathIdentificationSequence = Sequence([path])
    group.PlanePositionSlideSequence = Sequence([place])
    content = Dataset()
    content.FrameComments = who.full
    content.FrameAcquisitionDateTime = f"{who.visit:%Y%m%d%H%M%S}"
    group.FrameContentSequence = Sequence([content])
    return group


def around(data: bytes, who: Person, *, syntax: str) -> bytes:
    """Group lengths in front of groups 8 and 10, from before they were retired: numbers that nobody counted."""
    at = 144 + struct.unpack_from("<I", data, 140)[0]
    body = zlib.decompress(data[at:], -zlib.MAX_WBITS) if syntax == "deflated" else data[at:]
    number = int("".join(one for one in who.mrn if one.isdigit())[:9] or "0")
    order = ">" if syntax == "big" else "<"
    told = struct.pack(order + "I", 4) if syntax == "implicit" else b"UL" + struct.pack(order + "H", 4)
    told += struct.pack(order + "I", number)
    stream = io.BytesIO(body)
    for _ in data_element_generator(stream, syntax == "implicit", order == "<", lambda tag, *_: tag >= 0x00100000):
        pass
    first = stream.tell()
    body = body[:first] + struct.pack(order + "HH", 0x10, 0) + told + body[first:]
    body = struct.pack(order + "HH", 0x08, 0) + told + body
    if syntax == "deflated":
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = packer.compress(body) + packer.flush()
    return data[:at] + body + b"\0" * (len(body) % 2)


def _order(kind: str, syntax: str, **more: int) -> dicoms.Order:
    return dicoms.Order(
        kind=kind, syntax=syntax, preamble=False, padding=False, trailing=False, private=False, icon=False, **more  # type: ignore[arg-type]
    )  # fmt: skip


# what to make, in which character set, and what is done to it beside `dress`
BASES: dict[str, tuple[dicoms.Order, str, tuple[Callable[[Planter], None], ...]]] = {
    **{f"CT in {charset}": (_order("CT", "explicit"), charset, ()) for charset in CHARSETS},
    "CT deflated": (_order("CT", "deflated"), "ISO_IR 192", ()),
    "US deflated": (_order("US", "deflated"), "ISO_IR 100", ()),
    "MR big": (_order("MR", "big"), "\\ISO 2022 IR 87", ()),
    "SR big": (_order("SR", "big"), "ISO_IR 192", ()),
    "SEG implicit": (_order("SEG", "implicit"), "\\ISO 2022 IR 149", ()),
    "CR implicit": (_order("CR", "implicit"), "ISO_IR 100", ()),
    "VOLUME of two paths": (_order("VOLUME", "jpeg", frames=4), "ISO_IR 192", (whole_slide,)),
    "VOLUME jpeg 2000": (_order("VOLUME", "jpeg2000", frames=3), "\\ISO 2022 IR 87", (whole_slide,)),
}
