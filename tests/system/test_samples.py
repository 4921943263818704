"""The real slides of the samples, through all five steps and the API: scanners' own files, not our generator's."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import openslide
import pydicom
import pytest
from PIL import Image

from mover.demo import artifacts
from mover.demo.trees import differences
from mover.model import wire
from mover.sdk import SyncClient
from tests.system import invariants
from tests.system.ward import WAIT_S, Ward

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("MOVER_SAMPLES" not in os.environ, reason="MOVER_SAMPLES is not set"),
]

FOLDER = "real"
COLUMNS = {
    "imagery": ["image_file", "case_no", "block", "stain", "stain_remark", "scanner", "scanner_serial", "operator",
                "scanned_at", "magnification", "mpp"],
    "cases": ["Case", "MRN", "Patient Name", "DOB", "Sex", "Age", "Address", "ZIP", "Phone", "E-mail", "Pathologist",
              "Received", "Clinical Note"],
    "outcomes": ["Fallnummer", "Diagnose", "Gleason", "Stadium", "Groesse_mm", "Ereignisdatum", "Status", "Bemerkung"],
}  # fmt: skip


def readable_slides() -> list[Path]:
    """Aperio and Hamamatsu files whose pixels OpenSlide can read; the samples hold broken ones on purpose."""
    found = []
    for path in sorted((Path(os.environ["MOVER_SAMPLES"]) / "wsi").iterdir()):
        if path.suffix in (".svs", ".ndpi"):
            with suppress(openslide.OpenSlideError), openslide.OpenSlide(path) as slide:
                slide.read_region((0, 0), 0, slide.dimensions if max(slide.dimensions) < 4096 else (4096, 4096))
                found.append(path)
    return found


def make_source(source: Path, slides: list[Path]) -> Path:
    """Packs and their tables, as pathology would leave them: a picture beside each slide, three exports."""
    (source / FOLDER).mkdir(parents=True)
    for slide in slides:
        shutil.copyfile(slide, source / FOLDER / slide.name)
        with openslide.OpenSlide(slide) as opened:
            picture = opened.get_thumbnail((256, 256)).convert("RGB")
        assert isinstance(picture, Image.Image)
        picture.save(source / FOLDER / f"{slide.stem}.jpg")
    rows: dict[str, list[list[str]]] = {name: [] for name in COLUMNS}
    for number, slide in enumerate(slides):
        case = f"S26-{770000 + number}"
        rows["imagery"].append([slide.name, case, "A1", "H&E", "", "Aperio AT2", "SS7719", "operator7",
                                "2026-03-04 11:22:33", "20", "0.499"])  # fmt: skip
        rows["cases"].append([case, f"MRN60338{number}", "Quincy, Ada", "1950-03-04", "F", "66", "7 Elm Road", "10115",
                              "555 0199", "ada@example.org", "Dr. Who", "03/05/2026", ""])  # fmt: skip
        rows["outcomes"].append([case, "PRAD", "7", "II", "12,5", "07.03.2026", "lebt", ""])
    for name, columns in COLUMNS.items():
        target = source / "records" / FOLDER / f"{name}.csv"
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w", newline="") as file:
            csv.writer(file, delimiter=";" if name == "outcomes" else ",").writerows([columns, *rows[name]])
    return source


def test_the_real_slides_pass_all_five_steps(make_ward: Callable[[Path], Ward], tmp_path: Path) -> None:
    """What the generator writes and what we read could be wrong together; these files are nobody's but Aperio's
    and Hamamatsu's."""
    slides = readable_slides()
    assert {path.suffix for path in slides} == {".svs", ".ndpi"} and len(slides) >= 3
    ward = make_ward(make_source(tmp_path / "source", slides))
    with ward.start() as client:
        batch = client.batches.declare(wire.BatchRequest(folder=FOLDER, expected_count=len(slides)))
        records = client.records.declare(wire.RecordsRequest(batch=batch.id, files=ward.tables(FOLDER)))
        batch = client.batches.wait(batch.id, timeout_s=WAIT_S)
        assert (batch.state, batch.packs) == ("complete", {"published": len(slides)}), batch.reasons
        records = client.records.wait(records.id, timeout_s=WAIT_S)
        assert (records.state, records.slides_aligned) == ("aligned", len(slides)), records.explanation
        run = client.runs.request(wire.RunRequest(expression="diagnosis = 'PRAD' and gleason >= 7"), key="real/1")
        run = client.runs.wait(run.id, timeout_s=WAIT_S)
        assert (run.state, run.count) == ("ready", len(slides) + 1), run.explanation
        invariants.check_root(client, run)
        look_at_slides(Path(run.root or ""), len(slides))
        protect_and_clean(ward, client, run)
        invariants.check_archive(ward)
        invariants.check_numbers(ward)
        invariants.check_rest(ward, client)


