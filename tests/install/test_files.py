"""What an installation lays out: where, whose, and what it never overwrites."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from mover import settings
from mover.cli import command as top
from mover.errors import SettingsInvalid
from mover.policy import read_as
from tests.install.conftest import PACKAGING, ROOT, lay_out, uncommented

EXAMPLES = ["mover.example.yaml", "identified.example.yaml"]


def test_a_file_that_was_edited_here_stays_and_the_new_one_stands_beside_it(laid_out: Path) -> None:
    """An administrator's hours must not end with an upgrade; nor should what is new stay unknown."""
    example = laid_out / "etc/mover/mover.example.yaml"
    shipped = example.read_text()
    assert lay_out(laid_out).stderr == "" and not example.with_name("mover.example.yaml.new").exists()
    example.write_text("# ours\n")
    assert "was edited here and stays" in lay_out(laid_out).stderr
    assert example.read_text() == "# ours\n"
    assert example.with_name("mover.example.yaml.new").read_text() == shipped


def test_what_is_laid_out_is_for_everybody_whatever_roots_umask(tmp_path: Path) -> None:
    """Hardened hosts give root 077 or 027. A package built so would shut each site's settings and programs to the
    daemons' own users."""
    before = os.umask(0o077)
    try:
        lay_out(tmp_path / "root")
    finally:
        os.umask(before)
    made = [path for path in (tmp_path / "root").rglob("*") if not path.is_symlink()]
    wanted = {path: 0o055 if path.is_dir() else 0o044 for path in made}
    assert [path for path, mode in wanted.items() if path.stat().st_mode & mode != mode] == []


@pytest.mark.parametrize("name", ["files", "stage", "words", "venv", "install", "release", "deb/build"])
def test_whatever_makes_files_says_for_whom(name: str) -> None:
    assert re.search(r"^set -eu?\numask 022 ", (PACKAGING / name).read_text(), re.MULTILINE)


def test_a_staged_installation_is_taken_out_and_nothing_beside_it(tmp_path: Path) -> None:
    """/usr/local is what everybody's fingers know, and the folder may be the root of another machine."""
    local = tmp_path / "usr/local"
    for made in (local / "1-1/bin", local / "share", tmp_path / "usr/bin"):
        made.mkdir(parents=True)
    (local / "current").symlink_to("1-1")
    (local / "1-1/installed").write_text("/usr/bin/mover\n/etc/mover/mover.example.yaml\n")
    for kept in (local / "share/precious", tmp_path / "usr/bin/other", tmp_path / "usr/bin/mover"):
        kept.touch()
    subprocess.run(["sh", str(PACKAGING / "uninstall"), str(tmp_path), "/usr/local"], check=True, capture_output=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir() or path.is_symlink()}
    assert left == {"usr/local/share/precious", "usr/bin/other"} and not (local / "1-1").exists()


