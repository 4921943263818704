"""`mover deid` killed at any point leaves the old state or the new, and a later run ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from blake3 import blake3

from tests.support import mirax, slides

PROFILE = """
kind: deid
name: kills
tables:
  - name: slides
    columns:
      slide_file: {class: image}
      stain: {class: enum, values: [HE, Ki-67]}
"""


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """Slides of one file, of several, and a table that names them."""
    source = tmp_path / "ward"
    source.mkdir()
    names = [f"S24-77100{at}" for at in range(6)]
    for at, name in enumerate(names):
        (source / f"{name}.svs").write_bytes(slides.svs(size=(320 + 64 * at, 256)))
    main, parts = mirax.mirax(stem="S24-881001")
    for name, data in {"S24-881001.mrxs": main, **parts}.items():
        path = source / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    rows = "".join(f"{name}.svs,HE\n" for name in names)
    (source / "slides.csv").write_text(f"slide_file,stain\n{rows}")
    (tmp_path / "profile.yaml").write_text(PROFILE)
    return source


def start(ward: Path) -> subprocess.Popen[bytes]:
    folder = ward.parent
    arguments = [str(ward), "--to", str(folder / "out"), "--crosswalk", str(folder / "x.json")]
    arguments += ["--profile", str(folder / "profile.yaml"), "--map", str(folder / "map.csv")]
    command = [sys.executable, "-m", "mover", "deid", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=dict(os.environ))


def outputs(ward: Path) -> dict[str, str]:
    """Whatever has a final name, with its digest."""
    out = ward.parent / "out"
    return {
        str(path.relative_to(out)): blake3(path.read_bytes()).hexdigest()
        for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")
    }  # fmt: skip


def seen(ward: Path) -> list[tuple[str, int, int]]:
    """What stands beside the source, finished or not, with inode and size: whatever a run does changes it."""
    found = []
    for place in (ward.parent.glob("*"), (ward.parent / "out").rglob("*")):
        for path in place:
            with suppress(FileNotFoundError):
                found.append((str(path), (facts := path.lstat()).st_ino, facts.st_size if path.is_file() else 0))
    return sorted(found)


def killed(ward: Path, drawn: random.Random) -> bool:
    """A run, and the kill when so many changes of the folder were seen; False when it had ended before."""
    last, left = seen(ward), drawn.choice([1, 1, 2, 3, 5, 8])
    run = start(ward)
    while left and run.poll() is None:
        if (now := seen(ward)) != last:
            last, left = now, left - 1
        time.sleep(0.002)
    time.sleep(drawn.uniform(0, 0.02))
    met = run.poll() is None
    run.kill()
    _, said = run.communicate()
    assert met or run.returncode == 0, said.decode()
    return met


def end_by_chance(ward: Path, drawn: random.Random, *, kills: int) -> dict[str, str]:
    """Runs killed at random points of their work; what each had published must stand unchanged from then on. After one
    that came to its end there is nothing left to kill: the next begins with nothing."""
    published: dict[str, str] = {}
    hits = 0
    for _ in range(kills * 5):
        met = killed(ward, drawn)
        hits += met
        now = outputs(ward)
        assert {name: now.get(name) for name in published} == published
        crosswalk = ward.parent / "x.json"
        assert not crosswalk.exists() or json.loads(crosswalk.read_text())["files"]
        if hits == kills:
            return now
        published = now
        if not met:
            published = {}
            shutil.rmtree(ward.parent / "out")
            for name in ("x.json", "map.csv"):
                (ward.parent / name).unlink()
    raise AssertionError(f"of {kills * 5} runs only {hits} were killed at work")


def check_kills(ward: Path, *, seed: int, kills: int) -> None:
    published = end_by_chance(ward, random.Random(seed), kills=kills)
    run = start(ward)
    _, said = run.communicate(timeout=600)
    assert run.returncode == 0, said.decode()
    entries = json.loads((ward.parent / "x.json").read_text())["files"]
    assert {entry["status"] for entry in entries} == {"deidentified"}
    final = outputs(ward)
    assert published.items() <= final.items()
    assert final == {entry["output"]: entry["output_blake3"] for entry in entries}
    left = {path.name for path in ward.parent.iterdir()}
    assert {"x.json.journal"} & left == set()
    assert not [path for path in (ward.parent / "out").rglob("*.part")]
    table = next(entry for entry in entries if entry["source"] == "slides.csv")
    shown = (ward.parent / "out" / table["output"]).read_text()
    numbers = {entry["source"]: entry["number"] for entry in entries}
    assert all(numbers[f"S24-77100{at}.svs"] in shown for at in range(6))


@pytest.mark.slow
def test_a_kill_at_any_point_leaves_the_old_state_or_the_new(ward: Path) -> None:
    check_kills(ward, seed=11, kills=3)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(6))
def test_many_kills_do_no_more(ward: Path, seed: int) -> None:
    check_kills(ward, seed=seed, kills=12)
