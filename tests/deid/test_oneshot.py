"""`mover deid`: a folder in, clean files and a secret crosswalk out, whatever is in the folder."""

from __future__ import annotations

import csv
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mover.cli.deid import command
from mover.deid import crosswalk as home
from mover.deid import durable
from mover.deid.oneshot import deidentify_folder, publish
from mover.deid.search import Seeker
from mover.errors import DigestMismatch, EntryExists, MoverError, RequestInvalid, TierFull
from mover.model.ids import is_number
from tests.support import slides

pytestmark = pytest.mark.slow

NAME = "S24-771001_Quincy"


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """A folder as a scanner leaves it: two slides, a twin, a picture, a table, a half-written slide, a link."""
    source = tmp_path / "ward"
    (source / "Quincy, Ada").mkdir(parents=True)
    (source / f"{NAME}.svs").write_bytes(slides.svs())
    (source / "Quincy, Ada" / "slide one.ndpi").write_bytes(slides.ndpi())
    (source / "Quincy, Ada" / "copy.svs").write_bytes(slides.svs())
    (source / "thumb.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    (source / "cases.csv").write_text("name\nQuincy\n")
    (source / "half.svs").write_bytes(slides.svs()[:2000])
    (tmp_path / "secret.svs").write_bytes(slides.svs())
    (source / "link.svs").symlink_to(tmp_path / "secret.svs")
    os.mkfifo(source / "pipe.svs")
    return source


def shoot(ward: Path, **options: Any) -> tuple[Path, dict[str, dict[str, Any]]]:
    out = ward.parent / "out"
    deidentify_folder(ward, out, ward.parent / "crosswalk.json", **options)
    return out, crosswalk(ward)


def crosswalk(ward: Path) -> dict[str, dict[str, Any]]:
    entries = json.loads((ward.parent / "crosswalk.json").read_text())["files"]
    return {entry["source"]: entry for entry in entries}


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_every_input_has_one_entry_and_only_clean_slides_have_an_output(ward: Path) -> None:
    out, entries = shoot(ward)
    assert set(entries) == files_below(ward)
    reasons = {source: entry["reason"] for source, entry in entries.items() if entry["status"] == "quarantined"}
    assert reasons == {
        "thumb.jpg": "format-unsupported",
        "cases.csv": "format-unsupported",
        "half.svs": "structure-invalid",
        "link.svs": "symlink",
        "pipe.svs": "other",
    }
    done = [entry for entry in entries.values() if entry["status"] == "deidentified"]
    assert files_below(out) == {entry["output"] for entry in done}
    assert all(is_number(entry["number"]) and entry["output"].startswith(entry["number"] + "/") for entry in done)


def test_no_name_of_the_source_is_found_anywhere_in_the_output(ward: Path) -> None:
    out, _ = shoot(ward, thumbnails=True)
    seeker = Seeker(["Quincy", "S24-771001", "771001", "slide one", "SS7719", "770011"])
    for path in out.rglob("*"):
        assert seeker.find(str(path.relative_to(out)).encode()) == 0
        if path.is_file():
            assert seeker.find(path.read_bytes()) == 0


def test_outputs_carry_neither_the_scans_time_nor_its_rights(ward: Path) -> None:
    out, entries = shoot(ward)
    for entry in entries.values():
        if entry["output"]:
            found = (out / entry["output"]).stat()
            assert found.st_mtime == durable.MTIME_S
            assert stat.S_IMODE(found.st_mode) == 0o640
            assert os.listxattr(out / entry["output"]) == []


def test_the_crosswalk_and_the_map_are_private_and_nothing_is_left_beside_them(ward: Path) -> None:
    shoot(ward, map_path=ward.parent / "map.csv")
    for name in ("crosswalk.json", "map.csv"):
        assert stat.S_IMODE((ward.parent / name).stat().st_mode) == 0o600
    assert {path.name for path in ward.parent.iterdir()} == {"ward", "out", "crosswalk.json", "map.csv", "secret.svs"}
    with (ward.parent / "map.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["source"] for row in rows} == {
        f"{NAME}.svs", "Quincy, Ada/slide one.ndpi", "Quincy, Ada/copy.svs"
    }  # fmt: skip


def test_one_scan_has_one_number_under_whatever_names_it_comes(ward: Path) -> None:
    """Two names with the same bytes are the same scan (D19)."""
    _, entries = shoot(ward)
    assert entries[f"{NAME}.svs"]["number"] == entries["Quincy, Ada/copy.svs"]["number"]


def test_a_second_run_keeps_every_number_and_writes_nothing_anew(ward: Path) -> None:
    out, first = shoot(ward)
    inodes = {path: (out / path).stat().st_ino for path in files_below(out)}
    _, second = shoot(ward)
    assert second == first
    assert inodes == {path: (out / path).stat().st_ino for path in files_below(out)}


def test_a_run_killed_after_a_number_was_given_gives_the_same_number_again(
    ward: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is synced before the output has a name: no output without an owner, no scan with two numbers."""
    real, written = publish.write_output, []

    def dies(target: Path, *rest: Any) -> str:
        written.append(target.parent.name)
        if len(written) == 2:
            raise KeyboardInterrupt
        return real(target, *rest)

    monkeypatch.setattr(publish, "write_output", dies)
    with pytest.raises(KeyboardInterrupt):
        shoot(ward)
    assert not (ward.parent / "crosswalk.json").exists()
    monkeypatch.setattr(publish, "write_output", real)
    out, entries = shoot(ward)
    assert set(written) <= {entry["number"] for entry in entries.values()}
    assert {path.name for path in out.iterdir()} == {entry["number"] for entry in entries.values() if entry["number"]}
    assert not (ward.parent / "crosswalk.json.journal").exists()


def test_a_journal_line_cut_short_swallows_no_number_that_comes_after_it(
    ward: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut tears the last line; the next run's first number must not be joined to it and lost, or the
    output it stands for would be nobody's and no later run would go on."""
    journal = ward.parent / "crosswalk.json.journal"
    journal.write_bytes(b'{"source_blake3":"ab')
    monkeypatch.setattr(home, "write_private", _killed)
    with pytest.raises(KeyboardInterrupt):
        shoot(ward)
    monkeypatch.undo()
    made = {path.name for path in (ward.parent / "out").iterdir()}

    _, entries = shoot(ward)

    assert made and made == {entry["number"] for entry in entries.values() if entry["number"]}


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_output_changed_since_the_first_run_stops_being_this_scans(ward: Path) -> None:
    out, first = shoot(ward)
    path = out / first[f"{NAME}.svs"]["output"]
    path.chmod(0o640)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    _, second = shoot(ward)
    assert second[f"{NAME}.svs"]["status"] == "quarantined"
    assert second[f"{NAME}.svs"]["reason"] == DigestMismatch.code


def test_a_folder_with_foreign_files_is_not_written_to(ward: Path) -> None:
    out = ward.parent / "out"
    out.mkdir()
    (out / "somebody's.txt").write_text("mine")
    with pytest.raises(EntryExists):
        shoot(ward)
    assert files_below(out) == {"somebody's.txt"}


@pytest.mark.parametrize("inside", ["out/crosswalk.json", "ward/crosswalk.json", "out"])
def test_the_crosswalk_may_not_lie_with_the_clean_files_or_the_source(ward: Path, inside: str) -> None:
    with pytest.raises(RequestInvalid):
        deidentify_folder(ward, ward.parent / "out", ward.parent / inside)
    with pytest.raises(RequestInvalid):
        deidentify_folder(ward, ward.parent / "out", ward.parent / "x.json", map_path=ward.parent / inside)
    assert not (ward.parent / "out").exists()


@pytest.mark.parametrize("out", ["ward", "ward/out", "."])
def test_the_source_is_never_written_to(ward: Path, out: str) -> None:
    with pytest.raises(RequestInvalid):
        deidentify_folder(ward, ward.parent / out, ward.parent.parent / "x.json")


def test_a_crosswalk_that_is_none_is_not_overwritten(ward: Path) -> None:
    (ward.parent / "crosswalk.json").write_text("my diary")
    with pytest.raises(RequestInvalid):
        shoot(ward)
    assert (ward.parent / "crosswalk.json").read_text() == "my diary"


def test_a_full_disk_stops_the_run_and_leaves_no_half_output(ward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_for_outputs(fd: int, source_fd: int, recipe: Any) -> str:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(durable, "pour", full_for_outputs)
    with pytest.raises(TierFull):
        shoot(ward)
    assert files_below(ward.parent / "out") == set()


def test_without_nameless_files_a_hidden_name_is_used_and_removed(ward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS."""
    real = os.open

    def no_tmpfile(path: Any, flags: int, mode: int = 0o777, **rest: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real(path, flags, mode, **rest)

    monkeypatch.setattr(os, "open", no_tmpfile)
    out, entries = shoot(ward)
    assert files_below(out) == {entry["output"] for entry in entries.values() if entry["output"]}


def test_bytes_that_read_back_differently_are_never_published(ward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that lies: the cold re-read is what counts."""
    real, calls = durable.pour, []

    def lies(fd: int, *rest: Any) -> str:
        digest = real(fd, *rest)
        os.pwrite(fd, b"!", 20)
        calls.append(fd)
        return digest

    monkeypatch.setattr(durable, "pour", lies)
    out, entries = shoot(ward)
    assert calls
    assert {entry["reason"] for entry in entries.values() if entry["source_blake3"] is None} >= {DigestMismatch.code}
    assert files_below(out) == set()


def test_a_plan_shows_masked_decisions_and_writes_nothing(ward: Path) -> None:
    report = deidentify_folder(ward, ward.parent / "out", ward.parent / "crosswalk.json", plan_only=True)
    assert report.deidentified == 3
    assert {path.name for path in ward.parent.iterdir()} == {"ward", "secret.svs"}
    shown = repr(report)
    assert "A99-999999" in shown
    assert "Quincy" not in shown
    assert "771001" not in shown


def test_a_name_of_bytes_that_are_no_text_is_handled_like_any_other(tmp_path: Path) -> None:
    """Old scanners write names in whatever the machine was set to."""
    (tmp_path / "in").mkdir()
    with open(os.fsencode(tmp_path / "in") + b"/Gr\xfcn.svs", "wb") as file:
        file.write(slides.svs())
    deidentify_folder(tmp_path / "in", tmp_path / "out", tmp_path / "x.json", map_path=tmp_path / "m.csv")
    (entry,) = json.loads((tmp_path / "x.json").read_text())["files"]
    assert (entry["source"], entry["status"]) == ("Gr\\xfcn.svs", "deidentified")


def test_the_command_says_how_many_and_why_and_exits_with_one_when_some_wait(ward: Path) -> None:
    where = ["--to", str(ward.parent / "out"), "--crosswalk", str(ward.parent / "x.json")]
    result = CliRunner().invoke(command, [str(ward), *where, "--map", str(ward.parent / "m.csv")])
    assert result.exit_code == 1
    assert "8 files: 3 de-identified, 5 quarantined, 0 dropped" in result.output
    assert "Quincy" not in result.output
    told = CliRunner().invoke(command, [str(ward), *where, "--json"])
    assert json.loads(told.stdout)["reasons"]["format-unsupported"] == 2


def test_the_command_exits_with_zero_when_all_was_handled(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.svs").write_bytes(slides.svs())
    arguments = [str(tmp_path / "in"), "--to", str(tmp_path / "out"), "--crosswalk", str(tmp_path / "x.json")]
    assert CliRunner().invoke(command, arguments).exit_code == 0
    assert CliRunner().invoke(command, [*arguments, "--plan"]).exit_code == 0


def test_the_commands_own_failure_has_the_errors_status(ward: Path) -> None:
    arguments = [str(ward), "--to", str(ward.parent / "out"), "--crosswalk", str(ward.parent / "out" / "x.json")]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == RequestInvalid.exit_status
    assert issubclass(RequestInvalid, MoverError)
