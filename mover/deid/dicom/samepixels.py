"""The pixels of an output are the source's: the same ranges, copied, or equal to them outside of what was masked."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

import numpy as np
from blake3 import blake3

from mover.deid.dicom import masks
from mover.deid.dicom.codestreams import check_frame
from mover.deid.dicom.proof import Proof, WrittenFile
from mover.deid.pixels import Span
from mover.errors import RedactionUnproven
from mover.model.source import ByteSource

# offsets and lengths of frames, which go together, and the length of all, which nobody needs (PS3.3 C.7.6.3.1.8)
OFFSETS: Final = (0x7FE00001, 0x7FE00002, 0x7FE00003)


def check_pixels(
    file: WrittenFile, source: ByteSource, pixels: tuple[int, int] | None, proof: Proof, told: Mapping[int, bytes]
) -> str:
    """Digest over the ordered source ranges that make the pixels: equal lists, equal bytes."""
    digest = blake3()
    if (pixels is None or pixels[1] >= 0) and any(tag in told for tag in OFFSETS):
        raise RedactionUnproven("a table of frames where there are none")
    if pixels is None:
        if proof.frames:
            raise RedactionUnproven("an object that lost its pixels")
        return digest.hexdigest()
    at, length = pixels
    if proof.verdict is not None and proof.verdict.masked:
        if length < 0 or not proof.verdict.boxes:
            raise RedactionUnproven("masked pixels that are not what a mask makes")
        _check_masked(file, source, at, length, proof, digest)
        _check_boxes(file, source, at, length, proof, told)
        return digest.hexdigest()
    if length < 0:
        _check_frames(file, source, at, proof, digest, told)
    else:
        _check_native(file, source, at, length, proof, digest)
    return digest.hexdigest()


def _check_native(file: WrittenFile, source: ByteSource, at: int, length: int, proof: Proof, digest: blake3) -> None:
    first = proof.frames[0][0].offset
    whole = sum(span.length for frame in proof.frames for span in frame)
    done = 0
    for offset, size, data in file.origins(at, length):
        if data is None:
            same = offset == first + done
        else:  # a pad, or pixels of a deflated dataset
            same = data == source.read(first + done, max(0, min(size, whole - done))).ljust(size, b"\0")
        if not same:
            raise RedactionUnproven("pixels that are not the source's")
        digest.update(struct.pack("<QQ", first + done, size))
        done += size
    if done not in (whole, whole + whole % 2):
        raise RedactionUnproven("pixels that are more or less than the source's")


def _check_masked(file: WrittenFile, source: ByteSource, at: int, length: int, proof: Proof, digest: blake3) -> None:
    """Native pixels differ from the source's inside the boxes only. Pixels that were decoded to be masked have no
    bytes to be compared with; they are decoded once more (`_check_boxes`)."""
    native = proof.verdict is not None and proof.verdict.written is None and proof.picture is not None
    first = proof.frames[0][0].offset
    whole = sum(span.length for frame in proof.frames for span in frame)
    done = 0
    for offset, size, data in file.origins(at, length):
        digest.update(data if data is not None else struct.pack("<QQ", offset, size))
        if native and data is None and offset != first + done:
            raise RedactionUnproven("pixels that are not the source's")
        if native and data is not None and done < whole:
            told = np.frombuffer(data[: whole - done], np.uint8)
            changed = np.flatnonzero(told != np.frombuffer(source.read(first + done, len(told)), np.uint8)) + done
            if not _inside(changed, proof):
                raise RedactionUnproven("pixels outside the masks were changed")
        done += size
    if native and done not in (whole, whole + whole % 2):
        raise RedactionUnproven("pixels that are more or less than the source's")


def _check_boxes(
    file: WrittenFile, source: ByteSource, at: int, length: int, proof: Proof, told: Mapping[int, bytes]
) -> None:
    """What the boxes hold is of one colour; what was decoded equals its source outside of them."""
    verdict, picture, facts = proof.verdict, proof.picture, proof.facts
    if verdict is None or facts is None:
        return
    if verdict.written is not None:
        size = facts.rows * facts.columns * verdict.written.samples * verdict.written.bits_allocated // 8
        if length not in (size * len(facts.frames), size * len(facts.frames) + 1):
            raise RedactionUnproven("masked pixels that are more or less than the source's")
        masks.check_decoded(
            source, facts, verdict.boxes, told, lambda start, size: file.range(at + start, at + start + size)
        )
    elif picture is not None:
        mask = masks.inside(verdict.boxes, picture.rows, picture.columns)
        shape = (picture.rows, picture.columns, picture.samples * picture.sample_bytes)
        planes = (picture.samples, picture.rows, picture.columns, picture.sample_bytes)
        size = shape[0] * shape[1] * shape[2]
        for frame in masks.sampled(len(proof.frames), picture.rows * picture.columns):
            made = np.frombuffer(file.range(at + frame * size, at + (frame + 1) * size), np.uint8)
            samples = made.reshape(planes).transpose(1, 2, 0, 3) if picture.planar else made.reshape(shape)
            masks.check_one_colour(samples, mask)


def _inside(changed: np.ndarray, proof: Proof) -> bool:
    """Whether every changed byte belongs to a pixel of a box."""
    picture, verdict = proof.picture, proof.verdict
    if picture is None or verdict is None or not len(changed):
        return True
    pixels = picture.rows * picture.columns
    sample = changed // picture.sample_bytes
    pixel = (sample % pixels) if picture.planar else (sample // picture.samples % pixels)
    row, column = pixel // picture.columns, pixel % picture.columns
    inside = np.zeros(len(changed), bool)
    for box in verdict.boxes:
        inside |= (row >= box.top) & (row < box.bottom) & (column >= box.left) & (column < box.right)
    return bool(inside.all())


def _check_frames(
    file: WrittenFile, source: ByteSource, at: int, proof: Proof, digest: blake3, told: Mapping[int, bytes]
) -> None:
    """Each frame is one fragment made of pieces of the same frame of the source, in their order, and taken apart by
    another walk it is the source's without its remarks."""
    heads = iter(proof.frames)
    offset = at
    table = struct.unpack("<HHI", file.range(offset, offset + 8))
    if table[:2] != (0xFFFE, 0xE000):
        raise RedactionUnproven("encapsulated pixels without an offset table")
    starts = file.range(offset + 8, offset + 8 + table[2])
    offset += 8 + table[2]
    base, found, lengths = offset, [], []
    while True:
        group, number, length = struct.unpack("<HHI", file.range(offset, offset + 8))
        if (group, number) == (0xFFFE, 0xE0DD):
            break
        spans = next(heads, None)
        if (group, number) != (0xFFFE, 0xE000) or spans is None:
            raise RedactionUnproven("fragments that are not the source's frames")
        found.append(offset - base)
        lengths.append(length)
        _check_frame(file, offset + 8, length, spans, digest)
        _check_stream(file.range(offset + 8, offset + 8 + length), source, spans, proof)
        offset += 8 + length
    if next(heads, None) is not None or offset + 8 != file.size:
        raise RedactionUnproven("frames are missing, or something stands behind the pixels")
    if starts and list(struct.unpack(f"<{len(starts) // 4}I", starts)) != found:
        raise RedactionUnproven("an offset table that points beside the frames")
    tables = [struct.pack(f"<{len(found)}Q", *values) for values in (found, lengths)]
    if any(tag in told for tag in OFFSETS) and (starts or [told.get(tag) for tag in OFFSETS] != [*tables, None]):
        raise RedactionUnproven("an extended offset table that points beside the frames")


def _check_stream(made: bytes, source: ByteSource, spans: tuple[Span, ...], proof: Proof) -> None:
    if proof.facts is None:
        raise RedactionUnproven("compressed frames of which nothing is known")
    before = b"".join(source.read(span.offset, span.length) for span in spans)
    check_frame(
        made, before, syntax=proof.facts.transfer_syntax, pixels=proof.facts.rows * proof.facts.columns
    )  # fmt: skip


WRITTEN_BYTES: Final = 1 << 16  # of one frame: lengths told anew, a header without its thumbnail


def _check_frame(file: WrittenFile, at: int, length: int, spans: tuple[Span, ...], digest: blake3) -> None:
    last, written = -1, 0
    for offset, size, data in file.origins(at, length):
        if data is not None:
            written += size
            continue
        inside = any(span.offset <= offset and offset + size <= span.offset + span.length for span in spans)
        if not inside or offset < last:
            raise RedactionUnproven("a frame with bytes of another place")
        last = offset + size
        digest.update(struct.pack("<QQ", offset, size))
    if written > WRITTEN_BYTES or written > max(64, length):
        raise RedactionUnproven("a frame that was written anew")
