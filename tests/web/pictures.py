"""Pictures of every page for `docs/ui/`: `python -m tests.web.pictures [PAGE...]`.

Tells the demo's story on a small hospital, so that they show what a person sees and not what a test left. Each page is
taken light, dark and narrow, and kept small: 256 colours are enough for ink on paper.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import psycopg
from PIL import Image
from playwright.sync_api import Page, expect

from bench.hospital import Scale, fill
from mover.catalog.postgres import Embedded
from mover.demo import story
from mover.demo.site import Site
from mover.sdk import SyncClient
from tests.web.browser import Theme, chromium, seen

TO = Path(__file__).parents[2] / "docs" / "ui"
COLOURS = 256
BYTES_MAX = 150_000
SCALE = 0.05
LOOKS: tuple[tuple[str, Theme, bool], ...] = (
    ("light", "light", False),
    ("dark", "dark", False),
    ("narrow", "light", True),
)


class Shot(NamedTuple):
    """`path` below /ui, with ids by `{noun}`; `press` is what is pressed first; `role`: whose token."""

    name: str
    path: str
    press: str = ""
    role: str = "operator"


# a line for each picture: pages add theirs here
SHOTS = (
    Shot("overview", "/"),
    Shot("batches", "/batches"),
    Shot("batch", "/batches/{batch}"),
    Shot("quarantine", "/quarantine"),
    Shot("quarantine-cause", "/quarantine/{cause}"),
    Shot("slides", "/slides"),
    Shot("slide", "/slides/{slide}"),
    Shot("slide-picture", "/slides/{slide}?see=picture"),
    Shot("tags", "/tags"),
    Shot("records", "/records/{records}"),
    Shot("cohorts", "/cohorts?expression=gleason%20%3E%3D%206"),
    Shot("cohort", "/cohorts/high-grade-prostate@1?view=explain"),
    Shot("runs", "/runs"),
    Shot("run", "/runs/{cleaned}"),
    Shot("run-finish", "/runs/{ready}", press="Finish"),
    Shot("snapshots", "/snapshots"),
    Shot("snapshot", "/snapshots/{snapshot}"),
    Shot("snapshot-hold", "/snapshots/{snapshot}", press="Hold"),
    Shot("snapshots-retention", "/snapshots?view=retention"),
    Shot("restore", "/restores/{restore}"),
    Shot("policies", "/policies", role="admin"),
    Shot("policy", "/policies/protect", role="admin"),
    Shot("policy-yaml", "/policies/stage?view=yaml", role="admin"),
    Shot("policy-remove", "/policies/verify", press="Remove", role="admin"),
    Shot("tiers", "/tiers"),
    Shot("tier-usage", "/tiers/archive?tab=usage&folder=slides/"),
    Shot("jobs", "/jobs"),
    Shot("audit", "/audit?action=run", role="admin"),
    Shot("audit-chain", "/audit?tab=chain", role="admin"),
    Shot("audit-questions", "/audit?tab=questions&question=clean&about={slide}", role="admin"),
    Shot("audit-take", "/audit?tab=take", role="admin"),
    Shot("alarms", "/alarms"),
    Shot("people", "/people?tab=tokens", role="admin"),
    Shot("you", "/you"),
)

# and of a hospital of a hundred thousand slides
LARGE = (
    Shot("large-overview", "/"),
    Shot("large-batches", "/batches"),
    Shot("large-quarantine", "/quarantine"),
    Shot("large-slides", "/slides?state=withdrawn"),
    Shot("large-cohorts", "/cohorts?expression=diagnosis%20%3D%20%27PRAD%27%20and%20gleason%20%3E%3D%207"),
    Shot("large-runs", "/runs"),
    Shot("large-snapshots", "/snapshots"),
    Shot("large-usage", "/tiers/archive?tab=usage&folder=older/"),
    Shot("large-cold", "/tiers/archive?tab=cold&older=30"),
    Shot("large-jobs", "/jobs"),
)


def ids(client: SyncClient) -> dict[str, str]:
    """What the story left, by a word for each."""
    known = {run.state: run.id for run in client.runs.list().runs}
    known["batch"] = client.batches.list().batches[-1].id
    known["cause"] = next(one.id for one in client.quarantine.list().causes if one.offers[0].standing)
    known["slide"] = next(one.number for one in client.slides.list().slides if one.family.startswith("aperio"))
    known["records"] = client.records.list().records[-1].id
    known["snapshot"] = client.snapshots.list().snapshots[0].id
    known["restore"] = client.restores.list().restores[0].id
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", help="names of pictures; all of them by default")
    parser.add_argument(
        "--root", type=Path, help="a demo that was told already; default: a fresh one, removed afterwards"
    )
    said = parser.parse_args()
    if said.root is not None:
        take_all(Site(said.root), said.pages)
        return
    with tempfile.TemporaryDirectory(prefix="mover-ui-") as folder:
        root = Path(folder) / "demo"
        try:
            story.main(root, serve=True, scale=SCALE)
            take_all(Site(root), said.pages)
        finally:
            story.remove_all(Site(root))


def take_all(site: Site, pages: list[str]) -> None:
    """The small ones first: a hospital does not shrink."""
    take(site, [shot for shot in SHOTS if not pages or shot.name in pages])
    large = [shot for shot in LARGE if not pages or shot.name in pages]
    if large:
        grow(site)
        take(site, large)


def grow(site: Site) -> None:
    dsn = Embedded(site.state).start().superuser_dsn
    with psycopg.connect(dsn) as conn:
        [(slides,)] = conn.execute("select count(*) from mover.slide").fetchall()
    if slides < 1000:
        fill(dsn, "demo", Scale(100_000))


def take(site: Site, shots: list[Shot]) -> None:
    url = site.running_url()
    assert url is not None, "no daemon runs there"
    tokens = {"operator": site.operator.read_text().strip(), "admin": site.token.read_text().strip()}
    with site.client(url) as client:
        known = ids(client)
    TO.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for (look, theme, narrow), role in product(LOOKS, tokens):
            with seen(browser, url, theme=theme, narrow=narrow, checkout=True) as one:
                one.sign_in(tokens[role])
                for shot in (shot for shot in shots if shot.role == role):
                    one.go(shot.path.format(**known))
                    one.settled()
                    save(TO / f"{shot.name}-{look}.png", picture(one.page, shot))
                    assert one.complaints == [], (shot.name, one.complaints)


def picture(page: Page, shot: Shot) -> bytes:
    if shot.press:
        page.get_by_role("button", name=shot.press, exact=True).first.click()
        page.get_by_role("dialog").wait_for()
        expect(page.locator(".skeleton")).to_have_count(0)
    page.mouse.move(0, 0)  # nothing is lit because it was pressed where the sign-in's button stood
    page.wait_for_timeout(1200)  # plots are drawn after their numbers came
    taken = page.screenshot(full_page=not shot.press)
    if shot.press:
        page.keyboard.press("Escape")
    return taken


def save(path: Path, taken: bytes, *, told: Callable[[str], object] = print) -> None:
    image = Image.open(io.BytesIO(taken)).convert("RGB")
    small = image.quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    told(f"{path.name}: {path.stat().st_size // 1000} kB")
    assert path.stat().st_size <= BYTES_MAX, path.name


if __name__ == "__main__":
    main()
