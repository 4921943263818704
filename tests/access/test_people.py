"""Accounts and sessions on the real catalog, under the daemon's own role, which can read neither keys nor hashes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from mover import audit
from mover.access import Access, Identity, passwords
from mover.access.sessions import Vouched, csrf_of, digest
from mover.catalog.database import Database
from mover.clock import SystemClock
from mover.errors import Conflict, Denied, LimitExceeded, MoverError, NotFound, RequestInvalid, Unauthenticated
from mover.model import wire
from tests.support.postgres import Dsns

MACHINE = Identity(actor="uid:0", role="admin", project="demo", posix_uid=0, posix_gid=0)
THEIRS = Identity(actor="uid:0", role="admin", project="other", posix_uid=0, posix_gid=0)
PASSWORD = "correct horse battery"


class SleptClock(SystemClock):
    """Its seconds pass when somebody sleeps, or by hand."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._moved_s = 0.0

    def monotonic_s(self) -> float:
        return self._moved_s

    def move(self, duration_s: float) -> None:
        self._moved_s += duration_s

    async def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        self.move(duration_s)


class People:
    """A site whose people sign in from one address, unless it is said otherwise."""

    def __init__(self, access: Access, dsns: Dsns, clock: SleptClock) -> None:
        self.access, self.dsns, self.clock = access, dsns, clock

    async def make(self, name: str, role: str = "viewer", by: Identity = MACHINE) -> wire.Account:
        body = wire.AccountRequest(name=name, role=role, password=PASSWORD)  # type: ignore[arg-type]
        return await self.access.accounts.make(by, body)

    async def secret(self, name: str, password: str = PASSWORD, address: str = "10.0.0.1") -> str:
        body = wire.SessionRequest(name=name, password=password)
        return await self.access.sessions.sign_in(body, address=address, request="")

    async def enter(self, name: str, **more: Any) -> Identity:
        return await self.access.sessions.identify(await self.secret(name, **more))

    def rows(self, statement: str, *values: Any) -> list[Any]:
        with psycopg.connect(self.dsns.superuser) as conn:
            conn.execute("select set_config('mover.project', 'demo', true)")
            cursor = conn.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def person(self, identity: Identity) -> str:
        [(person,)] = self.rows("select mover.person_of(%s, '')", identity.proven)
        return str(person)


@pytest.fixture
def people(database: Database, dsns: Dsns) -> People:
    clock = SleptClock()
    return People(Access(database, project="demo", node="n1", own_uid=990, clock=clock), dsns, clock)


async def actions(database: Database, project: str = "demo") -> list[str]:
    async with database.project(project) as conn:
        return [str(record.body["action"]) for record in (await audit.page(conn, project)).records][::-1]


# --- in, and who ---------------------------------------------------------------------------------------------


async def test_a_password_opens_a_session_in_every_project_of_the_account(people: People, database: Database) -> None:
    made = await people.make("Ann", "operator")
    assert (made.name, made.role, made.secret) == ("Ann", "operator", None)
    await people.access.accounts.grant(THEIRS, "ann", "viewer")
    secret = await people.secret("ann")
    here = await people.access.sessions.identify(secret)
    assert (here.actor, here.role, here.project, here.kind) == ("Ann", "operator", "demo", "password")
    there = await people.access.sessions.identify(secret, project="other")
    assert (there.role, there.project, there.token_id) == ("viewer", "other", here.token_id)
    seen = await people.access.sessions.view(here)
    assert [(one.project, one.role) for one in seen.projects] == [("demo", "operator"), ("other", "viewer")]
    assert "runs.request" in seen.actions and "tokens.make" not in seen.actions
    assert seen.proven and seen.csrf == csrf_of(secret) and secret not in seen.csrf
    chosen = await people.access.sessions.choose(here, "other")
    assert (chosen.project, chosen.role) == ("other", "viewer")
    assert (await people.access.sessions.identify(secret)).project == "other"
    for project in ("third", "nowhere"):
        with pytest.raises(NotFound):
            await people.access.sessions.identify(secret, project=project)
        with pytest.raises(NotFound):
            await people.access.sessions.choose(here, project)
    assert await actions(database) == ["account made", "signed in"]
    assert await actions(database, "other") == ["role granted", "signed in"]


