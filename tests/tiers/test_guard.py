"""A mount whose server is gone: a bounded number of threads, a named alarm, and nobody else waits.

Here the server is an event that calls wait for; `tests/nfs` stops a real NFS server under the same code.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from mover import daemon, metrics
from mover.errors import EntryMissing, TierHung
from mover.tiers import identity, mounts, posix
from mover.tiers.guard import Guard, guard_of, guarded
from mover.tiers.posix import PosixTier
from mover.tiers.wrappers import GuardedTier, RetryTier
from tests.support.leftovers import Leftovers

UNANSWERED_S = 0.1
PATIENT_S = 120.0  # for tiers that answer: a busy machine is no tier that hangs


class Server:
    """Answers, or does not, until it is told to: every call passes `ask`."""

    def __init__(self) -> None:
        self.up = threading.Event()
        self.up.set()
        self.waiting = 0
        self.answered = 0

    def ask(self) -> str:
        self.waiting += 1
        assert self.up.wait(PATIENT_S)
        self.answered += 1
        return "answer"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.up.set()  # nothing waits beyond its test


@pytest.fixture
def guard(server: Server) -> Guard:
    return Guard("flash", probe=server.ask, unanswered_s=UNANSWERED_S, calls_max=3)


@pytest.fixture
def patient(server: Server) -> Guard:
    return Guard("flash", probe=server.ask, unanswered_s=PATIENT_S, calls_max=3)


def stuck() -> float:
    return metrics.REGISTRY.get_sample_value("mover_tier_stuck_calls", {"tier": "flash"}) or 0


def eventually(condition: object) -> None:
    pause = threading.Event()
    for _ in range(12_000):
        if condition():  # type: ignore[operator]
            return
        pause.wait(0.01)
    raise AssertionError("it did not come to that")


def test_answers_and_errors_come_back_as_they_are(patient: Guard, server: Server) -> None:
    """A lane changes nothing of what is said in it."""
    assert patient.call(server.ask) == "answer"

    def missing() -> None:
        raise EntryMissing("it is not there")

    with pytest.raises(EntryMissing):
        patient.call(missing)


def test_a_call_that_is_not_answered_is_left_behind_by_name(guard: Guard, server: Server) -> None:
    """The caller is free after the deadline; the number of those that stayed stands in a metric."""
    server.up.clear()
    with pytest.raises(TierHung) as raised:
        guard.call(server.ask)
    assert raised.value.where == "flash" and raised.value.retry == "later"
    assert guard.hung and stuck() == 2  # the call and the probe


def test_while_it_hangs_nothing_more_is_asked(guard: Guard, server: Server) -> None:
    """Else every new call would cost the deadline, and a thread."""
    server.up.clear()
    with pytest.raises(TierHung):
        guard.call(server.ask)
    asked, before = server.waiting, Leftovers()
    for _ in range(20):
        with pytest.raises(TierHung):
            guard.call(server.ask)
    assert (server.waiting, before.now()) == (asked, [])


def test_many_callers_tie_up_a_bounded_number_of_threads(guard: Guard, server: Server) -> None:
    """Three lanes and the probe, whoever else would like to ask."""
    server.up.clear()
    raised: list[TierHung] = []

    def ask() -> None:
        try:
            guard.call(server.ask)
        except TierHung as error:
            raised.append(error)

    callers = [threading.Thread(target=ask) for _ in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENT_S)
    assert len(raised) == 12
    assert server.waiting == 4 and stuck() == 4


def test_it_is_used_again_when_all_that_was_left_behind_has_come_back(guard: Guard, server: Server) -> None:
    """Not earlier: what was given up may still take effect, and must not do so beside something new."""
    last = threading.Event()
    server.up.clear()
    with pytest.raises(TierHung):
        guard.call(lambda: (server.ask(), last.wait(PATIENT_S)))
    server.up.set()
    eventually(lambda: server.answered == 2)
    with pytest.raises(TierHung):
        guard.call(server.ask)
    last.set()
    eventually(lambda: not guard.hung)
    guard._patience_s = PATIENT_S
    assert guard.call(server.ask) == "answer" and stuck() == 0


def test_slow_is_not_hung(server: Server) -> None:
    """A sync of a large file takes minutes; as long as the server answers others, it is waited for."""
    guard = Guard("flash", probe=server.ask, unanswered_s=UNANSWERED_S * 8)
    guard.call(lambda: eventually(lambda: server.answered >= 2))
    assert not guard.hung


def test_what_comes_too_late_is_closed(guard: Guard, server: Server) -> None:
    """A descriptor that nobody waits for any more."""
    closed: list[str] = []
    server.up.clear()
    with pytest.raises(TierHung):
        guard.call(server.ask, late=closed.append)
    server.up.set()
    eventually(lambda: closed == ["answer"])


def test_tidying_waits_for_the_tier_and_nobody_waits_for_tidying(guard: Guard, server: Server) -> None:
    """The temporary file of an attempt that was given up goes when the server is back."""
    tidied = threading.Event()
    server.up.clear()
    with pytest.raises(TierHung):
        guard.call(server.ask)
    guard.tidy(tidied.set)
    assert not tidied.is_set()
    server.up.set()
    assert tidied.wait(PATIENT_S)


def test_long_work_is_let_go_and_told_to_stop(guard: Guard, server: Server) -> None:
    """A recipe on descriptors of a tier that hung: its shard fails now, and its thread publishes nothing later."""
    steps: list[str] = []

    def recipe(stopped: object) -> None:
        server.ask()
        steps.append("stopped" if stopped() else "went on")  # type: ignore[operator]

    inner = GuardedTier(PosixTier("flash", "deidentified", "/nonexistent"), guard)
    server.up.clear()
    with pytest.raises(TierHung):
        guarded(recipe, RetryTier(inner, sleep=float))
    server.up.set()
    eventually(lambda: steps == ["stopped"])


def test_long_work_within_long_work_is_told_too(guard: Guard, server: Server) -> None:
    """A recipe within the archiving of a pack: whoever waited for the whole waits for none of it."""
    tier = GuardedTier(PosixTier("flash", "deidentified", "/nonexistent"), guard)
    steps: list[bool] = []

    def recipe(stopped: Callable[[], bool]) -> None:
        server.ask()
        steps.append(stopped())

    server.up.clear()
    with pytest.raises(TierHung):
        guarded(lambda _: guarded(recipe, tier), tier)
    server.up.set()
    eventually(lambda: steps == [True])
    eventually(lambda: not guard.hung)
    guard._patience_s = PATIENT_S
    guarded(lambda _: guarded(recipe, tier), tier)
    assert steps == [True, False]


def test_of_two_tiers_the_one_that_hangs_is_named_and_the_other_stays_free(guard: Guard, server: Server) -> None:
    """Its thread waits too, and is let go as soon as the work is."""
    other_server = Server()
    other = Guard("archive", probe=other_server.ask, unanswered_s=PATIENT_S)
    tiers = [GuardedTier(PosixTier(g.tier, "deidentified", "/nonexistent"), g) for g in (other, guard)]
    server.up.clear()
    with pytest.raises(TierHung) as raised:
        guarded(lambda _: server.ask(), *tiers)
    assert raised.value.where == "flash"
    assert other.call(other_server.ask) == "answer" and not other.hung


def test_calls_within_long_work_need_no_further_lane(patient: Guard) -> None:
    """Else as many recipes as there are lanes would wait for each other for ever."""

    def nested(_: object) -> str:
        return patient.call(lambda: patient.call(lambda: threading.current_thread().name))

    assert guarded(nested, GuardedTier(PosixTier("flash", "deidentified", "/nonexistent"), patient)).endswith("long")


def test_a_guard_that_is_not_needed_leaves_no_threads(patient: Guard, server: Server) -> None:
    """Every tier has one for a moment, when the daemon asks what it stands on."""
    before = Leftovers()
    patient.call(server.ask)
    patient.hold(lambda _: server.ask())
    patient.close()
    eventually(lambda: before.now() == [])


def test_local_tiers_have_no_guard_and_no_lanes(tmp_path: Path) -> None:
    """A disk that does not answer stops the machine anyway; every hand-over would only cost time."""
    tier = RetryTier(PosixTier("flash", "deidentified", tmp_path), sleep=float)
    assert guard_of(tier) is None
    assert guarded(lambda stopped: (threading.current_thread(), stopped()), tier) == (threading.current_thread(), False)


# --- a tier behind it -------------------------------------------------------------------------------------


@pytest.fixture
def tier(tmp_path: Path, patient: Guard) -> GuardedTier:
    identity.establish(tmp_path, name="flash", zone="deidentified")
    return GuardedTier(PosixTier("flash", "deidentified", tmp_path), patient)


def test_a_guarded_tier_is_a_tier(tier: GuardedTier, tmp_path: Path) -> None:
    """Every call of the ladder, and what the kernel's copy needs: descriptors."""
    tier.check_identity()
    for number in range(5):
        tier.put(f"folder/{number}", [b"x" * number])
    assert sorted(e.key for e in tier.list()) == [f"folder/{n}" for n in range(5)]
    assert tier.read("folder/4", 1, 2) == b"xx" and b"".join(tier.stream("folder/3", cold=True)) == b"xxx"
    attempt = tier.attempt("made", size_bytes=3)
    attempt.write([b"abc"])
    attempt.seal()
    assert b"".join(bytes(block) for block in attempt.stream_cold()) == b"abc"
    assert attempt.fileno() > 0 and attempt.temporary.startswith(".mover-tmp-")  # type: ignore[attr-defined]
    attempt.publish()
    with tier.open("made") as source:
        assert source.read(1, 2) == b"bc" and source.fileno() > 0  # type: ignore[attr-defined]
        assert source.fingerprint() == tier.stat("made").fingerprint
    tier.remove("made")
    left = tier.attempt("left", size_bytes=1)
    left.abandon()
    assert {e.key for e in tier.list()} == {f"folder/{n}" for n in range(5)}
    assert not list(tmp_path.glob(".mover-tmp-*"))


