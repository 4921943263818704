"""The table of scores says who was raced, who was not and why; a tool that breaks off is scored for what it left."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from bench import deid_score
from bench.deid_score import Kind, Score, Scores, Tool, ToolFailed, as_table, race
from bench.results import Machine, Stamp

ROOT = Path(__file__).resolve().parents[2]
SCORER = """
import argparse, json, sys
from pathlib import Path
p = argparse.ArgumentParser()
for name in ("--originals", "--truth", "--outputs", "--json", "--domains", "--map"): p.add_argument(name)
p.add_argument("--side", nargs="*")
a = p.parse_args()
n = sum(1 for f in Path(a.outputs).rglob("*") if f.is_file())
kind = dict(files=2, covered=n, missing=2 - n, allowed_drop=0, leak_free=n, broken=0, final=n, of=2, leaks=0, planted=9)
Path(a.json).write_text(json.dumps(dict(summary={d: kind for d in a.domains.split(",")}, side={"log.txt": 1})))
"""


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    (tmp_path / "originals").mkdir()
    (tmp_path / "truth.json").write_text(json.dumps({"files": {}}))
    (tmp_path / "scorer.py").write_text(SCORER)
    return tmp_path


def copier(originals: Path, out: Path, side: Path) -> None:
    (out / "one").write_bytes(b"1")


def breaks_off(originals: Path, out: Path, side: Path) -> None:
    copier(originals, out, side)
    raise ToolFailed("ended with status 9")


def test_a_tool_that_breaks_off_is_scored_for_what_it_left(pack: Path) -> None:
    """A missing output is no clean one, and a crash half-way is part of the picture."""
    chosen = [Tool("good", ("dicom",), "", "", copier), Tool("bad", ("wsi", "dicom"), "", "", breaks_off)]
    good, bad = race(pack, pack / "scorer.py", chosen)
    assert (good.kinds["dicom"].final, good.failed, set(good.kinds)) == (1, "", {"dicom"})
    assert (bad.kinds["wsi"].final, bad.failed) == (1, "ended with status 9")
    assert good.side == {".txt": 1}


def test_the_table_names_who_was_not_raced_and_why() -> None:
    kind = Kind(9, 9, 8, 9, 9, 0, 3, 100)
    machine = Machine("c", 2, 8.0, "6", "3.11", "ext4", "vda", False, {})
    scores = Scores(
        "p", Stamp("now", "abc", 0.1, 0.2), machine, [Score("ours", "1", 2.0, {"wsi": kind})], {"X": "not installed"}
    )  # fmt: skip
    told = as_table(scores)
    assert "| ours 1 | 8 of 9 | – | – | 3 of 100 | 2.0 |" in told
    assert "| X | | | | not raced: not installed | |" in told


def test_without_a_pack_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("MOVER_SAMPLES", raising=False)
    assert deid_score.main(["--json", str(tmp_path / "s.json")]) == 2
    assert "MOVER_SAMPLES" in capsys.readouterr().err


def test_the_page_shows_the_last_score() -> None:
    """Numbers in prose go stale; `python docs/make_deid_score.py` mends this test."""
    made = runpy.run_path(str(ROOT / "docs" / "make_deid_score.py"))["made"]()
    assert (ROOT / "docs" / "deidentification.md").read_text("utf-8") == made
