"""Keys of a repository and turns on demand, on a real repository that a stock restic opens too."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mover.catalog.database import Database
from mover.errors import Conflict, Denied, NotFound, RepositoryChanged, RequestInvalid, SettingsInvalid
from mover.model import wire
from mover.model.policy import KeepRules, SecondRule
from mover.protect.keys import Keys
from mover.protect.site import Repositories
from tests.rooms.keeping_rig import DAY, Keeping
from tests.rooms.rig import PROJECT
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
SHE_LEFT = "she left the group"


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Keeping:
    return Keeping(tmp_path, dsns, database)


def opens(rig: Keeping, password: str) -> bool:
    """Does a stock restic get in with it?"""
    file = rig.folder / "tried"
    file.write_text(password)
    command = ["restic", "-r", str(rig.folder / "protect"), "--password-file", str(file), "--no-cache", "snapshots"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def removal(*keys: str) -> wire.ShorteningRequest:
    return wire.ShorteningRequest(kind="remove-key", reason=SHE_LEFT, policy="protect", subjects=[*keys])


async def test_a_key_is_added_from_a_file_and_removed_by_two_persons(rig: Keeping) -> None:
    """Her password opens until both agreed and the delay is over; no password is in a record, an answer or an error."""
    keys: Keys = rig.protecting.keys
    ann, bob = await rig.person("ann"), await rig.person("bob")
    rig.snapshot()
    with pytest.raises(SettingsInvalid, match="cannot be read") as missing:
        await keys.add(ann, wire.KeyRequest("eve"))
    assert missing.value.where == str(rig.folder / "repository-key-eve") and "LoadCredential" not in missing.value.what
    (rig.folder / "repository-key-eve").write_text("short\n")
    with pytest.raises(RequestInvalid, match="at least 12 bytes"):
        await keys.add(ann, wire.KeyRequest("eve"))
    (rig.folder / "repository-key-eve").write_text("a long enough one\n")
    added = await keys.add(ann, wire.KeyRequest("eve"))
    assert await keys.add(ann, wire.KeyRequest("eve")) == added, "the same password is the same key"
    assert opens(rig, "a long enough one") and len(added.keys) == 2
    [own], [eves] = ([one.id for one in added.keys if one.current is current] for current in (True, False))
    assert rig.actions().count("repository key added") == 1
    assert "long enough" not in str(rig.rows("select body from mover.audit_record"))

    with pytest.raises(Conflict, match="the daemon works with this key"):
        await rig.shortenings.ask(ann, removal(own))
    with pytest.raises(NotFound):
        await rig.shortenings.ask(ann, removal("0" * 64))
    asked = await rig.shortenings.ask(ann, removal(eves))
    await rig.shortenings.approve(bob, asked.id)
    assert await rig.shortenings.apply_due(PROJECT) == 0 and opens(rig, "a long enough one")
    rig.let_pass(asked.id)
    assert await rig.shortenings.apply_due(PROJECT) == 1
    assert not opens(rig, "a long enough one") and opens(rig, "secret")
    assert (await rig.shortenings.view(PROJECT, asked.id)).state == "applied"
    with pytest.raises(Conflict, match="the last key"):
        await rig.shortenings.ask(ann, removal(own))
    with pytest.raises(RequestInvalid, match="no second repository"):
        await keys.list("protect", second=True)
    rig.restic("check", "--read-data")


async def test_rules_and_prune_run_on_demand_and_say_first_what_they_will_do(rig: Keeping) -> None:
    """The same shards as by the clock; the plan names counts, bytes and reasons and changes nothing."""
    rig.policy(keep=KeepRules(last=1, at_least_s=3600))
    turns, ann = rig.protecting.turns, await rig.person("ann")
    ids = [rig.snapshot(age=age * DAY) for age in (9, 8, 7)]
    before = rig.states()

    plan = await turns.plan_request(ann, wire.TurnRequest("keep"))
    assert plan.counts == {"keep": 1, "forget": 2} and plan.bytes == 2000
    assert [(one.action, one.subject) for one in plan.steps][:2] == [("forget", ids[1]), ("forget", ids[0])]
    assert rig.states() == before and "no rule keeps it" in plan.steps[0].reason
    turn = await turns.request(ann, wire.TurnRequest("keep"))
    assert (await turns.request(ann, wire.TurnRequest("keep"))).id == turn.id, "one that runs is that one"
    await rig.work("protect-keep")
    done = await turns.view(PROJECT, turn.id)
    assert (done.state, done.counts["trashed"], rig.states()[ids[0]]) == ("done", 2, "trashed")
    assert rig.actions().count("protect-keep asked for") == 1

    prune = await turns.plan_request(ann, wire.TurnRequest("prune", policy="protect"))
    assert prune.counts["keep"] == 3 * 2 and not [one for one in prune.steps if one.action == "wait"]
    rig.rows("update mover.snapshot set missing_at = now() where id = %s", ids[2])
    waits = await turns.plan_request(ann, wire.TurnRequest("prune"))
    assert (waits.steps[0].action, "1 snapshots are missing" in waits.steps[0].reason) == ("wait", True)
    check = await turns.request(ann, wire.TurnRequest("whole"))
    await rig.work("protect-whole")
    assert (await turns.view(PROJECT, check.id)).counts["damaged"] == 0
    assert (await turns.plan_request(ann, wire.TurnRequest("whole"))).steps[0].reason.startswith("all packs")

    with pytest.raises(NotFound):
        await turns.request(ann, wire.TurnRequest("keep", policy="other"))
    with pytest.raises(RequestInvalid, match="no second repository"):
        await turns.request(ann, wire.TurnRequest("copy"))
    with pytest.raises(NotFound):
        await turns.view(PROJECT, "turn-of-long-ago")


async def test_a_plan_is_made_by_the_rules_of_the_policy_that_is_named(rig: Keeping) -> None:
    rig.policy(keep=KeepRules(last=1, at_least_s=3600))
    ids = rig.rows_of([9 * DAY, 8 * DAY])
    assert (await rig.retention.forget_plan(PROJECT, "protect")).steps[0].subject == ids[0]
    with pytest.raises(NotFound):
        await rig.retention.forget_plan(PROJECT, "other")


def again(rig: Keeping, password: str = "password") -> Repositories:
    """As a daemon that starts again on the same node."""
    return Repositories(rig.tiers, rig.site.policies, rig.folder / password, pins=rig.folder / "repositories")


def test_what_is_wrong_with_a_repository_says_where_and_what_to_do(rig: Keeping) -> None:
    """Of a password file that went or is another's, and of a repository that went or is another: none is made anew, and
    nothing is written into one that is not ours."""
    first = again(rig).of(rig.policy())
    with pytest.raises(SettingsInvalid, match="cannot be read") as error:
        again(rig, "renamed").of(rig.policy())
    assert error.value.where == str(rig.folder / "renamed")
    (rig.folder / "wrong").write_text("something else")
    with pytest.raises(Denied, match="opens with this password") as denied:
        again(rig, "wrong").of(rig.policy())
    assert denied.value.where == "protect:" and str(rig.folder / "wrong") in denied.value.advice
    (rig.folder / "wrong").write_text(" \n")
    with pytest.raises(SettingsInvalid, match="is empty"):
        again(rig, "wrong").of(rig.policy())
    assert again(rig).of(rig.policy()).repository_id == first.repository_id

    tier, kept = rig.folder / "protect", rig.folder / "kept"
    kept.mkdir()
    parts = [one for one in tier.iterdir() if not one.name.startswith(".")]
    for part in parts:
        part.rename(kept / part.name)
    with pytest.raises(RepositoryChanged, match="is gone") as gone:
        again(rig).of(rig.policy())
    assert gone.value.where == "protect:" and not (tier / "config").exists()
    other = Repositories(rig.tiers, rig.site.policies, rig.folder / "password").of(rig.policy())  # another node's
    with pytest.raises(RepositoryChanged, match="replaced by another"):
        again(rig).of(rig.policy())
    assert other.repository_id != first.repository_id
    (rig.folder / "repositories" / "protect").unlink()
    assert again(rig).of(rig.policy()).repository_id == other.repository_id, "it is so on purpose"


def test_a_second_repository_on_a_tier_that_left_the_settings_is_named(rig: Keeping) -> None:
    rig.policy(copy=SecondRule(repository="gone"))
    with pytest.raises(Exception, match="that the settings do not name") as error:
        rig.site.repositories.at("gone", "")
    assert (error.value.code, error.value.where) == ("tier-unavailable", "gone")  # type: ignore[attr-defined]
