"""An insider with a stolen admin token, and one with the daemon's own database role, try to be rid of snapshots.

Everything goes through the real HTTP face and the real database, onto a real repository. Whatever they do, and however
much time passes in honesty afterwards, every snapshot that was kept is there, and stock restic reads it. What this
does not hold is said in docs/protection.md: root on the machine, and whoever has the repository's password.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from mover.api import OPERATIONS, make_app, serve
from mover.catalog.database import Database
from mover.model import wire
from mover.model.policy import KeepRules
from mover.settings import Listen
from tests.api.small_rooms import small_rooms
from tests.rooms.keeping_rig import DAY, MACHINE, Keeping
from tests.rooms.rig import PROJECT
from tests.support.facts import DIGEST, NUMBER
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]


class Site(Keeping):
    """Three snapshots that the rules keep and one that is held; `eve` is whoever stole the admin's token."""

    async def build(self) -> None:
        self.policy(keep=KeepRules(last=3), prune_grace_s=0)
        self.held = self.snapshot(age=90 * DAY)
        self.kept = [self.snapshot(age=age * DAY) for age in (60, 50, 40)]
        seen = await self.holds.hold(MACHINE, self.held, wire.HoldRequest("the paper's figures"))
        self.hold_id = seen.holds[0].id
        await self.turn()
        made = await self.access.make_token(MACHINE, wire.TokenRequest(actor="eve", role="admin"))
        assert made.secret is not None
        self.secret = made.secret
        self.rows("update mover.token set created_at = now() - interval '1 year' where id = %s", made.id)

    @property
    def all(self) -> set[str]:
        return {self.held, *self.kept}

    async def months_later(self) -> None:
        """Time passes honestly: every row is two months older, and the daemon does its turns."""
        for column in ("recorded_at", "trashed_at", "trash_until"):
            self.rows(f"update mover.snapshot set {column} = {column} - interval '60 days'")
        self.rows(
            "update mover.hold set placed_at = placed_at - interval '60 days', until = until - interval '60 days'"
        )
        self.rows("update mover.token set created_at = created_at - interval '60 days'")
        self.rows("update mover.protect_request set requested_at = requested_at - interval '20 days',"
                  " not_before = not_before - interval '20 days', lapses_at = lapses_at - interval '20 days',"
                  " approved_at = approved_at - interval '20 days'")  # fmt: skip
        for _ in range(2):
            await self.turn()
            await self.turn("prune")

    def lost(self) -> set[str]:
        """What should be there and is not, by the repository and by stock restic."""
        self.restic("check", "--read-data")
        files = set(self.repository.snapshot_ids())
        rows = self.rows("select id, repository_id, state from mover.snapshot where id = any(%s)", list(self.all))
        assert len(rows) == len(self.all)
        return {row.id for row in rows if row.repository_id not in files or row.state != "checked"}


@pytest.fixture
async def site(tmp_path: Path, dsns: Dsns, database: Database) -> Site:
    made = Site(tmp_path, dsns, database)
    await made.build()
    return made


class Thief:
    """HTTP with one token."""

    def __init__(self, session: aiohttp.ClientSession, url: str, secret: str) -> None:
        self.session, self.url, self.secret = session, url, secret

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        given = {"Authorization": f"Bearer {self.secret}", "Idempotency-Key": "k"} | headers
        async with self.session.request(method, self.url + path, json=body, headers=given) as response:
            return response.status, await response.json(content_type=None)


@pytest.fixture
async def thief(site: Site) -> AsyncIterator[Thief]:
    protecting = site.protecting
    rooms = dataclasses.replace(
        small_rooms(), snapshots=protecting.snapshots, retention=protecting.retention, holds=protecting.holds,
        shortenings=protecting.shortenings, upkeep=protecting.upkeep,
    )  # fmt: skip
    server = await serve(make_app(rooms, site.access, version="0"), Listen(None, "127.0.0.1", 0, None))
    async with aiohttp.ClientSession() as session:
        yield Thief(session, server.urls[0], site.secret)
    await server.stop()


ASKED = [
    {"kind": "shorten", "policy": "protect"},
    {"kind": "forget", "subjects": "kept"},
    {"kind": "release-hold", "subjects": "hold"},
    {"kind": "large", "policy": "protect"},
    {"kind": "untag", "subjects": "kept", "tags": ["paper"]},
]


