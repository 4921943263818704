"""The NFS server of the guest, for the tests that run in it: exports on file systems of its own, clients, outages."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVER, CLIENTS = Path("/run/server"), Path("/run/clients")
NFSD = Path("/proc/fs/nfsd")
LEASE_S = 10  # the least the server takes
OPTIONS = "vers=4.2,hard,proto=tcp"


class Shell:
    """Runs commands for us. A process that holds files of a silent server open for writing must not start children
    itself: each child closes them too, closing writes back, and that waits for the server; so would we, with the
    interpreter's lock, for the very command that brings the server back."""

    def __init__(self) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, command: str) -> str:
        assert self._shell.stdin is not None and self._shell.stdout is not None
        self._shell.stdin.write(f"{command} </dev/null; echo 'ended with' $?\n")
        self._shell.stdin.flush()
        said: list[str] = []
        for line in self._shell.stdout:
            if line.startswith("ended with "):
                assert line.split()[-1] == "0", f"{command}: {''.join(said)}"
                return "".join(said)
            said.append(line)
        raise AssertionError("the shell ended")


SHELL: list[Shell] = []


def run(*command: object) -> str:
    """By the shell that was started before anything was opened."""
    if not SHELL:
        SHELL.append(Shell())
    return SHELL[0].run(shlex.join(str(word) for word in command))


class Server:
    """`big` (squashing nobody), `squashed` (a folder of it, root is nobody) and `small` (full soon)."""

    def __init__(self) -> None:
        self.exports = {"big": "no_root_squash", "squashed": "root_squash,anonuid=64001,anongid=64001",
                        "small": "no_root_squash"}  # fmt: skip

    @classmethod
    def running(cls) -> Server:
        """The guest's server; the first who asks for it starts it."""
        made = cls()
        if not SERVER.exists():
            made.begin()
        return made

    def begin(self) -> None:
        SERVER.mkdir(mode=0o755)
        for name, mebibytes in (("big", 700), ("squashed", 64), ("small", 24)):
            image = SERVER / f"{name}.img"
            with open(image, "wb") as file:
                file.truncate(mebibytes << 20)
            run("mkfs.ext4", "-q", "-m", 0, "-O", "^has_journal" if name == "small" else "has_journal", image)
            (SERVER / name).mkdir()
            run("mount", "-o", "loop", image, SERVER / name)
            (SERVER / name).chmod(0o777)
        (NFSD / "nfsv4leasetime").write_text(f"{LEASE_S}\n")
        (NFSD / "nfsv4gracetime").write_text(f"{LEASE_S}\n")
        # the root of what clients see: the guest's own, an overlay, cannot be exported
        run("exportfs", "-o", "ro,fsid=0,insecure,no_subtree_check,no_root_squash", f"127.0.0.1:{SERVER}")
        for name in self.exports:
            self.export(name)
        run("rpc.mountd", "-N", 3)
        self.start()

    def export(self, name: str) -> None:
        options = f"rw,sync,no_subtree_check,insecure,fsid={10 + list(self.exports).index(name)},{self.exports[name]}"
        run("exportfs", "-o", options, f"127.0.0.1:{SERVER / name}")

    def unexport(self, name: str) -> None:
        run("exportfs", "-u", f"127.0.0.1:{SERVER / name}")

    def start(self) -> None:
        run("rpc.nfsd", "-N", 3, "-V", 4.2, 4)
        (NFSD / "v4_end_grace").write_text("Y\n")

    def stop(self) -> None:
        """Gone, with all it knew of its clients: calls to it wait."""
        run("rpc.nfsd", 0)

    @contextmanager
    def away(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            run("rpc.nfsd", "-N", 3, "-V", 4.2, 4)  # with its grace, in which clients take up what they held

    def wait_for_clients(self) -> None:
        """Until the grace is over."""
        deadline = time.monotonic() + 6 * LEASE_S
        while "N" in (NFSD / "v4_end_grace").read_text() and time.monotonic() < deadline:
            time.sleep(0.5)


@contextmanager
def mounted(export: str, name: str, *, options: str = "") -> Iterator[Path]:
    """A client of its own: `nosharecache` keeps its memory apart from other mounts of the export."""
    point = CLIENTS / name
    point.mkdir(parents=True, exist_ok=True)
    extra = f",{options}" if options else ""
    run("mount", "-t", "nfs4", "-o", f"{OPTIONS},nosharecache{extra}", f"127.0.0.1:/{export}", point)
    try:
        yield point
    finally:
        run("umount", "-f", "-l", point)
