"""What is installed from the package holds everything that runs: a checkout hides what a wheel has forgotten."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as an installer does."""
    pytest.importorskip("hatchling", reason="hatchling builds the wheel: pip install 'pathology-mover[test]'")
    made = tmp_path_factory.mktemp("wheel")
    command = f"from hatchling.build import build_wheel; print(build_wheel({str(made)!r}))"
    told = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(made / told.stdout.split()[-1]) as wheel:
        wheel.extractall(made / "site")
    return made / "site"


def test_every_module_and_statement_is_in_the_wheel(installed: Path) -> None:
    wanted = {
        path.relative_to(ROOT)
        for room in ("mover", "scanners")
        for path in (ROOT / room).rglob("*")
        if (path.suffix in (".py", ".sql") or "web" in path.relative_to(ROOT).parts)
        and path.is_file()
        and "__pycache__" not in path.parts
    }
    assert {path for path in wanted if not (installed / path).is_file()} == set()
    migration = installed / "mover" / "catalog" / "migrations" / "0001_start.sql"
    assert migration.read_bytes() and not migration.is_symlink()


def test_the_command_runs_from_the_wheel_alone(installed: Path, tmp_path: Path) -> None:
    """Outside any checkout it finds its shipped policies and helps."""

    def mover(*words: str) -> str:
        command = [sys.executable, "-m", "mover", *words]
        environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stderr
        return told.stdout

    assert mover("--version").startswith("mover ")
    assert "De-identify a folder" in mover("deid", "--help")
    shipped = installed / "mover" / "_policies"
    told = mover("policy", "check", str(shipped))
    assert all(path.stem in told for path in shipped.glob("*.yaml"))
