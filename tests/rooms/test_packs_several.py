"""Slides of several files and folders of DICOM objects: through the batch, into the archive, onto flash."""

from __future__ import annotations

from pathlib import Path

import msgspec
import openslide
import psycopg
import pyarrow.parquet as pq
import pydicom
import pytest

from mover.catalog import selections
from mover.catalog.database import Database
from mover.deid.vault import Vault
from mover.errors import EntryMissing, NotFound
from mover.model import wire
from mover.model.deid import DicomRules, SlideRules
from mover.model.policy import DeidPolicy, ImagesPolicy
from mover.model.sidecar import decode_sidecar, sidecar_key, slide_folder
from mover.policy import Loaded, PolicyBook
from mover.sandbox import Sandbox
from mover.tiers.wrappers import Fault, FaultyTier
from tests.rooms.rig import OTHER, POLICIES, PROJECT, Rig, who
from tests.support import objects
from tests.support.mirax import mirax
from tests.support.postgres import Dsns
from tests.support.slides import svs
from tests.support.vms import vms

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
PEOPLE = ("MRN-4711-0815", "Quincy", "D24-771001", "S24-771001", "19550401", objects.ROOT)
CTS = {f"im{n}.dcm": objects.ct(n) for n in (1, 2, 3)}


class Killed(BaseException):
    """Between two of our own steps; nothing catches it."""


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database, vault: Vault, sandbox: Sandbox) -> Rig:
    return Rig(tmp_path, dsns, database, vault, sandbox)


