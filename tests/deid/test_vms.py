"""Hamamatsu VMS slides: an index text of our own, neutral names, pictures without what a camera wrote into them."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path
from typing import Any

import msgspec
import openslide
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mover.deid import vmsproof
from mover.deid.companions import companions_of
from mover.deid.deidentify import prepare_slide
from mover.deid.folders import plan_vms, prepare_files
from mover.deid.outcome import Prepared, SlidePlan
from mover.deid.search import Seeker
from mover.deid.vmsproof import prove_vms
from mover.errors import FormatUnsupported, IdentityError, MoverError
from mover.model.recipe import Copy, Literal, Recipe
from mover.model.source import MemorySource
from mover.sandbox import Sandbox
from scanners import vms as scanner
from tests.support import slides, vms

NAME, ACCESSION, DATE = "Quincy-Øster", "S24-771001", "2024-03-04"
PLANTED = f"{NAME} {ACCESSION} {DATE}"
NUMBER = "n7k2m4q9r3t5v8w1"


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(payload)) + payload


def sources(files: dict[str, bytes]) -> dict[str, MemorySource]:
    return {name: MemorySource(data) for name, data in files.items()}


def prepare(main: bytes, files: dict[str, bytes], **options: Any) -> Prepared:
    options = {"known": (ACCESSION, NAME), "number": NUMBER, **options}
    return prepare_files(MemorySource(main), sources(files), suffix=".vms", **options)


def carried_out(main: bytes, files: dict[str, bytes], plan: SlidePlan) -> dict[str, bytes]:
    originals = [main, *files.values()]
    return {one.path(NUMBER): slides.run_recipe(originals[one.source], one.recipe.segments) for one in plan.files()}


def assert_gone(output: dict[str, bytes]) -> None:
    seeker = Seeker((NAME, ACCESSION, DATE))
    assert seeker.find("\n".join(output).encode()) == 0
    assert sum(seeker.find(data) for data in output.values()) == 0


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return next(path for path in folder.iterdir() if path.suffix == ".vms")


SHAPES = {
    "four pictures": (vms.Shape(), {}),
    "one picture": (vms.Shape(columns=1, rows=1), {"dialect": 1}),
    "short keys": (vms.Shape(), {"dialect": 2}),
    "focal planes": (vms.Shape(columns=1, rows=2, layers=3), {}),
    "tail": (vms.Shape(), {"tail": PLANTED.encode() + b"\xff\xd9"}),
    "comment": (vms.Shape(), {"comment": PLANTED.encode()}),
    "exif": (vms.Shape(), {"dress": lambda data: data[:2] + segment(0xE1, b"Exif\0\0" + PLANTED.encode()) + data[2:]}),
    "latin": (vms.Shape(), {"coding": "latin-1"}),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_a_planted_slide_comes_out_clean_and_whole(name: str, tmp_path: Path) -> None:
    shape, options = SHAPES[name]
    main, files = vms.vms(shape, keys=(("Reference", PLANTED), ("Site", PLANTED)), label=PLANTED,
                          strays={"notes.txt": PLANTED.encode()}, lines=[f"#{PLANTED}"], **options)  # type: ignore[arg-type]  # fmt: skip
    prepared = prepare(main, files, edge_px=90)
    output = carried_out(main, files, prepared.plan)
    assert_gone(output)
    assert set(output) == {f"{NUMBER}.vms"} | {
        f"{NUMBER}_{number}.jpg" for number in range(shape.columns * shape.rows * shape.layers + 1)
    }
    after = write(tmp_path / "b", output)
    original = main if name != "latin" else main.decode("latin-1").encode()
    before = write(tmp_path / "a", {"x.vms": original} | files)
    with openslide.OpenSlide(before) as old, openslide.OpenSlide(after) as new:
        assert new.properties["openslide.vendor"] == "hamamatsu"
        assert new.level_dimensions == old.level_dimensions == prepared.plan.facts.levels
        for key in ("openslide.mpp-x", "openslide.mpp-y", "openslide.objective-power"):
            assert new.properties[key] == old.properties[key]
        assert float(new.properties["openslide.mpp-x"]) == pytest.approx(prepared.plan.facts.mpp_x or 0)
        assert not new.associated_images
        for level, size in enumerate(new.level_dimensions):
            assert new.read_region((0, 0), level, size) == old.read_region((0, 0), level, size)
    assert prepared.thumbnail[:2] == b"\xff\xd8"


def test_a_large_slide_is_proved_by_its_beginnings_and_its_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gigabytes do not fit into memory; that every other byte is a copy is proved without decoding it."""
    monkeypatch.setattr(vmsproof, "WHOLE_BYTES", 1)
    monkeypatch.setattr(vmsproof, "BEGINNING_BYTES", 20_000)
    main, files = vms.vms(vms.Shape(part=(512, 512)))
    prepared = prepare(main, files, edge_px=64)
    assert prepared.evidence.tiles_decoded > 5
    assert prepared.thumbnail[:2] == b"\xff\xd8"


def test_an_uncompressed_slide_is_refused_by_its_name() -> None:
    with pytest.raises(FormatUnsupported, match="VMU"):
        prepare_files(MemorySource(b"[Uncompressed Virtual Microscope Specimen]\n"), {}, suffix=".vmu")


