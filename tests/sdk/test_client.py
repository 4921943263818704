"""The SDK against the real HTTP face: every noun, the errors, the waiting and the broken connections."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mover.api import OPERATIONS, Rooms, Server, make_app, serve
from mover.errors import (
    Conflict,
    Denied,
    LimitExceeded,
    MoverError,
    NotFound,
    NotProtected,
    RequestError,
    RunRefused,
    ServiceUnreachable,
    SettingsInvalid,
    StillWorking,
    Unauthenticated,
)
from mover.model import wire
from mover.model.policy import KeepRules
from mover.sdk import Client, SyncClient, events
from mover.sdk.nouns import Noun
from mover.sdk.transport import ATTEMPTS, Ask, Transport
from mover.settings import Listen
from tests.api.small_rooms import SmallAccess, run, small_rooms


@pytest.fixture
def rooms() -> Rooms:
    return small_rooms()


@pytest.fixture
async def server(rooms: Rooms, tmp_path: Path) -> AsyncIterator[Server]:
    app = make_app(rooms, SmallAccess(known_uid=os.getuid()), version="0")
    running = await serve(app, Listen(tmp_path / "s", "127.0.0.1", 0, None))
    yield running
    await running.stop()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.urls[0], token="mvr_operator") as made:
        yield made


ARGUMENTS: dict[str, Any] = {
    "id": "x-1", "ref": "prostate", "number": "N", "name": "prostate", "expression": "gleason >= 7",
    "packs": ["pack-1"], "parts": {"train": 0.8, "test": 0.2},
    "purpose": "call the ward", "to": "/restored", "key": "k", "write": lambda piece: None,
    "run": "run-1", "receiver": "night",
    "cause": "0123456789abcdef", "action": "retry", "reason": "sent again by the ward", "rule": "rule-1",
    "tier": "archive", "other": "snapshot-2", "path": "/artifacts/model.pt",
}  # fmt: skip
NOUN_ARGUMENTS: dict[str, dict[str, Any]] = {
    "plots": {"name": "calendar", "column": "gleason", "tier": "flash"}, "slides": {"level": 3, "column": 0, "row": 1},
    "answers": {"question": "log"},
    "audit": {
        "id": "acceptance-1", "reason": "the disk broke", "before": datetime(2020, 1, 1, tzinfo=UTC),
    },
    "quarantine": {"decision": "confirm"}, "rulings": {"action": "reinstate", "decision": "grant"},
    "snapshots": {"tags": ["golden"]},
    "policies": {
        "name": "stage", "typed": wire.PolicyCheckRequest(text="kind: stage\n"),
        "removal": wire.PolicyRemovalRequest(digest="0" * 64, reason="no flash any more"),
    },
}  # fmt: skip
BODIES = {
    "Batches": wire.BatchRequest(folder="a"),
    "Dumps": wire.DumpRequest(),
    "Scans": wire.ScanRequest(tier="archive"),
    "Transfers": wire.TransferRequest(sources=[wire.TransferSource(tier="nas")], to="cold"),
    "Verifications": wire.VerificationRequest(tier="archive"),
    "Restores": wire.RestoreRequest(to="/restored", snapshot="snapshot-1"),
    "Records": wire.RecordsRequest(batch="batch-1", files={}),
    "Runs": wire.RunRequest(cohort="c"),
    "Tags": wire.TagChangeRequest("look-again", expression="gleason >= 7"),
    "Tokens": wire.TokenRequest(actor="a", role="viewer"),
    "make": wire.AccountRequest(name="ann", role="viewer"),
    "password": wire.PasswordRequest(),
    "grant": wire.GrantRequest(role="viewer"),
    "Snapshots": wire.SimulationRequest(keep=KeepRules(last=3)),
    "Turns": wire.TurnRequest(kind="prune"),
    "Keys": wire.KeyRequest(name="anns"),
    "Policies": wire.PolicyChangeRequest(text="kind: stage\n", reason="longer leases"),
    "Shortenings": wire.ShorteningRequest(kind="shorten", reason="too many"),
    "reveal": wire.VaultRevealRequest(["S1"], "call the ward"),
    "export": wire.VaultExportRequest("uids", "score the release"),
    "erase": wire.VaultEraseRequest("S1", "consent withdrawn"),
    "import_rows": wire.VaultImportRequest([wire.VaultImportRow(2, "1", "A")], "the broker's table"),
}


async def test_every_method_of_every_noun_reaches_a_route_and_understands_its_answer(
    server: Server, rooms: Rooms
) -> None:
    """A renamed route, field or parameter breaks here and not at a scheduler."""
    rooms.batches.states = rooms.runs.states = ["complete"]  # type: ignore[attr-defined]
    called = 0
    async with (
        Client(server.urls[0], token="mvr_operator") as operator,
        Client(server.urls[0], token="mvr_admin") as admin,
        Client(server.urls[0], token="mvr_custodian") as custodian,
    ):
        others = {
            "tokens": admin, "accounts": admin, "policies": admin, "audit": admin, "answers": admin,
            "shortenings": admin, "vault": custodian, "rulings.decide": custodian, "snapshots.rebuild": admin,
            "oversight.try_alarm": admin, "keys": admin,
        }  # fmt: skip
        for noun_name, noun in vars(operator).items():
            if not isinstance(noun, Noun):
                continue
            for name, _ in inspect.getmembers(noun, inspect.iscoroutinefunction):
                if name.startswith("_") or name in ("wait", "check") or (noun_name, name) == ("runs", "keep"):
                    continue
                chosen = others.get(f"{noun_name}.{name}", others.get(noun_name, operator))
                method = getattr(getattr(chosen, noun_name), name)
                wanted = inspect.signature(method).parameters
                known = ARGUMENTS | NOUN_ARGUMENTS.get(noun_name, {})
                given = {key: known[key] for key in wanted if key in known}
                if "body" in wanted and "finish" not in name:
                    given["body"] = BODIES[name if noun_name in ("vault", "accounts") else type(noun).__name__]
                try:
                    answer = await method(**given)
                except NotProtected:
                    answer = name == "clean"
                assert answer
                called += 1
        for question in (operator.tiers, operator.status, operator.health, operator.openapi, admin.reload):
            assert await question()
            called += 1
        assert "mover_http_requests_total" in await operator.metrics()
        assert (await operator.who()).role == "operator"
    # every route has a method but what is a browser's alone; plans have methods of their own
    assert called >= len([one for one in OPERATIONS if one.action != "session.use"])


async def test_the_daemons_error_comes_back_as_the_same_class_with_the_same_fields(client: Client) -> None:
    """A caller catches NotProtected, not a status."""
    with pytest.raises(NotProtected) as caught:
        await client.runs.clean("run-1")
    assert caught.value.where == "run-1" and caught.value.details == [{"path": "out/model.pt"}]
    assert "finish" in caught.value.advice and "request " in caught.value.__notes__[0]
    with pytest.raises(RunRefused) as refused:
        await client.runs.request(wire.RunRequest(files=["NOPE"]), key="k")
    assert refused.value.details == [{"number": "NOPE", "why": "unknown"}]
    with pytest.raises(NotFound):
        await client.batches.view("batch-none")


async def test_rights_come_back_as_errors_too(server: Server) -> None:
    async with Client(server.urls[0], token="mvr_viewer") as viewer:
        with pytest.raises(Denied):
            await viewer.batches.declare(wire.BatchRequest(folder="a"))
        with pytest.raises(NotFound):
            await viewer.tokens.list()
    async with Client(server.urls[0]) as nobody:
        with pytest.raises(Unauthenticated):
            await nobody.status()


async def test_the_local_socket_needs_no_token(server: Server) -> None:
    async with Client(server.urls[1]) as client:
        assert (await client.status()).role == "admin"


async def test_waiting_reports_what_it_sees_and_stops_at_an_end(client: Client, rooms: Rooms) -> None:
    """Progress is for a person; an end that was not hoped for must not be waited past."""
    rooms.batches.states = ["walking", "walking", "working", "complete"]  # type: ignore[attr-defined]
    seen: list[str] = []
    done = await client.batches.wait("batch-1", progress=lambda batch: seen.append(batch.state))
    assert done.state == "complete" and seen[0] == "walking" and seen[-1] == "complete"
    rooms.runs.states = ["refused"]  # type: ignore[attr-defined]
    assert (await client.runs.wait("run-1", until=frozenset({"ready"}))).state == "refused"
    with pytest.raises(Conflict, match="images that do not come: its batch failed") as nothing_comes:
        await client.records.wait("record-failed")
    assert "mover batch show batch-1" in nothing_comes.value.advice


async def test_patience_that_ends_is_told_apart_from_failure(client: Client) -> None:
    with pytest.raises(StillWorking) as caught:
        await client.batches.wait("batch-1", timeout_s=0.05)
    assert caught.value.where == "batch-1 is working" and caught.value.retry == "later"


async def test_a_lease_is_kept_until_the_run_is_ready_no_longer_over_a_daemon_that_was_away(
    client: Client, rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever keeps a lease for three days must outlive a restart of the daemon, and end with the run."""
    answers = iter([None, ServiceUnreachable("away"), None, Conflict("the run is finishing")])
    beaten: list[str] = []

    async def heartbeat(project: str, id: str) -> wire.Run:
        beaten.append(id)
        if (answer := next(answers)) is not None:
            raise answer
        return await rooms.runs.view(project, id)

    monkeypatch.setattr(rooms.runs, "heartbeat", heartbeat)
    rooms.runs.states = ["ready", "ready", "finishing"]  # type: ignore[attr-defined]
    assert (await client.runs.keep("run-1", every_s=0)).state == "finishing"
    assert beaten == ["run-1"] * 4