def put(rig: Rig, folder: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = rig.folder / "intake" / "b1" / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def put_mirax(rig: Rig, stem: str = "S24-771001") -> None:
    main, files = mirax(stem=stem, strays={"Thumbs.db": b"Quincy"} if stem.endswith("copy") else None)
    put(rig, "", {f"{stem}.mrxs": main, **files})


async def declare(rig: Rig, *, project: str = PROJECT, policy: str | None = None, folder: str = "b1") -> wire.Batch:
    batch = await rig.batches.declare(project, "ann", wire.BatchRequest(folder=folder, policy=policy))
    await rig.work()
    return await rig.batches.view(project, batch.id)


def policies(rig: Rig, *more: ImagesPolicy | DeidPolicy) -> None:
    book = PolicyBook([Loaded(policy=p, file=f"{p.name}.yaml", text="", digest="") for p in (*POLICIES, *more)])
    rig.batches._policies = rig.packs._policies = book


def archived(rig: Rig, number: str) -> dict[str, bytes]:
    tier = rig.tiers["archive"]
    keys = [entry.key for entry in tier.list(slide_folder(number)) if not entry.key.endswith("sidecar.json")]
    return {key.split("/", 3)[3]: tier.read(key) for key in keys}


async def staged(rig: Rig, numbers: list[str], *, layout: str = "number", key: str = "k") -> tuple[wire.Run, list[str]]:
    body = wire.RunRequest(files=numbers, layout=layout)  # type: ignore[arg-type]
    run = await rig.runs.request(who(), body, key=key)
    await rig.work()
    found = await rig.runs.view(PROJECT, run.id)
    assert found.state == "ready", found.explanation
    lines = [msgspec.json.decode(line) for line in (await rig.manifest(run.id)).splitlines()[1:]]
    return found, [line["path"] for line in lines]


async def test_a_folder_of_slices_is_one_slide_and_names_nobody(rig: Rig) -> None:
    """One patient, one graph of UIDs, one row; the cohort asks by family and modality."""
    put(rig, "S24-771001", CTS)
    batch = await declare(rig)
    assert (batch.state, batch.packs) == ("complete", {"published": 1})
    [slide] = rig.rows("select * from mover.slide")
    files = archived(rig, slide.number)
    made = [pydicom.dcmread(pydicom.filebase.DicomBytesIO(files[name])) for name in sorted(files)]

    assert sorted(files) == [f"{slide.number}-0002.dcm", f"{slide.number}-0003.dcm", f"{slide.number}.dcm"]
    assert not [word for word in PEOPLE for data in files.values() if word.encode() in data]
    assert len({one.StudyInstanceUID for one in made}) == len({one.PatientID for one in made}) == 1
    assert len({one.SOPInstanceUID for one in made}) == 3
    assert sorted(one.InstanceNumber for one in made) == [1, 2, 3]
    facts = {"objects": 3, "modality": "CT", "frames": 3, "rows": 32, "columns": 32, "compression": "none"}
    assert slide.facts == {**facts, "subject": made[0].PatientID}
    assert (slide.family, slide.files_count, slide.thumbnail_key) == ("dicom", 2, None)
    total = sum(map(len, files.values()))
    async with rig.database.project(PROJECT) as conn:
        asked = "family = 'dicom' and modality = 'CT' and size_bytes = " + str(total)
        assert await selections.count(conn, asked) == (1, total)
        assert (await selections.count(conn, "modality = 'MR'"))[0] == 0
        assert (await selections.count(conn, f"subject = '{made[0].PatientID}'"))[0] == 1


async def test_a_run_root_holds_every_file_of_a_slide_in_every_layout(rig: Rig) -> None:
    """A reader opens the main file and finds the parts by where they lie; one file missing is no slide (I4)."""
    put(rig, "ct", CTS)
    put_mirax(rig)
    put(rig, "", {"one.svs": svs()})
    put(rig, "wsm", {f"{name}.dcm": data for name, data in objects.whole_slide().items()})
    main, parts = vms(stem="D24-771001", comment=b"")  # nothing to cut away: whole pictures
    put(rig, "", {"D24-771001.vms": main, **parts})
    batch = await declare(rig)
    assert batch.packs == {"published": 5}, batch.reasons
    numbers = {row.family: row.number for row in rig.rows("select family, number from mover.slide")}
    ct, mrxs, svs_, wsm = (numbers[name] for name in ("dicom", "mirax", "aperio-svs", "dicom-wsm"))
    jpegs = numbers["hamamatsu-vms"]

    run, paths = await staged(rig, list(numbers.values()))
    flat_run, flat = await staged(rig, list(numbers.values()), layout="flat", key="flat")

    root = rig.folder / "flash" / "runs" / run.id
    assert [path for path in paths if ct in path] == [
        f"data/{ct}/{ct}-0002.dcm", f"data/{ct}/{ct}-0003.dcm", f"data/{ct}/{ct}.dcm"
    ]  # fmt: skip
    parts = {f"data/{mrxs}/{mrxs}/{name}" for name in ("Slidedat.ini", "Index.dat", "Data0000.dat")}
    assert {f"data/{mrxs}/{mrxs}.mrxs"} | parts < set(paths)
    assert f"data/{svs_}/{svs_}.svs" in paths and f"data/{svs_}.svs" in flat
    assert [path.replace(svs_ + "/", "") for path in paths] == flat, "only a slide of one file has no folder"
    assert sum(ct in path for path in paths) == 3 and sum(wsm in path for path in paths) == 2
    for number, suffix in ((mrxs, "mrxs"), (svs_, "svs"), (wsm, "dcm"), (jpegs, "vms")):
        name = f"{number}.{suffix}"
        with openslide.OpenSlide(root / "data" / number / name) as slide:
            slide.read_region((0, 0), 0, (16, 16))
            assert set(slide.associated_images) <= {"thumbnail"}
    assert pydicom.dcmread(root / "data" / ct / f"{ct}.dcm").pixel_array.shape == (32, 32)
    table = pq.read_table(root / "records.parquet").to_pylist()
    assert {row["number"]: row["path"].rpartition(".")[2] for row in table} == {
        ct: "dcm", mrxs: "mrxs", svs_: "svs", wsm: "dcm", jpegs: "vms"
    }  # fmt: skip
    assert {row["modality"] for row in table} == {"CT", "SM", None}
    [total] = rig.rows("select sum(size_bytes + files_bytes) as bytes from mover.slide")
    assert run.bytes == total.bytes + (root / "records.parquet").stat().st_size
    assert sum(row["size_bytes"] for row in table) == total.bytes
    assert flat_run.linked_count == len(paths) - 1, "what stands on flash is shared, file by file"


async def test_the_facts_of_a_whole_slide_in_dicom_are_those_of_its_levels(rig: Rig) -> None:
    """The label's picture is dropped, by rule and on record, and is no level."""
    put(rig, "wsm", {f"{name}.dcm": data for name, data in objects.whole_slide().items()})
    await declare(rig)
    [slide] = rig.rows("select * from mover.slide")
    [pack] = rig.rows("select decisions from mover.pack")

    told = {name: slide.facts[name] for name in ("width", "height", "levels", "level_sizes", "modality", "objects")}
    assert told == {"width": 128, "height": 128, "levels": 2, "level_sizes": [[128, 128], [64, 64]], "modality": "SM",
                    "objects": 2}  # fmt: skip
    assert slide.facts["mpp_x"] == pytest.approx(0.5)
    assert {(one["place"], one["times"]) for one in pack.decisions if "label" in one["reason"]} == {("object", 1)}


async def test_a_scan_of_several_files_that_comes_again_is_the_same_slide(rig: Rig) -> None:
    """Renamed, in another order, with a stray beside it: one scan, one number (D19)."""
    put_mirax(rig)
    put_mirax(rig, "S24-771001 copy")
    put(rig, "first", CTS)
    put(rig, "second", {f"x{name}": data for name, data in reversed(CTS.items())} | {"twice.dcm": CTS["im1.dcm"]})
    batch = await declare(rig)
    assert batch.packs == {"published": 2, "duplicate": 2}, batch.reasons
    assert len(rig.rows("select number from vault.number")) == 2


async def test_objects_of_two_patients_in_one_folder_are_for_a_person_to_tell_apart(rig: Rig) -> None:
    put(rig, "mixed", {"a.dcm": objects.ct(1), "b.dcm": objects.ct(2, patient="MRN-4711-0816")})
    put(rig, "two slides", {
        f"{series}{name}.dcm": data
        for series in (5, 6) for name, data in objects.whole_slide(series).items()
    })  # fmt: skip
    batch = await declare(rig)
    assert (batch.packs, batch.reasons) == ({"quarantined": 2}, {"pack-ambiguous": 2})
    assert rig.rows("select number from mover.slide") == []


async def test_an_object_that_may_not_pass_holds_its_folder_back_unless_the_policy_leaves_it(rig: Rig) -> None:
    """A series that lacks what was refused must not look whole by accident: only by a declared choice."""
    put(rig, "study", {**CTS, "report.dcm": objects.document()})
    batch = await declare(rig)
    assert batch.packs == {"quarantined": 1}
    left = ImagesPolicy(
        name="leave", source="intake", archive="archive", require_thumbnail=False, refused_objects="leave"
    )
    policies(rig, left)
    rig.rows("update mover.batch set policy = 'leave'")

    batch = await declare(rig, policy="leave")

    assert batch.packs == {"published": 1}, batch.reasons
    [pack] = rig.rows("select decisions from mover.pack")
    assert [one["times"] for one in pack.decisions if one["reason"].startswith("left behind")] == [1]
    [slide] = rig.rows("select files_count from mover.slide")
    assert slide.files_count == 2


async def test_a_project_gets_no_slide_that_was_made_under_a_wider_profile(rig: Rig) -> None:
    """The grant would hand over what this project's rules drop; equal rules share the slide."""
    wide = DeidPolicy(name="wide", dicom=DicomRules(retain_device=True))
    images = [
        ImagesPolicy(name=f"images-{name}", source="intake", archive="archive", require_thumbnail=False, profile=name)
        for name in ("wide", "slides-only")
    ]
    policies(rig, wide, DeidPolicy(name="slides-only", slides=SlideRules(drop_keys=("Parmset",))), *images)
    put(rig, "ct", CTS)
    assert (await declare(rig, policy="images-wide")).packs == {"published": 1}

    narrow = await declare(rig, project=OTHER, policy="images")

    assert (narrow.packs, narrow.reasons) == ({"quarantined": 1}, {"rules-differ": 1})
    assert [row.project_id for row in rig.rows("select project_id from mover.slide_grant")] == [PROJECT]
    proof = rig.rows("select details from mover.proof where kind = 'deidentified'")[0].details
    assert (proof["profile"]["name"], len(proof["profile"]["blake3"])) == ("wide", 64)


async def test_a_policy_whose_profile_is_not_there_declares_no_batch(rig: Rig) -> None:
    """It stops, and never falls back to a default."""
    images = ImagesPolicy(name="lost", source="intake", archive="archive", require_thumbnail=False, profile="gone")
    policies(rig, images)
    put(rig, "ct", CTS)
    with pytest.raises(NotFound, match="gone"):
        await declare(rig, policy="lost")
    assert rig.rows("select id from mover.batch") == []


async def test_what_an_attempt_left_of_many_files_is_swept_by_the_next(rig: Rig) -> None:
    """Killed between two files: nothing is vouched for, nothing of it stays."""
    put(rig, "ct", CTS)
    batch = await rig.batches.declare(PROJECT, "ann", wire.BatchRequest(folder="b1"))
    await rig.work("batch-walk")
    write, written = rig.packs.publisher._write_piece, []

    def cut_off(*arguments: object) -> object:
        if len(written) == 2:
            raise Killed
        written.append(write(*arguments))  # type: ignore[arg-type]
        return written[-1]

    rig.packs.publisher._write_piece = cut_off  # type: ignore[method-assign, assignment]
    shard = await rig.claim("pack-deidentify")
    with pytest.raises(Killed):
        await rig.packs.deidentify(shard)
    rig.packs.publisher._write_piece = write  # type: ignore[method-assign]
    left = {entry.key for entry in rig.tiers["archive"].list("slides")}
    rig.lapse()
    await rig.packs.deidentify(await rig.claim("pack-deidentify"))

    assert (await rig.batches.view(PROJECT, batch.id)).packs == {"published": 1}
    kept = {entry.key for entry in rig.tiers["archive"].list("slides")}
    assert len(left) == 2 and not left & kept and len(kept) == 4


@pytest.mark.parametrize("folder", ["ct", "mirax"])
async def test_a_slide_whose_sidecar_stands_is_adopted_only_when_all_its_files_are_whole(rig: Rig, folder: str) -> None:
    """About half of what was not answered has happened (D13). A part that rotted meanwhile is no slide."""
    if folder == "mirax":
        put_mirax(rig)
    else:
        put(rig, "ct", CTS)
    batch = await rig.batches.declare(PROJECT, "ann", wire.BatchRequest(folder="b1"))
    await rig.work("batch-walk")
    plain = rig.tiers["archive"]
    # a slide's first put is its thumbnail, where it has one; the last is the sidecar
    rig.tiers["archive"] = FaultyTier(plain, [Fault("put", "lost", 2 if folder == "mirax" else 1)])  # type: ignore[arg-type]
    await rig.work()
    rig.tiers["archive"] = plain
    assert [r.state for r in rig.rows("select state from mover.pack")] == ["found"]
    [number] = {entry.key.split("/")[1] for entry in plain.list("slides")}
    sidecar = decode_sidecar(plain.read(sidecar_key(number)))
    part = rig.folder / "archive" / sidecar.files[-1].key
    whole = part.read_bytes()

    part.chmod(0o644)
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    rig.due()
    await rig.work()
    found = await rig.batches.view(PROJECT, batch.id)
    assert (found.packs, found.reasons) == ({"quarantined": 1}, {"digest-mismatch": 1})
    part.write_bytes(whole)
    found = await declare(rig)

    assert found.packs == {"published": 1}, found.reasons
    assert decode_sidecar(plain.read(sidecar_key(number))) == sidecar
    [proof] = rig.rows("select count, root, bytes from mover.proof where kind = 'verified'")
    assert (proof.count, proof.root, proof.bytes) == (1 + len(sidecar.files), sidecar.root, sidecar.total_bytes)


async def test_every_file_of_a_slide_is_vouched_for_held_and_known(rig: Rig) -> None:
    """Verification reads them all, release lets none go, and none is a stranger on its tier."""
    put_mirax(rig)
    await declare(rig)
    [slide] = rig.rows("select number from mover.slide")
    keys = [e.key for e in rig.tiers["archive"].list("slides") if not e.key.endswith("sidecar.json")]
    async with rig.database.project(PROJECT) as conn:

        async def ask(statement: str, **values: object) -> set[str]:
            rows = await (await conn.execute(statement, values)).fetchall()  # type: ignore[arg-type]
            return {bytes(r.key).decode() if isinstance(r.key, (bytes, memoryview)) else r.key for r in rows}

        assert await ask("select key from mover.vouched('archive', '')") == set(keys)
        held = await ask("select key from mover.keys_held('archive', %(keys)s)", keys=keys)
        raw = [key.encode() for key in keys]
        known = await ask("select key from mover.keys_known('archive', %(keys)s, false)", keys=raw)
        assert held == known == set(keys) and len(keys) > 4
    async with rig.database.project(OTHER) as conn:
        assert await ask("select key from mover.vouched('archive', '')") == set()
        rows = await (await conn.execute("select * from mover.slide_file")).fetchall()
        assert rows == [], "a project sees files by its grants alone"
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await conn.execute(
                "insert into mover.slide_file (number, name, size_bytes, digest, tier, key)"
                " values (%s, 'x', 1, %s, 'archive', 'x')", (slide.number, "0" * 64),
            )  # fmt: skip


async def test_a_folder_that_lost_an_object_is_not_published_without_it(rig: Rig) -> None:
    put(rig, "ct", CTS)
    batch = await rig.batches.declare(PROJECT, "ann", wire.BatchRequest(folder="b1"))
    await rig.work("batch-walk")
    (rig.folder / "intake" / "b1" / "ct" / "im2.dcm").unlink()
    await rig.work()
    found = await rig.batches.view(PROJECT, batch.id)
    assert (found.packs, found.reasons) == ({"quarantined": 1}, {EntryMissing.code: 1})
    assert not (rig.folder / "archive" / "slides").exists()


async def test_a_key_that_the_profile_does_not_want_is_left_out_of_the_slide(rig: Rig) -> None:
    """A project may narrow; the slide says under which rules it was made, so that nobody else gets it unasked."""
    images = ImagesPolicy(name="narrow", source="intake", archive="archive", require_thumbnail=False, profile="few")
    policies(rig, DeidPolicy(name="few", slides=SlideRules(drop_keys=("stripewidth",))), images)
    put(rig, "", {"one.svs": svs(), "two.svs": svs(size=(384, 256))})
    batch = await declare(rig, policy="narrow")
    assert batch.packs == {"published": 2}, batch.reasons
    for row in rig.rows("select key from mover.slide"):
        assert b"StripeWidth" in svs() and b"StripeWidth" not in rig.tiers["archive"].read(row.key)
    assert (await declare(rig, project=OTHER, policy="images")).reasons == {"rules-differ": 2}
    rig.rows("update mover.slide set rules = ''")  # from before there were profiles: made under the default rules
    rig.rows("update mover.batch set state = 'failed' where project_id = 'other'")
    assert (await declare(rig, project=OTHER, policy="images")).packs == {"duplicate": 2}


async def test_an_object_that_lies_twice_in_its_folder_is_published_once(rig: Rig) -> None:
    put(rig, "ct", {**CTS, "copy of im1.dcm": CTS["im1.dcm"]})
    batch = await declare(rig)
    assert batch.packs == {"published": 1}, batch.reasons
    [slide] = rig.rows("select files_count, facts from mover.slide")
    assert (slide.files_count, slide.facts["objects"]) == (2, 3)


async def test_what_is_broken_of_several_files_waits_and_holds_nobody_up(rig: Rig) -> None:
    """One bad pack is a value, never the end of its batch (I9)."""
    main, files = mirax(stem="half")
    put(rig, "", {"alone.mrxs": main, "half.mrxs": main} | {k: v for k, v in files.items() if "Data0000" not in k})
    put(rig, "rubbish", {"a.dcm": b"\0" * 5000, "b.dcm": b"DICM"})
    put(rig, "cut", {**CTS, "im4.dcm": objects.ct(4)[:900]})
    put(rig, "good", CTS)
    index, parts = vms(stem="v")
    put(rig, "", {"v.vms": index} | {name: data[: len(data) // 2] for name, data in parts.items()})

    batch = await declare(rig)

    assert batch.state == "complete", batch.explanation
    assert batch.packs == {"published": 1, "quarantined": 5}, batch.reasons
    assert set(batch.reasons) <= {"structure-invalid", "format-unknown", "format-unsupported"}, batch.reasons
    assert {row.family for row in rig.rows("select family from mover.slide")} == {"dicom"}
