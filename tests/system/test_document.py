"""The whole OpenAPI document against a real daemon on a real database: every route by every role in a browser's
session, with ids of another project; and with whatever a fuzzer makes of it."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import requests
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from mover.access import Access
from mover.catalog.database import Database
from mover.catalog.postgres import Embedded
from mover.decide.access import ROLES, judge
from mover.model import wire
from mover.randomness import new_secret
from mover.sdk import SyncClient
from tests.api.test_routes import BODIES
from tests.system.test_isolation import known_ids, make_token
from tests.system.ward import WAIT_S, Ward, ending
from tests.web.hospital import play

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("document")]

PEOPLE = tuple(role for role in ROLES if role != "scheduler")
SECOND = "second"
SITES_OWN = "/v1/policies/"


@pytest.fixture(scope="module")
def site(worked: Ward, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    ward = Ward.copy(tmp_path_factory.mktemp("document") / "site", worked)
    with ending([ward]):
        yield ward


@pytest.fixture(scope="module")
def client(site: Ward) -> Iterator[SyncClient]:
    with site.start() as client:
        yield client


class Browser:
    """One person's, with the session that a token or a password opened."""

    def __init__(self, url: str, sign_in: dict[str, str]) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False
        said = self.session.post(f"{url}/v1/session", json=sign_in, timeout=WAIT_S)
        assert said.status_code == 201, said.text
        self.session.headers["Mover-CSRF"] = said.json()["csrf"]

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        answer = self.session.request(
            method, self.url + path, json=body, headers={"Idempotency-Key": "k"} | headers, timeout=WAIT_S, stream=True
        )
        if path.partition("?")[0] == "/v1/events" and answer.ok:
            answer._content = next(answer.iter_content(None))  # it has no end
            answer.close()
        return answer


def role_tokens(client: SyncClient) -> dict[str, str]:
    made = {role: client.tokens.make(wire.TokenRequest(actor=f"a-{role}", role=role)) for role in PEOPLE}
    return {role: token.secret or "" for role, token in made.items()}


def operations(client: SyncClient) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, said)
        for path, methods in client.openapi()["paths"].items()
        for method, said in methods.items()
        if "x-mover-action" in said
    ]


# of an answer, what another one has differently
PASSING = {"Date", "X-Request-Id", "Content-Length"}
# what ends the session that asks, or changes whom it is
OWN = {"sessions.end", "sessions.choose", "sessions.repass"}


def test_every_role_in_a_session_meets_every_route_and_nothing_of_another_project(
    site: Ward, client: SyncClient
) -> None:
    """What exists for one project answers for another as what does not: 404 and the same words, whatever the role."""
    ids = everything(site, client)
    with site.client(asyncio.run(make_token(site, SECOND))) as stranger:
        tokens = role_tokens(stranger)
        routes = operations(stranger)

    def meet(role: str) -> list[str]:
        browser, wrong = Browser(site.url, {"token": tokens[role]}), []
        for method, path, said in routes:
            if said["operationId"] not in OWN:
                wrong += [f"{role}: {one}" for one in tried(browser, role, method, path, said, ids)]
        return wrong

    with ThreadPoolExecutor(len(PEOPLE)) as pool:
        found = [line for lines in pool.map(meet, PEOPLE) for line in lines]
    assert found == [], "\n".join(found)
    assert len(routes) > 100


TABLES = """select distinct a.table_name as name from information_schema.columns a
            join information_schema.columns b using (table_schema, table_name)
            where table_schema = 'mover' and a.column_name = 'id' and a.data_type = 'text'
              and b.column_name = 'project_id' order by 1"""
# of which the first project has one each, at least
KINDS = {"batch", "cohort", "hold", "pack", "restore", "run", "scan", "selection", "shard",
         "shortening", "snapshot", "token", "verification"}  # fmt: skip


