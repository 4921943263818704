"""The real and the planted files that everybody is measured by (found through MOVER_SAMPLES)."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import openslide
import pytest
import tifffile

from mover.deid.oneshot import deidentify_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("MOVER_SAMPLES" not in os.environ, reason="MOVER_SAMPLES is not set"),
]

OURS = (".svs", ".ndpi")


@pytest.fixture(scope="module")
def samples() -> Path:
    return Path(os.environ["MOVER_SAMPLES"])


@pytest.fixture(scope="module")
def shot(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted pack, de-identified once for the module."""
    folder = tmp_path_factory.mktemp("planted")
    originals = samples / "planted_dev" / "originals"
    deidentify_folder(originals, folder / "out", folder / "crosswalk.json", map_path=folder / "map.csv")
    return folder


def test_every_planted_svs_and_ndpi_is_final_and_every_other_file_is_refused(samples: Path, shot: Path) -> None:
    """The scorer's own words: present, opening, no leak, no loss; and nothing of the refused in the output."""
    planted = samples / "planted_dev"
    report = shot / "score.json"
    arguments = {
        "--originals": planted / "originals",
        "--truth": planted / "truth.json",
        "--outputs": shot / "out",
        "--map": shot / "map.csv",
        "--json": report,
    }
    command = [sys.executable, str(samples / "score_deid.py")]
    for name, value in arguments.items():
        command += [name, str(value)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    scored: dict[str, Any] = json.loads(report.read_text())
    for name, file in scored["files"].items():
        if name.endswith(OURS):
            assert file["out"], f"{Path(name).suffix} file missing"
            assert not file["leaks"] and not file["loss"] and not file["broken"], file
        else:
            assert not file["out"]
    assert scored["side"] == {}
    wsi = scored["summary"]["wsi"]
    assert (wsi["covered"], wsi["final"], wsi["leaks"]) == (3, 3, 0)


def test_every_planted_file_has_an_entry_with_its_reason(samples: Path, shot: Path) -> None:
    """The parts of a MIRAX slide are files of their own."""
    originals = samples / "planted_dev" / "originals"
    entries = json.loads((shot / "crosswalk.json").read_text())["files"]
    found = {str(path.relative_to(originals)) for path in originals.rglob("*") if path.is_file()}
    assert {entry["source"] for entry in entries} == found
    for entry in entries:
        ours = entry["source"].endswith(OURS)
        assert entry["status"] == ("deidentified" if ours else "quarantined")
        assert ours or entry["reason"] == "format-unsupported"
    with (shot / "map.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3


def test_readable_real_slides_pass_and_the_others_are_refused_for_a_reason(samples: Path, tmp_path: Path) -> None:
    deidentify_folder(samples / "wsi", tmp_path / "out", tmp_path / "crosswalk.json")
    entries = {one["source"]: one for one in json.loads((tmp_path / "crosswalk.json").read_text())["files"]}
    passed = {name for name, one in entries.items() if one["status"] == "deidentified"}
    assert passed == {"CMU-1-Small-Region.svs", "openslide_small.svs", "test3-DAPI-2-(387).ndpi"}
    reasons = {name: one["reason"] for name, one in entries.items() if name not in passed}
    assert reasons == {
        "boxes.tiff": "format-unsupported",
        "broken.svs": "format-unknown",
        "unopenable.tiff": "format-unsupported",
        "unreadable.svs": "place-unknown",
    }
    for name in passed:
        with (
            openslide.OpenSlide(samples / "wsi" / name) as old,
            openslide.OpenSlide(tmp_path / "out" / entries[name]["output"]) as new,
        ):
            assert new.level_dimensions == old.level_dimensions
            for key in ("openslide.vendor", "openslide.mpp-x", "openslide.mpp-y", "openslide.objective-power"):
                assert new.properties[key] == old.properties[key]
            assert set(new.associated_images) == ({"thumbnail"} if name.endswith(".svs") else set())
        with (
            tifffile.TiffFile(samples / "wsi" / name) as old,
            tifffile.TiffFile(tmp_path / "out" / entries[name]["output"]) as new,
        ):
            for kept in ("Baseline", "Thumbnail"):
                assert series_of(new).get(kept) == series_of(old).get(kept)
            assert set(series_of(new)) <= {"Baseline", "Thumbnail"}


def series_of(tiff: tifffile.TiffFile) -> dict[str, list[tuple[int, ...]]]:
    return {one.name: [level.shape for level in one.levels] for one in tiff.series}


def test_the_real_ndpi_keeps_none_of_its_scanners_serials_and_dates(samples: Path, tmp_path: Path) -> None:
    """What every other tool leaves in the property map of this very file."""
    (tmp_path / "in").mkdir()
    data = (samples / "wsi" / "test3-DAPI-2-(387).ndpi").read_bytes()
    (tmp_path / "in" / "a.ndpi").write_bytes(data)
    deidentify_folder(tmp_path / "in", tmp_path / "out", tmp_path / "x.json")
    (output,) = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    written = output.read_bytes()
    for value in (b"950291", b"950410", b"2011/05/23", b"2017/01/27", b"2017:02:07", b"DAPI", b"barcode"):
        assert value in data
        assert value not in written
