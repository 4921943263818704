"""Where released entries wait out their hold: `.mover/trash/<release>/<key>` on the same tier, so that leaving and
coming back is one rename each, and a person without a catalog still finds every file under its own name.

Nothing is named but a file whose device and inode were written down before: a name that somebody gave to another
file meanwhile is left alone. Everything here blocks. Names are durable once `sync` has returned, for many at once.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from mover.errors import ChangedWhileReading, EntryMissing, TierUnavailable
from mover.tiers import beneath

TRASH = ".mover/trash"
_NO_SUCH_RENAME = (errno.EINVAL, errno.ENOSYS)


class Inode(Struct, frozen=True):
    """`written`: its size and time of last writing. As an expectation None asks nothing about them."""

    device: int
    inode: int
    links: int = 1
    written: tuple[int, int] | None = None

    def same(self, other: Inode | None) -> bool:
        return other is not None and (self.device, self.inode) == (other.device, other.inode)

    def unwritten(self, other: Inode | None) -> bool:
        """The same file, and nobody wrote to it."""
        return other is not None and self.same(other) and self.written in (None, other.written)


def inode_of(status: os.stat_result) -> Inode:
    return Inode(status.st_dev, status.st_ino, status.st_nlink, (status.st_size, status.st_mtime_ns))


class Trash:
    """The trash of one writable posix tier."""

    def __init__(
        self, root: Path, *, tier: str, check_identity: Callable[[], None], deletes: bool = True
    ) -> None:
        self._root, self._tier, self._check_identity = root, tier, check_identity
        self.name, self.deletes = tier, deletes

    @contextmanager
    def opened(self) -> Iterator[int]:
        """The tier's root, which was proved to be it while it was open: what is mounted over it later is not met."""
        try:
            root = beneath.open_root(str(self._root))
        except OSError as error:
            raise beneath.translated(error, "the root cannot be opened", tier=self._tier) from None
        try:
            self._check_identity()
            now, held = os.stat(self._root), os.fstat(root)
            if (now.st_dev, now.st_ino) != (held.st_dev, held.st_ino):
                raise TierUnavailable("the root was replaced while it was looked at", where=self._tier)
            yield root
        finally:
            os.close(root)

    def find(self, root: int, key: str) -> Inode | None:
        """What stands under a name; None when nothing does. RequestInvalid for no name of a tier."""
        try:
            status = beneath.stat_beneath(root, beneath.key_parts(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise beneath.translated(error, "stat failed", tier=self._tier) from None
        if not stat.S_ISREG(status.st_mode):
            return None
        return inode_of(status)

    def rename(self, root: int, source: str, target: str, *, expected: Inode) -> None:
        """Give the file its other name; `sync` makes it durable. Raises EntryMissing, EntryExists, or
        ChangedWhileReading when the name meant another file, or it was written to: then it has its old name."""
        self._refuse_other(self.find(root, source), expected)
        before, after = beneath.key_parts(source), beneath.key_parts(target)
        try:
            with _folder(root, before[:-1], make=False) as old, _folder(root, after[:-1], make=True) as new:
                self._renamed(old, before[-1], new, after[-1], expected)
        except OSError as error:
            raise beneath.translated(error, "renaming failed", tier=self._tier) from error

    def _renamed(self, old: int, name: bytes, new: int, other: bytes, expected: Inode) -> None:
        _rename(old, name, new, other)
        found = inode_of(os.stat(other, dir_fd=new, follow_symlinks=False))
        if not expected.unwritten(found):
            _rename(new, other, old, name)  # somebody was faster than our look: it is theirs
            raise ChangedWhileReading("the name means another file now, or it was written to", where=self._tier)

    def sync(self, root: int, keys: Iterable[str]) -> None:
        """Make the folders of these names durable, each once. The side that holds the bytes comes first: a crash
        between leaves two names, never none."""
        folders = dict.fromkeys(b"/".join(beneath.key_parts(key)[:-1]) for key in keys)
        for folder in folders:
            try:
                with _folder(root, folder.split(b"/") if folder else [], make=False) as opened:
                    os.fsync(opened)
            except FileNotFoundError:
                continue    # tidied away before a crash: nothing in it is left to make durable
            except OSError as error:
                raise beneath.translated(error, "syncing failed", tier=self._tier) from error

    def drop_twin(self, root: int, key: str, *, expected: Inode) -> None:
        """Remove a first name that a crash between link and unlink left beside the second (NFS)."""
        if expected.same(self.find(root, key)):
            self.remove(root, key, expected=expected)

    def remove(self, root: int, key: str, *, expected: Inode) -> bool:
        """Remove the file of exactly this inode. False when nothing stands there any more."""
        found = self.find(root, key)
        if found is None:
            return False
        self._refuse_other(found, expected)
        parts = beneath.key_parts(key)
        try:
            with _folder(root, parts[:-1], make=False) as folder:
                os.unlink(parts[-1], dir_fd=folder)
        except OSError as error:
            raise beneath.translated(error, "removing failed", tier=self._tier) from error
        return True

    def tidy(self, root: int, release: str) -> None:
        """Empty folders of a release's trash; one that holds anything stays."""
        try:
            _remove_empty(root, beneath.key_parts(f"{TRASH}/{release}"))
        except FileNotFoundError:
            return
        except OSError as error:
            raise beneath.translated(error, "tidying failed", tier=self._tier) from error

    def _refuse_other(self, found: Inode | None, expected: Inode) -> None:
        if found is None:
            raise EntryMissing("the file is not there any more", where=self._tier)
        if not expected.same(found):
            raise ChangedWhileReading("the name means another file now", where=self._tier)
        if not expected.unwritten(found):
            raise ChangedWhileReading("the file was written to meanwhile", where=self._tier)


def trash_key(release: str, key: str) -> str:
    return f"{TRASH}/{release}/{key}"


@contextmanager
def _folder(root: int, parts: beneath.Parts, *, make: bool) -> Iterator[int]:
    folder = _made(root, parts) if make else beneath.open_folder(root, parts)
    try:
        yield folder
    finally:
        os.close(folder)


def _made(root: int, parts: beneath.Parts) -> int:
    """The folder, with the names of those that had to be made synced: a file in a folder whose own name is lost is
    lost with it."""
    try:
        return beneath.open_folder(root, parts)
    except FileNotFoundError:
        made = beneath.make_folders(root, parts)
    for depth in range(len(parts)):
        parent = beneath.open_folder(root, parts[:depth])
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    return made


def _rename(old: int, name: bytes, new: int, other: bytes) -> None:
    """Without replacing. Where the kernel has no such rename (NFS), a second name, then the first goes."""
    try:
        beneath.rename_between(old, name, new, other)
    except OSError as error:
        if error.errno not in _NO_SUCH_RENAME:
            raise
        os.link(name, other, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
        with suppress(FileNotFoundError):  # a repeated request whose first answer was lost
            os.unlink(name, dir_fd=old)


def _remove_empty(root: int, parts: beneath.Parts) -> None:
    """Depth first, without recursion: a released tree may be deep."""
    order = [parts]
    for folder in order:
        descriptor = beneath.open_folder(root, folder)
        try:
            with os.scandir(descriptor) as found:
                order += [[*folder, os.fsencode(item.name)] for item in found if item.is_dir(follow_symlinks=False)]
        finally:
            os.close(descriptor)
    for folder in reversed(order):
        parent = beneath.open_folder(root, folder[:-1])
        try:
            os.rmdir(folder[-1], dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            os.close(parent)
