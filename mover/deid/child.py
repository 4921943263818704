"""What runs in the parsing child (D16): functions over an open descriptor, msgpack out.

The child has no files but the descriptor, no network and bounded memory; refusals cross back as MoverErrors.
The answer of `prepare` holds the harvest, which is as sensitive as the source: it travels over a socket pair
between two of our own processes and nowhere else.
"""

from __future__ import annotations

import os

import msgspec
from PIL import Image

from mover.deid import folderproof, vmsproof  # noqa: F401 - warm, for `folders`
from mover.deid.companions import Standins
from mover.deid.drawing import encode_preview
from mover.deid.folders import prepare_files
from mover.deid.outcome import Prepared, SlideEvidence, SlidePlan
from mover.deid.pyramid import droppable
from mover.deid.slides import plan_and_draw, plan_slide
from mover.deid.verify import render_thumbnail, verify_slide
from mover.errors import RedactionUnproven, ShortRead, StructureInvalid


class FdSource:
    """A ByteSource over a descriptor; the descriptor stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size_bytes = os.fstat(fd).st_size

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise StructureInvalid(f"a read of {length} bytes at {offset} leaves the file")
        data = os.pread(self._fd, length, offset)
        while len(data) < length:
            more = os.pread(self._fd, length - len(data), offset + len(data))
            if not more:
                raise ShortRead("the file is shorter than it was")
            data += more
        return data


def plan(fd: int, suffix: str, known: list[str] | None = None) -> bytes:
    return msgspec.msgpack.encode(plan_slide(FdSource(fd), suffix=suffix, known=tuple(known or ())))


def verify(fd: int, plan_bytes: bytes) -> bytes:
    made = msgspec.msgpack.decode(plan_bytes, type=SlidePlan)
    return msgspec.msgpack.encode(verify_slide(FdSource(fd), made))


def thumbnail(fd: int, plan_bytes: bytes, edge_px: int = 1024) -> bytes:
    return render_thumbnail(FdSource(fd), msgspec.msgpack.decode(plan_bytes, type=SlidePlan), edge_px=edge_px)


def prepare(fd: int, suffix: str, known: list[str], edge_px: int, unwanted: list[str]) -> bytes:
    """Plan, prove and (for a positive `edge_px`) render in one child: the usual call for one slide. Where the
    plan was drawn from the pyramid already, the pack's picture is made of that drawing."""
    source = FdSource(fd)
    # Heads of tiles all over the file are read in rising order, and all of it is copied next: what is read ahead now
    # is not read again then. A cold slide is looked at in half the time.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    made, drawing, evidence = _plan_and_prove(source, suffix, tuple(known), tuple(unwanted))
    picture = b""
    if edge_px > 0:
        picture = encode_preview(drawing, edge_px) if drawing else render_thumbnail(source, made, edge_px=edge_px)
    return msgspec.msgpack.encode(Prepared(made, evidence, picture))


def _plan_and_prove(
    source: FdSource, suffix: str, known: tuple[str, ...], unwanted: tuple[str, ...]
) -> tuple[SlidePlan, Image.Image | None, SlideEvidence]:
    """Where the proof finds that a small page only passes for a level, plan and proof are made again without it."""
    made, drawing = plan_and_draw(source, suffix=suffix, known=known, unwanted=unwanted)
    try:
        return made, drawing, verify_slide(source, made)
    except RedactionUnproven as refusal:
        strangers = droppable(made.family, refusal)
        if not strangers:
            raise
    made, drawing = plan_and_draw(source, suffix=suffix, known=known, unwanted=unwanted, strangers=strangers)
    return made, drawing, verify_slide(source, made)


def prepare_folder(*given: object) -> bytes:
    """`prepare` for a slide of several files: as many descriptors as `names` and the main file, then the arguments.
    The answer is the same."""
    names, suffix, known, edge_px, number, standins = given[-6:]
    sources = [FdSource(fd) for fd in given[:-6] if isinstance(fd, int)]
    call = msgspec.convert(
        {"names": names, "suffix": suffix, "known": known, "edge_px": edge_px, "number": number, "standins": standins},
        type=_FolderCall,
    )
    files = dict(zip(call.names, sources[1:], strict=True))
    return msgspec.msgpack.encode(
        prepare_files(
            sources[0],
            files,
            suffix=call.suffix,
            known=call.known,
            edge_px=call.edge_px,
            number=call.number,
            standins=call.standins,
        )
    )


class _FolderCall(msgspec.Struct, frozen=True):
    names: tuple[str, ...]
    suffix: str
    known: tuple[str, ...]
    edge_px: int
    number: str
    standins: Standins
