"""`mover deid survey` as typed: before anything moves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mover.cli.deid import command
from mover.policy import load_profile
from tests.support import slides
from tests.support.dicoms import Order, Planted, plant

# in one process: the source is surveyed once for all of them
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("a survey")]
NAMES = ("Quincy", "S24-771001", "48213311", "Zebediah")


OBJECT: Planted = plant(Order(kind="CT", seed=7))


def survey(*words: object) -> Result:
    return CliRunner().invoke(command, ["survey", *(str(word) for word in words)])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides with identifiers, a format without a writer, rubbish, a link, and two exports of one kind."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "S24-771001_Quincy.svs").write_bytes(slides.svs(keys="AppMag = 20|MPP = 0.4990|Zebediah = MRN 48213311"))
    (folder / "i1.dcm").write_bytes(OBJECT.data)
    (folder / "old.czi").write_bytes(b"ZISRAWFILE" + bytes(64))
    (folder / "torn.svs").write_bytes(b"II*\0\x08\0\0\0\xff\xff")
    (folder / "link.svs").symlink_to("/etc/hostname")
    for month in (1, 2):
        rows = "".join(f"4821331{i};Zebediah Quincy;{i}\n" for i in range(4))
        (folder / f"export-{month}.csv").write_text("MRN;Patient Name;Cores\n" + rows)
    (folder / "odd.csv").write_text("=cmd;Age\n1;2\n3;4\n")
    return folder


@pytest.fixture(scope="module")
def seen(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    draft = tmp_path_factory.mktemp("drafts") / "draft.yaml"
    return survey(source, "--draft", draft), draft


def test_a_survey_says_what_would_become_of_each_file_and_no_name(seen: tuple[Result, Path], source: Path) -> None:
    """The first command on a new source is read aloud in a meeting: it may hold nobody's name."""
    said = seen[0].output
    assert seen[0].exit_code == 1
    assert "aperio-svs: 1 file," in said and "key “Aaaaaaaa” [AAA 99999999]: not on the allow-list" in said
    assert "format-unsupported: Zeiss CZI" in said and "symlink: neither a symlink nor" in said
    assert "2 files, 8 rows" in said and "{class: patient}" in said
    assert "CT Image · CT · image" in said
    said += survey(source, "--all").output + survey(source, "--json").output
    assert "(0010,0010) PatientName" in said and "private group" in said
    shown = [word for word in (*NAMES, *OBJECT.values()) if len(word) >= 5 and word in said]
    assert not shown, "values of the files"


def test_its_draft_loads_and_then_the_tables_are_declared(seen: tuple[Result, Path], source: Path) -> None:
    """A header that no profile may name stays a comment; everything else is there to be edited."""
    profile = load_profile(seen[1]).policy
    assert [one.name for one in profile.tables] == ["table-1"]  # type: ignore[union-attr]
    assert "left as comments" in seen[0].output and os.stat(seen[1]).st_mode & 0o777 == 0o600
    again = json.loads(survey(source, "--profile", seen[1], "--json").stdout)
    assert sorted(one["rule"] for one in again["tables"]) == ["", "table-1"]
    assert survey(source, "--draft", seen[1]).exit_code != 0, "an edited draft is not overwritten"


def test_a_survey_holds_back_what_a_run_holds_back(source: Path, tmp_path: Path) -> None:
    """Links and pipes were only left aside, and a tile's header was first read by the run: a first batch had more in
    quarantine than its survey said."""
    odd = tmp_path / "odd"
    odd.mkdir()
    for one in source.glob("*.svs"):
        (odd / one.name).write_bytes(one.read_bytes()) if not one.is_symlink() else (odd / one.name).symlink_to("/etc")
    os.mkfifo(odd / "pipe")

    def foreign(pixels: np.ndarray) -> bytes:
        data = slides.jpeg(pixels)
        at = data.index(b"\xff\xdb")
        return data[:at] + b"\xff\xf0\0\x04zz" + data[at:]

    (odd / "foreign.svs").write_bytes(slides.svs(encode=foreign))
    seen = json.loads(survey(odd, "--json").stdout)
    planned = json.loads(CliRunner().invoke(command, [str(odd), "--plan", "--json"]).stdout)
    held = {one["code"]: one["files"] for one in seen["refused"]}
    assert held == planned["reasons"] and {"symlink", "other", "place-unknown"} <= set(held)
    assert not seen["aside"] and seen["files"] == planned["files"]


def test_nothing_of_the_source_is_touched(source: Path) -> None:
    before = {path.name: path.lstat() for path in source.iterdir()}
    survey(source)
    assert {path.name: path.lstat().st_mtime_ns for path in source.iterdir()} == {
        name: stat.st_mtime_ns for name, stat in before.items()
    }
