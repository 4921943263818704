"""A stream sealed for the two key files: compressed, encrypted in pieces, never whole in memory or plain on a disk.

    magic | length of the head | head (JSON) | piece | piece | ... | last piece
    piece: length (uint32, big-endian; the highest bit marks the last) | AES-256-GCM ciphertext

The key is agreed between an ephemeral key, which the head carries, and the public part of the pair (X25519, HKDF). The
nonce of a piece is its number and whether it is the last; the head is the associated data of each. So pieces cannot be
left out, turned round, cut off or put under another head (the STREAM construction, Hoang et al. 2015, as age uses it).

Without the key files three things can still be told: the digest, that the pieces end where the stream does, and for
which pair it is sealed. That it opens is told by a restore alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from mover.deid.vaultkeys import PublicKey, RevealKey
from mover.errors import Denied, IntegrityError

MAGIC = b"mover sealed dump 1\n"
PURPOSE = b"mover sealed dump 1"
PIECE_BYTES = 1 << 20
TAG_BYTES = 16
HEAD_BYTES = 1 << 16
LEVEL = 3
# of the compressor's window, so that opening takes no more memory than sealing did
WINDOW_BYTES = 8 << 20
LAST = 0x8000_0000
_LENGTH = struct.Struct(">I")


class Head(Struct, frozen=True, kw_only=True):
    """In the clear, and bound to every piece. No identifier."""

    dump: str
    site: str
    taken_at: str
    software: str
    schema: str  # newest migration that the dump holds
    pair: bytes
    ephemeral: bytes


class Examined(Struct, frozen=True):
    head: Head
    pieces: int
    size_bytes: int
    digest: str


def seal(plain: Iterable[bytes], public: PublicKey, **facts: str) -> Iterator[bytes]:
    """The sealed stream, piece by piece as the plain one comes; what `plain` raises ends it without its last piece."""
    ephemeral, secret = public.agree(PURPOSE)
    head = msgspec.json.encode(Head(pair=public.pair, ephemeral=ephemeral, **facts))
    yield MAGIC + _LENGTH.pack(len(head)) + head
    key = AESGCM(secret)
    number = 0
    held = b""
    for piece in _cut(_squeezed(plain)):
        if held:
            yield _sealed(key, number, held, head, last=False)
            number += 1
        held = piece
    yield _sealed(key, number, held, head, last=True)


def open_sealed(sealed: Iterable[bytes], key: RevealKey) -> Iterator[bytes]:
    """The plain stream. Denied when it is sealed for another pair; IntegrityError at the first piece that was changed,
    and at an end that is not the last piece: what came until then is worth nothing."""
    reader = _Reader(sealed)
    raw, head = _read_head(reader)
    if head.pair != key.pair:
        raise Denied(f"the dump is sealed for the pair {head.pair.hex()}", hint="Ask for the key files of that pair.")
    cipher = AESGCM(key.agreed(head.ephemeral, PURPOSE))
    unpacked = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).decompressobj()
    for number, (last, piece) in enumerate(_pieces(reader)):
        try:
            plain = unpacked.decompress(cipher.decrypt(_nonce(number, last), piece, raw))
        except (InvalidTag, zstandard.ZstdError) as error:
            raise IntegrityError(f"piece {number} of the dump does not open: it was changed") from error
        if plain:
            yield plain
    if not unpacked.eof:
        raise IntegrityError("the dump ends before its own end")


def examine(sealed: Iterable[bytes]) -> Examined:
    """Digest and structure, without any key. IntegrityError where the structure does not hold."""
    reader = _Reader(sealed)
    _, head = _read_head(reader)
    pieces = sum(1 for _ in _pieces(reader))
    return Examined(head, pieces, reader.size_bytes, reader.digest.hexdigest())


# --- pieces -----------------------------------------------------------------------------------------------


def _squeezed(plain: Iterable[bytes]) -> Iterator[bytes]:
    parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=WINDOW_BYTES.bit_length() - 1)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    for chunk in plain:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()


def _cut(stream: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces of PIECE_BYTES; the last is shorter and never empty."""
    held = bytearray()
    for chunk in stream:
        held += chunk
        while len(held) > PIECE_BYTES:
            yield bytes(held[:PIECE_BYTES])
            del held[:PIECE_BYTES]
    yield bytes(held)


def _sealed(key: AESGCM, number: int, piece: bytes, head: bytes, *, last: bool) -> bytes:
    sealed = key.encrypt(_nonce(number, last), piece, head)
    return _LENGTH.pack(len(sealed) | (LAST if last else 0)) + sealed


def _nonce(number: int, last: bool) -> bytes:
    """Each key seals one stream, so a number is never used twice."""
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


def _pieces(reader: _Reader) -> Iterator[tuple[bool, bytes]]:
    last = False
    while not last:
        length = _LENGTH.unpack(reader.take(_LENGTH.size))[0]
        last, length = bool(length & LAST), length & ~LAST
        if not TAG_BYTES <= length <= PIECE_BYTES + TAG_BYTES:
            raise IntegrityError("a piece of the dump has an impossible length")
        yield last, reader.take(length)
    reader.end()


def _read_head(reader: _Reader) -> tuple[bytes, Head]:
    if reader.take(len(MAGIC)) != MAGIC:
        raise IntegrityError("this is no sealed dump, or its first bytes were changed")
    length = _LENGTH.unpack(reader.take(_LENGTH.size))[0]
    if length > HEAD_BYTES:
        raise IntegrityError("the head of the dump has an impossible length")
    raw = reader.take(length)
    try:
        return raw, msgspec.json.decode(raw, type=Head)
    except (msgspec.DecodeError, ValueError) as error:
        raise IntegrityError("the head of the dump cannot be decoded") from error


class _Reader:
    """So many bytes at a time of a stream that comes in chunks, all of them digested. Holds one chunk."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._held = bytearray()
        self.digest: Any = blake3()
        self.size_bytes = 0

    def take(self, count: int) -> bytes:
        while len(self._held) < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise IntegrityError("the dump ends before its own end")
            self.digest.update(chunk)
            self.size_bytes += len(chunk)
            self._held += chunk
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    def end(self) -> None:
        if self._held or next(self._chunks, None) is not None:
            raise IntegrityError("something follows the last piece of the dump")
