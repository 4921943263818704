"""Which idle content of a flash tier to give up when space is needed (design runs.md, Content store)."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class Idle(Struct, frozen=True):
    """Content that no live run holds."""

    digest: str
    size_bytes: int


def plan_eviction(idle: Sequence[Idle], *, need_bytes: int) -> list[Idle]:
    """The fewest of the least recently used (`idle` comes in that order) that free `need_bytes`; all of them
    when even that is not enough, because a half-full tier is better than a full one."""
    chosen: list[Idle] = []
    freed = 0
    for content in idle:
        if freed >= need_bytes:
            break
        chosen.append(content)
        freed += content.size_bytes
    return chosen
