"""3DHISTECH slides: whatever stands in whichever of their files, none of it gets through, and no picture is lost."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import openslide
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mover.deid.companions import companions_of, standin_names
from mover.deid.deidentify import SlideVerifier, prepare_slide
from mover.deid.folderproof import prove_mirax
from mover.deid.folders import plan_mirax, prepare_files, slide_id_of
from mover.deid.outcome import Prepared, SlidePlan
from mover.deid.search import Seeker
from mover.errors import IdentityError, MoverError, RedactionUnproven
from mover.model.recipe import Copy, Literal, Recipe
from mover.model.source import MemorySource
from mover.sandbox import Sandbox
from scanners import mirax as scanner
from tests.support import mirax, slides

NAME, ACCESSION, DATE = "Quincy-Øster", "S24-771001", "2024-03-04"
PLANTED = f"{NAME} {ACCESSION} {DATE}"
NUMBER = "n7k2m4q9r3t5v8w1"
KNOWN = (ACCESSION, NAME)

SHAPES: dict[str, mirax.Shape] = {
    "plain": mirax.Shape(),
    "one level": mirax.Shape(levels=1, files=1),
    "png": mirax.Shape(coding="PNG"),
    "bmp": mirax.Shape(coding="BMP24"),
    "overlap": mirax.Shape(grid=(8, 8), divisions=2, overlap=(12, 10), levels=4),
    "positions": mirax.Shape((8, 8), divisions=2, overlap=(12, 10), levels=4, positions="VIMSLIDE_POSITION_BUFFER"),
    "packed positions": mirax.Shape((8, 8), divisions=2, levels=3, positions="StitchingIntensityLayer"),
    "first level halved": mirax.Shape((8, 8), levels=2, first_concat=1, positions="VIMSLIDE_POSITION_BUFFER"),
    "missing pictures": mirax.Shape(missing=frozenset({1, 6, 11})),
    "many files": mirax.Shape(files=9),
}  # fmt: skip


def sources(given_files: dict[str, bytes]) -> dict[str, MemorySource]:
    return {name: MemorySource(data) for name, data in given_files.items()}


def prepare(main: bytes, files: dict[str, bytes], **options: Any) -> Prepared:
    options = {"known": KNOWN, "number": NUMBER, **options}
    return prepare_files(MemorySource(main), sources(files), suffix=".mrxs", **options)


def carried_out(main: bytes, files: dict[str, bytes], plan: SlidePlan) -> dict[str, bytes]:
    """The output's files by name, each made from its own source."""
    originals = [main, *files.values()]
    return {one.path(NUMBER): slides.run_recipe(originals[one.source], one.recipe.segments) for one in plan.files()}


def assert_gone(output: dict[str, bytes], *strings: str) -> None:
    """Searched over every byte and name, pictures included."""
    seeker = Seeker(strings or (NAME, ACCESSION, DATE, mirax.SLIDE_ID))
    assert seeker.find("\n".join(output).encode()) == 0
    assert sum(seeker.find(data) for data in output.values()) == 0


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return next(path for path in folder.iterdir() if path.suffix == ".mrxs")


