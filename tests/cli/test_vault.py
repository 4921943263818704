"""`mover vault`: what a custodian types, and what stays on the custodian's side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import yaml

from mover.deid.vault import copy_place
from mover.deid.vaultkeys import PublicKey, RevealKey, VaultKey, ask_bytes, new_pair
from mover.model import wire
from mover.model.names import encode_names
from tests.cli.conftest import Daemon, Said
from tests.support.postgres import Dsns

Mover = Callable[..., Said]
PURPOSE = "the ward asks for a second look"


@pytest.fixture
def pair(tmp_path: Path) -> RevealKey:
    return new_pair(tmp_path / "a", tmp_path / "b")


@pytest.fixture
def custodian(mover: Mover, daemon: Daemon, tmp_path: Path) -> Mover:
    (tmp_path / "token").write_text("mvr_custodian\n")
    return lambda *words: mover("--url", daemon.url, "--token-file", "token", "vault", *words)


def seals(daemon: Daemon, pair: RevealKey, *rows: tuple[str, str, bytes]) -> None:
    sealer = PublicKey(pair.public).sealer()
    copies = [
        wire.VaultCopy(kind=kind, name=name, copy=sealer.seal(body, place=copy_place(kind, "ward", name)))  # type: ignore[arg-type]
        for kind, name, body in rows
    ]
    daemon.rooms.vault.copies = wire.VaultCopies(site="ward", copies=copies, skipped=2)  # type: ignore[attr-defined]


def asked(daemon: Daemon) -> object:
    return daemon.rooms.vault.calls[-1][1][2]  # type: ignore[attr-defined]


KEYS = ("--key-a", "a", "--key-b", "b")


def test_originals_are_opened_where_the_custodian_sits(custodian: Mover, daemon: Daemon, pair: RevealKey) -> None:
    """The daemon sees a signature and hands out what it cannot read."""
    seals(daemon, pair, ("subject", "S1", b"PAT-4711"), ("number", "N1", encode_names(["a/Erika.svs"])))
    said = custodian("reveal", "S1", "N1", "--purpose", PURPOSE, *KEYS)
    assert said.status == 0 and "PAT-4711" in said.out and "a/Erika.svs" in said.out
    body = asked(daemon)
    assert isinstance(body, wire.VaultRevealRequest)
    assert PublicKey(pair.public).is_signed(bytes.fromhex(body.signature), ask_bytes("reveal", PURPOSE, ["S1", "N1"]))


@pytest.mark.parametrize("keys", [(), ("--key-a", "a"), ("--key-a", "a", "--key-b", "a")])
def test_without_both_files_the_daemon_is_still_asked_so_that_it_records_it(
    custodian: Mover, daemon: Daemon, pair: RevealKey, keys: tuple[str, ...]
) -> None:
    seals(daemon, pair, ("subject", "S1", b"PAT-4711"))
    said = custodian("reveal", "S1", "--purpose", PURPOSE, *keys)
    assert said.status != 0 and "PAT-4711" not in said.out + said.err and "both key files" in said.err
    body = asked(daemon)
    assert isinstance(body, wire.VaultRevealRequest) and body.signature == ""


def test_a_map_is_a_private_file_of_two_columns_and_never_overwritten(
    custodian: Mover, daemon: Daemon, pair: RevealKey, tmp_path: Path
) -> None:
    """MIDI-B's form; and the file is the crosswalk itself."""
    seals(daemon, pair, ("uid", "2.25.7", b"1.2.840.1"))
    said = custodian("export", "--uids", "map.csv", "--purpose", PURPOSE, *KEYS, "--json")
    assert said.status == 0 and json.loads(said.out) == {"rows": {"uids": 1}, "skipped": 2}
    assert (tmp_path / "map.csv").read_text() == "id_old,id_new\n1.2.840.1,2.25.7\n"
    assert (tmp_path / "map.csv").stat().st_mode & 0o777 == 0o600
    again = custodian("export", "--uids", "map.csv", "--purpose", PURPOSE, *KEYS)
    assert again.status != 0 and "left as it is" in again.err and "Name another file" in again.err
    other = custodian("export", "--uids", "m2.csv", "--project", "elsewhere", "--purpose", PURPOSE, *KEYS)
    assert other.status != 0 and not list(tmp_path.glob("m2*"))


