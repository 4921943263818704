"""The tars of layout `shards` (docs/formats.md): what every POSIX tar reader reads, with nothing in it but names and
bytes.

Headers are ustar, with a pax record where a name or a size does not fit (above 8 GiB). Owner, time and mode are
fixed, so that a tar depends on its files alone.
"""

from __future__ import annotations

import tarfile

BLOCK_BYTES = 512
# two empty blocks; what more a tape would want, no reader asks for
END_BYTES = 2 * BLOCK_BYTES
MODE = 0o444
_USTAR_NAME, _USTAR_BYTES = 100, 8 << 30


def header(name: str, size_bytes: int) -> bytes:
    """All that stands before a file's bytes: whole blocks."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size_bytes, MODE, 0
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def header_bytes(name: str, size_bytes: int) -> int:
    """How long the header is; of nearly all files without making it."""
    if len(name) <= _USTAR_NAME and size_bytes < _USTAR_BYTES and name.isascii():
        return BLOCK_BYTES
    return len(header(name, size_bytes))


def padded(size_bytes: int) -> int:
    """A file's bytes in whole blocks."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES
