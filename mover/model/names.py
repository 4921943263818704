"""Original names as the vault keeps them: the bytes they were, whatever encoding a scanner wrote."""

from __future__ import annotations

import re
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


def key_text(key: str) -> str:
    """A key as requests, reports and terminals write it: text stays as it is; a backslash, a control character and
    every byte that is not UTF-8 are written `\\xNN`, byte by byte. `text_key` leads back, for any name at all."""
    if _PLAIN_KEY.fullmatch(key):
        return key
    return "".join(_key_character(character) for character in key)


def text_key(text: str) -> str:
    """The key that `key_text` wrote. A backslash that begins no `\\xNN` raises ValueError."""
    if "\\" not in text:
        return text
    raw = bytearray()
    for match in _KEY_PART.finditer(text):
        if match[1] is not None:
            raw.append(int(match[1], 16))
        elif match[2] == "\\":
            raise ValueError("a backslash in a key is written \\x5c")
        else:
            raw += name_bytes(match[2])
    return name_text(bytes(raw))


_PLAIN_KEY = re.compile(r"[^\x00-\x1f\x7f-\x9f\\\u2028\u2029\ud800-\udfff]*")
_KEY_PART = re.compile(r"\\x([0-9a-f]{2})|(\\|[^\\]+)", re.DOTALL)


def _key_character(character: str) -> str:
    if _PLAIN_KEY.fullmatch(character):
        return character
    return "".join(f"\\x{byte:02x}" for byte in name_bytes(character))
