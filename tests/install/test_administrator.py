"""A storage administrator with nothing but the pages: from a clean Debian to runs that are protected and cleaned,
through an upgrade in mid-work, to the removal and back. Two daemons and a PostgreSQL of the site's own, as with
patients' data.

One machine; the tests are its days, in order. What is typed is typed as root with nobody at the keyboard, so that a
command that asks something fails; what was answered once is said again nowhere. The file server is a file system of
its own, mounted read-only and pathology's: a kernel need not have NFS for this (tests/nfs has the real one).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from blake3 import blake3

from mover.cli import command as top
from mover.demo.generate import Hospital
from mover.demo.seaweed import find_binary
from tests.demo.conftest import hospital
from tests.docs.commands import PAGES, alternatives, lines, program
from tests.install.conftest import newer
from tests.install.machine import Machine, debian, wait

__all__ = ["hospital"]
pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("machine")]

HERE = Path(__file__).parent
DAEMONS = ["mover.service", "mover-identified.service"]
NAMES = "mover --config /etc/mover/identified.yaml"  # what needs names
PATHOLOGY = 3001
# where each stands inside, its file system, its size and how it is mounted
DISKS = {
    "/srv/intake": ("ext4", "400M", "bind-ro"),
    "/flash": ("xfs", "2G", "bind"),
    "/protect": ("ext4", "2G", "bind"),
}
ADMIN = "host=/run/postgresql user=postgres passfile=/etc/mover/admin.pgpass"
FIRST, SECOND = "2026-11-batch-01", "2026-11-batch-02"
TABLES = ("imagery", "cases", "outcomes")
# of each tier the policy that says how fast it may be read; intake's is shipped
PACES = {"intake": "budget", "archive": "archive-budget"}
# so slow that an upgrade finds work under way, and so fast that it ends
SLOW_BYTES_S = 10_000
MIGRATIONS = "lib/python3.11/site-packages/mover/catalog/migrations"


class Administrator:
    """Types, and remembers what was typed."""

    def __init__(self, machine: Machine, disks: Path) -> None:
        self.machine, self.disks = machine, disks
        self.typed: list[str] = []
        self.seen: dict[str, Any] = {}

    def __call__(self, line: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        self.typed.append(line)
        return self.machine.run("sh", "-c", line, check=check)

    def shown(self, line: str) -> Any:
        return json.loads(self(f"{line} --json").stdout)

    def write(self, path: str, text: str) -> None:
        (self.machine.root / path.lstrip("/")).write_text(text)

    def ledger(self) -> dict[str, Any]:
        """The site's own look at itself: not one of the commands that are tried."""
        told = self.machine.run("/srv/tools/release/bin/python3", "-", text=(HERE / "ledger.py").read_text())
        found: dict[str, Any] = json.loads(told.stdout)
        return found


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return blake3(file.read()).hexdigest()