def test_another_prefix_is_said_everywhere(tmp_path: Path) -> None:
    """A unit that starts what stands elsewhere starts nothing."""
    told = lay_out(tmp_path, "/srv/mover").stdout.split()
    unit = (tmp_path / "usr/lib/systemd/system/mover.service").read_text()
    assert "ExecStart=/srv/mover/current/bin/mover daemon" in unit
    assert os.readlink(tmp_path / "usr/bin/mover") == "/srv/mover/current/bin/mover"
    made = {"/" + str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert made == set(told)
    files = [path for path in sorted(made) if not (tmp_path / path[1:]).is_symlink()]
    assert [path for path in files if "/opt/mover" in (tmp_path / path[1:]).read_text()] == []


def test_users_and_folders_are_those_of_the_units(laid_out: Path) -> None:
    users = (laid_out / "usr/lib/sysusers.d/mover.conf").read_text()
    folders = (laid_out / "usr/lib/tmpfiles.d/mover.conf").read_text()
    for unit in ("mover", "mover-identified"):
        said = (laid_out / f"usr/lib/systemd/system/{unit}.service").read_text()
        [user] = re.findall(r"^User=(.*)$", said, re.MULTILINE)
        [state] = re.findall(r"^StateDirectory=(.*)$", said, re.MULTILINE)
        assert re.search(rf"^u {user} ", users, re.MULTILINE)
        assert re.search(rf"^d /var/lib/{state} +0700 {user} ", folders, re.MULTILINE)


@pytest.mark.slow
def test_the_users_and_folders_are_made_from_nothing(laid_out: Path) -> None:
    """By systemd's own two tools, in a root that has no user yet."""
    if os.geteuid() or shutil.which("systemd-sysusers") is None:
        pytest.skip("making users in a folder takes root and systemd-sysusers (Debian package: systemd)")
    (laid_out / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (laid_out / "etc/group").write_text("root:x:0:\n")
    for tool in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
        told = subprocess.run([*tool, f"--root={laid_out}", "mover.conf"], capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stderr
    uids = {line.split(":")[0]: int(line.split(":")[2]) for line in (laid_out / "etc/passwd").read_text().splitlines()}
    for user in ("mover", "mover-identified"):
        status = (laid_out / "var/lib" / user).stat()
        assert (status.st_uid, status.st_mode & 0o777) == (uids[user], 0o700)
    assert (laid_out / "etc/mover/credentials").stat().st_mode & 0o777 == 0o700
    apart = (laid_out / "etc/mover/identified").stat()  # root's: nobody else lays links where root writes
    assert (apart.st_uid, apart.st_gid != 0, apart.st_mode & 0o777) == (0, True, 0o750)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_load_as_they_stand_and_uncommented(name: str, tmp_path: Path) -> None:
    """They are copied in a hurry; a line that is refused costs more than the one it explains."""
    for text in ((PACKAGING / name).read_text("utf-8"), uncommented(name)):
        (tmp_path / name).write_text(text)
        read_as(tmp_path / name, settings.SettingsFile, then=lambda _: (), error=SettingsInvalid)


def test_the_examples_name_every_setting_there_is() -> None:
    words = {word for name in EXAMPLES for word in re.findall(r"[a-z_]+(?=:)", uncommented(name))}
    wanted = {
        field
        for made in (settings.SettingsFile, settings.DatabaseFile, settings.ListenFile, settings.AccessFile,
                     settings.OidcRoleFile, settings.WorkersFile, settings.TlsFile)
        for field in made.__struct_fields__
    }  # fmt: skip
    assert wanted - words == set()


def test_two_daemons_of_the_examples_are_two_zones() -> None:
    said = {name: yaml.safe_load((PACKAGING / name).read_text()) for name in EXAMPLES}
    assert [one["role"] for one in said.values()] == ["clean", "identified"]
    assert said["mover.example.yaml"]["site"] == said["identified.example.yaml"]["site"]


@pytest.mark.slow
def test_every_command_has_a_man_page(tmp_path: Path) -> None:
    """People on a machine without a browser read these."""
    pytest.importorskip("click_man", reason="click-man writes the pages: pip install click-man")
    import runpy

    made = runpy.run_path(str(PACKAGING / "manpages.py"))["write"](tmp_path)
    names = {path.stem for path in made}
    assert {
        "mover",
        "mover-slurm",
        "mover-kueue",
        "mover-units-write",
        "mover-run-request",
        "mover-doctor",
    } <= names and len(names) > 100
    page = (tmp_path / "mover-units-write.1").read_text()
    assert "drop\\-ins" in page or "drop-ins" in page


@pytest.mark.parametrize("shell", ["zsh", "fish", "bash"])
@pytest.mark.slow
def test_a_shell_completes_from_the_commands_themselves(shell: str) -> None:
    import sys

    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("bash is not here")
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "_MOVER_COMPLETE": f"{shell}_source"}
    told = subprocess.run([sys.executable, "-m", "mover"], env=environment, capture_output=True, text=True, check=True)
    assert "_MOVER_COMPLETE" in told.stdout


SCRIPTS = ["venv", "files", "words", "stage", "install", "uninstall", "release", "image", "deb/build", "deb/postinst",
           "deb/prerm", "deb/postrm"]  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_stop_at_what_fails_and_are_plain_shell(name: str) -> None:
    """dash reads them on Debian; a maintainer's script that goes on after a failure leaves half an upgrade."""
    text = (PACKAGING / name).read_text()
    assert text.startswith("#!/bin/sh\n") and re.search(r"^set -e", text, re.MULTILINE)
    subprocess.run(["sh", "-n", str(PACKAGING / name)], check=True)


def test_the_page_names_commands_and_targets_that_exist() -> None:
    """Somebody types them one by one on a machine that matters."""
    page = (ROOT / "docs/install.md").read_text("utf-8")
    for words in re.findall(r"(?:^|`)(mover(?: --config \S+)? [a-z][^`\n]*)", page, re.MULTILINE):
        named = [word for word in words.split()[1:] if re.fullmatch(r"[a-z]+", word)]
        found: click.Command = top
        for word in named:
            assert isinstance(found, click.Group), words
            inner = found.get_command(click.Context(found), word)
            assert inner is not None, words
            found = inner
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`(?:sudo )?make ([a-z-]+)", page)) <= targets
