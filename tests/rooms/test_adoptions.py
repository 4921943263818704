"""Data that claims to be clean is scanned all the same, what is clean becomes slides, and no byte of it is touched."""

from __future__ import annotations

import io
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pydicom
import pytest
from msgspec.structs import replace

from mover.catalog.database import Database
from mover.decide.adoption import CleanLook
from mover.deid.vault import Vault
from mover.errors import Conflict, NotFound, RequestInvalid, TierDenied
from mover.ingest import adopting
from mover.ingest import adoptions as module
from mover.model import wire
from mover.model.ids import is_number, make_number
from mover.model.sidecar import decode_sidecar, sidecar_key, slide_folder
from mover.sandbox import Sandbox
from mover.tiers.posix import PosixTier
from tests.rooms.rig import OTHER, PROJECT, Rig
from tests.support import objects
from tests.support.chance import drawn_as_such
from tests.support.mirax import mirax
from tests.support.postgres import Dsns
from tests.support.seaweed import object_tier, shared_weed
from tests.support.slides import svs

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
ASKED = wire.AdoptionRequest(tier="archive", prefix="broker", reason="the honest broker says so")
CTS = {f"S24-771001/im{n}.dcm": objects.ct(n) for n in (1, 2, 3)}


class Killed(BaseException):
    """Between two of our own steps; nothing catches it."""


@pytest.fixture(autouse=True)
def _drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_as_such(monkeypatch)


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database, vault: Vault, sandbox: Sandbox) -> Rig:
    return Rig(tmp_path, dsns, database, vault, sandbox)


_CLEANED: dict[tuple[tuple[str, bytes], ...], dict[str, dict[str, bytes]]] = {}  # by what it was made of


async def cleaned(rig: Rig, files: dict[str, bytes]) -> dict[str, dict[str, bytes]]:
    """What another site made of these files, by its numbers: nothing here knows of it. Made once a process."""
    made_of = tuple(files.items())
    if made_of in _CLEANED:
        return _CLEANED[made_of]
    for name, data in files.items():
        path = rig.folder / "intake" / "b1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    await rig.batches.declare(OTHER, "ann", wire.BatchRequest(folder="b1"))
    await rig.work()
    tier = rig.tiers["archive"]
    made = {}
    for row in rig.rows("select number from mover.slide"):
        keys = [entry.key for entry in tier.list(slide_folder(row.number)) if not entry.key.endswith((".json", ".jpg"))]
        made[row.number] = {key.split("/", 3)[3]: tier.read(key) for key in keys}
    rig.rows("truncate mover.slide, mover.pack, mover.batch, mover.proof cascade")
    shutil.rmtree(rig.folder / "archive" / "slides")
    shutil.rmtree(rig.folder / "intake" / "b1")
    _CLEANED[made_of] = made
    return made


async def clean_svs(rig: Rig) -> bytes:
    [files] = (await cleaned(rig, {"S24-771001_Quincy.svs": svs()})).values()
    return next(iter(files.values()))


def fill(rig: Rig, files: dict[str, bytes], *, below: str = "broker") -> Path:
    place = rig.folder / "archive" / below
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


async def scan(rig: Rig, body: wire.AdoptionRequest = ASKED) -> tuple[wire.Adoption, dict[str, dict[str, Any]]]:
    asked = await rig.adoptions.request(PROJECT, "ann", body)
    await rig.work()
    return await told(rig, asked.id)


async def told(rig: Rig, id: str) -> tuple[wire.Adoption, dict[str, dict[str, Any]]]:
    done = await rig.adoptions.view(PROJECT, id)
    lines = b"".join([piece async for piece in rig.adoptions.report(PROJECT, id)]).splitlines()
    return done, {line["key"].removeprefix("broker/"): line for line in map(json.loads, lines)}


