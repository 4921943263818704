"""A tier that does not answer ties up a bounded number of threads, is named, and stops nobody else.

A call to a network file system whose server is gone does not fail: on a hard mount, the only kind that loses
nothing, it waits until the server is back, and no signal but SIGKILL ends it. So calls to such tiers run in lanes,
threads of the tier's own, while the caller waits for the answer with a deadline:

    call ──► lane ──► file system            after half of `unanswered_s`: is it slow, or gone? A probe (another
      ▲        │                             thread asks for its free space) has the other half to answer. It does:
      └─ done ─┘                             wait on, a sync of 100 GB takes its time. It does not: the tier is hung.

While it is hung every caller gets TierHung at once, new ones and waiting ones, and the threads stay behind in their
lanes, counted (`mover_tier_stuck_calls`). The tier is used again when every call that was left behind has come back:
not earlier, so that nothing which was given up can take effect beside what was begun after it. On a server that
comes back all of them do.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from mover import metrics
from mover.errors import TierHung

Result = TypeVar("Result")
Stopped = Callable[[], bool]

UNANSWERED_S = 30.0
CALLS_MAX = 16
AFTERWARDS_MAX = 1024

_local = threading.local()


class _Call(Generic[Result]):
    """One piece of work in a lane. Either its caller takes the result, or, given up, `late` disposes of it."""

    def __init__(self, work: Callable[[], Result], late: Callable[[Result], None] | None, inside: frozenset[int]):
        self._work, self._late, self.inside = work, late, inside
        self.done = threading.Event()
        self._lock = threading.Lock()
        self._given_up = False
        self._result: list[Result] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self._error = error
        with self._lock:
            self.done.set()
            left = self._given_up
        if left and self._result and self._late is not None:
            self._late(self._result[0])

    def give_up(self) -> bool:
        """False when it is done after all."""
        with self._lock:
            self._given_up = not self.done.is_set()
            return self._given_up

    def is_given_up(self) -> bool:
        return self._given_up

    def outcome(self) -> Result:
        if self._error is not None:
            raise self._error
        return self._result[0]


class _Lanes:
    """At most `most` threads that are kept, each doing one call at a time. They are daemons: a thread that the
    kernel does not let go must not keep the process from ending."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self.free = threading.BoundedSemaphore(most)
        self._idle = 0
        self._lock = threading.Lock()
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def start(self, work: Callable[[], None]) -> None:
        """The caller holds one of `free`, which is given back when the work has ended."""
        with self._lock:
            if self._idle:
                self._idle -= 1
                self._calls.put(work)
                return
        threading.Thread(target=self._serve, args=(work,), name=self._name, daemon=True).start()

    def close(self) -> None:
        """End the threads that have nothing to do."""
        with self._lock:
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._calls.put(None)

    def _serve(self, first: Callable[[], None]) -> None:
        work: Callable[[], None] | None = first
        while work is not None:
            work()
            with self._lock:
                self._idle += 1
            self.free.release()
            work = self._calls.get()


def _log() -> Any:
    """Loaded when there is something to say: processes that move files start without it."""
    from mover.log import get_logger

    return get_logger("tiers")