async def test_a_stolen_admin_token_loses_nothing_through_any_route(site: Site, thief: Thief) -> None:
    """Shorten, purge, release, approve oneself with all the tokens one can make, claim other times, flood."""
    site.policy(keep=KeepRules(last=1), trash_s=3600, delay_s=3600, breaker_percent=100)  # the file, edited
    helpers = []
    for name, role in (("bob", "admin"), ("carol", "admin"), ("dan", "operator")):
        status, made = await thief.ask("POST", "/v1/tokens", {"actor": name, "role": role})
        assert status == 201
        helpers.append(Thief(thief.session, thief.url, made["secret"]))
    status, made = await helpers[0].ask("POST", "/v1/tokens", {"actor": "grandchild", "role": "admin"})
    helpers.append(Thief(thief.session, thief.url, made["secret"]))
    site.rows("update mover.token set created_at = now() - interval '1 year'")  # they were patient

    for asked in ASKED:
        subjects = {"kept": site.kept, "hold": [site.hold_id]}.get(asked.get("subjects", ""), [])  # type: ignore[call-overload]
        body = {**asked, "reason": "tidying up", "subjects": subjects}
        for who in (thief, helpers[1]):
            status, request = await who.ask("POST", "/v1/shortenings", body)
            assert status == 201, request
            for hands in (thief, *helpers):
                status, _ = await hands.ask("POST", f"/v1/shortenings/{request['id']}/approve")
                assert status == 403
    early = {"kind": "large", "policy": "protect", "reason": "at once", "not_before": "2001-01-01T00:00:00Z"}
    for more in (early, {**early, "approved_by": "root"}, {**early, "requested_at": "2001-01-01T00:00:00Z"}):
        assert (await thief.ask("POST", "/v1/shortenings", more))[0] == 422
    for snapshot in site.all:
        for method, path in (("DELETE", ""), ("DELETE", "/holds"), ("PUT", ""), ("PATCH", ""), ("POST", "/forget")):
            assert (await thief.ask(method, f"/v1/snapshots/{snapshot}{path}"))[0] in (404, 405)
        past = {"reason": "already over", "until": "2001-01-01T00:00:00Z"}
        assert (await thief.ask("POST", f"/v1/snapshots/{snapshot}/holds", past))[0] == 409
    short = {"reason": "over soon", "until": "2100-01-01T00:00:00Z"}  # beside the hold that stands, not instead
    assert (await thief.ask("POST", f"/v1/snapshots/{site.held}/holds", short, Date="Sat, 01 Jan 2101"))[0] == 200
    site.rows("update mover.hold set until = now() where reason = 'over soon'")
    status, seen = await thief.ask("POST", "/v1/snapshots/simulate", {"keep": {"tags": ["none"]}})
    assert status == 200 and seen["leaving_count"] > 0

    await site.months_later()
    assert site.lost() == set()
    waiting = (await thief.ask("GET", "/v1/protection"))[1]["policies"][0]["shorter"]
    assert {"keep.last", "trash_s", "delay_s", "breaker_percent"} <= set(waiting)  # and everybody can see it
    assert site.actions().count("protection: asked to shorten") >= len(ASKED)


async def test_no_route_that_changes_something_is_missing_from_the_attack(site: Site) -> None:
    """A new way to change what is kept has to be tried here, too."""
    changing = {f"{o.method} {o.path}" for o in OPERATIONS if o.method != "GET"
                and o.path.startswith(("/v1/snapshots", "/v1/shortenings", "/v1/protection"))}  # fmt: skip
    known = {
        "POST /v1/snapshots/simulate", "POST /v1/snapshots/check", "POST /v1/snapshots/{id}/holds",
        "POST /v1/snapshots/{id}/untrash", "POST /v1/snapshots/{id}/tags", "POST /v1/shortenings",
        "POST /v1/shortenings/{id}/approve", "POST /v1/shortenings/{id}/withdraw",
        "POST /v1/protection/turns",  # what begins by itself anyway, judged as then
        "POST /v1/protection/keys",  # with a password that only who has the daemon's machine can put there
        "POST /v1/protection/rebuild",  # adds rows, which begin as written, now
    }  # fmt: skip
    assert changing <= known


