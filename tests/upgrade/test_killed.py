"""Killed with SIGKILL at moments of the dice, and called again: `mover db move` and `mover db upgrade` lose nothing."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from mover.catalog.dumping import Dumper
from mover.catalog.postgres import SUPERUSER, Embedded
from mover.settings import load
from tests.upgrade.test_db import DEBIANS, fill, forget_logins

pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("dumping")]

KILLS = 6


def killed_until_done(site: Path, *words: str, seed: int) -> int:
    """How often it was killed. Each try lives a little longer than the one before, and the last as long as it takes."""
    dice, command = (
        random.Random(seed),
        [sys.executable, "-m", "mover", "--config", str(site / "mover.yaml"), "db", *words],
    )
    for kill in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if process.wait(dice.uniform(0.5, 2.0) * (kill + 1)) == 0:
                return kill
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return KILLS


def test_a_move_that_is_killed_is_called_again(tmp_path: Path) -> None:
    fill(tmp_path, None)
    own, elsewhere = Embedded(tmp_path / "state"), Embedded(tmp_path / "elsewhere")
    whole = Dumper(own.start().superuser_dsn).facts()
    own.stop()
    try:
        admin = elsewhere.start().dsn(SUPERUSER)
        forget_logins(admin)
        assert killed_until_done(tmp_path, "move", admin, seed=1) > 0
        given = load(tmp_path / "mover.yaml").database
        assert given.dump_dsn is not None and Dumper(given.dump_dsn).facts() == whole
    finally:
        own.kill()
        elsewhere.kill()


@pytest.mark.skipif(not DEBIANS.exists(), reason="needs Debian package: postgresql-15")
def test_an_upgrade_that_is_killed_is_called_again(tmp_path: Path) -> None:
    fill(tmp_path, DEBIANS)
    older, newer = Embedded(tmp_path / "state", bin_dir=DEBIANS), Embedded(tmp_path / "state")
    whole = Dumper(older.start().superuser_dsn).facts()
    older.stop()
    try:
        assert killed_until_done(tmp_path, "upgrade", seed=2) > 0
        assert Dumper(newer.start().superuser_dsn).facts() == whole
    finally:
        newer.kill()
