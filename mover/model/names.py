"""Original names as the vault keeps them: the bytes they were, whatever encoding a scanner wrote."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from blake3 import blake3


def name_bytes(name: str) -> bytes:
    """Bytes that are not UTF-8 travel as surrogate escapes (os.fsencode's convention)."""
    return name.encode("utf-8", "surrogateescape")


def name_text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def encode_names(names: Iterable[str]) -> bytes:
    return msgspec.msgpack.encode([name_bytes(name) for name in names])


def decode_names(body: bytes) -> list[str]:
    return [name_text(name) for name in msgspec.msgpack.decode(body, type=list[bytes])]


def path_text(path: str) -> str:
    """A path that a job chose, as the catalog and answers keep it. Text stays as it is; bytes that are no text are
    escaped, with a mark that no other path shares."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return f"{shown_name(path)} [bytes {blake3(name_bytes(path)).hexdigest(length=8)}]"
    return path


def shown_name(name: str) -> str:
    """For an answer or a terminal: what is not text is shown escaped, never dropped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
