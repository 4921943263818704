"""Cleanup hooks: the site's own executables, before a run root goes and after it is gone (D22).

A policy names them; what they are stands in one folder that root alone can change, and is looked at by descriptor from
the file system's root down to the very file that is then run. They are told ids and nothing else, have little time, and
their words are kept with the run, never logged.

Order, and what a crash leaves: a hook's row says `running` before it begins and how it ended after; a node that is
killed leaves `running`, and the hook is run again. What succeeded is not run again for this run. So a hook may be run
more than once, and must bear it; a chain has succeeded when each of its hooks has, in their order.
"""

from __future__ import annotations

import json
import os
import pwd
import select
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args

from msgspec import Struct

from mover import audit
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.clock import monotonic_s
from mover.errors import HookFailed, MoverError
from mover.jobs import NewShard, Shard, add_shards, finish_shard
from mover.jobs.shards import renew_shard, tier_queue
from mover.jobs.threads import in_stoppable_thread
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model.policy import CleanPolicy, HookRule
from mover.policy import PolicyBook
from mover.repository.rights import can_become_others
from mover.runs.hook_child import ENVIRONMENT
from mover.runs.roots import run_key
from mover.runs.site import Flash, get

SQL = load(__file__)
FOLDER = Path("/etc/mover/hooks.d")
AFTER = "run-after-clean"  # the shard of what comes when a root is gone
# of what a hook prints its end is kept: there stands why it failed
OUTPUT_KEPT_BYTES = 16 << 10
PIECE_BYTES = 64 << 10
# what its own processes wrote before they were ended may still be read
PIECES_AFTER_END = 64
LOOK_S = 0.2

_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from mover.runs.hook_child import main; main(sys.argv[2:])"
)
_WITHIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = 0o022

Phase = Literal["before-clean", "after-clean"]
PHASES: tuple[Phase, ...] = get_args(Phase)
State = Literal["succeeded", "failed", "timed-out", "refused"]

log = get_logger("runs")


class HookEnd(Struct, frozen=True):
    """How one run of a hook ended. `output` is the end of what it printed, `output_bytes` all of it."""

    state: State
    why: str = ""
    exit_status: int | None = None
    output: str = ""
    output_bytes: int = 0


def chain(policies: PolicyBook, tier: str, phase: Phase) -> list[HookRule]:
    """What every clean policy of the tier names, each once, in the order of the policies' names."""
    rules: dict[str, HookRule] = {}
    for policy in (one.policy for one in policies.all()):
        if isinstance(policy, CleanPolicy) and policy.flash == tier:
            for rule in policy.before_clean if phase == "before-clean" else policy.after_clean:
                rules.setdefault(rule.name, rule)
    return list(rules.values())