@pytest.mark.parametrize("act", ["no restarts", "missing part", "two of one place", "outside", "not all", "scan"])
def test_a_slide_that_contradicts_itself_is_refused(act: str) -> None:
    main, files = vms.vms()
    first = f"{ACCESSION}(0,0,0).jpg"
    if act == "no restarts":
        files[first] = slides.jpeg(slides.tissue(256, 128))
    elif act == "missing part":
        del files[first]
    elif act == "two of one place":
        main += f"ImageFile={ACCESSION}(0,1,0).jpg\r\n".encode()
    elif act == "outside":
        main = main.replace(f"={first}".encode(), f"=../{first}".encode())
        files[f"../{first}"] = files[first]
    elif act == "not all":
        main = main.replace(f"ImageFile(0,0,0)={first}".encode(), b"Image=x")
    else:
        data = files[first]
        files[first] = data[:-2] + segment(0xFE, PLANTED.encode()) + data[-2:]
    with pytest.raises(IdentityError):
        prepare(main, files)


@pytest.mark.parametrize("lie", ["name", "table missing", "end missing", "literal", "order"])
def test_a_lying_plan_is_caught(lie: str) -> None:
    main, given_files = vms.vms(comment=PLANTED.encode())
    source, files = MemorySource(main), sources(given_files)
    scan = scanner.scan(source, files)
    plan = plan_vms(source, files, scan, known=(), number=NUMBER)
    prove_vms(source, files, scan, plan, number=NUMBER)
    size = files[f"{ACCESSION}(0,0,0).jpg"].size_bytes
    segments = plan.parts[0].recipe.segments
    head, rest = segments
    assert isinstance(head, Copy) and isinstance(rest, Copy)
    changed: dict[str, tuple[Copy | Literal, ...]] = {
        "name": (Copy(0, size),),
        "table missing": (head, Copy(rest.offset + 69, rest.length - 69)),
        "end missing": (head, Copy(rest.offset, rest.length - 40)),
        "literal": (head, Literal(b"\xff\xfe\0\x03x"), rest),
        "order": (rest, head),
    }
    part = msgspec.structs.replace(plan.parts[0], recipe=Recipe(size, changed[lie]))
    plan = msgspec.structs.replace(plan, parts=(part, *plan.parts[1:]))
    with pytest.raises(IdentityError):
        prove_vms(source, files, scan, plan, number=NUMBER)


def test_a_slide_passes_the_sandbox(sandbox: Sandbox, tmp_path: Path) -> None:
    main, files = vms.vms(comment=PLANTED.encode())
    write(tmp_path / "in", {f"{ACCESSION}.vms": main} | files)
    names = companions_of(f"{ACCESSION}.vms", sorted(os.listdir(tmp_path / "in")))
    assert set(names) == set(files)
    descriptors = [os.open(tmp_path / "in" / name, os.O_RDONLY) for name in names]
    try:
        with (tmp_path / "in" / f"{ACCESSION}.vms").open("rb") as opened:
            companions = list(zip(names, descriptors, strict=True))
            prepared = prepare_slide(
                sandbox, opened.fileno(), suffix=".vms", thumbnail_px=64, companions=companions, number=NUMBER
            )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    output = carried_out(main, {name: files[name] for name in names}, prepared.plan)
    assert_gone(output)
    with openslide.OpenSlide(write(tmp_path / "out", output)) as slide:
        assert slide.dimensions == (512, 256)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    keys=st.lists(st.sampled_from(["Reference", "SourceLens", "LayerOffset", "Patient", "PhysicalMacroWidth"]),
                  max_size=4),
    marker=st.sampled_from([0xFE, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xEF]),
    junk=st.sampled_from(["#{}", ";{}", "{}", "[{}]", "{}=1", "ImageFile{}=x"]),
)  # fmt: skip
def test_identifiers_in_any_key_line_or_segment_are_gone(keys: list[str], marker: int, junk: str) -> None:
    main, files = vms.vms(
        vms.Shape(columns=1, rows=1),
        keys=[(key, PLANTED) for key in keys],
        lines=[junk.format(PLANTED)],
        dress=lambda data: data[:2] + segment(marker, PLANTED.encode()) + data[2:],
    )
    try:
        prepared = prepare(main, files)
    except IdentityError:
        assert "SourceLens" in keys  # the objective would be lost: OpenSlide sees what is not there any more
        return
    assert_gone(carried_out(main, files, prepared.plan))


@pytest.mark.parametrize("seed", range(3))
def test_broken_slides_end_in_a_refusal_or_clean(seed: int) -> None:
    rng = random.Random(seed)
    main, files = vms.vms(vms.Shape(columns=1, rows=1), comment=PLANTED.encode())
    for _ in range(25):
        name = rng.choice(["", *sorted(files)])
        data = bytearray(files[name] if name else main)
        at = rng.randrange(len(data))
        if rng.random() < 0.4:
            del data[at:]
        else:
            data[at : at + 2] = rng.randbytes(2)
        try:
            prepared = prepare(main if name else bytes(data), files | ({name: bytes(data)} if name else {}))
        except MoverError as error:
            assert NAME not in error.what and ACCESSION not in error.what
            continue
        assert b"Quincy" not in carried_out(main, files, prepared.plan)[f"{NUMBER}.vms"]