async def test_whatever_is_wrong_one_answer_tells_after_the_same_work(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise names, and who left, could be asked for; or read off the clock, where only known names cost a key."""
    keys: list[passwords.Cost] = []
    made = passwords._key
    monkeypatch.setattr(passwords, "_key", lambda word, salt, cost: (keys.append(cost), made(word, salt, cost))[1])
    for name in ("ann", "left", "gone", "nowhere"):
        await people.make(name)
    await people.access.accounts.disable(MACHINE, "left", disabled=True)
    await people.access.accounts.revoke(MACHINE, "nowhere")
    people.rows("update mover.account set expires_at = now() where name = 'gone'")
    answers = set()
    for name, password in (("ann", "wrong password!"), ("nobody", PASSWORD), ("left", PASSWORD), ("gone", PASSWORD),
                           ("nowhere", PASSWORD), ("x' or 1=1 --", PASSWORD)):  # fmt: skip
        with pytest.raises(MoverError) as refused:
            await people.secret(name, password, address=f"10.0.1.{len(answers)}")
        answers.add((type(refused.value), refused.value.what, refused.value.advice))
    assert len(answers) == 1 and answers.pop()[0] is Unauthenticated
    assert keys[4:] == [passwords.COST] * 6, "after the four accounts were made"
    assert people.rows("select count(*) from mover.session") == [(0,)]


async def test_the_catalog_holds_no_password_and_no_cookie_and_its_daemon_reads_no_key(
    people: People, database: Database
) -> None:
    """A stolen dump signs nobody in; a stolen daemon connection cannot even list what to guess at."""
    await people.make("ann")
    secret = await people.secret("ann")
    tables = ("account", "session", "account_grant", "audit_record")
    everything = str([people.rows(f"select t::text from mover.{table} t") for table in tables])
    assert "ann" in everything and PASSWORD not in everything and secret not in everything
    for column in ("account.verifier", "account.salt", "session.hash", "session.origin", "account.person"):
        table, name = column.split(".")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with database.instance() as conn:
                await conn.execute(f"select {name} from mover.{table}")  # type: ignore[arg-type]


@pytest.mark.parametrize("attack", [
    "select mover.session_open('ann', '\\x00', 's1', '\\x01', '', 60, 600)",
    "select mover.session_add('s1', '\\x01', 'password', (select id from mover.account), null, '', 60, 600)",
    "insert into mover.session (id, hash, kind, account_id, idle_s, ends_at)"
    " select 's1', '\\x01', 'password', id, 60, now() + interval '1 day' from mover.account",
    "update mover.account set verifier = sha256('\\x00')",
    "update mover.account_grant set role = 'admin'",
    "select mover.account_repass('\\x00', '\\x00', '{1,64,1}', '\\x00', '\\x01', 'n1', '')",
])  # fmt: skip
async def test_the_daemons_role_alone_is_nobody(people: People, database: Database, attack: str) -> None:
    """The database compares keys itself: with a stolen credential, an old account cannot become a second person."""
    await people.make("ann")
    try:
        async with database.project("demo") as conn:
            await conn.execute(attack)  # type: ignore[arg-type]
    except psycopg.Error as error:
        assert error.sqlstate in ("42501", "MV103")
    assert people.rows("select count(*) from mover.session") == [(0,)]
    assert people.rows("select role from mover.account_grant") == [("viewer",)]
    assert (await people.enter("ann")).role == "viewer", "and the password is what it was"


async def test_a_session_is_over_when_it_rests_when_its_day_is_done_and_when_somebody_ends_it(people: People) -> None:
    await people.make("ann")
    for over in ("seen_at = now() - interval '31 minutes'", "ends_at = now()"):
        secret = await people.secret("ann")
        people.rows(f"update mover.session set {over}")
        with pytest.raises(Unauthenticated):
            await people.access.sessions.identify(secret)
    mine, other = [await people.secret("ann") for _ in range(2)]
    identity = await people.access.sessions.identify(mine)
    assert (await people.access.sessions.end(identity, every=False, request="")).ended == 1
    with pytest.raises(Unauthenticated):
        await people.access.sessions.identify(mine)
    identity = await people.access.sessions.identify(other)
    more = await people.secret("ann")
    assert (await people.access.sessions.end(identity, every=True, request="")).ended == 2
    for secret in (other, more, "", "x" * 43):
        with pytest.raises(Unauthenticated):
            await people.access.sessions.identify(secret)


async def test_use_keeps_a_session_alive_and_is_written_down_once_a_minute(people: People) -> None:
    await people.make("ann")
    secret = await people.secret("ann")
    people.rows("update mover.session set seen_at = now() - interval '20 minutes'")
    for _ in range(2):
        await people.access.sessions.identify(secret)
    [(age,)] = people.rows("select now() - seen_at from mover.session")
    assert age < timedelta(minutes=1)


async def test_one_account_has_twenty_sessions_at_most(people: People) -> None:
    """What opens them in a loop, ends its own."""
    await people.make("ann")
    first = await people.secret("ann")
    for _ in range(20):
        await people.secret("ann")
    with pytest.raises(Unauthenticated):
        await people.access.sessions.identify(first)
    assert (await people.access.accounts.list("demo")).accounts[0].sessions == 20


async def test_a_token_opens_a_session_that_may_what_the_token_may_and_ends_with_it(people: People) -> None:
    made = await people.access.make_token(
        MACHINE, wire.TokenRequest(actor="cora", role="custodian", scopes=["vault.read"])
    )
    body = wire.SessionRequest(token=made.secret)
    secret = await people.access.sessions.sign_in(body, address="", request="")
    identity = await people.access.sessions.identify(secret)
    assert (identity.kind, identity.actor, identity.scopes) == ("token", "cora", frozenset({"vault.read"}))
    assert (await people.access.sessions.view(identity)).actions == ["vault.read", "session.read"]
    assert people.person(identity) == people.person(await people.access.authenticate(made.secret or ""))
    with pytest.raises(NotFound):
        await people.access.sessions.identify(secret, project="other")
    await people.access.revoke(MACHINE, made.id)
    with pytest.raises(Unauthenticated):
        await people.access.sessions.identify(secret)
    with pytest.raises(Unauthenticated):
        await people.access.sessions.sign_in(body, address="", request="")


# --- what one may --------------------------------------------------------------------------------------------


async def test_what_is_taken_away_is_gone_at_once(people: People) -> None:
    """Not at the next sign-in: a session asks each time."""
    await people.make("ann", "admin")
    secret = await people.secret("ann")
    await people.access.accounts.grant(MACHINE, "ann", "viewer")
    assert (await people.access.sessions.identify(secret)).role == "viewer"
    await people.access.accounts.disable(MACHINE, "ann", disabled=True)
    await people.access.accounts.disable(MACHINE, "ann", disabled=False)
    with pytest.raises(Unauthenticated):
        await people.access.sessions.identify(secret)
    secret = await people.secret("ann")
    await people.access.accounts.revoke(MACHINE, "ann")
    with pytest.raises(Unauthenticated):
        await people.access.sessions.identify(secret)
    assert (await people.access.accounts.list("demo")).accounts[0].role is None


async def test_who_was_let_in_is_known_to_be_out_again_without_being_seen(people: People) -> None:
    """For streams that stay open: every way in which a right ends ends them, in the project where it ends; and a page
    that stands open all night keeps no session alive."""
    access = people.access
    for name in ("ann", "bob", "cid"):
        await people.make(name, "operator")
    await access.accounts.grant(THEIRS, "ann", "viewer")
    secret = await people.secret("ann")
    ann, there = await access.sessions.identify(secret), await access.sessions.identify(secret, project="other")
    bob, cid = await people.enter("bob"), await people.enter("cid")
    tokens = [await access.make_token(MACHINE, wire.TokenRequest(actor=f"t{n}", role="viewer")) for n in range(2)]
    first, second = [await access.authenticate(one.secret or "") for one in tokens]
    by_token = await access.sessions.identify(
        await access.sessions.sign_in(wire.SessionRequest(token=tokens[1].secret), address="10.0.0.1", request="")
    )
    held = [MACHINE, ann, there, bob, cid, first, second, by_token]
    people.rows("update mover.session set seen_at = now() - interval '20 minutes'")
    assert await access.standing(held) == [True] * 8
    people.rows("update mover.session set idle_s = 600")
    assert await access.standing(held) == [True, False, False, False, False, True, True, False]
    people.rows("update mover.session set idle_s = 3600")

    await access.accounts.revoke(MACHINE, "ann")
    await access.accounts.grant(MACHINE, "bob", "viewer")
    await access.sessions.end(cid, every=False, request="")
    people.rows("update mover.token set expires_at = now() where id = %s", tokens[0].id)
    await access.revoke(MACHINE, tokens[1].id)
    assert await access.standing(held) == [True, False, True, False, False, False, False, False]
    assert await access.standing([]) == []


async def test_a_page_that_nobody_sits_at_keeps_no_session_alive(people: People) -> None:
    """A ward's computer stands in a corridor, and its page asks by itself all night."""
    await people.make("ann", "operator")
    secret = await people.secret("ann")
    identify = people.access.sessions.identify
    since = "select extract(epoch from now() - seen_at)::int from mover.session"
    people.rows("update mover.session set seen_at = now() - interval '20 minutes'")
    assert await identify(secret, attended=False) == await identify(secret, project="demo", attended=False)
    assert people.rows(since)[0][0] >= 1200
    await identify(secret)
    assert people.rows(since)[0][0] < 1200
    people.rows("update mover.session set seen_at = now() - make_interval(secs => idle_s)")
    for attended in (False, True):
        with pytest.raises(Unauthenticated):
            await identify(secret, attended=attended)


async def test_an_admin_knows_the_accounts_of_one_project(people: People) -> None:
    """Of another project's people an admin learns nothing, not even by their number; what concerns an account of
    several is the machine's."""
    await people.make("chief", "admin")
    await people.make("theirs", by=THEIRS)
    await people.make("shared")
    await people.access.accounts.grant(THEIRS, "shared", "viewer")
    chief = await people.enter("chief")
    accounts = people.access.accounts
    assert [one.name for one in (await accounts.list("demo")).accounts] == ["chief", "shared"]
    assert await accounts.grant(chief, "shared", "operator")
    for name in ("theirs", "nobody"):
        for ask in (
            accounts.grant(chief, name, "viewer"), accounts.revoke(chief, name), accounts.end_sessions(chief, name),
            accounts.password(chief, name, wire.PasswordRequest()), accounts.disable(chief, name, disabled=True),
        ):  # fmt: skip
            with pytest.raises(NotFound):
                await ask
    with pytest.raises(Denied):
        await accounts.password(chief, "shared", wire.PasswordRequest())
    with pytest.raises(Denied):
        await accounts.disable(chief, "shared", disabled=True)
    assert (await accounts.revoke(MACHINE, "shared")).role is None
    assert (await people.enter("shared")).project == "other"


async def test_only_an_admin_changes_accounts_whatever_the_daemon_says(people: People) -> None:
    """The database judges by the proof, not by the role that it is told."""
    await people.make("op", "operator")
    liar = await people.enter("op")
    for proof in (liar.proof, b"", b"\x01" * 32):
        claimed = Identity(actor="op", role="admin", project="demo", token_id="t", proof=proof)
        with pytest.raises(Denied):
            await people.make("mate", "admin", by=claimed)
    with pytest.raises(Denied):
        await people.access.accounts.grant(liar, "op", "admin")


@pytest.mark.parametrize(("name", "password"), [
    ("daemon", PASSWORD), ("Root", PASSWORD), ("jane smith", PASSWORD), ("", PASSWORD), ("ann\n", PASSWORD),
    ("ann", "aaaaaaaaaaaaaaaa"), ("ann", "my-name-is-Ann-yes"),
])  # fmt: skip
async def test_names_and_passwords_that_are_none_are_refused(people: People, name: str, password: str) -> None:
    with pytest.raises(RequestInvalid):
        await people.access.accounts.make(MACHINE, wire.AccountRequest(name=name, role="viewer", password=password))


async def test_a_name_is_had_once_however_it_is_written(people: People) -> None:
    await people.make("ann")
    with pytest.raises(Conflict):
        await people.make("ANN")


async def test_a_password_that_was_made_up_is_told_once_and_changed_by_its_person(people: People) -> None:
    made = await people.access.accounts.make(MACHINE, wire.AccountRequest(name="ann", role="viewer"))
    assert made.secret is not None and (await people.access.accounts.list("demo")).accounts[0].secret is None
    mine, other = [await people.secret("ann", made.secret) for _ in range(2)]
    identity = await people.access.sessions.identify(mine)
    with pytest.raises(RequestInvalid):
        change = wire.PasswordChange(old="another one", new=PASSWORD)
        await people.access.sessions.repass(identity, change, request="")
    change = wire.PasswordChange(old=made.secret, new=PASSWORD)
    assert (await people.access.sessions.repass(identity, change, request="")).ended == 1
    await people.access.sessions.identify(mine)
    with pytest.raises(Unauthenticated):
        await people.access.sessions.identify(other)
    with pytest.raises(Unauthenticated):
        await people.secret("ann", made.secret)
    assert (await people.enter("ann")).actor == "ann"


# --- one person ----------------------------------------------------------------------------------------------


async def test_sessions_and_tokens_of_an_account_are_one_person(people: People) -> None:
    """Or one person would approve what they asked for, in a second window."""
    for name in ("ann", "bob"):
        await people.make(name, "admin")
    first, second = [await people.enter("ann") for _ in range(2)]
    ends = datetime.now(UTC) + timedelta(days=30)
    own = await people.access.make_own(first, wire.OwnTokenRequest(label="laptop", expires_at=ends))
    made = await people.access.make_token(second, wire.TokenRequest(actor="carl", role="admin"))
    tokens = [await people.access.authenticate(one.secret or "") for one in (own, made)]
    assert len({people.person(one) for one in (first, second, *tokens)}) == 1
    assert people.person(await people.enter("bob")) != people.person(first) != "machine"


async def test_whoever_knows_an_accounts_password_is_one_person_with_it(people: People) -> None:
    """An admin who makes an account, or takes one over by a new password, is still one person; only the machine's
    owner makes it another again, and then it is as young as that."""
    for name in ("ann", "bob"):
        await people.make(name, "admin")
    ann = await people.enter("ann")
    await people.make("puppet", "admin", by=ann)
    assert people.person(await people.enter("puppet")) == people.person(ann)
    people.rows("update mover.account set person_since = now() - interval '1 year'")
    bobs = people.person(await people.enter("bob"))
    await people.access.accounts.password(ann, "bob", wire.PasswordRequest(password="taken over by ann"))
    taken = await people.enter("bob", password="taken over by ann")
    assert people.person(taken) == people.person(ann)
    # the one who was taken over changes nothing about it alone
    change = wire.PasswordChange(old="taken over by ann", new="and changed by bob!")
    await people.access.sessions.repass(taken, change, request="")
    assert people.person(taken) == people.person(ann)
    await people.access.accounts.password(MACHINE, "bob", wire.PasswordRequest(password=PASSWORD))
    again = await people.enter("bob")
    assert people.person(again) == bobs
    [(young,)] = people.rows("select (mover.asker_of(%s, '')).since > now() - interval '1 minute'", again.proof)
    assert young


async def test_two_windows_do_not_approve_and_two_people_do(people: People) -> None:
    """Through the function that judges what takes two persons, with accounts old enough and too young."""
    people.rows("insert into mover.protect_terms (project_id, policy, terms, wanted) values ('demo', 'p', '{}', '{}')")
    for name in ("ann", "bob", "new"):
        await people.make(name, "admin")
    people.rows("update mover.account set person_since = now() - interval '1 year' where name <> 'new'")
    ann, again, bob, new = [await people.enter(name) for name in ("ann", "ann", "bob", "new")]
    asks = "select mover.request_make('r', 'large', 'p', '{}', '{}', 'a reason', %s, '', 'n1')"
    approves = "select mover.request_approve('r', %s, '', 'n1')"
    people.rows(asks, ann.proof)
    for who, why in ((again, "who asked does not approve"), (new, "too short before")):
        with pytest.raises(psycopg.Error, match=why):
            people.rows(approves, who.proof)
    people.rows(approves, bob.proof)
    assert people.rows("select requested_by, approved_by from mover.protect_request") == [("ann", "bob")]


# --- tokens of one's own -------------------------------------------------------------------------------------


async def test_a_token_of_ones_own_ends_with_the_role_and_with_the_account(people: People, database: Database) -> None:
    await people.make("ann", "operator")
    ann = await people.enter("ann")
    ends = datetime.now(UTC) + timedelta(days=30)
    body = wire.OwnTokenRequest(label="laptop", expires_at=ends, scopes=["runs.read"])
    made = await people.access.make_own(ann, body)
    assert (made.actor, made.role, made.account) == ("ann/laptop", "operator", "ann")
    assert (await people.access.authenticate(made.secret or "")).scopes == frozenset({"runs.read"})
    [seen] = (await people.access.list_tokens("demo", account=ann.account)).tokens
    assert seen.last_used_at is not None and (seen.scopes, seen.account) == (["runs.read"], "ann")
    assert (await people.access.list_tokens("demo", account="account-of-another")).tokens == []
    with pytest.raises(NotFound):
        await people.access.revoke(ann, made.id, account="account-of-another")
    for change in (
        people.access.accounts.grant(MACHINE, "ann", "viewer"),
        people.access.accounts.disable(MACHINE, "ann", disabled=True),
    ):
        await people.access.accounts.grant(MACHINE, "ann", "operator")
        await people.access.authenticate(made.secret or "")
        await change
        with pytest.raises(Unauthenticated):
            await people.access.authenticate(made.secret or "")
    assert "token made" in await actions(database)


async def test_no_token_is_made_that_may_more_than_its_maker(people: People) -> None:
    narrow = await people.access.make_token(
        MACHINE, wire.TokenRequest(actor="maker", role="admin", scopes=["tokens.make", "runs.read"])
    )
    maker = await people.access.authenticate(narrow.secret or "")
    with pytest.raises(Denied):
        await people.access.make_token(maker, wire.TokenRequest(actor="x", role="admin"))
    with pytest.raises(Denied):
        await people.access.make_token(maker, wire.TokenRequest(actor="x", role="admin", scopes=["tokens.revoke"]))
    assert await people.access.make_token(maker, wire.TokenRequest(actor="x", role="viewer", scopes=["runs.read"]))
    await people.make("ann", "viewer")
    ann = await people.enter("ann")
    ends = datetime.now(UTC) + timedelta(days=30)
    for scopes, wrong in ((["tokens.make"], ends), (["runs.dance"], ends), (None, ends + timedelta(days=999))):
        with pytest.raises(RequestInvalid):
            await people.access.make_own(ann, wire.OwnTokenRequest(label="x", expires_at=wrong, scopes=scopes))
    with pytest.raises(Denied):
        await people.access.make_token(ann, wire.TokenRequest(actor="x", role="admin"))
    with pytest.raises(Denied):
        await people.access.make_own(maker, wire.OwnTokenRequest(label="x", expires_at=ends, scopes=["runs.read"]))


# --- too many tries ------------------------------------------------------------------------------------------


async def test_failures_slow_their_place_and_lock_nobody_out(people: People, database: Database) -> None:
    """An attacker with one address waits; with many, somebody on a new computer waits seconds, and on a known one not
    at all."""
    await people.make("ann")
    await people.secret("ann", address="10.0.0.7")
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            await people.secret("ann", "guess number one", address="10.6.6.6")
    for password in ("guess number six", PASSWORD):
        with pytest.raises(LimitExceeded) as told:
            await people.secret("ann", password, address="10.6.6.6")
        assert 0 < told.value.details[0]["after_s"] <= 60
    for number in range(30):
        with pytest.raises(Unauthenticated):
            await people.secret("ann", "guess number n", address=f"10.6.7.{number}")
    before = sum(people.clock.slept)
    await people.secret("ann", address="10.0.0.7")
    assert sum(people.clock.slept) == before, "from where ann came before"
    await people.secret("ann", address="10.0.0.8")
    assert 0 < sum(people.clock.slept) - before <= 8
    people.clock.move(600)
    await people.secret("ann", address="10.6.6.6")
    async with database.project("demo") as conn:
        records = (await audit.page(conn, "demo")).records[::-1]
    refused = [record.body for record in records if record.body["action"] == "sign-ins refused"]
    assert [one["details"]["count"] for one in refused] == [5]
    opened = [record.body for record in records if record.body["action"] == "signed in"]
    assert [one["details"]["refused before"] for one in opened] == [0, 35, 0, 0]


async def test_a_hundred_guesses_at_once_are_a_hundred(people: People) -> None:
    """Counted before they are judged: nobody gets a free round by not waiting for the answers."""
    import asyncio

    await people.make("ann")
    tries = [people.secret("ann", f"guess number {n}", address="10.6.6.6") for n in range(100)]
    outcomes = [type(one) for one in await asyncio.gather(*tries, return_exceptions=True)]
    assert outcomes.count(Unauthenticated) == 5 and outcomes.count(LimitExceeded) == 95


# --- an identity provider's word -----------------------------------------------------------------------------


def vouched(name: str = "dora", subject: str = "0815", **roles: str) -> Vouched:
    return Vouched(issuer="https://idp.example", subject=subject, name=name, roles=roles)


async def test_whom_the_provider_vouches_for_has_the_roles_it_says_and_no_others(
    people: People, database: Database
) -> None:
    sessions = people.access.sessions
    secret = await sessions.vouched(vouched(demo="operator", other="viewer", nowhere="admin"), address="", request="")
    dora = await sessions.identify(secret)
    assert (dora.actor, dora.role, dora.kind) == ("dora", "operator", "provider")
    assert not (await sessions.view(dora)).proven
    assert await actions(database) == ["role granted", "signed in"]
    await sessions.vouched(vouched(demo="viewer"), address="", request="")
    assert (await sessions.identify(secret)).role == "viewer"
    with pytest.raises(NotFound):
        await sessions.identify(secret, project="other")
    with pytest.raises(Unauthenticated):
        await sessions.vouched(vouched(), address="", request="")
    with pytest.raises(Unauthenticated):
        await sessions.identify(secret)
    assert await actions(database, "other") == ["role granted", "signed in", "role revoked"]


async def test_the_provider_speaks_for_its_own_people_only(people: People) -> None:
    """Its word makes nobody who has the name already, undoes no role that an admin gave, brings back nobody who was
    disabled, and is the machine's when two persons are needed."""
    await people.make("ann", "admin")
    sessions = people.access.sessions
    for name in ("ann", "ANN"):
        with pytest.raises(Unauthenticated):
            await sessions.vouched(vouched(name, demo="admin"), address="", request="")
    dora = await sessions.identify(await sessions.vouched(vouched(demo="admin"), address="", request=""))
    assert people.person(dora) == "machine"
    with pytest.raises(Unauthenticated):
        await people.secret("dora", "")
    await people.access.accounts.grant(MACHINE, "dora", "viewer")
    await sessions.vouched(vouched(demo="admin"), address="", request="")
    assert (await people.access.accounts.list("demo")).accounts[1].role == "viewer"
    await people.access.accounts.password(MACHINE, "dora", wire.PasswordRequest(password=PASSWORD))
    assert people.person(await people.enter("dora")) not in ("machine", people.person(await people.enter("ann")))
    await people.access.accounts.disable(MACHINE, "dora", disabled=True)
    with pytest.raises(Unauthenticated):
        await sessions.vouched(vouched(demo="admin"), address="", request="")


def test_a_session_has_its_own_word_for_changes() -> None:
    assert csrf_of("a") != csrf_of("b") and len(digest("a")) == 32
