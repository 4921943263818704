"""Root at the console of a site whose state is the daemon's user's: the ordinary case of a packaged one."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from psycopg.conninfo import make_conninfo

from mover.cli import handed
from mover.deid.vaultkeys import VaultKey, new_pair
from mover.demo.seaweed import Seaweed
from mover.errors import CatalogError, SettingsInvalid
from mover.owner import in_its_process
from mover.settings import Settings, load
from mover.support import SECTIONS
from mover.tiers.credentials import read_credentials
from tests.docs.commands import ROOT, lines
from tests.support.authority import Authority
from tests.support.seaweed import object_tier

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("dumping"),
    pytest.mark.skipif(os.geteuid() != 0, reason="hands a folder to another user: needs root"),
]

DEBIANS = Path("/usr/lib/postgresql/15/bin")
DAEMON = 1  # `daemon`: somebody whom initdb finds in passwd
SETTINGS = """\
version: 1
site: ward
project: demo
database: {embedded: true, start_timeout_s: 60}
listen: {tcp: "127.0.0.1:0"}
"""


# An environment below a private home is root's alone: whoever runs it reads it all the same, and may do nothing else.
READS = ["setpriv", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
AS_ROOT = [*READS, "--securebits=+no_setuid_fixup", "--"]
AS_DAEMON = [*READS, f"--reuid={DAEMON}", f"--regid={DAEMON}", "--clear-groups", "--"]


def typed(site: Path, *words: str, by: list[str] = AS_ROOT) -> subprocess.CompletedProcess[str]:
    command = [*by, sys.executable, "-m", "mover", "--config", str(site / "mover.yaml"), *words, "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def said(site: Path, *words: str) -> Any:
    done = typed(site, *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def site() -> Iterator[Path]:
    """/etc/mover is root's; the state, made by the daemon's user. Not below pytest's folders, which are its user's
    alone."""
    with tempfile.TemporaryDirectory(prefix="mover-site-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        (folder / "mover.yaml").write_text(SETTINGS)
        (folder / "state").mkdir(mode=0o700)
        shutil.chown(folder / "state", DAEMON, DAEMON)
        made = typed(folder, "db", "migrate", by=AS_DAEMON)
        assert made.returncode == 0, made.stderr
        yield folder


SERVER = """
import sys, psycopg; from pathlib import Path; from mover.catalog import postgres
folder, bin_dir, address, certificate = sys.argv[1:]
if address:
    files = {"ssl_cert_file": certificate, "ssl_key_file": certificate}
    postgres._ASSERTED |= {"listen_addresses": address, "ssl": "on", **files}
embedded = postgres.Embedded(Path(folder), bin_dir=Path(bin_dir) if bin_dir else None)
dsn = embedded.start().superuser_dsn
with psycopg.connect(dsn) as conn:
    conn.execute("alter role mover_daemon password null; alter role mover_vault password null")
    rules = conn.execute("select setting from pg_settings where name = 'hba_file'").fetchone()[0]
    with open(rules, "a", encoding="ascii") as file:
        file.write("hostssl all all 127.0.0.0/8 scram-sha-256\\n")
    conn.execute("select pg_reload_conf()")
print(dsn, flush=True)
sys.stdin.read()
embedded.stop()
"""


ASKED = """
import json, sys, psycopg; from pathlib import Path; from mover.catalog import postgres
embedded = postgres.Embedded(Path(sys.argv[1]))
with psycopg.connect(embedded.start().superuser_dsn, autocommit=True) as conn:
    found = conn.execute(sys.argv[2])
    print(json.dumps(found.fetchall() if found.description else []))
