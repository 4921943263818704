"""`mover units`: drop-ins of the units from a site's settings, and what the units are with them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Said, mover  # noqa: F401  (a fixture)
from tests.install.conftest import PACKAGING

Mover = Callable[..., Said]
UNITS = ["mover-identified.service", "mover.service", "mover-watcher.service"]
EXPOSURE_AT_MOST = 2.0


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A production site as the examples have it: two daemons, one PostgreSQL on another machine."""
    folder = tmp_path / "etc"
    (folder / "credentials").mkdir(parents=True)
    for name in ("mover", "identified"):
        shutil.copy(PACKAGING / f"{name}.example.yaml", folder / f"{name}.yaml")
    (folder / "identified").mkdir()
    for name in ("dsn", "identified/dsn", "identified/vault-dsn"):
        (folder / name).write_text("host=db.ward.example dbname=mover user=mover_daemon")
        (folder / name).chmod(0o600)
    (folder / "credentials" / "archive-keys").write_text("{}")
    return folder


def files(folder: Path) -> list[str]:
    return [str(folder / "mover.yaml"), str(folder / "identified.yaml")]


def test_a_plan_shows_each_line_with_its_reason_and_writes_nothing(mover: Mover, site: Path, tmp_path: Path) -> None:  # noqa: F811
    """Somebody has to answer for what the units may see; they read it first."""
    said = mover("units", "write", *files(site), "--into", str(tmp_path / "units"), "--plan")
    assert said.status == 0, said.err
    assert "InaccessiblePaths=/intake" in said.out and "patients' names" in said.out
    assert "IPAddressAllow=" in said.out  # s3.ward.example is a name: a person decides
    assert not (tmp_path / "units").exists()


def test_drop_ins_are_written_once_and_follow_the_settings(mover: Mover, site: Path, tmp_path: Path) -> None:  # noqa: F811
    into = tmp_path / "units"
    told = json.loads(mover("units", "write", *files(site), "--into", str(into), "--json").out)
    assert [one["action"] for one in told] == ["write"] * 3
    clean = (into / "mover.service.d/50-tiers.conf").read_text()
    assert "ReadWritePaths=/flash/mover" in clean and "InaccessiblePaths=/intake" in clean
    assert f"LoadCredential=archive-keys:{site}/credentials/archive-keys" in clean
    identified = (into / "mover-identified.service.d/50-tiers.conf").read_text()
    assert "BindReadOnlyPaths=/intake" in identified and "/flash" not in identified
    # keys where the unit itself names them need no line; those in the folder of that side replace it
    assert "vault.key" not in clean + identified
    for name in ("vault.key", "certificate.key"):
        (site / "identified" / name).write_text("")
    assert mover("units", "write", *files(site), "--into", str(into)).status == 0
    told = (into / "mover-identified.service.d/50-tiers.conf").read_text()
    for name in ("vault.key", "certificate.key"):
        assert f"LoadCredential={name}:{site}/identified/{name}\n" in told
        (site / "identified" / name).unlink()
    assert mover("units", "write", *files(site), "--into", str(into)).status == 0
    again = json.loads(mover("units", "write", *files(site), "--into", str(into), "--json").out)
    assert [one["action"] for one in again] == ["keep"] * 3
    ours = into / "mover.service.d/local.conf"
    ours.write_text("[Service]\n")
    fewer = json.loads(mover("units", "write", files(site)[0], "--into", str(into), "--json").out)
    assert fewer[0] == {"action": "remove", "file": str(into / "mover-identified.service.d/50-tiers.conf")}
    assert not Path(fewer[0]["file"]).exists() and ours.exists()


