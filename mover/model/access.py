"""Words about who asks."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct

Role = Literal["viewer", "operator", "admin", "custodian", "scheduler"]
# what a session began with
Opened = Literal["password", "token", "provider"]


class Identity(Struct, frozen=True):
    """Who makes a request, in what role, in which project. `posix_uid` and `posix_gid` are the rights with
    which paths named by this person are opened; None opens nothing but the run's own out/."""

    actor: str
    role: Role
    project: str
    token_id: str = ""  # or the session's; empty for the local socket's peer
    posix_uid: int | None = None
    posix_gid: int | None = None
    # SHA-256 of the token's or session's secret, by which the database knows who asks without taking our word for it
    proof: bytes = b""
    session: Opened | None = None
    account: str = ""  # the id of whose session it is
    scopes: frozenset[str] | None = None  # actions; None is all that the role may
    csrf: str = ""  # what a page of ours repeats with each change; a token in a header needs none
    began_at: datetime | None = None
    ends_at: datetime | None = None

    @property
    def kind(self) -> Literal["bearer", "machine", "password", "token", "provider"]:
        return self.session or ("bearer" if self.token_id else "machine")

    @property
    def proven(self) -> bytes | None:
        """None is the machine itself, at its local socket; a token without its proof proves nothing."""
        return self.proof if self.token_id else None
