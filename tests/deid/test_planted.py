"""What the adversary's packs found, one test for each fault, and packs of a few seeds scored end to end."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.planted import people, rareobjects, rareslides
from bench.planted.damage import damaged
from bench.planted.encodings import sought
from bench.planted.objects import drawn
from bench.planted.pack import make, rare_object, vendor
from mover.deid.oneshot import Options, deidentify_folder
from mover.deid.pixels.blanking import ground_of
from mover.deid.pixels.samples import Frame
from mover.deid.pixels.views import views
from mover.deid.pixels.words import PixelFacts
from mover.deid.slides import plan_slide
from mover.deid.verify import verify_slide
from mover.errors import FormatUnsupported
from mover.model.policy import DeidPolicy
from mover.model.source import MemorySource
from mover.policy import load_profile
from tests.deid.dicom.support import prepare
from tests.support import dicoms, slides


def pixels_of(rows: int, columns: int, photometric: str) -> PixelFacts:
    return PixelFacts(
        rows=rows, columns=columns, frames=(), transfer_syntax="1.2.840.10008.1.2.1", sop_class="", samples=1,
        photometric=photometric, bits_allocated=16, bits_stored=16,
    )  # fmt: skip


def test_a_box_over_letters_is_never_of_the_letters_own_number() -> None:
    """In a radiograph whose high numbers are black (MONOCHROME1), a line written as the highest number was blanked
    with the highest number: the box was the line's own silhouette."""
    samples = np.full((40, 60), 900, np.uint16)
    samples[20:] = 300
    samples[5:12, 5:50:3] = 1000
    frame = Frame(samples, "MONOCHROME1")
    assert int(ground_of(frame, pixels_of(40, 60, "MONOCHROME1"), ())) == 300


def test_a_name_in_the_comment_of_a_hamamatsu_level_becomes_zeros_and_the_slide_passes() -> None:
    """The slide was refused: comments were blanked in tiles, and a level that is one strip counted as none."""
    name = b"Aurelienne Quillinghast 00447719"
    source = MemorySource(slides.ndpi(comment=name))
    plan = plan_slide(source, suffix=".ndpi")
    verify_slide(source, plan)
    written = slides.run_recipe(source.read(0, source.size_bytes), plan.recipe.segments)
    assert name in source.read(0, source.size_bytes)
    assert name not in written
    comment = written.index(b"\xff\xfe")
    assert written[comment + 4 : comment + 4 + len(name)] == bytes(len(name))


@pytest.mark.parametrize(("ground", "ink"), [(60_000, 65_535), (5_000, 0)])
def test_letters_of_the_highest_or_lowest_number_are_seen_on_a_ground_that_is_nearly_as_high_or_low(
    ground: int, ink: int
) -> None:
    """White on nearly white was read by a person and by no view: a name stayed in seven of twenty-six pictures."""
    samples = np.full((120, 200), ground, np.uint16)
    samples[:, 150:] = 32_000
    letters = np.zeros(samples.shape, bool)
    letters[20:60, 10:140] = drawn("Quillinghast\n00447719", (130, 40), 14) > 100
    samples[letters] = ink
    samples[100:110, 160:190] = 65_535 - ink
    found = [view for view in views(samples, "MONOCHROME2", pixels_of(120, 200, "MONOCHROME2"))]
    assert any((view[letters] == 255).all() and (view[:70, :140][~letters[:70, :140]] == 0).all() for view in found)


def test_a_picture_without_faint_letters_gets_no_view_more() -> None:
    """Each view costs a look by the detector: slopes and sharp edges at the ends of the range ask for none."""
    slope = np.tile(np.linspace(0, 65_535, 200).astype(np.uint16), (120, 1))
    slope[40:80, 60:90] = 65_535
    assert len(views(slope, "MONOCHROME2", pixels_of(120, 200, "MONOCHROME2"))) == 1


# --- packs ---------------------------------------------------------------------------------------------

PROFILE = Path(__file__).parents[2] / "policies" / "deid" / "example-three-csv.yaml"
# what a broken or unsupported file may end as; anything else is the program's own failure
REFUSALS = {
    "structure-invalid", "place-unknown", "redaction-unproven", "format-unknown", "format-unsupported", "table-invalid",
    "not-part", "limit-exceeded",
}  # fmt: skip


def shot(pack: Path, into: Path) -> list[dict[str, str]]:
    loaded = load_profile(PROFILE)
    assert isinstance(loaded.policy, DeidPolicy)
    options = Options(profile=loaded.policy, profile_text_blake3=loaded.digest, map_path=into / "map.csv")
    deidentify_folder(pack / "originals", into / "out", into / "crosswalk.json", options=options)
    return list(json.loads((into / "crosswalk.json").read_text())["files"])


def leaks(written: bytes, atoms: dict[str, str]) -> list[str]:
    """A search that shares nothing with the engine's: in the encodings and codings that files use."""
    return [kind for value, kind in atoms.items() if kind != "date" and any(one in written for one in sought(value))]


