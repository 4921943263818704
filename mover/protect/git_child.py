"""The child of `git`: takes on a user, gives up everything else, and becomes git.

Called with FOLDER_FD UID:GID GIT EXEC_PATH ARGUMENTS...; an empty second word keeps the daemon's own user without
its capabilities (root keeps them). The order matters: the fences are built while we may, the user is taken on before
anything of the tree is opened.
"""

from __future__ import annotations

import os
import resource
import sys

from mover.repository.reading_child import become, give_up_capabilities
from mover.sandbox import confine

MEMORY_BYTES = 2 << 30
CPU_S = 60
OPEN_FILES = 256
SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/dev/urandom")


def main(words: list[str]) -> None:
    folder_fd, rights, git, exec_path, *arguments = words
    os.fchdir(int(folder_fd))
    os.close(int(folder_fd))
    confine.no_new_privileges()
    if rights:
        uid, _, gid = rights.partition(":")
        become(int(uid), int(gid), [])
    elif os.geteuid() != 0:
        give_up_capabilities()
    abi = confine.landlock_abi()
    if abi:
        places = tuple(place for place in (*SYSTEM, ".") if os.path.exists(place))
        programs = tuple(dict.fromkeys(os.path.realpath(one) for one in (git, exec_path) if one))
        confine.landlock(places, abi, runnable=(*programs, *loaders()))
    for kind, bound in (
        (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_NOFILE, OPEN_FILES), (resource.RLIMIT_NPROC, 0),
    ):  # fmt: skip
        resource.setrlimit(kind, (bound, bound))
    os.execv(git, [git, *arguments])


def loaders() -> list[str]:
    """The dynamic linker is a program too: the kernel starts it before git."""
    found = {os.path.realpath(f"{folder}/{name}") for folder in ("/lib", "/lib64") if os.path.isdir(folder)
             for name in os.listdir(folder) if name.startswith(("ld-linux", "ld-musl"))}  # fmt: skip
    return sorted(found)


if __name__ == "__main__":
    main(sys.argv[1:])