def everything(site: Ward, client: SyncClient) -> list[str]:
    """Something of each noun in the first project, and then an id of every table that has one: also of tomorrow's."""
    played = play(client)
    snapshot = client.runs.view(played.cleaned).snapshots[0]
    held = client.snapshots.hold(snapshot, reason="evidence for a paper").holds[0].id
    release = wire.ShorteningRequest(kind="release-hold", subjects=[held], reason="the paper is out")
    client.shortenings.ask(release)
    client.restores.request(
        wire.RestoreRequest(to=str(site.site.restored / "mine"), snapshot=snapshot), key=new_secret()
    )
    client.scans.declare(wire.ScanRequest(tier="flash"))
    client.verifications.request(wire.VerificationRequest(run=played.ready), key=new_secret())
    client.accounts.make(wire.AccountRequest(name="erika.m", role="viewer"))
    waiting = client.policies.view("clean")
    risky = wire.PolicyChangeRequest(
        waiting.text.replace("automatic: false", "automatic: true"), "the flash is small", waiting.digest
    )
    assert client.policies.change("clean", risky).state == "asked"
    project, found = client.who().project, ["erika.m", client.quarantine.list().causes[0].id]
    for table in site.look(TABLES):
        found += [
            row.id for row in site.look(f"select id from mover.{table.name} where project_id = %s limit 2", project)
        ]
    assert KINDS - {kind(one) for one in found} == set(), "nothing of these was tried"
    return found + known_ids(client, client.runs.view(played.ready))


def kind(id_: str) -> str:
    return id_.rpartition("-")[0]


def of_route(path: str, ids: list[str]) -> list[str]:
    """Ids of what the route is about, by their first letters, or of anything."""
    words = path.split("/")[2:]
    fitting = [one for one in ids if any(kind(one)[:4] == word[:4] for word in words if kind(one))]
    fitting += [one for one in ids if not kind(one) and words[0] in ("accounts", "quarantine", "slides")]
    return [*dict.fromkeys(fitting)][:4] or [ids[0], ids[-1]]


def tried(browser: Browser, role: str, method: str, path: str, said: dict[str, Any], ids: list[str]) -> Iterator[str]:
    """What this role meets there that it should not. What would change something is asked with a body that is none,
    or of what is another project's."""
    verdict = judge(role, said["x-mover-action"])  # type: ignore[arg-type]
    required = [one["name"] for one in said["parameters"] if one["in"] == "query" and one["required"]]
    query = "?" + "&".join(f"{name}={ids[0]}" for name in required)
    # what is the whole site's is the same for every project
    site = path.startswith(SITES_OWN)
    names = [] if site else re.findall(r"{\w+}", path)
    reference = said.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {}).get("$ref")
    body = BODIES.get(reference.rpartition("/")[2], {}) if reference else None
    if not names and method != "GET":
        if reference is None and verdict == "allowed":
            return
        body = ["no body"]
    missing: dict[str, str] = {}
    for known in [*of_route(path, ids), "nothing-of-this-name"] if names else ["nothing-of-this-name"]:
        answer = browser.ask(method, re.sub(r"{\w+}", known, path) + query, body)
        told = answer.text.replace(known if names else ids[0], "…")
        if any(one in told for one in ids):
            yield f"{method} {path} tells of another project: {[one for one in ids if one in told]}"
        if verdict == "allowed":
            good = {404} if names else {422} if method != "GET" else {200, 404, 422} if required or site else {200}
            good |= {409} if said["x-mover-action"] == "session.use" else set()  # a token's session is no account's
        else:
            good = {403} if verdict == "denied" else {404}
        if answer.status_code not in good:
            yield f"{method} {path} {known}: {answer.status_code} {answer.text[:200]}"
        if names and answer.status_code == 404:
            headers = {name: value for name, value in answer.headers.items() if name not in PASSING}
            missing[known] = re.sub(r'"request":"[^"]*"', "", told) + str(headers)
    if len(set(missing.values())) > 1:
        yield f"{method} {path} tells what exists from what does not: {set(missing.values())}"


