"""Where a snapshot is restored from: the policy's first repository, or, where that does not give it, the second.

Blob by blob as long as the first can be opened and knows the snapshot: what is lost or rotten there comes from the
copy, whose blobs have the same names. All of it from the copy where the first does not answer, has lost its keys, its
index cannot be read, or the snapshot's file is gone. Either is said in the restore's warnings and in the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from msgspec import Struct

from mover.errors import Denied, IntegrityError, MoverError, NotFound, TierError
from mover.model.policy import ProtectPolicy
from mover.protect.site import ProtectSite
from mover.repository.facts import RestoreResult
from mover.repository.reader import BlobReader
from mover.repository.repository import Repository
from mover.repository.spare import Opening


class Source(Struct, frozen=True, kw_only=True):
    """`snapshot` is its id in this repository; `spare` opens the second one, `instead` says why that is this one."""

    repository: Repository
    snapshot: str
    second: str = ""
    spare: Opening | None = None
    instead: str = ""

    def looking(self) -> AbstractContextManager[tuple[BlobReader, bytes]]:
        return self.repository.looking(self.snapshot, spare=self.spare)

    def told(self, result: RestoreResult) -> list[str]:
        """What to say of a restore that needed the second repository."""
        if self.instead:
            return [self.instead]
        if result.spared:
            return [f"{result.spared} blobs came from the second repository, on {self.second}: the first lacks them"]
        return []


def source_of(site: ProtectSite, row: Any) -> Source:
    """Blocking. Of a snapshot as the catalog has it."""
    policy = site.policies.get(row.policy, ProtectPolicy)
    rule = policy.copy
    if rule is None or rule.repository not in site.tiers:
        return Source(repository=site.repositories.of(policy), snapshot=row.repository_id)

    @contextmanager
    def spare() -> Iterator[BlobReader]:
        with site.repositories.at(rule.repository, rule.prefix).reading() as blobs:
            yield blobs

    try:
        first = site.repositories.of(policy)
        with first.looking(row.repository_id):
            return Source(repository=first, snapshot=row.repository_id, second=rule.repository, spare=spare)
    except (TierError, IntegrityError, NotFound, Denied) as failure:
        return _second(site, policy, row.repository_id, failure)


def _second(site: ProtectSite, policy: ProtectPolicy, snapshot: str, failure: MoverError) -> Source:
    """The copy itself. Where that one cannot help, the first one's failure is what a person has to hear."""
    assert policy.copy is not None
    tier = policy.copy.repository
    try:
        repository = site.repositories.at(tier, policy.copy.prefix)
        copies = repository.copies_of(snapshot)
    except (TierError, IntegrityError, Denied):
        raise failure from None
    if not copies:
        raise failure
    instead = f"all of it comes from the second repository, on {tier}: the first does not give it ({failure.code})"
    return Source(repository=repository, snapshot=copies[0].snapshot_id, second=tier, instead=instead)