def test_a_brokers_table_is_sent_line_by_line_and_its_faults_are_told_without_values(
    custodian: Mover, daemon: Daemon, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text('MRN;PSN;SHIFT\n"4711";B-1;-3\n4712;B-2;\n', "utf-8-sig")
    words = ("import", "x.csv", "--columns", "patient=MRN,pseudonym=PSN,offset_days=SHIFT", "--delimiter", ";")
    said = custodian(*words, "--purpose", PURPOSE, "--plan", "--json")
    assert said.status == 0 and json.loads(said.out)["taken"] == 2
    body = asked(daemon)
    assert isinstance(body, wire.VaultImportRequest)
    assert body.rows == [wire.VaultImportRow(2, "4711", "B-1", -3), wire.VaultImportRow(3, "4712", "B-2")]
    (tmp_path / "x.csv").write_text("MRN;PSN;SHIFT\n4711;B-1;Erika\n")
    said = custodian(*words, "--purpose", PURPOSE)
    assert said.status != 0 and "line 2" in said.err and "Erika" not in said.err
    (tmp_path / "x.csv").write_bytes(b"MRN;PSN;SHIFT\nM\xfcller;B-1;1\n")
    said = custodian(*words, "--purpose", PURPOSE)
    assert said.status != 0 and "UTF-8" in said.err and "ller" not in said.err
    assert "file and number" in custodian("import", "x.csv", "--columns", "patient=MRN", "--purpose", PURPOSE).err


def test_an_erasure_can_be_looked_at_first(custodian: Mover, daemon: Daemon) -> None:
    said = custodian("erase", "S1", "--purpose", PURPOSE, "--plan")
    assert said.status == 0 and "would go" in said.out and "N1" in said.out
    assert custodian("erase", "S1", "--purpose", PURPOSE, "--json").status == 0
    assert [name for name, _ in daemon.rooms.vault.calls] == ["plan_erase", "erase"]  # type: ignore[attr-defined]


def test_who_runs_the_machine_does_not_learn_that_there_is_a_vault(mover: Mover, daemon: Daemon) -> None:
    assert "not-found" in mover("--url", daemon.url, "vault", "status").err


@pytest.mark.slow
def test_keys_are_made_once_rotated_and_the_vault_is_rekeyed_on_the_machine_itself(
    mover: Mover, dsns: Dsns, tmp_path: Path
) -> None:
    """What an administrator and two custodians do on the first day, and when one of them leaves."""
    for name, dsn in (("dsn", dsns.daemon), ("vault-dsn", dsns.vault)):
        (tmp_path / name).write_text(dsn)
        (tmp_path / name).chmod(0o600)
    database = {"embedded": False, "dsn_file": "dsn", "vault_dsn_file": "vault-dsn"}
    config = {"version": 1, "site": "ward", "project": "demo", "node": "n1", "database": database, "state_dir": "state"}
    (tmp_path / "mover.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "state").mkdir(mode=0o700)
    key = VaultKey.create(tmp_path / "state" / "vault.key")

    assert mover("vault", "keys", "new", "--a", "a", "--b", "b").status == 0
    assert "already" in mover("vault", "keys", "new", "--a", "c", "--b", "d").err and not (tmp_path / "c").exists()
    assert mover("vault", "keys", "adopt", "--json").status == 0
    assert mover("vault", "keys", "rotate", *KEYS, "--new-a", "c", "--new-b", "d").status == 0
    public = PublicKey.load(tmp_path / "state" / "vault.public")
    assert public is not None and public.pair == RevealKey.join(tmp_path / "c", tmp_path / "d").pair

    said = mover("vault", "rekey")
    assert said.status == 0 and "Back up" in said.out + said.err
    newest = VaultKey.newest(tmp_path / "state" / "vault.key")
    assert newest.generation == 2 and not newest.holds_before() and newest.keyed("x") == key.keyed("x")
    kept = VaultKey.load(tmp_path / "state" / "vault.key.generation-1")
    assert kept.check() == key.check() and not (tmp_path / "state" / "vault.key.next").exists()
    assert mover("vault", "rekey").status == 0
    with psycopg.connect(dsns.superuser) as conn:
        assert conn.execute("select generation, oldest from vault.ring").fetchone() == (3, 3)
