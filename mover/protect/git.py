"""The commit and the uncommitted changes of a working tree that belongs to somebody else.

A repository is a program for git: its configuration names filters, monitors, helpers, other working trees and
remotes. So git runs with the requester's rights, in the very folder that was opened without following links
(never by its path), and in a child that can read this folder and git's own files only, can start no other program
and no process, and knows no network. The words of `_COMMAND` and `_ENVIRONMENT` shut the same doors once more,
for kernels that have no Landlock.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from functools import cache

from msgspec import Struct

from mover.clock import monotonic_s
from mover.repository.facts import Disk
from mover.repository.reading import ChildReader, JudgedReader, Requester, open_reader

TIMEOUT_S = 60.0
ANSWER_MAX_BYTES = 64 << 20
PIECE_BYTES = 1 << 20

_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from mover.protect.git_child import main; main(sys.argv[2:])"
)
_COMMAND = (
    "--no-optional-locks", "--git-dir=.git", "--work-tree=.",
    "-c", "safe.directory=*", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false",
    "-c", "core.preloadIndex=false", "-c", "core.pager=cat", "-c", "core.attributesFile=/dev/null",
    "-c", "protocol.allow=never", "-c", "submodule.recurse=false",
)  # fmt: skip
_DIFF = ("diff", "--binary", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all", "HEAD")
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "GIT_OPTIONAL_LOCKS": "0",
}  # fmt: skip


class TreeState(Struct, frozen=True):
    commit: bytes
    diff: bytes


def look_at(code: Disk) -> TreeState | None:
    """None when it is no working tree with a commit, when git refuses or takes too long, or when the tree names a
    clean filter: that is a program, and it is not ours to run. None, too, where the requester's rights can only be
    judged (git opens by itself), and Denied where not even that may be. A linked worktree, whose repository lies
    elsewhere, is None."""
    reader = open_reader(code.requester, root=code.root, judged=code.judged)
    if isinstance(reader, JudgedReader):
        return None
    try:
        folder = reader.open_root(code.root, code.relative)
    except OSError:
        return None
    else:
        if isinstance(folder, int):
            os.close(folder)
            return None
        return _state(folder.xattr_fd, code.requester if isinstance(reader, ChildReader) else None)
    finally:
        reader.close()


def _state(folder_fd: int, requester: Requester | None) -> TreeState | None:
    filters = _git(folder_fd, requester, "config", "--get-regexp", r"^filter\.", may_find_nothing=True)
    if filters != b"":
        return None
    commit = _git(folder_fd, requester, "rev-parse", "--verify", "HEAD")
    diff = _git(folder_fd, requester, *_DIFF) if commit is not None else None
    return None if commit is None or diff is None else TreeState(commit, diff)


def _git(folder_fd: int, requester: Requester | None, *arguments: str, may_find_nothing: bool = False) -> bytes | None:
    git = shutil.which("git", path=_ENVIRONMENT["PATH"])
    if git is None:
        return None
    rights = "" if requester is None else f"{requester.uid}:{requester.gid}"
    command = [sys.executable, "-c", _BOOT, _import_paths(), str(folder_fd), rights, git, _programs(git)]
    process = subprocess.Popen(
        [*command, *_COMMAND, *arguments],
        env=_ENVIRONMENT, cwd="/", pass_fds=(folder_fd,), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        answer = _answer(process)
    finally:
        _end(process)
    nothing_found = may_find_nothing and process.returncode == 1
    return answer if process.returncode == 0 or nothing_found else None


def _answer(process: subprocess.Popen[bytes]) -> bytes | None:
    """At most ANSWER_MAX_BYTES within TIMEOUT_S."""
    assert process.stdout is not None
    deadline_s, answer = monotonic_s() + TIMEOUT_S, bytearray()
    while len(answer) <= ANSWER_MAX_BYTES:
        left_s = deadline_s - monotonic_s()
        if left_s <= 0 or not select.select([process.stdout], [], [], left_s)[0]:
            return None
        piece = os.read(process.stdout.fileno(), PIECE_BYTES)
        if not piece:
            return bytes(answer)
        answer += piece
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """The child is a session of its own: whatever it started goes with it. One that ended by itself has its
    status; one that hangs is killed and counts as no answer."""
    try:
        process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _import_paths() -> str:
    return json.dumps([os.path.abspath(path or ".") for path in sys.path])


@cache
def _programs(git: str) -> str:
    """Where git's own programs are; `git diff` needs none of them, some builds start through one."""
    said = subprocess.run([git, "--exec-path"], env=_ENVIRONMENT, capture_output=True, text=True, check=False, cwd="/")
    return said.stdout.strip() if said.returncode == 0 else ""
