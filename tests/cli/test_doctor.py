"""What the doctor says of two daemons on one host: by role, and by what systemd hands over.

Each finding both ways: what is right is not called wrong, and what is wrong is not called right.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mover.cli import handed, machine
from mover.cli.policyfiles import policy_files
from mover.cli.probes import Finding, as_its_user, look_at_place
from mover.cli.secretfiles import secret_files
from mover.settings import Settings, load

SETTINGS = """version: 1
site: s1
project: demo
role: {role}
state_dir: {state}
database: {{embedded: false, dsn_file: dsn, vault_dsn_file: dsn{dump}}}
policies: policies
tiers:
"""
TIERS = {
    "intake": "{kind: posix, zone: identified, role: source, path: intake, read_only: true}",
    "archive": "{kind: object, zone: deidentified, role: archive, url: 's3://x', credentials: {systemd: archive-keys}}",
    "flash": "{kind: posix, zone: deidentified, role: flash, path: flash}",
    "protect": "{kind: posix, zone: deidentified, role: protect, path: protect}",
}
SIDES = {"identified": ("intake", "archive", "protect"), "clean": ("archive", "flash", "protect")}
FILES = {"identified": "identified.yaml", "clean": "mover.yaml"}
POLICIES = {
    "images": "kind: images\nname: images\nfrom: intake\nto: archive\n",
    "stage": "kind: stage\nname: stage\nfrom: archive\nto: flash\n",
    "protect": "kind: protect\nname: protect\nfrom: flash\nto: protect\n",
    "nas": "kind: budget\nname: nas\ntier: intake\nread_bytes_s: 1000\n",
}
DUMP = "kind: dump\nname: dump\nto: [archive, protect]\n"

Site = Callable[[str], Settings]


@pytest.fixture
def tmp_path(open_place: Path) -> Path:
    """The daemons' users are asked about what stands here."""
    return open_place


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Both settings of a host, its policies, its secrets, and the units that start daemons with them."""
    for name in ("intake", "flash", "protect", "policies", "credentials", "units", "state-clean", "state-identified"):
        (tmp_path / name).mkdir(mode=0o700)
    (tmp_path / "intake" / "pack").touch()
    for path in ("dsn", "vault.key", "certificate.key", "credentials/repository-password", "credentials/archive-keys"):
        (tmp_path / path).touch(0o600)
        (tmp_path / path).write_text("host=/nowhere\n")
    keys = {"access_key_id": "a", "secret_access_key": "b"}
    (tmp_path / "credentials/archive-keys").write_text(json.dumps(keys))
    for name, text in POLICIES.items():
        (tmp_path / "policies" / f"{name}.yaml").write_text(text)
    for role, names in SIDES.items():
        dump = ", dump_dsn_file: dsn" if role == "identified" else ""
        text = SETTINGS.format(role=role, state=f"state-{role}", dump=dump)
        (tmp_path / FILES[role]).write_text(text + "".join(f"  {name}: {TIERS[name]}\n" for name in names))
    monkeypatch.setattr(handed, "FOLDERS", (tmp_path / "units",))
    unit(tmp_path, "mover-identified.service", "identified", "vault.key", "certificate.key")
    unit(tmp_path, "mover.service", "clean")
    drop_in(tmp_path, "mover-identified.service", "archive-keys")
    drop_in(tmp_path, "mover.service", "archive-keys", "repository-password")
    return lambda role: load(tmp_path / FILES[role])


def unit(root: Path, name: str, role: str, *secrets: str) -> None:
    lines = [f"LoadCredential={secret}:{root}/{secret}" for secret in secrets]
    start = f"ExecStart=/opt/mover/current/bin/mover daemon --config {root}/{FILES[role]}"
    (root / "units" / name).write_text("\n".join(["[Service]", start, *lines]))


def drop_in(root: Path, name: str, *secrets: str) -> None:
    folder = root / "units" / f"{name}.d"
    folder.mkdir(exist_ok=True)
    lines = [f"# why\nLoadCredential={secret}:{root}/credentials/{secret}" for secret in secrets]
    (folder / "50-tiers.conf").write_text("\n".join(["[Service]", *lines]))


def secrets(settings: Settings) -> list[Finding]:
    found = handed.handed(settings)
    return list(secret_files(handed.with_sources(settings, found), found))


def wrong(findings: Iterable[Finding]) -> list[str]:
    return [f"{one.about}: {one.what} -> {one.remedy}" for one in findings if one.verdict == "bad"]


def test_what_systemd_hands_over_is_not_called_missing(site: Site, tmp_path: Path) -> None:
    """A root shell has no $CREDENTIALS_DIRECTORY; a red doctor on a healthy site is one that nobody asks again."""
    for role, names in (
        ("clean", "archive-keys repository-password"),
        ("identified", "archive-keys certificate.key vault.key"),
    ):
        [told] = secrets(site(role))
        assert told.verdict == "good" and f"hands over {names}" in told.what


def test_each_side_is_asked_for_its_own_keys_only(site: Site, tmp_path: Path) -> None:
    (tmp_path / "vault.key").unlink()
    assert wrong(secrets(site("clean"))) == []
    [told] = wrong(secrets(site("identified")))
    assert "vault.key is not there" in told and "mover-identified.service does not start" in told
    (tmp_path / "vault.key").touch(0o600)
    (tmp_path / "credentials/repository-password").unlink()
    assert wrong(secrets(site("identified"))) == []
    [told] = wrong(secrets(site("clean")))
    assert "repository-password is not there" in told and f"install -m 600 COPY {tmp_path}/credentials" in told


def test_a_secret_that_no_unit_names_or_that_is_open_is_found(site: Site, tmp_path: Path) -> None:
    drop_in(tmp_path, "mover.service", "archive-keys")
    [told] = wrong(secrets(site("clean")))
    assert "no unit hands it over" in told and "mover units write && systemctl restart mover.service" in told
    drop_in(tmp_path, "mover.service", "archive-keys", "repository-password")
    (tmp_path / "credentials/repository-password").chmod(0o644)
    [told] = wrong(secrets(site("clean")))
    assert "open to others" in told and "chmod 600" in told
    # units of another site say nothing of this one
    (tmp_path / "units/mover-identified.service").write_text("[Service]\nExecStart=mover daemon --config /elsewhere\n")
    assert len(wrong(secrets(site("identified")))) == 2


def test_keys_of_a_session_are_said_before_they_end(site: Site, tmp_path: Path) -> None:
    """Somebody tried with the keys of their own session; on Sunday every call to the store was refused."""
    keys = {"access_key_id": "a", "secret_access_key": "b", "session_token": "c"}
    seen = []
    for days in (None, 30, 2, -1):
        ends = None if days is None else (datetime.now(UTC) + timedelta(days=days)).isoformat()
        (tmp_path / "credentials/archive-keys").write_text(json.dumps(keys | {"expires_at": ends}))
        seen += [one.verdict for one in secrets(site("clean")) if one.about == "credentials of archive"]
    assert seen == ["warn", "good", "warn", "bad"]


def test_a_tier_that_neither_side_has_is_found_wherever_a_policy_names_it(site: Site, tmp_path: Path) -> None:
    assert wrong(policy_files(site("clean"))) == wrong(policy_files(site("identified"))) == []
    cases = {
        "archive": "kind: archive\nname: archive\ntier: archive\nsecond_copy: clod\n",
        "verify": "kind: verify\nname: verify\ntier: archive\nrepair_from: clod\n",
        "budget": "kind: budget\nname: budget\ntier: clod\nread_bytes_s: 1000\n",
        "audit": "kind: audit\nname: audit\nto: [archive, clod]\n",
        "move": "kind: move\nname: move\nfrom: clod\nto: archive\n",
        "images": "kind: images\nname: images\nfrom: clod\nto: archive\n",
        "protect": "kind: protect\nname: protect\nfrom: flash\nto: protect\ncopy: {to: clod}\n",
    }
    for name, text in cases.items():
        file = tmp_path / "policies" / f"{name}.yaml"
        before = file.read_text() if file.exists() else None
        file.write_text(text)
        [told] = wrong(policy_files(site("clean")))
        assert f"{name}.yaml" in told and "there is no tier clod" in told and "tier add clod" in told
        file.unlink() if before is None else file.write_text(before)


def test_without_the_other_settings_only_ones_own_part_is_judged(site: Site, tmp_path: Path) -> None:
    """The two may stand on two machines."""
    (tmp_path / "policies/images.yaml").write_text(POLICIES["images"].replace("intake", "intakes"))
    assert "no tier intakes" in wrong(policy_files(site("clean")))[0]
    (tmp_path / "identified.yaml").rename(tmp_path / "elsewhere.yaml")
    assert wrong(policy_files(site("clean"))) == []
    (tmp_path / "elsewhere.yaml").rename(tmp_path / "identified.yaml")
    (tmp_path / "mover.yaml").unlink()
    assert "no tier intakes" in wrong(policy_files(site("identified")))[0]


def test_what_a_start_would_refuse_is_no_good_policy(site: Site, tmp_path: Path) -> None:
    (tmp_path / "policies/stage.yaml").write_text("kind: stage\nname: stage\nfrom: flash\nto: archive\n")
    assert any("here stands" in told for told in wrong(policy_files(site("clean"))))


def test_names_without_a_dump_and_dumps_without_keys_are_said(site: Site, tmp_path: Path) -> None:
    """A dump policy without keys holds back every slide from then on; no policy at all loses the names one day."""

    def dumps(role: str) -> list[tuple[str, str]]:
        return [(one.verdict, one.remedy) for one in policy_files(site(role)) if one.about == "dumps"]

    assert dumps("clean") == []
    [(verdict, remedy)] = dumps("identified")
    assert verdict == "warn" and f"{tmp_path}/mover.yaml policy set dump" in remedy
    (tmp_path / "policies/dump.yaml").write_text(DUMP)
    [(verdict, remedy)] = dumps("identified")
    assert verdict == "bad" and "vault keys new" in remedy and dumps("clean") == []
    site("identified").vault_public.touch()
    assert [verdict for verdict, _ in dumps("identified")] == ["good"]
    file = tmp_path / "identified.yaml"
    file.write_text(file.read_text().replace(", dump_dsn_file: dsn", ""))
    assert [verdict for verdict, _ in dumps("identified")] == ["bad"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as another user")
def test_root_asks_for_each_daemon_as_its_own_user(site: Site, tmp_path: Path) -> None:
    """The source can be written by root and not by the daemon; a login that is root's cannot be read by the daemon."""
    (tmp_path / "intake").chmod(0o755)
    (tmp_path / "policies").chmod(0o755)
    os.chown(tmp_path / "state-identified", 65534, 65534)
    settings = site("identified")
    with as_its_user(settings) as who:
        [told] = look_at_place(settings.tiers["intake"], who=who)
    assert told.verdict == "good"
    told = wrong(machine.rights(settings, handed=frozenset({tmp_path / "vault.key"})))
    assert any("may not read" in one and f"chown 65534 {tmp_path}/dsn" in one for one in told)
    assert any(f"setfacl -m u:65534:rwx {tmp_path}/protect" in one for one in told)
    assert not any("vault.key" in one for one in told)
    os.chown(tmp_path / "dsn", 65534, 65534)
    os.chown(tmp_path / "protect", 65534, 65534)
    assert wrong(machine.rights(settings)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes what is root's")
def test_a_state_that_is_roots_is_given_to_the_user_of_its_own_unit(site: Site) -> None:
    """The state with the names was given to the daemon that may not see them, and what lay in it stayed root's."""
    for role, user in (("identified", "mover-identified"), ("clean", "mover")):
        [told] = machine.rights(site(role))
        assert (told.verdict, told.remedy) == ("warn", f"chown -R {user}: {site(role).state_dir}")
