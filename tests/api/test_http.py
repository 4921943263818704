"""What every route owes its caller: strict reading, named bounds, one shape of failure."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from mover.api import Limits, plots, streaming
from mover.model import wire
from tests.api.conftest import Served

PROBLEM = "application/problem+json"


async def problem(response: Any) -> dict[str, Any]:
    assert response.content_type == PROBLEM
    return json.loads(await response.read())


async def test_an_error_travels_with_its_code_place_hint_and_details(served: Served) -> None:
    """A person reads what, where, whether to try again and what to do; a program reads the code."""
    async with served.ask("POST", "/v1/runs/run-1/clean") as response:
        said = await problem(response)
    assert response.status == 409
    assert said["code"] == "not-protected" and said["where"] == "run-1" and said["retry"] == "never"
    assert "finish" in said["hint"] and said["details"] == [{"path": "out/model.pt"}]
    assert said["request"] == response.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("folder", "said"), [("", "must have at least 1 character"), ("a" * 9000, "at most")], ids=["short", "long"]
)
async def test_a_text_of_the_wrong_length_is_refused_in_words(served: Served, folder: str, said: str) -> None:
    """Whoever gave too short a reason read of types of a language that is not theirs."""
    async with served.ask("POST", "/v1/batches", json={"folder": folder}) as response:
        told = await problem(response)
    assert response.status == 422 and said in told["detail"] and told["where"] == "body.folder"


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/snapshots/snapshot-1/tags", {"tags": ["two words"]}, "letters, digits, ':', '.', '_', '-'"),
        ("/v1/cohorts", {"name": "A", "expression": "x"}, "2 to 61 of: small letters, digits, '-'; it begins"),
        ("/v1/tokens", {"actor": "a", "role": "viewer", "scopes": ["runs"]}, "not the form that it must have"),
    ],
    ids=["tag", "name", "scope"],
)
async def test_a_text_of_the_wrong_form_is_refused_in_words(served: Served, path: str, body: Any, said: str) -> None:
    """A regular expression is no answer to a person; what was typed may be a name and is not repeated."""
    async with served.ask("POST", path, role="admin", json=body) as response:
        told = await problem(response)
    assert response.status == 422 and said in told["detail"] and "regex" not in told["detail"]


async def test_a_role_that_may_not_is_told_which_may_and_where_nothing_is_seen_to_look_at_the_role(
    served: Served,
) -> None:
    """`vault dump` told a custodian to ask for "the role this needs"; an operator looked for a wrong id."""
    async with served.ask("POST", "/v1/batches", role="viewer", json={"folder": "a"}) as response:
        assert (await problem(response))["hint"] == "Use a token of another role: admin, operator."
    async with served.ask("GET", "/v1/vault", role="operator") as response:
        assert response.status == 404 and "role" in (await problem(response))["hint"]


async def test_an_unforeseen_exception_says_nothing_but_the_request_id(served: Served, logged: io.StringIO) -> None:
    """Its text may quote a patient's name; neither the answer nor the log may hold it (I2)."""
    async with served.ask("GET", "/v1/batches/batch-boom") as response:
        said = await problem(response)
    assert response.status == 500
    assert "RuntimeError" in logged.getvalue() and said["request"] in logged.getvalue()
    everything = json.dumps(said) + logged.getvalue()
    assert "SMITH" not in everything and "S26" not in everything


async def test_a_refused_run_lists_every_offender(served: Served) -> None:
    async with served.ask("POST", "/v1/runs", json={"files": ["NOPE"]}, headers={"Idempotency-Key": "k/1"}) as response:
        said = await problem(response)
    assert response.status == 422 and said["details"] == [{"number": "NOPE", "why": "unknown"}]