def test_who_is_nobody_or_no_longer_somebody_learns_nothing_and_a_token_of_fewer_actions_no_more(
    site: Ward, client: SyncClient
) -> None:
    """Each route, in the same words whatever the secret was; what a token's scopes leave out is as a role's limits."""
    ended = client.tokens.make(wire.TokenRequest(actor="gone", role="admin"))
    client.tokens.revoke(ended.id)
    lapsed = client.tokens.make(wire.TokenRequest(actor="late", role="admin"))
    site.change("update mover.token set expires_at = created_at + interval '1 microsecond' where id = %s", lapsed.id)
    narrow = client.tokens.make(wire.TokenRequest(actor="narrow", role="admin", scopes=["runs.read"])).secret
    routes, wrong = operations(client), []
    with requests.Session() as asking, ThreadPoolExecutor(4) as pool:
        asking.trust_env = False

        def ask(one: tuple[str, str, str | None]) -> requests.Response:
            headers = {} if one[2] is None else {"Authorization": f"Bearer {one[2]}"}
            path = re.sub(r"{\w+}", "nothing-of-this-name", one[1])
            return asking.request(one[0], site.url + path, headers=headers, json=["no body"], timeout=WAIT_S)

        # of wrong secrets so many as an address may try at once: more, and it waits
        secrets = (None, None, ended.secret, lapsed.secret, "mvr_" + new_secret(), "x")
        wheel = zip(routes * 2, itertools.cycle(secrets), strict=False)
        asked = [(method, path, secret) for (method, path, _), secret in wheel]
        said = {(answer.status_code, answer.json()["code"]) for answer in pool.map(ask, asked)}
        assert said == {(401, "unauthenticated")}
        for (method, path, told), answer in zip(
            routes, pool.map(ask, [(m, p, narrow) for m, p, _ in routes]), strict=True
        ):
            verdict = judge("admin", told["x-mover-action"], {"runs.read"})
            good = {"hidden": {404}, "denied": {403}}.get(verdict, {200, 404, 422})
            wrong += [f"{method} {path}: {answer.status_code}"] * (answer.status_code not in good)
    assert wrong == []


async def grant(ward: Ward, name: str, role: str, project: str) -> None:
    """As root would at the local socket."""
    database = await Database.open(Embedded(ward.site.state).start().daemon_dsn, name="test", max_size=1)
    try:
        access = Access(database, project=project, node="demo", own_uid=os.geteuid())
        await access.accounts.grant(access.peer(uid=0, gid=0), name, role)
    finally:
        await database.close()


def test_a_person_has_a_role_in_each_project_and_no_other(site: Ward, client: SyncClient) -> None:
    """A viewer here who is an admin there is a viewer here."""
    made = client.accounts.make(wire.AccountRequest(name="ann", role="viewer"))
    here, there = client.who().project, SECOND
    asyncio.run(make_token(site, there))
    asyncio.run(grant(site, "ann", "admin", there))
    ann = Browser(site.url, {"name": "ann", "password": made.secret or ""})
    seen = {}
    for project in (here, there, "third"):
        answers = [
            ann.ask(method, path, body or None, **{"Mover-Project": project}).status_code
            for method, path, body in (("GET", "/v1/runs", 0), ("GET", "/v1/tokens", 0), ("POST", "/v1/scans", [1]))
        ]
        seen[project] = answers
    assert seen == {here: [200, 404, 403], there: [200, 200, 422], "third": [404, 404, 404]}
    assert ann.ask("GET", "/v1/session").json()["project"] == here
    assert ann.ask("POST", "/v1/session/project", {"project": there}).json()["role"] == "admin"
    assert ann.ask("GET", "/v1/tokens").status_code == 200
    assert ann.ask("DELETE", "/v1/session").json() == {"ended": 1}
    assert ann.ask("GET", "/v1/session").status_code == 401


# --- whatever a fuzzer makes of it ------------------------------------------------------------------------------

