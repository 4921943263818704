"""Alarms leave the building: what needs a person is told to the receivers of alarm policies, at least once.

Each turn compares what `mover needs` says with what stands in the catalog (`decide.alarms`), writes what is to be said
into an outbox in the same transaction, and delivers from there: a crash in between says it again. A receiver that is
away costs a growing pause and keeps no other waiting.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from mover.catalog.database import Database
from mover.catalog.queries import load
from mover.clock import SYSTEM, Clock
from mover.decide import alarms as decide
from mover.decide.needs import Need
from mover.errors import MoverError, NotFound, RequestInvalid
from mover.log import get_logger
from mover.model import wire
from mover.model.policy import AlarmPolicy
from mover.oversight.receivers import DELIVERY_S, Said, deliver, send
from mover.randomness import new_id
from mover.settings import Mail, Webhook

SQL = load(__file__)

TURN_S = 20.0
AT_ONCE = 50
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 3600.0
GIVEN_UP_S = 7 * 86_400.0

Find = Callable[[str], Awaitable[Sequence[Need]]]

log = get_logger("alarms")


class Alarms:
    """`find` says what needs a person in a project; `link` is where people open the pages, if anywhere."""

    def __init__(
        self,
        database: Database,
        policies: Sequence[AlarmPolicy],
        receivers: Mapping[str, Webhook | Mail],
        *,
        find: Find,
        site: str,
        link: str | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._database, self._policies, self._receivers = database, policies, receivers
        self._find, self._site, self._link, self._clock = find, site, link, clock

    async def turn(self, project: str) -> int:
        """Look, write, deliver; how many were told."""
        await self._look(project)
        return await self._deliver(project)

    async def _look(self, project: str) -> None:
        """Without a policy nothing stands any longer, and whoever was told so far hears that it ended."""
        found = await self._find(project) if self._policies else ()
        async with self._database.project(project) as conn:
            if not (await SQL.one(conn, "turn", project=project)).mine:
                return
            rows = await SQL.many(conn, "standing")
            open_ = {
                row.key: decide.Alarm(row.key, row.count, row.opened_at, row.told_at, row.told_count) for row in rows
            }
            turn = decide.turn(self._policies, found, open_, now=self._clock.now())
            for key, need in turn.standing:
                values = msgspec.structs.asdict(need)
                values.pop("since")
                await conn.execute(SQL["stand"], {"project": project, "id": new_id("alarm"), "key": key, **values})
            await conn.execute(SQL["close"], {"keys": list(turn.closed)})
            for telling in turn.tellings:
                for receiver in telling.receivers:
                    said = {"key": telling.key, "receiver": receiver, "event": telling.event}
                    await conn.execute(SQL["tell"], said)
                await conn.execute(SQL["told"], {"key": telling.key})

    async def _deliver(self, project: str) -> int:
        """Receivers beside each other, one's tellings in their order: the slow one is only its own."""
        async with self._database.project(project) as conn:
            due = await SQL.many(conn, "take", limit=AT_ONCE, for_s=AT_ONCE * DELIVERY_S)
        by_receiver: dict[str, list[Any]] = {}
        for row in sorted(due, key=lambda row: row.seq):
            by_receiver.setdefault(row.receiver, []).append(row)
        return sum(await asyncio.gather(*(self._to_one(project, name, rows) for name, rows in by_receiver.items())))

    async def _to_one(self, project: str, name: str, rows: Sequence[Any]) -> int:
        told, receiver = 0, self._receivers.get(name)
        for at, row in enumerate(rows):
            if receiver is None or not await send(receiver, self._said(project, row)):
                for left in rows[at:]:
                    await self._settle(project, left, told=False)
                break
            await self._settle(project, row, told=True)
            told += 1
        return told

    async def _settle(self, project: str, row: Any, *, told: bool) -> None:
        of = {"alarm": row.alarm_id, "seq": row.seq}
        pause_s = min(FIRST_PAUSE_S * 2 ** min(row.attempts, 20), LONGEST_PAUSE_S)
        async with self._database.project(project) as conn:
            if told:
                await conn.execute(SQL["delivered"], of)
            else:
                await conn.execute(SQL["later"], {**of, "pause_s": pause_s, "given_up_s": GIVEN_UP_S})

    def _said(self, project: str, row: Any) -> Said:
        return Said(
            id=f"{row.alarm_id}/{row.seq}", site=self._site, project=project, event=row.event, at=row.at, code=row.code,
            severity=row.severity, noun=row.noun, subject=row.subject, words=row.words, hint=row.hint, count=row.count,
            opened_at=row.opened_at, link=self._link,
        )  # fmt: skip

    # --- asked by people ----------------------------------------------------------------------------------------

    async def page(self, project: str, *, standing: bool, after: str | None, limit: int) -> wire.AlarmPage:
        at, id = _read_cursor(after) if after else (None, None)
        async with self._database.project(project) as conn:
            rows = await SQL.many(conn, "page", open=standing, at=at, id=id, limit=limit + 1)
        made = [msgspec.convert(row._asdict(), wire.Alarm) for row in rows[:limit]]
        return wire.AlarmPage(alarms=made, next=_write_cursor(made[-1]) if len(rows) > limit else None)

    async def test(self, project: str, receiver: str) -> wire.AlarmTest:
        """One event of the type `test`, now, past the outbox. NotFound for a receiver that the settings do not have."""
        known = self._receivers.get(receiver)
        if known is None:
            raise NotFound(
                "the settings have no receiver of that name", where=receiver,
                hint=f"They have: {', '.join(sorted(self._receivers))}." if self._receivers else
                "They have none: declare it as one of `receivers` in mover.yaml, and start the daemon again.",
            )  # fmt: skip
        now = self._clock.now()
        said = Said(
            id=new_id("alarm"), site=self._site, project=project, event="test", at=now, code="test", severity="know",
            noun="service", subject=None, words="this is a test, nothing is wrong", hint="Nothing is to be done.",
            count=1, opened_at=now, link=self._link,
        )  # fmt: skip
        try:
            await deliver(known, said)
        except MoverError as error:
            return wire.AlarmTest(receiver=receiver, told=False, problem=f"{error.what}. {error.advice}")
        return wire.AlarmTest(receiver=receiver, told=True)


def _write_cursor(last: wire.Alarm) -> str:
    return base64.urlsafe_b64encode(f"{last.opened_at.isoformat()}|{last.id}".encode()).decode()


def _read_cursor(text: str) -> tuple[datetime, str]:
    try:
        at, id = base64.urlsafe_b64decode(text.encode()).decode().split("|")
        return datetime.fromisoformat(at), id
    except ValueError as error:
        raise RequestInvalid("`after` is not the `next` of an earlier page") from error