PLANTED = Path(os.environ.get("MOVER_SAMPLES", "")) / "planted_dev"


@pytest.mark.skipif(not (PLANTED / "truth.json").exists(), reason="the samples hold no planted pack")
def test_the_planted_originals_pass_a_batch_and_leave_nobodys_name_anywhere(
    make_ward: Callable[[Path], Ward], tmp_path: Path
) -> None:
    """Slides of one file and of several, whole slides and studies in DICOM: published, staged, opened; and then the
    run root, the sidecars, the database and the log are searched for everything that was planted (I2)."""
    ward = make_ward(planted_source(tmp_path / "source"))
    with ward.start() as client:
        batch = client.batches.wait(client.batches.declare(wire.BatchRequest(folder=FOLDER)).id, timeout_s=WAIT_S)
        told = [(p.reason, p.explanation) for p in client.batches.packs(batch.id).packs if p.state != "published"]
        assert (batch.state, told) == ("complete", [])
        run = client.runs.request(wire.RunRequest(expression="size_bytes > 0"), key="planted/1")
        run = client.runs.wait(run.id, timeout_s=WAIT_S)
        assert run.state == "ready", run.explanation
        invariants.check_root(client, run)
        invariants.check_archive(ward)
        open_all(Path(run.root or "") / "data")
        assert leaks(ward, Path(run.root or "")) == []


def planted_source(source: Path) -> Path:
    """All of its images in one folder, as an export would leave them; studies stay in folders of their own."""
    for name in ("wsi", "dicom"):
        shutil.copytree(PLANTED / "originals" / name, source / FOLDER, dirs_exist_ok=True)
    for slide in [path for path in (source / FOLDER).iterdir() if path.is_file() and path.suffix != ".mrxs"]:
        Image.new("RGB", (64, 64)).save(slide.with_suffix(".jpg"))
    return source


def open_all(data: Path) -> None:
    """Each slide's main file lies first in its folder, and is what a reader opens."""
    for folder in data.iterdir():
        [main] = [path for path in folder.iterdir() if path.is_file() and path.name.split(".")[0] == folder.name]
        if main.suffix == ".dcm" and pydicom.dcmread(main, stop_before_pixels=True).Modality != "SM":
            for path in folder.iterdir():
                pydicom.dcmread(path)
            continue
        with openslide.OpenSlide(main) as slide:
            slide.read_region((0, 0), slide.level_count - 1, (64, 64))


def leaks(ward: Ward, root: Path) -> list[tuple[str, str]]:
    """Where a planted identifier still stands. Short ones and bare numbers would be found in digests by chance."""
    files = msgspec.json.decode((PLANTED / "truth.json").read_bytes())["files"].values()
    told = {one["value"].casefold() for file in files for one in file["identifiers"] if len(one["value"]) >= 6}
    sought = [(text, text.encode()) for text in told if not text.isdigit() or len(text) >= 10]
    assert len(sought) > 100
    places = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    places["log"] = ward.site.log.read_bytes()
    for row in ward.look(
        "select table_schema || '.' || table_name as name from information_schema.tables"
        " where table_schema in ('mover', 'vault', 'queue')"
    ):
        places[row.name] = repr(ward.look(f"select * from {row.name}")).encode()
    places |= {key: ward.archive().read(key) for key in ward.objects() if key.endswith("sidecar.json")}
    lowered = {name: data.lower() for name, data in places.items()}
    return [(name, text) for name, data in lowered.items() for text, raw in sought if raw in data]


def look_at_slides(root: Path, count: int) -> None:
    found = [path for path in (root / "data").rglob("*") if path.is_file()]
    assert len(found) == count
    for path in found:
        with openslide.OpenSlide(path) as slide:
            assert not {"label", "macro"} & {name.lower() for name in slide.associated_images}
            slide.read_region((0, 0), slide.level_count - 1, (64, 64))


def protect_and_clean(ward: Ward, client: SyncClient, run: wire.Run) -> None:
    assert run.out is not None and run.root is not None
    artifacts.write_artifacts(Path(run.out), seed=5, scale=0.01)
    client.runs.finish(run.id)
    run = client.runs.wait(run.id, until=frozenset({"protected", "ready"}), timeout_s=WAIT_S)
    assert run.state == "protected", run.explanation
    restored = ward.site.restored / "real"
    ward.restore(client, run.snapshots[-1], restored, "/artifacts")
    assert not differences(Path(run.out or ""), restored)
    client.runs.clean(run.id)
    assert client.runs.wait(run.id, until=frozenset({"cleaned"}), timeout_s=WAIT_S).state == "cleaned"
    assert not Path(run.root or "").exists()