def digests(folder: Path, *besides: str) -> dict[str, tuple[str, int]]:
    """Every file below `folder`, its bytes and its time, but for names in `besides`."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    named = {str(path.relative_to(folder)): path for path in files}
    return {
        name: (digest(path), path.stat().st_mtime_ns)
        for name, path in named.items()
        if not name.startswith(besides or ("\0",))
    }


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """File systems of their own, by loop devices, each below its name."""
    folder = tmp_path_factory.mktemp("disks")
    mounted: list[Path] = []
    try:
        for place, (kind, size, _) in DISKS.items():
            image, point = folder / f"{Path(place).name}.img", folder / Path(place).name
            point.mkdir()
            subprocess.run(["truncate", "-s", size, str(image)], check=True)
            subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True)
            told = subprocess.run(["mount", "-o", "loop,nodev,nosuid", str(image), str(point)], capture_output=True)
            if told.returncode != 0:
                pytest.skip(f"no file system of its own can be mounted here: {told.stderr.decode()[-200:]}")
            mounted.append(point)
        yield folder
    finally:
        for point in mounted:
            subprocess.run(["umount", "--lazy", str(point)], check=False)


@pytest.fixture(scope="module")
def admin(
    package: Path,
    disks: Path,
    hospital: Hospital,
    tmp_path_factory: pytest.TempPathFactory,  # noqa: F811
) -> Iterator[Administrator]:
    if shutil.which("restic") is None:
        pytest.skip("restic reads the repository without us (Debian package: restic)")
    folder = tmp_path_factory.mktemp("administrator")
    root = folder / "root"
    root.mkdir()
    debian(root)
    (root / "srv" / "tools").mkdir(parents=True)
    for program_, inside in ((find_binary(), "srv/tools/weed"), (str(shutil.which("restic")), "usr/bin/restic")):
        subprocess.run(["cp", "--reflink=auto", program_, str(root / inside)], check=True)
    subprocess.run(["cp", "--reflink=auto", str(package), str(root / "mover.deb")], check=True)
    hand_over(disks, Path(hospital.source), FIRST)
    mounts = {place: (how, disks / Path(place).name) for place, (_, _, how) in DISKS.items()}
    machine = Machine(root, mounts)
    try:
        machine.boot()
        yield Administrator(machine, disks)
    finally:
        machine.power_off()


def hand_over(disks: Path, source: Path, batch: str) -> None:
    """Pathology puts a finished batch and its tables on the file server, for its own group to read."""
    for part in (batch, f"records/{batch}"):
        shutil.copytree(source / part, disks / "intake" / part)
    for path in (disks / "intake", *(disks / "intake").rglob("*")):
        os.chown(path, PATHOLOGY, PATHOLOGY)
        path.chmod(0o750 if path.is_dir() else 0o640)


def running(admin: Administrator) -> list[str]:
    return [unit for unit in DAEMONS if admin.machine.show(unit, "ActiveState") == ["active"]]


def test_a_package_is_installed_from_itself_alone(admin: Administrator) -> None:
    """The machine has no network at all."""
    said = admin("apt install -y /mover.deb").stdout
    assert "mover init --config /etc/mover" in said and running(admin) == []
    admin.machine.run("sh", text=(HERE / "hospital.sh").read_text())


def test_one_file_of_answers_makes_two_daemons(admin: Administrator) -> None:
    store = json.loads((admin.machine.root / "srv/s3/weed.json").read_text())
    answers = {
        "source": "/srv/intake", "bucket": "s3://slides/prod", "endpoint": store["endpoint"],
        "credentials_file": "/srv/desk/keys", "flash": "/flash/mover", "protect": "/protect/mover",
        "database": "host=/run/postgresql dbname=mover", "site": "ward", "project": "main",
    }  # fmt: skip
    admin.write("/etc/mover/answers.yaml", "".join(f"{name}: {json.dumps(text)}\n" for name, text in answers.items()))
    admin("install -d -o mover -g mover /flash/mover")
    admin("install -d -o mover -g mover -m 2770 /protect/mover")
    admin("usermod -aG pathology mover-identified")
    init = f"mover init --from-file /etc/mover/answers.yaml --config /etc/mover --admin '{ADMIN} dbname=postgres'"
    assert "would be written" in admin(f"{init} --plan").stdout
    assert not (admin.machine.root / "etc/mover/mover.yaml").exists()
    admin(f"{init} --yes")
    admin(f"mover db migrate --admin '{ADMIN} dbname=mover'")
    keys = json.loads((admin.machine.root / "srv/s3/credentials.json").read_text())
    admin.seen["said once"] = [answers["bucket"], answers["endpoint"], answers["source"], *keys.values()]
    admin.seen["typed before"] = len(admin.typed)


def test_the_doctor_finds_nothing_wrong_and_real_bytes_go_through(admin: Administrator) -> None:
    admin("mover units write --plan")
    admin("mover units write")
    for mover in ("mover", NAMES):
        told = admin.shown(f"{mover} doctor")
        assert told["healthy"], [one for one in told["findings"] if one["verdict"] == "bad"]
    admin("mover doctor --try flash --plan")
    for tier in ("flash", "protect", "archive"):
        admin(f"mover doctor --try {tier}")
    admin(f"{NAMES} doctor --try intake")


def test_both_daemons_start_and_are_enabled(admin: Administrator) -> None:
    admin("systemctl enable --now mover-identified mover")
    assert running(admin) == DAEMONS
    admin("mover status")
    for mover in ("mover", NAMES):
        told = admin.shown(f"{mover} doctor")
        assert told["healthy"], [one for one in told["findings"] if one["verdict"] == "bad"]
    assert {tier["name"] for tier in admin.shown("mover tier list") if tier["online"]} >= {"archive", "flash"}


def test_the_first_batch_and_its_tables_become_slides_with_facts(admin: Administrator, hospital: Hospital) -> None:  # noqa: F811
    expected = json.loads(Path(hospital.expected).read_text())["batches"][FIRST]
    admin(f"{NAMES} batch ready {FIRST} --expected {expected['declared']} --plan")
    admin(f"{NAMES} batch ready {FIRST} --expected {expected['declared']} --wait")
    batch = admin.shown("mover batch list")["batches"][0]
    assert batch["state"] == "complete" and batch["packs"]["published"] == len(expected["good"]), batch
    causes = admin.shown("mover quarantine list")["causes"]
    assert {one["code"] for one in causes} == {one["reason"] for one in expected["faulty"]}
    admin(f"mover quarantine show {causes[0]['id']}")
    number = admin.shown("mover slide list")["slides"][0]["number"]
    for look in ("slide show", "slide evidence", "answers clean"):
        admin(f"mover {look} {number}")
    admin("mover policy check /etc/mover/policies")
    tables = " ".join(f"{name}=records/{FIRST}/{name}.csv" for name in TABLES)
    admin(f"{NAMES} records add {batch['id']} {tables} --wait")
    assert "stain" in admin("mover cohort columns --values").stdout


def test_a_rekey_shows_no_key_to_the_clean_daemon_and_names_work_on(admin: Administrator) -> None:
    """By root's rights, as whoever takes that daemon over has them. The batches after this are read by the new key."""
    [pid] = admin.machine.show("mover.service", "MainPID")
    find = ["find", "/etc/mover", "-name", "*.key*", "-type", "f"]
    told = admin.shown(f"{NAMES} vault rekey")
    assert told["rows"] > 0 and told["restart"] == "mover-identified"
    assert len(admin.machine.run(*find).stdout.split()) == 3  # the new one, the old one, and that of certificates
    seen = admin.machine.run("nsenter", f"--target={pid}", "--mount", "--wd=/", *find, check=False)
    assert seen.stdout == "", "mover.service sees keys"
    admin("systemctl restart mover-identified")
    assert running(admin) == DAEMONS


