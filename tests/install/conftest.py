"""What `make install` lays out, in a folder; and the settings of a site with two daemons, as the examples have them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

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
