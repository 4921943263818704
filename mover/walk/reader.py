"""What looks at folders: a process of its own, because threads share one interpreter lock and stat(2) is short.

It holds one descriptor of the tier's root and opens every folder beneath it without following links (`beneath`).
It asks every name for its state, always; only what it then sends depends on what the catalog knows: a part of a
folder whose names and states have the known digest is sent without its columns.

Names come from readdir in parts of at most PART, so that a folder of ten million entries is bounded too. The
states of a part are asked by statx(2) straight into one buffer that numpy reads: building ten million Python
objects costs more than the kernel's own answers.

Started by `readers`, which is the other end of its socket; it ends with it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
from collections.abc import Iterator
from itertools import islice, repeat
from typing import Any, NamedTuple

import msgspec
import numpy as np
from blake3 import blake3
from msgspec import Struct
from numpy.typing import NDArray

from mover.tiers import beneath
from mover.walk import packing
from mover.walk.packing import FOLDER, INODE, MODE, SIZE, Columns, PackedColumns

PART = 4096  # entries of one listing, at most
BATCH = 2048  # entries whose columns are worked on together
FRAME = struct.Struct("<I")

_PR_SET_PDEATHSIG = 1
_STATX_BYTES = 256
_NOFOLLOW = 0x100 | 0x800  # AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT
_BASIC = 0x7FF | 0x1000  # STATX_BASIC_STATS | STATX_MNT_ID
_STATX = np.dtype(
    {
        "names": ["mask", "mode", "inode", "size", "ctime_s", "ctime_ns", "mtime_s", "mtime_ns", "device", "mount"],
        "formats": ["<u4", "<u2", "<u8", "<i8", "<i8", "<u4", "<i8", "<u4", "<u8", "<u8"],
        "offsets": [0, 28, 32, 40, 96, 104, 112, 120, 136, 144],
        "itemsize": _STATX_BYTES,
    }
)
_MNT_ID = 0x1000

# PyDLL keeps the interpreter lock: this process has one thread, and giving the lock up costs more than the call
_LIBC = ctypes.PyDLL(None, use_errno=True)


class Job(Struct, frozen=True, array_like=True):
    """What every task of a walk has in common. `scan` empty: rows are not made. `key` keys the digests, so that
    nobody can try names against those of an identified tier."""

    scan: bytes
    root: int
    hide: bool
    sealed: bool
    cross_mounts: bool
    key: bytes = b""


class Task(Struct, frozen=True, array_like=True):
    """A folder to read, and the digests of its parts as the catalog knows them."""

    folder: bytes
    known: list[bytes] = []


class Found(Struct, frozen=True, array_like=True):
    """What could not be seen."""

    code: str
    key: bytes


class Seen(Struct, frozen=True, array_like=True):
    """One part of a folder; nothing of it was seen where `digest` is empty. `row` is ready for COPY; on a sealed tier
    `names` and `tail` come instead, because the names must become tags first; `whole` ones are whole keys. `same`
    parts have neither."""

    folder: bytes
    part: int
    last: bool
    digest: bytes
    entries: int = 0
    size_bytes: int = 0
    same: bool = False
    row: bytes = b""
    names: list[bytes] = []
    tail: bytes = b""
    whole: bool = False
    folders: list[bytes] = []
    vanished: int = 0
    findings: list[Found] = []


class _Part(Struct):
    """Names of a part and where their states stand in the buffer."""

    task: Task
    number: int
    last: bool
    names: list[bytes]
    start: int
    vanished: int
    findings: list[Found]
    unseen: bool = False


class _Look(NamedTuple):
    """A part with its columns; `folders` is None where the whole batch has none."""

    part: _Part
    columns: Columns
    folders: NDArray[np.bool_] | None
    elsewhere: NDArray[np.bool_]


def main(control: int) -> None:
    """Serve tasks from the socket until its other end closes."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with socket.socket(fileno=control) as parent:
        job = msgspec.msgpack.decode(receive(parent), type=Job)
        reader = Reader(job)
        while message := receive(parent):
            tasks = msgspec.msgpack.decode(message, type=list[Task])
            for seen in reader.read(tasks):
                send(parent, msgspec.msgpack.encode(seen))
            send(parent, msgspec.msgpack.encode([]))


def receive(channel: socket.socket) -> bytes:
    """One message; b'' at the end of the stream."""
    head = channel.recv(FRAME.size, socket.MSG_WAITALL)
    if len(head) < FRAME.size:
        return b""
    (length,) = FRAME.unpack(head)
    body = bytearray(length)
    view = memoryview(body)
    while view:
        count = channel.recv_into(view)
        if count == 0:
            return b""
        view = view[count:]
    return bytes(body)