class Hooks:
    """The hooks of cleanup, in the shards of cleanup."""

    def __init__(
        self, database: Database, policies: PolicyBook, flash: dict[str, Flash], *, node: str, folder: Path = FOLDER
    ) -> None:
        self._database, self._policies, self._flash = database, policies, flash
        self._node, self._folder = node, folder

    async def run(self, shard: Shard, run: Any, phase: Phase) -> None:
        """The whole chain. HookFailed by the first that does not succeed: none after it is run, and nothing is done
        that it stands before."""
        for rule in chain(self._policies, run.tier, phase):
            attempt = await self._begin(shard, run, phase, rule)
            if attempt is not None:
                await self._end(shard, run, phase, rule, attempt, await self._run_one(run, phase, rule))

    async def _begin(self, shard: Shard, run: Any, phase: Phase, rule: HookRule) -> int | None:
        """Which attempt this is; None when an earlier one succeeded."""
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            begun = await SQL.one(
                conn, "begin", project=shard.project, run=run.id, phase=phase, name=rule.name, node=self._node
            )
        return begun and begun.attempts

    async def _run_one(self, run: Any, phase: Phase, rule: HookRule) -> HookEnd:
        words = [phase, run.id, run.tier, f"{self._flash[run.tier].seen_as}/{run_key(run.id)}"]
        stop = threading.Event()
        return await in_stoppable_thread(stop, run_hook, self._folder, rule, words, stop)

    async def _end(self, shard: Shard, run: Any, phase: Phase, rule: HookRule, attempt: int, end: HookEnd) -> None:
        facts = {"phase": phase, "hook": rule.name, "state": end.state, "exit": end.exit_status, "attempt": attempt}
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await conn.execute(
                SQL["end"],
                {"run": run.id, "phase": phase, "name": rule.name, "state": end.state, "why": end.why or None,
                 "exit_status": end.exit_status, "output": end.output, "output_bytes": end.output_bytes},
            )  # fmt: skip
            await audit.record(
                conn, project=shard.project, node=self._node, actor="daemon", action="run hook ended", subject=run.id,
                details=facts,
            )  # fmt: skip
        log.info("hook ended", run=run.id, state=end.state, exit_status=end.exit_status, attempt=attempt)
        if end.state != "succeeded":
            raise HookFailed(f"the {phase} hook `{rule.name}` {end.why}", where=run.id)

    # --- after ----------------------------------------------------------------------------------------------

    async def put_after(self, conn: Connection, run: Any) -> None:
        """In the transaction that proves the root gone: what comes then, if anything does."""
        if chain(self._policies, run.tier, "after-clean"):
            await add_shards(conn, run.project_id, [NewShard(tier_queue(run.tier), AFTER, run.id)])

    async def after(self, shard: Shard) -> None:
        """Handler: the run is `cleaned` whatever they say; that they did not succeed is told with it."""
        async with self._database.project(shard.project) as conn:
            run = await get(conn, shard.subject_id)
        await self.run(shard, run, "after-clean")
        async with self._database.project(shard.project) as conn:
            await conn.execute(SQL["explain"], {"id": run.id, "explanation": None})
            await finish_shard(conn, shard)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        told = f"the root is gone, and {error.what}: `mover run clean` asks for it again"
        await conn.execute(SQL["explain"], {"id": shard.subject_id, "explanation": told})


# --- one hook, blocking -------------------------------------------------------------------------------------


def run_hook(folder: Path, rule: HookRule, words: Sequence[str], stop: threading.Event) -> HookEnd:
    """Run it to its end, to its limit, or until `stop`. Whatever it left running in its session's group is ended."""
    try:
        with _trusted(folder, rule.name) as hook_fd:
            process = _start(hook_fd, _rights(rule.user), rule.name, words)
    except HookFailed as error:
        return HookEnd("refused", error.what)
    try:
        heard = _Heard()
        ended = _follow(process, heard, until_s=monotonic_s() + rule.timeout_s, stop=stop)
    finally:
        # before it is waited for: as long as it is not, no other group can have its number
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    state, why = _judged(process.returncode) if ended else _too_long(rule)
    return HookEnd(state, why, process.returncode, heard.text, heard.size_bytes)


def _too_long(rule: HookRule) -> tuple[State, str]:
    return "timed-out", f"did not end within {rule.timeout_s} s and was killed"


def _judged(exit_status: int) -> tuple[State, str]:
    if exit_status == 0:
        return "succeeded", ""
    return "failed", f"was ended by signal {-exit_status}" if exit_status < 0 else f"ended with status {exit_status}"


class _Heard:
    """The end of what was printed, and how much it was."""

    def __init__(self) -> None:
        self._kept, self.size_bytes = b"", 0

    def add(self, piece: bytes) -> None:
        self.size_bytes += len(piece)
        self._kept = (self._kept + piece)[-OUTPUT_KEPT_BYTES:]

    @property
    def text(self) -> str:
        return self._kept.decode("utf-8", "replace").replace("\0", "\ufffd")


