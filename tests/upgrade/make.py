"""Makes the fixture of a landed state: `python -m tests.upgrade.make DEMO FIXTURE`.

DEMO is the folder that `mover demo --root DEMO --scale 0.05 --linger 0` of that state's own software left behind. What
goes in: a plain dump of the catalog and the vault, the vault's key, what a sealed run root says of itself, every
sidecar of the archive, and a small snapshot repository. No slide: the fixtures must stay small.
"""

from __future__ import annotations

import io
import random
import subprocess
import sys
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import zstandard
from obstore.store import S3Store

from mover.catalog.postgres import Embedded
from mover.demo import seaweed
from mover.repository.facts import Disk, Folder
from mover.repository.repository import create_repository
from mover.tiers import identity
from mover.tiers.posix import PosixTier

PASSWORD = b"a fixture's"
SEALED = ("RUN.json", "manifest.jsonl", "records.parquet")
SCHEMAS = ("mover", "vault", "mover_meta", "queue")


def main(demo: Path, fixture: Path) -> None:
    files = {"catalog.sql": catalog(demo / "state"), "vault.key": (demo / "state" / "vault.key").read_bytes()}
    for root in sorted((demo / "places/flash/runs").glob("run-*")):
        files |= {f"runs/{root.name}/{name}": (root / name).read_bytes() for name in SEALED if (root / name).exists()}
    files |= {f"archive/{key}": body for key, body in sidecars(demo / "bucket").items()}
    files |= repository()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, body in sorted(files.items()):
            one = tarfile.TarInfo(name)
            one.size = len(body)
            tar.addfile(one, io.BytesIO(body))
    fixture.write_bytes(zstandard.ZstdCompressor(level=19).compress(packed.getvalue()))


def catalog(state: Path) -> bytes:
    embedded = Embedded(state)
    server = embedded.start()
    try:
        words = [f"--schema={schema}" for schema in SCHEMAS]
        command = [str(server.bin_dir / "pg_dump"), *words, "--dbname", server.superuser_dsn]
        return subprocess.run(command, capture_output=True, check=True).stdout
    finally:
        embedded.stop()


def sidecars(bucket: Path) -> dict[str, bytes]:
    server = seaweed.start(bucket, bucket="archive", fresh=False)
    try:
        keys = seaweed.load_credentials(bucket / "credentials.json")
        store = S3Store(
            "archive", endpoint=server.endpoint, region="us-east-1", access_key_id=keys.access_key_id,
            secret_access_key=keys.secret_access_key, client_options={"allow_http": True},
        )  # fmt: skip
        listed: list[Any] = [one for page in store.list() for one in page]
        names = [one["path"] for one in listed if one["path"].endswith(".json")]
        return {name: bytes(store.get(name).bytes()) for name in names}
    finally:
        seaweed.stop(server)


def repository() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        out, place = Path(scratch) / "out", Path(scratch) / "tier"
        (out / "logs").mkdir(parents=True)
        place.mkdir()
        (out / "model.pt").write_bytes(random.Random(3).randbytes(60_000))
        (out / "logs" / "a.log").write_text("step\n" * 500)
        tier = PosixTier("protect", "deidentified", place)
        identity.establish(place, name="protect", zone="deidentified")
        made = create_repository(tier, PASSWORD, prefix="repository")
        made.snapshot(
            Folder({"artifacts": Disk(out)}), hostname="node1", username="trainer", tags=["run=r1"],
            time=datetime(2026, 11, 22, 12, tzinfo=UTC), paths=["/artifacts"],
        )  # fmt: skip
        return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
