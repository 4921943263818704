"""The oldest records leave the catalog for a pack: by two people, after six years, and nothing is lost or hidden by it.

Records are six years old here because the database that is tried writes old stamps for a while (`Old.long_ago`): the
floor itself is the real one.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from mover import audit, signing
from mover.api.audit import Trail
from mover.audit import checkpoints, retirements
from mover.audit.packcheck import check_pack, matching
from mover.catalog.database import Database, refusals
from mover.cli.audit import command, sheet_of
from mover.decide.retiring import years_before
from mover.errors import Conflict, Denied, MoverError, NotFound, TierFull
from mover.model import wire
from mover.model.access import Identity
from mover.model.checkpoint import ChainEnd, Checkpoint, SignedCheckpoint, pack_key_of
from mover.oversight.needs import facts_of
from tests.rooms.rig import OTHER, PROJECT, Rig
from tests.rooms.test_audit import POLICY, House, _lines_of, _resigned, judged, packed
from tests.rooms.test_audit_restores import Ward
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
__all__ = ["packed"]

BEFORE = years_before(datetime.now(UTC), 6) - timedelta(days=90)
TIERS = ("archive", "protect")


def stamped(rig: Rig, years: int) -> None:
    """From now on the database writes records as it did so many years ago."""
    [row] = rig.rows("select pg_get_functiondef('mover.audit_append(text, text, text)'::regprocedure) as text")
    past = f"clock_timestamp() - interval '{years} years'"
    text = re.sub(r"clock_timestamp\(\)( - interval '\d+ years')?", past, row.text)
    rig.rows(text.replace("%", "%%"))


class Old(Ward):
    """Records 1 to 6 are seven years old; what follows is of today. A checkpoint on both tiers covers all."""

    def __init__(self, rig: Rig, *, years: int | None = 6) -> None:
        super().__init__(rig)
        self.trail = Trail(rig.database, self.checkpoints, node="n1", site="ward", key_file=self.key, years=years)
        self.room = self.trail._retirements

    async def fill(self) -> None:
        stamped(self.rig, 7)
        await self.told(6)
        stamped(self.rig, 0)
        await self.told(2)

    async def ask(self, who: Identity | None = None, before: datetime = BEFORE) -> wire.AuditRetirement:
        body = wire.AuditRetirementRequest(before, "the disk of the catalog")
        return await self.trail.ask_retirement(who or self.person("ann"), body)

    async def retire(self) -> wire.AuditRetirement:
        asked = await self.ask()
        await self.trail.approve_retirement(self.person("cora", "custodian"), asked.id)
        await self.checkpoints.keep(PROJECT)
        assert await self.trail.retire(PROJECT) == asked.records
        return [one for one in (await self.trail.retirements(PROJECT)).retirements if one.id == asked.id][0]

    def pack_file(self, tier: str, id: str) -> Path:
        return self.rig.folder / tier / pack_key_of(PROJECT, id)

    def records(self) -> list[int]:
        return [row.seq for row in self.rig.rows("select seq from mover.audit_record where node = 'n1' order by seq")]

    async def whole(self) -> bool:
        return (await self.trail.verify(PROJECT)).whole

    def wants(self, **other: Any) -> dict[str, Any]:
        """What the database is asked, with something else here and there."""
        [at] = self.rig.rows("select encode(hash, 'hex') as hash from mover.audit_record where node = 'n1' and seq = 6")
        chains = [{"node": "n1", "after": 0, "upto": 6, "hash": at.hash}]
        return {"id": "retirement-x", "before": BEFORE, "years": 6, "chains": chains, "digest": "0" * 64, "bytes": 9,
                "tiers": list(TIERS), "reason": "room", "node": "n1"} | other  # fmt: skip

    async def asked_directly(self, who: Identity, project: str = PROJECT, **other: Any) -> None:
        values = self.wants(**other)
        values["chains"] = msgspec.json.encode(values["chains"]).decode()
        async with self.rig.database.project(project) as conn:
            with refusals():
                await conn.execute(retirements._Q["ask"], values | {"proof": who.proven, "actor": who.actor})

    async def retired_directly(self, id: str) -> int:
        return await self.room._retire(PROJECT, id)


@pytest.fixture
async def old(tmp_path: Path, dsns: Dsns, database: Database) -> Old:
    made = Old(Rig(tmp_path, dsns, database))
    await made.fill()
    return made


# --- the way it goes -----------------------------------------------------------------------------------------


async def test_old_records_leave_for_a_pack_on_every_tier_and_the_audit_goes_on(old: Old, tmp_path: Path) -> None:
    planned = await old.trail.plan_retirement(PROJECT, wire.AuditRetirementRequest(BEFORE, "room"))
    assert planned.counts == {"records": 6, "chains": 1} and old.records() == list(range(1, 9))
    made = await old.retire()
    assert (made.state, made.records, made.left) == ("retired", 6, 0)
    assert made.chains == [wire.RetiredRecords(node="n1", after=0, upto=6)]

    one, other = (old.pack_file(tier, made.id) for tier in TIERS)
    assert one.read_bytes() == other.read_bytes()
    found = check_pack(one, trusted=[old.fingerprint])
    assert found.whole and found.problems == () and found.ranges[0].upto == 6 and found.retirement == made.id
    assert [line.seq for line, _ in matching(one, actor="ann")] == [1, 2, 3, 4, 5, 6]
    assert list(matching(one, action="danced")) == []

    verdict = await old.trail.verify(PROJECT)
    assert verdict.whole and verdict.broken == [] and old.records()[0] == 7
    assert [told.id for told in verdict.retired] == [made.id]
    # asked, approved, and that they left: a record each
    assert old.records() == [7, 8, 9, 10, 11]
    page = await old.trail.page(PROJECT, audit.Wanted(action="audit re"), after=None, limit=9)
    said = ["audit records retired", "audit retirement approved", "audit retirement asked"]
    assert [one.body["action"] for one in page.records] == said and page.earlier == [made.pack]
    exported = b"".join([piece async for piece in old.trail.export(PROJECT)]).splitlines()
    assert msgspec.json.decode(exported[0])["pack"] == made.digest and len(exported) == 6

    await old.told(2)
    assert await old.whole() and await old.trail.retire(PROJECT) == 0
    answer = await old.answers().answer(PROJECT, "log", None)
    assert answer.tone == "good" and "6 older records that two people let go" in answer.answer
    history = await old.answers().answer(PROJECT, "history", "x")
    assert made.id in history.answer


@pytest.mark.parametrize(("years", "why"), [(None, "for ever"), (8, "younger than 8 years")])
async def test_the_settings_say_for_how_long_records_are_kept(old: Old, years: int | None, why: str) -> None:
    asked = await old.ask()
    old.room._years = years
    with pytest.raises(Conflict, match=why):
        await old.ask()
    with pytest.raises(Conflict, match=why):
        await old.trail.approve_retirement(old.person("cora"), asked.id)
    assert old.records()[:8] == list(range(1, 9))


# --- what the database refuses by itself --------------------------------------------------------------------


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "too young": ("younger than six years", {"before": datetime.now(UTC) - timedelta(days=6 * 365)}),
    "no retention": ("for ever", {"years": None}),
    "a longer one": ("for longer", {"years": 8}),
    "a lower floor": ("younger than six years", {"years": 1, "before": datetime.now(UTC) - timedelta(days=800)}),
    "not the beginning": ("only the oldest", {"after": 1}),
    "more than there are": ("only the oldest", {"upto": 60}),
    "a young one among them": ("younger than that day", {"upto": 7}),
    "another end": ("does not say this", {"hash": "0" * 64}),
    "no such chain": ("only the oldest", {"node": "n9"}),
    "a chain twice": ("each chain once", {"twice": True}),
    "no chain": ("each chain once", {"chains": []}),
    "a tier without a checkpoint": ("no signed checkpoint", {"tiers": ["archive", "flash"]}),
}  # fmt: skip


@pytest.mark.parametrize(("why", "other"), REFUSED.values(), ids=REFUSED)
async def test_the_database_lets_nothing_else_be_asked(old: Old, why: str, other: dict[str, Any]) -> None:
    """Whoever has the daemon's login and a person's token gets no further than the daemon."""
    values = dict(other)
    chains = old.wants()["chains"]
    for name in ("after", "upto", "hash", "node"):
        if name in values:
            chains[0][name] = values.pop(name)
    if values.pop("twice", False):
        chains = [*chains, *chains]
    with pytest.raises(Conflict, match=why):
        await old.asked_directly(old.person("ann"), **({"chains": chains} | values))
    assert old.records() == list(range(1, 9)) and (await old.trail.retirements(PROJECT)).retirements == []


async def test_another_projects_records_and_requests_are_not_there(old: Old) -> None:
    eve = old.person("eve")
    with pytest.raises(MoverError):
        await old.asked_directly(eve, project=OTHER)
    asked = await old.ask()
    async with old.rig.database.project(OTHER) as conn:
        for name, values in (("approve", {"proof": None, "actor": "eve"}), ("retire", {"limit": 9})):
            with pytest.raises(NotFound), refusals():
                async with conn.transaction():
                    await conn.execute(retirements._Q[name], {"id": asked.id, "node": "n1"} | values)


async def test_one_person_lets_nothing_go(old: Old) -> None:
    ann = old.person("ann")
    asked = await old.ask(ann)
    async with old.rig.database.project(PROJECT) as conn:
        assert [one.count for one in await facts_of(conn) if one.code == "retirement-asked"] == [1]
    with pytest.raises(Denied, match="who asked does not approve"):
        await old.trail.approve_retirement(ann, asked.id)
    with pytest.raises(Denied, match="answers for no audit"):
        await old.trail.approve_retirement(old.person("olga", "operator"), asked.id)
    with pytest.raises(Denied, match="answers for no audit"):
        await old.asked_directly(old.person("olga", "operator"))
    young = old.person("young")
    old.rig.rows("update mover.token set created_at = now() - interval '23 hours' where actor = 'young'")
    with pytest.raises(Denied, match="nobody here when it was asked"):
        await old.trail.approve_retirement(young, asked.id)
    with pytest.raises(Denied, match="one person"):
        await old.trail.approve_retirement(old.person("Ann"), asked.id)
    machine = Identity(actor="root", role="admin", project=PROJECT)
    for says in (lambda: old.trail.approve_retirement(machine, asked.id), lambda: old.asked_directly(machine)):
        with pytest.raises(Denied, match="machine lets no record go"):
            await says()
    with pytest.raises(NotFound):
        await old.trail.approve_retirement(old.person("cora"), "retirement-of-nobody")
    with pytest.raises(Denied, match="no second person"):
        await old.retired_directly(asked.id)
    old.rig.rows("update mover.audit_retirement set lapses_at = now() - interval '1 hour'")
    with pytest.raises(Conflict, match="lapsed"):
        await old.trail.approve_retirement(old.person("cora"), asked.id)
    assert await old.trail.retire(PROJECT) == 0 and old.records()[:6] == [1, 2, 3, 4, 5, 6]
    assert [one.state for one in (await old.trail.retirements(PROJECT)).retirements] == ["lapsed"]


async def test_no_record_leaves_before_every_tier_says_so_and_holds_the_pack(old: Old) -> None:
    asked = await old.ask()
    await old.trail.approve_retirement(old.person("cora"), asked.id)
    with pytest.raises(Conflict, match="no checkpoint yet"):
        await old.retired_directly(asked.id)
    assert await old.trail.retire(PROJECT) == 0 and old.records()[0] == 1
    await old.checkpoints.keep(PROJECT)
    assert await old.whole()
    with pytest.raises(Conflict, match="already"):
        await old.trail.approve_retirement(old.person("dora"), asked.id)
    pack = old.pack_file("protect", asked.id)
    good = pack.read_bytes()
    for bad in (None, good[:-9], good.replace(good[9:13], b"0000", 1)):
        pack.unlink() if bad is None else pack.write_bytes(bad)
        assert await old.trail.retire(PROJECT) == 0 and old.records()[0] == 1
        assert not await old.whole()
    pack.write_bytes(good)
    assert await old.trail.retire(PROJECT) == 6 and await old.whole()
    said = msgspec.json.decode(old.file("archive", 3).read_bytes(), type=SignedCheckpoint).checkpoint.retired
    assert (said.approved_by, said.pack, said.chains[0].upto) == ("cora", asked.digest, 6)  # type: ignore[union-attr]


async def test_open_work_a_hold_and_an_undecided_restore_keep_records(old: Old) -> None:
    ann = old.person("ann")
    old.rig.rows("insert into mover.shard (id, project_id, queue, kind, subject_id) values ('s', %s, 'q', 'k', 'x')",
                 PROJECT)  # fmt: skip
    with pytest.raises(Conflict, match="work that is not done, or a hold"):
        await old.asked_directly(ann)
    old.rig.rows("update mover.shard set state = 'done', finished_at = now()")
    old.rig.rows("insert into mover.audit_restore (project_id, id, n, facts, reason, asked_by, asked_person) values"
                 " (%s, 'acceptance-x', 9, '{}', 'a disk', 'ann', 'ann')", PROJECT)  # fmt: skip
    with pytest.raises(Conflict, match="still to be decided"):
        await old.asked_directly(ann)
    old.rig.rows("delete from mover.audit_restore")
    await old.asked_directly(ann)


async def test_nothing_leaves_where_nothing_is_old_enough_or_no_tier_takes_it(old: Old) -> None:
    long_before = BEFORE - timedelta(days=3650)
    with pytest.raises(Conflict, match="no record is older"):
        await old.ask(before=long_before)
    planned = await old.trail.plan_retirement(PROJECT, wire.AuditRetirementRequest(long_before, "room"))
    assert planned.steps == []
    old.checkpoints._policies = []
    with pytest.raises(Conflict, match="no tier takes checkpoints"):
        await old.ask()


async def test_a_pack_counts_only_as_it_came_back_and_by_the_sites_own_key(
    old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tier that loses bytes, a disk that is full, a key that root never wrote down: nobody is asked to agree."""
    protect = old.rig.tiers["protect"]
    stream = protect.stream
    with monkeypatch.context() as patched:
        patched.setattr(protect, "stream", lambda key, **how: list(stream(key, **how))[:-1])
        with pytest.raises(Conflict, match="another pack than it was given"):
            await old.ask()
    with monkeypatch.context() as patched:
        patched.setattr(retirements, "_pieces", lambda path: full())
        with pytest.raises(TierFull):
            await old.ask()
    old.key.unlink()
    signing.new_key(old.key)
    with pytest.raises(Conflict, match="does not hold by itself") as refused:
        await old.ask()
    assert any("not one you trust" in str(one["problem"]) for one in refused.value.details)
    old.checkpoints._before = (old.fingerprint,)
    await old.ask()


