"""What a run's snapshot holds and where: artifacts, code (tree, commit, diff), logs, manifest, environment.

Paths a person named are opened with that person's rights and must lie under the run's own out/ or a declared
root; without POSIX rights only out/ may be named. A part that was not named is listed as missing, never
skipped silently.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from msgspec import Struct

from mover import __version__
from mover.errors import Denied, RequestInvalid
from mover.protect.facts import Disk, Folder, MemoryFile
from mover.protect.reading import Requester

GIT_TIMEOUT_S = 60
DIFF_MAX_BYTES = 64 << 20
ARTIFACTS = "artifacts"


class Layout(Struct, frozen=True):
    source: Folder
    parts: tuple[tuple[str, str], ...]      # name in the snapshot, where it comes from
    missing: tuple[str, ...]

    @staticmethod
    def path_in_run(path: str) -> str:
        """`/artifacts/x` is `out/x` of the run root; other parts keep their own name."""
        bare = path.lstrip("/")
        return "out/" + bare.removeprefix(ARTIFACTS + "/") if bare.startswith(ARTIFACTS + "/") else bare

    def run_path(self, path: str) -> str:
        return self.path_in_run(path)


def lay_out(
    run: Any, *, finish: Mapping[str, Any], roots: tuple[str, ...], flash_root: Path, seen_as: str
) -> Layout:
    """Compose the snapshot of a run. Raises Denied or RequestInvalid for paths that may not be read."""
    place = _Place(run, roots, flash_root, seen_as)
    members: dict[str, Any] = {}
    parts: list[tuple[str, str]] = []
    missing: list[str] = []

    members[ARTIFACTS] = place.artifacts(finish.get("artifacts"))
    parts.append((ARTIFACTS, "the run's out/" if not finish.get("artifacts") else "paths named in finish"))
    if finish.get("code"):
        code = place.disk(finish["code"])
        members["code"] = code
        parts.append(("code", "the working tree, with its .git when it has one"))
        _add_commit(code, members, parts, missing)
    else:
        missing += ["code", "commit", "diff"]
    if finish.get("logs"):
        members["logs"] = Folder({_base(path): place.disk(path) for path in finish["logs"]})
        parts.append(("logs", "paths named in finish"))
    else:
        missing.append("logs")
    if not finish.get("environment"):
        missing.append("environment")
    members["environment.json"] = MemoryFile(_json(_environment(run, finish)))
    parts.append(("environment.json", "what finish named, and this daemon's own facts"))
    members["manifest.jsonl"] = MemoryFile(run.manifest.encode())
    parts.append(("manifest.jsonl", "the sealed manifest"))
    return Layout(Folder(members), tuple(parts), tuple(missing))


class _Place:
    """Turns a path as the requester sees it into a root the administrator declared and a path below it."""

    def __init__(self, run: Any, roots: tuple[str, ...], flash_root: Path, seen_as: str) -> None:
        self._out = f"runs/{run.id}/out"
        self._roots = roots
        self._flash_root = flash_root
        self._seen_as = seen_as
        self._requester = None
        if run.posix_uid is not None and run.posix_gid is not None:
            self._requester = Requester(run.posix_uid, run.posix_gid)

    def artifacts(self, paths: list[str] | None) -> Disk | Folder:
        if not paths:
            return Disk(self._flash_root, self._out, None)
        if len({_base(path) for path in paths}) != len(paths):
            raise RequestInvalid("two artifact paths end in the same name", hint="Name their common folder.")
        return Folder({_base(path): self.disk(path) for path in paths})

    def disk(self, path: str) -> Disk:
        pure = PurePosixPath(path)
        if not pure.is_absolute() or ".." in pure.parts:
            raise RequestInvalid("a path in finish is absolute and has no '..'", where=path)
        own = PurePosixPath(self._seen_as) / self._out
        if pure.is_relative_to(own):
            return Disk(self._flash_root, f"{self._out}/{pure.relative_to(own)}".rstrip("./"), self._requester)
        if self._requester is None:
            raise Denied(
                "without POSIX rights only the run's own out/ can be protected", where=path,
                hint="Use a token that carries posix_uid and posix_gid, or the local socket.",
            )  # fmt: skip
        for root in self._roots:
            if pure.is_relative_to(root):
                return Disk(Path(root), str(pure.relative_to(root)).rstrip("."), self._requester)
        raise Denied("the path lies under no declared root of the protect policy", where=path)


def _base(path: str) -> str:
    return PurePosixPath(path).name or "root"


def _add_commit(
    code: Disk, members: dict[str, Any], parts: list[tuple[str, str]], missing: list[str]
) -> None:
    if _git(code, "config", "--get-regexp", r"^filter\.") != b"":
        # a clean filter is a program the tree names: it is not ours to run
        missing += ["commit", "diff"]
        return
    commit = _git(code, "rev-parse", "HEAD")
    diff = _git(code, "diff", "--binary", "--no-ext-diff", "--no-textconv", "HEAD")
    if commit is None or diff is None:
        missing += ["commit", "diff"]
        return
    members["code.commit"] = MemoryFile(commit)
    members["code.diff"] = MemoryFile(diff)
    parts += [("code.commit", "HEAD of the working tree"), ("code.diff", "uncommitted changes against HEAD")]


def _git(code: Disk, *arguments: str) -> bytes | None:
    """git's answer with the requester's rights, no hooks, no helpers, no prompts; None when there is none.

    The tree belongs to the requester: nothing in its configuration may make us run a program, so the system
    and user configuration are shut out and the ones that name programs are overridden.
    """
    git = shutil.which("git")
    if git is None:
        return None
    folder = os.path.join(code.root, code.relative)
    command = [
        git, "--no-optional-locks", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false",
        "-c", "core.pager=cat", "-c", f"safe.directory={folder}", "-C", folder, *arguments,
    ]  # fmt: skip
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0", "GIT_ATTR_NOSYSTEM": "1", "LC_ALL": "C",
    }  # fmt: skip
    rights: dict[str, Any] = {}
    if code.requester is not None and os.geteuid() == 0 and code.requester.uid != 0:
        rights = {"user": code.requester.uid, "group": code.requester.gid, "extra_groups": []}
    try:
        answer = subprocess.run(
            command, env=environment, capture_output=True, timeout=GIT_TIMEOUT_S, check=False, **rights
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    nothing_found = arguments[0] == "config" and answer.returncode == 1
    if (answer.returncode != 0 and not nothing_found) or len(answer.stdout) > DIFF_MAX_BYTES:
        return None
    return answer.stdout


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
