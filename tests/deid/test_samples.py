"""The real and the planted files that everybody is measured by (found through MOVER_SAMPLES)."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import openslide
import pytest
import tifffile

from mover.deid.oneshot import Options, Signing, deidentify_folder
from mover.model.policy import DeidPolicy
from mover.policy import load_profile
from mover.signing import load_key, new_key
from tests.support.chance import uids_without

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("MOVER_SAMPLES" not in os.environ, reason="MOVER_SAMPLES is not set"),
]

PROFILE = Path(__file__).parents[2] / "policies" / "deid" / "example-three-csv.yaml"
# of the pack: pictures that show the label, which a rule drops
DROPPED = {"dicom/wsm1/label.dcm", "dicom/wsm1/overview.dcm"}
# Every frame of a film is read for burnt-in words: these two cost more than all else; pixels/test_films.py has others.
FILMS = ("color3d_jpeg_baseline.dcm", "MR-MONO2-8-16x-heart.dcm")


@pytest.fixture(scope="module")
def samples() -> Path:
    return Path(os.environ["MOVER_SAMPLES"])


# in one process: the pack is worked on once for all of them
planted_pack = pytest.mark.xdist_group("the planted pack")


@pytest.fixture(scope="module")
def shot(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted pack, de-identified once for the module, with everything that is written beside it."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "side").mkdir()
    new_key(folder / "key")
    loaded = load_profile(PROFILE)
    assert isinstance(loaded.policy, DeidPolicy)
    options = Options(
        profile=msgspec.structs.replace(loaded.policy, determination="Report 7 of 2026-01-31"),  # the example's is none
        profile_text_blake3=loaded.digest,
        map_path=folder / "map.csv",
        thumbnails=True,
        signing=Signing(folder / "side" / "certificate.json", load_key(folder / "key")),
    )
    originals = samples / "planted_dev" / "originals"
    numbers = re.findall(r"\d{5,}", (samples / "planted_dev" / "truth.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        uids_without(patch, numbers)
        report = deidentify_folder(originals, folder / "out", folder / "crosswalk.json", options=options)
    (folder / "side" / "report.json").write_bytes(msgspec.json.encode(report))
    return folder


@planted_pack
def test_every_planted_file_is_final_and_nothing_beside_tells_anything(samples: Path, shot: Path) -> None:
    """The scorer's own words: present, opening, no leak, no loss; certificate and report searched too."""
    planted = samples / "planted_dev"
    report = shot / "score.json"
    arguments = {
        "--originals": planted / "originals",
        "--truth": planted / "truth.json",
        "--outputs": shot / "out",
        "--map": shot / "map.csv",
        "--side": shot / "side",
        "--json": report,
    }
    command = [sys.executable, str(samples / "score_deid.py")]
    for name, value in arguments.items():
        command += [name, str(value)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    scored: dict[str, Any] = json.loads(report.read_text())
    for name, file in scored["files"].items():
        if name in DROPPED:
            assert not file["out"]
        else:
            assert file["out"], f"{Path(name).suffix} file missing"
            assert not file["leaks"] and not file["loss"] and not file["broken"], file
    assert scored["side"] == {}
    found = {kind: (one["final"], one["of"], one["leaks"]) for kind, one in scored["summary"].items()}
    assert found == {"wsi": (9, 9, 0), "dicom": (12, 12, 0), "csv": (3, 3, 0)}


@planted_pack
def test_every_planted_file_has_an_entry_with_its_reason(samples: Path, shot: Path) -> None:
    """The parts of a MIRAX slide are files of their own; the map has one line for each slide, object and table."""
    originals = samples / "planted_dev" / "originals"
    entries = json.loads((shot / "crosswalk.json").read_text())["files"]
    found = {str(path.relative_to(originals)) for path in originals.rglob("*") if path.is_file()}
    assert {entry["source"] for entry in entries} == found
    reasons = {entry["source"]: entry["reason"] for entry in entries if entry["status"] != "deidentified"}
    assert {entry["status"] for entry in entries} == {"deidentified", "dropped"}
    assert {source for source, reason in reasons.items() if reason == "instance-dropped"} == DROPPED
    with (shot / "map.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 9 + 12 + 3


def test_readable_real_slides_pass_and_the_others_are_refused_for_a_reason(samples: Path, tmp_path: Path) -> None:
    deidentify_folder(samples / "wsi", tmp_path / "out", tmp_path / "crosswalk.json")
    entries = {one["source"]: one for one in json.loads((tmp_path / "crosswalk.json").read_text())["files"]}
    passed = {name for name, one in entries.items() if one["status"] == "deidentified"}
    assert passed == {"CMU-1-Small-Region.svs", "openslide_small.svs", "test3-DAPI-2-(387).ndpi", "boxes.tiff"}
    reasons = {name: one["reason"] for name, one in entries.items() if name not in passed}
    assert reasons == {
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
                assert new.properties.get(key) == old.properties.get(key)
            assert set(new.associated_images) == ({"thumbnail"} if name.endswith(".svs") else set())
        with (
            tifffile.TiffFile(samples / "wsi" / name) as old,
            tifffile.TiffFile(tmp_path / "out" / entries[name]["output"]) as new,
        ):
            for kept in ("Baseline", "Thumbnail"):
                assert series_of(new).get(kept) == series_of(old).get(kept)
            assert set(series_of(new)) <= {"Baseline", "Thumbnail", ""}


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


@pytest.mark.parametrize("left_out", [FILMS, pytest.param((), marks=pytest.mark.soak)], ids=["most", "all"])
def test_readable_real_objects_pass_and_the_broken_ones_are_refused(
    samples: Path, tmp_path: Path, left_out: tuple[str, ...]
) -> None:
    """Truncated files and one whose first byte is foreign; everything else of the collection comes out."""
    shutil.copytree(samples / "dicom", tmp_path / "in", ignore=shutil.ignore_patterns(*left_out))
    deidentify_folder(tmp_path / "in", tmp_path / "out", tmp_path / "crosswalk.json")
    entries = json.loads((tmp_path / "crosswalk.json").read_text())["files"]
    waiting = {one["source"]: one["reason"] for one in entries if one["status"] != "deidentified"}
    truncated = dict.fromkeys(("MR_truncated.dcm", "rtplan_truncated.dcm"), "structure-invalid")
    assert waiting == {**truncated, "no_meta.dcm": "format-unknown"}