def full() -> Iterator[bytes]:
    yield b"some"
    raise OSError(errno.ENOSPC, "no space left on device")


async def test_a_tier_that_holds_packs_is_asked_for_when_no_policy_names_it_any_more(old: Old) -> None:
    made = await old.retire()
    old.checkpoints._policies = [msgspec.structs.replace(POLICY, targets=("archive",))]
    assert await old.whole()
    old.pack_file("protect", made.id).unlink()
    assert not await old.whole()
    del old.checkpoints._tiers["protect"]  # type: ignore[attr-defined]
    told = {one.tier: one.unread for one in (await old.trail.verify(PROJECT)).checkpoints}
    assert told == {"archive": None, "protect": "tier-unavailable"}


async def test_a_pack_that_no_tier_gave_was_not_read(old: Old) -> None:
    """The catalog has those records no more: nobody may call that good."""
    made = await old.retire()
    old.checkpoints._policies = [msgspec.structs.replace(POLICY, targets=("archive",))]
    protect = old.checkpoints._tiers.pop("protect")  # type: ignore[attr-defined]
    answer = await old.answers().answer(PROJECT, "log", None)
    assert answer.tone == "good" and "not read, because they are away: protect" in answer.answer
    assert answer.answer.partition("signed copies on ")[2].startswith("archive")
    # the archive has it, too: a tier that is gone for good keeps nothing back
    await old.room._whole(PROJECT)

    old.checkpoints._tiers["protect"] = protect  # type: ignore[index]
    old.checkpoints._policies = [msgspec.structs.replace(POLICY, targets=("protect",))]
    del old.checkpoints._tiers["archive"]  # type: ignore[attr-defined]
    (old.rig.folder / "protect").rename(old.rig.folder / "away")
    verdict = await old.trail.verify(PROJECT)
    assert [one.id for one in verdict.packs_unread] == [made.id]
    answer = await old.answers().answer(PROJECT, "log", None)
    assert answer.tone == "warn" and "of 6 older records no pack was read" in answer.answer
    with pytest.raises(Conflict, match="cannot be read now: archive, protect"):
        await old.room._whole(PROJECT)


