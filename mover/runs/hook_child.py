"""The child of `hooks`: gives up what a hook must not have, and becomes the hook.

Called with HOOK_FD UID:GID:GROUP,GROUP,.. PARENT NAME ARGUMENTS...; an empty second word keeps the daemon's own user,
without its capabilities unless it is root. Nothing is imported after the user was taken on, and the hook is the file
that was judged, by its descriptor: whatever has its name by now is not asked.
"""

from __future__ import annotations

import os
import resource
import sys

from mover.repository.reading_child import become, give_up_capabilities
from mover.sandbox import confine

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
# as a shell says it: a file that was found and could not be run
CANNOT_RUN = 126


def main(words: list[str]) -> None:
    hook_fd, rights, parent, name, *arguments = words
    confine.no_new_privileges()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    if rights:
        uid, gid, groups = rights.split(":")
        become(int(uid), int(gid), [int(group) for group in groups.split(",") if group])
    elif os.geteuid() != 0:
        give_up_capabilities()
    confine.die_with_parent(int(parent))  # after the user: taking one on would forget it
    try:
        os.execve(int(hook_fd), [name, *arguments], ENVIRONMENT)
    except OSError as error:
        os.write(2, f"the hook cannot be run: {error.strerror}\n".encode())
        os._exit(CANNOT_RUN)


if __name__ == "__main__":
    main(sys.argv[1:])
