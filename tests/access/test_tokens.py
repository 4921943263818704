"""Tokens on the real catalog, under the daemon's own role, which can read no hash."""

from __future__ import annotations

import hashlib
import pwd
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from mover import audit
from mover.access import PREFIX, Access, Identity
from mover.catalog.database import Database
from mover.errors import Denied, NotFound, RequestInvalid, SettingsInvalid, Unauthenticated
from mover.model import wire
from tests.support.postgres import Dsns

ADMIN = Identity(actor="uid:0", role="admin", project="demo", posix_uid=0, posix_gid=0)
STRANGER = Identity(actor="uid:0", role="admin", project="other")


@pytest.fixture
def access(database: Database) -> Access:
    return Access(database, project="demo", node="n1", own_uid=990)


async def test_a_secret_opens_exactly_what_it_was_made_for(access: Access) -> None:
    made = await access.make_token(
        ADMIN, wire.TokenRequest(actor="slurm", role="operator", posix_uid=1000, posix_gid=100)
    )
    assert made.secret is not None and made.secret.startswith(PREFIX) and len(made.secret) >= 47
    assert await access.authenticate(made.secret) == Identity(
        actor="slurm", role="operator", project="demo", token_id=made.id, posix_uid=1000, posix_gid=100,
        proof=hashlib.sha256(made.secret.encode()).digest(),
    )  # fmt: skip


async def test_the_catalog_holds_no_secret_and_the_daemon_cannot_read_the_hashes(
    access: Access, database: Database, dsns: Dsns
) -> None:
    """A stolen dump opens nothing; a stolen daemon connection cannot even list what to attack."""
    made = await access.make_token(ADMIN, wire.TokenRequest(actor="slurm", role="viewer"))
    assert made.secret is not None
    with psycopg.connect(dsns.superuser) as conn:
        rows = conn.execute("select t::text from mover.token t").fetchall()
        bodies = conn.execute("select body from mover.audit_record").fetchall()
    everything = str(rows) + str(bodies)
    assert made.id in everything
    assert made.secret not in everything and made.secret.removeprefix(PREFIX) not in everything
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with database.instance() as conn_:
            await conn_.execute("select hash from mover.token")


@pytest.mark.parametrize("secret", ["", "mvr_", "mvr_unknown", "nope", "mvr_" + "x" * 4000])
async def test_an_unknown_secret_opens_nothing(access: Access, secret: str) -> None:
    with pytest.raises(Unauthenticated):
        await access.authenticate(secret)


async def test_a_revoked_token_is_refused_from_then_on_and_revoking_again_changes_nothing(
    access: Access, database: Database
) -> None:
    made = await access.make_token(ADMIN, wire.TokenRequest(actor="slurm", role="viewer"))
    first = await access.revoke(ADMIN, made.id)
    second = await access.revoke(ADMIN, made.id)
    assert first.revoked_at == second.revoked_at is not None
    with pytest.raises(Unauthenticated):
        await access.authenticate(made.secret or "")
    async with database.project("demo") as conn:
        actions = [record.body["action"] for record in (await audit.page(conn, "demo")).records]
    assert actions == ["token revoked", "token made"]


async def test_a_token_ends_by_the_servers_clock(access: Access, dsns: Dsns) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    made = await access.make_token(ADMIN, wire.TokenRequest(actor="slurm", role="viewer", expires_at=soon))
    await access.authenticate(made.secret or "")
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute("update mover.token set expires_at = now() where id = %s", [made.id])
    with pytest.raises(Unauthenticated):
        await access.authenticate(made.secret or "")


@pytest.mark.parametrize("expires_at", [datetime(2020, 1, 1, tzinfo=UTC), datetime(2999, 1, 1)])
async def test_an_end_in_the_past_or_without_a_zone_is_refused(access: Access, expires_at: datetime) -> None:
    with pytest.raises(RequestInvalid):
        await access.make_token(ADMIN, wire.TokenRequest(actor="slurm", role="viewer", expires_at=expires_at))


