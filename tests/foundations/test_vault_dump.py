"""A superuser's dump of the vault shows no name (D10)."""

from __future__ import annotations

import base64
import subprocess

from mover.catalog.postgres import EmbeddedServer
from mover.deid.vault import Vault
from tests.support.postgres import Dsns

NAMES = ["Mustermann^Erika", "MRN-4711-0815", "1955-04-01", "H26-00123_A1_HE.svs", "/intake/2026/Ärztehaus"]


def forms(name: str) -> list[bytes]:
    """A name as a dump could show it: plain, as bytea prints it, in base64, in UTF-16."""
    plain = name.encode()
    return [plain, plain.hex().encode(), base64.b64encode(plain)[:-4], name.encode("utf-16-le"), plain.lower()]


def dump(server: EmbeddedServer, dsns: Dsns, *options: str) -> bytes:
    command = [str(server.bin_dir / "pg_dump"), *options, "--dbname", dsns.superuser]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


async def test_a_superusers_dump_holds_none_of_the_planted_names(
    vault: Vault, server: EmbeddedServer, dsns: Dsns
) -> None:
    """Backups travel further than databases; whoever holds one must hold nothing."""
    await vault.seal_many("demo", "entry", [(name, name.encode()) for name in NAMES])
    await vault.seal_many("demo", "folder", [("/".join(NAMES), "\n".join(NAMES).encode())])
    ids = await vault.seal_many("demo", "expected", [("list", repr(NAMES).encode())])
    await vault.unseal("demo", ids, purpose="the dump must not show it", actor="ann")
    for name in NAMES:
        await vault.mint_number(name, body=name.encode())
        await vault.mint_subject(name)
    await vault.mint_keys(f"case|{name}" for name in NAMES)
    await vault.mint_uids(NAMES)
    whole = dump(server, dsns)
    assert whole.count(b"sealed-") >= len(NAMES) and b"the dump must not show it" in whole
    found = [name for name in NAMES for form in forms(name) if form in whole]
    assert found == []


async def test_the_finder_finds_what_is_there(vault: Vault, server: EmbeddedServer, dsns: Dsns) -> None:
    """The test above could pass because it looks at nothing: plant the names in clear, and it must fail."""
    import psycopg

    with psycopg.connect(dsns.superuser) as conn:
        conn.execute("create table vault.leak (plain text, raw bytea)")
        for name in NAMES:
            conn.execute("insert into vault.leak values (%s, %s)", [name, name.encode()])
    shown = dump(server, dsns, "--schema", "vault")
    assert all(forms(name)[0] in shown and forms(name)[1] in shown for name in NAMES)
