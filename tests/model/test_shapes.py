"""Types are learned before threads meet them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mover.model import shapes

# six threads at once on types of types that nobody decoded yet; without `learn` this process ends by signal 11
MANY = """
import sys, threading, types, msgspec
from mover.model import shapes
sys.setswitchinterval(1e-7)
text = "from __future__ import annotations\\nimport msgspec\\n"
for i in range(60):
    for k in range(8):
        text += f"class I{i}_{k}(msgspec.Struct):\\n" + "".join(f"    f{j}: int | None = None\\n" for j in range(10))
    text += f"class S{i}(msgspec.Struct):\\n" + "".join(f"    g{k}: I{i}_{k} | None = None\\n" for k in range(8))
    text += "    z: int = 0\\n"
home = sys.modules["home"] = types.ModuleType("home")
exec(compile(text, "home", "exec"), home.__dict__)
assert shapes.learn() >= 60 * 9
def decode(shape, gate):
    gate.wait()
    msgspec.json.decode(b'{"z": 1, "g7": null}', type=shape)
for i in range(60):
    gate = threading.Barrier(6)
    threads = [threading.Thread(target=decode, args=(getattr(home, f"S{i}"), gate)) for _ in range(6)]
    [one.start() for one in threads], [one.join() for one in threads]
"""


@pytest.mark.slow
def test_threads_that_decode_a_type_for_the_first_time_do_not_end_the_process() -> None:
    told = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.slow
def test_the_daemon_knows_every_body_of_its_api_before_it_has_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the order of its start: settings, types, then everything that runs beside each other."""
    from mover import daemon

    order: list[str] = []
    settings = SimpleNamespace(state_dir=None, log_level="info")
    monkeypatch.setattr(daemon, "load", lambda _: order.append("settings") or settings)
    monkeypatch.setattr(daemon.shapes, "learn", lambda: order.append("types"))
    monkeypatch.setattr(daemon.log, "configure", lambda **_: None)
    monkeypatch.setattr(daemon, "locked_state", lambda _: order.append("state") or contextlib.nullcontext())
    monkeypatch.setattr(daemon, "_sealing", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        daemon.main(Path("mover.yaml"))
    monkeypatch.undo()
    assert order == ["settings", "types", "state"] and shapes.learn() > 500