def pictures(files: dict[str, bytes], coding: str = "JPEG") -> set[str]:
    """Digests of all encoded pictures in data files, found by their own signatures."""
    start, end = (b"\xff\xd8\xff", b"\xff\xd9") if coding == "JPEG" else (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82")
    found = set()
    for name, data in files.items():
        at = 0
        while name.endswith(".dat") and "Data" in name and (at := data.find(start, at)) >= 0:
            stop = data.index(end, at) + len(end)
            found.add(hashlib.sha256(data[at:stop]).hexdigest())
            at = stop
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_a_planted_slide_comes_out_clean_and_whole(name: str, tmp_path: Path) -> None:
    """The whole promise in one test, for every way such a slide is laid out."""
    shape = SHAPES[name]
    general = (("SLIDE_NAME", PLANTED), ("PROJECT_NAME", NAME), ("SLIDE_CREATIONDATETIME", f"{DATE} 10:11:12"),
               ("PatientName", PLANTED))  # fmt: skip
    main, files = mirax.mirax(shape, general=general, extras=mirax.label_records(PLANTED), gap=PLANTED.encode(),
                              tail=PLANTED.encode("utf-16-le"), strays={"notes.txt": PLANTED.encode()})  # fmt: skip
    prepared = prepare(main, files, edge_px=100)
    output = carried_out(main, files, prepared.plan)
    assert_gone(output)
    assert set(output) == {f"{NUMBER}.mrxs", *(f"{NUMBER}/{one}" for one in ("Slidedat.ini", "Index.dat"))} | {
        one for one in output if one.startswith(f"{NUMBER}/Data")
    }
    renamed = {name.replace(ACCESSION, "x"): data for name, data in files.items()}
    before, after = write(tmp_path / "a", {"x.mrxs": main} | renamed), write(tmp_path / "b", output)
    with openslide.OpenSlide(before) as old, openslide.OpenSlide(after) as new:
        assert new.properties["openslide.vendor"] == "mirax"
        assert new.level_dimensions == old.level_dimensions == prepared.plan.facts.levels
        for key in ("openslide.mpp-x", "openslide.mpp-y", "openslide.objective-power"):
            assert new.properties[key] == old.properties[key]
        assert not new.associated_images
        for level, size in enumerate(new.level_dimensions):
            assert new.read_region((0, 0), level, size) == old.read_region((0, 0), level, size)
    if shape.coding != "BMP24":
        assert pictures(output, shape.coding) <= pictures(files, shape.coding)
        assert len(pictures(output, shape.coding)) == prepared.plan.tile_count
    assert prepared.thumbnail[:2] == b"\xff\xd8"


def test_the_new_id_stands_in_all_of_its_places_and_says_nothing() -> None:
    """OpenSlide refuses a slide whose index and text disagree; PathSafe changes one of the three."""
    main, files = mirax.mirax()
    output = carried_out(main, files, prepare(main, files).plan)
    text = output[f"{NUMBER}/Slidedat.ini"].decode()
    identity = text.split("SLIDE_ID = ")[1].split("\r\n")[0]
    assert len(identity) == 32 and identity != mirax.SLIDE_ID
    for name, data in output.items():
        if name.endswith(".dat"):
            assert data.startswith(b"01.02" + identity.encode())
    other = carried_out(main, files, prepare(main, files, number="another").plan)
    assert identity not in other[f"{NUMBER}/Slidedat.ini"].decode()


def test_pictures_lose_their_comments_and_keep_their_pixels(tmp_path: Path) -> None:
    """A camera may write a name into each of a million pictures; none is encoded anew for it."""
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(PLANTED.encode())) + PLANTED.encode()
    exif = b"\xff\xe1" + struct.pack(">H", 8 + len(PLANTED.encode())) + b"Exif\0\0" + PLANTED.encode()
    main, files = mirax.mirax(dress=lambda data: data[:20] + comment + exif + data[20:] + PLANTED.encode())
    plain = mirax.mirax()[1]
    prepared = prepare(main, files)
    output = carried_out(main, files, prepared.plan)
    assert_gone(output)
    assert pictures(output) <= pictures(plain)
    assert len(pictures(output)) == 20


@pytest.mark.parametrize("kind", [b"tEXt", b"eXIf", b"tIME", b"iCCP", b"cHRM"])
def test_a_png_loses_every_chunk_that_is_not_pixels(kind: bytes) -> None:
    body = kind + PLANTED.encode()[:32]
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    main, files = mirax.mirax(mirax.Shape(coding="PNG"), dress=lambda data: data[:33] + chunk + data[33:] + b"Quincy")
    output = carried_out(main, files, prepare(main, files).plan)
    assert_gone(output)
    assert len(pictures(output, "PNG")) == 20


@pytest.mark.parametrize("size", [1, 7, 8, 20, 25, 32, 40])
@pytest.mark.parametrize("coding", ["JPEG", "PNG", "BMP24"])
def test_pictures_of_a_few_bytes_are_refused(coding: str, size: int) -> None:
    main, files = mirax.mirax(mirax.Shape(grid=(2, 2), levels=1, coding=coding), dress=lambda data: data[:size])
    with pytest.raises(IdentityError):
        prepare(main, files)


CODINGS = ("utf-8", "utf-8-sig", "latin-1", "utf-16")


@pytest.mark.parametrize("coding", CODINGS)
def test_the_index_text_is_understood_in_every_coding(coding: str) -> None:
    main, files = mirax.mirax(general=(("SLIDE_NAME", PLANTED),), coding=coding, newline="\n")
    output = carried_out(main, files, prepare(main, files).plan)
    assert_gone(output)


