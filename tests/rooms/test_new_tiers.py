"""A tier that was written beside the settings is taken by a house that stands; what may not be is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mover.daemon import House, _policies, _tiers, _warnings, open_house, take_tiers
from mover.deid.vaultkeys import VaultKey
from mover.errors import SettingsInvalid
from mover.jobs.shards import tier_queue
from mover.model import wire
from mover.settings import load, tiers_folder
from tests.rooms.rig import who
from tests.rooms.test_roles import write_settings
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
