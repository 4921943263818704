"""The page of the ten questions: none is missing, each command runs, and the sentences are those that are said."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mover.decide.answers import QUESTIONS
from tests.cli.conftest import Daemon, Said, daemon, mover

__all__ = ["daemon", "mover"]
PAGE = (Path(__file__).parents[2] / "docs" / "compliance.md").read_text("utf-8")
COMMANDS = re.findall(r"^\$ (mover .+)$", PAGE, re.MULTILINE)


def test_every_question_has_its_row_and_its_section() -> None:
    for one in QUESTIONS.values():
        assert f"## {one.asks.rstrip('.')}" in PAGE, one.code
        assert re.search(rf"\| {re.escape(one.asks.rstrip('.'))} \| `mover answers {one.code}\b", PAGE), one.code
        assert any(line.split()[2] == one.code for line in COMMANDS), one.code


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_page_runs(line: str, mover: Callable[..., Said], daemon: Daemon) -> None:  # noqa: F811
    said = mover("--url", daemon.url, *shlex.split(line)[1:])
    assert said.status == 0, said.err


@pytest.mark.parametrize("proof", sorted({line for one in QUESTIONS.values() for line in one.proof}))
def test_what_is_said_to_prove_it_is_a_command(proof: str, mover: Callable[..., Said]) -> None:  # noqa: F811
    """Somebody who believes nothing types it next."""
    words: Any = [word for word in shlex.split(proof)[1:] if word[:1].islower() and "{" not in word]
    assert mover(*words, "--help").status == 0