async def test_a_flood_of_tiny_and_back_dated_snapshots_loses_nothing(site: Site) -> None:
    """As the daemon's own role records them, with whatever times it likes."""
    async with site.database.project(PROJECT) as conn:
        for at in range(200):
            await conn.execute(
                "insert into mover.snapshot (id, project_id, series, tier, repository_id, policy, files, bytes,"
                " added_bytes, recorded_at) values (%s, 'demo', 'run:r1', 'protect', %s, 'protect', %s, %s, 0, %s)",
                [f"flood-{at}", f"{at:064x}", at % 2, at % 2 * 900, ["2001-01-01Z", "2099-01-01Z"][at % 2]],
            )
            await conn.execute("select mover.snapshot_checked(%s)", [f"flood-{at}"])
    await site.months_later()
    assert site.lost() == set()


REFUSED = [
    "update mover.snapshot set state = 'forgotten', forgotten_at = now()",
    "update mover.snapshot set recorded_at = '2001-01-01Z'",
    "update mover.snapshot set trash_until = now(), state = 'trashed'",
    "update mover.snapshot set doubt = null, agreed_at = now()",
    "update mover.snapshot set missing_at = null, purged_at = null",
    "delete from mover.snapshot", "truncate mover.snapshot cascade",
    "update mover.hold set released_at = now()", "update mover.hold set until = now()", "delete from mover.hold",
    "insert into mover.hold (id, project_id, snapshot_id, reason, placed_by, placed_person)"
    " values ('h', 'demo', 's', 'xyz', 'e', 'e')",
    "update mover.protect_terms set terms = '{}'", "delete from mover.protect_terms",
    "insert into mover.protect_terms values ('demo', 'other', '{}', '{}')",
    "update mover.protect_terms set large_until = now() + interval '1 day'",
    "update mover.protect_request set approved_by = 'bob', approved_person = 'bob', approved_at = now()",
    "update mover.protect_request set not_before = '2001-01-01Z'", "delete from mover.protect_request",
    "insert into mover.protect_request select * from mover.protect_request",
    "update mover.snapshot_series set bytes = 0, files = 0", "delete from mover.snapshot_series",
    "insert into mover.token (id, hash, actor, role, project_id, person)"
    " values ('t', '\\x00', 'bob', 'admin', 'demo', 'bob')",
    "update mover.token set person = 'bob'", "update mover.token set created_at = '2001-01-01Z'",
    "update mover.token set hash = '\\x00'", "select hash from mover.token",
    "alter table mover.snapshot disable trigger all", "drop trigger snapshot_recorded on mover.snapshot",
    "alter table mover.snapshot disable row level security", "drop policy by_project on mover.hold",
    "create or replace function mover.is_held(text) returns boolean language sql as 'select false'",
    "alter function mover.snapshots_kept(text, text) owner to mover_daemon",
    "set session_replication_role = replica", "set role mover_owner", "set role mover_dispatch", "set role mover_guard",
    "set session authorization postgres",
    "select mover.asker_of(null, 'root')", "select mover.request_open('x')",
    "select mover.protect_record('n', 'root', 'all is well', 'x', '', '{}')",
    "insert into mover.slide_ruling (id, project_id, number, action, state, reason, asked_by, asked_person, decided_by,"
    " decided_person) values ('r', 'demo', 'n', 'remove', 'granted', 'x', 'ann', 'ann', 'bob', 'bob')",
    "update mover.slide_ruling set state = 'granted'", "update mover.slide_ruling set asked_person = 'bob'",
    "update mover.slide_ruling set action = 'remove', number = 'n'", "delete from mover.slide_ruling",
    "update mover.slide_removal set key = 'k', tier = 'archive'", "delete from mover.slide_removal",
    "delete from mover.slide_withdrawal", "update mover.slide_withdrawal set number = 'n'",
    "insert into mover.slide_withdrawal (number, reason, found_by, removed_at) values ('n', 'x', 'x', now())",
    "update mover.slide_withdrawal set reason = 'identifier-found-later', found_by = 'x'",
    "insert into mover.quarantine_proposal (project_id, id, cause, action, standing, code, kind, words, waiting,"
    " reason, proposed_by, proposed_person, state)"
    " values ('demo', 'p', 'x', 'retry', false, 'x', '', '', 1, 'x', 'ann', 'ann', 'confirmed')",
    "update mover.quarantine_proposal set state = 'confirmed'", "delete from mover.quarantine_proposal",
    "select mover.ruling_judged(null, null, 0)", "select mover.ruling_record('', '', '', '', '', null, '{}')",
]  # fmt: skip