def test_names_of_parts_are_identifiers_too() -> None:
    """Somebody renamed the parts and the text; the output's names are the format's own."""
    main, files = mirax.mirax(stem=NAME, index_name=f"{ACCESSION}.idx", data_name="Quincy-Øster_{:d}.dat")
    output = carried_out(main, files, prepare(main, files).plan)
    assert_gone(output)
    assert b"INDEXFILE = Index.dat" in output[f"{NUMBER}/Slidedat.ini"]


def test_what_texts_of_dropped_records_say_is_sought() -> None:
    """The profile's user is no part of any key: only the search of its words proves it gone."""
    main, files = mirax.mirax(extras=mirax.label_records("Barnabas Eglantine"))
    assert {"Barnabas", "Eglantine"} <= set(prepare(main, files).plan.removed)


def test_a_profile_of_a_million_numbers_does_not_stop_the_slide() -> None:
    """Focus maps are lists of measures; a search for each of them would end nowhere."""
    numbers = " ".join(f"{number * 7919 % 10_000_019:07d}" for number in range(60_000))
    profile = f"<Focus><Operator>Quincy</Operator>{numbers}</Focus>".encode()
    main, files = mirax.mirax(extras=[mirax.Extra("Scan data layer", f"Focus{index}", profile) for index in range(3)])
    assert "Quincy" in prepare(main, files).plan.removed


def test_numbers_that_a_profile_shares_with_the_pyramid_are_no_identifiers() -> None:
    """Profiles repeat the resolution; refusing such a slide would refuse most of them."""
    profile = b"<Profile><Mpp>0.25</Mpp><Fill>16777215</Fill><Word>ZoomLevel_0 JPEG Index.dat</Word></Profile>"
    main, files = mirax.mirax(extras=(mirax.Extra("Scan data layer", "ScanDataLayer_Xml", profile),))
    assert prepare(main, files).plan.removed


def test_an_id_that_holds_somebodys_digits_by_chance_is_made_again() -> None:
    main, files = mirax.mirax()
    identity = slide_id_of(NUMBER)
    output = carried_out(main, files, prepare(main, files, known=(identity[3:9],)).plan)
    assert not any(identity.encode() in data for data in output.values())


@pytest.mark.parametrize("main", [b"", b"Quincy", b"ZISRAWFILE Quincy", b"\x89PNG\r\n\x1a\nQuincy"])
def test_the_picture_file_may_be_anything_and_is_never_copied(main: bytes) -> None:
    files = mirax.mirax()[1]
    output = carried_out(main, files, prepare(main, files).plan)
    assert b"Quincy" not in output[f"{NUMBER}.mrxs"]
    assert output[f"{NUMBER}.mrxs"].startswith(b"\xff\xd8")


def test_names_every_such_slide_has_are_no_identifiers() -> None:
    """Who gathers words from all file names gathers these too."""
    main, files = mirax.mirax()
    known = ("Slidedat", "Data0000", "Data0001.dat", "Index.dat", "Index", "LAYER", "Slide zoom level", *KNOWN)
    assert prepare(main, files, known=known).plan.removed


def test_a_person_whose_name_is_part_of_a_word_of_the_format_loses_no_slide() -> None:
    """Ms Daisy Lided, of Slidedat, and Mr Field, of a kept SLIDE_BRIGHTFIELD."""
    main, files = mirax.mirax(general=(("SLIDE_TYPE", "SLIDE_TYPE_BRIGHTFIELD"),))
    plan = prepare(main, files, known=("Lided", "Field", "Layer")).plan
    assert {"Lided", "Field"} <= set(plan.removed) and "Layer" not in plan.removed


def test_an_identifier_from_outside_is_sought_even_where_a_kept_text_repeats_it() -> None:
    general = (("OBJECTIVE_NAME", "Plan-Apochromat 20x/0.8"),)
    main, files = mirax.mirax(general=general)
    assert b"Apochromat" in carried_out(main, files, prepare(main, files).plan)[f"{NUMBER}/Slidedat.ini"]
    output = carried_out(main, files, prepare(main, files, known=("Apochromat",)).plan)
    assert b"Apochromat" not in output[f"{NUMBER}/Slidedat.ini"]
    with pytest.raises(IdentityError):
        prepare(main, files, known=("16777215",))