def whole(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


# --- verdicts ----------------------------------------------------------------------------------------------------


async def test_what_claims_to_be_clean_gets_a_verdict_for_each_file(rig: Rig) -> None:
    """One clean, one with its label and names left in, one torn, one that is nothing, one bad name, one table."""
    clean = await clean_svs(rig)
    files = {"slide_1.svs": clean, "slide_2.svs": svs(), "slide_3.svs": clean[:900], "slide_4.dcm": b"x",
             "S24-771001.svs": clean + b"\0", "notes.csv": b"a,b", "slide_5.svs": clean + b"Jane Quincy"}  # fmt: skip
    place = fill(rig, files)

    done, lines = await scan(rig)

    assert {name: line["verdict"] for name, line in lines.items()} == {
        "slide_1.svs": "clean", "slide_2.svs": "suspect", "slide_3.svs": "refused", "slide_4.dcm": "refused",
        "S24-771001.svs": "suspect", "notes.csv": "refused", "slide_5.svs": "suspect",
    }  # fmt: skip
    assert done.state == "complete" and done.root
    assert done.verdicts == {"clean": 1, "suspect": 3, "refused": 3} and done.slides == {"registered": 1}
    reasons = json.dumps([line["reasons"] for line in lines.values()])
    assert "label" in reasons and "Quincy" not in reasons and "771001" not in reasons
    assert lines["slide_1.svs"]["blake3"] and whole(place) == files
    assert rig.actions().count("adoption scanned") == 1


async def test_names_that_somebody_answers_for_are_believed_and_nothing_else(rig: Rig) -> None:
    clean = await clean_svs(rig)
    fill(rig, {"S24-771001.svs": clean, "S24-771002.svs": svs()})
    _, doubted = await scan(rig, replace(ASKED, register=False))
    _, trusted = await scan(rig, replace(ASKED, register=False, trust_names=True))

    assert {line["verdict"] for line in doubted.values()} == {"suspect"}
    assert [trusted[f"S24-77100{n}.svs"]["verdict"] for n in (1, 2)] == ["clean", "suspect"]


async def test_what_hangs_on_a_file_keeps_it_out_and_its_time_is_told(rig: Rig) -> None:
    """A broker's program wrote the barcode beside the bytes: no look at the bytes finds it there (I2)."""
    clean = await clean_svs(rig)
    place = fill(rig, {"slide_1.svs": clean})
    try:
        os.setxattr(place / "slide_1.svs", "user.barcode", b"S24-771001")
    except OSError:
        pytest.skip("this file system keeps no attributes")
    _, lines = await scan(rig)

    found = {one["place"]: one["fate"] for one in lines["slide_1.svs"]["reasons"]}
    assert lines["slide_1.svs"]["verdict"] == "suspect"
    assert found == {"attribute of the file": "unknown", "time of the file": "kept"}
    assert rig.rows("select 1 from mover.slide") == []


async def test_objects_of_dicom_are_judged_by_what_our_own_engine_would_change(rig: Rig) -> None:
    """Another tool's header is no reason; a name, a private element, a UID of the hospital's, or a flag not set is."""
    [made] = (await cleaned(rig, CTS)).values()
    one = dict(enumerate(made.values()))
    files = {"a/im1.dcm": one[0], "b/im1.dcm": objects.ct(1), "other/im1.dcm": changed(one[0])}
    files |= {
        "named/im1.dcm": changed(one[1], StudyDescription="for Jane Quincy"),
        "private/im1.dcm": changed(one[1], private="Quincy"),
        "uids/im1.dcm": changed(one[2], StudyInstanceUID="1.2.840.113619.2.55.3.1"),
        "unsaid/im1.dcm": changed(one[2], LongitudinalTemporalInformationModified="UNMODIFIED"),
    }
    fill(rig, files)
    _, lines = await scan(rig, replace(ASKED, register=False))
    _, trusted = await scan(rig, replace(ASKED, register=False, trust_names=True))

    verdicts = {name.partition("/")[0]: line["verdict"] for name, line in lines.items()}
    assert verdicts == {"a": "clean"} | dict.fromkeys(("b", "other", "named", "private", "uids", "unsaid"), "suspect")
    answered = {name.partition("/")[0]: line["verdict"] for name, line in trusted.items()}
    assert {name for name, verdict in answered.items() if verdict == "clean"} == {"a", "other", "uids"}
    said = json.dumps([line["reasons"] for line in lines.values()])
    assert "(0008,1030) StudyDescription" in said and "Quincy" not in said and "113619" not in said


def changed(data: bytes, *, private: str = "", **attributes: str) -> bytes:
    """The object as another program would have written it."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.DeidentificationMethod = "THE OTHER TOOL 2.0"
    dataset.file_meta.ImplementationVersionName = "PYDICOM 3.0.1"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    if private:
        dataset.private_block(0x0099, "SOMEBODY", create=True).add_new(1, "LO", private)
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


# --- slides ------------------------------------------------------------------------------------------------------


async def test_what_is_clean_becomes_a_slide_where_it_lies_and_runs_take_it(rig: Rig) -> None:
    """A slide of one file, one of several, a folder of objects: each under one number of ours, with its proof."""
    main, parts = mirax(stem="S24-1")
    made = await cleaned(rig, {"S24-771001_Quincy.svs": svs(), **CTS, "S24-1.mrxs": main, **parts})
    files = {(name if ".mrxs" in name or "/" in name else f"{number}/{name}"): data
             for number, own in made.items() for name, data in own.items()}  # fmt: skip
    place = fill(rig, files)

    done, lines = await scan(rig)

    assert done.verdicts == {"clean": len(files)} and done.slides == {"registered": 3}
    slides = {row.family: row for row in rig.rows("select * from mover.slide")}
    assert set(slides) == {"aperio-svs", "dicom", "mirax"} and not {row.number for row in slides.values()} & set(made)
    assert {line["number"] for line in lines.values()} == {row.number for row in slides.values()}
    assert {line["slide"] for line in lines.values()} == {"registered"}
    proofs = rig.rows("select subject_id, kind, root, count from mover.proof where kind = 'adopted'")
    assert {row.subject_id: row.root for row in proofs} == {r.number: r.root or r.digest for r in slides.values()}
    assert whole(place) == files and rig.actions().count("slide adopted") == 3

    run = await rig.request(sorted(row.number for row in slides.values()), key="k")
    await rig.work()
    assert rig.run(run.id).state == "ready", rig.run(run.id).reason
    [staged] = [path for path in (rig.folder / "flash" / "runs").rglob("*.svs")]
    assert staged.read_bytes() == next(data for name, data in files.items() if name.endswith(".svs"))


async def test_a_sidecar_says_where_words_may_stand_in_an_adopted_slide(rig: Rig) -> None:
    """So that it is searched again when its patient's records come, as every slide is."""
    fill(rig, {"slide_1.svs": await clean_svs(rig)})
    await scan(rig)
    [slide] = rig.rows("select * from mover.slide")
    sidecar = decode_sidecar(rig.tiers["archive"].read(sidecar_key(slide.number)))

    assert (sidecar.key, sidecar.blake3, sidecar.site) == ("broker/slide_1.svs", slide.digest, "ward")
    assert sidecar.literals and sidecar.literals[0][0] == 0
    assert 0 < sum(length for _, length in sidecar.literals) < sidecar.size_bytes
    assert sidecar.facts["levels"] >= 1 and sidecar.evidence["adopted"]


async def test_a_slide_stays_out_with_any_of_its_files(rig: Rig) -> None:
    """Two clean slices and one that names somebody are no clean series; nor are those of two patients."""
    [made] = (await cleaned(rig, CTS)).values()
    clean = list(made.values())
    fill(rig, {"s/im1.dcm": clean[0], "s/im2.dcm": clean[1], "s/im3.dcm": changed(clean[2], PatientComments="Quincy")})
    fill(rig, {"t/im1.dcm": clean[0], "t/im2.dcm": changed(clean[1], PatientID="other")})
    done, lines = await scan(rig, replace(ASKED, trust_names=True))

    assert done.verdicts == {"suspect": 5} and done.slides == {}
    assert "another file of the slide" in json.dumps(lines["s/im1.dcm"]["reasons"])
    assert "2 patients" in json.dumps(lines["t/im1.dcm"]["reasons"])


async def test_what_a_slide_of_several_files_does_not_need_is_not_taken(rig: Rig) -> None:
    main, parts = mirax(stem="S24-1")
    [made] = (await cleaned(rig, {"S24-1.mrxs": main, **parts})).values()
    [stem] = [name.removesuffix(".mrxs") for name in made if name.endswith(".mrxs")]
    fill(rig, {**made, f"{stem}/Thumbs.db": b"Jane Quincy"})
    done, lines = await scan(rig)

    assert (lines[f"{stem}/Thumbs.db"]["verdict"], done.slides) == ("refused", {"registered": 1})
    assert {row.key for row in rig.rows("select key from mover.slide_file")} == {
        f"broker/{name}" for name in made if not name.endswith(".mrxs")
    }


async def test_verdicts_first_and_slides_when_somebody_has_seen_them(rig: Rig) -> None:
    fill(rig, {"slide_1.svs": await clean_svs(rig), "slide_2.svs": svs()})
    asked = await rig.adoptions.request(PROJECT, "ann", replace(ASKED, register=False))
    with pytest.raises(Conflict):
        await rig.adoptions.register(PROJECT, "ann", asked.id, wire.AdoptionRegister(reason="too early by far"))
    await rig.work()
    seen, _ = await told(rig, asked.id)
    assert (seen.state, seen.slides, rig.rows("select 1 from mover.slide")) == ("scanned", {"judged": 1}, [])

    body = wire.AdoptionRegister(reason="the verdicts are sound")
    await rig.adoptions.register(PROJECT, "bob", asked.id, body)
    await rig.work()
    done = await rig.adoptions.register(PROJECT, "bob", asked.id, body)

    assert (done.state, done.slides) == ("complete", {"registered": 1})
    assert rig.actions().count("adoption applied") == rig.actions().count("slide adopted") == 1


async def test_a_file_that_changed_after_its_verdict_is_not_registered(rig: Rig) -> None:
    """The proof is about the bytes that were read; nobody knows these."""
    place = fill(rig, {"slide_1.svs": await clean_svs(rig)})
    asked = await rig.adoptions.request(PROJECT, "ann", replace(ASKED, register=False))
    await rig.work()
    (place / "slide_1.svs").write_bytes(svs())
    await rig.adoptions.register(PROJECT, "bob", asked.id, wire.AdoptionRegister(reason="the verdicts are sound"))
    await rig.work()

    done, lines = await told(rig, asked.id)
    assert (done.slides, lines["slide_1.svs"]["why"]) == ({"refused": 1}, "changed-while-reading")
    assert rig.rows("select 1 from mover.slide") == [] and not (rig.folder / "archive" / "slides").exists()


async def test_equal_files_are_one_slide_whoever_adopts_them(rig: Rig) -> None:
    """Again, under another name, and by another project: one scan, one number (I6)."""
    main, parts = mirax(stem="S24-1")
    made = await cleaned(rig, {"S24-771001_Quincy.svs": svs(), "S24-1.mrxs": main, **parts})
    files = {name: data for own in made.values() for name, data in own.items()}
    fill(rig, files)
    fill(rig, files, below="copy")
    first, _ = await scan(rig)
    again, _ = await scan(rig)
    copy, lines = await scan(rig, replace(ASKED, prefix="copy"))
    asked = await rig.adoptions.request(OTHER, "eve", ASKED)
    await rig.work()

    assert first.slides == {"registered": 2} and again.slides == copy.slides == {"duplicate": 2}
    assert (await rig.adoptions.view(OTHER, asked.id)).slides == {"duplicate": 2}
    numbers = {row.number for row in rig.rows("select number from mover.slide")}
    assert len(numbers) == 2 and {line["number"] for line in lines.values()} == numbers
    granted = rig.rows("select project_id, number from mover.slide_grant")
    assert {(row.project_id, row.number) for row in granted} == {(p, n) for p in (PROJECT, OTHER) for n in numbers}
    sidecars = [path for path in (rig.folder / "archive" / "slides").rglob("*") if path.is_file()]
    assert len(sidecars) == 2


async def test_a_withdrawn_slide_does_not_come_back_by_adoption(rig: Rig) -> None:
    clean = await clean_svs(rig)
    fill(rig, {"slide_1.svs": clean})
    await scan(rig)
    [slide] = rig.rows("select number from mover.slide")
    rig.rows("insert into mover.slide_withdrawal (number, reason, found_by) values (%s, %s, 'x')",
             slide.number, "identifier-found-later")  # fmt: skip
    fill(rig, {"slide_1.svs": clean}, below="again")
    done, lines = await scan(rig, replace(ASKED, prefix="again"))

    assert done.slides == {"refused": 1} and "number" not in lines["again/slide_1.svs"]


async def test_a_file_of_a_withdrawn_slide_comes_back_in_no_company(rig: Rig) -> None:
    """A series of ours is known by its objects, not by a digest over all of them: a copy, a part of it, with others."""
    for name, data in CTS.items():
        path = rig.folder / "intake" / "b1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    await rig.batches.declare(PROJECT, "ann", wire.BatchRequest(folder="b1"))
    await rig.work()
    [slide] = rig.rows("select number from mover.slide")
    tier = rig.tiers["archive"]
    made = [tier.read(entry.key) for entry in tier.list(slide_folder(slide.number)) if entry.key.endswith(".dcm")]
    rig.rows("insert into mover.slide_withdrawal (number, reason, found_by) values (%s, %s, 'x')",
             slide.number, "identifier-found-later")  # fmt: skip
    fill(rig, {"all/1.dcm": made[0], "all/2.dcm": made[1], "all/3.dcm": made[2], "one/1.dcm": made[1]})
    done, lines = await scan(rig)

    assert done.slides == {"refused": 2} and {line["why"] for line in lines.values()} == {"identifier-found-later"}
    assert vouching(rig) == [slide.number]


async def test_slides_that_stand_already_are_known_and_not_read_again(rig: Rig) -> None:
    """A whole archive may be adopted: its own folders hold no news."""
    (rig.folder / "intake" / "b1").mkdir()
    (rig.folder / "intake" / "b1" / "S24-771001.svs").write_bytes(svs())
    await rig.batches.declare(PROJECT, "ann", wire.BatchRequest(folder="b1"))
    await rig.work()
    [slide] = rig.rows("select number, key from mover.slide")
    done, lines = await scan(rig, replace(ASKED, prefix=""))

    assert done.verdicts.keys() == {"known"} and lines[slide.key]["number"] == slide.number
    assert is_number(slide.number) and len(rig.rows("select 1 from mover.slide")) == 1


async def test_who_only_looked_keeps_nobody_from_adopting(rig: Rig) -> None:
    """A verdict draws the number that the slide would have; the slide is known when it is one."""
    fill(rig, {"slide_1.svs": await clean_svs(rig)}, below=f"slides/{make_number(bytes(range(10)))}")
    looked, _ = await scan(rig, replace(ASKED, prefix="slides", register=False, trust_names=True))
    adopted, _ = await scan(rig, replace(ASKED, prefix="slides", trust_names=True))

    assert looked.slides == {"judged": 1} and adopted.slides == {"registered": 1}


# --- kills -------------------------------------------------------------------------------------------------------


async def test_a_scan_that_was_cut_off_goes_on_and_says_everything_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(rig, {f"slide_{at}.svs": b"II*\0" + bytes([at]) for at in range(20)})
    asked = await rig.adoptions.request(PROJECT, "ann", ASKED)
    assert (await rig.adoptions.request(PROJECT, "ann", ASKED)).id == asked.id, "one scan of a place at a time"
    shard = await rig.claim("adopt-scan")
    seen: list[int] = []

    def cut_off(sandbox: Sandbox, fd: int, *, suffix: str) -> CleanLook:
        seen.append(fd)
        if len(seen) == 18:
            raise Killed
        return CleanLook("", code="structure-invalid")

    monkeypatch.setattr(adopting, "look_at_slide", cut_off)
    with pytest.raises(Killed):
        await rig.adoptions.scan(shard)
    rig.lapse()
    await rig.adoptions.scan(await rig.claim("adopt-scan"))
    await rig.work()

    done = await rig.adoptions.view(PROJECT, asked.id)
    # the first slice is not looked at again
    assert (done.state, done.verdicts, len(seen)) == ("complete", {"refused": 20}, 18 + 4)


STEPS = ("_vouch", "_commit", "sidecar put", "slide written")


@pytest.mark.parametrize("step", STEPS)
async def test_a_kill_leaves_no_slide_half_registered(rig: Rig, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Before and after the sidecar, before and in the transaction: all of a slide is there, or nothing that counts."""
    main, parts = mirax(stem="S24-1")
    [made] = (await cleaned(rig, {"S24-1.mrxs": main, **parts})).values()
    fill(rig, made)
    asked = await rig.adoptions.request(PROJECT, "ann", ASKED)
    await rig.work("adopt-scan")
    with monkeypatch.context() as patch, suppress(Killed):
        _kill_at(patch, step)
        await rig.adoptions.register_slides(await rig.claim("adopt-register"))
    tables = ("slide", "slide_file", "slide_grant", "proof")
    assert {table: rig.rows(f"select 1 from mover.{table}") for table in tables} == dict.fromkeys(tables, [])

    rig.lapse()
    await rig.work()
    await rig.adoptions.register_slides(await rig.claim("adopt-register"))

    done = await rig.adoptions.view(PROJECT, asked.id)
    [slide] = rig.rows("select * from mover.slide")
    assert (done.state, done.slides) == ("complete", {"registered": 1})
    assert slide.files_count == len(rig.rows("select 1 from mover.slide_file")) > 0
    assert rig.actions().count("slide adopted") == len(rig.rows("select 1 from mover.proof")) == 1
    sidecar = decode_sidecar(rig.tiers["archive"].read(sidecar_key(slide.number)))
    assert sidecar.root == slide.root
    assert sum(path.name == "sidecar.json" for path in (rig.folder / "archive").rglob("*")) == 1


@pytest.mark.parametrize("meanwhile", ["another took its place", "the file changed"])
async def test_a_sidecar_that_a_kill_left_never_vouches_for_what_is_no_slide(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """A catalog rebuilt from the tiers would believe it."""
    clean = await clean_svs(rig)
    place = fill(rig, {"slide_1.svs": clean})
    asked = await rig.adoptions.request(PROJECT, "ann", ASKED)
    await rig.work("adopt-scan")
    with monkeypatch.context() as patch, suppress(Killed):
        _kill_at(patch, "sidecar put")
        await rig.adoptions.register_slides(await rig.claim("adopt-register"))
    if meanwhile == "the file changed":
        (place / "slide_1.svs").write_bytes(svs())
    else:
        fill(rig, {"slide_1.svs": clean}, below="copy")
        await scan(rig, replace(ASKED, prefix="copy"))
    rig.lapse()
    await rig.work()
    await rig.adoptions.register_slides(await rig.claim("adopt-register"))

    outcome = "refused" if meanwhile == "the file changed" else "duplicate"
    assert (await rig.adoptions.view(PROJECT, asked.id)).slides == {outcome: 1}
    assert vouching(rig) == [row.number for row in rig.rows("select number from mover.slide")]


async def test_other_bytes_under_the_name_of_a_slide_get_no_sidecar(rig: Rig) -> None:
    """The catalog knows one slide by a name; what was put in its place is told, and vouched for by nobody."""
    made = await cleaned(rig, {"S24-771001.svs": svs(), "S24-771002.svs": svs(size=(256, 320))})
    first, other = (next(iter(files.values())) for files in made.values())
    place = fill(rig, {"slide_1.svs": first})
    await scan(rig)
    (place / "slide_1.svs").write_bytes(other)
    done, lines = await scan(rig)

    assert done.slides == {"refused": 1} and lines["slide_1.svs"]["why"] == "entry-exists"
    assert vouching(rig) == [row.number for row in rig.rows("select number from mover.slide")] != []


def vouching(rig: Rig) -> list[str]:
    """The numbers that sidecars of the archive stand for."""
    return [path.parent.name for path in (rig.folder / "archive" / "slides").rglob("sidecar.json")]


def _kill_at(patch: pytest.MonkeyPatch, step: str) -> None:
    def killed(*_: object, **__: object) -> None:
        raise Killed

    inner = module._vouch

    def then_killed(*given: Any) -> None:
        inner(*given)
        raise Killed

    if step == "_vouch":
        patch.setattr(module, "_vouch", killed)
    elif step == "_commit":
        patch.setattr(module.Adoptions, "_commit", killed)
    elif step == "sidecar put":
        patch.setattr(module, "_vouch", then_killed)
    else:
        patch.setattr(module.Adoptions, "_settle", killed)


# --- where -------------------------------------------------------------------------------------------------------


async def test_only_a_deidentified_archive_of_ones_own_project_is_adopted(rig: Rig) -> None:
    """Refused when it is asked for, not an hour later."""
    for tier, why in (("intake", "only what stands on a deidentified tier"), ("flash", "holds copies")):
        with pytest.raises(RequestInvalid, match=why):
            await rig.adoptions.request(PROJECT, "ann", wire.AdoptionRequest(tier=tier, reason="by mistake"))
    assert rig.rows("select 1 from mover.adoption") == []
    (rig.folder / "archive" / "broker").mkdir()
    empty, _ = await scan(rig)
    assert empty.state == "failed" and "nothing stands" in str(empty.explanation)
    with pytest.raises(NotFound):
        await rig.adoptions.view(OTHER, empty.id)


async def test_a_bucket_is_adopted_like_a_folder(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its objects come to a nameless file of this machine, are looked at there, and stay where they are."""
    main, parts = mirax(stem="S24-1")
    made = await cleaned(rig, {"S24-771001_Quincy.svs": svs(), **CTS, "S24-1.mrxs": main, **parts})
    with shared_weed(tmp_path_factory.getbasetemp()) as server:
        bucket = object_tier(server, "archive", zone="deidentified")
        rig.tiers["archive"] = bucket
        files = {f"broker/{n}/{name}": data for n, own in made.items() for name, data in own.items()}
        for key, data in files.items():
            bucket.put(key, [data], size_bytes=len(data))
        bucket.put("broker/slide_2.svs", [svs()], size_bytes=len(svs()))
        done, lines = await scan(rig, replace(ASKED, trust_names=True))

        assert done.verdicts == {"clean": len(files), "suspect": 1} and done.slides == {"registered": 3}
        slides = rig.rows("select * from mover.slide")
        sidecars = [decode_sidecar(bucket.read(sidecar_key(row.number))) for row in slides]
        assert {key for one in sidecars for key in one.keys} - set(files) == {sidecar_key(r.number) for r in slides}
        assert {key: bucket.read(key) for key in files} == files and lines["slide_2.svs"]["verdict"] == "suspect"
    assert list(rig.folder.glob("*.svs")) == []


def test_the_database_knows_no_registered_slide_without_its_proof(rig: Rig) -> None:
    rig.rows("insert into mover.adoption (id, project_id, tier, prefix, trust_names, reason, created_by)"
             " values ('a', 'demo', 'archive', '', false, 'r', 'ann')")  # fmt: skip
    slide = (
        "insert into mover.adoption_slide (project_id, adoption_id, number, scan, sidecar, evidence, marks, outcome)"
        " values ('demo', 'a', %s, %s, '', '{}', '{}', %s)"
    )
    with pytest.raises(psycopg.errors.CheckViolation):
        rig.rows(slide, "0" * 17, "0" * 64, "registered")
    rig.rows(slide, "0" * 17, "0" * 64, "judged")


async def test_nothing_is_registered_where_no_sidecar_can_be_put(rig: Rig) -> None:
    """The adoption stays as it is, and says what to do; once the tier may be written it goes on."""
    main, parts = mirax(stem="S24-1")
    [made] = (await cleaned(rig, {"S24-1.mrxs": main, **parts})).values()
    fill(rig, made)
    asked = await rig.adoptions.request(PROJECT, "ann", replace(ASKED, register=False))
    await rig.work("adopt-scan")
    writable = rig.tiers["archive"]
    rig.adoptions._tiers["archive"] = PosixTier(  # type: ignore[index]
        "archive", "deidentified", rig.folder / "archive", role="archive", read_only=True
    )
    with pytest.raises(TierDenied, match="only be read"):
        await rig.adoptions.register(PROJECT, "ann", asked.id, wire.AdoptionRegister("looked at"))
    assert (await rig.adoptions.view(PROJECT, asked.id)).state == "scanned"
    with pytest.raises(TierDenied):
        await rig.adoptions.request(PROJECT, "ann", replace(ASKED, prefix="other"))
    rig.adoptions._tiers["archive"] = writable  # type: ignore[index]
    assert (
        await rig.adoptions.register(PROJECT, "ann", asked.id, wire.AdoptionRegister("again"))
    ).state == "registering"