def test_a_run_is_staged_protected_copied_to_another_building_and_cleaned(admin: Administrator) -> None:
    second = json.loads((admin.machine.root / "srv/s3-two/weed.json").read_text())
    admin("install -o mover -g mover -m 600 /srv/s3-two/credentials.json /etc/mover/protect-two-keys")
    add = f"mover tier add protect-two --role protect --url s3://slides/runs --endpoint {second['endpoint']}"
    add += " --credentials-file /etc/mover/protect-two-keys"
    admin(f"{add} --plan")
    admin(add)
    admin("cp /etc/mover/policies/protect.yaml /srv/desk/protect.yaml")
    admin("sed -i 's/^# copy: {to: protect-two}/copy: {to: protect-two}/' /srv/desk/protect.yaml")
    admin('mover policy set protect /srv/desk/protect.yaml --reason "another building"')

    admin("mover cohort save first \"stain = 'PAS'\"")
    admin("mover run request --cohort first --key by-hand/1 --plan")
    admin("mover run request --cohort first --key by-hand/1 --wait")
    run = admin.shown("mover run list")["runs"][0]
    assert run["state"] == "ready" and run["count"] > 0
    admin(f"mover check {run['id']}")
    admin(f"cp /mover.deb /flash/mover/runs/{run['id']}/out/model.bin")
    admin(f"mover run finish {run['id']} --wait")
    [snapshot] = admin.shown(f"mover snapshot list --run {run['id']}")["snapshots"]
    admin(f"mover restore {snapshot['id']} --to /flash/mover/back --wait")
    assert digest(admin.disks / "flash/mover/back/artifacts/model.bin") == digest(admin.machine.root / "mover.deb")
    refused = admin(f"mover run clean {run['id']} --wait", check=False)
    assert refused.returncode != 0 and "deletes" in refused.stderr
    admin("sed -i '/^  flash:/,/deletes/ s/deletes: false/deletes: true/' /etc/mover/mover.yaml")
    admin("systemctl restart mover")
    admin(f"mover run clean {run['id']} --wait")
    assert not list((admin.disks / "flash/mover/runs").iterdir())
    admin("mover protect copy --wait")
    check_repositories(admin)


