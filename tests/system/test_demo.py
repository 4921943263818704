"""The main job as a person runs it: the installed command, from an empty folder to a report.

A first run is killed -9 in the middle, then a second must end well, and what it left is looked at with other people's
tools: OpenSlide, restic, pg_dump. In the soak a third follows it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import openslide
import pytest

from mover.catalog.postgres import Embedded, find_binaries
from mover.demo import planted, seaweed
from mover.demo.site import BUCKET, Site
from mover.tiers.object import ObjectTier

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]

SCALE = "0.02"
RUN_S = 1800.0
STEPS = ("images", "records", "stage", "protect", "clean")


def command(root: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "mover", "demo", "--root", str(root), *more]


def tell(root: Path) -> dict[str, Any]:
    done = subprocess.run(
        command(root, "--scale", SCALE, "--linger", "0"), capture_output=True, text=True, timeout=RUN_S, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report: dict[str, Any] = msgspec.json.decode((root / "report.json").read_bytes())
    return report


def kill_in_the_middle(root: Path) -> None:
    """SIGKILL to the story alone, while slides are being published; its daemon and bucket are left behind."""
    with open(root.with_suffix(".log"), "wb") as log:
        story = subprocess.Popen(command(root, "--scale", SCALE, "--linger", "0"), stdout=log, stderr=log)
    deadline = time.monotonic() + RUN_S
    while not _publishing(root):
        assert story.poll() is None and time.monotonic() < deadline, root.with_suffix(".log").read_text()[-2000:]
        time.sleep(0.05)
    story.send_signal(signal.SIGKILL)
    story.wait()


def _publishing(root: Path) -> bool:
    log = root / "daemon.log"
    return log.exists() and b'"pack published"' in log.read_bytes()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("demo") / "site"
    yield root
    subprocess.run(command(root, "--remove"), timeout=RUN_S, check=True, capture_output=True)
    assert not root.exists()


@pytest.fixture(scope="module")
def report(root: Path) -> dict[str, Any]:
    """Of a whole run, after a first that was killed."""
    kill_in_the_middle(root)
    return tell(root)


def test_the_report_holds_counts_bytes_seconds_proofs_and_refused_things_of_each_step(report: dict[str, Any]) -> None:
    """Whoever judges the main job reads this file and nothing else."""
    for name in STEPS:
        step = report["steps"][name]
        assert {"counts", "bytes", "seconds", "proofs", "refused"} <= set(step)
        assert step["proofs"] and step["refused"] and step["seconds"] >= 0, name
        assert all(proof["root"] and proof["count"] >= 0 for proof in step["proofs"])
    assert {"api_url", "repository", "bucket", "run_roots", "planted"} <= set(report)


def test_nothing_is_left_running_when_nothing_shall_linger(root: Path, report: dict[str, Any]) -> None:
    """Tests and schedulers must find the machine as it was, the killed run's daemon and bucket gone too."""
    site = Site(root)
    assert site.running_url() is None
    assert not seaweed.stop_leftover(site.bucket)


def test_no_planted_identifier_is_outside_the_identified_zone(root: Path, report: dict[str, Any]) -> None:
    """Bucket, flash, log, the ordinary schema, and even the vault as a superuser dumps it."""
    known = planted.load(Path(report["planted"]))
    assert len(known) > 100
    flash = Path(report["run_roots"][-1]).parents[1]
    with bucket(root) as archive:
        objects = [piece for e in archive.list("") for piece in (e.key.encode(), archive.read(e.key))]
    assert len(objects) > 20
    for what, targets in {
        "bucket": objects, "flash": [flash], "log": [root / "daemon.log", root / "report.json"], "dump": dumps(root)
    }.items():  # fmt: skip
        hits = planted.search_everything(targets, known)
        assert not hits, (what, [(hit.kind, hit.form, hit.where, hit.offset) for hit in hits[:3]])


def dumps(root: Path) -> list[bytes]:
    """Both schemas as the superuser sees them; each must hold something, or the search proves nothing."""
    embedded = Embedded(Site(root).state)
    dsn = embedded.start().superuser_dsn
    try:
        made = [
            subprocess.run(
                [str(find_binaries() / "pg_dump"), f"--schema={schema}", "--dbname", dsn],
                capture_output=True, check=True,
            ).stdout
            for schema in ("mover", "vault", "queue")
        ]  # fmt: skip
    finally:
        embedded.stop()
    assert b"slides/" in made[0] and made[1].count(b"\n") > 100
    return made


def test_stock_restic_reads_every_byte_of_the_repository(report: dict[str, Any]) -> None:
    """The promise to who restores in ten years: no software of ours is needed."""
    if shutil.which("restic") is None:
        pytest.skip("needs Debian package: restic")
    where = report["repository"]
    base = ["restic", "-r", where["path"], "--password-file", where["password_file"], "--no-cache", "--no-lock"]
    done = subprocess.run([*base, "check", "--read-data"], capture_output=True, text=True, check=False, timeout=RUN_S)
    assert done.returncode == 0 and "no errors were found" in done.stdout, done.stderr


def test_openslide_opens_every_slide_of_the_bucket_and_finds_no_label_and_no_macro(
    root: Path, report: dict[str, Any], tmp_path: Path
) -> None:
    with bucket(root) as archive:
        keys = [e.key for e in archive.list("slides") if e.key.endswith((".svs", ".ndpi"))]
        assert len(keys) == report["steps"]["images"]["counts"]["slides"] > 0
        for key in keys:
            local = tmp_path / os.path.basename(key)
            local.write_bytes(archive.read(key))
            with openslide.OpenSlide(local) as slide:
                assert not {"label", "macro"} & {name.lower() for name in slide.associated_images}
                slide.read_region((0, 0), slide.level_count - 1, (64, 64))
            local.unlink()


@pytest.mark.soak
def test_another_run_finds_the_whole_site_of_the_last_and_counts_the_same(root: Path, report: dict[str, Any]) -> None:
    """The last of this file: it makes everything anew."""
    again = tell(root)
    assert again["steps"]["images"]["counts"] == report["steps"]["images"]["counts"]


@contextmanager
def bucket(root: Path) -> Iterator[ObjectTier]:
    """What the demo left on disk, served once more."""
    server = seaweed.start(Site(root).bucket, bucket=BUCKET, fresh=False)
    try:
        yield ObjectTier(
            "archive", "deidentified", url=f"s3://{server.bucket}", endpoint=server.endpoint, region=server.region,
            credentials_file=server.credentials_file,
        )  # fmt: skip
    finally:
        seaweed.stop(server)
