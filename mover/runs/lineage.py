"""OpenLineage: the events of the outbox are delivered to an HTTP endpoint, at least once, and never in a run's way.

The row was written with the change it tells of. It is taken for as long as one delivery may take, sent, and removed
only when the receiver said 2xx: a crash in between sends it again. A receiver that is away costs a growing pause;
after `GIVEN_UP_S` an event is dropped, and said so. Where nobody delivers for a day the database collects none.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec
from msgspec import Struct

from mover import __version__
from mover.authority import believing, refusal
from mover.catalog.database import Database
from mover.catalog.queries import load
from mover.clock import SYSTEM, Clock, end_if_cancelled
from mover.decide.lineage import RunFacts, run_event
from mover.errors import CatalogUnavailable, MoverError, ReceiverUnavailable, SettingsInvalid
from mover.log import get_logger

SQL = load(__file__)

TURN_S = 10.0
AT_ONCE = 50
DELIVERY_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 3600.0
GIVEN_UP_S = 7 * 86_400.0

Fate = Literal["sent", "refused", "away"]

log = get_logger("lineage")


class Target(Struct, frozen=True):
    """What `token_file` holds is sent as a bearer token; it and `ca_file` are read for each event, so that they may be
    changed."""

    url: str
    namespace: str
    token_file: Path | None = None
    ca_file: Path | None = None


class Lineage:
    def __init__(self, database: Database, target: Target, *, clock: Clock = SYSTEM) -> None:
        self._database, self._target, self._clock = database, target, clock

    async def run(self) -> None:
        """Until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DELIVERY_S), trust_env=False) as session:
            while True:
                end_if_cancelled()
                try:
                    await self.turn(session)
                except CatalogUnavailable as error:
                    log.warning("lineage waits", code=error.code)
                await self._clock.sleep(TURN_S)

    async def turn(self, session: aiohttp.ClientSession) -> int:
        """What is due now, one after the other; how many were delivered. A receiver that does not answer is not
        asked for the rest, which come due again by themselves."""
        async with self._database.instance() as conn:
            await conn.execute(SQL["seen"])
            due = await SQL.many(conn, "take", limit=AT_ONCE, for_s=int(AT_ONCE * DELIVERY_S))
        delivered, away = 0, False
        for row in sorted(due, key=lambda row: row.at):
            fate: Fate = "away" if away else await self._send(session, row)
            away = fate == "away"
            delivered += fate == "sent"
            await self._settle(row, fate)
        return delivered

    async def _settle(self, row: Any, fate: Fate) -> None:
        of = {"run": row.run_id, "event": row.event}
        old = (self._clock.now() - row.at).total_seconds() > GIVEN_UP_S
        async with self._database.project(row.project_id) as conn:
            if fate == "sent" or old:
                await conn.execute(SQL["delivered"], of)
            else:
                pause_s = min(FIRST_PAUSE_S * 2 ** min(row.attempts, 20), LONGEST_PAUSE_S)
                await conn.execute(SQL["later"], {**of, "pause_s": pause_s})
        if old and fate != "sent":
            log.warning("lineage dropped", run=row.run_id)

    async def _send(self, session: aiohttp.ClientSession, row: Any) -> Fate:
        """`refused` is this event's fault and `away` the receiver's."""
        try:
            status = await post(session, self._target, await self._event(row))
        except MoverError as error:
            log.warning("lineage waits", code=error.code, what=error.what)
            return "away"
        if status < 300:
            return "sent"
        log.warning("lineage refused", status=status, run=row.run_id)
        return "away" if status >= 500 or status == 429 else "refused"

    async def _event(self, row: Any) -> dict[str, Any]:
        async with self._database.project(row.project_id) as conn:
            found = await SQL.one(conn, "facts", run=row.run_id)
        assert found is not None  # a run is never removed
        values = found._asdict() | {"snapshots": tuple(found.snapshots)}
        facts = RunFacts(**values)
        return run_event(row.event, facts, at=row.at, namespace=self._target.namespace, software=f"mover {__version__}")


async def post(session: aiohttp.ClientSession, target: Target, event: dict[str, Any]) -> int:
    """The status it is answered with. ReceiverUnavailable where there is no answer, or none that is believed;
    SettingsInvalid for a `ca_file` or a `token_file` that is none."""
    headers = {"Content-Type": "application/json"}
    try:
        trusted = await asyncio.to_thread(believing, target.ca_file, where="lineage.ca_file")
        if target.token_file is not None:
            secret = await asyncio.to_thread(target.token_file.read_text, "ascii")
            headers["Authorization"] = f"Bearer {secret.strip()}"
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(
            f"the token of the lineage receiver cannot be read ({type(error).__name__})", where="lineage.token_file"
        ) from error
    body = msgspec.json.encode(event)
    try:
        async with session.post(target.url, data=body, headers=headers, allow_redirects=False, ssl=trusted) as answer:
            return answer.status
    except (aiohttp.ClientError, TimeoutError) as error:
        refused = refusal(error)
        if refused is None:
            raise ReceiverUnavailable(f"the lineage receiver is away ({type(error).__name__})") from error
        hint = f"{refused.hint} Its authority's file is `ca_file` of `lineage`."
        raise ReceiverUnavailable(f"the receiver is not believed: {refused.what}", hint=hint) from error
