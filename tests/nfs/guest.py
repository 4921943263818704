"""A throw-away machine with what this kernel may lack: an NFS server and client.

Debian's cloud kernel under QEMU, without virtualisation if need be (it boots in seconds). Its root is this machine's
own file system over virtiofs, read-only, under a memory overlay: the same Python, the same packages, the same
checkout, nothing to build. The programs of the NFS server and the kernel are fetched once as Debian packages, and
only unpacked, never installed here.

Boot: kernel and a small initramfs (busybox, a few modules) -> virtiofs + overlay -> `inside.sh` -> pytest on the
serial console -> a last line with its exit status.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = ("qemu-system-x86", "busybox-static")
KERNEL = "linux-image-cloud-amd64"
SERVER = (
    "nfs-kernel-server", "nfs-common", "libnfsidmap1", "libtirpc3", "libtirpc-common", "libevent-core-2.1-7",
    "libwrap0", "libkeyutils1", "libdevmapper1.02.1", "kmod",
)  # fmt: skip
# in the initramfs: what leads to the root; the rest is loaded from it
BOOT_MODULES = ("virtio_pci", "virtiofs", "overlay")
MODULES = (*BOOT_MODULES, "nfsd", "nfsv4", "loop")
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
MEMORY_MIB = 3072
SIGN_OF_LIFE = "mover guest: up"
LAST_LINE = re.compile(r"mover guest: exit (\d+)")
KVM_SIGN_S = 8.0  # nested guests are known to stop dead; emulation is slow and sure


# after the first boot only the one that works
_accelerators = ["kvm", "tcg"] if os.access("/dev/kvm", os.W_OK) else ["tcg"]


class Missing(Exception):
    """Something a guest needs cannot be had here; the text says what."""


def cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    made = base / "mover-tests" / "nfs-guest"
    made.mkdir(parents=True, exist_ok=True)
    return made


# --- what it needs ----------------------------------------------------------------------------------------


def prepare() -> Path:
    """The folder with the unpacked kernel and server; Missing when they cannot be had."""
    if os.uname().machine != "x86_64":
        raise Missing("the guest is built for x86_64")
    if os.geteuid() != 0:
        raise Missing("sharing this machine's files with a guest needs root")
    if shutil.which("apt-get") is None:
        raise Missing("QEMU, a kernel and an NFS server are fetched with apt-get")
    if shutil.which("qemu-system-x86_64") is None or shutil.which("busybox") is None:
        subprocess.run(["sh", str(REPOSITORY / ".ci/deps"), *TOOLS], check=False)
    if shutil.which("qemu-system-x86_64") is None or shutil.which("busybox") is None:
        raise Missing("apt-get could not install " + " ".join(TOOLS))
    if _virtiofsd() is None:
        raise Missing("QEMU came without virtiofsd")
    return _unpacked()


def _virtiofsd() -> str | None:
    return next((path for path in VIRTIOFSD if os.access(path, os.X_OK)), None)


def _unpacked() -> Path:
    """Fetched once. The stamp is written last: what was cut off is made again."""
    folder = cache() / "root"
    stamp = folder / ".whole"
    if stamp.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with _download((_kernel_package(), *SERVER)) as packages:
        for package in packages:
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    stamp.touch()
    return folder


def _kernel_package() -> str:
    """The image behind the name that always means the newest one."""
    shown = subprocess.run(["apt-cache", "depends", KERNEL], capture_output=True, text=True, check=False).stdout
    found = re.search(r"Depends: (linux-image-\S+)", shown)
    if found is None:
        raise Missing(f"apt knows no {KERNEL}; run apt-get update")
    return found[1]


@contextmanager
def _download(packages: tuple[str, ...]) -> Iterator[list[Path]]:
    folder = cache() / "packages"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        fetched = subprocess.run(["apt-get", "download", "-qq", *packages], cwd=folder, capture_output=True, text=True)
        if fetched.returncode:
            raise Missing(f"apt-get could not download the guest's packages: {fetched.stderr.strip()[-200:]}")
        yield sorted(folder.glob("*.deb"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- the initramfs ----------------------------------------------------------------------------------------


def _modules(tree: Path, wanted: tuple[str, ...]) -> list[Path]:
    """Module files in the order in which they load; each says itself which others it needs."""
    files = {path.name.removesuffix(".ko").replace("-", "_"): path for path in tree.rglob("*.ko")}
    ordered: list[Path] = []

    def add(name: str) -> None:
        path = files.get(name)
        if path is None or path in ordered:
            return  # what is no file is built in
        found = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for needed in found[1].decode().split(",") if found and found[1] else ():
            add(needed.replace("-", "_"))
        ordered.append(path)

    for name in wanted:
        add(name)
    return ordered


def _init(modules: list[str]) -> str:
    """The first process: from nothing to this machine's own root, read-only below a memory overlay."""
    return "\n".join(
        [
            "#!/bin/busybox sh",
            "export PATH=/bin",
            "/bin/busybox --install -s /bin",
            "mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev",
            *(f"insmod /modules/{name}" for name in modules),
            f"echo '{SIGN_OF_LIFE}'",
            "mount -t tmpfs -o size=75% memory /memory",
            "mkdir /memory/up /memory/work",
            "mount -t virtiofs -o ro host /host || reboot -f",
            "mount -t overlay -o lowerdir=/host,upperdir=/memory/up,workdir=/memory/work overlay /system || reboot -f",
            "for one in proc sys dev; do mount --move /$one /system/$one; done",
            "mount -t tmpfs -o mode=1777 run /system/run",
            f"exec switch_root /system /bin/sh {REPOSITORY}/tests/nfs/inside.sh",
        ]
    )


