"""Two projects on one daemon, and what a run's life refuses: requests repeated, leases lapsed, runs cancelled,
artifacts that cannot be read, and more runs than the flash can hold."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mover.access import Access
from mover.catalog.database import Database
from mover.catalog.postgres import Embedded
from mover.demo import generate
from mover.errors import Conflict, IllegalTransition
from mover.model import wire
from mover.randomness import new_secret
from mover.sdk import SyncClient
from tests.system.ward import WAIT_S, Ward, ending

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("isolation")]

ALL = wire.RunRequest(expression="size_bytes > 0")
ONE = ("protection-incomplete", "1 files changed while read or cannot be read")
REFUSED = {
    "fifo": ONE,
    "unreadable": ONE,
    "outside": ("denied", "the path lies under no declared root of the protect policy"),
}


@pytest.fixture(scope="module")
def site(worked: Ward, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """One site for all that leaves the settings alone: each test has runs and a second project of its own."""
    ward = Ward.copy(tmp_path_factory.mktemp("isolation") / "site", worked)
    with ending([ward]):
        yield ward


@pytest.fixture(scope="module")
def client(site: Ward) -> Iterator[SyncClient]:
    with site.start() as client:
        yield client


async def make_token(ward: Ward, project: str) -> str:
    """Of an admin of another project on the same daemon, as that project's own `mover init` would make it."""
    secret = "mvr_" + new_secret()
    database = await Database.open(Embedded(ward.site.state).start().daemon_dsn, name="test", max_size=1)
    try:
        access = Access(database, project=project, node="demo", own_uid=os.geteuid())
        await access.adopt(secret, wire.TokenRequest(actor="stranger", role="admin"))
    finally:
        await database.close()
    return secret


def ready(client: SyncClient, body: wire.RunRequest, key: str) -> wire.Run:
    run = client.runs.wait(client.runs.request(body, key=key).id, timeout_s=WAIT_S)
    assert run.state == "ready", run.explanation
    return run


# --- projects ---------------------------------------------------------------------------------------------


# what does not exist for an admin
CUSTODIANS = {"/v1/vault"}
# no identity provider is set up here; a token has no account
OTHERS = {"/v1/session/oidc": 404, "/v1/session/tokens": 409} | dict.fromkeys(CUSTODIANS, 404)
# figures of what a query names
OTHERS |= dict.fromkeys((f"/v1/plots/{name}" for name in ("ages", "fill", "ledger", "run", "treemap")), 404)
OTHERS["/v1/plots/distribution"] = 422


def test_another_project_sees_nothing_through_any_route(site: Ward, client: SyncClient) -> None:
    """Every GET of the API document is tried: lists are empty of the first project, its ids are not there."""
    token = asyncio.run(make_token(site, "second"))
    run = ready(client, ALL, "isolation/1")
    ids = known_ids(client, run)
    paths = json.loads(get(site, "/openapi.json", token)[1])["paths"]
    tried = 0
    for path in sorted(p for p, verbs in paths.items() if "get" in verbs):
        parameters = re.findall(r"{(\w+)}", path)
        said = paths[path]["get"].get("parameters", [])
        needed = [one["name"] for one in said if one["in"] == "query" and one.get("required")]
        query = "?" * bool(needed) + "&".join("run={run}" if name == "run" else f"{name}=x" for name in needed)
        parameters += ["run"] * ("run" in needed)
        for value in ids if parameters else [""]:
            status, body = get(site, re.sub(r"{\w+}", value, path + query), token)
            assert status == (404 if parameters else OTHERS.get(path, 200)), (path, status)
            assert not any(known in body for known in ids if known != value), path
            tried += 1
    assert tried > 100


def known_ids(client: SyncClient, run: wire.Run) -> list[str]:
    batches, slides = client.batches.list().batches, client.slides.list(limit=3).slides
    packs = client.batches.packs(batches[0].id, limit=3).packs
    cohort = client.cohorts.save("everything", "size_bytes > 0")
    return [
        run.id, cohort.id, *(b.id for b in batches), *(r.id for r in client.records.list().records),
        *(s.number for s in slides), *(p.id for p in packs),
    ]  # fmt: skip


