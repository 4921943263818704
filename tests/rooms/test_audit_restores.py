"""The catalog restored from an older dump: two people say so, it is told for ever, and nothing hides behind it."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from mover import signing
from mover.audit import checkpoints
from mover.catalog.database import Database
from mover.errors import Conflict, Denied, MoverError, NotFound
from mover.model import wire
from mover.model.access import Identity, Role
from mover.model.checkpoint import ChainEnd, SignedCheckpoint
from mover.oversight.needs import facts_of
from tests.rooms.rig import PROJECT, Rig
from tests.rooms.test_audit import House
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]

# what a dump keeps of the audit, and putting it back
SAVED = ("audit_record", "audit_head", "checkpoint", "checkpoint_copy", "audit_restore", "audit_retirement")


class Ward(House):
    """Records 1 to 2 under checkpoint 1, then a dump; records 3 to 6 under checkpoints 2 and 3 that the dump misses."""

    async def dump(self) -> None:
        for name in SAVED:
            self.rig.rows(f"drop table if exists saved_{name}")
            self.rig.rows(f"create table saved_{name} as table mover.{name}")

    def restore(self) -> None:
        for name in reversed(SAVED):
            self.rig.rows(f"delete from mover.{name}")
        for name in SAVED:
            self.rig.rows(f"insert into mover.{name} select * from saved_{name}")

    async def told(self, count: int) -> None:
        for _ in range(count):
            await self.record()
        await self.checkpoint()

    def both(self, n: int, do: Callable[[Path], object]) -> None:
        for tier in ("archive", "protect"):
            do(self.file(tier, n))

    async def lose(self) -> None:
        await self.told(2)
        await self.dump()
        await self.told(2)
        await self.told(2)
        self.restore()
        await self.told(3)  # the daemon works on: its second checkpoint meets the old one

    def person(self, name: str, role: Role = "admin") -> Identity:
        secret = f"mvr_{name}"
        self.rig.rows(
            "insert into mover.token (id, project_id, hash, actor, role, person, created_at)"
            " values (%s, %s, %s, %s, %s, %s, now() - interval '9 days') on conflict do nothing",
            f"token-{name}", PROJECT, sha256(secret.encode()).digest(), name, role, f"token-{name}",
        )  # fmt: skip
        return Identity(
            actor=name,
            role=role,
            project=PROJECT,
            token_id=f"token-{name}",
            proof=sha256(secret.encode()).digest(),
        )

    async def accept(self) -> wire.AuditRestore:
        asked = await self.trail.ask_restore(self.person("ann"), wire.AuditRestoreRequest("the disk broke"))
        return await self.trail.approve_restore(self.person("cora", "custodian"), asked.id)


@pytest.fixture
def ward(tmp_path: Path, dsns: Dsns, database: Database) -> Ward:
    return Ward(Rig(tmp_path, dsns, database))


async def test_a_loss_that_two_people_know_is_told_for_ever_and_the_audit_goes_on(ward: Ward) -> None:
    """Before, the tiers say `rewritten` and take no checkpoint; afterwards they take them again, what is lost stands
    beside every verdict, and the old checkpoints are where they were."""
    await ward.lose()
    old = [ward.file("archive", n).read_bytes() for n in (1, 2, 3)]
    alarm = await ward.trail.verify(PROJECT)
    assert not alarm.whole and alarm.restored == []

    made = await ward.accept()
    assert (made.state, made.after, made.checkpoint) == ("accepted", 1, 4)
    assert made.lost == [wire.LostRecords(node="n1", kept=2, upto=6)]
    assert await ward.checkpoints.keep(PROJECT) > 0
    verdict = await ward.trail.verify(PROJECT)
    assert verdict.whole and verdict.broken == []
    [told] = verdict.restored
    assert (told.asked_by, told.approved_by, told.reason) == ("ann", "cora", "the disk broke")
    assert told.lost[0].kept == 2 and {one.newest for one in verdict.checkpoints} == {4}

    await ward.told(2)
    assert [ward.file("archive", n).read_bytes() for n in (1, 2, 3)] == old
    assert ward.file("protect", 5).exists() and (await ward.trail.verify(PROJECT)).restored == [told]
    said = msgspec.json.decode(ward.file("protect", 4).read_bytes(), type=SignedCheckpoint).checkpoint.restored
    assert said.approved_by == "cora" and said.lost[0].upto == 6  # type: ignore[union-attr]


async def test_one_person_ends_no_alarm(ward: Ward) -> None:
    await ward.lose()
    ann = ward.person("ann")
    asked = await ward.trail.ask_restore(ann, wire.AuditRestoreRequest("the disk broke"))
    assert (await ward.trail.ask_restore(ann, wire.AuditRestoreRequest("the disk broke"))).id == asked.id
    async with ward.rig.database.project(PROJECT) as conn:
        assert [one.count for one in await facts_of(conn) if one.code == "loss-asked"] == [1]
    with pytest.raises(Denied, match="who asked does not approve"):
        await ward.trail.approve_restore(ann, asked.id)
    with pytest.raises(Denied, match="answers for no audit"):
        await ward.trail.approve_restore(ward.person("olga", "operator"), asked.id)
    young = ward.person("young")
    ward.rig.rows("update mover.token set created_at = now() - interval '23 hours' where actor = 'young'")
    with pytest.raises(Denied, match="nobody here when it was asked"):
        await ward.trail.approve_restore(young, asked.id)
    hers = ward.person("Ann")  # at the socket the machine asks for her, and she has a token besides
    with pytest.raises(Denied, match="one person"):
        await ward.trail.approve_restore(hers, asked.id)
    said = wire.AuditRestoreRequest("the disk broke")
    waits = await ward.trail.ask_restore(young, said)
    with pytest.raises(Denied, match="nobody here when it was asked"):
        await ward.trail.approve_restore(ward.person("cora"), waits.id)
    with pytest.raises(NotFound):
        await ward.trail.approve_restore(ward.person("cora"), "acceptance-of-nobody")
    assert not (await ward.trail.verify(PROJECT)).whole
    assert [one.state for one in (await ward.trail.restores(PROJECT)).restores] == ["asked", "asked"]


async def test_nothing_is_accepted_where_nothing_is_lost(ward: Ward) -> None:
    await ward.told(2)
    with pytest.raises(Conflict, match="nothing is to be accepted"):
        await ward.trail.ask_restore(ward.person("ann"), wire.AuditRestoreRequest("just in case"))


HIDDEN: dict[str, Callable[[Ward], Any]] = {
    # a record that the catalog still has, and that checkpoint 1 proves
    "a record from before": lambda w: w.rig.rows(
        "update mover.audit_record set body = replace(body, 'ann', 'eve') where seq = 1"
    ),
    "the chain from its first record": lambda w: w.rig.rows(
        "delete from mover.audit_record; update mover.audit_head set seq = 0, hash = ''"
    ),
    "a checkpoint of the lost ones": lambda w: w.both(2, Path.unlink),
    "what a lost one says": lambda w: w.both(
        3, lambda file: file.write_bytes(file.read_bytes().replace(b'"seq":6', b'"seq":5'))
    ),
}  # fmt: skip


@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
async def test_a_restore_explains_no_other_change(ward: Ward, hide: Callable[[Ward], Any]) -> None:
    """Two people who want to help must not sign away what somebody rewrote in the shadow of the loss."""
    await ward.lose()
    hide(ward)
    with pytest.raises(Conflict):
        await ward.trail.ask_restore(ward.person("ann"), wire.AuditRestoreRequest("the disk broke"))


async def test_only_keys_that_root_wrote_down_are_believed(ward: Ward, tmp_path: Path) -> None:
    """A dump from before the first checkpoint knows no key, and its owner could say any: checkpoints that a thief
    signed anew, and that tell of fewer records, would be the last word, with nothing lost."""
    await ward.record()
    await ward.dump()
    first = ward.rig.rows("select hash from mover.audit_record")[0].hash
    await ward.told(2)
    await ward.told(2)
    true = {n: ward.file("archive", n).read_bytes() for n in (1, 2)}
    stolen = tmp_path / "stolen.key"
    fingerprint, previous = signing.new_key(stolen), ""
    for n in (1, 2):
        told = checkpoints.decoded(true[n]).checkpoint
        told = msgspec.structs.replace(told, previous=previous, heads=(ChainEnd("n1", 1, bytes(first).hex()),))
        body, _ = checkpoints._signed(told, signing.load_key(stolen))
        previous = blake3(body).hexdigest()
        ward.both(n, lambda file, body=body: file.write_bytes(body))  # type: ignore[misc]
    known = ward.rig.rows("select fingerprint from mover.checkpoint")[0].fingerprint
    ward.restore()
    ann, why = ward.person("ann"), wire.AuditRestoreRequest("the disk broke")
    with pytest.raises(Conflict, match=f"signed by {fingerprint}, which is no key of this site"):
        await ward.trail.ask_restore(ann, why)
    for n in (1, 2):
        ward.both(n, lambda file, body=true[n]: file.write_bytes(body))  # type: ignore[misc]
    # the site has a new key since; what the one before signed counts where root wrote it down
    ward.key.unlink()
    signing.new_key(ward.key)
    with pytest.raises(Conflict, match=f"signed by {known}"):
        await ward.trail.ask_restore(ann, why)
    ward.checkpoints._before = (known.replace(" ", ""),)
    assert [one.upto for one in (await ward.accept()).lost] == [5]


FORGED: dict[str, Callable[[Ward], Any]] = {
    "the row alone": lambda w: w.rig.rows("update mover.audit_restore set facts = jsonb_set(facts, '{after}', '0')"),
    "the row is gone": lambda w: w.rig.rows("delete from mover.audit_restore"),
    "its record says less": lambda w: w.rig.rows(
        "update mover.audit_record set body = replace(body, '\"upto\": 6', '\"upto\": 3')"
        " where body like '%%restore accepted%%'"
    ),
    "a record from before": lambda w: w.rig.rows(
        "update mover.audit_record set body = replace(body, 'ann', 'eve') where seq = 1"
    ),
    "a record from after": lambda w: w.rig.rows(
        "delete from mover.audit_record where seq > 3; update mover.audit_head set seq = 3,"
        " hash = (select hash from mover.audit_record where seq = 3)"
    ),
    "the copies' word is taken out": lambda w: w.file("archive", 4).unlink(),
}  # fmt: skip


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
async def test_a_statement_that_was_forged_or_used_again_is_found(ward: Ward, forge: Callable[[Ward], Any]) -> None:
    await ward.lose()
    await ward.accept()
    await ward.checkpoints.keep(PROJECT)
    assert (await ward.trail.verify(PROJECT)).whole
    forge(ward)
    assert not (await ward.trail.verify(PROJECT)).whole


async def test_a_statement_that_only_a_thief_with_the_key_signed_excuses_nothing(ward: Ward) -> None:
    """The copies say that two people accepted; the catalog knows of nobody who did."""
    await ward.told(2)
    await ward.told(2)
    before = msgspec.json.decode(ward.file("archive", 2).read_bytes(), type=SignedCheckpoint).checkpoint
    said = {"id": "acceptance-x", "reason": "x", "asked_by": "a", "approved_by": "b", "after": 0,
            "lost": [{"node": "n1", "kept": 0, "upto": 4}]}  # fmt: skip
    made = msgspec.convert(msgspec.to_builtins(before) | {"restored": said}, type=type(before))
    ward.file("archive", 2).write_bytes(checkpoints._signed(made, signing.load_key(ward.key))[0])
    verdict = await ward.trail.verify(PROJECT)
    [archive] = [one for one in verdict.checkpoints if one.tier == "archive"]
    assert archive.problems == ["checkpoint 2: it tells of a restore that no two people accepted"]


async def test_a_kill_in_mid_approval_leaves_all_or_nothing(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the new checkpoint is signed: the statement still waits, and approving again ends it."""
    await ward.lose()
    asked = await ward.trail.ask_restore(ward.person("ann"), wire.AuditRestoreRequest("the disk broke"))
    cora = ward.person("cora")

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "_signed", killed)
        with pytest.raises(Killed):
            await ward.trail.approve_restore(cora, asked.id)
    [waiting] = (await ward.trail.restores(PROJECT)).restores
    assert waiting.state == "asked" and not (await ward.trail.verify(PROJECT)).whole
    assert (await ward.trail.approve_restore(cora, asked.id)).state == "accepted"
    assert (await ward.trail.verify(PROJECT)).whole is False  # no tier tells it yet
    await ward.checkpoints.keep(PROJECT)
    assert (await ward.trail.verify(PROJECT)).whole


async def test_a_second_restore_takes_the_first_statement_with_it_and_says_so(ward: Ward) -> None:
    """Back to a dump from before the first acceptance: what that excused is lost again, and told again."""
    await ward.lose()
    await ward.accept()
    await ward.told(1)
    ward.restore()
    assert not (await ward.trail.verify(PROJECT)).whole
    made = await ward.accept()
    await ward.checkpoints.keep(PROJECT)
    verdict = await ward.trail.verify(PROJECT)
    assert verdict.whole and [one.id for one in verdict.restored] == [made.id]
    assert made.after == 1 and made.lost[0].kept == 2


async def test_tiers_that_changed_since_it_was_asked_are_looked_at_anew(ward: Ward) -> None:
    await ward.lose()
    asked = await ward.trail.ask_restore(ward.person("ann"), wire.AuditRestoreRequest("the disk broke"))
    ward.both(3, Path.unlink)
    with pytest.raises(MoverError, match="something else than when this was asked"):
        await ward.trail.approve_restore(ward.person("cora"), asked.id)