async def test_a_daemon_that_lacks_a_tier_of_the_policies_retires_onto_no_others(old: Old) -> None:
    protect = old.checkpoints._tiers.pop("protect")  # type: ignore[attr-defined]
    with pytest.raises(Conflict, match="lacks tiers that take checkpoints: protect"):
        await old.ask()
    assert not list((old.rig.folder / "archive").rglob("*.audit"))
    old.checkpoints._tiers["protect"] = protect  # type: ignore[index]
    assert (await old.ask()).tiers == list(TIERS)


async def test_who_may_not_ask_leaves_no_pack_and_one_request_waits_at_a_time(old: Old) -> None:
    def packs() -> int:
        return len(list((old.rig.folder / "archive").rglob("*.audit")))

    machine = Identity(actor="root", role="admin", project=PROJECT)
    for who in (machine, old.person("olga", "operator")):
        with pytest.raises(Denied):
            await old.ask(who)
    assert packs() == 0
    await old.ask()
    for who in (old.person("ann"), old.person("cora")):
        with pytest.raises(Conflict, match="waits already"):
            await old.ask(who)
        with pytest.raises(Conflict, match="waits already"):
            await old.asked_directly(who)
    assert packs() == 1
    old.rig.rows("update mover.audit_retirement set lapses_at = now() - interval '1 hour'")
    await old.ask()
    states = [(one.state, one.pack) for one in (await old.trail.retirements(PROJECT)).retirements]
    assert {state for state, _ in states} == {"asked", "lapsed"} and packs() == 2 == len({pack for _, pack in states})


