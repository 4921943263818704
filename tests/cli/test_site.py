"""`mover init` and `mover doctor` on real folders and a real bucket."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mover.cli import newfile
from mover.cli.doctor import STA_UNSYNC, _clock_status
from mover.demo.seaweed import Seaweed
from mover.settings import load
from tests.cli.conftest import Said

Mover = Callable[..., Said]


@pytest.fixture
def places(tmp_path: Path, weed: Seaweed) -> dict[str, str]:
    for name in ("source", "flash", "protect"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "pack.svs").write_bytes(b"II")
    return {
        "source": str(tmp_path / "source"),
        "bucket": f"s3://{weed.bucket}/{tmp_path.name}",
        "endpoint": weed.endpoint,
        "region": weed.region,
        "credentials-file": str(weed.credentials_file),
        "flash": str(tmp_path / "flash"),
        "protect": str(tmp_path / "protect"),
        "state": str(tmp_path / "state"),
    }


def flags(places: dict[str, str]) -> list[str]:
    return [word for name, value in places.items() for word in (f"--{name}", value)]


def snapshot(folder: Path) -> dict[str, Any]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.slow
def test_init_writes_a_site_that_the_daemon_and_the_doctor_understand(
    mover: Mover, places: dict[str, str], tmp_path: Path
) -> None:
    """The first command a tired administrator types; it must not leave them with a file to debug."""
    said = mover("init", *flags(places), "--config", "site", "--yes")
    assert said.status == 0, said.err
    settings = load(tmp_path / "site" / "mover.yaml")
    assert set(settings.tiers) == {"intake", "archive", "flash", "protect"}
    for secret in (settings.vault_key, settings.repository_password_file, settings.state_dir / "admin-token"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert (settings.state_dir / "admin-token").read_text().startswith("mvr_")
    assert (tmp_path / "flash" / ".mover" / "tier.json").exists()
    assert [path.name for path in (tmp_path / "source").iterdir()] == ["pack.svs"]
    examined = mover("--config", "site/mover.yaml", "doctor", "--json")
    assert examined.status == 0, examined.out
    about = {finding["about"]: finding["verdict"] for finding in json.loads(examined.out)["findings"]}
    assert about["settings"] == about["policies"] == about["tier archive"] == about["deletion on flash"] == "good"
    assert [tier.name for tier in settings.tiers.values() if tier.deletes] == ["intake"]  # which is only read


@pytest.mark.slow
def test_init_overwrites_nothing(mover: Mover, places: dict[str, str], tmp_path: Path) -> None:
    """A second vault key would make every name of the first unreadable."""
    mover("init", *flags(places), "--config", "site", "--yes")
    before = snapshot(tmp_path)
    said = mover("init", *flags(places), "--config", "site", "--yes")
    assert said.status == 0 and "nothing was changed" in said.out
    said = mover("init", *flags(places | {"flash": str(tmp_path)}), "--config", "site", "--yes")
    assert said.status == 3 and "left as it is" in said.err and f'+    path: "{tmp_path}"' in said.out
    assert mover("init", "--config", "site", "--yes").status == 3
    assert snapshot(tmp_path) == before


@pytest.mark.slow
def test_a_killed_init_can_be_run_again_and_keeps_the_secrets_it_made(
    mover: Mover, places: dict[str, str], tmp_path: Path
) -> None:
    mover("init", *flags(places), "--config", "site", "--yes")
    key = (tmp_path / "state" / "vault.key").read_bytes()
    (tmp_path / "site" / "mover.yaml").unlink()
    assert mover("init", *flags(places), "--config", "site", "--yes").status == 0
    assert (tmp_path / "state" / "vault.key").read_bytes() == key


def test_a_full_disk_and_a_hardened_machine_leave_no_half_site(
    mover: Mover, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty mover.yaml was left as it is by every later call; one for root alone keeps its daemon from starting."""
    with monkeypatch.context() as patch:
        patch.setattr(newfile, "write_new", _full)
        refused = mover("init", *flags(places), "--config", "site/deep", "--yes")
        assert refused.status != 0 and "No space left" in refused.err and "call the command again" in refused.err
    assert not list((tmp_path / "site/deep").glob("mover.yaml*"))
    before = os.umask(0o077)
    try:
        assert mover("init", *flags(places), "--config", "site/deep", "--yes").status == 0
    finally:
        os.umask(before)
    modes = {one: (tmp_path / one).stat().st_mode & 0o777 for one in ("site", "site/deep", "site/deep/mover.yaml")}
    assert modes == {"site": 0o755, "site/deep": 0o755, "site/deep/mover.yaml": 0o644}
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def handed_over(open_place: Path, places: dict[str, str]) -> dict[str, str]:
    """As a package and an administrator leave it: the state is the daemon's user's, as are the tiers it writes to, and
    pathology's folder is open to a group of that user's."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user: run as root")
    for name, owner, group, mode in (
        ("source", 3001, 4712, 0o750), ("flash", 4711, 4712, 0o700), ("protect", 4711, 4712, 0o700),
        ("state", 4711, 4712, 0o711),
    ):  # fmt: skip
        (open_place / name).mkdir()
        (open_place / name).chmod(mode)
        os.chown(open_place / name, owner, group)
    (open_place / "source" / "pack.svs").write_bytes(b"II")
    return places | {name: str(open_place / name) for name in ("source", "flash", "protect", "state")}


@pytest.mark.slow
def test_what_root_made_belongs_to_the_daemons_user(
    mover: Mover, handed_over: dict[str, str], open_place: Path, tmp_path: Path
) -> None:
    """An administrator is root, the service is not: with root's keys it would not start. So it is, too, where a first
    init was killed, or was of a release that gave all away at the end."""
    init = ("init", *flags(handed_over), "--config", "site", "--yes")
    assert mover(*init).status == 0
    (tmp_path / "site" / "mover.yaml").unlink()
    os.chown(open_place / "state" / "audit.key", 0, 0)
    assert mover(*init).status == 0
    made = [
        *(open_place / "state").iterdir(),
        open_place / "flash" / ".mover" / "tier.json",
        *(tmp_path / "site" / "policies").rglob("*"),
        tmp_path / "site" / "policies",
    ]
    assert len(made) > 7 and {(one.stat().st_uid, one.stat().st_gid) for one in made} == {(4711, 4712)}
    assert (tmp_path / "site" / "mover.yaml").stat().st_uid == 0


@pytest.mark.slow
def test_init_gives_away_no_file_that_the_daemons_user_linked_into_its_folders(
    mover: Mover, handed_over: dict[str, str], open_place: Path, tmp_path: Path
) -> None:
    """After an init that was killed these folders are that user's already."""
    for name in ("by name", "linked", "below"):
        (open_place / name).write_text("root's")
    (open_place / "state" / "audit.key").symlink_to(open_place / "by name")
    os.link(open_place / "linked", open_place / "state" / "admin-token")
    (tmp_path / "site" / "policies").mkdir(parents=True)
    os.link(open_place / "below", tmp_path / "site" / "policies" / "stage.yaml")
    assert mover("init", *flags(handed_over), "--config", "site", "--yes").status == 0
    assert [(open_place / name).stat().st_uid for name in ("by name", "linked", "below")] == [0, 0, 0]