@pytest.mark.parametrize("statement", REFUSED)
def test_the_daemons_role_has_no_right_to(dsns: Dsns, statement: str) -> None:
    """Found in no statement, then: not by a function's absence but by a missing right."""
    with psycopg.connect(dsns.daemon) as conn:
        conn.execute("select set_config('mover.project', 'demo', true)")
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject)):
            conn.execute(statement)  # type: ignore[call-overload]


async def test_the_daemons_role_loses_nothing_by_the_functions_it_may_call(site: Site) -> None:
    """Each with the worst arguments: names of others, empty lists, short terms, rows that were made up."""
    everything = sorted(site.all)
    made_up = ["e" * 63 + str(at) for at in range(5)]

    def say(statement: str, *values: object) -> Any:
        with psycopg.connect(site.dsns.daemon, autocommit=False) as conn:
            conn.execute("select set_config('mover.project', 'demo', true)")
            try:
                found = conn.execute(statement, values).fetchall()  # type: ignore[call-overload]
            except psycopg.Error as error:
                return error
            return found

    for at, file in enumerate(made_up):  # rows without a file, in the same series
        say(
            "insert into mover.snapshot (id, project_id, series, tier, repository_id, policy, files, bytes,"
            " added_bytes) values (%s, 'demo', 'run:r1', 'protect', %s, 'protect', 1, 1000, 1) returning 1",
            f"fake-{at}",
            file,
        )
        say("select mover.snapshot_checked(%s)", f"fake-{at}")
    real = site.rows("select repository_id from mover.snapshot where id = %s", site.kept[0])[0].repository_id
    twin = say(
        "insert into mover.snapshot (id, project_id, series, tier, repository_id, policy, files, bytes,"
        " added_bytes) values ('twin', 'demo', 'run:r1', 'flash', %s, 'protect', 1, 1, 1) returning 1",
        real,
    )
    assert isinstance(twin, psycopg.errors.UniqueViolation)
    for terms in ('{"keep": {"last": 1}}', "{}", "null", '{"keep": {"last": 3, "at_least_s": 0}}', "[]"):
        say("select mover.terms_follow('protect', %s::jsonb, 'n1')", terms)
    say("select mover.snapshots_present('protect', '{}', now() + interval '1 day', 'n1')")
    assert say("select mover.snapshots_trash('protect', 'run:r1', %s, 'n1')", everything) == []
    assert say("select mover.trash_over('protect', 1000, 'n1')") == []
    say("select mover.snapshots_purged(%s)", everything)
    say("select mover.snapshots_cut_off('run:r1')")
    for snapshot in everything:
        say("select mover.snapshot_incomplete(%s)", snapshot)
        say("select mover.snapshot_checked(%s)", snapshot)
    say("select mover.token_add('t1', '\\x01', 'bob', 'admin', null, null, null, null, 'x', 'n1', '')")
    for kind, policy, subjects in (
        ("forget", None, everything), ("release-hold", None, [site.hold_id]), ("large", "protect", []),
    ):  # fmt: skip
        id_ = f"forged-{kind}"
        asked = say("select mover.request_make(%s, %s, %s, %s, '{}', 'tidying', null, 'uid:0', 'n1')",
                    id_, kind, policy, subjects)  # fmt: skip
        assert not isinstance(asked, psycopg.Error), asked
        for proof in (None, b"\x01", b"\x02", b""):
            refused = say("select mover.request_approve(%s, %s, 'ann', 'n1')", id_, proof)
            assert isinstance(refused, psycopg.Error) and refused.sqlstate == "MV103", refused
        assert say("select mover.request_apply(%s, 'n1')", id_) == [(False,)]

    assert site.lost() == set()
    await site.months_later()
    assert site.lost() == set()
    assert {row.kind for row in site.rows("select kind from mover.protect_request where applied_at is null")} >= {
        "forget", "release-hold", "large"
    }  # fmt: skip


def say_as_daemon(site: Site, statement: str, *values: object) -> Any:
    """The rows, or the error."""
    with psycopg.connect(site.dsns.daemon) as conn:
        conn.execute("select set_config('mover.project', 'demo', true)")
        try:
            return conn.execute(statement, values).fetchall()  # type: ignore[call-overload]
        except psycopg.Error as error:
            return error