def _initramfs(root: Path, target: Path) -> None:
    tree = next((root / "lib/modules").iterdir())
    modules = _modules(tree, BOOT_MODULES)
    busybox = shutil.which("busybox")
    assert busybox is not None
    archive = io.BytesIO()
    for folder in ("bin", "proc", "sys", "dev", "modules", "memory", "host", "system"):
        _entry(archive, folder, b"", stat.S_IFDIR | 0o755)
    _entry(archive, "bin/busybox", Path(busybox).read_bytes(), stat.S_IFREG | 0o755)
    for path in modules:
        _entry(archive, f"modules/{path.name}", path.read_bytes(), stat.S_IFREG | 0o644)
    _entry(archive, "init", _init([path.name for path in modules]).encode(), stat.S_IFREG | 0o755)
    _entry(archive, "TRAILER!!!", b"", 0)
    target.write_bytes(archive.getvalue())


def _entry(archive: io.BytesIO, name: str, data: bytes, mode: int) -> None:
    """One file of a `newc` archive (initramfs buffer format, Documentation/driver-api/early-userspace)."""
    spelled = name.encode() + b"\0"
    fields = (archive.tell() + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(spelled), 0)
    archive.write(b"070701" + b"".join(b"%08x" % field for field in fields) + spelled)
    archive.write(bytes(-archive.tell() % 4) + data)
    archive.write(bytes(-archive.tell() % 4))


# --- running it -------------------------------------------------------------------------------------------


def boot(root: Path, scratch: Path, *, arguments: str, timeout_s: float, line: Callable[[str], None]) -> int | None:
    """Run `inside.sh` in a guest, its console line by line to `line`; its exit status, None when it never came to
    that (no sign of life, out of time, a panic)."""
    modules = [path.relative_to(root) for path in _modules(next((root / "lib/modules").iterdir()), MODULES)]
    (scratch / "modules").write_text("".join(f"{root / path}\n" for path in modules))
    _initramfs(root, scratch / "initramfs")
    environment = " ".join(
        (f"mover.root={root}", f"mover.modules={scratch / 'modules'}", f"mover.python={sys.executable}",
         f"mover.arguments={arguments}")
    )  # fmt: skip
    for accelerator in tuple(_accelerators):
        machine = _Machine(root, scratch, accelerator, environment)
        sign_s = KVM_SIGN_S if accelerator == "kvm" else timeout_s
        status = machine.run(sign_s=sign_s, timeout_s=timeout_s, line=line)
        if machine.lived:
            _accelerators[:] = [accelerator]
            return status
        line(f"(no sign of life with {accelerator})")
    return None


class _Machine:
    def __init__(self, root: Path, scratch: Path, accelerator: str, environment: str) -> None:
        self._root, self._scratch = root, scratch
        self._accelerator, self._environment = accelerator, environment
        self.lived = False

    def run(self, *, sign_s: float, timeout_s: float, line: Callable[[str], None]) -> int | None:
        socket = self._scratch / f"{self._accelerator}.sock"
        server = _virtiofsd()
        assert server is not None
        sharing = subprocess.Popen(
            [server, f"--socket-path={socket}", "-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot",
             "--thread-pool-size=4"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            for _ in range(100):
                if socket.exists():
                    break
                threading.Event().wait(0.05)
            return self._run(socket, sign_s=sign_s, timeout_s=timeout_s, line=line)
        finally:
            sharing.terminate()
            sharing.wait()

    def _run(self, socket: Path, *, sign_s: float, timeout_s: float, line: Callable[[str], None]) -> int | None:
        machine = subprocess.Popen(
            self._command(socket), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        overdue = threading.Timer(timeout_s, machine.kill)
        silent = threading.Timer(sign_s, lambda: None if self.lived else machine.kill())
        for timer in (overdue, silent):
            timer.start()
        status: int | None = None
        try:
            assert machine.stdout is not None
            for raw in machine.stdout:
                text = raw.decode("utf-8", "replace").rstrip()
                self.lived = self.lived or SIGN_OF_LIFE in text
                if found := LAST_LINE.search(text):
                    status = int(found[1])
                line(text)
            return status
        finally:
            for timer in (overdue, silent):
                timer.cancel()
            machine.kill()
            machine.wait()

    def _command(self, socket: Path) -> list[str]:
        kernel = next((self._root / "boot").glob("vmlinuz-*"))
        accelerate = "kvm" if self._accelerator == "kvm" else "tcg,thread=multi,tb-size=512"
        processor = ["-cpu", "host,-arch-capabilities"] if self._accelerator == "kvm" else ["-cpu", "max"]
        return [
            "qemu-system-x86_64", "-accel", accelerate, *processor, "-smp", "2", "-m", str(MEMORY_MIB),
            "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
            "-object", f"memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on", "-numa", "node,memdev=memory",
            "-chardev", f"socket,id=host,path={socket}",
            "-device", "vhost-user-fs-pci,chardev=host,tag=host,queue-size=1024",
            "-kernel", str(kernel), "-initrd", str(self._scratch / "initramfs"),
            "-append", f"console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on {self._environment}",
        ]  # fmt: skip