def get(ward: Ward, path: str, token: str) -> tuple[int, str]:
    request = urllib.request.Request(ward.url + path, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            streamed = answer.headers.get_content_type() == "text/event-stream"  # which has no end
            return answer.status, (answer.read1() if streamed else answer.read()).decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def test_a_scan_that_two_projects_deliver_has_one_number_and_is_granted_to_both(
    site: Ward, client: SyncClient, hospital: generate.Hospital
) -> None:
    """D19: the number belongs to the scan and the site, not to who delivered it first."""
    folder, count = next(iter(hospital.declared.items()))
    minted = site.look("select count(*) as n from vault.number")
    with site.client(asyncio.run(make_token(site, "third"))) as stranger:
        assert stranger.slides.list().slides == []
        batch = stranger.batches.declare(wire.BatchRequest(folder=folder, expected_count=count))
        batch = stranger.batches.wait(batch.id, timeout_s=WAIT_S)
        assert batch.state == "complete" and set(batch.packs) == {"duplicate", "quarantined"}
        theirs = {slide.number for slide in stranger.slides.list(limit=1000).slides}
    mine = {pack.number for pack in client.batches.packs(site.batch_of(folder), state="published").packs}
    assert theirs == mine
    assert site.look("select count(*) as n from vault.number") == minted
    assert len(client.slides.list(limit=1000).slides) > len(theirs)


# --- requests ---------------------------------------------------------------------------------------------


def test_the_same_request_twice_is_one_run_and_another_body_under_its_key_is_refused(client: SyncClient) -> None:
    """Scheduler ids wrap and jobs are requeued: a key stands for one request for ever (D13)."""
    before = len(client.runs.list().runs)
    first = client.runs.request(ALL, key="job/1")
    assert client.runs.request(ALL, key="job/1").id == first.id
    with pytest.raises(Conflict):
        client.runs.request(wire.RunRequest(expression="size_bytes > 1"), key="job/1")
    assert len(client.runs.list().runs) == before + 1


def test_two_requests_at_once_with_one_key_are_one_run(client: SyncClient) -> None:
    """A scheduler's retry may overtake its first try."""
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: client.runs.request(ALL, key="job/2").id, range(4)))
    assert len(set(runs)) == 1


# --- leases, cancelling, finishing ------------------------------------------------------------------------


def test_a_lapsed_lease_leads_to_protection_and_then_to_cleanup(site: Ward, client: SyncClient) -> None:
    """A job that died without a word: its artifacts are kept, its space comes back, nothing is just deleted."""
    run = ready(client, wire.RunRequest(expression="size_bytes > 0", lease_s=60), "lease/1")
    (Path(run.out or "") / "weights.bin").write_bytes(b"the only copy" * 1000)
    site.change("update mover.run set lease_until = now() - interval '1 hour' where id = %s", run.id)
    run = client.runs.wait(run.id, until=frozenset({"cleaned"}), timeout_s=WAIT_S)
    assert (run.state, len(run.snapshots)) == ("cleaned", 1)
    restored = site.site.restored / "lapsed"
    site.restore(client, run.snapshots[0], restored, "/artifacts")
    assert (restored / "weights.bin").read_bytes() == b"the only copy" * 1000


def test_cancelling_a_run_while_it_is_staged_removes_its_partial_root(site: Ward, client: SyncClient) -> None:
    """What was staged of it must not lie around, and the next run is not disturbed."""
    shutil.rmtree(site.flash / ".mover" / "content", ignore_errors=True)  # so that bytes are copied, which takes longer
    for attempt in range(10):
        run = client.runs.request(ALL, key=f"cancel/{attempt}")
        try:
            client.runs.cancel(run.id)
        except IllegalTransition:
            continue        # it was ready sooner than it was cancelled
        run = client.runs.wait(run.id, until=frozenset({"cleaned"}), timeout_s=WAIT_S)
        cleaned = site.look("select state::text, cleaned_proof from mover.run where id = %s", run.id)
        assert cleaned[0].cleaned_proof or run.state == "cancelled"
        break
    else:
        raise AssertionError("every run was ready before it could be cancelled")
    site.quiet()
    assert not (site.flash / "runs" / run.id).exists()
    assert site.look("select state::text from mover.run where id = %s", run.id)[0].state == "cleaned"
    ready(client, ALL, "cancel/after")