def test_unused_camera_places_carry_nothing() -> None:
    shape = mirax.Shape((8, 8), levels=1, positions="VIMSLIDE_POSITION_BUFFER", missing=frozenset({9, 10}))
    main, files = mirax.mirax(shape)
    data = bytearray(files[f"{ACCESSION}/Data0000.dat"])
    at = data.rindex(struct.pack("<B", 1) + bytes(8))  # the first place is (0, 0)
    for place in (9, 10):
        data[at + 9 * place + 1 : at + 9 * place + 9] = b"Quincy-Q"
    files[f"{ACCESSION}/Data0000.dat"] = bytes(data)
    output = carried_out(main, files, prepare(main, files).plan)
    assert not any(b"Quincy" in one for one in output.values())
    data[at + 9 * 3 + 1 : at + 9 * 3 + 9] = b"Quincy-Q"
    files[f"{ACCESSION}/Data0000.dat"] = bytes(data)
    with pytest.raises(IdentityError):
        prepare(main, files)


# --- refusals ------------------------------------------------------------------------------------------


def test_a_label_that_the_pyramid_names_is_refused() -> None:
    """Overlapping a label with a picture would carry it through as a tile."""
    main, files = mirax.mirax()
    index = bytearray(files[f"{ACCESSION}/Index.dat"])
    label = files[f"{ACCESSION}/Data0001.dat"].index(mirax.picture("Quincy"))
    (table,) = struct.unpack_from("<i", index, 37)
    (record,) = struct.unpack_from("<i", index, table)
    (page,) = struct.unpack_from("<i", index, record + 4)
    struct.pack_into("<3i", index, page + 8 + 4, label, len(mirax.picture("Quincy")), 1)
    files[f"{ACCESSION}/Index.dat"] = bytes(index)
    with pytest.raises(IdentityError):
        prepare(main, files)


def test_a_slide_without_its_folder_is_refused_by_name() -> None:
    with pytest.raises(IdentityError, match="folder"):
        prepare(mirax.picture("x"), {})


def test_a_part_outside_the_folder_is_refused() -> None:
    main, files = mirax.mirax()
    text = files[f"{ACCESSION}/Slidedat.ini"].replace(b"FILE_1 = Data0001.dat", b"FILE_1 = ../other/Data0001.dat")
    with pytest.raises(IdentityError):
        prepare(main, files | {f"{ACCESSION}/Slidedat.ini": text, "other/Data0001.dat": b"x" * 100})


def test_looping_pages_end() -> None:
    main, files = mirax.mirax()
    index = bytearray(files[f"{ACCESSION}/Index.dat"])
    (table,) = struct.unpack_from("<i", index, 37)
    (record,) = struct.unpack_from("<i", index, table)
    (page,) = struct.unpack_from("<i", index, record + 4)
    struct.pack_into("<i", index, page + 4, page)
    with pytest.raises(IdentityError, match="loop"):
        prepare(main, files | {f"{ACCESSION}/Index.dat": bytes(index)})


def test_a_bomb_in_the_position_buffer_is_refused_before_it_bursts() -> None:
    shape = mirax.Shape(positions="StitchingIntensityLayer")
    main, files = mirax.mirax(shape)
    data = files[f"{ACCESSION}/Data0000.dat"]
    at = data.index(b"\x78\x9c")
    bomb = zlib.compress(bytes(1 << 22), 9)[: len(data) - at]
    with pytest.raises(IdentityError):
        prepare(main, files | {f"{ACCESSION}/Data0000.dat": data[:at] + bomb + data[at + len(bomb) :]})


# --- the proof does not trust the plan -----------------------------------------------------------------


def tampered(plan: SlidePlan, at: int, segments: tuple[Copy | Literal, ...]) -> SlidePlan:
    parts = list(plan.parts)
    parts[at] = msgspec.structs.replace(parts[at], recipe=Recipe(parts[at].recipe.source_bytes, segments))
    return msgspec.structs.replace(plan, parts=tuple(parts))