@pytest.mark.parametrize(
    ("role", "said", "status"),
    [
        ("scheduler", "1000", 202),
        ("scheduler", None, 403),
        ("scheduler", "root", 422),
        ("scheduler", "-1", 422),
        ("scheduler", str(2**31), 422),
        ("operator", None, 202),
    ],
)
async def test_a_scheduler_says_for_whom_it_asks(served: Served, role: str, said: str | None, status: int) -> None:
    """Without a user the run would be nobody's, and its job could not write; what is no uid is never guessed."""
    headers = {"Idempotency-Key": "k/1"} | ({} if said is None else {"Mover-Acts-For": said})
    async with served.ask("POST", "/v1/runs", role=role, json={"cohort": "c"}, headers=headers) as response:
        assert response.status == status, await response.text()
    users = [arguments[0].posix_uid for _, arguments in served.rooms.runs.calls]
    assert users == ([] if status != 202 else [int(said) if said else None])


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b'{"folder":"\xff"}', "byte 11"),
        (b'{"folder":"a","expcted_count":3}', "body"),
        (b'{"folder":7}', "body.folder"),
        (b'{"folder":"a","expected_count":true}', "body.expected_count"),
        (b'{"folder":"a","expected_count":-1}', "body.expected_count"),
        (b'{"folder":"a\\u0000b"}', "body"),
        (b'{"folder":', "body"),
        (b"[]", "body"),
        (b"", "body"),
        (b'{"folder":"\\ud800"}', "body"),
        (b"[" * 100_000, "body"),
    ],
)
async def test_a_body_that_is_not_exactly_what_was_agreed_is_refused_with_its_place(
    served: Served, raw: bytes, where: str
) -> None:
    """A misspelt option that is silently ignored is a batch that is never found incomplete."""
    async with served.ask("POST", "/v1/batches", data=raw, headers={"Content-Type": "application/json"}) as response:
        said = await problem(response)
    assert (response.status, said["code"], said["where"]) == (422, "request-invalid", where)
    assert served.rooms.batches.calls == []


async def test_a_refusal_never_repeats_the_value_it_refused(served: Served) -> None:
    """Somebody will paste a name into the wrong field."""
    async with served.ask(
        "POST", "/v1/runs", json={"cohort": "c", "layout": "SMITH JANE"}, headers={"Idempotency-Key": "k"}
    ) as response:
        text = await response.text()
    assert response.status == 422 and "SMITH" not in text and "body.layout" in text


@pytest.mark.parametrize(
    "path",
    [
        "/v1/batches?plann=true",
        "/v1/batches/batch-1?wait=61",
        "/v1/batches/batch-1?wait=-1",
        "/v1/batches/batch-1?wait=1&wait=2",
        "/v1/batches/batch-1/packs?limit=0",
        "/v1/batches/batch-1/packs?limit=1001",
        "/v1/batches/batch-1/packs?state=%00",
        "/v1/batches/..%2Fetc",
        "/v1/batches/batch%00",
        "/v1/batches/" + "x" * 129,
        "/healthz?x=1",
    ],
)
async def test_parameters_are_known_bounded_and_said_once(served: Served, path: str) -> None:
    async with served.ask("GET", path) as response:
        assert response.status == 422 and (await problem(response))["code"] == "request-invalid"


async def test_bodies_must_say_that_they_are_json_and_stay_uncompressed(served: Served) -> None:
    """A form post from a browser is not JSON, and a gzip bomb costs its sender nothing."""
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/json", "Content-Encoding": "gzip"}):
        async with served.ask("POST", "/v1/batches", data=b'{"folder":"a"}', headers=headers) as response:
            assert response.status == 415 and (await problem(response))["code"] == "media-type-unknown"


async def test_a_request_without_a_body_refuses_one(served: Served) -> None:
    async with served.ask("POST", "/v1/runs/run-1/heartbeat", json={"lease_s": 9}) as response:
        assert response.status == 422
    assert served.rooms.runs.calls == []


async def test_unknown_paths_and_methods_are_problems_too(served: Served) -> None:
    async with served.ask("GET", "/v1/nothing") as response:
        assert response.status == 404 and (await problem(response))["code"] == "not-found"
    async with served.ask("DELETE", "/v1/batches") as response:
        assert response.status == 405 and (await problem(response))["code"] == "method-not-allowed"
        assert "POST" in response.headers["Allow"]


async def test_a_run_is_asked_for_with_a_key_and_the_key_reaches_the_room(served: Served) -> None:
    """Without the key, a lost answer could become two runs on the flash."""
    async with served.ask("POST", "/v1/runs", json={"cohort": "c"}) as response:
        assert response.status == 422 and (await problem(response))["where"] == "Idempotency-Key"
    headers = {"Idempotency-Key": "hpc/4711/2026-01-01T00:00:00/0", "X-Request-Id": "4711471147114711"}
    async with served.ask("POST", "/v1/runs", json={"cohort": "c"}, headers=headers) as response:
        assert response.status == 202
    [(method, (identity, body, key, request))] = served.rooms.runs.calls
    assert (method, identity.actor, body.cohort) == ("request", "a-operator", "c")
    assert (key, request) == (headers["Idempotency-Key"], "4711471147114711")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/batches", {"folder": "a"}),
        ("/v1/records", {"batch": "batch-1", "files": {}}),
        ("/v1/runs", {"cohort": "c"}),
        ("/v1/runs/run-1/finish", {}),
        ("/v1/runs/run-1/clean", None),
        ("/v1/restores", {"to": "/r", "snapshot": "snapshot-1"}),
    ],
)
async def test_every_step_can_be_planned_and_a_plan_changes_nothing(served: Served, path: str, body: Any) -> None:
    async with served.ask("POST", path + "?plan=true", json=body) as response:
        assert response.status == 200
        assert wire.Plan(**json.loads(await response.read())).step == "small"
    rooms = served.rooms
    changing = {"declare", "request", "finish", "clean"}
    seen = [call[0] for room in (rooms.batches, rooms.records, rooms.runs, rooms.restores) for call in room.calls]
    assert not changing & set(seen)


