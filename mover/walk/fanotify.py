"""fanotify(7) as far as a watcher of whole file systems needs it: one mark, events with folder handles, their paths.

Every event names the folder by its file handle and the entry by its name (FAN_REPORT_DFID_NAME); where the kernel
knows no folder (another link went, a network client wrote by handle) the entry's own handle is there (FAN_REPORT_FID).
What comes is parsed within its own lengths: anything else is BadEvents, and then nothing is known of what changed.
"""

from __future__ import annotations

import ctypes
import os
import struct

from msgspec import Struct

READ_BYTES = 256 << 10
HANDLE_MAX = 128  # MAX_HANDLE_SZ
NAME_MAX = 255

MODIFY, ATTRIB, CLOSE_WRITE = 0x02, 0x04, 0x08
MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x40, 0x80, 0x100, 0x200
OVERFLOW, ON_DIR = 0x4000, 0x4000_0000
APPEARED = MOVED_FROM | MOVED_TO | CREATE | DELETE
CHANGES = MODIFY | ATTRIB | CLOSE_WRITE | APPEARED | ON_DIR

_CLOEXEC, _NONBLOCK = 0x01, 0x02
_REPORT = 0x200 | 0x400 | 0x800  # FAN_REPORT_FID | FAN_REPORT_DIR_FID | FAN_REPORT_NAME
_MARK_ADD, _MARK_FILESYSTEM = 0x01, 0x100
_EMPTY_PATH = 0x1000
_VERSION = 3
_FID, _DFID_NAME, _DFID = 1, 2, 3
_EVENT = struct.Struct("=IBBHQii")  # length, version, reserved, metadata length, mask, descriptor, pid
_INFO = struct.Struct("=BBH")  # type, padding, length
_FSID_BYTES = 8
_HANDLE = struct.Struct("=Ii")  # bytes that follow, type

_LIBC = ctypes.CDLL(None, use_errno=True)


class BadEvents(ValueError):
    """What the kernel said cannot be read."""


class Event(Struct, frozen=True):
    """`folder` and `child` are file handles with their heads, or empty; a name of '.' is the folder's own."""

    mask: int
    folder: bytes = b""
    name: bytes = b""
    child: bytes = b""


def parsed(buffer: bytes) -> list[Event]:
    """All events of one read(2)."""
    events, at = [], 0
    while at < len(buffer):
        if len(buffer) - at < _EVENT.size:
            raise BadEvents("an event is cut off")
        length, version, _, head, mask, _, _ = _EVENT.unpack_from(buffer, at)
        if version != _VERSION or head < _EVENT.size or not head <= length <= len(buffer) - at:
            raise BadEvents("an event's head is not understood")
        events.append(_event(mask, buffer[at + head : at + length]))
        at += length
    return events


def _event(mask: int, records: bytes) -> Event:
    folder = name = child = b""
    at = 0
    while at < len(records):
        if len(records) - at < _INFO.size:
            raise BadEvents("a record is cut off")
        kind, _, length = _INFO.unpack_from(records, at)
        if not _INFO.size < length <= len(records) - at:
            raise BadEvents("a record's length is not understood")
        body = records[at + _INFO.size : at + length]
        if kind in (_DFID_NAME, _DFID):
            folder, name = _handle(body)
        elif kind == _FID:
            child, _ = _handle(body)
        at += length
    return Event(mask, folder, name, child)


def _handle(body: bytes) -> tuple[bytes, bytes]:
    """The handle and the name behind it, which ends at its first NUL."""
    if len(body) < _FSID_BYTES + _HANDLE.size:
        raise BadEvents("a handle is cut off")
    size, _ = _HANDLE.unpack_from(body, _FSID_BYTES)
    stop = _FSID_BYTES + _HANDLE.size + size
    if size > HANDLE_MAX or stop > len(body):
        raise BadEvents("a handle's length is not understood")
    name = body[stop:].partition(b"\0")[0]
    if len(name) > NAME_MAX or b"/" in name:
        raise BadEvents("a name is not understood")
    return body[_FSID_BYTES:stop], name


class Marks:
    """A notification group with one mark on the whole file system of `root`. OSError where this process or this
    file system may not. The kernel's queue is bounded (16,384 events): what is over comes as one OVERFLOW event."""

    def __init__(self, root: int) -> None:
        self.descriptor = _LIBC.fanotify_init(_CLOEXEC | _NONBLOCK | _REPORT, os.O_RDONLY | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise _error()
        if _LIBC.fanotify_mark(self.descriptor, _MARK_ADD | _MARK_FILESYSTEM, ctypes.c_uint64(CHANGES), root, b"."):
            error = _error()
            self.close()
            raise error

    def read(self) -> list[Event]:
        """What has come; empty when nothing has."""
        try:
            return parsed(os.read(self.descriptor, READ_BYTES))
        except BlockingIOError:
            return []

    def close(self) -> None:
        os.close(self.descriptor)


def open_handle(mounted: int, handle: bytes) -> int:
    """A descriptor (O_PATH) of what the handle names on the file system of `mounted`; OSError (ESTALE) when it is
    not there any more. `mounted` may not be O_PATH."""
    held = ctypes.create_string_buffer(handle, len(handle))
    opened = int(_LIBC.open_by_handle_at(mounted, held, os.O_PATH | os.O_CLOEXEC))
    if opened < 0:
        raise _error()
    return opened


def handle_of(opened: int) -> bytes:
    """The handle of an open folder; OSError where the file system has none."""
    held = ctypes.create_string_buffer(_HANDLE.pack(HANDLE_MAX, 0), _HANDLE.size + HANDLE_MAX)
    if _LIBC.name_to_handle_at(opened, b"", held, ctypes.byref(ctypes.c_int()), _EMPTY_PATH):
        raise _error()
    size, _ = _HANDLE.unpack_from(held.raw)
    return held.raw[: _HANDLE.size + size]


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
