"""What the walks find: a cohort, a run that is ready, one that ended cleaned, one that was refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from mover.errors import RunRefused
from mover.model import wire
from mover.sdk import SyncClient

WAIT_S = 300.0


class Runs(Struct, frozen=True):
    ready: str
    cleaned: str
    refused: str


class House(Struct, frozen=True):
    url: str
    tokens: dict[str, str]  # by role; `second`: an admin who is another person
    runs: Runs
    policies: Path
    change: Callable[..., None]  # what no API allows, by the database's superuser
    places: dict[str, str]  # an address of each page that is about one thing


def play(client: SyncClient) -> Runs:
    """Through the API only; the story of the demo, told fast."""
    client.cohorts.save("all-slides", "scanned_year >= 1900")
    scans = [client.scans.declare(wire.ScanRequest(tier=tier)) for tier in ("intake", "archive")]
    assert all(client.scans.wait(scan.id, timeout_s=WAIT_S).state == "complete" for scan in scans)
    return Runs(ready=_ready(client, "2"), cleaned=_cleaned(client), refused=_refused(client))


def places(client: SyncClient) -> dict[str, str]:
    """By the page's path, as `pages/table.js` writes it: the newest of each noun."""
    runs, kept = client.runs.list().runs, client.snapshots.list().snapshots
    restores, expression = client.restores.list().restores, "scanned_year >= 1900"
    cohort = client.cohorts.save(f"frozen-{len(runs)}", expression)
    known = {
        "/batches/{id}": client.batches.list().batches[0].id,
        "/quarantine/{cause}": client.quarantine.list().causes[0].id,
        "/slides/{number}": client.slides.list(state="aligned").slides[0].number,
        "/records/{id}": client.records.list().records[0].id,
        "/cohorts/{cohort}": f"{cohort.name}@{cohort.version}",
        "/selections/{id}": client.cohorts.freeze(cohort.id).id,
        "/runs/{id}": runs[0].id,
        "/snapshots/{id}": kept[0].id,
        "/restores/{restore}": restores[0].id,
        "/policies/{name}": "stage",
        "/tiers/{name}": "archive",
    }
    return {path: path[: path.index("{")] + one for path, one in known.items()}


def _ready(client: SyncClient, job: str) -> str:
    run = client.runs.request(wire.RunRequest(cohort="all-slides"), key=f"web/{job}/2026-11-22T08:00:00Z/0")
    assert client.runs.wait(run.id, timeout_s=WAIT_S).state == "ready"
    return run.id


def _cleaned(client: SyncClient) -> str:
    run = client.runs.view(_ready(client, "1"))
    assert run.out is not None
    (Path(run.out) / "model.pt").write_bytes(b"weights " * 4096)
    client.runs.finish(run.id, wire.FinishRequest(exit=0))
    assert client.runs.wait(run.id, until=frozenset({"protected"}), timeout_s=WAIT_S).state == "protected"
    client.runs.clean(run.id)
    assert client.runs.wait(run.id, until=frozenset({"cleaned"}), timeout_s=WAIT_S).state == "cleaned"
    return run.id


def _refused(client: SyncClient) -> str:
    known = client.slides.list(limit=1).slides[0].number
    try:
        client.runs.request(wire.RunRequest(files=[known, "no-such-slide"]), key="web/0/2026-11-22T07:00:00Z/0")
    except RunRefused as refusal:
        return refusal.where
    raise AssertionError("a list with an unknown name was not refused")