def _start(hook_fd: int, rights: str, name: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
    paths = json.dumps([os.path.abspath(path or ".") for path in sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", _BOOT, paths, str(hook_fd), rights, str(os.getpid()), name, *words],
        env=ENVIRONMENT, cwd="/", pass_fds=(hook_fd,), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _follow(process: subprocess.Popen[bytes], heard: _Heard, *, until_s: float, stop: threading.Event) -> bool:
    """Until it has ended; False when it has not in time. What it started and left behind may hold the pipe open for
    ever, so its own end counts."""
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    while not stop.is_set():
        closed = _hear(pipe, heard, wait_s=min(LOOK_S, max(until_s - monotonic_s(), 0)))
        if _has_ended(process):
            for _ in range(PIECES_AFTER_END):
                if closed or _hear(pipe, heard, wait_s=0):
                    break
            return True
        if monotonic_s() >= until_s:
            return False
        if closed:
            stop.wait(LOOK_S)  # it goes on without a voice
    return False


def _hear(pipe: int, heard: _Heard, *, wait_s: float) -> bool:
    """Take a piece if there is one within the wait; True when there will be none any more."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    if not poll.poll(wait_s * 1000):
        return False
    try:
        piece = os.read(pipe, PIECE_BYTES)
    except BlockingIOError:
        return False
    heard.add(piece)
    return not piece


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Without taking its status: that would free its number."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _rights(user: str | None) -> str:
    """UID:GID:GROUPS to take on; nothing for the daemon's own user."""
    if user is None:
        return ""
    try:
        known = pwd.getpwnam(user)
    except KeyError:
        raise HookFailed("names a user whom this node does not know") from None
    if known.pw_uid == 0:
        raise HookFailed("names root; a hook that needs root's rights is run by a daemon that is root")
    if known.pw_uid == os.geteuid():
        return ""
    if not can_become_others():
        raise HookFailed("needs a daemon that may become its user: CAP_SETUID and CAP_SETGID (systemd/mover.service)")
    groups = ",".join(str(group) for group in os.getgrouplist(user, known.pw_gid))
    return f"{known.pw_uid}:{known.pw_gid}:{groups}"


# --- what may be run ----------------------------------------------------------------------------------------


@contextmanager
def _trusted(folder: Path, name: str) -> Iterator[int]:
    """The executable, open. HookFailed when anybody but root could have made it what it is: by the file, by its folder,
    or by any folder above. What is judged is what is run."""
    with ExitStack() as opened:
        here = _open(opened, "/", None, "a folder above it")
        for part in folder.parts[1:]:
            _demand_roots(here, "a folder above it", sticky=True)
            here = _open(opened, part, here, "its folder, or one above it")
        _demand_roots(here, "its folder")
        hook = _open(opened, name, here, "it")
        mode = os.fstat(hook).st_mode
        if not stat.S_ISREG(mode) or not mode & 0o111:
            raise HookFailed("cannot be run: it is no executable file")
        _demand_roots(hook, "it")
        yield hook


def _open(opened: ExitStack, name: str, folder_fd: int | None, what: str) -> int:
    try:
        fd = os.open(name, _WITHIN, dir_fd=folder_fd)
    except OSError as error:
        raise HookFailed(
            f"cannot be run: {what} is not there or cannot be opened ({error.strerror})"
        ) from None
    opened.callback(os.close, fd)
    if stat.S_ISLNK(os.fstat(fd).st_mode):
        raise HookFailed(f"cannot be trusted: {what} is a link")
    return fd


def _demand_roots(fd: int, what: str, *, sticky: bool = False) -> None:
    """Root's, and written by nobody else; an access list shows in the group's digit. In a folder like /tmp (`sticky`)
    others may write, but not exchange what is root's."""
    facts = os.fstat(fd)
    if facts.st_uid != 0:
        raise HookFailed(f"cannot be trusted: {what} is not root's")
    if facts.st_mode & _OTHERS_WRITE and not (sticky and facts.st_mode & stat.S_ISVTX):
        raise HookFailed(f"cannot be trusted: {what} can be written by others than root")
