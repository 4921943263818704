"""How the parsing child gives up its rights, by plain system calls (design D16).

Three independent fences, each used where the kernel has it; `Protection` says which of them stand:
Landlock (no file but our code and libraries, read only; no TCP; no signals outwards), an empty network
namespace, and a seccomp filter (no sockets, no new processes, no programs, no foreign memory). rlimits and
no_new_privs always stand. Nothing here can be undone by the process that did it.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import math
import os
import platform
import resource
import struct
import sys
import sysconfig

from msgspec import Struct

_LIBC = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = 0x1000_0000, 0x4000_0000, 0x0800_0000


class Limits(Struct, frozen=True):
    """What one child may use. Files count too: a sparse memfd of a slide's size must fit `file_bytes`."""

    memory_bytes: int = 4 << 30
    file_bytes: int = 64 << 30
    open_files: int = 256


class Protection(Struct, frozen=True):
    """Which fences stand on this machine; `mover doctor` and the certificate print it."""

    landlock_abi: int
    network_namespace: bool
    seccomp: bool

    @property
    def no_network(self) -> bool:
        """Landlock knows TCP only, so UDP is refused by one of the other two."""
        return self.network_namespace or self.seccomp

    @property
    def no_files(self) -> bool:
        return self.landlock_abi > 0


def no_new_privileges() -> None:
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs refused")


def die_with_parent(parent_pid: int) -> None:
    """A killed zygote takes its children along; the check closes the race before the call."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def set_limits(limits: Limits, cpu_s: float) -> None:
    seconds = math.ceil(cpu_s) + 1
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
    ):
        hard = resource.getrlimit(kind)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


def allow_files(count: int) -> None:
    """Raise the soft limit of open files as far as `count` and the hard limit let it: descriptors are on their way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        bound = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, bound), hard))


def die_first_when_memory_ends() -> None:
    """memfd pages are not in RLIMIT_AS: if they exhaust the machine, the kernel takes this child first."""
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")
    except OSError:
        return  # a hardened /proc: the rlimits still stand


def leave_network() -> bool:
    """Move into an empty network namespace; False where the system forbids it (the caller reports it)."""
    user, group = os.geteuid(), os.getegid()
    if _LIBC.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC) != 0:
        return False
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        try:
            with open(f"/proc/self/{name}", "w") as table:
                table.write(line)
        except OSError:
            continue  # unmapped ids read files just as well; only creating would fail
    return True


def drop_capabilities() -> None:
    """Empty effective, permitted and inheritable sets (capset, version 3)."""
    header = struct.pack("<Ii", 0x20080522, 0)
    if _LIBC.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset refused")


# --- Landlock ------------------------------------------------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}


def landlock_abi() -> int:
    """0 when the kernel has none or it is switched off."""
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, 0, 1)))