async def test_an_audit_that_is_not_whole_or_not_known_loses_nothing(old: Old) -> None:
    place = old.rig.folder / "protect"
    place.rename(old.rig.folder / "away")
    with pytest.raises(MoverError, match="cannot be read now"):
        await old.ask()
    (old.rig.folder / "away").rename(place)
    asked = await old.ask()
    old.rig.rows("update mover.audit_record set body = replace(body, 'ann', 'eve') where seq = 7")
    with pytest.raises(Conflict, match="not whole"):
        await old.ask()
    with pytest.raises(Conflict, match="not whole"):
        await old.trail.approve_retirement(old.person("cora"), asked.id)


# --- kills ---------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def killed(*_: object, **__: object) -> None:
    raise Killed


async def test_a_kill_between_two_steps_leaves_an_audit_that_verifies_and_goes_on(
    old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(retirements.Retirements, "_check", killed)
        with pytest.raises(Killed):
            await old.ask()
    assert await old.whole() and (await old.trail.retirements(PROJECT)).retirements == []
    asked, cora = await old.ask(), old.person("cora")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "_signed", killed)
        with pytest.raises(Killed):
            await old.trail.approve_retirement(cora, asked.id)
    [waiting] = (await old.trail.retirements(PROJECT)).retirements
    assert waiting.state == "asked" and await old.whole()
    await old.trail.approve_retirement(cora, asked.id)
    await old.checkpoints.keep(PROJECT)

    monkeypatch.setattr(retirements, "BATCH", 4)
    assert await old.retired_directly(asked.id) == 4  # and the daemon is killed
    verdict = await old.trail.verify(PROJECT)
    assert verdict.whole and old.records()[0] == 5 and verdict.retired[0].left == 2
    with pytest.raises(Conflict, match="still leaving"):
        await old.asked_directly(old.person("ann"), chains=[old.wants()["chains"][0] | {"after": 4}])
    assert await old.trail.retire(PROJECT) == 2 and await old.whole()
    left = [row for row in old.rig.rows("select body from mover.audit_record where body like '%%records retired%%'")]
    assert len(left) == 2, "each piece has one record"


