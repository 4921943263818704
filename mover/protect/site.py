"""What every part of this room works with, in one value, and the repositories it opens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from mover import audit
from mover.catalog.database import Connection, Database
from mover.clock import SYSTEM, Clock, monotonic_s, pause
from mover.errors import NotFound, RepositoryLocked, TierUnavailable
from mover.model.access import Identity
from mover.model.policy import ProtectPolicy
from mover.policy import PolicyBook
from mover.protect.keeping import Seal, bring_back_doors, kept, rules
from mover.repository.reading import Requester
from mover.repository.repository import Repository, create_repository, open_repository
from mover.tiers.port import PruneTier, ReadTier
from mover.transfer.budgets import UNLIMITED, Budgets

PAGE_MAX = 1000
PLAN_STEPS_MAX = 1000
# who forgets holds the repository alone, for moments
LOCK_PATIENCE_S = 60.0
LOCK_PAUSE_S = 0.25
Answer = TypeVar("Answer")


class RunPlace(Struct, frozen=True):
    """Where a flash tier's run roots are, for the daemon and for jobs."""

    root: Path
    seen_as: str


class Repositories:
    """The repositories of the policies, each opened once: its key costs a scrypt. One that does not exist yet is
    created. `seal` makes files immutable, where a policy asks for it."""

    def __init__(
        self, tiers: Mapping[str, ReadTier], policies: PolicyBook, password_file: Path, *, seal: Seal | None = None
    ) -> None:
        self._tiers, self._policies, self._password_file, self._seal = tiers, policies, password_file, seal
        self._opened: dict[tuple[str, str], Repository] = {}
        self._opening = threading.Lock()

    def of(self, policy: ProtectPolicy) -> Repository:
        return self.at(policy.repository, policy.prefix)

    def of_row(self, row: Any) -> Repository:
        """Of a snapshot as the catalog has it."""
        return self.of(self._policies.get(row.policy, ProtectPolicy))

    def at(self, name: str, prefix: str) -> Repository:
        with self._opening:
            if (name, prefix) not in self._opened:
                tier = self.kept_tier(name, prefix)
                bring_back_doors(tier, prefix)
                password = self._password_file.read_bytes().strip()
                try:
                    repository = open_repository(tier, password, prefix=prefix)
                except NotFound:
                    repository = create_repository(tier, password, prefix=prefix)
                self._opened[(name, prefix)] = repository
            return self._opened[(name, prefix)]

    def kept_tier(self, name: str, prefix: str) -> PruneTier:
        """The tier with the means around it that keep this repository's files from being deleted, if it has any."""
        if name not in self._tiers:
            raise TierUnavailable(
                "a policy keeps its repository on this tier, which is not in the settings", where=name
            )
        rule = next((r for r in rules(self._policies) if (r.tier, r.prefix) == (name, prefix.strip("/"))), None)
        tier = kept(self._tiers[name], rule, seal=self._seal)
        assert isinstance(tier, PruneTier)
        return tier


class ProtectSite(Struct, frozen=True, kw_only=True):
    """One daemon's means to protect: what each part of the room is given."""

    database: Database
    tiers: Mapping[str, ReadTier]
    flash: Mapping[str, RunPlace]
    policies: PolicyBook
    repositories: Repositories
    forbidden: tuple[Path, ...]  # roots of identified tiers: nothing is read there, nothing restored into them
    node: str
    clock: Clock = SYSTEM
    budgets: Budgets = UNLIMITED
    # roots of tiers that hold what nobody replaces by hand, archives and repositories: nothing is restored into them
    kept_clear: tuple[Path, ...] = ()
    # as the files say; `policies` has the object locks that hold instead, where the files say less
    declared: PolicyBook | None = None

    async def record(
        self,
        conn: Connection,
        project: str,
        action: str,
        subject: str,
        *,
        actor: str = "daemon",
        reason: str = "",
        request: str = "",
        **details: object,
    ) -> None:
        """The audit record, in the transaction of what it records."""
        await audit.record(
            conn, project=project, node=self.node, actor=actor, action=action, subject=subject, reason=reason,
            request=request, details=dict(details),
        )  # fmt: skip


def requester_of(identity: Identity) -> Requester | None:
    """The POSIX rights a request carries, if any."""
    if identity.posix_uid is None or identity.posix_gid is None:
        return None
    return Requester(identity.posix_uid, identity.posix_gid)


def patiently(call: Callable[[], Answer]) -> Answer:
    """Blocking. Nobody who wants to protect, look or restore is sent away because somebody forgets just now."""
    deadline_s = monotonic_s() + LOCK_PATIENCE_S
    while True:
        try:
            return call()
        except RepositoryLocked:
            if monotonic_s() > deadline_s:
                raise
            pause(LOCK_PAUSE_S)
