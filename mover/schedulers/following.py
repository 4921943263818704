"""One run from its request to its end, over a daemon that may go away and come back at any point.

Every step looks at the run before it acts and is safe to repeat, so whoever drives it may be killed anywhere and
started again: the request is known by its key, and what a lost answer had already begun is found begun.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from mover.clock import SYSTEM, Clock
from mover.errors import Conflict, MoverError, RequestInvalid, SettingsInvalid, StillWorking
from mover.model import wire
from mover.model.ids import is_id
from mover.schedulers import words
from mover.sdk import Client, SyncClient
from mover.sdk.nouns import KEEP_EVERY_S

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
# `cancelled` and `failed` rest until their root is gone, which is `cleaned`
ENDED = frozenset({"cleaned", "refused"})
OVER = ENDED | {"cleaning", "cancelled", "failed"}
PROTECTED = frozenset({"protected", "cleaning", "cleaned"})
# of these a key may still be used; every other state is the way to an end
LIVING = frozenset({"requested", "admitted", "staging", "sealed", "ready", "refused"})
ATTEMPTS_MAX = 100
SECRET_CHARACTERS = 4096


async def patiently(ask: Callable[[], Awaitable[T]], *, limit_s: float, clock: Clock = SYSTEM) -> T:
    """Ask again while the daemon cannot be reached or says `later`; after `limit_s` its last answer is raised."""
    deadline_s = clock.monotonic_s() + limit_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await ask()
        except MoverError as error:
            if error.retry != "later" or clock.monotonic_s() + pause_s > deadline_s:
                raise
        await clock.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


class Following:
    """Runs of one client; no step goes on asking for longer than `limit_s`."""

    def __init__(self, client: Client, *, limit_s: float, clock: Clock = SYSTEM) -> None:
        self._runs = client.runs
        self._limit_s = limit_s
        self._clock = clock

    async def request(self, body: wire.RunRequest, *, key: str) -> wire.Run:
        return await self._patiently(lambda: self._runs.request(body, key=key))

    async def request_living(
        self,
        body: wire.RunRequest,
        *,
        key: str,
        attempt: int = 1,
        asking: Callable[[int], object] = lambda attempt: None,
    ) -> wire.Run:
        """The run of this key, or of the next attempt under it whose run is not over: a job that waited for longer than
        its run's lease asks for another. `asking` hears of each attempt before the daemon does."""
        while True:
            asking(attempt)
            try:
                run = await self.request(body, key=key if attempt == 1 else f"{key}/{attempt}")
                if run.state in LIVING or attempt >= ATTEMPTS_MAX:
                    return run
            except Conflict as error:
                if attempt >= ATTEMPTS_MAX or not await self._is_over(error.where):
                    raise
            attempt += 1

    async def _is_over(self, run: str) -> bool:
        return is_id(run, "run") and (await self.view(run)).state not in LIVING

    async def until_ready(self, run: str) -> wire.Run:
        """Ready, or at an end: look at the state that comes back."""
        return await self._patiently(lambda: self._runs.wait(run))

    async def heartbeat(self, run: str) -> wire.Run:
        return await self._patiently(lambda: self._runs.heartbeat(run))

    async def kept(self, run: str, *, every_s: float) -> wire.Run:
        """The run when it was finished, its lease kept until then. StillWorking after `limit_s`: whoever should finish
        it has died, and the lease sees to it."""
        try:
            async with asyncio.timeout(self._limit_s):
                return await self._runs.keep(run, every_s=every_s)
        except TimeoutError:
            raise StillWorking(f"nobody finished the run in {self._limit_s:g} s", where=run) from None

    async def finish(self, run: str, body: wire.FinishRequest) -> wire.Run:
        """Protected, or `ready` again with the reason why it could not be; a run that never was ready as it is.
        Conflict when an earlier finish, such as that of a lapsed lease, protects other things than this one names."""
        seen = await self.view(run)
        if seen.ready_at is None:
            return seen
        await self._patiently(lambda: self._runs.finish(run, body))
        return await self.protected(run)

    async def protected(self, run: str) -> wire.Run:
        """The end of a finish that is under way."""
        return await self._patiently(lambda: self._runs.wait(run, until=PROTECTED | {"ready"}))

    async def end(self, run: str) -> wire.Run:
        """Give it up, wherever it is, and see its root gone: what a job wrote is protected first. A run that cannot be
        protected is `ready` again, and its lease sees to it."""
        deadline_s = self._clock.monotonic_s() + self._limit_s
        seen = await self.view(run)
        if seen.state not in ENDED:
            # a cleanup that failed is asked for again
            await self._ask("clean" if seen.state in OVER else "cancel", run)
            seen = await self.view(run)
        while seen.state not in ENDED | {"ready"}:
            if self._clock.monotonic_s() > deadline_s:
                raise StillWorking(f"the run is {seen.state}", where=run)
            await self._clock.sleep(FIRST_PAUSE_S)
            seen = await self.view(run)
        return seen

    async def _ask(self, verb: str, run: str) -> None:
        """Conflict means that the run went on meanwhile: it is looked at again."""
        try:
            await self._patiently(lambda: getattr(self._runs, verb)(run))
        except Conflict:
            return

    async def view(self, run: str) -> wire.Run:
        return await self._patiently(lambda: self._runs.view(run))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        return await patiently(ask, limit_s=self._limit_s, clock=self._clock)