# what a file server makes of root (root_squash): somebody with no rights of its own over others' files
SQUASHED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]


@pytest.mark.slow
def test_tiers_are_judged_and_tried_by_the_rights_of_who_works_there(
    handed_over: dict[str, str], open_place: Path
) -> None:
    """On NFS root is nobody: init refused what was right and wrote nothing, and the doctor was red for ever."""
    (open_place / "colder").mkdir(mode=0o700)
    os.chown(open_place / "colder", 4711, 4712)

    def typed(*words: str) -> tuple[int, str, str]:
        command = [*SQUASHED, "--", sys.executable, "-m", "mover", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=open_place)
        return done.returncode, done.stdout, done.stderr

    status, said, err = typed("init", *flags(handed_over), "--config", "site", "--yes")
    assert status == 0, said + err
    assert "readable, and not writable" in said
    mark = (open_place / "flash" / ".mover").stat()
    assert (mark.st_uid, mark.st_gid) == (4711, 4712)
    _, said, err = typed("--config", "site/mover.yaml", "doctor", "--json")
    found = json.loads(said)["findings"]
    assert [one for one in found if one["about"].startswith("tier ") and one["verdict"] == "bad"] == []
    for tier in ("flash", "intake"):
        status, said, err = typed("--config", "site/mover.yaml", "doctor", "--try", tier)
        assert status == 0, said + err
    adding = ("tier", "add", "colder", "--role", "protect", "--path", str(open_place / "colder"), "--plan")
    status, said, err = typed("--config", "site/mover.yaml", *adding)
    assert status == 0, said + err
    # and what root may on a disk is not what the daemon may
    os.chown(open_place / "colder", 0, 0)
    for squash in (SQUASHED, []):
        done = subprocess.run(
            [*squash, sys.executable, "-m", "mover", "--config", "site/mover.yaml", *adding],
            capture_output=True, text=True, check=False, cwd=open_place,
        )  # fmt: skip
        assert done.returncode == 1 and "cannot be read by user 4711" in done.stdout, done.stdout + done.stderr


