"""What a run's snapshot holds and where: artifacts, code (tree, commit, diff), logs, manifest, environment.

Paths a person named are opened with that person's rights and must lie under the run's own out/ or a declared
root; without POSIX rights only out/ may be named. A part that was not named is listed as missing, never
skipped silently.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from msgspec import Struct

from mover import __version__
from mover.errors import Denied, RequestInvalid
from mover.protect.git import look_at
from mover.repository.facts import Disk, Folder, MemoryFile
from mover.repository.reading import Requester
from mover.tiers.zones import overlap

ARTIFACTS = "artifacts"


class Layout(Struct, frozen=True):
    source: Folder
    parts: tuple[tuple[str, str], ...]  # name in the snapshot, where it comes from
    missing: tuple[str, ...]

    @staticmethod
    def path_in_run(path: str) -> str:
        """`/artifacts/x` is `out/x` of the run root; other parts keep their own name."""
        bare = path.lstrip("/")
        return "out/" + bare.removeprefix(ARTIFACTS + "/") if bare.startswith(ARTIFACTS + "/") else bare

    @staticmethod
    def path_in_snapshot(path: str) -> str:
        """The way back."""
        return f"/{ARTIFACTS}/" + path.removeprefix("out/") if path.startswith("out/") else f"/{path}"

    def run_path(self, path: str) -> str:
        return self.path_in_run(path)


def lay_out(
    run: Any,
    *,
    finish: Mapping[str, Any],
    manifest: str,
    roots: tuple[str, ...],
    flash_root: Path,
    seen_as: str,
    forbidden: Sequence[Path],
    planned: bool = False,
) -> Layout:
    """Compose the snapshot of a run. Raises Denied or RequestInvalid for paths that may not be read; `forbidden`
    are the identified tiers, which may have been mounted below a declared root since the start. What is only planned
    is not opened: whether the code is a working tree is then not known."""
    place = _Place(run, roots, flash_root, seen_as, forbidden)
    members: dict[str, Any] = {}
    parts: list[tuple[str, str]] = []
    missing: list[str] = []

    members[ARTIFACTS] = place.artifacts(finish.get("artifacts"))
    parts.append((ARTIFACTS, "the run's out/" if not finish.get("artifacts") else "paths named in finish"))
    if finish.get("code"):
        code = place.disk(finish["code"])
        members["code"] = code
        parts.append(("code", "the working tree, with its .git when it has one"))
        if not planned:
            _add_commit(code, members, parts, missing)
    else:
        missing += ["code", "commit", "diff"]
    if finish.get("logs"):
        members["logs"] = place.several(finish["logs"], what="log")
        parts.append(("logs", "paths named in finish"))
    else:
        missing.append("logs")
    if not finish.get("environment"):
        missing.append("environment")
    members["environment.json"] = MemoryFile(_json(_environment(run, finish)))
    parts.append(("environment.json", "what finish named, and this daemon's own facts"))
    members["manifest.jsonl"] = MemoryFile(manifest.encode())
    parts.append(("manifest.jsonl", "the sealed manifest"))
    return Layout(Folder(members), tuple(parts), tuple(missing))


class _Place:
    """Turns a path as the requester sees it into a root the administrator declared and a path below it."""

    def __init__(
        self, run: Any, roots: tuple[str, ...], flash_root: Path, seen_as: str, forbidden: Sequence[Path]
    ) -> None:
        self._forbidden = forbidden
        self._out = f"runs/{run.id}/out"
        self._roots = roots
        self._flash_root = flash_root
        self._seen_as = seen_as
        self._requester = None
        if run.posix_uid is not None and run.posix_gid is not None:
            self._requester = Requester(run.posix_uid, run.posix_gid)

    def artifacts(self, paths: list[str] | None) -> Disk | Folder:
        if not paths:
            return self._own(self._out)
        return self.several(paths, what="artifact")

    def _own(self, relative: str) -> Disk:
        """Below the run's out/. A job could have linked somebody else's file there, so it is read as whoever out/ was
        given to. Without a requester that is our own user, but for what capabilities let us read besides."""
        myself = Requester(os.geteuid(), os.getegid(), tuple(os.getgroups()))
        return Disk(self._flash_root, relative, self._requester or myself, judged=True)

    def several(self, paths: list[str], *, what: str) -> Folder:
        """Each under its own last name; two of one name would hide one of them."""
        if len({_base(path) for path in paths}) != len(paths):
            raise RequestInvalid(f"two {what} paths end in the same name", hint="Name their common folder.")
        return Folder({_base(path): self.disk(path) for path in paths})

    def disk(self, path: str) -> Disk:
        pure = PurePosixPath(path)
        if not pure.is_absolute() or ".." in pure.parts:
            raise RequestInvalid("a path in finish is absolute and has no '..'", where=path)
        own = PurePosixPath(self._seen_as) / self._out
        if pure.is_relative_to(own):
            return self._own(str(PurePosixPath(self._out) / pure.relative_to(own)))
        if self._requester is None:
            raise Denied(
                "without POSIX rights only the run's own out/ can be protected", where=path,
                hint="Use a token that carries posix_uid and posix_gid, or the local socket.",
            )  # fmt: skip
        for root in self._roots:
            if pure.is_relative_to(root):
                if any(overlap(Path(pure), tier) for tier in self._forbidden):
                    raise Denied("the path leads into an identified tier, or holds one")
                return Disk(Path(root), str(pure.relative_to(root)), self._requester)
        raise Denied("the path lies under no declared root of the protect policy", where=path)


def _base(path: str) -> str:
    return PurePosixPath(path).name or "root"


def _add_commit(code: Disk, members: dict[str, Any], parts: list[tuple[str, str]], missing: list[str]) -> None:
    state = look_at(code)
    if state is None:
        missing += ["commit", "diff"]
        return
    members["code.commit"] = MemoryFile(state.commit)
    members["code.diff"] = MemoryFile(state.diff)
    parts += [("code.commit", "HEAD of the working tree"), ("code.diff", "uncommitted changes against HEAD")]


def _environment(run: Any, finish: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run": run.id,
        "exit": finish.get("exit"),
        "job": finish.get("environment") or {},
        "daemon": {"software": f"mover {__version__}", "python": platform.python_version(), "system": platform.system(),
                   "machine": platform.machine()},
    }  # fmt: skip


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2) + b"\n"