class Guard:
    """The lanes of one tier. `probe` asks it something that only the other machine can answer."""

    def __init__(
        self,
        tier: str,
        *,
        probe: Callable[[], object],
        unanswered_s: float = UNANSWERED_S,
        calls_max: int = CALLS_MAX,
    ) -> None:
        self.tier = tier
        self._ask = probe
        self._patience_s = unanswered_s / 2
        # two kinds, because what is held makes calls from threads of its own and must never wait for itself
        self._calls = _Lanes(f"tier {tier}", calls_max)
        self._holds = _Lanes(f"tier {tier}, long", calls_max)
        self._lock = threading.Lock()
        self._probe: _Call[object] | None = None
        self._hung = False
        self._stuck = 0
        self._afterwards: list[Callable[[], None]] = []
        metrics.TIER_STUCK.labels(tier).set(0)
        # A child closes our descriptors before it becomes another program, and closing a file that is open for
        # writing on NFS writes back first. With vfork(2) we would wait for that with the interpreter's lock, and
        # every thread with us; with fork(2) only the thread that starts the child waits. (A documented switch.)
        subprocess._USE_VFORK = False  # type: ignore[misc]

    @property
    def hung(self) -> bool:
        return self._hung

    def call(self, work: Callable[[], Result], *, late: Callable[[Result], None] | None = None) -> Result:
        """Do it in a lane. TierHung when the tier does not answer; then `late` gets the result that nobody waited
        for, to close what it opened."""
        return self._in_lane(self._calls, _Call(work, late, self._entered()))

    def hold(self, work: Callable[[Stopped], Result]) -> Result:
        """Long work of many calls, also such as use a descriptor of this tier. It is told, by the function it gets,
        when nobody waits for it any more: then it ends at its next step and publishes nothing."""
        around: Stopped = getattr(_local, "stopped", _never)

        def stopped() -> bool:
            return call.is_given_up() or around()

        def told() -> Result:
            before, _local.stopped = getattr(_local, "stopped", _never), stopped
            try:
                return work(stopped)
            finally:
                _local.stopped = before

        call: _Call[Result] = _Call(told, None, self._entered())
        return self._in_lane(self._holds, call)

    def tidy(self, work: Callable[[], None]) -> None:
        """Closing and removing what was left half done: now, or when the tier answers again."""
        try:
            self.call(work)
        except TierHung:
            with self._lock:
                if len(self._afterwards) < AFTERWARDS_MAX:
                    self._afterwards.append(work)

    def answers(self) -> bool:
        """For those who wait for something else than a call, such as a worker process: does the tier answer?
        Blocks for half of `unanswered_s` at most."""
        return not self._is_hung()

    def close(self) -> None:
        """For a guard that turned out not to be needed, and at the end; what still waits keeps its thread."""
        for lanes in (self._calls, self._holds):
            lanes.close()

    # --- how ----------------------------------------------------------------------------------------------

    def _in_lane(self, lanes: _Lanes, call: _Call[Result]) -> Result:
        if id(self) in call.inside:
            call.run()
            return call.outcome()
        self._refuse()
        while not lanes.free.acquire(timeout=self._patience_s):
            if self._is_hung():
                raise self._error()
        lanes.start(lambda: self._run(call))
        while not call.done.wait(self._patience_s):
            if self._is_hung() and self._leave(call):
                raise self._error()
        return call.outcome()

    def _entered(self) -> frozenset[int]:
        """The guards in whose lanes the calling thread already is."""
        inside: frozenset[int] = getattr(_local, "inside", frozenset())
        return inside

    def _run(self, call: _Call[Result]) -> None:
        _local.inside = call.inside | {id(self)}
        call.run()
        if call.is_given_up():
            with self._lock:
                self._stuck -= 1
            self._look_again()

    def _leave(self, call: _Call[Result]) -> bool:
        with self._lock:
            if not call.give_up():
                return False
            self._stuck += 1
            metrics.TIER_STUCK.labels(self.tier).set(self._stuck + 1)
            return True

    def _is_hung(self) -> bool:
        with self._lock:
            if self._hung:
                return True
            if self._probe is None or self._probe.done.is_set():
                self._probe = self._start_probe()
            probe = self._probe
        if probe.done.wait(self._patience_s):
            return self._hung
        with self._lock:
            if self._hung or probe.done.is_set():
                return self._hung
            self._hung = True
            metrics.TIER_STUCK.labels(self.tier).set(self._stuck + 1)
        _log().error("tier hung", tier=self.tier, code=TierHung.code, wait_s=2 * self._patience_s)
        return True

    def _start_probe(self) -> _Call[object]:
        probe: _Call[object] = _Call(self._ask, None, frozenset())

        def run() -> None:
            _local.inside = frozenset((id(self),))
            probe.run()  # an error is an answer too
            self._look_again()

        threading.Thread(target=run, name=f"tier {self.tier}, probe", daemon=True).start()
        return probe

    def _look_again(self) -> None:
        """Something that was left behind came back."""
        with self._lock:
            waiting = self._stuck + (self._probe is not None and not self._probe.done.is_set())
            if not self._hung:
                return
            metrics.TIER_STUCK.labels(self.tier).set(waiting)
            if waiting:
                return
            self._hung = False
            afterwards, self._afterwards = self._afterwards, []
        _log().info("tier answers again", tier=self.tier)
        for work in afterwards:
            self.tidy(work)

    def _refuse(self) -> None:
        if self._hung:
            raise self._error()

    def _error(self) -> TierHung:
        return TierHung(f"the tier has not answered for {2 * self._patience_s:g} s", where=self.tier)


def guard_of(tier: object) -> Guard | None:
    """The guard of a tier, through whatever stands around it; None where a call cannot hang for ever."""
    found = getattr(tier, "guard", None)
    return found if isinstance(found, Guard) else None


def guarded(work: Callable[[Stopped], Result], *tiers: object) -> Result:
    """Long work between tiers, given up with TierHung as soon as one of them hangs. On tiers without a guard it runs
    where it is called, and is never told to stop."""
    guards = {id(guard): guard for guard in map(guard_of, tiers) if guard is not None}
    return _within(list(guards.values()), work)


def _within(guards: list[Guard], work: Callable[[Stopped], Result]) -> Result:
    if not guards:
        return work(_never)
    first, *others = guards
    return first.hold(lambda stopped: _within(others, lambda more: work(lambda: stopped() or more())))


def wanted(things: Iterable[Result], stopped: Stopped) -> Iterator[Result]:
    """One after the other, as long as somebody waits for what is done with them."""
    for one in things:
        if stopped():
            return
        yield one


def _never() -> bool:
    return False