def check_repositories(admin: Administrator) -> None:
    """By stock restic, which has never heard of us."""
    password = "--password-file /etc/mover/credentials/repository-password"
    assert "no errors were found" in admin(f"restic -r /protect/mover {password} check --read-data").stdout
    keys = json.loads((admin.machine.root / "srv/s3-two/credentials.json").read_text())
    endpoint = json.loads((admin.machine.root / "srv/s3-two/weed.json").read_text())["endpoint"]
    said = {"AWS_ACCESS_KEY_ID": keys["access_key_id"], "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"]}
    line = " ".join(f"{name}={shlex.quote(text)}" for name, text in said.items())
    line += f" restic -r s3:{endpoint}/slides/runs {password} check --read-data"
    assert "no errors were found" in admin.machine.run("sh", "-c", line).stdout


def test_an_upgrade_in_mid_work_ends_what_was_under_way(
    admin: Administrator,
    package: Path,
    hospital: Hospital,
    tmp_path_factory: pytest.TempPathFactory,  # noqa: F811
) -> None:
    """A batch in the identified daemon, a run in the other, and a release that brings a migration. The server is the
    site's own: the new release waits for it, the old one works on."""
    hand_over(admin.disks, Path(hospital.source), SECOND)
    before = digests(admin.disks / "intake")
    for tier in PACES:
        pace(admin, tier, SLOW_BYTES_S, "the clinic comes first")
    known = (admin.machine.root / "opt/mover" / release(admin) / MIGRATIONS).glob("0*.sql")
    number = max(int(path.name[:4]) for path in known) + 1
    made = newer(package, tmp_path_factory.mktemp("newer") / "newer.deb", files={
        f"{MIGRATIONS}/{number:04}_of_the_next_release.sql": "alter table mover.node add column next_release text;\n"
    })  # fmt: skip
    subprocess.run(["mv", str(made), str(admin.machine.root / "newer.deb")], check=True)
    expected = json.loads(Path(hospital.expected).read_text())["batches"][SECOND]
    admin('mover cohort save all "scanned_year >= 2000"')
    run = admin.shown("mover run request --cohort all --key by-hand/2")["id"]
    batch = admin.shown(f"{NAMES} batch ready {SECOND} --expected {expected['declared']}")["id"]

    def under_way() -> bool:
        seen, staged = admin.shown(f"mover batch show {batch}"), admin.shown(f"mover run show {run}")
        admin.seen["under way"] = (seen, staged)
        return seen["state"] == "working" and staged["state"] == "staging"

    wait(under_way, "both at work")
    old = release(admin)
    admin.seen["package"] = "/newer.deb"
    said = admin("apt install -y /newer.deb")
    todo = [line.strip().removeprefix("to do: ") for line in (said.stdout + said.stderr).splitlines()]
    assert running(admin) == DAEMONS and release(admin) == old
    [migrate] = [line for line in todo if line.endswith("db migrate --admin DSN")]
    [use] = [line for line in todo if line.startswith("mover-release use ")]
    admin(migrate.replace("DSN", f"'{ADMIN} dbname=mover'"))
    assert under_way(), admin.seen["under way"]  # the old release, on the schema of the new one
    admin(use)
    assert release(admin) == use.split()[-1] != old and running(admin) == DAEMONS
    assert not done(admin, batch, run)
    admin(f"mover-release use {old}")
    assert running(admin) == DAEMONS and not done(admin, batch, run)
    admin(use)
    for tier in PACES:
        pace(admin, tier, 1_000_000_000, "enough waited")
    wait(lambda: done(admin, batch, run), "the end of batch and run")
    seen = admin.shown(f"mover batch show {batch}")
    assert seen["state"] == "complete" and seen["packs"]["published"] == len(expected["good"]), seen
    assert admin.shown(f"mover run show {run}")["state"] == "ready"
    admin(f"mover check {run} --read")
    assert digests(admin.disks / "intake") == before


def release(admin: Administrator) -> str:
    return admin.machine.run("readlink", "/opt/mover/current").stdout.strip()


def pace(admin: Administrator, tier: str, bytes_s: int, reason: str) -> None:
    name = PACES[tier]
    admin.write(f"/srv/desk/{name}.yaml", f"kind: budget\nname: {name}\ntier: {tier}\nread_bytes_s: {bytes_s}\n")
    admin(f'mover policy set {name} /srv/desk/{name}.yaml --reason "{reason}"')


