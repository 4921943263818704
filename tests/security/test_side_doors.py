"""What a process prints past its log: warnings, uncaught exceptions, crashes of threads, core files. And what its
children inherit: no secret in the environment, no descriptor but the ones that were given (D10, D16)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mover.sandbox import Sandbox

NAME = "Mustermann^Erika"
ROOT = Path(__file__).parents[2]

WAYS = {
    "uncaught": f"raise ValueError({NAME!r})",
    "cause": f"raise RuntimeError('x') from ValueError({NAME!r})",
    "group": f"raise ExceptionGroup('g', [ValueError({NAME!r})])",
    "thread": f"t = threading.Thread(target=lambda: int({NAME!r})); t.start(); t.join()",
    "finalizer": f"class X:\n    def __del__(self): raise ValueError({NAME!r})\nX()",
    "warning": f"warnings.warn({NAME!r})",
    "logging": f"logging.getLogger('pydicom').warning('bad value %s', {NAME!r})",
    "loop": f"asyncio.run(asyncio.sleep(0)); asyncio.new_event_loop().call_exception_handler("
            f"{{'message': 'x', 'exception': ValueError({NAME!r})}})",
    "task": f"async def bad(): raise ValueError({NAME!r})\nasync def main():\n    asyncio.create_task(bad())\n"
            f"    await asyncio.sleep(0)\nasyncio.run(main()); import gc; gc.collect()",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_no_text_of_an_exception_or_warning_reaches_stderr(way: str) -> None:
    """Found: Python's own hooks print the text, and that of every cause; psycopg's quotes the row."""
    program = (
        "import asyncio, logging, threading, warnings\nfrom mover import log\n"
        "log.configure(); log.close_side_doors()\n" + WAYS[way]
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Mustermann" not in done.stdout + done.stderr
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert said and all("event" in line for line in said), "the fact itself must be said"


def look_around(source: int) -> bytes:
    """Runs in the child: what does it hold?"""
    held = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            held[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    with open("/proc/self/environ", "rb") as file:
        environment = file.read().decode("utf-8", "replace")
    try:
        os.write(source, b"x")
        written = True
    except OSError:
        written = False
    return json.dumps({"held": held, "environment": environment, "written": written}).encode()


@pytest.mark.slow
def test_a_parsing_child_inherits_no_secret_and_no_foreign_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor of the vault's connection or of a lock would outlive every other fence."""
    monkeypatch.setenv("MOVER_TEST_SECRET", NAME)
    (tmp_path / "vault.key").write_text("secret")
    (tmp_path / "slide.svs").write_text("slide")
    leaked = os.open(tmp_path / "vault.key", os.O_RDWR)
    os.set_inheritable(leaked, True)  # as a careless library leaves it
    source = os.open(tmp_path / "slide.svs", os.O_RDONLY)
    try:
        with Sandbox(preload=("tests.security.test_side_doors",), allowed=("tests.security.",)) as sandbox:
            found = json.loads(sandbox.run("tests.security.test_side_doors:look_around", (), (source,)))
    finally:
        os.close(leaked)
        os.close(source)
    places = [place for place in found["held"].values() if not place.startswith(("socket:", "/dev/null"))]
    assert [place for place in places if "vault.key" in place] == []
    assert [os.path.basename(place) for place in places if "/proc/" not in place] == ["slide.svs"]
    assert "MOVER" not in found["environment"] and "Mustermann" not in found["environment"]
    assert not found["written"]
