"""The hospital is built from a seed alone, is reused when whole, and is built anew when it is not."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mover.demo import generate
from mover.demo.generate import Hospital, build_hospital
from mover.demo.plan import make_plan
from mover.demo.tables import make_tables
from mover.errors import SettingsInvalid
from tests.demo.conftest import SCALE


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_one_seed_gives_one_hospital(hospital: Hospital, tmp_path: Path) -> None:
    """Counts in a report can be compared between machines only if the bytes are the same."""
    again = build_hospital(tmp_path, scale=SCALE, seed=7)
    assert digests(Path(again.source)) == digests(Path(hospital.source))
    assert Path(again.expected).read_bytes() == Path(hospital.expected).read_bytes()


@pytest.mark.slow
def test_another_seed_gives_other_slides_and_other_people(hospital: Hospital, tmp_path: Path) -> None:
    other = build_hospital(tmp_path, scale=SCALE, seed=8)
    mine = set(digests(Path(hospital.source)).values())
    assert mine.isdisjoint(digests(Path(other.source)).values())


def test_a_whole_hospital_is_reused_and_a_killed_build_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make demo` twice in a row is quick; after a kill it must not trust half a hospital."""
    monkeypatch.setattr(generate, "_write_packs", _no_packs)
    assert not build_hospital(tmp_path, scale=SCALE).reused
    assert build_hospital(tmp_path, scale=SCALE).reused
    assert not build_hospital(tmp_path, scale=SCALE, seed=9).reused
    (tmp_path / "hospital" / generate.MARKER).unlink()
    leftover = tmp_path / "hospital" / "source" / "half-written.svs"
    leftover.touch()
    assert not build_hospital(tmp_path, scale=SCALE, seed=9).reused
    assert not leftover.exists()


def _no_packs(source: Path, *ignored: Any) -> int:
    source.mkdir(parents=True)
    return 0


def test_a_folder_of_another_user_is_met_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*ignored: Any, **also: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SettingsInvalid) as error:
        build_hospital(tmp_path, scale=SCALE)
    assert "sudo rm -rf" in error.value.advice


def test_the_truth_and_the_tier_hold_the_same_packs(source: Path, expected: dict[str, Any]) -> None:
    for batch, truth in expected["batches"].items():
        slides = {path.name for path in (source / batch).iterdir() if path.suffix != ".jpg"}
        assert slides == {*truth["good"], *(pack["file"] for pack in truth["faulty"])}
        assert truth["declared"] == len(slides)
        assert all((source / batch / name).with_suffix(".jpg").exists() for name in truth["good"])


def test_secrets_of_the_hospital_are_for_its_owner_only(hospital: Hospital) -> None:
    for path in (hospital.planted, hospital.expected):
        assert Path(path).stat().st_mode & 0o077 == 0
    assert Path(hospital.root).stat().st_mode & 0o077 == 0


def test_at_full_scale_there_are_as_many_as_promised() -> None:
    """At least 60 packs, a slide of more than 700 MB, 5,000 rows: counted on the plan, which decides them."""
    whole = make_plan(scale=1.0)
    good = [pack for pack in whole.packs if pack.fault is None]
    assert len(good) >= 60 and len({pack.stem for pack in whole.packs}) == len(whole.packs)
    rows = sum(len(table.rows) for batch in ("2026-11-batch-01", "2026-11-batch-02")
               for table in make_tables(whole, batch).values())  # fmt: skip
    assert rows >= 5000
    assert [pack.columns * pack.rows for pack in good if pack.big] == [57 * 50]


def test_progress_ends_where_it_said_it_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(generate.texture, "build_atlases", lambda **ignored: dict.fromkeys(_looks()))
    monkeypatch.setattr(generate.slides, "write_pack", lambda *a, **k: generate.slides.Written(files=(), size_bytes=1))
    monkeypatch.setattr(generate, "_repeat", lambda *ignored: 1)
    hospital = build_hospital(tmp_path, scale=SCALE, progress=lambda done, total, what: seen.append((done, total)))
    assert seen[-1] == (hospital.packs, hospital.packs) and seen == sorted(seen)
    assert msgspec.json.decode((tmp_path / "hospital" / generate.MARKER).read_bytes())["seed"] == 7


def _looks() -> list[str]:
    return [look.name for look in generate.texture.LOOKS]
