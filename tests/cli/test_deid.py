"""`mover deid` and its certificates, as typed."""

from __future__ import annotations

import json
from errno import EACCES
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from mover.cli.deid import command
from mover.cli.watching import Watching
from mover.deid.certificate import check_signable, sign
from mover.errors import IntegrityError, PolicyInvalid, RequestInvalid, TierDenied
from mover.signing import load_key
from tests.deid.test_certificate import certificate
from tests.support import slides


def mover(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """Two slides de-identified with a signed certificate."""
    (tmp_path / "in").mkdir()
    for at in (1, 2):
        (tmp_path / "in" / f"S24-77100{at}_Quincy.svs").write_bytes(slides.svs(size=(256 + 64 * at, 256)))
    assert mover("certify", "--new-key", tmp_path / "key").exit_code == 0
    result = mover(*call(tmp_path))
    assert result.exit_code == 0, result.output
    return tmp_path


def call(folder: Path) -> list[object]:
    where = [folder / "in", "--to", folder / "out", "--crosswalk", folder / "x.json"]
    return [*where, "--certificate", folder / "c.json", "--sign-key", folder / "key"]


@pytest.mark.slow
def test_a_certificate_is_made_checked_and_made_again_with_what_people_saw(done: Path) -> None:
    checked = mover("verify-certificate", done / "c.json", "--files", done / "out", "--alone")
    assert checked.exit_code == 0 and "valid: every part" in checked.output and "2 outputs hashed" in checked.output
    again = mover("certify", done / "c.json", "--looked-at", 300, "--by", "a reader", "--sign-key", done / "key",
                  "--to", done / "seen.json")  # fmt: skip
    assert again.exit_code == 0 and "1.00%" in again.output
    assert json.loads((done / "seen.json").read_text())["certificate"]["human_check"]["upper_bound_95"] == 0.01
    assert mover("verify-certificate", done / "seen.json", "--files", done / "out").exit_code == 0


@pytest.mark.slow
def test_the_certificate_of_one_slide_stands_alone(done: Path) -> None:
    number = next((done / "out").iterdir()).name
    words = ("certify", done / "c.json", "--number", number, "--sign-key", done / "key", "--to", done / "one.json")
    told = json.loads(mover(*words, "--json").stdout)
    assert set(told) == {"certificate", "fingerprint"}
    one = json.loads(mover("verify-certificate", done / "one.json", "--files", done / "out", "--json").stdout)
    assert (one["problems"], one["numbers"], one["files_checked"], one["strangers"]) == ([], 1, 1, 1)


@pytest.mark.slow
def test_a_changed_certificate_or_output_is_told_with_the_status_of_integrity(done: Path) -> None:
    key = json.loads((done / "c.json").read_text())["signature"]["fingerprint"]
    assert mover("verify-certificate", done / "c.json", "--fingerprint", key).exit_code == 0
    assert mover("verify-certificate", done / "c.json", "--fingerprint", "abcd").exit_code == IntegrityError.exit_status
    output = next(path for path in (done / "out").rglob("*.svs"))
    output.chmod(0o640)
    output.write_bytes(output.read_bytes()[:-1])
    found = mover("verify-certificate", done / "c.json", "--files", done / "out")
    assert found.exit_code == IntegrityError.exit_status and output.name in found.output
    (done / "c.json").write_bytes((done / "c.json").read_bytes().replace(b'"published": 2', b'"published": 3'))
    changed = mover("verify-certificate", done / "c.json")
    assert "inventory: changed since signing" in changed.output
    refused = mover("certify", done / "c.json", "--sign-key", done / "key", "--to", done / "d.json")
    assert refused.exit_code == IntegrityError.exit_status and not (done / "d.json").exists()


@pytest.mark.slow
def test_neither_terminal_nor_certificate_hold_a_name_of_the_source(done: Path) -> None:
    said = mover(*call(done)).output + mover(*call(done), "--plan").output
    for word in ("Quincy", "S24-771001", "771002"):
        assert word not in said and word not in (done / "c.json").read_text()


@pytest.mark.slow
def test_a_plan_needs_no_output_and_says_how_many_and_why_first(tmp_path: Path) -> None:
    """Whoever plans has no place for the output yet, and reads ten lines, not ten thousand."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.svs").write_bytes(slides.svs())
    (tmp_path / "in" / "b.czi").write_bytes(b"ZISRAWFILE" + bytes(64))
    short = mover(tmp_path / "in", "--plan")
    assert short.exit_code == 1 and short.output.startswith("2 files: 1 would be de-identified, 1 quarantined")
    assert "file 1:" not in short.output and len(short.output.splitlines()) < 12
    whole = mover(tmp_path / "in", "--plan", "-v").output
    assert whole.index("1 quarantined") < whole.index("file 1: deidentified") and "keep" in whole
    assert json.loads(mover(tmp_path / "in", "--plan", "--json").output)["planned"][0]["decisions"]
    assert [one.name for one in tmp_path.iterdir()] == ["in"], "nothing is written"
    assert mover(tmp_path / "in").exit_code == 2 and mover(tmp_path / "in", "--to", tmp_path / "out").exit_code == 2


def test_how_far_a_run_is_stands_in_a_log_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A night's run under a scheduler said nothing for hours."""
    now = [0.0]
    monkeypatch.setattr("mover.clock.monotonic_s", lambda: now[0])
    with Watching("de-identifying") as progress:
        for done in range(100):
            now[0] += 1
            progress(done, 1000)
    assert capsys.readouterr().err.splitlines() == [f"de-identifying: {at} of 1000 files" for at in (29, 59, 89)]


@pytest.mark.parametrize("words", ["EXAMPLE: number and date", "todo", "<report>", "…", "-", "Your report here"])
def test_a_placeholder_is_never_signed(tmp_path: Path, words: str) -> None:
    """The shipped example says where an expert's report belongs; a certificate would have claimed that."""
    (tmp_path / "in").mkdir()
    (tmp_path / "p.yaml").write_text(
        f'kind: deid\nname: p1\nversion: "1"\nbasis: expert-determination\ndetermination: "{words}"\n'
    )
    mover("certify", "--new-key", tmp_path / "key")
    said = mover(*call(tmp_path), "--profile", tmp_path / "p.yaml")
    assert said.exit_code == RequestInvalid.exit_status and "placeholder" in said.output
    assert not (tmp_path / "x.json").exists()
    made = certificate("AAA")
    made = msgspec.structs.replace(made, profile=msgspec.structs.replace(made.profile, determination=words))
    with pytest.raises(RequestInvalid):
        sign(made, load_key(tmp_path / "key"))


@pytest.mark.parametrize("words", ["Report 2026-017, signed 2026-01-31", "Examples of risk, J. Roe 2025", ""])
def test_a_report_is_no_placeholder(words: str) -> None:
    check_signable(words)


def test_lists_of_commands_say_their_sentences_to_the_end() -> None:
    said = " ".join(mover("--help").output.split("Commands:")[1].split())
    assert "..." not in said and "Write the UID and patient maps of a CROSSWALK file as MIDI-B takes them." in said


def test_half_of_what_a_certificate_needs_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    result = mover(*call(tmp_path)[:-2])
    assert result.exit_code == RequestInvalid.exit_status
    assert mover("certify").exit_code == RequestInvalid.exit_status


def test_an_invalid_profile_stops_and_never_falls_back(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "p.yaml").write_text("kind: deid\nname: wide\ndicom: {retain_uids: true}\n")
    result = mover(tmp_path / "in", "--to", tmp_path / "out", "--crosswalk", tmp_path / "x", "--profile",
                   tmp_path / "p.yaml")  # fmt: skip
    assert result.exit_code == PolicyInvalid.exit_status
    assert "approval" in result.output and "p.yaml:" in result.output
    assert not (tmp_path / "out").exists() and not (tmp_path / "x").exists()


def test_help_names_the_usual_call_and_the_subcommands() -> None:
    for words in (["--help"], ["-h"]):
        told = mover(*words).output
        assert "mover deid SOURCE_DIR --to OUT" in told and "verify-certificate" in told
    assert "--crosswalk" in mover("run", "--help").output


@pytest.mark.slow
def test_what_a_profile_does_not_want_of_slides_goes_too(tmp_path: Path) -> None:
    """A project may narrow: fewer keys, fewer families."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.svs").write_bytes(slides.svs())
    held = {}
    for name, rules in (("all", "{}"), ("fewer", "{drop_keys: [StripeWidth]}"), ("none", "{accept: [hamamatsu-ndpi]}")):
        (tmp_path / f"{name}.yaml").write_text(f"kind: deid\nname: {name}\nslides: {rules}\n")
        mover(tmp_path / "in", "--to", tmp_path / name, "--crosswalk", tmp_path / f"{name}.json", "--profile",
              tmp_path / f"{name}.yaml")  # fmt: skip
        held[name] = [b"StripeWidth" in path.read_bytes() for path in (tmp_path / name).rglob("*.svs")]
    assert held == {"all": [True], "fewer": [False], "none": []}


@pytest.mark.slow
def test_what_a_narrower_profile_no_longer_lets_through_is_named_where_it_still_lies(done: Path) -> None:
    """The profile was narrowed, the run said `quarantined`, and the clean folder still held what must not leave."""
    (done / "narrow.yaml").write_text("kind: deid\nname: narrow\nslides: {accept: [hamamatsu-ndpi]}\n")
    there = sorted(str(path.relative_to(done / "out")) for path in (done / "out").rglob("*.svs"))
    again, narrowed = mover(*call(done)), mover(*call(done)[:-4], "--profile", done / "narrow.yaml")
    assert "earlier run" not in again.output and "2 outputs of an earlier run still lie" in narrowed.output
    assert all(name in narrowed.output for name in there)
    assert sorted(str(path.relative_to(done / "out")) for path in (done / "out").rglob("*.svs")) == there
    (done / "out" / there[0]).unlink()
    told = json.loads(mover(*call(done)[:-4], "--profile", done / "narrow.yaml", "--json").stdout)
    assert told["left_over"] == there[1:], "told until it is gone"


def test_a_place_that_is_not_ours_is_refused_in_words_and_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of root's gave an ordinary user a traceback; a map that could not be written failed after the night."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("x")
    nobodys = tmp_path / "nobodys"
    monkeypatch.setattr("os.access", lambda place, _: Path(place) != nobodys)
    nobodys.mkdir()
    where = [tmp_path / "in", "--to", tmp_path / "out", "--crosswalk"]
    for words in ([*where, nobodys / "x"], [*where, tmp_path / "x", "--map", nobodys / "m"]):
        said = mover(*words)
        assert said.exit_code == RequestInvalid.exit_status and "not yours to write" in said.output
        assert "to do: Make it first" in said.output and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_the_system_refuses_is_told_as_what_and_what_to_do(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three calls ended in a traceback where a folder may not even be looked into."""

    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(EACCES, "denied")

    with monkeypatch.context() as patch:
        patch.setattr("mover.deid.durable.os.open", denied)
        patch.setattr("pathlib.Path.unlink", denied)
        said = mover("verify-certificate", done / "c.json", "--html", done / "c.html")
    assert said.exit_code == TierDenied.exit_status and "to do: Look at owner and modes" in said.output
    with monkeypatch.context() as patch:
        patch.setattr("mover.deid.oneshot.publish.Publisher._check", denied)
        said = mover(*call(done))
    assert said.exit_code == TierDenied.exit_status and "may not be read or written here (EACCES)" in said.output
    empty = mover("verify-certificate", done / "c.json", "--files", done / "in")
    assert "is not there" in empty.output and "is this the folder that --to named?" in empty.output
