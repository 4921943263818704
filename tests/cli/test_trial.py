"""`mover doctor --try`: real bytes on a real folder and a real bucket, and what is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mover.cli import doctor, machine, trial
from mover.cli.probes import make_tier
from mover.demo.seaweed import Seaweed
from mover.settings import load
from mover.tiers import identity
from mover.tiers.posix import PosixTier
from mover.tiers.wrappers import Fault, FaultyTier
from tests.cli.conftest import Said
from tests.support.seaweed import locked_bucket

Mover = Callable[..., Said]


@pytest.fixture
def site(tmp_path: Path, weed: Seaweed) -> Path:
    """Settings over a folder, a bucket and a source, as `mover init` would leave them."""
    for name in ("flash", "intake", "state"):
        (tmp_path / name).mkdir()
    (tmp_path / "intake" / "Meier_Anna.svs").write_bytes(os.urandom(100_000))
    identity.establish(tmp_path / "flash", name="flash", zone="deidentified")
    file = tmp_path / "mover.yaml"
    file.write_text(f"""\
version: 1
site: s1
project: demo
state_dir: state
tiers:
  intake: {{kind: posix, zone: identified, role: source, path: intake, read_only: true}}
  flash: {{kind: posix, zone: deidentified, role: flash, path: flash, deletes: false}}
  archive: {{kind: object, zone: deidentified, role: archive, url: "s3://{weed.bucket}/{tmp_path.name}",
             endpoint: "{weed.endpoint}", region: {weed.region}, credentials_file: "{weed.credentials_file}",
             deletes: false}}
