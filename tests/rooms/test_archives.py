"""Datasets are kept with their runs: second copies with proofs, damage mended from the other copy, and a run that is
staged again exactly although the archive's own copy is gone."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pyarrow.parquet as pq
import pytest
from blake3 import blake3

from mover import metrics
from mover.catalog.database import Database
from mover.demo.seaweed import Seaweed
from mover.errors import NotFound, RunRefused
from mover.ingest.rulings import Rulings
from mover.model import wire
from mover.model.policy import ArchivePolicy
from mover.model.sidecar import Sidecar, encode_sidecar, sidecar_key
from mover.moving.archives import Archives
from mover.moving.places import Ends, Place
from mover.moving.verifications import Verifications
from mover.moving.verify import Verify
from mover.policy import Loaded, PolicyBook
from mover.protect.keeping import rules
from mover.tiers import identity as identities
from mover.tiers.locking import object_locks
from mover.tiers.posix import PosixTier
from mover.transfer import Transfer
from tests.rooms.rig import PROJECT, Rig, who
from tests.support.persons import person
from tests.support.postgres import Dsns
from tests.support.seaweed import locked_bucket, object_tier

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
POLICY = ArchivePolicy(name="archive", tier="archive", second_copy="mirror", every_s=3600, share_per_day=1)


class Killed(BaseException):
    """Between two of our own steps; nothing catches it."""


class Ward(Rig):
    """The rig with a mirror of its archive."""

    def __init__(self, folder: Path, dsns: Dsns, database: Database) -> None:
        super().__init__(folder, dsns, database)
        (folder / "mirror").mkdir()
        identity = identities.establish(folder / "mirror", name="mirror", zone="deidentified")
        self.use("mirror", PosixTier("mirror", "deidentified", folder / "mirror", role="archive", identity=identity))

    def use(self, name: str, tier: Any, policy: ArchivePolicy = POLICY) -> None:
        """A tier takes its place, and the rooms are put together anew."""
        self.tiers[name] = tier
        self.rows(
            "insert into mover.tier (name, kind, zone, role, identity, traits)"
            " values (%s, %s, 'deidentified', 'archive', 'test', '{}') on conflict do nothing", name, tier.kind,
        )  # fmt: skip
        places = {
            n: Place("archive", path=self.folder / n if self.tiers[n].kind == "posix" else None)
            for n in ("archive", "mirror") if n in self.tiers
        }  # fmt: skip
        ends = Ends(self.tiers, places)  # type: ignore[arg-type]
        book = PolicyBook([Loaded(policy=policy, file="archive.yaml", text="", digest="")])
        verify = Verify(self.database, ends, Transfer(), node="n1")
        self.verifications = Verifications(self.database, ends, book, node="n1")
        self.archives = Archives(self.database, ends, book, Transfer(), self.verifications, node="n1")
        self.handlers |= {"verify": verify.verify, **self.archives.handlers()}
        self.on_failed |= {"verify": verify.failed, **self.archives.failure_handlers()}

    async def turn(self) -> wire.Archive:
        """A turn to its end, whatever the time, with the readings that it asks for."""
        self.rows("update mover.archive_turn set started_at = started_at - interval '2 hours'")
        await self.archives.begin_due(PROJECT)
        await self.work("archive-keep")
        await self.archives.begin_due(PROJECT)
        await self.work("verify")
        [seen] = (await self.archives.list(PROJECT)).archives
        return seen

    def path(self, tier: str, number: str) -> Path:
        return self.folder / tier / f"slides/{number}/1/{number}.svs"

    def several(self, number: str) -> list[str]:
        """The slide gets a second file, a thumbnail and a sidecar; their keys."""
        one, thumbnail = f"slides/{number}/1/im2.dcm", f"slides/{number}/1/{number}.jpg"
        sidecar = Sidecar(
            number=number, site="ward", family="dicom", extension="svs", key=f"slides/{number}/1/{number}.svs",
            size_bytes=1000, blake3="ab" * 32, segments=(), thumbnail=None, facts={}, evidence={}, created_at="",
            software="t",
        )  # fmt: skip
        for key, data in ((one, b"another"), (thumbnail, b"small"), (sidecar_key(number), encode_sidecar(sidecar))):
            self.tiers["archive"].put(key, [data], size_bytes=len(data))  # type: ignore[attr-defined]
        self.rows("insert into mover.slide_file (number, name, size_bytes, digest, tier, key)"
                  " values (%s, 'im2.dcm', 7, %s, 'archive', %s)",
                  number, blake3(b"another").hexdigest(), one)  # fmt: skip
        self.rows("update mover.slide set files_count = 1, files_bytes = 7, root = %s, thumbnail_key = %s,"
                  " thumbnail_bytes = 5, thumbnail_digest = %s where number = %s",
                  "cd" * 32, thumbnail, blake3(b"small").hexdigest(), number)  # fmt: skip
        return [one, thumbnail, sidecar_key(number)]

    async def read(self, tier: str) -> wire.Verification:
        asked = await self.verifications.request(who(), wire.VerificationRequest(tier=tier))
        await self.work("verify")
        return await self.verifications.view(PROJECT, asked.id)

    def copies(self) -> dict[str, tuple[str, str | None]]:
        return {one.number: (one.state, one.reason) for one in self.rows("select * from mover.slide_copy")}


@pytest.fixture
def ward(tmp_path: Path, dsns: Dsns, database: Database) -> Ward:
    return Ward(tmp_path, dsns, database)


def rot(path: Path) -> None:
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# --- second copies ---------------------------------------------------------------------------------------------


async def test_every_published_slide_is_copied_once_read_back_and_proved(ward: Ward) -> None:
    """The proof is over all files of the slide on that tier; a turn with nothing to do writes nothing."""
    numbers = ward.slides([1000, 70_000, 3])
    beside = ward.several(numbers[0])
    seen = await ward.turn()

    assert (seen.slides, seen.copied, seen.failed, seen.turn and seen.turn.copied) == (3, 3, 0, 3)
    for number in numbers:
        assert ward.path("mirror", number).read_bytes() == ward.path("archive", number).read_bytes()
    [proof, *_] = ward.rows("select p.* from mover.slide_copy c join mover.proof p on p.id = c.proof order by c.number")
    [slide, *_] = ward.rows("select * from mover.slide order by number")
    assert (proof.kind, proof.count, proof.bytes, proof.root) == ("verified", 3, 1000 + 7 + 5, slide.root)
    for key in beside:
        assert (ward.folder / "mirror" / key).read_bytes() == (ward.folder / "archive" / key).read_bytes()
    assert beside[-1] == sidecar_key(numbers[0]) and (await ward.read("mirror")).entries == 5
    assert proof.details == {"tier": "mirror", "from": "archive"}
    assert (await ward.read("mirror")).findings == {}  # nor is a sidecar there a stranger
    again = await ward.turn()
    assert again.turn is not None and (again.turn.state, again.turn.copied, again.late) == ("done", 0, 0)
    assert ward.actions().count("archive kept") == 1


async def test_a_copy_that_was_cut_off_goes_on_and_the_row_is_there_before_the_first_byte(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever removes a slide has to know every tier on which bytes of it may stand."""
    [number] = ward.slides([5000])
    inner = Archives._carry

    def dying(self: Archives, *given: Any) -> Any:
        assert ward.copies() == {number: ("writing", None)} and not ward.path("mirror", number).exists()
        inner(self, *given)
        raise Killed

    monkeypatch.setattr(Archives, "_carry", dying)
    await ward.archives.begin_due(PROJECT)
    with pytest.raises(Killed):
        await ward.archives.keep(await ward.claim("archive-keep"))
    assert ward.copies() == {number: ("writing", None)} and ward.path("mirror", number).exists()
    monkeypatch.setattr(Archives, "_carry", inner)
    ward.lapse()
    await ward.archives.keep(await ward.claim("archive-keep"))

    assert ward.copies() == {number: ("whole", None)}


