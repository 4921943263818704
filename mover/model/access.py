"""Words about who asks."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Role = Literal["viewer", "operator", "admin", "custodian"]


class Identity(Struct, frozen=True):
    """Who makes a request, in what role, in which project. `posix_uid` and `posix_gid` are the rights with
    which paths named by this person are opened; None opens nothing but the run's own out/."""

    actor: str
    role: Role
    project: str
    token_id: str = ""  # empty for the local socket's peer
    posix_uid: int | None = None
    posix_gid: int | None = None