async def test_rows_that_the_daemons_role_calls_present_displace_nothing_in_the_end(site: Site) -> None:
    """It tells the database which files there are, and may lie. The daemon looks again before a file goes: what was
    displaced by rows without a file, or by a stranger's file, stands again."""
    (site.folder / "own").mkdir()
    site.restic("backup", "--tag", "mine", str(site.folder / "own"))
    [stranger] = set(site.repository.snapshot_ids()) - {
        row.repository_id for row in site.rows("select repository_id from mover.snapshot")
    }
    fakes = site.rows_of([30 * DAY - at * DAY for at in range(5)])
    site.rows("update mover.snapshot set repository_id = %s where id = %s", stranger, fakes[-1])
    for state, age in (("trashed", "15 days"), ("forgotten", "0 days")):
        files = site.rows("select array_agg(repository_id) as all from mover.snapshot")[0].all
        say_as_daemon(site, "select mover.snapshots_present('protect', %s, now() + interval '1 day', 'n1')", files)
        say_as_daemon(site, "select mover.snapshots_trash('protect', 'run:r1', %s, 'n1')", sorted(site.all))
        say_as_daemon(site, "select mover.trash_over('protect', 1000, 'n1')")
        assert {row.state for row in site.rows("select state from mover.snapshot where id = any (%s)", site.kept)} == {
            state
        }, "the lie works so far, or this test proves nothing"
        site.rows("update mover.snapshot set trash_until = now() - %s::interval where state = 'trashed'", age)

    await site.turn()
    assert site.lost() == set()
    assert "snapshots kept after all" in site.actions()
    await site.months_later()
    assert site.lost() == set()


async def test_a_transaction_that_stood_open_for_days_decides_nothing(site: Site) -> None:
    """Its now() stands still: a delay that it writes down would be over, a trash empty at once, a token old enough."""
    [body] = site.rows("select prosrc as text from pg_proc where oid = 'mover.awake()'::regprocedure")
    assert "'15 minutes'" in body.text
    short = body.text.replace("'15 minutes'", "'1 millisecond'")
    site.rows(f"create or replace function mover.awake() returns void language plpgsql as $f${short}$f$")
    for number in range(4):
        site.snapshot(age=(30 - number) * DAY)
    asked = site.rows("insert into mover.protect_request (id, project_id, kind, policy, reason, requested_by,"
                      " requested_person, requested_at, not_before, lapses_at) values ('r', 'demo', 'large', 'protect',"
                      " 'xyz', 'x', 'x', now() - interval '9 days', now() - interval '6 days',"
                      " now() + interval '9 days') returning id")  # fmt: skip
    for statement in (
        "select mover.request_make('q', 'large', 'protect', '{}', '{}', 'tidying', null, 'uid:0', 'n1')",
        f"select mover.request_approve('{asked[0].id}', null, 'uid:0', 'n1')",
        "select mover.token_add('t', '\\x01', 'bob', 'admin', null, null, null, null, 'x', 'n1', '')",
        f"select mover.snapshots_trash('protect', 'run:r1', array['{site.kept[0]}'], 'n1')",
        "select mover.snapshots_cut_off('run:r1')",
        f"select mover.hold_place('h', '{site.kept[0]}', 'reason', null, null, 'x', 'n1')",
        "select mover.ruling_ask('r', 'n', 'remove', 'tidying', null, 'uid:0', 'n1', '')",
        "select mover.ruling_decide('r', true, 'tidying', 0, null, 'uid:0', 'n1', '')",
        "select mover.quarantine_propose('q', repeat('0', 16), 'retry', false, null, 'x', '', '', 1, 'tidying', null,"
        " 'uid:0', 'n1')",
        "select mover.quarantine_review('q', true, 'tidying', null, 'uid:0', 'n1')",
    ):
        refused = say_as_daemon(site, f"with slept as materialized (select pg_sleep(0.01)) {statement} from slept")
        assert isinstance(refused, psycopg.Error) and refused.sqlstate == "MV102", (statement, refused)
    assert not site.rows("select 1 from mover.token where id = 't'")


