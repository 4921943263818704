"""A whole house keeps to its budgets: as it was opened, and as their files change."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml

from mover.daemon import House, open_house
from mover.model import wire
from mover.model.recipe import plain_copy
from mover.settings import load
from mover.transfer.shares import Shares
from tests.rooms.rig import who
from tests.rooms.test_roles import write_settings
from tests.support.postgres import Dsns

pytestmark = pytest.mark.slow
MB = 1_000_000


def site(folder: Path, dsns: Dsns, budget: str) -> Path:
    """Two folders as tiers, one budget, and a verification that nobody scheduled."""
    path = write_settings(folder, dsns, role="clean")
    settings = yaml.safe_load(path.read_text())
    for name in ("archive", "nas"):
        (folder / name).mkdir(exist_ok=True)
        role = "archive" if name == "archive" else "source"
        place = {"kind": "posix", "zone": "deidentified", "role": role, "path": str(folder / name)}
        settings["tiers"][name] = place
    settings["policies"] = str(folder / "policies")
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies" / "nas.yaml").write_text(f"kind: budget\nname: nas\ntier: nas\n{budget}")
    path.write_text(yaml.safe_dump(settings))
    return path


def limits(house: House) -> int | str | None:
    return house.budgets._limits_of("nas").read_bytes_s


async def test_a_budget_that_is_edited_holds_without_a_restart_and_a_mistake_changes_nothing(
    tmp_path: Path, dsns: Dsns
) -> None:
    """Somebody edits a file while a clinic's NAS suffers: seconds later it is relieved; a slip of the finger must not
    lift every limit."""
    file = tmp_path / "policies" / "nas.yaml"
    async with open_house(load(site(tmp_path, dsns, "read_bytes_s: 1000000\n"))) as house:
        assert limits(house) == MB
        await house.following.turn()
        file.write_text("kind: budget\nname: nas\ntier: nas\nread_bytes_s: 5000\n")
        await house.following.turn()
        assert limits(house) == 5000
        file.write_text("kind: budget\nname: nas\ntier: nas\nread_bites_s: 1\n")
        await house.following.turn()
        assert limits(house) == 5000
        file.unlink()
        await house.following.turn()
        assert limits(house) is None


async def test_what_the_engine_and_the_port_move_waits_for_the_share_this_house_holds(
    tmp_path: Path, dsns: Dsns
) -> None:
    """The wiring itself: a house whose shares nobody holds yet moves nothing on a limited tier."""
    async with open_house(load(site(tmp_path, dsns, "read_bytes_s: 1000000000\n"))) as house:
        source, target = house.tiers["nas"], house.tiers["archive"]
        (tmp_path / "nas" / "a").write_bytes(bytes(1000))

        def move() -> None:
            with source.open("a") as opened:
                transfer = house.moving.move._carrier.transfer  # type: ignore[attr-defined]
                transfer.run_recipe(plain_copy(1000), source=opened, source_tier=source, target=target, key="b")

        moving = asyncio.ensure_future(asyncio.to_thread(move))
        reading = asyncio.ensure_future(asyncio.to_thread(source.read, "a", 0, 1000))
        done, _ = await asyncio.wait({moving, reading}, timeout=1.0)
        assert not done
        shares: Shares = house.shares
        await shares.beat()
        await asyncio.wait_for(asyncio.gather(moving, reading), 120)
        assert (tmp_path / "archive" / "b").stat().st_size == 1000


async def test_a_house_verifies_what_it_is_asked_to(tmp_path: Path, dsns: Dsns) -> None:
    """From the room to the shard and back, as the daemon put them together."""
    async with open_house(load(site(tmp_path, dsns, "open_files: 4\n"))) as house:
        asked = await house.moving.verifications.request(who(), wire.VerificationRequest(tier="nas"))
        worker = asyncio.ensure_future(house.worker.run())
        shares = asyncio.ensure_future(house.shares.run())
        try:
            for _ in range(3600):
                if (await house.moving.verifications.view("demo", asked.id)).state == "failed":
                    break
                await asyncio.sleep(0.05)
        finally:
            for one in (worker, shares):
                one.cancel()
            await asyncio.wait({worker, shares})
        seen = await house.moving.verifications.view("demo", asked.id)
        assert seen.reason == "nothing-known"
