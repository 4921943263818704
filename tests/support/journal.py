"""A journal of parts in a file of lines, for tests that kill the process that writes it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from mover.transfer.parts import Part


class FileJournal:
    """`mover.transfer.parts.PartJournal`: one line an event, synced before the call returns."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.touch()

    def where(self, attempt_id: str) -> str:
        return self._state(attempt_id)[0]

    def parts(self, attempt_id: str) -> list[Part]:
        return list(self._state(attempt_id)[1].values())

    def begin(self, attempt_id: str, *, where: str) -> None:
        self._say(attempt_id, "begin", where)

    def finished(self, attempt_id: str, part: Part) -> None:
        self._say(attempt_id, "part", msgspec.json.encode(part).decode())

    def end(self, attempt_id: str) -> None:
        self._say(attempt_id, "end", "")

    def _say(self, attempt_id: str, what: str, value: str) -> None:
        with open(self.path, "ab") as out:
            out.write(msgspec.json.encode([attempt_id, what, value]) + b"\n")
            out.flush()
            os.fsync(out.fileno())

    def _state(self, attempt_id: str) -> tuple[str, dict[int, Part]]:
        where, parts = "", dict[int, Part]()
        for line in self.path.read_bytes().splitlines():
            who, what, value = msgspec.json.decode(line, type=tuple[str, str, str])
            if who != attempt_id:
                continue
            if what == "part":
                part = msgspec.json.decode(value, type=Part)
                parts[part.number] = part
            else:
                where, parts = value, {}
        return where, parts