@pytest.mark.parametrize("action", ["remove", "reinstate"])
async def test_the_daemons_role_alone_removes_no_slide_and_brings_none_back(site: Site, action: str) -> None:
    """It may ask, as the machine. Nobody it can be grants that: not the machine, whose role is an admin's, not whom it
    calls by another name, no token whose secret it does not have, and none that it has just made."""
    site.rows("insert into mover.slide (number, site, family, extension, size_bytes, digest, tier, key, facts)"
              " values (%s, 'ward', 'aperio', 'svs', 10, %s, 'archive', 'k', '{}')", NUMBER, DIGEST)  # fmt: skip
    site.rows("insert into mover.slide_grant (project_id, number) values ('demo', %s)", NUMBER)
    found = "insert into mover.slide_withdrawal (number, reason, found_by) values (%s, 'identifier-found-later', 'x')"
    assert say_as_daemon(site, f"{found} returning 1", NUMBER) == [(1,)]
    removal = ("insert into mover.slide_removal (project_id, ruling_id, place, tier, key, digest, size_bytes)"
               " values ('demo', 'r', 0, 'archive', 'k', %s, 1)")  # fmt: skip

    say_as_daemon(
        site, "select mover.token_add('t1', '\\x01', 'cora', 'custodian', null, null, null, null, 'x', 'n1', '')"
    )
    asked = say_as_daemon(
        site, "select mover.ruling_ask('r', %s, %s, 'tidying', null, 'uid:0', 'n1', '')", NUMBER, action
    )
    assert asked == [(True,)]
    for proof, why in ((None, "custodian"), (b"\x01", "less than a day"), (b"\x02", "unknown"), (b"", "unknown")):
        refused = say_as_daemon(
            site, "select mover.ruling_decide('r', true, 'tidying', 0, %s, 'cora', 'n1', '')", proof
        )
        assert isinstance(refused, psycopg.Error) and refused.sqlstate == "MV103", refused
        assert why in str(refused)
    assert say_as_daemon(site, "select mover.ruling_end('r', 'done', null)") == [("",)]
    assert isinstance(say_as_daemon(site, removal, DIGEST), psycopg.errors.CheckViolation)
    gone = say_as_daemon(site, "update mover.slide_withdrawal set removed_at = now() where number = %s", NUMBER)
    assert isinstance(gone, psycopg.errors.CheckViolation)

    assert [row.removed_at for row in site.rows("select * from mover.slide_withdrawal")] == [None]
    assert [row.state for row in site.rows("select state from mover.slide_ruling")] == ["asked"]
    assert {"token made", f"slide {action} asked"} <= set(site.actions()), "none of it unseen"


async def test_a_second_person_never_comes_unseen(site: Site) -> None:
    """The daemon's role can make a token as if the machine had; then it stands in the audit, and it is young."""
    made = say_as_daemon(
        site, "select mover.token_add('t9', '\\x09', 'bob', 'admin', null, null, null, null, 'uid:0', 'n9', '')"
    )
    assert made == [(True,)]
    [record] = site.rows("select body::jsonb as body from mover.audit_record where body::jsonb ->> 'subject' = 't9'")
    assert (record.body["action"], record.body["details"]["by the machine"]) == ("token made", True)


async def test_rows_without_a_file_displace_nothing_even_when_they_have_grown_old(site: Site) -> None:
    """The daemon looks into the repository before it judges: what is not there does not count."""
    site.rows_of([30 * DAY + at * timedelta(hours=1) for at in range(10)][::-1])
    await site.months_later()
    assert site.lost() == set()


async def test_who_has_the_repositorys_password_is_seen_and_leaves_the_packs(site: Site, thief: Thief) -> None:
    """Stock restic forgets what it likes: outside object lock nothing stops it. It is an alarm, and our own prune
    stops, so that the packs are there for whoever mends it."""
    gone = site.rows("select repository_id from mover.snapshot where id = %s", site.kept[0])[0].repository_id
    packs = {path.name for path in (site.folder / "protect" / "data").rglob("*") if path.is_file()}
    site.restic("forget", gone)
    await site.months_later()
    seen = (await thief.ask("GET", "/v1/protection"))[1]["policies"][0]
    assert seen["missing"] == 1 and next(t for t in seen["turns"] if t["kind"] == "prune")["state"] == "waiting"
    assert {path.name for path in (site.folder / "protect" / "data").rglob("*") if path.is_file()} == packs
    assert site.lost() == {site.kept[0]}
