from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mover.api import Rooms, Server, make_app, serve
from mover.cli import main
from mover.settings import Listen
from tests.api.small_rooms import SmallAccess, small_rooms
from tests.support.warm import warm_runs


@pytest.fixture(scope="session", autouse=True)
def _warm() -> Iterator[None]:
    with warm_runs():
        yield


@dataclass
class Said:
    status: int
    out: str
    err: str


@pytest.fixture
def mover(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Said]:
    """Runs `mover …` in this process, as the console script does, in an empty folder without our environment."""
    for name in ("MOVER_URL", "MOVER_TOKEN_FILE", "MOVER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["mover", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user may enter: pytest's own are its user's alone."""
    with tempfile.TemporaryDirectory(prefix="mover-open-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


class Daemon:
    """The real HTTP face over small rooms, in a thread, as a daemon in another process would be."""

    def __init__(self, socket: Path) -> None:
        self.rooms: Rooms = small_rooms()
        self.access = SmallAccess(known_uid=os.getuid())
        self.url = f"unix://{socket}"
        self._socket = socket
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._server: Server = self._run(self._serve())

    async def _serve(self) -> Server:
        app = make_app(self.rooms, self.access, version="0")
        return await serve(app, Listen(self._socket, None, None, None))

    def stop(self) -> None:
        self._run(self._server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    running = Daemon(tmp_path / "s")
    running.start()
    yield running
    running.stop()
