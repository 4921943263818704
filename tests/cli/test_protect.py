"""What `mover snapshot` and `mover protect` say to people about retention."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from mover.model import wire
from mover.model.policy import KeepRules
from tests.cli.conftest import Daemon, Said

Mover = Callable[..., Said]


def test_a_simulation_is_a_chart_and_the_snapshots_that_would_go(mover: Mover, daemon: Daemon) -> None:
    """Rules may be said at once or one by one; the words are the policy's."""
    words = ("--keep", "last=2,monthly=12", "--keep", "tag=paper", "--keep", "at_least_s=3600")
    said = mover("--url", daemon.url, "snapshot", "simulate", *words)
    assert said.status == 0 and " ▄█  at most 7" in said.out and "no rule keeps it" in said.out
    assert "it protects less than the policy (keep.last)" in said.out and "4 snapshots to come" in said.out
    [(_, (body,))] = [call for call in daemon.rooms.retention.calls if call[0] == "simulate"]  # type: ignore[attr-defined]
    assert body.keep == KeepRules(last=2, monthly=12, tags=("paper",), at_least_s=3600)


@pytest.mark.parametrize("rule", ["last=many", "lastly=3", "last"])
def test_a_rule_that_is_none_is_refused_before_anybody_is_asked(mover: Mover, daemon: Daemon, rule: str) -> None:
    said = mover("--url", daemon.url, "snapshot", "simulate", "--keep", rule)
    assert said.status == 2 and "--keep" in said.err


def test_a_hold_ends_in_utc(mover: Mover, daemon: Daemon) -> None:
    mover("--url", daemon.url, "snapshot", "hold", "snapshot-1", "--reason", "a paper", "--until", "2027-01-01")
    [(_, (_, body))] = [call for call in daemon.rooms.holds.calls if call[0] == "hold"]  # type: ignore[attr-defined]
    assert body.until.isoformat() == "2027-01-01T00:00:00+00:00"


def test_what_holds_and_what_waits_are_told_and_an_alarm_fails_the_command(
    mover: Mover, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that watches for vanished snapshots needs no parser."""
    quiet = mover("--url", daemon.url, "protect", "show")
    assert quiet.status == 0 and "keeps  last 3" in quiet.out and "its file would shorten keep.last" in quiet.out
    assert "waits for a second person" in quiet.out

    room = daemon.rooms.upkeep
    seen = daemon._run(room.view("demo"))
    bad = replace(seen, policies=[replace(seen.policies[0], missing=1, doubtful=2)])

    async def view(project: str) -> wire.Protection:
        return bad

    monkeypatch.setattr(room, "view", view)
    said = mover("--url", daemon.url, "protect", "show")
    assert said.status == 5 and "1 missing" in said.out and "2 doubtful" in said.out


def test_a_plan_of_a_shortening_is_shown_and_nothing_is_asked(mover: Mover, daemon: Daemon) -> None:
    said = mover("--url", daemon.url, "protect", "ask", "forget", "snapshot-1", "--reason", "too old", "--plan")
    assert said.status == 0 and "Nothing was changed" in said.out
    assert not daemon.rooms.shortenings.calls  # type: ignore[attr-defined]


def test_a_prune_says_what_it_will_do_before_it_does_it_and_what_it_did(
    mover: Mover, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody removes packs by a word that was meant to look; what waits for somebody fails the command."""
    said = mover("--url", daemon.url, "protect", "prune")
    assert said.status == 2 and "--apply" in said.err
    room = daemon.rooms.turns
    said = mover("--url", daemon.url, "protect", "prune", "--plan")
    assert said.status == 0 and "Nothing was changed." in said.out and not room.calls  # type: ignore[attr-defined]
    said = mover("--url", daemon.url, "protect", "prune", "--apply", "--wait")
    assert said.status == 0 and "It begins now." in said.out and "2 swept, freed 9 B" in said.out

    async def view(project: str, id: str) -> wire.ProtectTurn:
        turn = await type(room).view(room, project, id)  # type: ignore[arg-type]
        return replace(turn, state="waiting", explanation="3 snapshots are missing")

    monkeypatch.setattr(room, "view", view)
    said = mover("--url", daemon.url, "protect", "prune", "--apply", "--wait")
    assert said.status == 5 and "3 snapshots are missing" in said.out


def test_keys_are_added_by_the_name_of_a_file_and_removed_by_asking(mover: Mover, daemon: Daemon) -> None:
    said = mover("--url", daemon.url, "protect", "keys", "add", "anns")
    assert said.status == 0 and "the daemon's" in said.out and "remove the file" in said.out
    said = mover("--url", daemon.url, "protect", "keys", "add", "../etc/passwd")
    assert said.status != 0 and "passwd" not in said.out
    mover("--url", daemon.url, "protect", "keys", "remove", "abab", "--reason", "she left")
    [(_, (_, body))] = [call for call in daemon.rooms.shortenings.calls if call[0] == "ask"]  # type: ignore[attr-defined]
    assert (body.kind, body.subjects) == ("remove-key", ["ab" * 32]), "a beginning of the id is enough"


def test_terms_are_told_in_words_and_days_and_the_last_turns_below_them(
    mover: Mover, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is woken at night reads days, not seconds, and nothing that does not hold."""
    room = daemon.rooms.upkeep
    seen = daemon._run(room.view("demo"))
    keep = {"last": 20, "daily": 0, "within_s": 7200, "at_least_s": 604_800, "tags": ["paper"]}
    terms = {
        "keep": keep, "trash_s": 1_209_600, "delay_s": 90, "breaker_percent": 10, "lock_s": 7_776_000,
        "lock_strength": 2, "copy": "two/", "copy_every_s": 60,
    }  # fmt: skip
    sealed = {"keep": {}, "trash_s": 3600, "delay_s": 3600, "breaker_percent": 5, "lock_strength": 1, "copy": ""}
    both = [replace(seen.policies[0], terms=terms), replace(seen.policies[0], terms=sealed, shorter=["file"], turns=[])]

    async def view(project: str) -> wire.Protection:
        return replace(seen, policies=both)

    monkeypatch.setattr(room, "view", view)
    said = mover("--url", daemon.url, "protect", "show").out
    for words in (
        "last 20, tag paper, within 2 hours, what is younger than 7 days anyway",
        "trash 14 days, a shortening waits 90 s, 10 % go at once at most, locked for 90 days, compliance, "
        "second copy on two",
        "keeps  everything", "files immutable", "no file names this policy any more", "no turn yet", "too much",
    ):  # fmt: skip
        assert words in said, said
    assert "copy_every_s" not in said and "daily" not in said