CHECKS = {
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
}  # fmt: skip
ALL_CHECKS = CHECKS | {
    "response_headers_conformance", "positive_data_acceptance", "negative_data_rejection", "use_after_free",
    "ensure_resource_availability", "missing_required_header", "ignored_auth", "unsupported_method",
    "allow_header_conformance", "object_level_authorization",
}  # fmt: skip


def test_nothing_that_fits_or_breaks_the_document_breaks_the_daemon(site: Ward, client: SyncClient) -> None:
    """Every operation: no 5xx, and no answer of another shape than the document promises."""
    fuzz(site, client, {"generation": {"max-examples": 3}, "phases": {"coverage": {"enabled": False}}})


@pytest.mark.soak
def test_nor_does_it_in_a_long_time(site: Ward, client: SyncClient) -> None:
    fuzz(site, client, {"generation": {"max-examples": 100}, "phases": {"coverage": {"enabled": True}}})


def fuzz(site: Ward, client: SyncClient, more: dict[str, Any]) -> None:
    run = client.runs.request(wire.RunRequest(expression="size_bytes > 0"), key=new_secret())
    ids = itertools.cycle(known_ids(client, run))
    made = [role_tokens(client) for _ in range(4)]
    tokens = itertools.cycle([each[role] for each in made for role in ("admin", "operator", "admin", "custodian")])
    statuses: Counter[int] = Counter()
    asked: set[str] = set()
    wrong: set[str] = set()
    with adapting(tokens, ids):
        for event in from_schema(document(site.url, more)).execute():
            if isinstance(event, events.ScenarioFinished):
                statuses += Counter(seen(event))
                asked.add(str(event.recorder.label))
                wrong |= set(complaints(event))
    assert wrong == set(), "\n".join(sorted(wrong))
    described = client.openapi()["paths"]
    left_out = {f"{method.upper()} {path}" for path, methods in described.items() for method in methods} - asked
    assert left_out == {"GET /openapi.json"}, "which it asked for first of all"
    assert statuses[200] > 20 and statuses[422] > 20, statuses


def seen(event: events.ScenarioFinished) -> Iterator[int]:
    for interaction in event.recorder.interactions.values():
        if interaction.response is not None:
            yield interaction.response.status_code


def complaints(event: events.ScenarioFinished) -> Iterator[str]:
    for checks in event.recorder.checks.values():
        for one in checks:
            # it takes each event of a stream for the whole answer
            if one.failure_info is not None and not event.recorder.label.endswith("/events"):
                yield f"{event.recorder.label}: {one.name}: {one.failure_info.failure}"


@contextmanager
def adapting(tokens: Iterator[str], ids: Iterator[str]) -> Iterator[None]:
    """Each call as another person, so that none is held back; half of the ids are of something; nothing waits long."""

    @schemathesis.hook("before_call")
    def adapt(context: Any, case: Any, kwargs: Any) -> None:
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {next(tokens)}"}
        if case.path_parameters and next(halves):
            case.path_parameters = dict.fromkeys(case.path_parameters, next(ids))
        if case.path == "/v1/events":
            case.headers["Authorization"] = "Bearer nobody"  # it has no end; `tests/api/test_streaming.py` reads it
        if "wait" in (case.query or {}):
            case.query["wait"] = 0.01

    halves = itertools.cycle([True, False])
    yield
    schemathesis.hooks.unregister(adapt)


def document(url: str, more: dict[str, Any]) -> Any:
    said: dict[str, Any] = {
        "base-url": url, "seed": 7, "continue-on-failure": True, "request-timeout": WAIT_S,
        "generation": {"no-shrink": True, "deterministic": True, "with-security-parameters": False},
        "phases": {"stateful": {"enabled": False}, "examples": {"enabled": False}},
        # the others ask whether the document says all that is refused, which it cannot
        "checks": {name: {"enabled": name in CHECKS} for name in ALL_CHECKS},
    }  # fmt: skip
    config = SchemathesisConfig.from_dict({**said, **{name: said[name] | more[name] for name in more}})
    return schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
