"""Which needs leave the building, to whom, and when again: what stands and what was told in, tellings out.

An alarm is a need that stands: it opens when a policy wants it, is told after `after_s`, told again when it grows or
has stood for `again_s`, and told to be over when it is. Whoever was told that it began is told that it ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct

from mover.decide.needs import Need
from mover.model.policy import AlarmPolicy

Event = Literal["opened", "grew", "reminded", "closed"]
GREW_S = 600.0  # a quarantine that fills pack by pack is told of in steps
_ORDER = ("now", "soon", "know")


class Alarm(Struct, frozen=True):
    """One that stands open. `told` is when, and with which count, something was said of it last."""

    key: str
    count: int
    opened_at: datetime
    told_at: datetime | None = None
    told_count: int = 0


class Telling(Struct, frozen=True):
    key: str
    event: Event
    receivers: tuple[str, ...]


class Turn(Struct, frozen=True):
    standing: tuple[tuple[str, Need], ...]  # to be opened or kept, by key
    closed: tuple[str, ...]
    tellings: tuple[Telling, ...]


def key_of(need: Need) -> str:
    """What makes it the same alarm at the next look: a tier is one, a batch among many is not."""
    return f"{need.code}/{need.subject}" if need.noun == "tier" and need.subject else need.code


def receivers_of(policies: Iterable[AlarmPolicy], need: Need) -> tuple[str, ...]:
    """Who is told of it by any policy, each once."""
    return tuple(sorted({name for policy in policies if _wanted(policy, need) for name in policy.receivers}))


def turn(policies: Sequence[AlarmPolicy], found: Iterable[Need], open_: Mapping[str, Alarm], *, now: datetime) -> Turn:
    needs = {key_of(need): need for need in found if any(_wanted(policy, need) for policy in policies)}
    tellings = []
    for key, need in needs.items():
        alarm = open_.get(key) or Alarm(key, need.count, now)
        policy = min((one for one in policies if _wanted(one, need)), key=lambda one: one.after_s)
        event = _due(policy, alarm, need, now)
        if event is not None:
            tellings.append(Telling(key, event, receivers_of(policies, need)))
    closed = tuple(key for key in open_ if key not in needs)
    everybody = tuple(sorted({name for policy in policies for name in policy.receivers}))
    tellings += [Telling(key, "closed", everybody) for key in closed if open_[key].told_at is not None]
    return Turn(tuple(needs.items()), closed, tuple(tellings))


def _wanted(policy: AlarmPolicy, need: Need) -> bool:
    urgent = _ORDER.index(need.severity) <= _ORDER.index(policy.severity)
    return urgent and (not policy.codes or need.code in policy.codes)


def _due(policy: AlarmPolicy, alarm: Alarm, need: Need, now: datetime) -> Event | None:
    if alarm.told_at is None:
        return "opened" if (now - alarm.opened_at).total_seconds() >= policy.after_s else None
    silent_s = (now - alarm.told_at).total_seconds()
    if need.count > alarm.told_count and silent_s >= GREW_S:
        return "grew"
    return "reminded" if silent_s >= policy.again_s else None
