"""`mover status` as somebody reads it who was woken by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click
import pytest

from mover.cli import command
from mover.cli.status import COMMANDS, DECIDED, _used, next_command
from mover.decide.needs import RULES, away, warned
from mover.model import wire
from tests.cli.conftest import Daemon, Said

Mover = Callable[..., Said]


def need(severity: Any, noun: str, *, code: str = "x", **more: Any) -> wire.Need:
    return wire.Need(code=code, severity=severity, noun=noun, words=f"a {noun} waits", hint="Mend it.", count=1, **more)


def test_the_screen_says_first_whether_it_works_then_what_to_type_then_what_is_on_its_way(
    mover: Mover, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads it has ten seconds and no memory of the commands."""
    said = mover("--url", daemon.url, "status", "--check")
    lines = [line.strip() for line in said.out.splitlines()]
    assert said.status == 0 and lines[0] == "mover  works; 1 to see to today"
    assert lines[2] == "$ mover quarantine list"
    assert any(line.startswith("on its way  run run-1: staging, 1.0 GiB of 4.0 GiB, until about 20") for line in lines)
    assert "last  dump never" in lines

    async def needs(_: object) -> wire.Needs:
        return wire.Needs(needs=[need("now", "batch", subject="batch-1"), *(need("soon", "tier") for _ in range(20))])

    monkeypatch.setattr(daemon.rooms.oversight, "needs", needs)
    urgent = mover("--url", daemon.url, "status", "--check")
    assert urgent.status == 1 and "works, and 1 thing cannot wait" in urgent.out
    assert "$ mover batch show batch-1" in urgent.out and "and 9 more: mover needs" in urgent.out
    assert mover("--url", daemon.url, "status").status == 0
    assert json.loads(mover("--url", daemon.url, "status", "--json").out)["moving"][0]["id"] == "run-1"


def test_watching_shows_it_again_until_somebody_stops(
    mover: Mover, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("mover.clock.pause", pause)
    said = mover("--url", daemon.url, "status", "--watch", "7")
    assert (said.status, pauses) == (130, [7, 7]) and said.out.count("works; 1 to see to today") == 2


def test_how_long_ago_a_tier_was_used_is_a_plain_sentence() -> None:
    def age(days: float, *, whole: bool = True) -> wire.TierAge:
        of = {"tier": "flash", "count": 1_000_000, "bytes": 1, "oldest_s": 1.0, "median_s": days * 86_400}
        return wire.TierAge(**of, by_age=[], whole=whole)  # type: ignore[arg-type]

    assert _used(age(0.2)) == _used(age(1)) == "half of its files used in the last day"
    assert _used(age(40, whole=False)) == "half of the first 1,000,000 files used in the last 40 days"


def test_every_need_has_a_command_that_exists() -> None:
    others = [away("flash", ""), warned("x")]
    nouns = {rule.noun for rule in RULES.values()} | {one.noun for one in others}
    assert nouns <= set(COMMANDS)
    assert set(DECIDED) <= set(RULES)
    cases = [*((noun, "x") for noun in COMMANDS), *((RULES[code].noun, code) for code in DECIDED)]
    for noun, code in cases:
        for subject in (None, "x-1"):
            words = next_command(need("now", noun, code=code, subject=subject)).split()[1:]
            here: click.Command = command
            while isinstance(here, click.Group):
                found = here.get_command(click.Context(here), words.pop(0))
                assert found is not None, noun
                here = found
            here.make_context("x", words, resilient_parsing=False)