def readable_places(modules: tuple[str, ...]) -> tuple[str, ...]:
    """Where lazy imports and shared libraries live: never a whole checkout, which may hold data too."""
    places = {
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/etc/ld.so.cache",
        "/dev/urandom",
    }
    for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix}:
        places.update(os.path.join(prefix, name) for name in ("lib", "lib64", "pyvenv.cfg"))
    places.update(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    # of a user's own installation or a second environment on the path; a folder of another name may hold data
    places.update(place for place in sys.path if os.path.basename(place) in ("site-packages", "dist-packages"))
    for module in {name.partition(".")[0] for name in modules}:
        spec = importlib.util.find_spec(module)
        if spec is not None:
            places.update(spec.submodule_search_locations or ([spec.origin] if spec.origin else []))
    return tuple(sorted(place for place in places if os.path.exists(place)))


def landlock(
    readable: tuple[str, ...],
    abi: int,
    *,
    runnable: tuple[str, ...] = (),
    folder: str = "",
    again: tuple[int, ...] = (),
) -> None:
    """Reading below `readable` and of /proc/self, starting the programs of `runnable`, listing `folder`, opening the
    files behind `again` once more to read them; nothing else. No TCP from ABI 4, no signals from 6."""
    attributes = struct.pack(
        "<QQQ", (1 << _FS_BITS.get(abi, 16)) - 1, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0
    )[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = _LIBC.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock ruleset refused")
    for place in (*readable, "/proc/self"):
        _allow(ruleset, place, _READ_FILE | _READ_DIR)
    for place in runnable:
        _allow(ruleset, place, _READ_FILE | _READ_DIR | _EXECUTE)
    _allow(ruleset, "/dev/null", _READ_FILE | _WRITE_FILE)
    if folder:
        _allow(ruleset, folder, _READ_DIR)
    for descriptor in again:
        _add(ruleset, descriptor, _READ_FILE, may_fail=True)  # of memory: it has no place, and needs no rule
    if _LIBC.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
        raise OSError(ctypes.get_errno(), "landlock refused")
    os.close(ruleset)


def _allow(ruleset: int, place: str, rights: int) -> None:
    try:
        beneath = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what cannot be opened is not allowed, the safe side
    try:
        if not os.path.isdir(place):
            rights &= ~_READ_DIR  # EINVAL on a file otherwise (landlock(7))
        _add(ruleset, beneath, rights)
    finally:
        os.close(beneath)


def _add(ruleset: int, beneath: int, rights: int, *, may_fail: bool = False) -> None:
    rule = struct.pack("<Qi", rights, beneath)
    if _LIBC.syscall(_ADD_RULE, ruleset, 1, rule, 0) != 0 and not may_fail:
        raise OSError(ctypes.get_errno(), "landlock rule refused")


# --- seccomp -------------------------------------------------------------------------------------------

# audit arch, then the numbers of: clone, prlimit64, and what is refused outright (socket, ptrace, execve,
# execveat, kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, mount, umount2, unshare, setns, bpf,
# perf_event_open, userfaultfd, keyctl, add_key, request_key, process_vm_readv, process_vm_writev,
# open_by_handle_at, pivot_root, chroot, init_module, finit_module, kexec_load; fork and vfork on x86).
_ARCHES = {
    "x86_64": (
        0xC000003E, 56, 302,
        (41, 101, 59, 322, 62, 200, 234, 129, 297, 165, 166, 272, 308, 321, 298, 323, 250, 248, 249, 310, 311,
         304, 155, 161, 175, 313, 246, 57, 58),
    ),
    "aarch64": (
        0xC00000B7, 220, 261,
        (198, 117, 221, 281, 129, 130, 131, 138, 240, 40, 39, 97, 268, 280, 241, 282, 219, 217, 218, 270, 271,
         265, 41, 51, 105, 273, 104),
    ),
}  # fmt: skip
_EVERYWHERE = (424, 425, 434, 438)  # pidfd_send_signal, io_uring_setup, pidfd_open, pidfd_getfd
_CLONE3 = 435
_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD = 0x10000


def _filter() -> bytes | None:
    """The BPF program: (code, jump if true, jump if false, operand) per step."""
    arch = _ARCHES.get(platform.machine())
    if arch is None or struct.calcsize("P") != 8:
        return None
    audit, clone, prlimit, refused = arch
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    steps = [
        (_LOAD, 0, 0, 4),  # seccomp_data.arch
        (_JUMP_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # seccomp_data.nr
        (_JUMP_ABOVE, 0, 1, 0x40000000),  # the x32 numbers
        refuse,
        (_JUMP_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),  # its flags lie in memory; glibc then uses clone
        (_JUMP_EQUAL, 0, 4, clone),
        (_LOAD, 0, 0, 16),  # low half of the first argument
        (_JUMP_SET, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        refuse,
        (_JUMP_EQUAL, 0, 4, prlimit),
        (_LOAD, 0, 0, 16),
        (_JUMP_EQUAL, 0, 1, 0),  # one's own limits, never another process's
        (_RETURN, 0, 0, _ALLOW),
        refuse,
    ]
    for number in (*refused, *_EVERYWHERE):
        steps += [(_JUMP_EQUAL, 0, 1, number), refuse]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def seccomp_known() -> bool:
    return _filter() is not None


def seccomp() -> bool:
    """Install the filter; False when the kernel or the architecture has none."""
    program = _filter()
    if program is None:
        return False
    steps = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("<H6xQ", len(program) // 8, ctypes.addressof(steps))
    return bool(_LIBC.prctl(_PR_SET_SECCOMP, 2, fprog, 0, 0) == 0)


def enclose(
    *, readable: tuple[str, ...], limits: Limits, cpu_s: float, abi: int, folder: str = "", again: tuple[int, ...] = ()
) -> None:
    """All fences of one child, in the order in which each still may be put up."""
    die_first_when_memory_ends()
    set_limits(limits, cpu_s)
    if abi:
        landlock(readable, abi, folder=folder, again=again)
    seccomp()
