"""Folders below a root, opened once each; keys; and where a target's folders stand while a group is written."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from mover.errors import RequestInvalid
from mover.randomness import random_bytes
from mover.tiers import beneath
from mover.tiers.posix import TEMPORARY

FOLDERS_OPEN = 64

_LIBC = ctypes.CDLL(None, use_errno=True)
_NOREPLACE = 1
_BAD_NAMES = frozenset((b"", b".", b".."))
_ENCODING = sys.getfilesystemencoding()


def split_target(key: str) -> tuple[bytes, bytes]:
    """Folder and name of a key; RequestInvalid for every way out of the root (the folder is looked at when it is
    opened, once for all its files)."""
    folder, name = split_source(key)
    if name.startswith(TEMPORARY):
        raise RequestInvalid("a key with the name of a temporary file")
    return folder, name


def split_source(key: str) -> tuple[bytes, bytes]:
    raw = key.encode(_ENCODING, "surrogateescape")  # os.fsencode, by the million
    folder, slash, name = raw.rpartition(b"/")
    if len(raw) > beneath.MAX_KEY_BYTES or len(name) > beneath.MAX_PART_BYTES:
        raise RequestInvalid("a key or one of its parts is too long")
    if name in _BAD_NAMES or b"\0" in raw or (slash and not folder):
        raise RequestInvalid("a key that is empty, absolute or has an empty, '.' or '..' part")
    return folder, name


def rename_into(source: int, target: int, name: bytes) -> None:
    """From one open folder to another under the same name; FileExistsError when it is taken there."""
    if _LIBC.renameat2(source, name, target, name, _NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Folders:
    """Open folders below a root, each path resolved once; a bounded number stays open. One per thread."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._open: dict[bytes, tuple[int, int]] = {}
        self._last: bytes | None = None
        self._here = self.device = -1

    def __enter__(self) -> Folders:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.popitem()[1][0])

    def open(self, path: bytes) -> int:
        """A descriptor, valid until the next path is asked for; `device` says on which file system it is."""
        if path is self._last or path == self._last:
            return self._here
        found = self._open.get(path)
        if found is None:
            if len(self._open) >= FOLDERS_OPEN:
                os.close(self._open.pop(next(iter(self._open)))[0])
            descriptor = beneath.open_folder(self._root, parts_of(path))
            found = self._open[path] = (descriptor, os.fstat(descriptor).st_dev)
        self._last = path
        self._here, self.device = found
        return self._here


def parts_of(path: bytes) -> beneath.Parts:
    return beneath.key_parts(os.fsdecode(path)) if path else []


class Layout:
    """Where the target's folders are while a group is written, and how they get their final names."""

    def __init__(self, root: int, *, staging: bool) -> None:
        self._root, self._staging = root, staging
        self._actual: dict[bytes, tuple[bytes, bool]] = {}
        self._final: dict[bytes, bytes] = {}
        self._standing: set[bytes] = {b""}
        self._stages: dict[bytes, bytes] = {}  # first missing folder -> the temporary folder in its stead
        self._whole: set[bytes] = set()  # by actual names: all that was in them has its final name
        self._published: set[bytes] = set()
        self._lock = threading.Lock()

    def place(self, folder: bytes) -> tuple[bytes, bool]:
        """Where files of this folder are written, and whether that is a staged folder, in which they have their
        final names. Makes what is missing."""
        found = self._actual.get(folder)
        if found is None:
            with self._lock:
                found = self._actual.get(folder) or self._make(folder)
        return found

    def _make(self, folder: bytes) -> tuple[bytes, bool]:
        parts = parts_of(folder)
        top = self._first_missing(folder)
        actual = folder
        if top and self._staging:
            if top not in self._stages:
                parent, slash, _ = top.rpartition(b"/")
                self._stages[top] = parent + slash + TEMPORARY + random_bytes(12).hex().encode()
            actual = self._stages[top] + folder[len(top) :]
            parts = parts_of(actual)
        if top:
            os.close(beneath.make_folders(self._root, parts))
        staged = actual is not folder
        self._actual[folder], self._final[actual] = (actual, staged), folder
        return actual, staged

    def _first_missing(self, folder: bytes) -> bytes:
        """The first of its ancestors or itself that the target does not have, or b''."""
        missing, at = b"", folder
        while at not in self._standing:
            if at in self._stages:
                return at
            try:
                os.close(beneath.open_beneath(self._root, parts_of(at), os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW))
            except FileNotFoundError:
                missing, at = at, at.rpartition(b"/")[0]
                continue
            self._standing.add(at)
        return missing

    def publish(self) -> Callable[[bytes], bool]:
        """Rename the staged folders into their places; whether all of a folder got its final name by that."""
        for top, stage in self._stages.items():
            parent = top.rpartition(b"/")[0]
            at = beneath.open_folder(self._root, parts_of(parent))
            try:
                beneath.rename_noreplace_only(at, stage.rpartition(b"/")[2], top.rpartition(b"/")[2])
            except FileExistsError:
                self._merge(top, stage)
            else:
                self._published.add(top)
                self._whole.update(self._below(top))
            finally:
                os.close(at)
        return self._whole.__contains__

    def _below(self, top: bytes) -> list[bytes]:
        """The staged folders of one stage, by their actual names, parents before what is in them."""
        stage = self._stages[top]
        return sorted(a for a in self._final if a == stage or a.startswith(stage + b"/"))

    def _merge(self, top: bytes, stage: bytes) -> None:
        """Somebody made the folder meanwhile: what it lacks is moved in whole, the rest name by name."""
        for actual in self._below(top):
            if self._above(actual, stage) or (actual != stage and self._moved_in(actual)):
                self._whole.add(actual)

    def _above(self, actual: bytes, stage: bytes) -> bool:
        """Whether a folder on the way was moved already, and this one with it."""
        while len(actual) > len(stage):
            actual = actual.rpartition(b"/")[0]
            if actual in self._whole:
                return True
        return False

    def _moved_in(self, actual: bytes) -> bool:
        source, _, name = actual.rpartition(b"/")
        target = self._final[actual].rpartition(b"/")[0]
        try:
            to = beneath.make_folders(self._root, parts_of(target))
        except OSError:
            return False  # its files find out why
        try:
            at = beneath.open_folder(self._root, parts_of(source))
            try:
                rename_into(at, to, name)
            finally:
                os.close(at)
        except FileExistsError:
            return False
        finally:
            os.close(to)
        return True

    def final(self, actual: bytes) -> bytes:
        return self._final[actual]

    def folders(self) -> set[bytes]:
        """By their final names: whose names are to be synced."""
        return set(self._final.values())

    def touched(self, folder: bytes) -> None:
        self._final.setdefault(folder, folder)

    def remove_staged(self) -> None:
        for top, stage in self._stages.items():
            if top in self._published:
                continue
            parent, _, name = stage.rpartition(b"/")
            with suppress(OSError):  # left for the sweep
                at = beneath.open_folder(self._root, parts_of(parent))
                try:
                    beneath.remove_tree(at, name)
                finally:
                    os.close(at)