@pytest.mark.parametrize("trouble", ["fifo", "unreadable", "outside", "link"])
def test_what_cannot_be_protected_sends_the_run_back_to_ready_with_the_reason(
    site: Ward, client: SyncClient, trouble: str, tmp_path: Path
) -> None:
    """Silently leaving a file out of the snapshot would let cleanup delete its only copy (I5)."""
    with site.client(posix_token(client)) as job, reachable(site.flash):
        run = ready(job, wire.RunRequest(expression="size_bytes > 0"), f"trouble/{trouble}")
        out = Path(run.out or "")
        (out / "good.txt").write_text("good")
        body = make_trouble(trouble, out, tmp_path)
        job.runs.finish(run.id, body)
        run = job.runs.wait(run.id, until=frozenset({"ready", "protected"}), timeout_s=WAIT_S)
        if trouble == "link":
            assert run.state == "protected", run.explanation
            files = {f.path: f for f in job.snapshots.files(run.snapshots[0]).files}
            assert files["/artifacts/link"].type == "symlink" and files["/artifacts/link"].size_bytes < 200
            return
        assert run.state == "ready"
        assert (run.reason, run.explanation) == REFUSED[trouble]
        with pytest.raises(Conflict):
            job.runs.clean(run.id)
        assert (out / "good.txt").read_text() == "good"


@contextmanager
def reachable(place: Path) -> Iterator[None]:
    """A job's user can enter the folders above the flash; pytest keeps its own from everybody else."""
    closed = [p for p in (place, *place.parents) if p.stat().st_uid == os.getuid() and not p.stat().st_mode & 0o001]
    modes = {path: path.stat().st_mode & 0o7777 for path in closed}
    for path, mode in modes.items():
        path.chmod(mode | 0o001)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def posix_token(client: SyncClient) -> str:
    """A job of an ordinary user: paths it names are opened with that user's rights."""
    uid = os.getuid() or 65534
    made = client.tokens.make(wire.TokenRequest(actor="job", role="operator", posix_uid=uid, posix_gid=uid))
    assert made.secret is not None
    return made.secret


def make_trouble(trouble: str, out: Path, elsewhere: Path) -> wire.FinishRequest | None:
    if trouble == "fifo":
        os.mkfifo(out / "pipe")
        return wire.FinishRequest(artifacts=[str(out), str(out / "pipe")])
    if trouble == "unreadable":
        (out / "secret").write_text("nobody's")
        (out / "secret").chmod(0)
        return wire.FinishRequest(artifacts=[str(out)])
    if trouble == "outside":
        (elsewhere / "weights").write_text("elsewhere")
        return wire.FinishRequest(artifacts=[str(elsewhere / "weights")])
    (elsewhere / "shadow").write_text("a secret of the machine" * 100)
    (out / "link").symlink_to(elsewhere / "shadow")
    return None


# --- space ------------------------------------------------------------------------------------------------


def test_runs_beyond_the_flash_wait_until_there_is_room(settled: Ward) -> None:
    """Two runs requested at once never promise the same bytes twice; the second begins when the first is gone."""
    slides = settled.look("select number, size_bytes from mover.slide order by number")
    half = len(slides) // 2
    lists = [[s.number for s in slides[:half]], [s.number for s in slides[half:]]]
    sizes = [sum(s.size_bytes for s in slides[:half]), sum(s.size_bytes for s in slides[half:])]
    capacity = max(sizes) + min(sizes) // 2
    settled.change_settings(lambda s: s["tiers"]["flash"].update(capacity_bytes=capacity))
    with settled.start() as client, ThreadPoolExecutor(2) as pool:
        asked = list(
            pool.map(lambda n: client.runs.request(wire.RunRequest(files=lists[n]), key=f"space/{n}"), range(2))
        )
        promised = settled.look("select mover.tier_reserved('flash') as bytes")[0].bytes
        assert 0 < promised <= capacity
        first, second = sorted((client.runs.view(run.id) for run in asked), key=lambda run: run.state == "requested")
        assert second.state == "requested" and second.explanation
        first = client.runs.wait(first.id, timeout_s=WAIT_S)
        assert client.runs.view(second.id).state == "requested"
        end(client, first)
        second = client.runs.wait(second.id, timeout_s=WAIT_S)
        assert second.state == "ready"
        assert settled.look("select mover.tier_reserved('flash') as bytes")[0].bytes <= capacity


def end(client: SyncClient, run: wire.Run) -> None:
    (Path(run.out or "") / "done").write_text("done")
    client.runs.finish(run.id)
    assert client.runs.wait(run.id, until=frozenset({"protected"}), timeout_s=WAIT_S).state == "protected"
    client.runs.clean(run.id)
    assert client.runs.wait(run.id, until=frozenset({"cleaned"}), timeout_s=WAIT_S).state == "cleaned"

