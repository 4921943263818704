"""A package is built from exactly what its lock names, and the lock names all that pyproject asks for."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement

from tests.install.conftest import PACKAGING, ROOT


def _locked() -> list[tuple[Requirement, int]]:
    """Each locked package, and how many hashes may be its file's."""
    entries = re.split(r"\n(?=\S)", (PACKAGING / "requirements.lock").read_text())
    return [(Requirement(each.split("\\")[0].strip()), each.count("--hash=sha256:")) for each in entries]


def test_every_dependency_is_locked_within_what_is_asked() -> None:
    """A bound that was raised without `make lock` would build a package that does not hold it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(one) for one in project["dependencies"]]
    for python in ("3.11", "3.12", "3.13"):
        here = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}
        locked = {
            one.name: next(iter(one.specifier)).version
            for one, _ in _locked()
            if one.marker is None or one.marker.evaluate(here)
        }
        for one in asked:
            if one.marker is None or one.marker.evaluate(here):
                assert one.name in locked, f"{one.name} on {python}: make lock"
                assert locked[one.name] in one.specifier, f"{one} on {python}, locked {locked[one.name]}: make lock"


def test_nothing_is_locked_by_its_name_alone() -> None:
    """A version can be published again by whoever takes an account; its bytes cannot."""
    assert [one.name for one, hashes in _locked() if not hashes] == []
    assert all(len(one.specifier) == 1 and str(one.specifier).startswith("==") for one, _ in _locked())


def test_a_release_is_built_anew_when_anything_it_is_built_from_changed() -> None:
    """After `make lock` for a hole in a library, the package would hold the library with the hole."""
    read = re.findall(r"\$\{0%/\*\}/([\w./]+)", (PACKAGING / "venv").read_text())
    stage = (PACKAGING / "stage").read_text()
    [looked] = re.findall(r"^sources=\$\(find ((?:.|\\\n)*?) -type f", stage, re.MULTILINE)
    assert "requirements.lock" in read
    assert {f"packaging/{name}" for name in [*read, "venv"]} <= set(looked.split())