async def test_a_run_is_followed_by_its_events_and_looked_at_once_more_at_the_end(client: Client, rooms: Rooms) -> None:
    """What comes back is the run as it is, with its root; the events only say when to look."""
    rooms.runs.states = ["requested", "ready"]  # type: ignore[attr-defined]
    seen: list[wire.Run] = []
    done = await client.runs.wait("run-1", progress=seen.append)
    assert [run.state for run in seen] == ["requested", "staging", "staging", "ready"]
    assert (seen[2].staged_bytes, seen[2].bytes, seen[1].event) == (10, 20, 3)
    assert seen[3].staged_bytes == seen[3].bytes == 20  # who looked on saw "ready", and nothing of it staged
    assert done.state == "ready" and done.event == 0
    later = [event async for event in client.runs.events("run-1", after=3)]
    assert [event.id for event in later if isinstance(event, wire.RunEvent)] == [4]


async def test_a_stream_that_breaks_is_opened_again_after_the_last_state_heard(
    client: Client, rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that restarts costs a watcher two seconds and no state."""
    monkeypatch.setattr(events, "PAUSE_S", 0.01)
    whole, asked = Transport.stream, []

    async def cut(self: Transport, ask: Ask) -> AsyncIterator[bytes]:
        asked.append(ask.last_event)
        async for piece in whole(self, ask):
            known, cut_off, _ = piece.partition(b"id: 4")
            yield known if len(asked) == 1 else piece
            if cut_off and len(asked) == 1:
                raise ServiceUnreachable("cut off")

    monkeypatch.setattr(Transport, "stream", cut)
    heard = [e async for e in client.runs.events("run-1") if isinstance(e, wire.RunEvent)]
    assert ([e.id for e in heard], asked) == ([3, 4], [0, 3])


async def test_where_no_stream_is_to_spare_a_run_is_polled(
    client: Client, rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(self: Transport, ask: Ask) -> AsyncIterator[bytes]:
        raise LimitExceeded("all streams are open")
        yield b""

    monkeypatch.setattr(Transport, "stream", full)
    rooms.runs.states = ["staging", "staging", "ready"]  # type: ignore[attr-defined]
    assert (await client.runs.wait("run-1")).state == "ready"


def test_the_sync_client_works_where_a_loop_runs_already(tmp_path: Path) -> None:
    """A notebook's thread has a loop of its own."""

    async def notebook() -> str:
        app = make_app(small_rooms(), SmallAccess(), version="0")
        server = await serve(app, Listen(None, "127.0.0.1", 0, None))
        try:
            return await asyncio.to_thread(_ask, server.urls[0])
        finally:
            await server.stop()

    def _ask(url: str) -> str:
        async def cell() -> str:
            with SyncClient(url, token="mvr_operator") as client:
                assert client.runs.ENDED
                assert [event.state for event in client.runs.events("run-1")][-1] == "ready"
                with pytest.raises(NotProtected):
                    client.runs.clean("run-1")
                return client.batches.view("batch-1").state

        return asyncio.run(cell())

    assert asyncio.run(notebook()) == "working"


# --- broken connections ---------------------------------------------------------------------------------------


class Flaky:
    """A server that takes a request and hangs up; after `failures` of them it answers."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.requests = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        if self.requests > self.failures:
            body = msgspec.json.encode({"status": "ok", "version": "0"} | msgspec.to_builtins(run("run-1", "ready")))
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                % len(body)
                + body
            )
            await writer.drain()
        writer.close()


async def flaky(failures: int) -> tuple[Flaky, Any, str]:
    spot = Flaky(failures)
    server = await asyncio.start_server(spot.handle, "127.0.0.1", 0)
    return spot, server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mover.sdk.transport.FIRST_PAUSE_S", 0.001)


async def test_what_may_be_repeated_is_repeated_so_many_times(server: Server) -> None:
    spot, listener, url = await flaky(failures=3)
    async with Client(url) as client:
        assert (await client.health()).status == "ok"
        assert spot.requests == 4
    listener.close()


async def test_a_request_with_a_key_survives_a_lost_answer(server: Server) -> None:
    """The same key is the same run, so the SDK may ask again where a person would not dare."""
    spot, listener, url = await flaky(failures=1)
    async with Client(url) as client:
        assert (await client.runs.request(wire.RunRequest(cohort="c"), key="k")).id == "run-1"
    assert spot.requests == 2
    listener.close()


async def test_what_may_have_happened_is_not_done_twice(server: Server) -> None:
    """Half of all broken connections have committed (D13)."""
    spot, listener, url = await flaky(failures=9)
    async with Client(url) as client:
        with pytest.raises(ServiceUnreachable, match="may have been carried out"):
            await client.tokens.make(wire.TokenRequest(actor="a", role="viewer"))
        assert spot.requests == 1
        with pytest.raises(ServiceUnreachable):
            await client.health()
        # aiohttp may ask a second time by itself where the method allows it; what counts is that it ends
        assert 1 + ATTEMPTS <= spot.requests <= 1 + 2 * ATTEMPTS
    listener.close()


async def test_an_absent_daemon_is_said_plainly(tmp_path: Path) -> None:
    async with Client(f"unix://{tmp_path}/none.sock") as client:
        with pytest.raises(ServiceUnreachable, match="was not sent") as caught:
            await client.status()
    assert "running" in caught.value.advice


@pytest.mark.parametrize(
    ("status", "error", "what"),
    [(404, RequestError, "does not come from a mover daemon"), (502, ServiceUnreachable, "a proxy answers 502")],
)
async def test_an_answer_of_something_else_is_not_taken_for_the_daemons(
    server: Server, status: int, error: type[MoverError], what: str
) -> None:
    """A proxy's page is not a mover error; what it says while the daemon starts again may be tried later."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d Bad\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nno" % status)
        writer.close()

    listener = await asyncio.start_server(proxy, "127.0.0.1", 0)
    async with Client(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(error, match=what):
            await client.status()
    listener.close()


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("ftp://x", None),
        ("unix://", None),
        ("http://user:pw@127.0.0.1", None),
        ("http://mover.example.org", "mvr_x"),
    ],
)
def test_a_url_that_is_half_understood_or_unsafe_is_refused(url: str, token: str | None) -> None:
    with pytest.raises(SettingsInvalid):
        Client(url, token=token)
