"""P18: pages of a hospital of a hundred thousand slides, in a browser beside the daemon: when something is painted, and
when what the page tells is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser

from bench import hospital, results
from bench.context import Context, rounded
from bench.places import demand_room
from bench.results import Claim
from mover.catalog.postgres import Embedded
from mover.clock import monotonic_s
from mover.demo import seaweed
from mover.demo.places import Place, Places
from mover.demo.site import Site
from mover.sdk import SyncClient
from tests.web.browser import chromium, seen

ASKED_S = 1.0
BYTES_PER_SLIDE = 15_000  # rows, their indexes and the log
PATHS = (
    "/", "/batches", "/quarantine", "/slides", "/records", "/cohorts", "/runs", "/snapshots", "/policies", "/tiers",
    "/tiers/archive?tab=usage&folder=older/", "/jobs", "/alarms", "/batches/{batch}", "/records/{records}",
    "/runs/{run}",
)  # fmt: skip
PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"

Seconds = dict[str, list[float]]


def pages(context: Context) -> None:
    slides, load_before = context.sizes.page_slides, os.getloadavg()[0]
    demand_room(context.root, slides * BYTES_PER_SLIDE, what="a catalog of slides")
    with _site(context.root / "site-p18") as (site, url):
        context.told(f"P18: making {slides} slides")
        scale = hospital.Scale(slides, some=min(400, slides // 10), thousands=min(4000, slides // 10))
        hospital.fill(Embedded(site.state).start().superuser_dsn, "demo", scale)
        paths = _paths(site.client(url))
        with chromium() as browser:
            painted, whole = _visits(browser, url, site.token.read_text().strip(), paths, context.sizes.rounds)
    for path in paths:
        context.told(f"P18: {path}: {median(painted[path]):.2f} s, whole {median(whole[path]):.2f} s")
    of = f"the slowest of {len(paths)} pages of a hospital of {slides} slides"
    _claim(context, "P18", f"first paint of {of}", painted, load_before)
    _claim(context, "P18-whole", f"what there is to tell on {of}", whole, load_before)


@contextmanager
def _site(root: Path) -> Iterator[tuple[Site, str]]:
    """A daemon with empty folders for tiers, and a bucket that nothing is in."""
    site = Site(root)
    server = seaweed.start(root / "bucket")
    try:
        site.write(Places(str(root), *(_place(name, root / name) for name in ("source", "flash", "protect"))), server)
        yield site, site.start_daemon()
    finally:
        site.stop_daemon()
        seaweed.stop(server)


def _place(name: str, path: Path) -> Place:
    path.mkdir(parents=True)
    return Place(name, str(path), "folder", name == "source", False, "a plain folder")


def _paths(client: SyncClient) -> list[str]:
    """The run is the one with the most files."""
    run = max(client.runs.list(limit=200).runs, key=lambda one: one.count)
    known = {
        "batch": client.batches.list().batches[-1].id, "records": client.records.list().records[-1].id, "run": run.id,
    }  # fmt: skip
    return [path.format(**known) for path in PATHS]


def _visits(browser: Browser, url: str, token: str, paths: list[str], rounds: int) -> tuple[Seconds, Seconds]:
    """A new browser each round: nothing of a page is kept from the one before but what the daemon knows."""
    painted: Seconds = {path: [] for path in paths}
    whole: Seconds = {path: [] for path in paths}
    for _ in range(rounds):
        for path in paths:
            with seen(browser, url) as one:
                one.sign_in(token)
                began = monotonic_s()
                one.page.goto(f"{url}/ui{path}")
                one.settled()
                whole[path].append(rounded(monotonic_s() - began))
                painted[path].append(rounded(one.page.evaluate(PAINTED) / 1000))
                if one.complaints:
                    raise SystemExit(f"{path}: {one.complaints[0]}")
    return painted, whole


def _claim(context: Context, id: str, work: str, seconds: Seconds, load: float) -> None:
    slowest = max(seconds, key=lambda path: median(seconds[path]))
    ratio = median(seconds[slowest]) / ASKED_S
    context.claim(
        Claim(
            id=id, work=work, unit="s", ours=rounded(median(seconds[slowest])), peers={}, limit=ASKED_S,
            limit_name="asked for", ratio=rounded(ratio), against="asked for", goal=1.0,
            met=results.judge(ratio, 1.0, "lower"), better="lower",
            condition="Chromium on loopback, a new window for each visit, signed in",
            # ids of the rows would differ each time
            rounds={path.partition("-01")[0]: found for path, found in seconds.items()},
            stamp=results.stamp(load_before=load),
        )
    )  # fmt: skip
