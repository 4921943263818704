"""What a daemon that works takes from its files when it is told to, and what it says of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mover import audit, log
from mover.daemon import _reloading, open_house
from mover.settings import load
from tests.rooms.test_roles import write_settings
from tests.support.postgres import Dsns

pytestmark = pytest.mark.slow


async def test_a_reload_says_what_was_taken_what_waits_and_what_was_refused(tmp_path: Path, dsns: Dsns) -> None:
    """Who changed a file at night wants to hear whether it holds, and a mistake in it must not end what runs."""
    file = write_settings(tmp_path, dsns, role="clean")

    def change(**more: object) -> None:
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **more}))

    async with open_house(load(file)) as house:
        reloading, _ = _reloading(house, journal=False)
        try:
            quiet = await reloading.turn("demo", by="ann")
            assert (quiet.restart, quiet.refused) == ([], [])

            (tmp_path / "nas").mkdir()
            nas = {"kind": "posix", "zone": "deidentified", "role": "source", "path": str(tmp_path / "nas")}
            tiers = yaml.safe_load(file.read_text())["tiers"]
            change(tiers={**tiers, "nas": nas}, log_level="debug", workers={"shards": 2})
            (tmp_path / "dsn").write_text(f"{dsns.daemon} connect_timeout=7")
            told = await reloading.turn("demo", by="ann")
            assert {"log_level debug", "tier nas", "dsn_file"} <= set(told.taken)
            assert (told.restart, told.refused) == (["workers"], [])

            change(tiers={"nas": nas, "flash": {**tiers["flash"], "calls_max": 3}})
            (tmp_path / "dsn").write_text(f"{dsns.daemon} port=1")
            told = await reloading.turn("demo", by="ann")
            assert told.taken == [] and "tier flash" in told.restart
            assert len(told.refused) == 1 and "another port" in told.refused[0]

            (tmp_path / "dsn").write_text(dsns.daemon)
            change(log_level="warning", surprise=True)
            told = await reloading.turn("demo", by="ann")
            assert told.taken == [] and "nothing was taken" in told.refused[0] and "surprise" in str(told.refused)
        finally:
            log.configure(level="info")
        async with house.database.project("demo") as conn:
            page = await audit.page(conn, "demo", audit.Wanted(action="daemon reloaded", actor="ann"))
    assert len(page.records) == 4 and page.records[0].body["details"]["refused"] == len(told.refused)