@pytest.mark.soak
async def test_a_turn_that_is_killed_at_any_of_its_steps_leaves_only_work_to_repeat(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step once the last: no bytes on the mirror without a row, no row that is whole without all its bytes."""
    numbers = ward.slides([1000, 2000, 3000])
    ward.several(numbers[0])
    left = [0]

    def counted(inner: Any) -> Any:
        def step(*given: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return inner(*given, **more)

        return step

    monkeypatch.setattr(Archives, "_carry_file", counted(Archives._carry_file))
    monkeypatch.setattr(Archives, "_carry_sidecar", counted(Archives._carry_sidecar))
    monkeypatch.setattr(ward.database, "project", counted(ward.database.project))
    at = 0
    while True:
        at += 1
        ward.rows("delete from mover.slide_copy")
        ward.rows("delete from mover.archive_turn")
        ward.rows("update mover.shard set state = 'cancelled' where state in ('waiting', 'running')")
        shutil.rmtree(ward.folder / "mirror" / "slides", ignore_errors=True)
        await ward.archives.begin_due(PROJECT)
        shard = await ward.claim("archive-keep")
        left[0] = at
        try:
            await ward.archives.keep(shard)
        except Killed:
            known = ward.copies()
            for path in (ward.folder / "mirror" / "slides").rglob("*"):
                assert path.is_dir() or path.relative_to(ward.folder / "mirror").parts[1] in known
        done, left[0] = left[0] > 0, 0
        ward.lapse()
        if not done:
            await ward.archives.keep(await ward.claim("archive-keep"))
        assert ward.copies() == dict.fromkeys(numbers, ("whole", None))
        assert (await ward.read("mirror")).findings == {}
        if done:
            break
    assert at > 10


async def test_what_is_withdrawn_is_not_copied_and_a_copy_that_was_begun_ends(ward: Ward) -> None:
    numbers = ward.slides([10, 20])
    ward.rows("insert into mover.slide_copy (number, tier) values (%s, 'mirror')", numbers[0])
    for number in numbers:
        ward.rows("insert into mover.slide_withdrawal values (%s, 'identifier-found-later', 'x')", number)
    await ward.turn()

    assert ward.copies() == {numbers[0]: ("failed", "identifier-found-later")}
    assert not any(ward.path("mirror", number).exists() for number in numbers)
    with pytest.raises(psycopg.errors.CheckViolation, match="withdrawn"):
        ward.rows("insert into mover.slide_copy (number, tier) values (%s, 'mirror')", numbers[1])


async def test_the_database_takes_no_copy_for_whole_without_a_proof_over_all_its_files(ward: Ward) -> None:
    """Whatever becomes of our code: a proof of another tier, of fewer files, or none."""
    [number] = ward.slides([10])
    digest = ward.rows("select digest from mover.slide")[0].digest
    ward.rows("insert into mover.slide_copy (number, tier) values (%s, 'mirror')", number)
    for at, (count, root, tier) in enumerate([(2, digest, "mirror"), (1, "cd" * 32, "mirror"), (1, digest, "flash")]):
        ward.rows(
            "insert into mover.proof (id, project_id, kind, subject_id, count, bytes, root, verifier, details)"
            " values (%s, %s, 'verified', %s, %s, 10, %s, 't', jsonb_build_object('tier', %s::text))",
            f"p{at}", PROJECT, number, count, root, tier,
        )  # fmt: skip
        with pytest.raises(psycopg.errors.CheckViolation, match="all files"):
            ward.rows("update mover.slide_copy set state = 'whole', proof = %s", f"p{at}")
    with pytest.raises(psycopg.errors.CheckViolation):
        ward.rows("update mover.slide_copy set state = 'whole'")
    with pytest.raises(psycopg.errors.CheckViolation, match="itself"):
        ward.rows("insert into mover.slide_copy (number, tier) values (%s, 'archive')", number)


async def test_a_stranger_under_the_copys_name_stays_and_is_told(ward: Ward) -> None:
    [number] = ward.slides([10])
    ward.path("mirror", number).parent.mkdir(parents=True)
    ward.path("mirror", number).write_bytes(b"somebody else's")
    ward.rows("update mover.slide set created_at = now() - interval '2 days'")
    seen = await ward.turn()
    await ward.archives.measure(PROJECT)

    assert (seen.copied, seen.failed, seen.late) == (0, 1, 1) and ward.copies() == {number: ("failed", "entry-exists")}
    assert ward.path("mirror", number).read_bytes() == b"somebody else's"
    assert metrics.ARCHIVE_UNCOPIED.labels("archive")._value.get() == 1
    ward.path("mirror", number).unlink()
    assert (await ward.turn()).copied == 1


async def test_a_turn_is_asked_for_by_name_and_one_at_a_time(ward: Ward) -> None:
    ward.slides([10])
    asked = await ward.archives.ask(who(), "archive")
    again = await ward.archives.ask(who(), "archive")
    assert asked.turn is not None and again.turn is not None and asked.turn.started_at == again.turn.started_at
    assert len(ward.rows("select 1 from mover.shard where kind = 'archive-keep'")) == 1
    with pytest.raises(NotFound):
        await ward.archives.ask(who(), "attic")
    assert ward.actions() == ["archive turn asked"]


# --- damage ----------------------------------------------------------------------------------------------------


async def test_both_copies_are_read_again_and_each_is_mended_from_the_other(ward: Ward) -> None:
    """One byte of the first copy, and the whole second of another slide; also what has no entry of its own yet."""
    numbers = ward.slides([5000, 6000])
    await ward.turn()
    whole = {number: ward.path("archive", number).read_bytes() for number in numbers}
    rot(ward.path("archive", numbers[0]))
    ward.path("mirror", numbers[1]).unlink()
    ward.rows("insert into mover.policy values ('archive', 'd', 'archive', '', now() - interval '2 days')")
    assert await ward.verifications.begin_due(PROJECT) == 2
    await ward.work("verify")

    found = ward.rows("select tier, kind, state, repaired_from from mover.verification_finding order by tier")
    assert [tuple(one) for one in found] == [
        ("archive", "bit-rot", "repaired", "mirror"), ("mirror", "missing", "repaired", "archive"),
    ]  # fmt: skip
    for number in numbers:
        assert {ward.path(tier, number).read_bytes() for tier in ("archive", "mirror")} == {whole[number]}


async def test_a_damaged_original_is_not_copied_but_doubted_and_told_as_long_as_it_stands(ward: Ward) -> None:
    """A copy of rot would look like a proof."""
    [number] = ward.slides([5000])
    rot(ward.path("archive", number))
    seen = await ward.turn()
    await ward.archives.measure(PROJECT)

    assert (seen.copied, seen.failed, seen.damaged, seen.doubted) == (0, 1, 1, 0)
    assert not ward.path("mirror", number).exists()
    assert metrics.ARCHIVE_DAMAGED.labels("archive")._value.get() == 1


async def test_a_doubt_about_a_tier_that_another_node_serves_waits_for_that_node(ward: Ward) -> None:
    """A node that cannot read the tier would take the doubt for work and do none."""
    [number] = ward.slides([5000])
    await ward.turn()
    rot(ward.path("mirror", number))
    key = f"slides/{number}/1/{number}.svs"
    ward.rows("insert into mover.archive_doubt (project_id, tier, key, reason) values (%s, 'mirror', %s, 'x')",
              PROJECT, key)  # fmt: skip
    mirror = ward.tiers.pop("mirror")
    await ward.archives.begin_due(PROJECT)
    assert [one.key for one in ward.rows("select key from mover.archive_doubt")] == [key]

    ward.tiers["mirror"] = mirror
    await ward.archives.begin_due(PROJECT)
    await ward.work("verify")
    assert ward.path("mirror", number).read_bytes() == ward.path("archive", number).read_bytes()
    assert ward.rows("select from mover.archive_doubt") == []


async def test_a_copy_that_another_turn_has_made_whole_meanwhile_stays_whole(ward: Ward) -> None:
    """Two projects may keep one archive: of two turns with the same list the slower one finds its slides copied."""
    [number] = ward.slides([5000])
    await ward.turn()
    ward.rows("update mover.archive_turn set started_at = started_at - interval '2 hours'")
    await ward.archives.begin_due(PROJECT)
    [listed] = ward.rows("select %s as number, false as withdrawn", number)
    await ward.archives._copy(await ward.claim("archive-keep"), listed, "archive", "mirror")
    assert ward.copies() == {number: ("whole", None)}


# --- staged again exactly ----------------------------------------------------------------------------------------


async def ready(ward: Ward, files: list[str], key: str = "k", **more: Any) -> wire.Run:
    body = wire.RunRequest(**({"files": files} if files else {}), **more)
    asked = await ward.runs.request(who(), body, key=key)
    await ward.work()
    return await ward.runs.view(PROJECT, asked.id)


def emptied(ward: Ward) -> None:
    """Years later: nothing of it stands on flash."""
    for path in (ward.folder / "flash" / ".mover" / "content").rglob("*"):
        if path.is_file():
            path.unlink()
    ward.rows("delete from mover.content")


def fact(ward: Ward, number: str, grade: int) -> None:
    ward.rows("insert into mover.fact_column (project_id, name, type, table_name) values (%s, 'grade', 'integer', 't')"
              " on conflict do nothing", PROJECT)  # fmt: skip
    ward.rows("insert into mover.batch (id, project_id, tier, policy, folder, created_by) values"
              " ('b', %s, 'intake', 'images', 'f', 'ann') on conflict do nothing", PROJECT)  # fmt: skip
    ward.rows("insert into mover.record_set (id, project_id, batch_id, policy, version, source, created_by) values"
              " ('r', %s, 'b', 'records', 1, 's', 'ann') on conflict do nothing", PROJECT)  # fmt: skip
    ward.rows("insert into mover.aligned (project_id, number, facts, record_set_id) values"
              " (%s, %s, jsonb_build_object('grade', %s::int), 'r')"
              " on conflict (project_id, number) do update set facts = excluded.facts",
              PROJECT, number, grade)  # fmt: skip


async def test_a_dataset_is_staged_again_exactly_from_the_second_copy_and_the_first_is_mended(ward: Ward) -> None:
    """One byte of one slide rotted, another is gone, facts were corrected, and the policy lays out anew: the manifest's
    root is the same. Years lie between, and the scientist does not have to know any of it."""
    numbers = ward.slides([5000, 6000, 7000])
    fact(ward, numbers[0], 3)
    first = await ready(ward, numbers, layout="flat")
    await ward.turn()
    emptied(ward)
    fact(ward, numbers[0], 4)
    rot(ward.path("archive", numbers[0]))
    ward.path("archive", numbers[1]).unlink()
    again = await ready(ward, [], "k2", like=first.id)

    assert (again.state, again.like, again.exact, again.removed) == ("ready", first.id, True, [])
    assert again.manifest_root == first.manifest_root is not None
    other = await ready(ward, numbers, "k3", layout="flat")
    assert other.manifest_root != first.manifest_root and other.like is None
    renamed = await ready(ward, [], "k4", like=first.id, layout="number")
    assert (renamed.state, renamed.like, renamed.exact) == ("ready", first.id, False)
    table = pq.read_table(ward.folder / "flash" / "runs" / renamed.id / "records.parquet").to_pylist()
    assert table[0]["path"] == f"data/{numbers[0]}/{numbers[0]}.svs" and table[0]["grade"] == 4
    assert {row.key: row.reason for row in ward.rows("select * from mover.archive_doubt")} == {
        f"slides/{numbers[0]}/1/{numbers[0]}.svs": "digest-mismatch",
        f"slides/{numbers[1]}/1/{numbers[1]}.svs": "entry-missing",
    }
    seen = await ward.turn()
    assert (seen.damaged, seen.doubted) == (0, 0)
    for number in numbers:
        assert ward.path("archive", number).read_bytes() == ward.path("mirror", number).read_bytes()


async def test_what_has_no_whole_copy_is_refused_with_every_name(ward: Ward) -> None:
    """First found out by staging, all offenders at once; then known, and refused before a byte is moved."""
    numbers = ward.slides([5000, 6000, 7000])
    first = await ready(ward, numbers)
    await ward.turn()
    emptied(ward)
    for number in numbers[:2]:
        rot(ward.path("archive", number))
    rot(ward.path("mirror", numbers[0]))
    ward.path("mirror", numbers[1]).unlink()
    failed = await ready(ward, [], "k2", like=first.id)

    assert (failed.state, failed.reason) in (("cleaned", "archive-lost"), ("failed", "archive-lost"))
    assert sorted(one["number"] for one in failed.offenders) == numbers[:2]
    assert {one["why"] for one in failed.offenders} == {"archive-lost"}
    seen = await ward.turn()
    assert seen.damaged == 4
    with pytest.raises(RunRefused) as refused:
        await ready(ward, [], "k3", like=first.id)
    assert refused.value.details == [{"number": number, "why": "archive-lost"} for number in numbers[:2]]


async def test_while_a_copy_cannot_be_looked_at_a_run_waits(ward: Ward) -> None:
    """An unmounted tier is no loss."""
    [number] = ward.slides([5000])
    await ward.turn()
    ward.path("archive", number).unlink()
    mirror = ward.tiers.pop("mirror")
    waiting = await ready(ward, [number])
    assert waiting.state == "staging" and "tier-unavailable" in str(waiting.explanation)
    ward.tiers["mirror"] = mirror
    ward.due()
    await ward.work()

    assert (await ward.runs.view(PROJECT, waiting.id)).state == "ready"


# --- kept ----------------------------------------------------------------------------------------------------------


async def test_no_file_of_a_slide_is_released_from_either_tier_whatever_our_code_thinks(ward: Ward) -> None:
    """A name alone is not enough: what a transfer took for a stray on the mirror is a dataset's second copy."""
    [number] = ward.slides([1000])
    keys = [f"slides/{number}/1/{number}.svs", *ward.several(number)]
    await ward.turn()
    ward.rows("update mover.slide_file set key = 'rein/größe.dcm'")  # as adopted ones are called
    keys[1] = "rein/größe.dcm"
    ward.rows("insert into mover.transfer (id, project_id, verb, sources, target, request, created_by)"
              " values ('t', %s, 'move', '{mirror}', 'flash', '{}', 'ann')", PROJECT)  # fmt: skip
    for at, tier in enumerate(("archive", "mirror", "protect")):
        ward.rows("insert into mover.release (id, project_id, transfer_id, tier, entries, bytes, hold_s, epoch,"
                  " requested_by) values (%s, %s, 't', %s, 1, 1, 1, '1', 'ann')", tier, PROJECT, tier)  # fmt: skip
        for place, key in enumerate([*map(str.encode, keys), b"slides/other", b"a\xff"]):
            ward.rows(
                "insert into mover.release_entry (project_id, release_id, entry_id, source, size_bytes, digest)"
                " values (%s, %s, %s, %s, 1, %s)", PROJECT, tier, 100 * at + place, key, "ab" * 32,
            )  # fmt: skip
    left = "update mover.release_entry set state = 'leaving', trash = 't', device = 1, inode = 1 where entry_id = %s"
    for at in range(3):
        for place in range(len(keys) + 2):
            if at < 2 and place < len(keys):
                with pytest.raises(psycopg.errors.CheckViolation, match="not released"):
                    ward.rows(left, 100 * at + place)
            else:
                ward.rows(left, 100 * at + place)
    async with ward.database.project(PROJECT) as conn:
        held = await conn.execute("select key from mover.keys_held('mirror', %s)", [keys])
        assert {row[0] for row in await held.fetchall()} == set(keys)


DAY_S = 86_400


async def test_what_a_kept_manifest_names_is_locked_on_and_a_withdrawn_slide_goes_when_its_lock_has_run_out(
    ward: Ward, weed: Seaweed
) -> None:
    """Locks are extended, never shortened, and not for a slide that has to go; a removal says what it waits for. The
    bucket is probed with our own credential, as a repository's is."""
    bucket = locked_bucket(weed, mode="GOVERNANCE")
    policy = msgspec.structs.replace(POLICY, second_copy=None, lock_s=8 * DAY_S, lock_mode="governance")
    ward.use("archive", object_tier(bucket, "archive"), policy)
    pinned, withdrawn, loose = ward.slides([10, 20, 30])
    await ready(ward, [pinned, withdrawn])
    ward.rows("insert into mover.slide_withdrawal values (%s, 'identifier-found-later', 'x')", withdrawn)
    locks = object_locks(ward.tiers["archive"])
    assert locks is not None

    def days(number: str) -> float:
        lock = locks.of(f"slides/{number}/1/{number}.svs")
        assert lock is not None
        return (lock.until - datetime.now(UTC)).total_seconds() / DAY_S

    seen = await ward.turn()
    assert seen.turn is not None and (seen.turn.state, seen.turn.locked, seen.turn.missing) == ("done", 1, 0)
    assert days(pinned) == pytest.approx(8, abs=0.1) and max(days(withdrawn), days(loose)) < 1.1
    assert seen.locked_until is not None
    again = await ward.turn()
    assert again.turn is not None and again.turn.locked == 0
    ward.use("archive", ward.tiers["archive"], msgspec.structs.replace(policy, lock_s=40 * DAY_S))
    await ward.turn()
    assert days(pinned) == pytest.approx(40, abs=0.1)
    ward.use("archive", ward.tiers["archive"], policy)
    await ward.turn()
    assert days(pinned) == pytest.approx(40, abs=0.1)
    with pytest.raises(psycopg.errors.CheckViolation, match="never shortened"):
        ward.rows("update mover.object_lock set until = now()")

    rulings = Rulings(ward.database, ward.tiers, Transfer(), node="n1")
    ward.handlers |= rulings.handlers()
    ward.rows("update mover.run set state = 'cancelled'")
    body = wire.RulingRequest(action="remove", reason="the label's name is in it")
    asked = await rulings.ask(person(ward.dsns, "ann", "operator"), withdrawn, body)
    granted = wire.RulingDecision(decision="grant", reason="looked at it closely", manifests=1)
    await rulings.decide(person(ward.dsns, "cora", "custodian"), asked.id, granted)
    await ward.work("slide-remove")
    waiting = await rulings.view(PROJECT, asked.id)
    assert waiting.state == "granted" and "locked until" in str(waiting.explanation)
    key = f"slides/{withdrawn}/1/{withdrawn}.svs"
    for one in list(locks.control.versions(locks.full_key(key))):
        locks.control.delete_version(one.key, one.id, bypass=True)  # as if a day had passed
    ward.due()
    await ward.work("slide-remove")
    assert (await rulings.view(PROJECT, asked.id)).state == "done"

    book = PolicyBook([Loaded(policy=policy, file="a.yaml", text="", digest="")])
    [rule] = rules(book)
    assert (rule.tier, rule.means, rule.repository) == ("archive", "object lock", False)
    ward.protecting.locks._site.policies._by_name["archive"] = book.loaded("archive")
    assert await ward.protecting.locks.begin_due(PROJECT) == 1
    await ward.work("lock-probe")
    assert (await ward.protecting.locks.told())["archive"].state == "not immutable"  # governance, and our own right


async def test_the_second_copy_may_be_a_bucket_and_the_first_is_mended_from_it(ward: Ward, weed: Seaweed) -> None:
    """Two places that fail in the same way are one."""
    numbers = ward.slides([5000, 6000])
    ward.use("mirror", object_tier(weed, "mirror"))
    first = await ready(ward, numbers)
    seen = await ward.turn()
    assert (seen.copied, seen.late) == (2, 0)
    whole = ward.path("archive", numbers[0]).read_bytes()
    emptied(ward)
    rot(ward.path("archive", numbers[0]))
    again = await ready(ward, [], "k2", like=first.id)

    assert (again.state, again.exact) == ("ready", True)
    seen = await ward.turn()
    assert (seen.damaged, seen.doubted) == (0, 0) and ward.path("archive", numbers[0]).read_bytes() == whole
    assert (await ward.read("mirror")).findings == {}