@pytest.mark.parametrize("lie", ["name in text", "extra bytes", "other picture", "main copied", "comment kept"])
def test_a_lying_plan_is_caught(lie: str) -> None:
    """Each as a defect of the writer would bring it; one look or another must see it."""
    main, given_files = mirax.mirax()
    source, files = MemorySource(main), sources(given_files)
    scan = scanner.scan(source, files)
    plan = plan_mirax(source, files, scan, known=KNOWN, number=NUMBER)
    prove_mirax(source, files, scan, plan)
    data = list(plan.parts[2].recipe.segments)
    if lie == "name in text":
        text = plan.parts[0].recipe.segments[0].data + b"SLIDE_TYPE = Quincy\r\n"  # type: ignore[union-attr]
        plan = tampered(plan, 0, (Literal(text),))
    elif lie == "extra bytes":
        plan = tampered(plan, 2, (*data, Copy(0, 37)))
    elif lie == "other picture":
        first = data[1]
        assert isinstance(first, Copy)
        plan = tampered(plan, 2, (data[0], Copy(first.offset + 1, first.length), *data[2:]))
    elif lie == "main copied":
        plan = msgspec.structs.replace(plan, recipe=Recipe(len(main), (Copy(0, len(main)),)))
    else:
        plan = msgspec.structs.replace(plan, removed=(*plan.removed, "ZoomLevel_0"))
    with pytest.raises(IdentityError):
        prove_mirax(source, files, scan, plan)


# --- through the sandbox -------------------------------------------------------------------------------


