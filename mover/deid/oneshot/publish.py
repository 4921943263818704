"""Outputs get their names here, once, and are checked where they have one already."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct

from mover.deid.crosswalk import FileCrosswalk
from mover.deid.durable import (
    Wanted,
    digest_of_file,
    make_folder,
    recipe_digest,
    tier_error,
    write_output,
    write_outputs,
)
from mover.errors import (
    DigestMismatch,
    EntryExists,
    IdentityError,
    IntegrityError,
    MoverError,
    RequestInvalid,
    ZoneCrossing,
)
from mover.model.recipe import Literal, Recipe
from mover.tiers import beneath
from mover.tiers.identity import read_identity

TABLES = "tables"
_THEIR_OWN = "Give --crosswalk the file that was written with this folder, or --to an empty folder."
_APART = "Keep them in a folder of their own, beside the other two."


class ToPublish(Struct, frozen=True):
    """One output: its name, the open source, its digest, and what it was when it was proved."""

    name: str
    fd: int
    digest: str
    recipe: Recipe
    before: os.stat_result


class Publisher:
    """The output folder. Whatever lies there must be ours by this very crosswalk; leftovers of a kill are removed."""

    def __init__(self, out_dir: Path | None, crosswalk: FileCrosswalk, *, dry: bool) -> None:
        self._out = out_dir or Path(os.devnull)
        self._crosswalk = crosswalk
        self._dry = dry
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}
        try:
            self._check()
        except OSError as error:
            raise tier_error(error) from error

    def _check(self) -> None:
        if not self._out.is_dir():
            return
        ours = self._crosswalk.folders() | {TABLES}
        for folder in self._out.iterdir():
            if folder.name not in ours or folder.is_symlink() or not folder.is_dir():
                raise EntryExists("the output folder holds what this crosswalk does not know", hint=_THEIR_OWN)
            for leftover in folder.rglob(".*.part"):
                if not self._dry:
                    leftover.unlink()

    def lock_of(self, digest: str) -> threading.Lock:
        """Two names of the same bytes are published one after the other."""
        with self._lock:
            return self._making.setdefault(digest, threading.Lock())

    def exists(self, name: str) -> bool:
        return (self._out / name).exists()

    def publish(self, name: str, fd: int, recipe: Recipe, before: os.stat_result | None) -> str | None:
        """The output's digest; None in a dry run. What lies there from an earlier run must be the very same bytes:
        it is neither trusted nor replaced."""
        if self._dry:
            return None
        target = self._out / name
        if not target.exists():
            make_folder(target.parent)
            return write_output(target, fd, recipe, before)
        found, size_bytes = digest_of_file(target)
        if size_bytes != recipe.size_bytes or found != recipe_digest(fd, recipe):
            raise DigestMismatch("the output from an earlier run is not what this source gives")
        if self._crosswalk.outputs.get(name, found) != found:
            raise DigestMismatch("the output from an earlier run is not the one that was written down")
        return found

    def publish_many(self, wanted: Sequence[ToPublish]) -> list[str | MoverError | None]:
        """As `publish`, for many small outputs together: for each, in order, its digest or why it alone has none.
        Two of the same name are the same bytes, and the second is held against the first."""
        if self._dry:
            return [None for _ in wanted]
        found: dict[int, str | MoverError | None] = {}
        with ExitStack() as locks:
            for digest in sorted({one.digest for one in wanted}):
                locks.enter_context(self.lock_of(digest))
            fresh = {one.name: at for at, one in reversed(list(enumerate(wanted))) if not self.exists(one.name)}
            for folder in dict.fromkeys((self._out / name).parent for name in fresh):
                make_folder(folder)
            places = sorted(fresh.values())
            group = [Wanted(self._out / wanted[at].name, wanted[at].fd, wanted[at].recipe, wanted[at].before)
                     for at in places]  # fmt: skip
            found.update(zip(places, write_outputs(group), strict=True))
            for at, one in enumerate(wanted):
                if at not in found:
                    found[at] = self._again(one)
        return [found[at] for at in range(len(wanted))]

    def _again(self, one: ToPublish) -> str | MoverError | None:
        try:
            return self.publish(one.name, one.fd, one.recipe, one.before)
        except (IdentityError, IntegrityError) as error:
            return error

    def publish_bytes(self, name: str, data: bytes) -> tuple[str, int]:
        """A picture drawn anew: no byte of it is copied from a source. One that lies there may differ in its bytes,
        for it was drawn by another version; it is ours by its folder. The digest and size of what lies there."""
        if self._dry:
            return "", len(data)
        target = self._out / name
        if target.exists():
            return digest_of_file(target)
        make_folder(target.parent)
        return write_output(target, -1, Recipe(0, (Literal(data),)), None), len(data)

    def withdraw(self, names: list[str]) -> None:
        """Parts of a slide whose rest could not be written: a slide stands whole or not at all."""
        for name in names:
            (self._out / name).unlink(missing_ok=True)


def check_places(source_dir: Path, out_dir: Path | None, private: list[Path]) -> None:
    """Names that tie patients to numbers never lie where the clean files lie, nor is the source written to. Said
    before the work: a certificate that has no place to go would be missed at its end."""
    if not source_dir.is_dir():
        raise RequestInvalid("the source folder is no folder")
    source, out = source_dir.resolve(), (out_dir or Path(os.devnull)).resolve()
    if source == out or out in source.parents or source in out.parents:
        raise RequestInvalid("source and output folder must lie apart", hint="Give --to a folder beside the source.")
    resolved = [path.parent.resolve() / path.name for path in private]
    if len(set(resolved)) != len(resolved):
        raise RequestInvalid("crosswalk, map and certificate need a name each", hint="Give each another name.")
    for path in resolved:
        if out in path.parents or path == out:
            words = "the crosswalk, the map and the certificate may not lie inside the output folder"
            raise RequestInvalid(words, hint=_APART)
        if source in path.parents:
            words = "the crosswalk, the map and the certificate may not lie inside the source folder"
            raise RequestInvalid(words, hint=_APART)
        if not (os.path.isdir(path.parent) and os.access(path.parent, os.W_OK | os.X_OK)):
            words = "the folder of the crosswalk, the map or the certificate does not exist, or is not yours to write"
            raise RequestInvalid(words, hint="Make it first, or name another; nothing was done yet.")
        refuse_clean_zone(path)


def refuse_clean_zone(path: Path) -> None:
    """Raises ZoneCrossing for a file below the root of a tier of the deidentified zone: names that tie patients to
    numbers have no business there."""
    for folder in path.resolve().parents:
        try:
            root = beneath.open_root(os.fspath(folder))
        except PermissionError:
            continue  # a folder that may only be walked through: its tier's identity is not ours to read
        try:
            found = read_identity(root, tier="")
        finally:
            os.close(root)
        if found is not None and found.zone == "deidentified":
            hint = "Choose a folder outside of that tier."
            raise ZoneCrossing("what ties patients to numbers may not lie in a deidentified zone", hint=hint)
