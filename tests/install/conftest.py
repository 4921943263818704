"""What `make install` lays out, in a folder; the settings of a site with two daemons, as the examples have them; and
the package, built once for every machine."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.install.machine import need_a_machine

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"


def lay_out(into: Path, prefix: str = "/opt/mover") -> subprocess.CompletedProcess[str]:
    command = ["sh", str(PACKAGING / "files"), str(into), prefix]
    return subprocess.run(command, capture_output=True, text=True, check=True)


@pytest.fixture
def laid_out(tmp_path: Path) -> Path:
    into = tmp_path / "root"
    lay_out(into)
    return into


def uncommented(name: str) -> str:
    """The example with every line that may be taken over taken over: `#word` is one, `# Sentence` is none."""
    text = (PACKAGING / name).read_text("utf-8")
    return re.sub(r"^#(?=[a-z ] *[a-z])(?! [A-Za-z])", "", text, flags=re.MULTILINE)


@pytest.fixture(scope="session")
def package() -> Path:
    """MOVER_DEB names one that is built already."""
    need_a_machine()
    given = os.environ.get("MOVER_DEB")
    if given is None:
        told = subprocess.run(["make", "deb"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-2000:]
        [given] = [str(path) for path in (ROOT / "dist").glob("mover_*-1_*.deb")]
    return Path(given)


def newer(package: Path, made: Path, *, files: Mapping[str, str] | None = None) -> Path:
    """The same package as the next release: what a build with RELEASE=2 makes, without building. `files` are in it
    besides, by their place in the release."""
    side = made.with_suffix(".tree")
    subprocess.run(["dpkg-deb", "-R", str(package), str(side)], check=True)
    stock = side / "opt/mover/stock"
    [old] = [path.name for path in stock.iterdir()]
    new = old.rpartition("-")[0] + "-2"
    (stock / old).rename(stock / new)
    edited = [path for path in (stock / new / "bin").iterdir() if path.is_file() and not path.is_symlink()]
    for path in [*edited, side / "DEBIAN/control", side / "DEBIAN/postinst"]:
        path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
    for name, text in (files or {}).items():
        (stock / new / name).write_text(text)
    (side / "DEBIAN/md5sums").unlink(missing_ok=True)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(side), str(made)], check=True)
    subprocess.run(["rm", "-rf", str(side)], check=True)
    return made
