"""A whole house and what it keeps: refused at start without its means, told in its status."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from mover import daemon
from mover.daemon import _about_lock, _dump_means, _tiers, _warnings, open_house
from mover.deid.vaultkeys import VaultKey
from mover.errors import SettingsInvalid
from mover.model import wire
from mover.protect.dumps import dump_policies
from mover.sandbox import Sandbox
from mover.settings import Settings, load
from tests.rooms.test_roles import write_settings
from tests.support.postgres import Dsns

pytestmark = pytest.mark.slow

DUMP = "kind: dump\nname: dump\nto: [archive, protect]\n"
PROTECT = "kind: protect\nname: protect\nfrom: flash\nto: protect\nappend_only: chattr\n"


def site(folder: Path, dsns: Dsns, *, role: str = "both", dump_dsn: bool = True, **policies: str) -> Settings:
    path = write_settings(folder, dsns, role=role)
    settings = yaml.safe_load(path.read_text())
    for name in ("archive", "protect"):
        (folder / name).mkdir()
        place = {"kind": "posix", "zone": "deidentified", "role": name, "path": str(folder / name)}
        settings["tiers"][name] = place
    if dump_dsn:
        (folder / "dump-dsn").write_text(dsns.superuser)
        (folder / "dump-dsn").chmod(0o600)
        settings["database"]["dump_dsn_file"] = "dump-dsn"
    settings["policies"] = str(folder / "policies")
    (folder / "policies").mkdir()
    for name, text in policies.items():
        (folder / "policies" / f"{name}.yaml").write_text(text)
    path.write_text(yaml.safe_dump(settings))
    (folder / "state").mkdir(exist_ok=True)
    VaultKey.create(folder / "state" / "vault.key")
    return load(path)


async def warnings(settings: Settings) -> list[str]:
    async with open_house(settings) as house:
        return await _warnings(house, (await _tiers(house)).tiers)


async def test_a_site_without_a_dump_policy_is_warned(tmp_path: Path, dsns: Dsns) -> None:
    [said] = await warnings(site(tmp_path, dsns))
    assert said.startswith("no policy of kind dump")


async def test_a_machine_whose_parsers_do_not_start_says_so_before_slides_wait(
    tmp_path: Path, dsns: Dsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under a unit whose filter of system calls has become too narrow; the warning goes when a parser starts."""
    monkeypatch.setattr(daemon, "PARSERS_S", 0.01)
    monkeypatch.setattr(daemon, "slide_sandbox", lambda **_: Sandbox(("tests.sandbox.killed",)))

    async def told(wanted: bool, house: daemon.House) -> None:
        trying = asyncio.create_task(daemon._try_parsers(house))
        for _ in range(1200):
            said = any(words.startswith("no file can be looked into: ") for words in await _warnings(house, []))
            if said == wanted:
                break
            await asyncio.sleep(0.05)
        trying.cancel()
        assert said == wanted

    async with open_house(site(tmp_path, dsns)) as house:
        await told(True, house)
        with Sandbox() as allowed:
            await told(False, dataclasses.replace(house, parsers=allowed))


async def test_a_policy_without_a_dump_says_that_nothing_is_released(tmp_path: Path, dsns: Dsns) -> None:
    [said] = await warnings(site(tmp_path, dsns, dump=DUMP))
    assert said == "no new slide is released: there is no verified dump of vault and catalog"


async def test_a_dump_policy_without_the_right_to_read_everything_does_not_start(tmp_path: Path, dsns: Dsns) -> None:
    """A promise that every night breaks is no promise."""
    with pytest.raises(SettingsInvalid, match="dump_dsn_file"):
        await warnings(site(tmp_path, dsns, dump_dsn=False, dump=DUMP))


async def test_a_dump_policy_is_taken_once_there_are_keys(tmp_path: Path, dsns: Dsns) -> None:
    """Stored before, it would hold back every slide, and no dump could ever be sealed."""
    settings = site(tmp_path, dsns)
    async with open_house(settings) as house:
        await house.following.turn()
        (settings.policies / "dump.yaml").write_text(DUMP)
        await house.following.turn()
        assert "two key files" in house.following.trouble and dump_policies(house.policies) == []
        settings.vault_public.touch()  # and no file of the folder changes
        await house.following.turn()
        assert house.following.trouble == "" and len(dump_policies(house.policies)) == 1


async def test_a_policy_of_immutable_files_does_not_start_without_who_makes_them_so(tmp_path: Path, dsns: Dsns) -> None:
    with pytest.raises(SettingsInvalid, match="nothing here makes files immutable"):
        await warnings(site(tmp_path, dsns, protect=PROTECT))


async def test_a_clean_process_makes_no_dumps(tmp_path: Path, dsns: Dsns) -> None:
    settings = site(tmp_path, dsns, role="clean", dump=DUMP)
    assert _dump_means(settings, None, None, None) is None  # type: ignore[arg-type]
    async with open_house(settings) as house:
        with pytest.raises(SettingsInvalid, match="holds no vault"):
            house.protecting.dumps.means  # noqa: B018


def test_a_lock_that_does_not_hold_or_was_not_probed_for_long_is_a_warning() -> None:
    now = datetime.now(UTC)
    lock = wire.TierLock(means="object lock", state="immutable", since=now, probed_at=now)
    assert list(_about_lock("protect", lock)) == []
    broken = wire.TierLock(means="object lock", state="not immutable", since=now, explanation="it was deleted")
    assert list(_about_lock("protect", broken)) == ["protect is not immutable: it was deleted"]
    old = wire.TierLock(means="object lock", state="unknown", since=now - timedelta(hours=3))
    assert list(_about_lock("protect", old)) == ["protect: its lock was never probed."]
    stale = wire.TierLock(means="object lock", state="immutable", since=now, probed_at=now - timedelta(hours=3))
    [said] = _about_lock("protect", stale)
    assert "last probed at" in said
