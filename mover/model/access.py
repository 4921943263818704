"""Words about who asks."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Role = Literal["viewer", "operator", "admin", "custodian", "scheduler"]


class Identity(Struct, frozen=True):
    """Who makes a request, in what role, in which project. `posix_uid` and `posix_gid` are the rights with
    which paths named by this person are opened; None opens nothing but the run's own out/."""

    actor: str
    role: Role
    project: str
    token_id: str = ""  # empty for the local socket's peer
    posix_uid: int | None = None
    posix_gid: int | None = None
    # SHA-256 of the token's secret, by which the database knows who asks without taking our word for it
    proof: bytes = b""

    @property
    def proven(self) -> bytes | None:
        """None is the machine itself, at its local socket; a token without its proof proves nothing."""
        return self.proof if self.token_id else None
