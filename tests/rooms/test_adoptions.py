"""Data that claims to be clean is scanned all the same, and nothing of it is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mover.catalog.database import Database
from mover.deid.deidentify import slide_sandbox
from mover.deid.vault import Vault
from mover.errors import NotFound, RequestInvalid
from mover.ingest.adoptions import Adoptions
from mover.model import wire
from mover.sandbox import Sandbox
from tests.rooms.rig import OTHER, PROJECT, Rig
from tests.support.postgres import Dsns
from tests.support.slides import svs

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
ASKED = wire.AdoptionRequest(tier="archive", prefix="broker", reason="the honest broker says so")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with slide_sandbox(max_children=2) as made:
        yield made


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database, vault: Vault, sandbox: Sandbox) -> Rig:
    return Rig(tmp_path, dsns, database, vault, sandbox)


async def cleaned(rig: Rig) -> bytes:
    """A slide as our own de-identification leaves it."""
    folder = rig.folder / "intake" / "b1"
    folder.mkdir()
    (folder / "S24-771001_Quincy.svs").write_bytes(svs())
    await rig.batches.declare(PROJECT, "ann", wire.BatchRequest(folder="b1"))
    await rig.work()
    [row] = rig.rows("select key from mover.slide")
    return (rig.folder / "archive" / row.key).read_bytes()


async def scan(rig: Rig, body: wire.AdoptionRequest = ASKED) -> tuple[wire.Adoption, dict[str, dict[str, Any]]]:
    asked = await rig.adoptions.request(PROJECT, "ann", body)
    await rig.work()
    done = await rig.adoptions.view(PROJECT, asked.id)
    lines = b"".join([piece async for piece in rig.adoptions.report(PROJECT, asked.id)]).splitlines()
    return done, {line["key"].rpartition("/")[2]: line for line in map(json.loads, lines)}


async def test_what_claims_to_be_clean_gets_a_verdict_for_each_file(rig: Rig) -> None:
    """One clean, one with its label and names left in, one torn, one of a kind that is not judged, one bad name."""
    clean = await cleaned(rig)
    place = rig.folder / "archive" / "broker"
    place.mkdir()
    files = {"slide_1.svs": clean, "slide_2.svs": svs(), "slide_3.svs": clean[:900], "slide_4.dcm": b"x",
             "S24-771001.svs": clean}  # fmt: skip
    for name, data in files.items():
        (place / name).write_bytes(data)

    done, told = await scan(rig)

    assert {name: line["verdict"] for name, line in told.items()} == {
        "slide_1.svs": "clean", "slide_2.svs": "suspect", "slide_3.svs": "refused", "slide_4.dcm": "unjudged",
        "S24-771001.svs": "suspect",
    }  # fmt: skip
    assert done.state == "complete" and done.root
    assert done.verdicts == {"clean": 1, "suspect": 2, "refused": 1, "unjudged": 1}
    reasons = json.dumps([line["reasons"] for line in told.values()])
    assert "label" in reasons and "Quincy" not in reasons and "771001" not in reasons
    assert told["slide_1.svs"]["blake3"] and {path.name: path.read_bytes() for path in place.iterdir()} == files
    trusted, again = await scan(rig, replace(ASKED, trust_names=True))
    assert again["S24-771001.svs"]["verdict"] == "clean" and trusted.root != done.root
    assert rig.actions().count("adoption scanned") == 2


async def test_a_scan_that_was_cut_off_goes_on_and_says_everything_once(rig: Rig) -> None:
    place = rig.folder / "archive" / "broker"
    place.mkdir()
    for at in range(20):
        (place / f"slide_{at}.svs").write_bytes(b"II*\0")
    asked = await rig.adoptions.request(PROJECT, "ann", ASKED)
    assert (await rig.adoptions.request(PROJECT, "ann", ASKED)).id == asked.id, "one scan of a place at a time"
    shard = await rig.claim("adopt-scan")
    seen = 0

    async def cut_off(*args: object) -> dict[str, object]:
        nonlocal seen
        seen += 1
        if seen > 18:
            raise InterruptedError
        return await Adoptions._file(rig.adoptions, *args)  # type: ignore[arg-type]

    rig.adoptions._file = cut_off  # type: ignore[assignment]
    with pytest.raises(InterruptedError):
        await rig.adoptions.scan(shard)
    del rig.adoptions._file
    rig.lapse()
    await rig.adoptions.scan(await rig.claim("adopt-scan"))

    done = await rig.adoptions.view(PROJECT, asked.id)
    assert (done.state, done.verdicts) == ("complete", {"refused": 20})


async def test_only_a_deidentified_place_of_ones_own_project_is_adopted(rig: Rig) -> None:
    with pytest.raises(RequestInvalid, match="only what stands on a deidentified tier"):
        await rig.adoptions.request(PROJECT, "ann", wire.AdoptionRequest(tier="intake", reason="by mistake"))
    (rig.folder / "archive" / "broker").mkdir()
    empty, _ = await scan(rig)
    assert empty.state == "failed" and "nothing stands" in str(empty.explanation)
    with pytest.raises(NotFound):
        await rig.adoptions.view(OTHER, empty.id)
