"""A clean Debian with a real systemd as its first process, in systemd-nspawn: booted once, asked from outside.

It needs root, mounts and three Debian packages; where one is missing the tests that want a machine skip and say which.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

PACKAGES = {"systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap", "nsenter": "util-linux"}
INSIDE = "systemd,systemd-sysv,dbus,python3.11,ca-certificates,procps"
# nspawn refuses them to what it boots, whatever rights that has
WATCHING = "fanotify_init fanotify_mark name_to_handle_at open_by_handle_at"
PATIENCE_S = 300.0


def need_a_machine() -> None:
    if os.geteuid() != 0:
        pytest.skip("a machine of its own takes root")
    missing = sorted({package for tool, package in PACKAGES.items() if shutil.which(tool) is None})
    if missing:
        pytest.skip(f"a machine of its own takes Debian packages: {', '.join(missing)}")


def debian(into: Path) -> None:
    """A root with nothing of ours in it. MOVER_DEBIAN_ROOT names one that is there already: it is copied."""
    given = os.environ.get("MOVER_DEBIAN_ROOT")
    if given:
        subprocess.run(["cp", "-a", "--reflink=auto", f"{given}/.", str(into)], check=True)
        return
    command = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={INSIDE}", "bookworm", str(into)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode != 0:
        pytest.skip(f"no Debian could be fetched: {told.stderr.strip()[-200:]}")


class Machine:
    """`root` is its file system, seen from outside; `run` is a command inside, where nobody sits at a keyboard.
    `mounts` are file systems of its own: where they stand inside, and nspawn's word for how (`bind`, `bind-ro`)."""

    def __init__(self, root: Path, mounts: Mapping[str, tuple[str, Path]] | None = None) -> None:
        self.root = root
        self._mounts = [f"--{how}={outside}:{inside}" for inside, (how, outside) in (mounts or {}).items()]
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def boot(self) -> None:
        console = open(self.root.parent / "console", "ab")  # noqa: SIM115  (nspawn writes to it until it ends)
        self._nspawn = subprocess.Popen(
            ["systemd-nspawn", "-q", "-D", str(self.root), "--register=no", "--keep-unit", "--private-network",
             "--console=pipe", f"--machine=m{os.getpid()}", f"--system-call-filter={WATCHING}", *self._mounts, "-b"],
            stdin=subprocess.DEVNULL, stdout=console, stderr=console,
        )  # fmt: skip
        wait(lambda: self._find_leader() and self.run("systemctl", "is-system-running", "--wait", check=False).stdout,
             "a booted machine", or_skip=self._nspawn)  # fmt: skip

    def _find_leader(self) -> bool:
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        self._leader = int(children[0]) if children else 0
        return bool(self._leader)

    def run(self, *words: str, check: bool = True, text: str | None = None) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
                 "--root", "--wdns=/", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
                 "DEBIAN_FRONTEND=noninteractive"]  # fmt: skip
        said = {"stdin": subprocess.DEVNULL} if text is None else {"input": text}
        told = subprocess.run([*enter, *words], capture_output=True, text=True, check=False, **said)
        assert not check or told.returncode == 0, f"{words}: {told.stdout[-3000:]}{told.stderr[-3000:]}"
        return told

    def show(self, unit: str, *names: str) -> list[str]:
        said = self.run("systemctl", "show", unit, *[f"--property={name}" for name in names]).stdout
        found = dict(line.partition("=")[::2] for line in said.splitlines())
        return [found.get(name, "") for name in names]

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "-u", unit, "-o", "cat").stdout

    def power_off(self) -> None:
        if self._nspawn is None:
            return
        if self._leader:
            os.kill(self._leader, signal.SIGRTMIN + 4)  # systemd(1): halt in order
        try:
            self._nspawn.wait(90)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()


def wait(
    seen: Callable[[], object],
    what: str,
    *,
    or_skip: subprocess.Popen[bytes] | None = None,
    seconds: float = PATIENCE_S,
) -> None:
    """Until `seen` says something; a machine that does not even start is a reason to skip."""
    deadline = time.monotonic() + seconds
    while not seen():
        if or_skip is not None and or_skip.poll() is not None:
            pytest.skip(f"systemd-nspawn cannot boot a machine here (status {or_skip.returncode})")
        assert time.monotonic() < deadline, f"{what} was not seen within {seconds:g} s"
        time.sleep(0.2)