def send(channel: socket.socket, message: bytes) -> None:
    channel.sendall(FRAME.pack(len(message)) + message)


class Reader:
    """Reads folders one after the other, and works on the columns of several together."""

    def __init__(self, job: Job, *, library: ctypes.CDLL = _LIBC) -> None:
        self._job = job
        self._buffer = ctypes.create_string_buffer(_STATX_BYTES * (PART + BATCH))
        self._states: NDArray[Any] = np.frombuffer(memoryview(self._buffer), _STATX)
        self._statx = library.statx
        self._statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
        self._statx.restype = ctypes.c_int
        self._mount = self._mount_of_root()
        self._parts: list[_Part] = []
        self._held = 0

    def read(self, tasks: list[Task]) -> Iterator[list[Seen]]:
        """Everything in the folders of the tasks, in lists small enough for one message."""
        for task in tasks:
            for part in self._parts_of(task):
                self._parts.append(part)
                self._held += len(part.names)
                if self._held >= BATCH or len(self._parts) >= BATCH:
                    yield self._flush()
        if self._parts:
            yield self._flush()

    # --- names and states -------------------------------------------------------------------------------

    def _parts_of(self, task: Task) -> Iterator[_Part]:
        try:
            folder = beneath.open_folder(self._job.root, task.folder.split(b"/") if task.folder else [])
        except OSError as error:
            yield _unseen(task, 0, _code(error))
            return
        try:
            yield from self._parts_in(task, folder)
        finally:
            os.close(folder)

    def _parts_in(self, task: Task, folder: int) -> Iterator[_Part]:
        """readdir may fail in the middle: what came before stands, and the finding says that it is not all."""
        number = 0
        try:
            # a path of bytes gives names as bytes, whatever the locale
            with os.scandir(b"/proc/self/fd/%d" % folder) as found:
                while True:
                    names = [item.name for item in islice(found, PART)]
                    last = len(names) < PART
                    yield self._ask(task, folder, number, last, self._shown(task, names))
                    number += 1
                    if last:
                        return
        except OSError as error:
            yield _unseen(task, number, _code(error))

    def _shown(self, task: Task, names: list[bytes]) -> list[bytes]:
        """Without our own and NFS's passing names, as the tier's own listing hides them."""
        if not self._job.hide:
            return names
        return [name for name in names if name[0] != 46 or not self._is_passing(task, name)]

    def _is_passing(self, task: Task, name: bytes) -> bool:
        """A file that is only called a little like NFS's own passing names is a file."""
        ours = name.startswith(b".mover-tmp-") or (not task.folder and name == b".mover")
        return ours or beneath.is_passing(name)

    def _ask(self, task: Task, folder: int, number: int, last: bool, names: list[bytes]) -> _Part:
        start = self._held
        base = ctypes.addressof(self._buffer) + start * _STATX_BYTES
        places = range(base, base + len(names) * _STATX_BYTES, _STATX_BYTES)
        answers = list(map(self._statx, repeat(folder), names, repeat(_NOFOLLOW), repeat(_BASIC), places))
        part = _Part(task, number, last, names, start, 0, [])
        if any(answers):
            self._drop_unanswered(part, folder, answers)
        return part

    def _drop_unanswered(self, part: _Part, folder: int, answers: list[int]) -> None:
        """A name that is gone since readdir is no finding; one that may not be asked is, once for its folder."""
        kept = [place for place, answer in enumerate(answers) if answer == 0]
        codes = set()
        for name, answer in zip(part.names, answers, strict=True):
            if answer != 0:
                code = _why(folder, name)
                part.vanished += code == "vanished"
                codes |= {code} - {"vanished"}
        part.findings += [Found(code, part.task.folder) for code in sorted(codes)]
        states = self._states[part.start : part.start + len(answers)]
        states[: len(kept)] = states[kept]
        part.names = [part.names[place] for place in kept]

    def _mount_of_root(self) -> int:
        """What tells a mount point below the root: the mount's id, or the device where kernels do not say it."""
        if self._statx(self._job.root, b"", _NOFOLLOW | 0x1000, _BASIC, ctypes.addressof(self._buffer)) != 0:
            raise OSError(ctypes.get_errno(), "statx of the root")
        return int(_mounts(self._states[:1])[0])

    # --- columns ------------------------------------------------------------------------------------------

    def _flush(self) -> list[Seen]:
        states = self._states[: self._held]
        columns = _columns(states)
        folders = columns[:, MODE] == FOLDER
        some = bool(folders.any())
        elsewhere = folders & (_mounts(states) != self._mount) if some else folders
        packed = PackedColumns(columns[~folders] if some else columns)
        seen, at = [], 0
        for part in self._parts:
            here = slice(part.start, part.start + len(part.names))
            look = _Look(part, columns[here], folders[here] if some else None, elsewhere[here])
            seen.append(self._seen(look, packed, at))
            at += seen[-1].entries
        self._parts, self._held = [], 0
        return seen

    def _seen(self, look: _Look, packed: PackedColumns, at: int) -> Seen:
        part, names, columns = look.part, look.part.names, look.columns
        below: list[bytes] = []
        findings, inside = part.findings, b""
        if part.unseen:
            return Seen(part.task.folder, part.number, True, b"", findings=findings)
        if look.folders is not None and look.folders.any():
            entered, names = _divided(names, look.folders)
            below, findings = self._enter(part, entered, look.elsewhere[look.folders])
            inside = b"\0".join((*entered, b"", columns[look.folders, INODE].tobytes()))
            columns = columns[~look.folders]
        # names hold no NUL, so two listings that differ are two texts
        digest = self._digest(b"\0".join((*names, b"", columns.tobytes(), inside)))
        head = packing.Part(part.number, digest, len(names))
        known = part.task.known
        same = part.number < len(known) and known[part.number] == digest
        tail = b"" if same else packed.tail(at, at + len(names))
        return Seen(
            part.task.folder, part.number, part.last, digest,
            entries=len(names), size_bytes=int(columns[:, SIZE].sum()), same=same, folders=below,
            vanished=part.vanished, findings=findings, tail=tail if self._job.sealed else b"",
            names=names if self._job.sealed and not same else [],
            row=b"" if self._job.sealed else self._row(part.task.folder, head, names, tail),
        )  # fmt: skip

    def _digest(self, listing: bytes) -> bytes:
        return (blake3(listing, key=self._job.key) if self._job.key else blake3(listing)).digest()

    def _row(self, folder: bytes, head: packing.Part, names: list[bytes], tail: bytes) -> bytes:
        if not tail:
            return packing.same_row(self._job.scan, folder, head)
        return packing.row(
            self._job.scan, folder, head, whole=False, names=packing.bytea_array(names), tail=tail
        )

    def _enter(
        self, part: _Part, inside: list[bytes], elsewhere: NDArray[Any]
    ) -> tuple[list[bytes], list[Found]]:
        """Folders to walk next; one on another mount is another place, and a finding unless it was asked for."""
        prefix = part.task.folder + b"/" if part.task.folder else b""
        if self._job.cross_mounts or not elsewhere.any():
            return [prefix + name for name in inside], part.findings
        pairs = list(zip(inside, elsewhere.tolist(), strict=True))
        found = [Found("other-mount", prefix + name) for name, away in pairs if away]
        return [prefix + name for name, away in pairs if not away], part.findings + found


