"""Certificates of batches: what the catalog knows, signed once, checked by whoever holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from mover.catalog.database import Database
from mover.deid.certificate import verify
from mover.deid.vault import Vault
from mover.errors import Conflict, DigestMismatch, NotFound, SettingsInvalid
from mover.ingest.certificates import Certificates
from mover.model import wire
from mover.model.certificate import Certificate
from mover.policy import Loaded, PolicyBook
from mover.sandbox import Sandbox
from mover.signing import new_key
from tests.rooms.rig import POLICIES, PROJECT, Rig
from tests.support.postgres import Dsns
from tests.support.slides import svs

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
BARCODE = "D19-293983_Kowalczyk"


@pytest.fixture
async def rig(tmp_path: Path, dsns: Dsns, database: Database, vault: Vault, sandbox: Sandbox) -> Rig:
    """A complete batch: two slides, one of them twice, and a pack that is no slide."""
    made = Rig(tmp_path, dsns, database, vault, sandbox)
    folder = tmp_path / "intake" / "b1"
    folder.mkdir()
    for name, data in ((BARCODE, svs()), ("two", svs(size=(384, 256))), ("again", svs()), ("bad", b"II*\0rubbish")):
        (folder / f"{name}.svs").write_bytes(data)
    new_key(tmp_path / "certificate.key")
    await made.batches.declare(PROJECT, "ann", wire.BatchRequest(folder="b1"))
    await made.work()
    return made


def room(rig: Rig, sandbox: Sandbox, *, key: str = "certificate.key") -> Certificates:
    book = PolicyBook([Loaded(policy=p, file="", text="", digest="") for p in POLICIES])
    return Certificates(rig.database, book, sandbox, key_file=rig.folder / key, site="ward", node="n1")


def batch_of(rig: Rig) -> str:
    return str(rig.rows("select id from mover.batch")[0].id)


async def issued(rig: Rig, sandbox: Sandbox, **more: Any) -> bytes:
    return (await room(rig, sandbox, **more).issue(PROJECT, "ann", "operator", batch_of(rig))).encode()


def certified(data: bytes) -> Certificate:
    made = verify(data).certificate
    assert made is not None
    return made


async def test_a_batch_is_certified_as_it_stands_in_the_archive(rig: Rig, sandbox: Sandbox) -> None:
    """The check that one-shot certificates pass, unchanged, with every output hashed again where it lies."""
    data = await issued(rig, sandbox)

    checked = verify(data, folder=rig.folder / "archive")
    made = certified(data)
    assert checked.problems == () and checked.files_checked == 4 and checked.numbers == 2
    assert (made.inventory.files, made.inventory.published) == (4, 2)
    assert made.inventory.quarantined == {"structure-invalid": 1} and made.inventory.dropped == {"duplicate": 1}
    assert all(one.removed and one.strings_removed and one.looked["forms"] and one.methods for one in made.files)
    assert made.profile.basis == "none" and made.residual_risk and made.custody.audit[0].records


async def test_it_names_nobody_and_no_source(rig: Rig, sandbox: Sandbox) -> None:
    """It leaves the hospital with the data (I2); a source's digest would be a name, too, for who has the source."""
    text = (await issued(rig, sandbox)).decode()

    planted = [BARCODE, "Kowalczyk", "293983", "SS7719", "S24-771001", "b1/", "two.svs"]
    assert [word for word in planted if word in text] == []
    for path in (rig.folder / "intake" / "b1").iterdir():
        assert blake3(path.read_bytes()).hexdigest()[:12] not in text.replace(" ", "")


async def test_the_evidence_of_a_slide_is_what_its_certificate_counts_and_names_nobody(
    rig: Rig, sandbox: Sandbox
) -> None:
    """Before and after of one slide, without opening a file: whoever asks sees shapes, and for no other project any."""
    [made, *_] = certified(await issued(rig, sandbox)).files
    shown = await rig.batches.evidence(PROJECT, made.number)

    assert (shown.removed, shown.kept, shown.looked) == (made.removed, made.kept, made.looked)
    removed = [one for one in shown.judgements if one.action != "keep"]
    assert sum(one.times for one in removed) == sum(map(int, made.removed.values()))
    assert removed == shown.judgements[: len(removed)] and any("(label)" in one.place for one in removed)
    assert {one.kind for one in shown.proofs} == {"verified", "deidentified"} and shown.batch == batch_of(rig)
    text = msgspec.json.encode(shown).decode()
    planted = [BARCODE, "Kowalczyk", "293983", "SS7719", "S24-771001", "b1/", "two.svs"]
    assert [word for word in planted if word in text] == []
    picture = await rig.batches.thumbnail(PROJECT, made.number)
    assert picture.data[:2] == b"\xff\xd8" and blake3(picture.data).hexdigest() == picture.digest
    for look in (rig.batches.evidence, rig.batches.thumbnail):
        with pytest.raises(NotFound):
            await look("other", made.number)
    [file] = (rig.folder / "archive").rglob(f"{made.number}.jpg")
    file.write_bytes(picture.data[:-1] + b"!")
    with pytest.raises(DigestMismatch):
        await rig.batches.thumbnail(PROJECT, made.number)


async def test_the_same_content_is_the_same_certificate_and_a_changed_batch_another(rig: Rig, sandbox: Sandbox) -> None:
    """Asking is no event: one issue, one digest in the catalog, one record. What changes is certified anew, and says
    which certificate came before."""
    first, again = await issued(rig, sandbox), await issued(rig, sandbox)
    number = certified(first).files[0].number
    rig.rows("insert into mover.slide_withdrawal (number, reason, found_by) values (%s, 'identifier-found-later', 'r')",
             number)  # fmt: skip
    later = await issued(rig, sandbox)

    assert first == again and [one.number for one in certified(later).files] != [number]
    assert certified(later).inventory.quarantined["identifier-found-later"] == 1
    assert certified(later).custody.previous.replace(" ", "") == blake3(first).hexdigest()
    kept = {row.digest for row in rig.rows("select digest from mover.certificate")}
    assert kept == {blake3(first).hexdigest(), blake3(later).hexdigest()}
    assert rig.actions().count("certificate issued") == 2


async def test_what_is_not_complete_or_not_known_or_cannot_be_signed_is_refused(rig: Rig, sandbox: Sandbox) -> None:
    with pytest.raises(NotFound):
        await room(rig, sandbox).issue(PROJECT, "ann", "operator", "batch-x")
    with pytest.raises(NotFound):
        await room(rig, sandbox).issue("other", "eve", "admin", batch_of(rig))
    with pytest.raises(SettingsInvalid):
        await issued(rig, sandbox, key="no.key")
    rig.rows("update mover.batch set state = 'working'")
    with pytest.raises(Conflict):
        await issued(rig, sandbox)
