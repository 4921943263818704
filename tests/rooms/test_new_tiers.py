"""A tier that was written beside the settings is taken by a house that stands; what may not be is told."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from click.testing import CliRunner

from mover.catalog.database import Database
from mover.catalog.standing import standing
from mover.cli import command
from mover.cli.gonetier import REMEDIES
from mover.daemon import House, _policies, _tiers, _warnings, open_house, take_tiers
from mover.deid.vaultkeys import VaultKey
from mover.errors import Conflict, NotFound, SettingsInvalid
from mover.jobs.shards import tier_queue
from mover.model import wire
from mover.opening import locked_state
from mover.settings import load, tiers_folder
from tests.rooms.rig import who
from tests.rooms.test_roles import write_settings
from tests.support.facts import NUMBER, insert, whole_project
from tests.support.postgres import Dsns

pytestmark = pytest.mark.slow


def declare(config: Path, name: str, **said: object) -> Path:
    folder = tiers_folder(config)
    folder.mkdir(mode=0o755, exist_ok=True)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"kind": "posix", "zone": "deidentified", **said}))
    file.chmod(0o644)
    return file


async def told(house: House) -> list[str]:
    return [line for line in await _warnings(house, (await _tiers(house)).tiers) if "dump" not in line]


async def test_a_house_takes_tiers_of_every_role_while_it_stands(tmp_path: Path, dsns: Dsns) -> None:
    """Queue, budgets, transfers, run roots, and what nobody may read or restore into: all know it, or none does; and a
    restart gives the same."""
    config = write_settings(tmp_path, dsns, role="both")
    VaultKey.create(tmp_path / "state" / "vault.key")
    roles = {"flash2": "flash", "nas": "source", "cold": "archive", "intake": "source", "vaulted": "protect"}
    for name in roles:
        (tmp_path / name).mkdir()
    async with open_house(load(config)) as house:
        for name, role in roles.items():
            foreign = {"zone": "identified", "read_only": True} if name == "intake" else {}
            declare(config, name, role=role, path=name, **foreign)
        await take_tiers(house)
        assert await told(house) == [] and set(house.tiers) == {"flash", *roles}
        assert {tier.name for tier in (await _tiers(house)).tiers if tier.online} == {"flash", *roles}
        assert {tier_queue(name) for name in roles} <= set(house.worker._queues)
        assert house.runs._site.flash["flash2"].roots.root == tmp_path / "flash2"
        assert house.protecting.upkeep._site.forbidden == [tmp_path / "intake"]
        assert house.protecting.upkeep._site.kept_clear == [tmp_path / "cold", tmp_path / "vaulted"]
        assert {"nas", "intake"} <= house.budgets._source_tiers
        assert {name for name, *_ in _policies(house)._choices.tiers()} == {"flash", *roles}
        (tmp_path / "nas" / "a").write_bytes(b"a")
        asked = wire.TransferRequest(sources=[wire.TransferSource(tier="nas", prefix="")], to="cold")
        assert (await house.moving.transfers.plan_request(who(), asked)).counts["entries"] == 1
        async with house.database.project("demo") as conn:
            rows = await (
                await conn.execute("select body::jsonb ->> 'action' as action from mover.audit_record")
            ).fetchall()
        assert [row.action for row in rows].count("tier added") == len(roles)
        await take_tiers(house)
        assert [path.name for path in (tmp_path / "intake").iterdir()] == []  # nothing is ever written to it
    async with open_house(load(config)) as house:
        assert set(house.tiers) == {"flash", *roles}


async def test_what_may_not_be_taken_changes_nothing_and_is_told(tmp_path: Path, dsns: Dsns) -> None:
    """A folder of names inside the flash, a folder that is not there, a file that others may write: each is said in the
    status, and what runs goes on. When it is mended it is taken."""
    config = write_settings(tmp_path, dsns, role="both")
    VaultKey.create(tmp_path / "state" / "vault.key")
    (tmp_path / "flash" / "inner").mkdir()
    async with open_house(load(config)) as house:
        inner = declare(config, "inner", role="source", path="flash/inner", zone="identified", read_only=True)
        declare(config, "late", role="archive", path="late")
        await take_tiers(house)
        assert set(house.tiers) == {"flash"} == set(house.settings.tiers)
        assert sorted(line.partition(":")[0] for line in await told(house)) == ["inner", "late"]
        inner.unlink()
        (tmp_path / "late").mkdir()
        await take_tiers(house)
        assert await told(house) == [] and set(house.tiers) == {"flash", "late"}

        declare(config, "late", role="archive", path="late", deletes=False)
        await take_tiers(house)
        assert [line.partition(":")[0] for line in await told(house)] == ["late"]
        declare(config, "late", role="archive", path="late").chmod(0o666)
        await take_tiers(house)
        [line] = await told(house)
        assert line.startswith("settings: not followed: others than the owner")
        with pytest.raises(SettingsInvalid, match="others than the owner"):
            load(config)


@pytest.mark.parametrize(("name", "why"), [("flash", "already"), ("Cold", "small letters")])
def test_a_tier_beside_the_settings_is_judged_as_one_in_them(tmp_path: Path, dsns: Dsns, name: str, why: str) -> None:
    config = write_settings(tmp_path, dsns, role="clean")
    file = declare(config, name, role="archive", path="x")
    with pytest.raises(SettingsInvalid, match=why) as refused:
        load(config)
    assert refused.value.where == str(file)
    file.unlink()
    file.symlink_to("nowhere")
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        load(config)
    file.unlink()
    declare(config, "intake", role="source", path="x", zone="identified", read_only=True)
    with pytest.raises(SettingsInvalid, match="D20"):
        load(config)
    declare(config, "intake", role="source")
    with pytest.raises(SettingsInvalid, match="has a `path`"):
        load(config)


def removed(config: Path, *words: str) -> tuple[int, dict[str, Any]]:
    words = ("--config", str(config), "tier", "remove", *words, "--json")
    done = CliRunner().invoke(command, words, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value, json.loads(done.stdout)


def tiers_removed(dsns: Dsns) -> list[dict[str, Any]]:
    with psycopg.connect(dsns.superuser) as conn:
        rows = conn.execute("select body::jsonb from mover.audit_record").fetchall()
    return [body for (body,) in rows if body["action"] == "tier removed"]


async def test_a_tier_goes_again_where_nothing_stands_on_it(
    tmp_path: Path, dsns: Dsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shelf that was added by mistake, or is given back. What still needs it is told first, and bytes are nobody's to
    delete here. A daemon that runs goes on to publish there; what is refused is on no record."""
    config = write_settings(tmp_path, dsns, role="clean")
    (tmp_path / "policies").mkdir()
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"policies": "policies"}))
    (tmp_path / "cold").mkdir()
    async with open_house(load(config)) as house:
        file = declare(config, "cold", role="archive", path="cold")
        await take_tiers(house)
        assert "cold" in house.tiers
        policy = tmp_path / "policies" / "slow.yaml"
        policy.write_text("kind: budget\nname: slow\ntier: cold\nread_bytes_s: 1000\n")
        with psycopg.connect(dsns.superuser) as conn:
            insert(
                conn, "shard", project_id="demo", id="shard-x", queue=tier_queue("cold"), kind="walk", subject_id="x"
            )
        status, plan = await asyncio.to_thread(removed, config, "cold")
        why = {step["subject"]: step["reason"] for step in plan["steps"]}
        assert status == 1 and set(why) == {"policy slow, tier", "1 waiting work of demo"} and file.exists()
        assert why["policy slow, tier"] == "mover policy edit slow --reason WHY"

        policy.unlink()
        with psycopg.connect(dsns.superuser) as conn:
            conn.execute("update mover.shard set state = 'cancelled' where id = 'shard-x'")
        with locked_state(tmp_path / "state"):  # as the daemon around this house
            for words in (("--plan",), ()):
                status, plan = await asyncio.to_thread(removed, config, "cold", *words)
                assert status == 1 and file.exists()
                assert [one["subject"] for one in plan["steps"]] == ["the daemon that works with it"]
    assert tiers_removed(dsns) == []
    status, plan = await asyncio.to_thread(removed, config, "cold", "--plan")
    assert (status, plan["counts"]) == (0, {"remove": 1}) and file.exists()
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *_: False)
        with pytest.raises(SettingsInvalid, match="by this user"):
            await asyncio.to_thread(removed, config, "cold")
    assert file.exists() and tiers_removed(dsns) == []
    assert (await asyncio.to_thread(removed, config, "cold"))[0] == 0
    assert not file.exists() and (tmp_path / "cold" / ".mover" / "tier.json").exists()
    [one] = tiers_removed(dsns)
    assert (one["subject"], one["details"]["role"]) == ("cold", "archive") and one["actor"] == f"uid:{os.getuid()}"
    assert "cold" not in load(config).tiers
    with pytest.raises(Conflict, match="in the settings themselves"):
        await asyncio.to_thread(removed, config, "flash")
    with pytest.raises(NotFound, match="no tier cold"):
        await asyncio.to_thread(removed, config, "cold")


async def test_everything_that_stands_on_a_tier_is_named(database: Database, dsns: Dsns, tier_rows: None) -> None:
    """Over all projects: whoever types the command sees one of them, and another one's slides stand there as well."""
    with psycopg.connect(dsns.superuser) as conn:
        whole_project(conn, "other", mark="a", number=NUMBER)
        insert(conn, "slide_file", number=NUMBER, name="a.dcm", size_bytes=1, digest="0" * 64, tier="archive", key="k")
        conn.execute("update mover.pack set state = 'quarantined', reason = 'format-unknown'")
    found = [one for tier in ("archive", "flash", "protect", "intake")
             for one in await standing(database, tier, queue=tier_queue("intake"))]  # fmt: skip
    assert {one.what for one in found} == set(REMEDIES) and {one.project for one in found} == {"other"}
    assert await standing(database, "nowhere", queue="none") == []