def test_a_put_that_was_given_up_publishes_nothing_when_the_tier_answers(
    tier: GuardedTier, patient: Guard, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shard was told that it failed, and somebody else may be at it by then."""
    patient._patience_s = UNANSWERED_S
    honest, ended = os.fsync, []

    def sync(descriptor: int) -> None:
        server.ask()
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    abandon = posix.PosixAttempt.abandon
    monkeypatch.setattr(posix.PosixAttempt, "abandon", lambda self: (abandon(self), ended.append(self)))
    server.up.clear()
    with pytest.raises(TierHung):
        tier.put("name", [b"x"])
    server.up.set()
    eventually(lambda: ended)
    assert {path.name for path in tmp_path.iterdir()} == {".mover"}


def test_a_stream_that_is_left_early_is_closed(tier: GuardedTier) -> None:
    """Its descriptors and its reading thread must not stay."""
    tier.put("big", [bytes(1 << 20)] * 40)
    before = Leftovers()
    pieces = tier.stream("big", cold=True)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    eventually(lambda: len(before.now()) <= 1)  # a lane more, no reader


# --- which tiers get one ------------------------------------------------------------------------------------


def test_only_tiers_on_network_file_systems_are_guarded_and_a_silent_one_counts_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon starts over a mount whose server is gone: that tier is known as silent, the others are served."""
    server = threading.Event()

    def stands_on(path: Path) -> mounts.Mount:
        if path.name == "silent":
            server.wait(PATIENT_S)
        kind = "nfs4" if path.name == "nas" else "ext4"
        return msgspec.structs.replace(mounts.NOWHERE, filesystem=kind)

    monkeypatch.setattr(daemon.mounts, "stands_on", stands_on)
    monkeypatch.setattr(daemon.os, "statvfs", lambda path: server.wait(PATIENT_S))
    tiers = {
        name: SimpleNamespace(name=name, path=tmp_path / name, zone=zone, unanswered_s=unanswered_s, calls_max=2)
        for name, zone, unanswered_s in (
            ("local", "deidentified", PATIENT_S), ("nas", "deidentified", PATIENT_S),
            ("silent", "deidentified", UNANSWERED_S), ("intake", "identified", PATIENT_S),
        )
    }  # fmt: skip
    guards = daemon._guards(SimpleNamespace(role="clean", tiers=tiers))  # type: ignore[arg-type]
    assert {name: guard.hung for name, guard in guards.items()} == {"nas": False, "silent": True}
    server.set()
    eventually(lambda: not guards["silent"].hung)