""")
    archive = make_tier(load(file).tiers["archive"])
    archive.establish()  # type: ignore[union-attr]
    return file


def standing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (status.st_mtime_ns, status.st_size)
        for path in sorted([folder, *folder.rglob("*")])
        for status in [path.stat()]
    }


def told(said: Said) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(said.out)["findings"]
    return found


def words(findings: Any) -> str:
    return "\n".join(f"{one.verdict} {one.what}" for one in findings)


@pytest.mark.slow
def test_each_kind_of_tier_is_tried_for_real_and_nothing_is_left(mover: Mover, site: Path) -> None:
    """The first hour ends with knowing what the disks do, not with hoping; a plan says before what will happen."""
    before = standing(site.parent / "intake")
    planned = mover("doctor", "--try", "flash", "--try", "intake", "--fill", "40MB", "--plan")
    assert planned.status == 0 and "fill" in planned.out and not list((site.parent / "flash/.mover").glob("try-*"))

    said = mover("doctor", "--try", "intake", "--try", "flash", "--try", "archive", "--fill", "40MB", "--json")
    assert said.status == 0, said.out
    by: dict[str, str] = {}
    for one in told(said):
        assert one["verdict"] == "good" or one["remedy"]
        by[one["about"]] = by.get(one["about"], "") + one["what"] + "\n"
    for word in ("digests equal", "MB/s", "all listed", "taken name is refused", "held lock", "names keep case",
                 "filled: 38.1 MiB written", "scratch folder is gone"):  # fmt: skip
        assert word in by["try flash"], word
    for word in ("in parts", "digests equal", "all listed", "taken name is refused", "ranges", "aborted upload",
                 "scratch objects are gone"):  # fmt: skip
        assert word in by["try archive"], word
    assert "1 files read twice" in by["try intake"] and "nothing was written" in by["try intake"]
    assert "Meier" not in said.out  # I2: a file name of the source is an identifier

    assert standing(site.parent / "intake") == before
    assert [path.name for path in (site.parent / "flash/.mover").iterdir()] == ["tier.json"]
    archive = make_tier(load(site).tiers["archive"])
    assert [entry.key for entry in archive.list(".mover")] == [".mover/tier.json"]


def test_a_killed_trial_leaves_its_scratch_and_the_next_one_removes_it(site: Path) -> None:
    """Killed in the middle of its writes; while it lives nobody takes its scratch for a leftover."""
    flash, home = load(site).tiers["flash"], site.parent / "flash" / ".mover"
    killed = subprocess.Popen(
        [sys.executable, "-m", "mover", "doctor", "--try", "flash", "--fill", "2GiB"],
        cwd=site.parent, stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(trial.__file__).parents[2])},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not list(home.glob("try-*/small")) and time.monotonic() < deadline and killed.poll() is None:
            time.sleep(0.01)
        assert "another trial" in words(trial.tried(flash))
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    [left] = home.glob("try-*")
    assert left.is_dir()
    with PosixTier("flash", "deidentified", site.parent / "flash").opened() as root:
        folder = os.open(".mover", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
        with trial._scratch_folder(folder, "flash") as (name, _, removed):
            assert removed == 1 and [path.name for path in home.glob("try-*")] == [name]
        os.close(folder)
    assert [path.name for path in home.iterdir()] == ["tier.json"]


def test_what_a_tier_gets_wrong_is_found(site: Path) -> None:
    """A trial that cannot fail proves nothing: a quota in mid-file, a flipped byte, a listing that lags."""
    root = site.parent / "flash"
    bare = PosixTier("flash", "deidentified", root)
    quota = FaultyTier(bare, [Fault("write", "full", at=20 << 20)])
    quota.root = root  # type: ignore[attr-defined]
    said = trial.fill(quota, ".mover/try-a", "flash", 40 << 20)
    assert said.verdict == "good" and "said in time that it is full" in said.what
    flipped = FaultyTier(bare, [Fault("stream", "flip", at=1000)])
    assert trial._large(flipped, ".mover/try-b", "flash", how="").verdict == "bad"
    assert "bad" in trial._small(FaultyTier(bare, [Fault("stream", "flip", nth=7)]), ".mover/try-c", "flash").verdict

    class Replacing(FaultyTier):
        def put(self, key: str, chunks: Any, *, size_bytes: int | None = None) -> None:
            (root / key).write_bytes(b"".join(chunks))

    trial._small(bare, ".mover/try-d", "flash")
    assert trial._not_replaced(Replacing(bare, []), ".mover/try-d", "flash").verdict == "bad"


@pytest.mark.slow
def test_a_bucket_that_locks_gets_a_few_bytes_and_no_more(site: Path, weed: Seaweed) -> None:
    """What is put there stays for years: a trial of 64 MiB a week would be paid for."""
    locked = locked_bucket(weed)
    site.write_text(site.read_text().replace(f"s3://{weed.bucket}/", f"s3://{locked.bucket}/"))
    archive = make_tier(load(site).tiers["archive"])
    archive.establish()  # type: ignore[union-attr]
    said = words(trial.tried(load(site).tiers["archive"]))
    assert "locks what is put" in said, said
    assert sum(entry.fingerprint.size_bytes for entry in archive.list(".mover") if "try-" in entry.key) == 6


def test_the_machine_is_looked_at_too(mover: Mover, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates that end, limits, room, the store's clock: what stops a site at night, said in daylight."""
    key, certificate = site.parent / "tls.key", site.parent / "tls.crt"
    short_lived(key, certificate, days=3)
    site.write_text(site.read_text() + "listen: {tcp: 'localhost:8620', tls: {certificate: tls.crt, key: tls.key}}\n")
    settings = load(site)
    found = list(machine.certificates(settings))
    assert [one.verdict for one in found] == ["warn"] and "in 2 days" in found[0].what
    short_lived(key, site.parent / "other.crt", days=90)  # another pair's key
    assert "bad it is not the certificate's" in words(machine.certificates(settings))
    certificate.write_text("no certificate")
    assert "bad" in words(machine.certificates(settings))

    assert "store's clock and ours agree" in words(machine.store_clocks(settings))
    later = datetime.now(UTC) + timedelta(hours=1)
    monkeypatch.setattr(machine.SYSTEM, "now", lambda: later)
    assert "bad the store's clock is -" in words(machine.store_clocks(settings))
    monkeypatch.undo()

    assert [one.verdict for one in (*machine.limits(1024), *machine.limits(1 << 20))] == ["warn", "good"]
    site.write_text(site.read_text().replace(", deletes: false", "").replace(",\n             deletes: false", ""))
    assert words(doctor._deletion(load(site))).count("warn it happens, and nobody said so") == 2
    assert "OpenSlide" in words(machine.versions()) and "UTC" in words(machine.time_zone())
    monkeypatch.setattr(machine, "LEAST_FREE_SHARE", 1.1)
    assert "warn" in words(machine.room(settings))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as another user")
def test_root_asks_the_rights_of_the_daemons_user(site: Path) -> None:
    """Root may everything, and would tell a daemon that then cannot start that all is well."""
    os.chown(site.parent / "state", 65534, 65534)
    (site.parent / "flash").chmod(0o700)
    said = words(machine.rights(load(site)))
    assert "may not write" in said and str(site.parent / "flash") in said


def test_a_trial_names_a_tier_that_is_there(mover: Mover, site: Path) -> None:
    assert "there is no tier flsh" in mover("doctor", "--try", "flsh").err
    assert "belong to --try" in mover("doctor", "--fill", "1GiB").err
    assert "is no size" in mover("doctor", "--try", "flash", "--fill", "much").err


def short_lived(key: Path, certificate: Path, *, days: int) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    made = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(made.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=days))
        .sign(made, hashes.SHA256())
    )  # fmt: skip
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    key.chmod(0o600)
