"""Makes the fixture of a landed state: `python -m tests.upgrade.make DEMO FIXTURE`.

DEMO is the folder that `mover demo --root DEMO --scale 0.05 --linger 0` of that state's own software left behind. Its
daemon is started once more: for the audit pack of the run that was cleaned, for a second checkpoint of the audit, and
for a sealed dump with the pair of key files that opens it. What else goes in: a plain dump of the catalog and the
vault, the vault's key, what a sealed run root says of itself, every sidecar of the archive, and a small snapshot
repository. No slide: the fixtures must stay small.
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

import msgspec
import yaml
import zstandard
from obstore.store import S3Store

from mover import signing
from mover.catalog.postgres import Embedded
from mover.clock import pause
from mover.demo import seaweed
from mover.demo.site import BUCKET, Site
from mover.model import wire
from mover.repository.facts import Disk, Folder
from mover.repository.repository import create_repository
from mover.tiers import identity
from mover.tiers.posix import PosixTier

PASSWORD = b"a fixture's"
SEALED = ("RUN.json", "manifest.jsonl", "records.parquet")
SCHEMAS = ("mover", "vault", "mover_meta", "queue")


def main(demo: Path, fixture: Path) -> None:
    files = given(Site(demo))
    files |= {"catalog.sql": catalog(demo / "state"), "vault.key": (demo / "state" / "vault.key").read_bytes()}
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


def given(site: Site) -> dict[str, bytes]:
    """What the state's own daemon gives to who asks, and what it writes to tiers."""
    server = seaweed.start(site.bucket, bucket=BUCKET, fresh=False)
    try:
        settings = yaml.safe_load(site.config.read_text())
        settings["tiers"]["archive"]["endpoint"] = server.endpoint
        site.config.write_text(yaml.safe_dump(settings))
        (site.policies / "dump.yaml").write_text("kind: dump\nname: dump\nto: [protect, archive]\n")
        (site.policies / "audit.yaml").write_text("kind: audit\nname: audit\nto: [protect]\nevery_s: 10\n")
        pair = {one: site.state / one for one in ("a", "b")}
        words = ["--config", str(site.config), "vault", "keys", "new", "--a", str(pair["a"]), "--b", str(pair["b"])]
        subprocess.run([sys.executable, "-m", "mover", *words], check=True)
        files = asked(site, site.start_daemon())
    finally:
        site.stop_services()
    protect = Path(settings["tiers"]["protect"]["path"])
    written = [protect / ".mover/tier.json", *protect.glob("dumps/**/*"), *protect.glob(".mover/audit/**/*")]
    files |= {f"protect/{one.relative_to(protect)}": one.read_bytes() for one in written if one.is_file()}
    fingerprint = signing.public_fingerprint(signing.load_key(site.state / "audit.key"))
    return files | {f"pair/{one}": path.read_bytes() for one, path in pair.items()} | {"signer": fingerprint.encode()}


def asked(site: Site, url: str) -> dict[str, bytes]:
    run = Path(msgspec.json.decode(site.report.read_bytes())["run_roots"][0]).name
    pack = bytearray()
    with site.client(url) as admin:
        made = admin.dumps.wait(admin.dumps.make(wire.DumpRequest()).id, timeout_s=600)
        assert made.state == "verified", made
        while len(admin.audit.checkpoints().checkpoints) < 2:
            pause(1)
        admin.audit.pack(run, pack.extend)
    return {"run.audit": bytes(pack)}


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
        (out / "model.pt").write_bytes(random.Random(3).randbytes(4_000))
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
