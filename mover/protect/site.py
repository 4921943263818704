"""What every part of this room works with, in one value, and the repositories it opens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from mover import audit
from mover.catalog.database import Connection, Database
from mover.clock import SYSTEM, Clock, monotonic_s, pause
from mover.errors import (
    Denied,
    NotFound,
    RepositoryChanged,
    RepositoryLocked,
    RequestInvalid,
    SettingsInvalid,
    TierUnavailable,
)
from mover.model.access import Identity
from mover.model.policy import ProtectPolicy
from mover.policy import PolicyBook
from mover.protect.keeping import Seal, bring_back_doors, kept, rules
from mover.repository.reading import Requester
from mover.repository.repository import Repository, create_repository, open_repository
from mover.tiers.port import PruneTier, ReadTier, prunable
from mover.transfer.budgets import UNLIMITED, Budgets

PAGE_MAX = 1000
PLAN_STEPS_MAX = 1000
# who forgets holds the repository alone, for moments
LOCK_PATIENCE_S = 60.0
LOCK_PAUSE_S = 0.25
PASSWORD_MIN = 12  # bytes of a further key's
Answer = TypeVar("Answer")


class RunPlace(Struct, frozen=True):
    """Where a flash tier's run roots are, for the daemon and for jobs."""

    root: Path
    seen_as: str


class Repositories:
    """The repositories of the policies, each opened once: its key costs a scrypt. One that does not exist yet is
    created. `seal` makes files immutable, where a policy asks for it; in the folder `pins` stands which repository was
    where."""

    def __init__(
        self, tiers: Mapping[str, ReadTier], policies: PolicyBook, password_file: Path, *, seal: Seal | None = None,
        pins: Path | None = None,
    ) -> None:  # fmt: skip
        self._tiers, self._policies, self._password_file, self._seal = tiers, policies, password_file, seal
        self._pins = pins
        self._opened: dict[tuple[str, str], Repository] = {}
        self._opening = threading.Lock()

    def forget(self) -> None:
        """Policies say otherwise what keeps files from being deleted: each is opened anew when it is needed."""
        with self._opening:
            self._opened.clear()

    def of(self, policy: ProtectPolicy) -> Repository:
        return self.at(policy.repository, policy.prefix)

    def of_row(self, row: Any) -> Repository:
        """Of a snapshot as the catalog has it."""
        return self.of(self._policies.get(row.policy, ProtectPolicy))

    def at(self, name: str, prefix: str) -> Repository:
        with self._opening:
            if (name, prefix) not in self._opened:
                self._opened[(name, prefix)] = self._open(name, prefix)
            return self._opened[(name, prefix)]

    def _open(self, name: str, prefix: str) -> Repository:
        """One that this node has seen before is never made anew: whatever took it away may give it back."""
        tier = self.kept_tier(name, prefix)
        bring_back_doors(tier, prefix)
        password = read_password(self._password_file)
        pin = self._pins and self._pins / f"{name}{prefix and '-' + prefix.replace('/', '-')}"
        seen = pin.read_text("ascii").strip() if pin and pin.exists() else None
        try:
            repository = open_repository(tier, password, prefix=prefix)
        except NotFound:
            if seen is not None:
                raise _changed(name, prefix, "is gone", pin) from None
            repository = create_repository(tier, password, prefix=prefix)
        except Denied as error:
            hint = f"Put the password of one of its keys into {self._password_file}, and try again."
            raise Denied(error.what, where=f"{name}:{prefix}", hint=hint) from error
        if seen not in (None, repository.repository_id):
            raise _changed(name, prefix, "was replaced by another", pin)
        if pin is not None and seen is None:
            pin.parent.mkdir(mode=0o700, exist_ok=True)
            pin.write_text(repository.repository_id, "ascii")
        return repository

    def password_named(self, name: str) -> bytes:
        """Blocking. Of a further key, from a file beside the daemon's own."""
        password = read_password(self._password_file.with_name(f"repository-key-{name}"))
        if len(password) < PASSWORD_MIN:
            raise RequestInvalid(f"a password has at least {PASSWORD_MIN} bytes", where=f"repository-key-{name}")
        return password

    def kept_tier(self, name: str, prefix: str) -> PruneTier:
        """The tier with the means around it that keep this repository's files from being deleted, if it has any."""
        if name not in self._tiers:
            raise TierUnavailable("a policy has its repository on a tier that the settings do not name", where=name)
        rule = next((r for r in rules(self._policies) if (r.tier, r.prefix) == (name, prefix.strip("/"))), None)
        return prunable(kept(prunable(self._tiers[name]), rule, seal=self._seal))


def read_password(path: Path) -> bytes:
    """Blocking. It is in no error, as nothing of the file is."""
    try:
        password = path.read_bytes().strip()
    except OSError as error:
        raise SettingsInvalid(
            f"the file with the repository's password cannot be read ({type(error).__name__})",
            where=str(path),
            hint=f"Put it there, readable by the daemon alone, or give the systemd credential {path.name}.",
        ) from error
    if not password:
        raise SettingsInvalid("the file with the repository's password is empty", where=str(path),
                              hint="A new file needs the password the repository was made with.")  # fmt: skip
    return password


def _changed(name: str, prefix: str, what: str, pin: Path | None) -> RepositoryChanged:
    return RepositoryChanged(
        f"the snapshot repository that was here {what}", where=f"{name}:{prefix}",
        hint=f"Bring it back, or mount what is missing. Nothing was written. If it is so on purpose, remove {pin}.",
    )  # fmt: skip


class ProtectSite(Struct, frozen=True, kw_only=True):
    """One daemon's means to protect: what each part of the room is given."""

    database: Database
    tiers: Mapping[str, ReadTier]
    flash: Mapping[str, RunPlace]
    policies: PolicyBook
    repositories: Repositories
    forbidden: Sequence[Path]  # roots of identified tiers: nothing is read there, nothing restored into them
    node: str
    clock: Clock = SYSTEM
    budgets: Budgets = UNLIMITED
    # roots of tiers that hold what nobody replaces by hand, archives and repositories: nothing is restored into them
    kept_clear: Sequence[Path] = ()
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


def second_of(site: ProtectSite, policy: ProtectPolicy) -> Repository | None:
    """The policy's second repository, opened."""
    if policy.copy is None:
        return None
    return site.repositories.at(policy.copy.repository, policy.copy.prefix)


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