async def test_the_request_id_is_ours_unless_the_callers_is_harmless(served: Served) -> None:
    """It stands in logs and audit records, where a newline or a name has no business."""
    known = "0f8fad5b-d9cb-469f-a165-70867728950e"
    async with served.ask("GET", "/v1/batches", headers={"X-Request-Id": known}) as response:
        assert response.headers["X-Request-Id"] == known
    async with served.ask("GET", "/v1/batches", headers={"X-Request-Id": "Jane Smith 1961"}) as response:
        assert "Smith" not in response.headers["X-Request-Id"] and len(response.headers["X-Request-Id"]) == 20


async def test_the_log_line_of_a_request_holds_the_route_and_not_the_path(served: Served, logged: io.StringIO) -> None:
    async with served.ask("GET", "/v1/cohorts/jane-smith?typo=S26-10482") as response:
        pass
    line = json.loads(logged.getvalue().splitlines()[-1])
    assert (line["route"], line["status"]) == ("/v1/cohorts/{ref}", 422)
    assert line["request"] == response.headers["X-Request-Id"] and "refused" not in line
    assert "jane-smith" not in logged.getvalue() and "10482" not in logged.getvalue()


# --- who ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [None, "Bearer mvr_nobody", "Bearer ", "Basic YTpi", "mvr_admin"])
async def test_without_a_live_token_nothing_is_said_but_how_to_send_one(served: Served, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    async with served.ask("GET", "/v1/batches", role="", headers=headers) as response:
        assert response.status == 401 and response.headers["WWW-Authenticate"].startswith("Bearer")
        assert (await problem(response))["code"] == "unauthenticated"


async def test_a_role_is_judged_before_the_body_is_read(served: Served) -> None:
    """Otherwise the refusals of a body would tell a viewer what exists."""
    async with served.ask("POST", "/v1/batches", role="viewer", data=b"\xff") as response:
        assert response.status == 403
    async with served.ask("POST", "/v1/tokens", role="viewer", data=b"\xff") as response:
        assert response.status == 404


async def test_metrics_answer_this_machine_and_still_check_a_token_that_is_sent(served: Served) -> None:
    async with served.ask("GET", "/metrics", role="") as response:
        assert response.status == 200 and b"mover_http_requests_total" in await response.read()
    async with served.ask("GET", "/metrics", role="nobody") as response:
        assert response.status == 401


# --- bounds ------------------------------------------------------------------------------------------------


async def test_a_body_over_the_limit_is_refused(serve_small: Any) -> None:
    served = await serve_small(limits=Limits(body_bytes=2048))
    async with served.ask("POST", "/v1/batches", json={"folder": "a" * 4000}) as response:
        assert response.status == 413 and (await problem(response))["code"] == "body-too-large"


async def test_a_header_over_the_limit_is_refused_without_repeating_it_in_the_log(
    served: Served, logged: io.StringIO
) -> None:
    async with served.ask("GET", "/v1/batches", headers={"X-Name": "SMITH" * 4000}) as response:
        assert response.status == 400
    assert "SMITH" not in logged.getvalue()


async def test_the_longest_parameter_there_may_be_fits_into_a_url(served: Served) -> None:
    """Otherwise the answer would be HTTP's own and not a problem."""
    async with served.ask("GET", "/v1/snapshots/snapshot-1/files", params={"path": "\U00020000" * 4096}) as response:
        assert response.status == 200
    async with served.ask("GET", "/v1/snapshots/snapshot-1/files", params={"path": "x" * 4097}) as response:
        assert response.status == 422


async def test_one_token_cannot_take_the_daemon_from_another(serve_small: Any) -> None:
    """Rates are per token, so a runaway script stops itself only."""
    served = await serve_small(limits=Limits(requests_per_s=0.01, burst=3))
    statuses = []
    for _ in range(4):
        async with served.ask("GET", "/v1/batches") as response:
            statuses.append(response.status)
    assert statuses == [200, 200, 200, 429] and response.headers["Retry-After"]
    async with served.ask("GET", "/v1/batches", role="viewer") as response:
        assert response.status == 200


async def test_wrong_secrets_are_slowed_by_address_and_right_ones_are_not(serve_small: Any) -> None:
    """Found: whoever tried wrong ones fast enough kept all of their address out, a scheduler's node among them."""
    served = await serve_small(limits=Limits(requests_per_s=0.01, burst=2))
    statuses = []
    for role in ("operator", "nobody", "nobody", "nobody", "operator", "nobody"):
        async with served.ask("GET", "/v1/batches", role=role) as response:
            statuses.append(response.status)
    assert statuses == [200, 401, 401, 429, 200, 429]


async def test_a_body_that_trickles_is_given_up(serve_small: Any) -> None:
    """Slow senders hold connections; the bound is time, not bytes."""
    served = await serve_small(limits=Limits(body_timeout_s=0.05))

    async def trickle() -> Any:
        yield b'{"folder":'
        await asyncio.sleep(0.2)
        yield b'"a"}'

    async with served.ask(
        "POST", "/v1/batches", data=trickle(), headers={"Content-Type": "application/json"}
    ) as response:
        assert response.status == 429


# --- the long poll ---------------------------------------------------------------------------------------------


class MovedClock:
    """Sleeping moves the clock instead of waiting."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic_s(self) -> float:
        return sum(self.slept)

    async def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)


async def test_a_long_poll_answers_when_the_state_moves(serve_small: Any) -> None:
    clock = MovedClock()
    served = await serve_small(clock=clock)
    served.rooms.batches.states = ["walking", "walking", "walking", "working"]
    async with served.ask("GET", "/v1/batches/batch-1?wait=60") as response:
        assert json.loads(await response.read())["state"] == "working"
    assert clock.slept == pytest.approx([0.1, 0.15, 0.225])


async def test_a_long_poll_is_over_when_its_time_is(serve_small: Any) -> None:
    clock = MovedClock()
    served = await serve_small(clock=clock)
    async with served.ask("GET", "/v1/batches/batch-1?wait=5") as response:
        assert json.loads(await response.read())["state"] == "working"
    assert sum(clock.slept) == pytest.approx(5) and max(clock.slept) == 0.5


async def test_a_long_poll_does_not_wait_for_news_the_caller_does_not_have(serve_small: Any) -> None:
    """The state may have moved between two polls; the caller says which one it knows."""
    clock = MovedClock()
    served = await serve_small(clock=clock)
    async with served.ask("GET", "/v1/batches/batch-1?wait=60&state=walking") as response:
        assert json.loads(await response.read())["state"] == "working"
    served.rooms.batches.states = ["complete"]
    async with served.ask("GET", "/v1/batches/batch-1?wait=60&state=complete") as response:
        assert json.loads(await response.read())["state"] == "complete"
    assert clock.slept == []


async def test_open_long_polls_are_bounded(serve_small: Any) -> None:
    served = await serve_small(limits=Limits(waiting=1))

    async def poll() -> int:
        async with served.ask("GET", "/v1/batches/batch-1?wait=1") as response:
            return response.status

    first = asyncio.create_task(poll())
    await served.rooms.batches.asked.wait()
    assert await poll() == 429
    served.rooms.batches.states = ["complete"]
    assert await first == 200


# --- pages and streams -------------------------------------------------------------------------------------------


async def test_staged_entries_are_paged_until_a_short_page(served: Served) -> None:
    seen: list[str] = []
    after = ""
    while True:
        async with served.ask("GET", f"/v1/runs/run-1/ready?limit=2{after}") as response:
            page = json.loads(await response.read())
        seen += [entry["path"] for entry in page["entries"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == ["data/0.svs", "data/1.svs", "data/2.svs"]


async def test_the_audit_export_is_streamed_and_its_early_failure_is_still_a_problem(serve_small: Any) -> None:
    served = await serve_small()
    async with served.ask("GET", "/v1/audit/export", role="admin") as response:
        assert (await response.read()).splitlines() == [b'{"seq":0}', b'{"seq":1}', b'{"seq":2}']
    broken = await serve_small(project="broken")
    async with broken.ask("GET", "/v1/audit/export", role="admin") as response:
        assert response.status == 404 and response.content_type == PROBLEM


async def test_whoever_stops_reading_an_export_is_cut_and_who_reads_in_pieces_gets_all(
    serve_small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever makes the pieces is told, and lets go of what it holds."""
    served = await serve_small()
    ended = asyncio.Event()

    async def export(project: str) -> AsyncIterator[bytes]:
        try:
            for _ in range(1000):
                yield b"x" * (1 << 20)
        finally:
            ended.set()

    whole = b"y" * 200_001

    async def one_piece(project: str) -> AsyncIterator[bytes]:
        yield whole

    monkeypatch.setattr(served.rooms.audit, "export", one_piece)
    async with served.ask("GET", "/v1/audit/export", role="admin") as response:
        assert await response.read() == whole
    monkeypatch.setattr(served.rooms.audit, "export", export)
    monkeypatch.setattr(streaming, "STALLED_S", 0.2)
    async with served.ask("GET", "/v1/audit/export", role="admin") as response:
        assert response.status == 200
        async with asyncio.timeout(60):
            await ended.wait()
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_what_is_given_away_is_recorded_before_it_leaves(serve_small: Any) -> None:
    """Access to data stands in the audit as changes do; and data whose record cannot be written stays here."""
    served = await serve_small()
    trail = served.rooms.audit
    async with served.ask("GET", "/v1/runs/run-1/manifest", role="viewer") as response:
        assert response.status == 200
    async with served.ask("GET", "/v1/slides/N1/view/3/0_0", role="viewer") as response:
        assert response.status == 200
    read = [arguments[1:] for name, arguments in trail.calls if name == "accessed"]
    assert [one[:-1] for one in read] == [("manifest", "run-1"), ("slide", "N1")]  # of a tile, its slide
    trail.full = True
    async with served.ask("GET", "/v1/slides/N", role="viewer") as response:
        assert response.status == 503 and b"number" not in await response.read()


async def test_a_picture_that_never_changes_is_kept_by_who_asked_and_not_sent_twice(served: Served) -> None:
    """A ward's computer is many people's: what one sign-in was shown is no answer to another's question."""
    path = "/v1/slides/N1/view/3/0_0"
    async with served.ask("GET", path) as response:
        assert (response.status, response.content_type, await response.read()) == (200, "image/jpeg", b"\xff\xd8")
        # what may be seen today may be withdrawn in a minute: nothing is shown again unasked
        assert response.headers["Cache-Control"] == "private, no-cache"
        assert response.headers["Vary"] == "Cookie, Authorization, Mover-Project"
        etag = response.headers["ETag"]
    async with served.ask("GET", path, headers={"If-None-Match": etag}) as response:
        assert (response.status, await response.read()) == (304, b"")
    async with served.ask("GET", "/v1/slides/N1/region?edge_px=64") as response:
        assert (response.status, response.headers["Cache-Control"]) == (200, "no-store")


async def test_a_figure_comes_in_the_form_that_was_asked_for(served: Served) -> None:
    """Never for a role that may not see what it shows; the rights matrix holds each of them."""
    for form, media, begin in (("svg", "image/svg+xml", b"<svg "), ("png", "image/png", b"\x89PNG")):
        async with served.ask("GET", f"/v1/plots/fill?tier=flash&format={form}&theme=dark&width=320") as response:
            assert (response.status, response.content_type) == (200, media)
            assert (await response.read()).startswith(begin)
            assert response.headers["Cache-Control"] == "no-store"
    asked = {"tier=nowhere": 404, "": 422, "tier=flash&width=9000": 422, "tier=flash&format=gif": 422}
    for query, status in asked.items():
        async with served.ask("GET", f"/v1/plots/fill?{query}") as response:
            assert response.status == status, query


async def test_figures_that_wait_are_bounded_and_hold_no_thread_of_others(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1, I10: moves, hashes and tiers share threads with nobody's figure, and who asks for too many is told so."""
    goes_on = threading.Event()
    monkeypatch.setattr(plots.plots, "render", lambda *_: goes_on.wait() and b"<svg/>")

    async def asked() -> int:
        async with served.ask("GET", "/v1/plots/fill?tier=flash") as response:
            await response.read()
            return response.status

    figures = [asyncio.create_task(asked()) for _ in range(plots.PAINTED + plots.WAITING + 1)]
    try:
        done, waiting = await asyncio.wait(figures, timeout=120, return_when=asyncio.FIRST_COMPLETED)
        assert [one.result() for one in done] == [429] and len(waiting) == plots.PAINTED + plots.WAITING
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "a turn"), 120) == "a turn"
    finally:
        goes_on.set()
    assert set(await asyncio.gather(*waiting)) == {200} and await asked() == 200


async def test_a_manifest_comes_as_it_was_sealed(served: Served) -> None:
    async with served.ask("GET", "/v1/runs/run-1/manifest") as response:
        assert response.content_type == "application/jsonl"
        assert await response.text() == '{"format":"mover-manifest","version":1}\n'