def _columns(states: NDArray[Any]) -> Columns:
    columns = np.empty((len(states), 5), np.int64)
    columns[:, 0] = states["size"]
    columns[:, 1] = states["mtime_s"] * 1_000_000_000 + states["mtime_ns"]
    columns[:, 2] = states["inode"].view(np.int64)
    columns[:, 3] = states["ctime_s"] * 1_000_000_000 + states["ctime_ns"]
    columns[:, 4] = states["mode"] >> 12
    return columns


def _mounts(states: NDArray[Any]) -> NDArray[Any]:
    known = (states["mask"] & _MNT_ID) != 0
    return np.where(known, states["mount"], states["device"])


def _divided(names: list[bytes], folders: NDArray[Any]) -> tuple[list[bytes], list[bytes]]:
    pairs = list(zip(names, folders.tolist(), strict=True))
    return [name for name, is_folder in pairs if is_folder], [name for name, is_folder in pairs if not is_folder]


def _why(folder: int, name: bytes) -> str:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        return "vanished" if error.errno == errno.ENOENT else _code(error)
    return "changing"  # it could be asked the second time


def _unseen(task: Task, number: int, code: str) -> _Part:
    return _Part(task, number, True, [], 0, 0, [Found(code, task.folder)], unseen=True)


_CODES = {
    errno.EACCES: "denied", errno.EPERM: "denied",
    errno.ENOENT: "folder-vanished", errno.ENOTDIR: "folder-replaced", errno.ELOOP: "folder-replaced",
    errno.EXDEV: "folder-replaced", errno.ENAMETOOLONG: "too-deep",
    errno.ESTALE: "away", errno.ENODEV: "away", errno.ENXIO: "away", errno.ENOTCONN: "away", errno.ETIMEDOUT: "away",
    errno.EHOSTDOWN: "away",
}  # fmt: skip


def _code(error: OSError) -> str:
    """Why something was not seen. `away` is the tier's own absence, which ends the walk."""
    return _CODES.get(error.errno or 0, "unreadable")