async def test_one_projects_admin_sees_and_ends_no_token_of_another(access: Access) -> None:
    made = await access.make_token(ADMIN, wire.TokenRequest(actor="slurm", role="viewer"))
    await access.make_token(STRANGER, wire.TokenRequest(actor="theirs", role="viewer"))
    assert [token.actor for token in (await access.list_tokens("demo")).tokens] == ["slurm"]
    assert all(token.secret is None for token in (await access.list_tokens("demo")).tokens)
    with pytest.raises(NotFound):
        await access.revoke(STRANGER, made.id)
    await access.authenticate(made.secret or "")


async def test_the_token_of_init_is_adopted_once(access: Access, database: Database) -> None:
    """Every start of the daemon reads the same file; the chain must not grow by it."""
    secret = PREFIX + "k" * 43
    for _ in range(3):
        await access.adopt(secret, wire.TokenRequest(actor="admin", role="admin"))
    assert (await access.authenticate(secret)).role == "admin"
    async with database.project("demo") as conn:
        assert len((await audit.page(conn, "demo")).records) == 1


async def test_the_token_file_is_for_its_owner_only(access: Access, tmp_path: Path) -> None:
    """A file others can read is a token others have; one that was taken away is no error."""
    await access.adopt_file(tmp_path / "none")
    (tmp_path / "token").write_text(PREFIX + "k" * 43 + "\n")
    (tmp_path / "token").chmod(0o640)
    with pytest.raises(SettingsInvalid):
        await access.adopt_file(tmp_path / "token")
    (tmp_path / "token").chmod(0o600)
    await access.adopt_file(tmp_path / "token")
    assert (await access.authenticate(PREFIX + "k" * 43)).role == "admin"


async def test_a_short_secret_is_not_adopted(access: Access) -> None:
    """Somebody may have typed one into the file."""
    with pytest.raises(RequestInvalid):
        await access.adopt(PREFIX + "hunter2", wire.TokenRequest(actor="admin", role="admin"))


def test_the_peer_of_the_local_socket_keeps_its_own_rights(access: Access) -> None:
    """The role is of the machine's owner; artifact paths are opened as the person who asked."""
    assert access.peer(uid=0, gid=0) == ADMIN
    assert access.peer(uid=990, gid=991).posix_gid == 991
    with pytest.raises(Unauthenticated):
        access.peer(uid=1000, gid=1000)


async def test_a_scheduler_acts_for_the_members_of_its_group_as_this_machine_knows_them(access: Access) -> None:
    """The project's isolation on a cluster: who is not in its group gets none of its slides through a job script."""
    nobody = pwd.getpwnam("nobody")
    made = await access.make_token(
        ADMIN, wire.TokenRequest(actor="slurm", role="scheduler", posix_gid=nobody.pw_gid)
    )
    scheduler = await access.authenticate(made.secret or "")
    acting = await access.acting(scheduler, nobody.pw_uid)
    assert (acting.posix_uid, acting.posix_gid) == (nobody.pw_uid, nobody.pw_gid)
    assert acting.actor == f"slurm for uid:{nobody.pw_uid}"
    for stranger in (pwd.getpwnam("games").pw_uid, 2**31 - 7, 0):
        with pytest.raises(Denied):
            await access.acting(scheduler, stranger)
    with pytest.raises(Denied):
        await access.acting(ADMIN, nobody.pw_uid)


@pytest.mark.parametrize(("uid", "gid"), [(None, None), (None, 0), (1000, 100)])
async def test_a_scheduler_has_one_group_and_no_user(access: Access, uid: int | None, gid: int | None) -> None:
    """With a uid of its own it could forget to say for whom it asks, and everybody's run would be its own."""
    with pytest.raises(RequestInvalid):
        await access.make_token(
            ADMIN, wire.TokenRequest(actor="slurm", role="scheduler", posix_uid=uid, posix_gid=gid)
        )
