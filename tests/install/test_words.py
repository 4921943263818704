"""What a person reads and types on the machine itself: man pages that render, a shell that completes."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPLETE = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


@pytest.mark.slow
def test_man_pages_render_without_a_warning(tmp_path: Path) -> None:
    """A sign that is taken for a macro swallows the line behind it, and nobody notices what is not shown."""
    pytest.importorskip("click_man", reason="click-man writes the pages: pip install click-man")
    if shutil.which("groff") is None:
        pytest.skip("groff renders the pages (Debian package: groff-base)")
    pages = runpy.run_path(str(ROOT / "packaging" / "manpages.py"))["write"](tmp_path)
    pages.append(ROOT / "packaging" / "mover-release.8")
    told = subprocess.run(
        ["groff", "-K", "utf8", "-man", "-Tutf8", "-ww", "-z", *map(str, pages)], capture_output=True, text=True
    )
    assert (told.returncode, told.stderr) == (0, "") and len(pages) > 150
    [doctor] = [page for page in pages if page.stem == "mover-doctor"]
    shown = subprocess.run(["groff", "-K", "utf8", "-man", "-Tascii", str(doctor)], capture_output=True, text=True)
    text = re.sub(".\x08", "", shown.stdout)  # bold is typed twice
    assert "--try" in text and "SYNOPSIS" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("mover ", "doctor"),
        ("mover run ", "request"),
        ("mover policy s", "set"),
        ("mover run request --coh", "--cohort"),
    ],
)
def test_bash_completes_what_was_begun(typed: str, offered: str, tmp_path: Path) -> None:
    """By bash itself, with the script that a package lays down."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not here")
    command = tmp_path / "mover"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m mover "$@"\n')
    command.chmod(0o755)
    script = tmp_path / "completion"
    environment = COMPLETE | {"PATH": f"{tmp_path}:{os.defpath}"}
    with open(script, "wb") as file:
        subprocess.run(["mover"], env=environment | {"_MOVER_COMPLETE": "bash_source"}, stdout=file, check=True)
    words = typed.split(" ")
    lines = f"source {script}; COMP_WORDS=({' '.join(w or chr(34) * 2 for w in words)}); COMP_CWORD={len(words) - 1}; "
    lines += '_mover_completion mover; printf "%s\\n" "${COMPREPLY[@]}"'
    told = subprocess.run(["bash", "-c", lines], env=environment, capture_output=True, text=True)
    assert offered in told.stdout.split(), told


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_the_commands_with_their_sentences(shell: str) -> None:
    """Both ask in their own form; what they get is the same."""
    asked = COMPLETE | {"_MOVER_COMPLETE": f"{shell}_complete", "COMP_WORDS": "mover vault ", "COMP_CWORD": "2"}
    asked |= {"COMP_CWORD": ""} if shell == "fish" else {}
    told = subprocess.run([sys.executable, "-m", "mover"], env=asked, capture_output=True, text=True)
    assert "dump" in told.stdout and "rekey" in told.stdout and told.stderr == ""
