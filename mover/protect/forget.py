"""Carrying out a retention plan: the snapshot files that no rule keeps are removed.

Forgetting is not pruning: no pack and no index file is touched here. The judgement is `decide.retention`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from mover.decide.retention import Verdict


class Forgetful(Protocol):
    def forget(self, ids: Iterable[str]) -> list[str]: ...


def apply(repository: Forgetful, plan: Iterable[Verdict]) -> list[str]:
    """The ids that were removed now. A plan carried out twice removes nothing the second time."""
    doomed = [verdict.id for verdict in plan if not verdict.keep]
    return repository.forget(doomed) if doomed else []