# --- for callers that hand over words and paths ----------------------------------------------------------------


class Told(Struct, frozen=True):
    """What became of a run, as words that fit into any scheduler's event."""

    run: str
    state: str
    well: bool
    why: str = ""
    root: str | None = None
    out: str | None = None
    manifest_root: str | None = None
    snapshots: list[str] = []


async def follow(
    url: str, token_file: str, run: str, goal: str, finish: dict[str, Any] | None = None, *,
    limit_s: float = 86_400.0, every_s: float = KEEP_EVERY_S,
) -> Told:  # fmt: skip
    """To `ready`; `kept`, with its lease, until somebody finishes it; or over `finish` and protection to `cleaned`.
    Safe to run twice at once and to run again."""
    if goal not in ("ready", "kept", "cleaned"):
        raise RequestInvalid("a run is followed to `ready`, `kept` or `cleaned`", where="goal")
    async with Client(url, token=read_token(Path(token_file))) as client:
        following = Following(client, limit_s=limit_s)
        try:
            if goal == "ready":
                seen = await following.until_ready(run)
            elif goal == "kept":
                seen = await following.kept(run, every_s=every_s)
            else:
                seen = await following.finish(run, msgspec.convert(finish or {}, wire.FinishRequest))
                if seen.state in PROTECTED:
                    seen = await following.end(run)
        except MoverError as error:
            return Told(run, "unknown", False, words.told(error))
    well = seen.ready_at is not None if goal == "kept" else seen.state == goal
    why = "" if well else words.told_of(seen)
    return Told(run, seen.state, well, why, seen.root, seen.out, seen.manifest_root, seen.snapshots)


def ask_run(url: str, token_file: str, body: wire.RunRequest, *, key: str) -> str:
    """The run of this key."""
    with SyncClient(url, token=read_token(Path(token_file))) as client:
        return str(client.runs.request(body, key=key).id)


def give_up(url: str, token_file: str, run: str) -> None:
    """Whatever it has come to: what a job wrote is protected, and then it goes."""
    with SyncClient(url, token=read_token(Path(token_file))) as client:
        client.runs.cancel(run)


def read_token(path: Path) -> str:
    """A scheduler's secret acts for others, so nobody else may read it: it is open to its owner alone. Root may hand it
    to one of our own groups, to read, as Kubernetes does with the secrets of a pod that has an `fsGroup`."""
    try:
        with open(path, encoding="ascii") as file:
            facts = os.fstat(file.fileno())
            ours = facts.st_uid == 0 and facts.st_gid in {os.getegid(), *os.getgroups()}
            if facts.st_mode & (0o037 if ours else 0o077):
                raise SettingsInvalid("the token file can be read by others", where=str(path), hint=f"chmod 600 {path}")
            return file.read(SECRET_CHARACTERS).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid("the token file cannot be read", where=str(path)) from error