embedded.stop()
"""


def asked(site: Path, query: str) -> Any:
    command = [*AS_DAEMON, sys.executable, "-c", ASKED, str(site / "state"), query]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@contextmanager
def elsewhere(site: Path, *tls: str) -> Iterator[str]:
    """A server that the daemon's user reaches, with nothing in it. `tls`: programs that can, its address, its
    certificate and key."""
    (site / "elsewhere").mkdir()
    shutil.chown(site / "elsewhere", DAEMON, DAEMON)
    command = [*AS_DAEMON, sys.executable, "-c", SERVER, str(site / "elsewhere"), *(tls or ("", "", ""))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        yield server.stdout.readline().strip()
        server.stdin.close()


def of_root(site: Path) -> list[str]:
    return [str(path) for path in (site / "state").rglob("*") if path.lstat().st_uid == 0]


def test_what_root_types_is_done_below_the_state_as_its_owner(site: Path) -> None:
    """As root's, a backup could not be pruned by the daemon, its lock not be opened: it would never start again."""
    assert said(site, "db", "status")["missing"] == []
    made = said(site, "db", "backup")["backup"]
    assert said(site, "db", "restore", made)["put_aside"] in said(site, "db", "status")["put_aside"]
    assert len(said(site, "db", "forget")["dropped"]) == 1
    assert of_root(site) == []

    with elsewhere(site) as admin:
        moved = said(site, "db", "move", admin)
        assert moved["tables"] > 40 and of_root(site) == []
        assert (site / "mover.yaml").owner() == "root" and "embedded: false" in (site / "mover.yaml").read_text()
        assert said(site, "db", "status")["embedded"] is False
        assert said(site, "db", "backup")["rows"] > 0 and of_root(site) == []