def done(admin: Administrator, batch: str, run: str) -> bool:
    states = [admin.shown(f"mover {what} show {id_}")["state"] for what, id_ in (("batch", batch), ("run", run))]
    assert "failed" not in states, states
    return states == ["complete", "ready"]


def test_everything_that_was_promised_is_there_and_proved(admin: Administrator) -> None:
    """Originals, archive, catalog and proofs say the same; each by another's eyes."""
    [run] = [one["id"] for one in admin.shown("mover run list")["runs"] if one["state"] == "ready"]
    admin(f"cp /mover.deb /flash/mover/runs/{run}/out/model.bin")
    admin(f"mover run finish {run} --wait")
    admin(f"mover run clean {run} --wait")
    admin("mover protect copy --wait")
    check_repositories(admin)
    admin("mover snapshot check")
    admin("mover verify archive --wait")
    admin("mover audit verify")
    found = admin.ledger()
    files = {f"prod/{key}": digest for key, (digest, _) in found["files"].items()}
    assert files and {key: found["objects"].get(key) for key in files} == files
    numbers = {key.split("/")[2] for key in files}
    strangers = {key.split("/")[2] for key in found["objects"] if key.startswith("prod/slides/")} - numbers
    assert not strangers and len(numbers) == found["rows"]["slide"][0]


def test_a_removal_loses_nothing_and_an_installation_goes_on(admin: Administrator) -> None:
    root = admin.machine.root
    shown = {line: admin(f"mover {line}").stdout for line in ("slide list", "snapshot list", "run list", "batch list")}
    admin("mover units where")
    admin("systemctl stop mover-identified mover")
    before = [digests(admin.disks / name) for name in ("intake", "flash", "protect")]
    kept = digests(root / "etc/mover"), digests(root / "var/lib/mover"), digests(root / "var/lib/mover-identified")
    ledger = admin.ledger()
    said = admin("apt remove -y mover").stdout
    places = ("/etc/mover/identified/vault.key", "/etc/mover/policies", "/var/lib/mover", "/var/lib/mover-identified")
    for place in (*places, "/srv/intake", "/flash/mover", "/protect/mover", "s3://slides/prod", "s3://slides/runs"):
        assert place in said, place
    assert not (root / "usr/bin/mover").exists()
    assert [digests(admin.disks / name) for name in ("intake", "flash", "protect")] == before
    assert (
        digests(root / "etc/mover"),
        digests(root / "var/lib/mover"),
        digests(root / "var/lib/mover-identified"),
    ) == kept
    assert admin.ledger() == ledger
    check_repositories(admin)

    admin(f"apt install -y {admin.seen.get('package', '/mover.deb')}")
    assert running(admin) == []
    admin("systemctl enable --now mover-identified mover")
    assert running(admin) == DAEMONS
    assert {line: admin(f"mover {line}").stdout for line in shown} == shown
    admin("mover audit verify")
    told = admin.shown("mover doctor")
    assert told["healthy"], [one for one in told["findings"] if one["verdict"] == "bad"]


def test_nothing_was_said_twice_and_every_command_stands_in_the_pages(admin: Administrator) -> None:
    """What somebody had to know, and no page says, is a fault of the pages."""
    later = admin.typed[admin.seen["typed before"] :]
    assert not [(word, line) for word in admin.seen["said once"] for line in later if word in line]
    told: dict[tuple[str, ...], set[str]] = {}
    for line in (one for page in PAGES for one in lines(page) if program(one.text) == "mover"):
        for one in alternatives(line.text) if line.pattern else [line.text]:
            words, options = shape(one)
            told.setdefault(words, set()).update(options)
    typed = [line for line in dict.fromkeys(admin.typed) if re.match(r"(/\S+/)?mover ", line)]
    assert len(typed) > 40
    assert not [line for line in typed if not shape(line)[1] <= told.get(shape(line)[0], {"no page has it"})]


def shape(line: str) -> tuple[tuple[str, ...], set[str]]:
    """The command and its options: of `mover --config F batch ready X --wait`, `batch ready` and `--wait`."""
    words = re.sub(r"[\[\]…]", " ", line).split()
    at: click.Command = top
    path: list[str] = []
    for word in words[1:]:
        if isinstance(at, click.Group) and (found := at.get_command(click.Context(at), word)) is not None:
            at, path = found, [*path, word]
    options = {word for word in words if re.fullmatch(r"--[a-z-]+", word)}
    return tuple(path), {"", *options} - {"--json", "--config"}
