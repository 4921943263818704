"""Two processes for two zones (D20): the clean one has no vault, and does none of intake's work."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mover.daemon import open_house
from mover.errors import Denied, SettingsInvalid
from mover.model import wire
from mover.settings import load
from tests.support.postgres import Dsns

pytestmark = pytest.mark.slow


def write_settings(folder: Path, dsns: Dsns, *, role: str) -> Path:
    for name, dsn in (("dsn", dsns.daemon), ("vault-dsn", dsns.vault)):
        path = folder / name
        path.write_text(dsn)
        path.chmod(0o600)
    for made in ("flash", "state"):
        (folder / made).mkdir(exist_ok=True)
    settings = {
        "version": 1,
        "site": "ward",
        "project": "demo",
        "role": role,
        "state_dir": "state",
        "database": {"embedded": False, "dsn_file": "dsn", "vault_dsn_file": "vault-dsn"},
        "tiers": {"flash": {"kind": "posix", "zone": "deidentified", "role": "flash", "path": str(folder / "flash")}},
    }
    path = folder / "mover.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


async def test_a_clean_process_needs_no_vault_key_and_opens_no_name(tmp_path: Path, dsns: Dsns):
    """A break-in on the clean side must find nothing to decrypt with."""
    async with open_house(load(write_settings(tmp_path, dsns, role="clean"))) as house:
        assert (await house.runs.list("demo")).runs == []
        body = wire.RevealRequest(packs=["pack-x"], purpose="curiosity of a test")
        with pytest.raises(Denied):
            await house.batches._vault.unseal("demo", ["x"], purpose=body.purpose, actor="me")


async def test_the_other_roles_do_not_start_without_the_vault_key(tmp_path: Path, dsns: Dsns):
    with pytest.raises(SettingsInvalid):
        async with open_house(load(write_settings(tmp_path, dsns, role="both"))):
            pass