@pytest.mark.parametrize("shape", rareslides.SHAPES)
def test_a_slide_as_few_programs_write_it_comes_out_without_its_people(tmp_path: Path, shape: str) -> None:
    """Planes apart, several areas and channels, a label in front, pyramids below the dropped: all codings of a name."""
    rng = random.Random(f"rare {shape}")
    who = people.person(rng, eastern=True)
    planted = rareslides.SHAPES[shape](who, rng)
    data = planted.files[planted.suffix]
    assert len(leaks(data, who.words())) >= 5
    source = MemorySource(data)
    if planted.may_refuse:
        with pytest.raises(FormatUnsupported):
            plan_slide(source, suffix=planted.suffix)
        return
    plan = plan_slide(source, suffix=planted.suffix)
    verify_slide(source, plan)
    output = slides.run_recipe(data, plan.recipe.segments)
    assert leaks(output, who.words()) == [] and len(plan.facts.levels) >= 2
    before, after = tmp_path / f"a{planted.suffix}", tmp_path / f"b{planted.suffix}"
    before.write_bytes(data)
    after.write_bytes(output)
    assert vendor(before) in (vendor(after), None)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the library that plants: names too long or of no set
@pytest.mark.parametrize("base", rareobjects.BASES)
def test_an_object_as_few_programs_write_it_comes_out_without_its_people(base: str) -> None:
    """Escape sequences, lengths of groups, unknown sequences, inflated and big endian datasets, optical paths."""
    order, _, _ = rareobjects.BASES[base]
    rng = random.Random(f"rare {base}")
    who = people.person(rng, eastern=True)
    planted = rare_object(base, dicoms.plant(order).data, who, rng, 3)
    if order.syntax != "deflated":
        assert len(leaks(planted.data, planted.atoms)) > 10
    made, output = prepare(planted.data)
    assert leaks(output, planted.atoms) == []
    assert made.evidence.frames == (0 if order.kind == "SR" else order.frames)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2])
def test_a_pack_of_people_nobody_knew_comes_out_whole_and_without_them(tmp_path: Path, seed: int) -> None:
    """Other names, numbers, dialects and hiding places than those the rules were written against."""
    pack = make(tmp_path / "pack", seed)
    entries = {one["source"]: one for one in shot(tmp_path / "pack", tmp_path)}
    for name, truth in pack.truth.items():
        entry = entries[name]
        if entry["status"] != "deidentified":
            assert truth.get("may_refuse") or truth.get("may_drop"), (
                truth.get("shape", truth.get("base")),
                entry["reason"],
            )
    with (tmp_path / "map.csv").open() as file:
        outputs = {row["source"]: row["output"] for row in csv.DictReader(file)}
    atoms = {word: kind for who in pack.people for word, kind in who.words().items()}
    assert outputs
    for name, output in outputs.items():
        written = (tmp_path / "out" / output).read_bytes()
        assert not leaks(written, atoms | pack.truth[name]["atoms"]), pack.truth[name].get("shape")
        assert not leaks(output.encode(), atoms)


@pytest.mark.soak
@pytest.mark.skipif("MOVER_SAMPLES" not in os.environ, reason="MOVER_SAMPLES is not set")
@pytest.mark.parametrize("seed", [11, 12])
def test_the_samples_scorer_finds_no_leak_in_a_pack_of_the_real_bases(tmp_path: Path, seed: int) -> None:
    samples = Path(os.environ["MOVER_SAMPLES"])
    make(tmp_path / "pack", seed, samples=samples)
    shot(tmp_path / "pack", tmp_path)
    command = [sys.executable, str(samples / "score_deid.py"), "--json", str(tmp_path / "score.json")]
    command += ["--originals", str(tmp_path / "pack" / "originals"), "--truth", str(tmp_path / "pack" / "truth.json")]
    command += ["--outputs", str(tmp_path / "out"), "--map", str(tmp_path / "map.csv")]
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    scored = json.loads((tmp_path / "score.json").read_text())
    assert scored["side"] == {}
    assert scored["summary"] and all(kind["covered"] for kind in scored["summary"].values())
    found = {name: file["leaks"] for name, file in scored["files"].items() if file["leaks"]}
    assert found == {}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_two_hundred_broken_files_of_each_family_are_clean_or_wait(tmp_path: Path, seed: int) -> None:
    """Turned bits, wild numbers, cut ends: no crash of the parser, no exception that nobody meant, no leak."""
    pack = make(tmp_path / "pack", 100 + seed, kinds=("wsi", "dicom"))
    known = {}
    for name, truth in pack.truth.items():
        if name.endswith((".mrxs", ".vms")):
            continue  # of several files: their own tests break each of them
        if truth.get("base", "").startswith("CT in "):
            continue  # character sets of one and the same object
        data = (tmp_path / "pack" / "originals" / name).read_bytes()
        suffix = ".ome.tif" if name.endswith(".ome.tif") else Path(name).suffix
        for number in range(200):
            broken = tmp_path / "broken" / "originals" / f"{len(known)}" / f"x{suffix}"
            broken.parent.mkdir(parents=True)
            broken.write_bytes(damaged(data, random.Random(f"{seed} {name} {number}")))
            known[f"{len(known)}/x{suffix}"] = truth["atoms"]
    entries = shot(tmp_path / "broken", tmp_path)
    assert {entry["source"] for entry in entries} == known.keys()
    came_out = sum(entry["status"] == "deidentified" for entry in entries)
    assert 0 < came_out < len(entries)
    for entry in entries:
        if entry["status"] == "deidentified":
            assert not leaks((tmp_path / "out" / entry["output"]).read_bytes(), known[entry["source"]])
        else:
            assert entry["reason"] in REFUSALS | {"instance-dropped"}