def test_secrets_of_the_other_settings_are_hidden_wherever_they_stand(mover: Mover, site: Path, tmp_path: Path) -> None:  # noqa: F811
    """Whoever took over the clean daemon would log in as the vault's, or open a dump with the keys of the drills. A
    folder of their own stays hidden when a file in it is renamed over; what both settings name stays seen."""
    (site / "identified" / "dsn").rename(site / "dsn-identified")
    text = (site / "identified.yaml").read_text().replace(": identified/dsn", ": dsn-identified")
    text += "receivers: {ward: {kind: webhook, url: 'https://chat.ward.example/x', token_file: chat-token}}\n"
    text += "drill_key_a: drill-a.key\ndrill_key_b: drill-b.key\n"
    (site / "identified.yaml").write_text(text)
    (site / "chat-token").write_text("wren")
    clean = (site / "mover.yaml").read_text()
    (site / "mover.yaml").write_text(
        clean + "lineage: {url: 'https://x.ward.example', namespace: w, token_file: chat-token}\n"
    )
    into = tmp_path / "units"
    assert mover("units", "write", *files(site), "--into", str(into)).status == 0
    for unit in ("mover.service", "mover-watcher.service"):
        told = (into / f"{unit}.d/50-tiers.conf").read_text().splitlines()
        hidden = {line.partition("=-")[2] for line in told if line.startswith("InaccessiblePaths=-")}
        kept = {str(site / name) for name in ("dsn-identified", "identified", "drill-a.key", "drill-b.key")}
        assert kept | {"/etc/ssl/private", "/var/lib/mover-identified"} <= hidden
        assert (
            not hidden & {str(site / name) for name in ("dsn", "chat-token", "mover.yaml")} and str(site) not in hidden
        )


def test_what_fstab_would_mount_is_waited_for_while_its_server_is_away(
    mover: Mover,  # noqa: F811
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each upgrade writes the drop-ins again. One that fell into the night of the file server would require for good
    what was waited for, and the next such night take the daemon down."""
    fstab, into = tmp_path / "fstab", tmp_path / "units"
    fstab.write_text("# servers\nnas:/flash /flash nfs4 hard,_netdev 0 0\nUUID=1 none swap sw 0 0\n")
    monkeypatch.setattr("mover.cli.units.FSTAB", fstab)
    assert mover("units", "write", *files(site), "--into", str(into)).status == 0
    clean = (into / "mover.service.d/50-tiers.conf").read_text()
    assert "Wants=flash.mount" in clean and "ReadWritePaths=-/flash/mover" in clean
    fstab.unlink()
    said = mover("units", "write", *files(site), "--into", str(into))
    assert "mover.service does not wait for flash.mount any more" in said.out + said.err


def test_a_tier_that_the_units_could_not_see_is_refused_by_name(mover: Mover, site: Path, tmp_path: Path) -> None:  # noqa: F811
    text = (site / "mover.yaml").read_text().replace("/flash/mover\n", "/tmp/flash\n")
    (site / "mover.yaml").write_text(text)
    said = mover("units", "write", *files(site), "--into", str(tmp_path / "units"))
    assert said.status != 0 and "tier flash" in said.err and not (tmp_path / "units").exists()


def test_an_uninstall_is_told_where_everything_stands(mover: Mover, site: Path) -> None:  # noqa: F811
    """What is left behind and forgotten is a patient's name on a disk that is sold."""
    rows = json.loads(mover("units", "where", *files(site), "--json").out)
    places = {one["where"] for one in rows}
    assert {"/intake", "/flash/mover", "s3://slides", "/var/lib/mover", "/var/lib/mover-identified"} <= places
    assert any(one["what"] == "vault key" for one in rows)


@pytest.mark.slow
def test_the_exposure_stays_small_as_installed_with_its_drop_ins(mover: Mover, site: Path, laid_out: Path) -> None:  # noqa: F811
    """What the units are told about a site must not undo what they ship with."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here (Debian package: systemd)")
    into = laid_out / "etc/systemd/system"
    assert mover("units", "write", *files(site), "--into", str(into)).status == 0
    for unit in UNITS:
        command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--root={laid_out}", unit]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said.stdout)
        if found is None:
            pytest.skip(f"this systemd-analyze cannot judge offline: {said.stderr.strip()[:100]}")
        assert float(found[1]) <= EXPOSURE_AT_MOST, said.stdout


@pytest.mark.slow
def test_systemd_understands_every_line(mover: Mover, site: Path, laid_out: Path) -> None:  # noqa: F811
    """It ignores what it does not know, with a line in a log nobody reads."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here (Debian package: systemd)")
    into = laid_out / "etc/systemd/system"
    assert mover("units", "write", *files(site), "--into", str(into)).status == 0
    for unit in UNITS:
        told = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", f"--root={laid_out}", unit],
            capture_output=True,
            text=True,
            check=False,
        )
        wrong = [line for line in told.stderr.splitlines() if re.search(r"mover\S*:\d+: |50-tiers", line)]
        assert wrong == []