def test_a_slide_of_a_hundred_files_passes_the_sandbox(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child has no folder, yet OpenSlide finds every part; and nothing is left of the links."""
    links = tmp_path / "links"
    links.mkdir()
    # the system's own folder is shared with tests that kill children, whose links stay
    monkeypatch.setattr(tempfile, "tempdir", str(links))
    main, files = mirax.mirax(
        mirax.Shape((12, 12), positions="VIMSLIDE_POSITION_BUFFER", files=100), extras=mirax.label_records(PLANTED)
    )
    path = write(tmp_path, {f"{ACCESSION}.mrxs": main} | files)
    names = companions_of(path.name, [str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file()])
    descriptors = [os.open(tmp_path / name, os.O_RDONLY) for name in names]
    try:
        with path.open("rb") as opened:
            prepared = prepare_slide(
                sandbox,
                opened.fileno(),
                suffix=".mrxs",
                known=KNOWN,
                thumbnail_px=64,
                companions=list(zip(names, descriptors, strict=True)),
                number=NUMBER,
            )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    ordered = {name: files[name] for name in names}
    assert_gone(carried_out(main, ordered, prepared.plan))
    assert prepared.plan.tile_count == 144 + 36
    assert prepared.thumbnail[:2] == b"\xff\xd8"
    assert not list(links.iterdir())
    originals = [main, *ordered.values()]
    for number, one in enumerate(prepared.plan.files()):
        verifier = SlideVerifier(prepared.plan, proved=True, file=number)
        verifier.verify(MemorySource(originals[one.source]), one.recipe)
        with pytest.raises(RedactionUnproven):
            verifier.verify(MemorySource(b"x" + originals[one.source]), one.recipe)
    with pytest.raises(RedactionUnproven):
        SlideVerifier(prepared.plan, proved=False).verify(MemorySource(main), prepared.plan.recipe)


def test_companions_are_what_stands_in_the_slides_own_folder() -> None:
    names = ["a/x.mrxs", "a/x/Index.dat", "a/x/deep/y", "a/xy/Index.dat", "a/x.jpg", "b/x/Index.dat"]
    assert companions_of("a/x.mrxs", names) == ("a/x/Index.dat", "a/x/deep/y")
    assert companions_of("a/x.svs", names) == ()
    assert companions_of("s.vms", ["s.vms", "s(1,0).jpg", "s_map.jpg", "t.jpg", "s/x.jpg"]) == (
        "s(1,0).jpg",
        "s_map.jpg",
    )
    beside = ["S1.vms", "S10.vms", "S1(0,0,0).jpg", "S1_map.jpg", "S10(0,0,0).jpg", "S10.opt"]
    assert companions_of("S1.vms", beside) == ("S1(0,0,0).jpg", "S1_map.jpg")
    assert companions_of("S10.vms", beside) == ("S10(0,0,0).jpg", "S10.opt")
    assert standin_names(".mrxs", "n", 4)[3] == "slide/Data0000.dat"


# --- anything planted anywhere, and anything broken ------------------------------------------------------

FORMS = {
    "plain": lambda text: text,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "hex": lambda text: text.encode().hex(),
    "quoted": lambda text: f'"{text}"',
    "behind a number": lambda text: f"0.25 {text}",
}
KEYS = st.sampled_from([
    "SLIDE_NAME", "Site Key", "Patient", "OBJECTIVE_NAME", "SLIDE_TYPE", "HIER_7_NAME", "FILE_9", "COMPRESSION_FACTOR",
    "MICROMETER_PER_PIXEL_Z", "ADAPTER_SIZE", "NONHIER_9_VAL_1", "LEVEL_VERSION", "CURRENT_SLIDE_VERSION",
])  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    planted=st.lists(st.tuples(KEYS, st.sampled_from(sorted(FORMS)), st.booleans()), min_size=1, max_size=6),
    junk=st.sampled_from(["# {}", "; {}", "{}", "[{}]", "{} = 1", "={}", "NONHIER_{}_NAME = x"]),
    coding=st.sampled_from(CODINGS),
)
def test_identifiers_in_any_key_value_or_line_are_gone(
    planted: list[tuple[str, str, bool]], junk: str, coding: str
) -> None:
    pairs = [(key, FORMS[form](PLANTED)) for key, form, _ in planted]
    general = [pair for pair, (_, _, on_top) in zip(pairs, planted, strict=True) if on_top]
    rest = [pair for pair, (_, _, on_top) in zip(pairs, planted, strict=True) if not on_top]
    main, files = mirax.mirax(mirax.Shape(grid=(2, 2), levels=1), general=general, level_keys=rest, coding=coding,
                              lines=[junk.format(PLANTED)], extras=mirax.label_records(PLANTED)[-2:])  # fmt: skip
    assert_gone(carried_out(main, files, prepare(main, files).plan))


def broken(rng: random.Random, files: dict[str, bytes]) -> dict[str, bytes]:
    """One of the files cut, overwritten or with a number changed."""
    name = rng.choice(sorted(files))
    data = bytearray(files[name])
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        at = rng.randrange(len(data))
        act = rng.randrange(4)
        if act == 0:
            del data[at:]
        elif act == 1:
            data[at] = rng.randrange(256)
        elif act == 2:
            data[at : at + 4] = struct.pack("<i", rng.choice([-1, 0, 1, 1 << 30, rng.randrange(2000)]))
        else:
            data[at:at] = PLANTED.encode()
    return files | {name: bytes(data)}


@pytest.mark.parametrize("seed", range(4))
def test_broken_slides_end_in_a_refusal_or_clean(seed: int) -> None:
    fuzz(seed, rounds=20)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 140))
def test_many_broken_slides_end_in_a_refusal_or_clean(seed: int) -> None:
    fuzz(seed, rounds=100)


def fuzz(seed: int, *, rounds: int) -> None:
    rng = random.Random(seed)
    shape = rng.choice([SHAPES["plain"], SHAPES["positions"], SHAPES["packed positions"], SHAPES["png"]])
    main, files = mirax.mirax(shape, extras=mirax.label_records(PLANTED), general=(("SLIDE_NAME", PLANTED),))
    for _ in range(rounds):
        changed = broken(rng, files)
        try:
            prepared = prepare(main, changed)
        except MoverError as error:
            assert error.code in ("structure-invalid", "place-unknown", "redaction-unproven", "format-unsupported")
            assert NAME not in error.what and ACCESSION not in error.what
            continue
        for name, data in carried_out(main, changed, prepared.plan).items():
            for segment in (b"Quincy", b"771001", b"SLIDE_NAME"):
                assert segment not in data or "/Data" in name and segment not in without_pixels(data)


def without_pixels(data: bytes) -> bytes:
    """A data file without what stands inside entropy-coded bytes, where a fuzzer may have put anything."""
    return data[:37]


def test_equal_slides_give_equal_plans() -> None:
    main, files = mirax.mirax()
    assert prepare(main, files).plan == prepare(main, files).plan
    assert np.array_equal(np.frombuffer(prepare(main, files).plan.parts[1].recipe.segments[0].data, "u1")[:5],  # type: ignore[union-attr]
                          np.frombuffer(b"01.02", "u1"))  # fmt: skip


def test_a_level_of_another_picture_is_refused() -> None:
    """A level whose pictures show something else than the finer ones could show the label."""
    shape = mirax.Shape(grid=(8, 8), levels=3, strange=frozenset({2}))
    with pytest.raises(RedactionUnproven, match="another picture"):
        prepare(*mirax.mirax(shape))
    assert prepare(*mirax.mirax(mirax.Shape(grid=(8, 8), levels=3, missing=frozenset({0, 16}))))
