"""Trees: one JSON document per folder, byte for byte as restic writes it.

Nodes are sorted by the bytes of their names; fields stand in the order of restic's Go structure and empty
ones are left out as Go's `omitempty` does; a newline ends the document. Equal folders thus share one blob.
Names are quoted as Go's strconv.Quote quotes them, *before* JSON quotes them again: this is how names that
are not UTF-8 travel.
"""

from __future__ import annotations

import base64
import re
import stat as stat_bits
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mover.errors import RepositoryDamaged

NodeType = Literal["file", "dir", "symlink", "dev", "chardev", "fifo", "socket", "irregular", ""]

# Go's os.FileMode: permission bits as in POSIX, everything else at the top.
_GO_MODE_BITS = (
    (stat_bits.S_ISUID, 1 << 23),
    (stat_bits.S_ISGID, 1 << 22),
    (stat_bits.S_ISVTX, 1 << 20),
)
_GO_TYPE_BITS = {"dir": 1 << 31, "symlink": 1 << 27, "file": 0}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MIN_SECONDS = int((datetime(1, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds())
_MAX_SECONDS = int((datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _EPOCH).total_seconds())


class Xattr(Struct, frozen=True):
    name: str
    value: bytes  # JSON carries it as base64, as Go does


class _WireXattr(Struct):
    name: str
    value: str


class Node(Struct, frozen=True):
    """One member of a folder. Names and link targets are raw bytes; times are nanoseconds since 1970."""

    name: bytes
    type: NodeType
    mode: int  # POSIX permission, setuid, setgid and sticky bits
    mtime_ns: int
    ctime_ns: int
    uid: int = 0
    gid: int = 0
    user: str = ""
    group: str = ""
    inode: int = 0
    device_id: int = 0
    size: int = 0
    links: int = 0
    target: bytes = b""
    xattrs: tuple[Xattr, ...] = ()
    content: tuple[bytes, ...] | None = None
    subtree: bytes | None = None
    atime_ns: int | None = None  # None: as restic does by default, the modification time stands in


class _WireNode(Struct):
    name: str
    type: str
    mode: int | UnsetType = UNSET
    mtime: str | UnsetType = UNSET
    atime: str | UnsetType = UNSET
    ctime: str | UnsetType = UNSET
    uid: int = 0
    gid: int = 0
    user: str | UnsetType = UNSET
    group: str | UnsetType = UNSET
    inode: int | UnsetType = UNSET
    device_id: int | UnsetType = UNSET
    size: int | UnsetType = UNSET
    links: int | UnsetType = UNSET
    linktarget: str | UnsetType = UNSET
    linktarget_raw: str | UnsetType = UNSET
    extended_attributes: list[_WireXattr] | UnsetType = UNSET
    device: int | UnsetType = UNSET
    content: list[str] | None = None
    subtree: str | UnsetType = UNSET


class _WireTree(Struct):
    nodes: list[_WireNode] | None


_NO_NAME = b'{"name":""'
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(_WireTree)


def encode_node(node: Node) -> bytes:
    """The JSON of one node; `encode_tree` joins them, so that a large folder is encoded as it comes."""
    return with_name(node.name, encode_facts(node))


def encode_facts(node: Node) -> bytes:
    """All but the name, which comes first: hard links share the rest, and who reads a file need not know it."""
    return _go_escapes(_ENCODER.encode(_to_wire(node))[len(_NO_NAME) :])


def with_name(name: bytes, facts: bytes) -> bytes:
    if _BARE_NAME.fullmatch(name):
        return b'{"name":"' + name + b'"' + facts
    return b'{"name":' + _go_escapes(_ENCODER.encode(quote(name))) + facts


def encode_tree(encoded_nodes: list[bytes]) -> bytes:
    """`encoded_nodes` must be in the order of their raw names."""
    return b'{"nodes":[' + b",".join(encoded_nodes) + b"]}\n"


def decode_tree(document: bytes) -> list[Node]:
    """The nodes in stored order. Names that could leave the folder, and unsorted or doubled names, are
    damage: whoever restores may trust what this returns."""
    try:
        wire = _DECODER.decode(document)
        nodes = [_from_wire(node) for node in wire.nodes or []]
    except ValueError as cause:
        raise RepositoryDamaged("a tree cannot be decoded") from cause
    previous = b""
    for node in nodes:
        if node.name in (b"", b".", b"..") or b"/" in node.name or b"\0" in node.name:
            raise RepositoryDamaged("a tree holds a name that no folder can hold")
        if node.name <= previous:
            raise RepositoryDamaged("the names of a tree are not in order")
        previous = node.name
    return nodes


# --- the two ways ------------------------------------------------------------------------------------


def _to_wire(node: Node) -> _WireNode:
    wire = _WireNode(
        name="",
        type=node.type,
        mode=_go_mode(node) or UNSET,
        mtime=format_time(node.mtime_ns),
        atime=format_time(node.mtime_ns if node.atime_ns is None else node.atime_ns),
        ctime=format_time(node.ctime_ns),
        uid=node.uid,
        gid=node.gid,
        user=node.user or UNSET,
        group=node.group or UNSET,
        inode=node.inode or UNSET,
        device_id=node.device_id or UNSET,
        size=node.size or UNSET,
        links=node.links or UNSET,
        content=None if node.content is None else [blob.hex() for blob in node.content],
        subtree=UNSET if node.subtree is None else node.subtree.hex(),
    )
    if node.target:
        _target_to_wire(node.target, wire)
    if node.xattrs:
        coded = [(xattr.name, base64.b64encode(xattr.value).decode("ascii")) for xattr in node.xattrs]
        wire.extended_attributes = [_WireXattr(name, value) for name, value in coded]
    return wire


def _target_to_wire(target: bytes, wire: _WireNode) -> None:
    """Targets are not quoted; what is not UTF-8 travels beside, in `linktarget_raw`."""
    wire.linktarget = target.decode("utf-8", "replace")
    try:
        target.decode("utf-8")
    except UnicodeDecodeError:
        wire.linktarget_raw = base64.b64encode(target).decode("ascii")


def _from_wire(wire: _WireNode) -> Node:
    mode = wire.mode or 0
    xattrs = wire.extended_attributes or []
    return Node(
        name=unquote(wire.name),
        type=wire.type,  # type: ignore[arg-type]  # a type we do not know is carried, then skipped by name
        mode=_posix_mode(mode),
        mtime_ns=parse_time(wire.mtime) if wire.mtime else 0,
        atime_ns=parse_time(wire.atime) if wire.atime else None,
        ctime_ns=parse_time(wire.ctime) if wire.ctime else 0,
        uid=wire.uid,
        gid=wire.gid,
        user=wire.user or "",
        group=wire.group or "",
        inode=wire.inode or 0,
        device_id=wire.device_id or 0,
        size=wire.size or 0,
        links=wire.links or 0,
        target=_target_of(wire),
        xattrs=tuple(Xattr(x.name, base64.b64decode(x.value)) for x in xattrs),
        content=None if wire.content is None else tuple(_blob_id(blob) for blob in wire.content),
        subtree=_blob_id(wire.subtree) if wire.subtree else None,
    )


def _target_of(wire: _WireNode) -> bytes:
    if wire.linktarget_raw:
        return base64.b64decode(wire.linktarget_raw)
    return (wire.linktarget or "").encode("utf-8")


def _blob_id(text: str) -> bytes:
    blob_id = bytes.fromhex(text)
    if len(blob_id) != 32:
        raise ValueError("a blob id is 32 bytes")
    return blob_id


def _go_mode(node: Node) -> int:
    mode = node.mode & 0o777 | _GO_TYPE_BITS.get(node.type, 0)
    for posix, go in _GO_MODE_BITS:
        if node.mode & posix:
            mode |= go
    return mode


def _posix_mode(go_mode: int) -> int:
    mode = go_mode & 0o777
    for posix, go in _GO_MODE_BITS:
        if go_mode & go:
            mode |= posix
    return mode


def _go_escapes(document: bytes) -> bytes:
    """Go's JSON escapes these even in plain strings; outside of strings they cannot occur."""
    if b"<" in document or b">" in document or b"&" in document:
        document = document.replace(b"<", rb"\u003c").replace(b">", rb"\u003e").replace(b"&", rb"\u0026")
    if b"\xe2\x80" in document:
        document = document.replace(b"\xe2\x80\xa8", rb"\u2028").replace(b"\xe2\x80\xa9", rb"\u2029")
    return document


# --- times -------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def format_time(time_ns: int) -> str:
    """RFC3339Nano in UTC: trailing zeros of the fraction are dropped, years stay within 1 to 9999. Two of a new file's
    three times are equal."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    seconds = min(max(seconds, _MIN_SECONDS), _MAX_SECONDS)
    text = _second(seconds)
    if not fraction:
        return text + "Z"
    return f"{text}.{fraction:09d}".rstrip("0") + "Z"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    """Files of one tree share their seconds; formatting dates was a tenth of a walk over small files."""
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")


_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of an RFC3339Nano time with any offset; ValueError when it is none."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 time")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    moment = datetime(max(year, 1), month, day, hour, minute, second, tzinfo=UTC) - _EPOCH
    fraction = int((match[7] or "").ljust(9, "0"))
    offset = 0
    if match[8] != "Z":
        offset = (int(match[8][1:3]) * 60 + int(match[8][4:6])) * 60 * (-1 if match[8][0] == "-" else 1)
    return (moment.days * 86400 + moment.seconds - offset) * 1_000_000_000 + fraction


# --- names: Go's strconv.Quote and Unquote, without the outer quotes -----------------------------------

_SHORT = {7: "\\a", 8: "\\b", 12: "\\f", 10: "\\n", 13: "\\r", 9: "\\t", 11: "\\v", 0x22: '\\"', 0x5C: "\\\\"}
_SHORT_BACK = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, '"': 0x22, "\\": 0x5C, "'": 0x27}
_PLAIN_NAME = re.compile(rb"[ !#-\[\]-~]*")
_BARE_NAME = re.compile(rb"[\w .,+-]*")  # as it is in Go and in JSON alike
_ESCAPE = re.compile(r"\\(?:([abfnrtv\"'\\])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3}))")


def quote(name: bytes) -> str:
    if _PLAIN_NAME.fullmatch(name):
        return name.decode("ascii")
    return "".join(_quote_rune(rune) for rune in name.decode("utf-8", "surrogateescape"))


def _quote_rune(rune: str) -> str:
    code = ord(rune)
    if code in _SHORT:
        return _SHORT[code]
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if rune.isprintable():
        return rune
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def unquote(text: str) -> bytes:
    if "\\" not in text:
        return text.encode("utf-8")
    out = bytearray()
    position = 0
    while position < len(text):
        if text[position] != "\\":
            end = text.find("\\", position)
            end = len(text) if end < 0 else end
            out += text[position:end].encode("utf-8")
            position = end
            continue
        match = _ESCAPE.match(text, position)
        if match is None:
            raise ValueError("a name holds an escape that does not exist")
        out += _unescape(match)
        position = match.end()
    return bytes(out)


def _unescape(match: re.Match[str]) -> bytes:
    short, two, four, eight, octal = match.groups()
    if short:
        return bytes([_SHORT_BACK[short]])
    if two:
        return bytes([int(two, 16)])
    if octal:
        return bytes([int(octal, 8) & 0xFF])
    return chr(int(four or eight, 16)).encode("utf-8")
