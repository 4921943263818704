"""How a text can stand in a file without looking like itself: used to plant, and to search without the engine."""

from __future__ import annotations

import base64
import gzip
import zlib
from html import escape
from urllib.parse import quote

WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
NARROW = ("utf-8", "latin-1", "cp1250", "cp437", "iso2022_jp", "iso2022_kr", "shift_jis", "euc_jp", "euc_kr", "gb18030")
# a shorter form occurs by chance, in any few hundred kilobytes of pixels
SHORTEST = 5


def ways(text: str) -> dict[str, bytes]:
    """The text in each way that a program was seen to write one."""
    plain = text.encode()
    found = {coding: text.encode(coding, "ignore") for coding in (*WIDE, *NARROW)}
    for skipped in range(3):
        found[f"base64 from byte {skipped}"] = base64.b64encode(bytes(skipped) + plain)
    found |= {
        "base64 of utf-16": base64.b64encode(text.encode("utf-16-le")),
        "hex": plain.hex().encode(),
        "HEX": plain.hex().upper().encode(),
        "hex of utf-16": text.encode("utf-16-le").hex().encode(),
        "reversed": plain[::-1],
        "percent": quote(text, safe="").encode(),
        "percent of all": "".join(f"%{one:02X}" for one in plain).encode(),
        "entities": "".join(f"&#{ord(one)};" for one in text).encode(),
        "hexadecimal entities": "".join(f"&#x{ord(one):x};" for one in text).encode(),
        "escaped": escape(text).encode(),
        "zlib": zlib.compress(plain * 3),
        "gzip": gzip.compress(plain * 3, mtime=0),
        "base64 of zlib": base64.b64encode(zlib.compress(plain * 3)),
        "lower": text.lower().encode(),
        "upper": text.upper().encode(),
    }
    return {name: data for name, data in found.items() if len(data) >= SHORTEST}


def sought(text: str) -> set[bytes]:
    """What of `ways` can be found without taking anything apart: a piece of base64 that no neighbour changes, the
    characters between two escape sequences."""
    found = set()
    for one in {text, text.lower(), text.upper()}:
        plain = one.encode()
        found |= {one.encode(coding, "ignore") for coding in (*WIDE, *NARROW)}
        found |= {part for part in (_bare(one, "iso2022_jp"), _bare(one, "iso2022_kr")) if part}
        found |= {base64.b64encode(bytes(skipped) + plain)[4:-4] for skipped in range(3) if len(plain) > 8}
        found |= {plain.hex().encode(), plain.hex().upper().encode(), plain[::-1], quote(one, safe="").encode()}
        found.add(one.encode("utf-16-le").hex().encode())
    return {one for one in found if len(one) >= SHORTEST}


def _bare(text: str, coding: str) -> bytes:
    """ISO 2022 without the escapes that begin and end it."""
    written = text.encode(coding, "ignore")
    if text.isascii():
        return b""
    return written.split(b"\x1b$B")[-1].split(b"\x1b(")[0] if coding == "iso2022_jp" else written.split(b"\x0e")[-1]