# --- what somebody hides behind it ---------------------------------------------------------------------------


def further(old: Old) -> None:
    """The owner of the database lets another record go, by the same words in the row."""
    [at] = old.rig.rows("select encode(hash, 'hex') as hash from mover.audit_record where seq = 8")
    chains = msgspec.json.encode([{"node": "n1", "after": 0, "upto": 8, "hash": at.hash}]).decode()
    old.rig.rows("delete from mover.audit_record where seq <= 8")
    old.rig.rows("update mover.audit_retirement set chains = %s::jsonb", chains)


def another(old: Old, *, after: int = 6, upto: int = 8, n: str = "n + 1", tiers: str = "tiers") -> None:
    """And writes a retirement of his own, with its record in the chain: two names that said nothing."""
    [at] = old.rig.rows("select encode(hash, 'hex') as hash from mover.audit_record where seq = %s", upto)
    chains = msgspec.json.encode([{"node": "n1", "after": after, "upto": upto, "hash": at.hash}]).decode()
    old.rig.rows("insert into mover.audit_retirement select project_id, 'retirement-forged', before, %s::jsonb,"
                 f" carried, digest, bytes, {tiers}, {n}, reason, asked_by, asked_person, asked_at, lapses_at,"
                 " approved_by, approved_person, approved_at from mover.audit_retirement", chains)  # fmt: skip
    [row] = old.rig.rows("select jsonb_build_object('checkpoint', n, 'chains', chains, 'pack', digest) as said"
                         " from mover.audit_retirement where id = 'retirement-forged'")  # fmt: skip
    body = {"action": "audit retirement approved", "actor": "cora", "subject": "retirement-forged", "details": row.said}
    old.rig.rows("select mover.audit_append(%s, 'n1', %s) from set_config('mover.project', %s, true)", PROJECT,
                 msgspec.json.encode(body).decode(), PROJECT)  # fmt: skip
    old.rig.rows("delete from mover.audit_record where seq <= 8")