def test_a_plan_of_init_writes_nothing_at_all(mover: Mover, places: dict[str, str], tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    said = mover("init", *flags(places), "--config", "site", "--yes", "--plan")
    assert said.status == 0 and "would be written" in said.out and "vault.key" in said.out
    assert snapshot(tmp_path) == before
    owner = f"install -d -m 700 -o mover -g mover {places['state']}"
    assert os.geteuid() != 0 or owner in said.out, "the daemon would be root"


def test_init_refuses_places_that_cannot_work_and_says_which(
    mover: Mover, places: dict[str, str], tmp_path: Path
) -> None:
    """Flash inside the source would put de-identified bytes and names into one tree."""
    (tmp_path / "source" / "flash").mkdir()
    bad = places | {"flash": str(tmp_path / "source" / "flash"), "protect": str(tmp_path / "nowhere")}
    said = mover("init", *flags(bad), "--config", "site", "--yes")
    assert said.status == 1 and "Nothing was written" in said.out
    assert "tier flash: lies inside tier intake" in said.out and "tier protect: the folder is not there" in said.out
    assert not (tmp_path / "site").exists() and not (tmp_path / "state").exists()


def test_init_says_what_it_still_needs(mover: Mover) -> None:
    said = mover("init", "--source", "/x", "--yes")
    assert said.status == 2 and "--bucket" in said.err and "--flash" in said.err


def test_answers_may_come_from_a_file_and_a_misspelt_one_is_named(
    mover: Mover, places: dict[str, str], tmp_path: Path
) -> None:
    answers = {name.replace("-", "_"): value for name, value in places.items()}
    (tmp_path / "answers.yaml").write_text("".join(f"{name}: {value}\n" for name, value in answers.items()))
    assert mover("init", "--from-file", "answers.yaml", "--config", "site", "--yes", "--plan").status == 0
    (tmp_path / "answers.yaml").write_text("source: /x\nflsh: /y\n")
    said = mover("init", "--from-file", "answers.yaml", "--yes")
    assert said.status == 2 and "answers.yaml:2:1" in said.err


def test_an_answer_that_is_empty_is_none_and_one_that_is_no_text_is_refused(
    mover: Mover, places: dict[str, str], tmp_path: Path
) -> None:
    """`endpoint:` became "None", a host that was then looked for; `flash_seen_as:` the folder None of every node."""
    file = tmp_path / "answers.yaml"
    text = "".join(f"{name.replace('-', '_')}: {value}\n" for name, value in places.items() if name != "source")
    words = ("init", "--from-file", "answers.yaml", "--config", "site", "--yes", "--plan")
    file.write_text(text + f"source: {places['source']}\nflash_seen_as:\ntcp:\ndatabase:\n")
    said = mover(*words)
    assert said.status == 0 and "None" not in said.out, said.err
    file.write_text(text + "source:\n")
    said = mover(*words)
    assert said.status == 2 and "still needed: --source" in said.err
    for answer in ("true", "[a]", "007"):
        file.write_text(f"{text}source: {places['source']}\nproject: {answer}\n")
        said = mover(*words)
        assert said.status == 2 and "`project` is no text" in said.err
        assert f"answers.yaml:{len(places) + 1}:" in said.err
    file.write_text(f"{text}source: {places['source']}\ntcp: nonsense\n")
    said = mover(*words)
    assert said.status == 2 and 'the line `tcp: "nonsense"`' in said.err and "/tmp" not in said.err, said.err


@pytest.mark.slow
def test_the_doctor_finds_what_was_broken_and_says_how_to_mend_it(
    mover: Mover, places: dict[str, str], tmp_path: Path
) -> None:
    """Each of these was somebody's night."""
    mover("init", *flags(places), "--config", "site", "--yes")
    (tmp_path / "state" / "vault.key").chmod(0o644)
    (tmp_path / "flash" / ".mover" / "tier.json").unlink()
    (tmp_path / "site" / "policies" / "stage.yaml").write_text("kind: stage\nname: stage\nfrom: archive\nto: flsh\n")
    said = mover("--config", "site/mover.yaml", "doctor", "--json")
    assert said.status == 1
    found = {one["about"]: one for one in json.loads(said.out)["findings"] if one["verdict"] == "bad"}
    assert "chmod 600" in found["permissions: vault key"]["remedy"]
    assert "identity" in found["tier flash"]["what"] and "flsh" in found["policies"]["what"]
    assert all(one["remedy"] for one in found.values())
    verdicts = [one["verdict"] for one in json.loads(said.out)["findings"]]
    assert verdicts == sorted(verdicts, key=["bad", "warn", "good"].index)


def test_the_doctor_lists_every_mistake_of_the_settings(mover: Mover, tmp_path: Path) -> None:
    (tmp_path / "mover.yaml").write_text("version: 1\nsite: s1\nproject: demo\ntears: {}\nrole: king\n")
    said = mover("doctor")
    assert said.status == 1
    assert "mover.yaml:4:1" in said.out and "mover.yaml:5:7" in said.out


def test_the_doctor_reads_the_kernels_clock_word() -> None:
    """adjtimex(2) needs no right to be asked; the status word is a small set of bits."""
    status = _clock_status()
    assert status is not None and 0 <= status < 1 << 16 and STA_UNSYNC == 64
