"""A real Slurm for a test: munged, slurmctld and one slurmd with keys, sockets and ports of their own. slurmctld and
what it calls run as Debian's user `slurm`, munged and slurmd as root."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
OURS = Path(__file__).parents[2] / "integrations" / "slurm"
SLURM_USER = "slurm"
WAIT_S = 180.0

SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/state/slurmctld.pid
Licenses=seat:1
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={ours}/task_prolog.sh
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,batch_sched_delay=0,sched_interval=1,sched_min_interval=100000
BurstBufferType=burst_buffer/lua
KillWait=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=main Nodes=n1 Default=YES MaxTime=INFINITE OverSubscribe=FORCE:8 State=UP
"""


def missing() -> list[str]:
    lacking = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    return lacking or ([] if any(one.pw_name == SLURM_USER for one in pwd.getpwall()) else [f"the user {SLURM_USER}"])


def python_for(user: str) -> tuple[str, str] | None:
    """An interpreter that this user may run, and its PYTHONPATH: the one of these tests may lie in a closed home."""
    path = os.pathsep.join([str(OURS.parents[1]), *(one for one in sys.path if one.endswith("site-packages"))])
    system = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin")
    for python in (sys.executable, system):
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                [str(python), "-c", "import mover.cli, mover.schedulers.slurm"], user=user, group=user,
                extra_groups=[], cwd="/", env={"PYTHONPATH": path}, check=True, capture_output=True,
            )  # fmt: skip
            return str(python), path
    return None


class SlurmHouse:
    def __init__(self, folder: Path, *, command: str, state: Path, python_path: str) -> None:
        self.folder = folder
        self._parts: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHONPATH": python_path, "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        self._write(command, state)

    def _write(self, command: str, state: Path) -> None:
        for part in ("state", "spool"):
            (self.folder / part).mkdir()
        shutil.chown(self.folder / "state", SLURM_USER)
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o600)
        ports = _free_ports(2)
        conf = SLURM_CONF.format(
            host=socket.gethostname().partition(".")[0], ctld=ports[0], slurmd=ports[1], folder=self.folder, ours=OURS,
            user=SLURM_USER,
        )  # fmt: skip
        (self.folder / "slurm.conf").write_text(conf)
        shutil.copy(OURS / "burst_buffer.conf", self.folder)
        lua = (OURS / "burst_buffer.lua").read_text()
        lua = lua.replace('"/usr/bin/mover-slurm --config /etc/mover/slurm.yaml"', f'"{command}"')
        (self.folder / "burst_buffer.lua").write_text(lua.replace('"/var/lib/mover-slurm"', f'"{state}"'))

    def start(self) -> None:
        at = self.folder
        self._run_part(
            "munged", "--foreground", "--force", "-S", f"{at}/munge.socket", "--key-file", f"{at}/munge.key",
            "--log-file", f"{at}/munged.log", "--pid-file", f"{at}/munged.pid", "--seed-file", f"{at}/munge.seed",
        )  # fmt: skip
        self._await(lambda: (at / "munge.socket").exists())
        self._run_part("slurmctld", "-D")
        self._run_part("slurmd", "-D", "-N", "n1")
        self._await(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"))

    def stop(self) -> None:
        """Nothing of it stays: a job's step outlives slurmd, and waits for a slurmctld that never comes back."""
        for part in reversed(self._parts):
            part.terminate()
        for part in reversed(self._parts):
            try:
                part.wait(10)
            except subprocess.TimeoutExpired:
                part.kill()
                part.wait()
        mine = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mine in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)

    def _run_part(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}.out", "ab") as log:
            self._parts.append(
                subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment)
            )

    # --- as a user ------------------------------------------------------------------------------------------

    def submit(self, script: str, *, uid: int, gid: int, home: Path, **options: str) -> str:
        """sbatch as a user of the machine; the job's id, or what sbatch said."""
        path = home / f"job-{time.monotonic_ns()}.sh"
        path.write_text(script)
        path.chmod(0o755)
        said = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        done = subprocess.run(
            ["sbatch", "--parsable", "-o", f"{home}/%j.out", *said, str(path)], cwd=home, user=uid, group=gid,
            extra_groups=[], env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return (done.stdout or done.stderr).strip()

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        return done.stdout

    def facts(self, job: str) -> Mapping[str, str]:
        """`scontrol show job`, for people; good enough for a test whose jobs have plain names."""
        words = self.ask("scontrol", "-o", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job: str) -> str:
        return self.facts(job).get("JobState", "")

    def await_state(self, job: str, *states: str) -> Mapping[str, str]:
        self._await(lambda: self.state(job) in states, job)
        return self.facts(job)

    def await_reason(self, job: str, part: str) -> Mapping[str, str]:
        self._await(lambda: part in self.facts(job).get("Reason", ""), job)
        return self.facts(job)

    def await_over(self, job: str) -> Mapping[str, str]:
        """What it wrote is staged out. Its teardown goes on, or was killed: scancel ends the hooks of a job that waits,
        and now and then the teardown that it has begun itself."""
        return self.await_state(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")

    def _await(self, met: Callable[[], object], job: str = "") -> None:
        deadline = time.monotonic() + WAIT_S
        while not met():
            if time.monotonic() > deadline:
                told = self.ask("scontrol", "show", "job", job) if job else ""
                logs = "".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.out"))
                raise AssertionError(told + logs)
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    """Below those that the kernel hands out by itself: it would give a free one of those to the next test at once."""
    free: list[int] = []
    with ExitStack() as held:
        while len(free) < count:
            one, port = held.enter_context(socket.socket()), 10_000 + secrets.randbelow(9_000)
            with suppress(OSError):
                one.bind(("127.0.0.1", port))
                free.append(port)
    return free
