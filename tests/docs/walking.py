"""A page is followed as a person follows it: in its order, its places replaced by ours, its words in capitals by ids
that the commands before printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mover.cli import main
from tests.docs.commands import Line, _of_block, blocks, program

IDS = {
    **{
        name.upper(): rf"\b{name}-[0-9a-z]{{26}}\b"
        for name in ("batch", "run", "snapshot", "records", "dump", "transfer")
    },
    "NUMBER": r"\b(?=\d*[A-Z])[0-9A-HJKMNP-TV-Z]{17}\b",
    "CAUSE": r"\b[0-9a-f]{16}\b",
}
FILE = re.compile(r"# (/\S+)\n")


class Walk:
    """`places` are the page's words and ours; `instead` says what stands for a line, or why it is only read."""

    def __init__(self, places: dict[str, str], instead: dict[str, Callable[[], None] | str]) -> None:
        self.places = places
        self.instead = instead
        self.seen: dict[str, str] = {}
        self.only_read: list[str] = []
        self.followed = 0

    def follow(self, page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        for block in blocks(page.read_text("utf-8")):
            if block.language == "yaml" and (named := FILE.match(block.text)):
                Path(self.ours(named[1])).write_text(self.ours(block.text))
            if block.language == "sh":
                for line in _of_block(block, page.name):
                    self.step(line, capsys, monkeypatch)

    def ours(self, text: str) -> str:
        """Longest first: one place may stand in another's name."""
        for name in sorted(self.places, key=len, reverse=True):
            text = text.replace(name, self.places[name])
        for name, value in self.seen.items():
            text = re.sub(rf"\b{name}\b", value, text)
        return text

    def step(self, line: Line, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        stands_for = next((what for start, what in self.instead.items() if line.text.startswith(start)), None)
        if isinstance(stands_for, str):
            self.only_read.append(line.text)
            return
        self.followed += 1
        if stands_for is not None:
            stands_for()
            return
        words = shlex.split(self.ours(line.text))
        if words[0] == "export":
            for one in words[1:]:
                monkeypatch.setenv(*one.split("=", 1))
            return
        status, out, err = self._say(words, capsys) if program(line.text) == "mover" else self._run(words)
        assert status == 0, f"{line.page}:{line.number}: {line.text}\n{out}\n{err}"
        for name, pattern in IDS.items():
            if found := re.findall(pattern, out):
                self.seen[name] = found[0]

    def _say(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
        """In this process, as the console script does: fifty interpreters would take longer than the hospital."""
        before, sys.argv = sys.argv, words
        capsys.readouterr()
        try:
            main()
            code: object = 0
        except SystemExit as ended:
            code = ended.code
        finally:
            sys.argv = before
        told = capsys.readouterr()
        return code if isinstance(code, int) else 0, told.out, told.err

    def _run(self, words: list[str]) -> tuple[int, str, str]:
        done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
        return done.returncode, done.stdout, done.stderr
