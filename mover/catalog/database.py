"""Connections to the catalog.

Every piece of work on a project is one transaction that names its project first; the name is local to the
transaction, so a pooled connection carries nothing over to its next user (D18). A broken connection says
nothing about whether the last commit happened: callers re-read and decide (D13).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.rows import namedtuple_row
from psycopg_pool import AsyncConnectionPool

from mover.catalog.dsn import Source, ask, current, unreachable
from mover.clock import SYSTEM, monotonic_s
from mover.errors import CatalogRefused, CatalogUnsafe, Conflict, Denied, MoverError, NotFound, ProofMissing

Connection = AsyncConnection[Any]

OLDEST_POSTGRES = 15
# callers that wait for a free connection; beyond it a request is refused at once rather than queued for ever
MAX_WAITING = 1000
CONNECT_TIMEOUT_S = 10
# between two tries: a server that comes up is met soon, one that is away for long is not asked all the time
_FIRST_STEP_S, _LONGEST_STEP_S = 0.2, 5.0

# what an acknowledged commit needs to survive: measured, `synchronous_commit = off` lost 14-34 % of them
_DURABLE = {"fsync": {"on"}, "full_page_writes": {"on"}, "synchronous_commit": {"on", "remote_apply"}}


class Database:
    """A bounded pool of connections under one role. Make it with `open`, end it with `close`."""

    def __init__(self, source: Source, *, name: str, pool: AsyncConnectionPool[Connection]) -> None:
        self._source = source
        self.name = name
        self._pool = pool

    @property
    def dsn(self) -> str:
        """As it is now: for a connection that is made at once."""
        return current(self._source)

    @classmethod
    async def open(cls, source: Source, *, name: str, max_size: int = 10, timeout_s: float = 30.0) -> Database:
        """Connects, or raises CatalogUnavailable after `timeout_s`; at once CatalogRefused where it does not let us in,
        and CatalogUnsafe when this PostgreSQL would lose acknowledged commits. `name` is what `pg_stat_activity`
        shows."""
        await _wait_until_safe(source, timeout_s=timeout_s)
        pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            partial(ask, source),
            kwargs={
                "autocommit": True,
                "row_factory": namedtuple_row,
                "application_name": name,
                "connect_timeout": CONNECT_TIMEOUT_S,
            },
            min_size=1,
            max_size=max_size,
            max_waiting=MAX_WAITING,
            timeout=timeout_s,
            name=name,
            open=False,
            configure=assert_durable,
            check=AsyncConnectionPool.check_connection,
        )
        with translated():
            await pool.open(wait=True, timeout=timeout_s)
        return cls(source, name=name, pool=pool)

    async def close(self) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def project(self, project_id: str) -> AsyncIterator[Connection]:
        """One transaction that sees and writes this project only; commits on exit, rolls back on error."""
        async with self.instance() as conn:
            await turn_to(conn, project_id)
            yield conn

    @asynccontextmanager
    async def still(self, project_id: str) -> AsyncIterator[Connection]:
        """One transaction that sees this project as it stood at its first question, however long it reads, and writes
        nothing."""
        async with self.instance() as conn:
            await conn.execute("set transaction isolation level repeatable read, read only")
            await turn_to(conn, project_id)
            yield conn

    @asynccontextmanager
    async def instance(self) -> AsyncIterator[Connection]:
        """One transaction without a project: instance-wide tables and the cross-project functions only.
        Touching a project's table in it is an error, not an empty answer."""
        with translated():
            async with self._pool.connection() as conn, conn.transaction():
                yield conn

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[Connection]:
        """A connection of its own beside the pool, in autocommit, for LISTEN. Closed on exit."""
        with translated():
            conn = await AsyncConnection.connect(
                await ask(self._source), autocommit=True, row_factory=namedtuple_row,
                application_name=f"{self.name}-listen", connect_timeout=CONNECT_TIMEOUT_S,
            )  # fmt: skip
            async with conn:
                yield conn