FORGED: dict[str, Callable[[Old], Any]] = {
    "more records are gone": lambda o: o.rig.rows("delete from mover.audit_record where seq = 7"),
    "the row says more": further,
    "another retirement is invented": another,
    "another one beside it, on tiers that nobody has": lambda o: (
        o.rig.rows("drop index mover.audit_retirement_once"), another(o, n="n", tiers="'{nowhere}'")
    ),
    "another one after it, on tiers that nobody has": lambda o: another(o, tiers="'{nowhere}'"),
    "another one, all of whose records still stand": lambda o: another(
        o, after=8, upto=10, n="999", tiers="'{nowhere}'"
    ),
    "the row is gone": lambda o: o.rig.rows("delete from mover.audit_retirement"),
    "its record says less": lambda o: o.rig.rows(
        "update mover.audit_record set body = replace(body, '\"upto\": 6', '\"upto\": 3')"
        " where body like '%%approved%%'"
    ),
    "its record is gone": lambda o: o.rig.rows(
        "delete from mover.audit_record where body like '%%retirement approved%%'"
    ),
    "the row names another end": lambda o: o.rig.rows(
        "update mover.audit_retirement set chains = jsonb_set(chains, '{0,hash}', to_jsonb(repeat('0', 64)))"
    ),
    "the row names another pack": lambda o: o.rig.rows("update mover.audit_retirement set digest = repeat('0', 64)"),
    "the row names another person": lambda o: o.rig.rows("update mover.audit_retirement set approved_by = 'eve'"),
    "the row carries another word": lambda o: o.rig.rows(
        "update mover.audit_retirement set carried = '{acceptance-x}'"
    ),
    "the row names other tiers": lambda o: o.rig.rows("update mover.audit_retirement set tiers = '{archive}'"),
    "the row names another day": lambda o: o.rig.rows("update mover.audit_retirement set before = now()"),
    "a pack is gone": lambda o: next((o.rig.folder / "archive/.mover/audit-packs").rglob("*.audit")).unlink(),
    "the copies' word is taken out": lambda o: o.file("archive", 3).unlink(),
    "the chain is gone": lambda o: o.rig.rows("delete from mover.audit_record; delete from mover.audit_head"),
    "a record that stands": lambda o: o.rig.rows(
        "update mover.audit_record set body = replace(body, 'ann', 'eve') where seq = 8"
    ),
    "the end is cut off": lambda o: o.rig.rows(
        "delete from mover.audit_record where seq > 9; update mover.audit_head set seq = 9,"
        " hash = (select hash from mover.audit_record where seq = 9)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
async def test_whatever_moves_the_beginning_of_a_chain_is_found(old: Old, forge: Callable[[Old], Any]) -> None:
    await old.retire()
    await old.told(1)
    assert await old.whole()
    forge(old)
    assert not await old.whole()


def widened(old: Old, upto: int) -> None:
    """The owner of the database lets a request name more than the pack holds that was made for it."""
    [at] = old.rig.rows("select encode(hash, 'hex') as hash from mover.audit_record where seq = %s", upto)
    chains = msgspec.json.encode([{"node": "n1", "after": 0, "upto": upto, "hash": at.hash}]).decode()
    old.rig.rows("update mover.audit_retirement set before = %s, chains = %s::jsonb", BEFORE, chains)


async def three_of_them(old: Old) -> wire.AuditRetirement:
    """A request about records 1 to 3; six could leave."""
    [fourth] = old.rig.rows("select at from mover.audit_record where seq = 4")
    asked = await old.ask(before=fourth.at)
    assert asked.records == 3
    return asked


async def test_a_request_that_names_more_than_its_pack_holds_is_not_approved(old: Old) -> None:
    """Widened between the two persons: the second would let go what stands nowhere else."""
    asked = await three_of_them(old)
    widened(old, 6)
    with pytest.raises(Conflict, match="does not hold the records"):
        await old.trail.approve_retirement(old.person("cora"), asked.id)
    assert await old.trail.retire(PROJECT) == 0 and old.records()[:6] == [1, 2, 3, 4, 5, 6]


async def test_the_pack_of_a_lapsed_request_vouches_for_no_other_records(old: Old) -> None:
    """Whoever owns the database and the signing key makes the two persons, the record and the checkpoint himself; the
    daemon carries that to the tiers. The pack that lies there holds other records, and it says so."""
    asked = await three_of_them(old)
    widened(old, 8)
    old.rig.rows("update mover.audit_retirement set before = now(), approved_by = 'cora', approved_person = 'c',"
                 " approved_at = now(), lapses_at = now() - interval '1 day', n = 3")  # fmt: skip
    [row] = old.rig.rows("select r.*, jsonb_build_object('checkpoint', n, 'chains', chains, 'pack', digest) as said"
                         " from mover.audit_retirement r")  # fmt: skip
    body = {"action": "audit retirement approved", "actor": "cora", "subject": asked.id, "details": row.said}
    old.rig.rows("select mover.audit_append(%s, 'n1', %s) from set_config('mover.project', %s, true)", PROJECT,
                 msgspec.json.encode(body).decode(), PROJECT)  # fmt: skip
    async with old.rig.database.project(PROJECT) as conn:
        newest = await checkpoints._Q.one(conn, "newest", project=PROJECT)
        ends = tuple(ChainEnd(one.node, one.seq, one.hash.hex()) for one in await audit.heads(conn, PROJECT))
        site, at = old.checkpoints.stamp()
        made = Checkpoint(site=site, project=PROJECT, n=3, at=at, heads=ends, previous=newest.digest,
                          retired=checkpoints.retired_of(row))  # fmt: skip
        await checkpoints.add(conn, PROJECT, 3, *old.checkpoints.signed(made))
    await old.checkpoints.keep(PROJECT)
    assert await old.trail.retire(PROJECT) == 0 and old.records()[0] == 1
    old.rig.rows("delete from mover.audit_record where seq <= 8")
    verdict = await old.trail.verify(PROJECT)
    assert not verdict.whole
    said = f"the pack of {asked.id} does not hold the records that its row names"
    assert {one.tier: one.problems for one in verdict.checkpoints} == {tier: [said] for tier in TIERS}


async def test_a_record_that_changes_after_the_approval_does_not_leave(old: Old) -> None:
    """The pack has the true one. With the false one would go what tells that there was another."""
    asked = await old.ask()
    await old.trail.approve_retirement(old.person("cora"), asked.id)
    await old.checkpoints.keep(PROJECT)
    old.rig.rows("update mover.audit_record set body = replace(body, 'ann', 'eve') where seq = 3")
    assert not await old.whole()
    assert await old.trail.retire(PROJECT) == 0 and old.records()[0] == 1 and not await old.whole()
    with pytest.raises(Conflict, match="not as it was"):
        await old.retired_directly(asked.id)
    old.rig.rows("update mover.audit_record set body = replace(body, 'eve', 'ann') where seq = 3")
    assert await old.trail.retire(PROJECT) == 6 and await old.whole()


async def test_a_record_in_a_later_batch_is_compared_before_the_first_one_leaves(
    old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retirements, "BATCH", 2)
    asked = await old.ask()
    await old.trail.approve_retirement(old.person("cora"), asked.id)
    await old.checkpoints.keep(PROJECT)
    old.rig.rows("update mover.audit_record set body = replace(body, 'ann', 'eve') where seq = 6")
    assert await old.trail.retire(PROJECT) == 0 and old.records()[0] == 1
    # whoever calls the database's function by himself: each piece leads to the record after it
    old.rig.rows("update mover.audit_record set body = replace(body, 'eve', 'ann') where seq = 6")
    old.rig.rows("update mover.audit_record set prev = '\\x00' where seq = 3")
    with pytest.raises(Conflict, match="not as it was"):
        await old.retired_directly(asked.id)


async def test_a_statement_that_only_a_thief_with_the_key_signed_lets_nothing_go(old: Old) -> None:
    """The copies say that two people agreed; the catalog knows of nobody who did."""
    await old.told(1)
    before = msgspec.json.decode(old.file("archive", 3).read_bytes(), type=SignedCheckpoint).checkpoint
    said = {"id": "retirement-x", "reason": "x", "asked_by": "a", "approved_by": "b", "before": "2019-01-01T00:00:00Z",
            "chains": old.wants()["chains"], "pack": "0" * 64, "tiers": ["archive"]}  # fmt: skip
    made = msgspec.convert(msgspec.to_builtins(before) | {"retired": said}, type=type(before))
    old.file("archive", 3).write_bytes(checkpoints._signed(made, signing.load_key(old.key))[0])
    [archive] = [one for one in (await old.trail.verify(PROJECT)).checkpoints if one.tier == "archive"]
    assert archive.problems == ["checkpoint 3: it tells of a retirement that no two people accepted"]


# --- restores, and the next ones -----------------------------------------------------------------------------


async def test_a_dump_from_before_brings_the_records_back_and_they_may_leave_again(old: Old) -> None:
    await old.dump()
    first = await old.retire()
    old.restore()
    assert old.records()[:8] == list(range(1, 9)) and not await old.whole()
    with pytest.raises(Conflict, match="not whole"):
        await old.ask()
    accepted = await old.accept()
    await old.checkpoints.keep(PROJECT)
    verdict = await old.trail.verify(PROJECT)
    assert verdict.whole and verdict.retired == [] and accepted.lost[0].kept == 8
    again = await old.retire()
    assert again.id != first.id and old.records()[0] == 7 and await old.whole()
    assert all(check_pack(old.pack_file("archive", one.id)).whole for one in (first, again))


async def test_a_dump_from_afterwards_or_from_amidst_loses_what_came_later_and_nothing_that_left(
    old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retirements, "BATCH", 4)
    asked = await old.ask()
    await old.trail.approve_retirement(old.person("cora"), asked.id)
    await old.checkpoints.keep(PROJECT)
    assert await old.retired_directly(asked.id) == 4
    await old.checkpoint()
    await old.dump()
    assert await old.trail.retire(PROJECT) == 2
    await old.told(2)
    old.restore()
    assert old.records()[0] == 5
    accepted = await old.accept()
    await old.checkpoints.keep(PROJECT)
    assert await old.whole() and accepted.lost[0].kept >= 8
    assert await old.trail.retire(PROJECT) == 2 and await old.whole()


async def test_a_chain_that_left_whole_is_not_lost_by_a_restore(old: Old) -> None:
    """Of a node that is no more: its head stands, and says where it ended."""
    stamped(old.rig, 7)
    async with old.rig.database.project(PROJECT) as conn:
        for _ in range(3):
            await audit.record(conn, project=PROJECT, node="n0", actor="ann", action="looked", subject="x")
    stamped(old.rig, 0)
    await old.checkpoint()
    made = await old.retire()
    assert [(one.node, one.upto) for one in made.chains] == [("n0", 3), ("n1", 6)]
    assert (await old.trail.verify(PROJECT)).chains == {"n0": 0, "n1": 6}
    await old.told(1)
    await old.dump()
    await old.told(2)
    old.restore()
    assert [one.node for one in (await old.accept()).lost] == ["n1"]
    await old.checkpoints.keep(PROJECT)
    assert await old.whole()
    old.rig.rows("delete from mover.audit_head where node = 'n0'")
    assert [one["problem"] for one in (await old.trail.verify(PROJECT)).broken] == ["headless"]


async def test_later_retirements_take_the_words_of_earlier_ones_and_of_restores_along(
    tmp_path: Path, dsns: Dsns, database: Database
) -> None:
    """Those would otherwise vouch for nothing, six years on."""
    old = Old(Rig(tmp_path, dsns, database))
    stamped(old.rig, 7)
    await old.lose()
    restored = await old.accept()
    await old.checkpoints.keep(PROJECT)
    await old.told(1)
    first = await old.retire()
    await old.told(1)
    second = await old.retire()
    await old.told(1)
    rows = old.rig.rows("select id, carried from mover.audit_retirement order by n")
    assert [row.carried for row in rows] == [[restored.id], [first.id]]
    verdict = await old.trail.verify(PROJECT)
    assert verdict.whole and verdict.broken == [] and [one.id for one in verdict.restored] == [restored.id]
    assert [one.id for one in verdict.retired] == [first.id, second.id]
    for one in (first, second):
        found = check_pack(old.pack_file("protect", one.id), trusted=[old.fingerprint])
        assert found.whole, found.problems
    assert second.chains[0].after == first.chains[0].upto


# --- packs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def long_ago(dsns: Dsns) -> None:
    """Also a node that is no more: all of its chain will leave."""
    rig = object.__new__(Rig)
    rig.dsns = dsns
    stamped(rig, 7)
    body = '{"actor": "ann", "action": "looked", "subject": "x"}'
    rig.rows("select mover.audit_append(%s, 'n0', %s) from set_config('mover.project', %s, true)", PROJECT, body,
             PROJECT)  # fmt: skip


async def test_a_pack_of_a_run_says_where_the_oldest_records_stand(
    long_ago: None, packed: tuple[House, str, bytes], tmp_path: Path
) -> None:
    """And whoever cuts more off the chain's beginning is found, also with the site's own key."""
    house, run, before = packed
    assert judged(tmp_path, before).whole
    old = object.__new__(Old)
    old.__dict__ |= house.__dict__
    old.trail = Trail(house.rig.database, house.checkpoints, node="n1", site="ward", key_file=house.key, years=6)
    old.room = old.trail._retirements
    await old.checkpoint()
    stamped(old.rig, 0)
    made = await old.retire()
    data = await old.pack(run)
    found = judged(tmp_path, data, trusted=[house.fingerprint])
    assert found.whole, found.problems
    assert any(made.digest in note for note in found.notes) and [one.node for one in made.chains] == ["n0", "n1"]
    lines = _lines_of(data)[:-1]
    records = [at for at, line in enumerate(lines) if b'"kind":"record"' in line]
    cut = [line for at, line in enumerate(lines) if at != records[0]]
    assert not judged(tmp_path, _resigned(cut, house.key)).whole
    statements = [line.replace(b'\\"retired\\":', b'\\"unsaid\\":') for line in lines]
    assert statements != lines and not judged(tmp_path, _resigned(statements, house.key)).whole


async def test_a_pack_of_retired_records_with_other_ones_is_none(old: Old, tmp_path: Path) -> None:
    made = await old.retire()
    file = str(old.pack_file("archive", made.id))
    asked = (["read", file, "--actor", "ann"], ["verify", file])
    said = {words[0]: CliRunner().invoke(command, words) for words in asked}
    assert [one.exit_code for one in said.values()] == [0, 0]
    assert said["read"].output.count("looked") == 6 and "n1 1 to 6, all from before" in said["verify"].output
    assert b"n1 1 to 6, all from before" in sheet_of(Path(file), check_pack(Path(file)))
    lines = _lines_of(old.pack_file("archive", made.id).read_bytes())[:-1]
    records = [at for at, line in enumerate(lines) if b'"kind":"record"' in line]
    assert judged(tmp_path, _resigned(lines, old.key)).whole
    for what in (
        [line for at, line in enumerate(lines) if at != records[0]],
        [line for at, line in enumerate(lines) if at != records[-1]],
        [line.replace(b'"upto":6', b'"upto":5') for line in lines],
        [line.replace(b'"after":0', b'"after":1') for line in lines],
        [line for line in lines if b'"kind":"checkpoint"' not in line],
        [line for line in lines if b'"kind":"range"' not in line],
        [line for line in lines if b'"kind":"record"' not in line],
        [line.replace(b"looked", b"cooked") for line in lines],
        [*lines[:2], lines[1], *lines[2:]],
        [*lines, b'{"kind":"manifest","text":"x"}\n'],
    ):
        assert what != lines and not judged(tmp_path, _resigned(what, old.key)).whole