@pytest.mark.skipif(not DEBIANS.exists(), reason="needs Debian package: postgresql-15")
def test_a_server_with_tls_is_reached_by_root_whose_home_is_nobody_elses(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL's client looks for a certificate of ours in $HOME before it greets the server. As the daemon's user in
    root's home it did not connect: no backup, no migration, no move."""
    home = site / "home"
    home.mkdir(mode=0o700)
    (home / ".postgresql").symlink_to(".postgresql")  # who may look everywhere, as here, finds a circle
    monkeypatch.setenv("HOME", str(home))
    address = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.{secrets.randbelow(250) + 2}"
    authority = Authority(site)
    certificate = authority.certify(address)
    shutil.chown(certificate, DAEMON, DAEMON)
    with elsewhere(site, str(DEBIANS), address, str(certificate)) as admin:
        tls = {"host": address, "sslmode": "verify-full", "sslrootcert": str(authority.file), "gssencmode": "disable"}
        (site / "mover.yaml").write_text(
            SETTINGS.replace("embedded: true", f"embedded: true, bin_dir: {json.dumps(str(DEBIANS))}")
        )
        shutil.rmtree(site / "state/postgres")
        assert said(site, "db", "move", make_conninfo(admin, **tls))["tables"] > 40
        monkeypatch.setenv("HOME", "/nonexistent")  # what root's own connections find is not this test's
        state = said(site, "db", "status")
        monkeypatch.setenv("HOME", str(home))
        assert state["embedded"] is False and state["missing"] == []
        assert said(site, "db", "backup")["rows"] > 0 and of_root(site) == []


def test_what_ends_in_the_owners_process_is_told_by_what_it_was(site: Path) -> None:
    """Somebody's Ctrl-C is no mistake of ours, and a mistake of ours does not go away by calling it again."""

    def stopped() -> str:
        raise KeyboardInterrupt

    def mistaken() -> str:
        raise ZeroDivisionError("12-3456")

    with pytest.raises(KeyboardInterrupt):
        in_its_process(site / "state", stopped)
    with pytest.raises(CatalogError, match="ended by ZeroDivisionError") as told:
        in_its_process(site / "state", mistaken)
    assert "12-3456" not in str(told.value) and "traceback" in told.value.advice
    with pytest.raises(CatalogError, match="ended by itself"):
        in_its_process(site / "state", lambda: os.kill(os.getpid(), signal.SIGKILL) or "")


def test_root_makes_the_key_files_asks_the_doctor_and_packs_for_who_helps(site: Path) -> None:
    """The first day of a site: with the pair half made, the same command said that there is one already."""
    VaultKey.create(site / "state/vault.key")
    shutil.chown(site / "state/vault.key", DAEMON, DAEMON)
    a, b = site / "a.key", site / "b.key"
    pair = said(site, "vault", "keys", "new", "--a", str(a), "--b", str(b))["pair"]
    assert a.owner() == b.owner() == "root"
    refused = typed(site, "vault", "keys", "new", "--a", str(a), "--b", str(b))
    assert "a pair already" in refused.stderr and refused.returncode not in (0, 1)
    assert said(site, "vault", "keys", "adopt") == {"pair": pair, "rows": 0}
    words = ["--key-a", str(a), "--key-b", str(b), "--new-a", f"{a}2", "--new-b", f"{b}2"]
    assert said(site, "vault", "keys", "rotate", *words)["pair"] != pair
    assert said(site, "vault", "rekey")["generation"] == 2
    found = {one["about"]: one for one in json.loads(typed(site, "doctor").stdout)["findings"]}
    assert found["database"]["verdict"] == "good" and "embedded PostgreSQL" in found["database"]["what"]
    packed = json.loads(typed(site, "support", "bundle", "-o", str(site / "for-help.tar.gz")).stdout)
    # no daemon runs that could tell its metrics
    assert packed["searched"] and [name for name, told in packed["sections"].items() if told != SECTIONS[name]] == [
        "metrics"
    ]
    assert (site / "for-help.tar.gz").owner() == "root"
    assert of_root(site) == []


def test_a_tier_goes_by_the_word_of_who_typed_it(site: Path) -> None:
    """Who takes a tier away may not write the daemon's database as himself: the record named the daemon's user. Who may
    not remove the file is refused before anything stands in the audit."""
    (site / "mover.d").mkdir(mode=0o755)
    (site / "mover.d/cold.yaml").write_text("kind: posix\nzone: deidentified\nrole: archive\npath: cold\n")
    asked(site, "insert into mover.project (id) values ('demo')")
    refused = typed(site, "tier", "remove", "cold", by=AS_DAEMON)
    assert refused.returncode == 2 and "by this user" in refused.stderr and "Traceback" not in refused.stderr
    assert (site / "mover.d/cold.yaml").exists()
    assert said(site, "tier", "remove", "cold")["removed"] == "cold" and not (site / "mover.d/cold.yaml").exists()
    query = "select body::jsonb ->> 'actor' from mover.audit_record where body::jsonb ->> 'action' = 'tier removed'"
    assert asked(site, query) == [["uid:0"]] and of_root(site) == []


# the units stand in a folder of the test
UNDER_UNITS = """
import sys; from pathlib import Path; from mover.cli import handed, main
handed.FOLDERS = (Path(sys.argv.pop(1)),)
main()
"""
UNIT = """\
[Service]
ExecStart=mover --config {site}/mover.yaml daemon
LoadCredential=vault.key:{site}/keys/vault.key
LoadCredential=archive-keys:{site}/keys/archive-keys
"""


def opened(settings: Settings) -> str:
    """The keys, as a drill reads them."""
    tier = settings.tiers["archive"]
    assert tier.credentials_file is not None and read_credentials(tier.credentials_file).secret_access_key
    return f"{VaultKey.newest(settings.vault_key).generation} {tier.name}"


def test_keys_that_systemd_hands_over_open_the_bucket_to_roots_drill_and_restore(
    site: Path, weed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are root's, and the database is the daemon's user's: neither of the two could bring a dump back."""
    tier = object_tier(weed)
    for name in ("keys", "units", "policies", "protect"):
        (site / name).mkdir(mode=0o700 if name == "keys" else 0o755)
    VaultKey.create(site / "keys/vault.key")
    shutil.copy(weed.credentials_file, site / "keys/archive-keys")
    (site / "keys/archive-keys").chmod(0o600)
    (site / "units/mover.service").write_text(UNIT.format(site=site))
    (site / "policies/dump.yaml").write_text("kind: dump\nname: dump\nto: [archive, protect]\n")
    url = f"s3://{tier.where.bucket}/{tier.where.prefix}"
    keys = {"kind": "object", "zone": "deidentified", "role": "archive", "url": url, "endpoint": weed.endpoint,
            "region": weed.region, "credentials": {"systemd": "archive-keys"}}  # fmt: skip
    disk = {"kind": "posix", "zone": "deidentified", "role": "protect", "path": "protect"}
    more = {"policies": "policies", "tiers": {"archive": keys, "protect": disk}}
    (site / "mover.yaml").write_text(SETTINGS + yaml.safe_dump(more))
    new_pair(site / "a.key", site / "b.key")
    monkeypatch.setattr(handed, "FOLDERS", (site / "units",))
    settings = load(site / "mover.yaml")
    settings = handed.with_sources(settings, handed.handed(settings))
    assert opened(settings) == "1 archive"  # by root, and nothing is left to be loaded
    held = handed.in_hand(settings)
    assert in_its_process(site / "state", lambda: opened(held)) == "1 archive"
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        in_its_process(site / "state", lambda: opened(settings))

    read = in_its_process(site / "state", lambda: str([os.access(one.__file__, os.R_OK) for one in (os, zstandard)]))
    if "False" in read:
        return  # an environment that is its user's alone: who reads it all the same would read the keys, too
    pair = ["--key-a", str(site / "a.key"), "--key-b", str(site / "b.key"), "--purpose", "a drill"]
    for verb in ("drill", "restore"):
        command = [sys.executable, "-c", UNDER_UNITS, str(site / "units"), "--config", str(site / "mover.yaml")]
        told = subprocess.run([*command, "vault", verb, *pair], capture_output=True, text=True, check=False)
        assert "no dump stands there" in told.stderr, told.stderr
    assert of_root(site) == []


def test_what_root_puts_back_on_a_new_machine_is_given_to_the_daemons_user(site: Path) -> None:
    """In the worst night the remedy was to make another key, which opens nothing of what was."""
    key, page = site / "state/vault.key", [line.text for line in lines(ROOT / "docs/looking-after.md") if line.typed]
    with pytest.raises(SettingsInvalid, match="cannot be read") as none:
        VaultKey.newest(key)
    assert "mover init" in none.value.advice
    VaultKey.create(key)
    with pytest.raises(SettingsInvalid, match="cannot be read") as roots:
        in_its_process(site / "state", lambda: str(VaultKey.newest(key).generation))
    assert f"It is root's, and daemon asks. Below the state of daemon: chown daemon: {key}" in roots.value.advice
    assert "mover init" not in roots.value.advice
    given = page[next(at for at, text in enumerate(page) if text.startswith("mover vault restore")) - 1]
    assert given == "chown -R mover: /var/lib/mover"
    subprocess.run(given.replace("mover: /var/lib/mover", f"daemon: {site / 'state'}").split(), check=True)
    assert in_its_process(site / "state", lambda: str(VaultKey.newest(key).generation)) == "1" and of_root(site) == []


def test_a_link_that_the_daemons_user_laid_is_not_followed_by_root(site: Path) -> None:
    """Whoever took the daemon over waits for root to look: the key, which the service cannot see, was emptied."""
    key, lock = site / "vault.key", site / "state/daemon.lock"
    key.write_text("the only key")
    lock.unlink(missing_ok=True)
    lock.symlink_to(key)
    os.chown(lock, DAEMON, DAEMON, follow_symlinks=False)
    refused = typed(site, "db", "upgrade", "--plan")
    assert refused.returncode != 0 and "daemon.lock" in refused.stderr and "Traceback" not in refused.stderr
    assert key.read_text() == "the only key"
    lock.unlink()
    assert typed(site, "db", "upgrade", "--plan").returncode == 0 and of_root(site) == []
