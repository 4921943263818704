"""How full tiers were, and how fast bytes went between them: sampled by every daemon, read by everybody.

Bytes are counted where they are written, in this process; each turn adds what came since the last one to the row of
its interval. A daemon that is killed loses one turn's bytes of the picture, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct

from mover import metrics
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.forecast import Forecast, Level, forecast
from mover.model import wire

SQL = load(__file__)
# one turn of sampling, and the intervals its rows stand for
TURN_S = 10.0
PACE_EVERY = timedelta(seconds=10)
LEVEL_EVERY = timedelta(minutes=10)
# old rows are looked for once in so many turns
FORGET_TURNS = 360
# how many points a picture has at most
POINTS = 180
SECONDS = (10, 30, 60, 120, 300, 600, 1800, 3600)
FORECAST_DAYS = 30


class Room(Struct, frozen=True):
    """What a tier says of itself now."""

    tier: str
    capacity_bytes: int
    free_bytes: int


class Levels:
    def __init__(self, database: Database, *, node: str) -> None:
        self._database, self._node = database, node
        self._told: dict[tuple[str, str], float] = {}
        self._turns = 0

    async def sample(self, rooms: Iterable[Room]) -> None:
        """One turn. What moved is taken as told only after its rows were committed."""
        moved = metrics.moved_bytes()
        async with self._database.instance() as conn:
            for room in rooms:
                await conn.execute(SQL["put_level"], {
                    "tier": room.tier, "capacity": room.capacity_bytes, "free": room.free_bytes, "every": LEVEL_EVERY,
                })  # fmt: skip
            for (source, target), total in moved.items():
                if (bytes_ := int(total - self._told.get((source, target), 0.0))) > 0:
                    await conn.execute(SQL["put_pace"], {
                        "node": self._node, "source": source, "target": target, "bytes": bytes_, "every": PACE_EVERY,
                    })  # fmt: skip
            if self._turns % FORGET_TURNS == 0:
                await conn.execute(SQL["forget"])
        self._told = moved
        self._turns += 1

    async def pace(self, minutes: int) -> wire.Paces:
        """Bytes a second between tiers, newest last. The interval that runs is left out: it is not full yet."""
        step_s = _step(minutes * 60)
        step = timedelta(seconds=step_s)
        async with self._database.instance() as conn:
            rows = await SQL.many(conn, "paces", step=step, minutes=minutes)
            now: datetime = (await SQL.one(conn, "clock", step=step)).now
        count = minutes * 60 // step_s
        at = [now - step * (count - place) for place in range(count)]
        places = {when: place for place, when in enumerate(at)}
        pairs: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            if (place := places.get(row.at)) is not None:
                pairs.setdefault((row.source, row.target), [0.0] * count)[place] = row.bytes / step_s
        told = [wire.PairPace(source=s, target=t, bytes_s=values) for (s, t), values in sorted(pairs.items())]
        return wire.Paces(step_s=step_s, at=at, pairs=told)

    async def levels(self, days: int) -> wire.Levels:
        async with self._database.instance() as conn:
            rows = await self._rows(conn, days, _step(days * 86_400))
        return wire.Levels(tiers=[_told(tier, found) for tier, found in rows.items()])

    async def forecasts(self) -> dict[str, Forecast]:
        """Of the tiers of which enough is known."""
        async with self._database.instance() as conn:
            rows = await self._rows(conn, FORECAST_DAYS, _step(FORECAST_DAYS * 86_400))
        seen = {tier: _forecast(found) for tier, found in rows.items()}
        return {tier: one for tier, one in seen.items() if one is not None}

    async def _rows(self, conn: Connection, days: int, step_s: int) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for row in await SQL.many(conn, "levels", step=timedelta(seconds=step_s), days=days):
            found.setdefault(row.tier, []).append(row)
        return found


def _step(span_s: int) -> int:
    """The finest interval that keeps a picture small; days are told by hours, months by multiples of six."""
    fit = next((step for step in SECONDS if span_s / step <= POINTS), None)
    return fit or -(-span_s // (POINTS * 21_600)) * 21_600


def _forecast(rows: list[Any]) -> Forecast | None:
    levels = [Level(row.at.timestamp(), row.capacity_bytes - row.free_bytes) for row in rows]
    return forecast(levels, capacity_bytes=rows[-1].capacity_bytes)


def _told(tier: str, rows: list[Any]) -> wire.TierLevels:
    seen = _forecast(rows)
    return wire.TierLevels(
        tier=tier, capacity_bytes=rows[-1].capacity_bytes, at=[row.at for row in rows],
        used_bytes=[row.capacity_bytes - row.free_bytes for row in rows],
        forecast=wire.Filling(
            rate_bytes_s=seen.rate_bytes_s, likely_s=seen.likely_s, early_s=seen.early_s, late_s=seen.late_s
        ) if seen else None,
    )  # fmt: skip