async def turn_to(conn: Connection, project_id: str) -> None:
    """The rest of the transaction sees and writes this project only. Who turns from one to another does the
    house's own work, such as sharing a tier out, and carries nothing over."""
    await conn.execute("select set_config('mover.project', %s, true)", [project_id])


@contextmanager
def translated() -> Iterator[None]:
    """psycopg's errors in our words. Their texts may quote values, so they stay behind as the cause and never
    become part of ours. UniqueViolation and the like pass through: callers expect them by name."""
    try:
        yield
    except (errors.CheckViolation, errors.ForeignKeyViolation) as error:
        if not _is_about_proof(error):
            raise
        rule = error.diag.constraint_name or "check_proof"
        raise ProofMissing(f"the database refused a state or a proof that is not proved (rule {rule})") from error
    except psycopg.OperationalError as error:
        kind = type(error).__name__
        raise unreachable(error, f"the catalog could not be asked ({kind} {error.sqlstate or ''})".strip()) from error


_REFUSALS: dict[str, type[MoverError]] = {"MV101": NotFound, "MV102": Conflict, "MV103": Denied}
# no other role helps these: docs/access.md, "One person is one person"
_HELPS = {
    "are one person": "Somebody else decides, with a password that root gave at the local socket (docs/access.md).",
    "the machine lets no record go": "Sign in, or bring a token of your own; at the local socket you are the machine.",
    "was nobody here when": "Somebody decides who was here before it was asked for; or withdraw it and ask again.",
}


@contextmanager
def refusals() -> Iterator[None]:
    """What our own functions in the database refuse, in their words: those quote no values."""
    try:
        yield
    except psycopg.Error as error:
        known = _REFUSALS.get(error.sqlstate or "")
        if known is None:
            raise
        words = error.diag.message_primary or "refused by the database"
        helps = next((told for said, told in _HELPS.items() if said in words), None)
        raise known(words, hint=helps) from error


def _is_about_proof(error: psycopg.Error) -> bool:
    """Our trigger names itself; constraints about proofs carry the word in their name."""
    constraint = error.diag.constraint_name
    if constraint:
        return "proof" in constraint
    return (error.diag.message_primary or "").startswith("proof of ")


async def assert_durable(conn: Connection) -> None:
    """Raises CatalogUnsafe unless a commit acknowledged on this connection survives a power cut (D15)."""
    if conn.info.server_version < OLDEST_POSTGRES * 10_000:
        raise CatalogUnsafe(
            f"PostgreSQL {conn.info.server_version // 10_000} is older than {OLDEST_POSTGRES}",
            hint=f"Upgrade to PostgreSQL {OLDEST_POSTGRES} or newer.",
        )
    cursor = await conn.execute(
        "select name, setting from pg_catalog.pg_settings where name = any (%s)", [list(_DURABLE)]
    )
    found = {str(name): str(setting) for name, setting in await cursor.fetchall()}
    wrong = sorted(f"{name}={found.get(name)}" for name, good in _DURABLE.items() if found.get(name) not in good)
    if wrong:
        raise CatalogUnsafe(f"this PostgreSQL may lose acknowledged commits: {', '.join(wrong)}")


async def _wait_until_safe(source: Source, *, timeout_s: float) -> None:
    """A server that is still starting or recovering gets its time; one that does not let us in is not asked again, for
    each try is a failed login in its log; an unsafe one is refused at once."""
    deadline_s, step_s = monotonic_s() + timeout_s, _FIRST_STEP_S
    while True:
        try:
            conn = await AsyncConnection.connect(
                await ask(source), autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
            )
        except psycopg.OperationalError as error:
            why = unreachable(error, f"no connection to the catalog within {timeout_s:g} s")
            left_s = deadline_s - monotonic_s()
            if isinstance(why, CatalogRefused) or left_s <= 0:
                raise why from error
            await SYSTEM.sleep(min(step_s, left_s))
            step_s = min(2 * step_s, _LONGEST_STEP_S)
            continue
        async with conn:
            await assert_durable(conn)
        return
