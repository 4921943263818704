"""The machine with the daemon's state is lost, and docs/looking-after.md is followed until a new one works on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mover.clock import monotonic_s, pause
from tests.docs.commands import ROOT, lines
from tests.support.slides import svs
from tests.system.ward import WAIT_S, Ward

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.xdist_group("dumps")]

# the table of the page: what is kept apart from the machine, besides mover.yaml, the policies and the two key files
KEPT = ("vault.key", "vault.tombstones", "repository-password", "audit.key", "certificate.key")
PAGE = "looking-after.md"


class Console:
    """Types commands as the page has them: each a process, by a person whose token lies in a file."""

    def __init__(self, ward: Ward, folder: Path) -> None:
        self.ward, self.folder = ward, folder

    def person(self, name: str, role: str) -> None:
        """Somebody of his own, known here for days: a token that another person's token made would be that person's."""
        secret = f"mvr_{name}-{hashlib.sha256(name.encode()).hexdigest()}"
        (self.folder / name).write_text(secret)
        self.ward.change(
            "insert into mover.token (id, project_id, hash, actor, role, person, created_at)"
            " values (%s, 'demo', %s, %s, %s, %s, now() - interval '9 days')",
            f"token-{name}", hashlib.sha256(secret.encode()).digest(), name, role, f"token-{name}",
        )  # fmt: skip

    def type(self, text: str, *, who: str = "ann", status: int | None = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(text)], capture_output=True, text=True, check=False, timeout=4 * WAIT_S,
            cwd=ROOT, env=os.environ | {"MOVER_CONFIG": str(self.ward.site.config), "COLUMNS": "300",
                                        "MOVER_TOKEN_FILE": str(self.folder / who)},
        )  # fmt: skip
        assert status is None or done.returncode == status, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def told(self, text: str, *, who: str = "ann", status: int | None = 0) -> Any:
        return json.loads(self.type(f"{text} --json", who=who, status=status))


def until(look: Callable[[], Any], what: str) -> Any:
    deadline = monotonic_s() + WAIT_S
    while monotonic_s() < deadline:
        if found := look():
            return found
        pause(0.3)
    raise AssertionError(what)


def on_the_page() -> Iterator[str]:
    """The commands from the restore on, in the page's order."""
    typed = [line.text for line in lines(ROOT / "docs" / PAGE) if line.typed]
    start = next(at for at, text in enumerate(typed) if text.startswith("mover vault restore"))
    end = next(at for at, text in enumerate(typed) if at > start and text == "mover audit verify")
    return iter(typed[start : end + 1])


@pytest.fixture
def console(make_ward: Callable[[Path], Ward], tmp_path: Path) -> Console:
    source = tmp_path / "source"
    for batch, width in (("b1", 320), ("b2", 384), ("b3", 448)):
        (source / batch).mkdir(parents=True)
        (source / batch / f"H26-{width}.svs").write_bytes(svs(size=(width, 256)))
    ward = make_ward(source)
    # a socket would know root without a token, and who does what would not be seen
    ward.change_settings(lambda s: s["listen"].pop("unix", None))
    for name in ("dump", "audit"):
        more = {"audit": {"every_s": 10}, "dump": {}}[name]
        policy = {"kind": name, "name": name, "to": ["protect", "archive"], **more}
        (ward.site.policies / f"{name}.yaml").write_text(yaml.safe_dump(policy))
    images = ward.site.policies / "images.yaml"
    images.write_text(images.read_text().replace("require_thumbnail: true", "require_thumbnail: false"))
    return Console(ward, tmp_path)


def start(ward: Ward) -> None:
    ward.site.await_daemon(ward._spawn())


def lose(ward: Ward, away: Path) -> None:
    """The new machine has what the page's table keeps elsewhere, and an empty state folder."""
    shutil.move(ward.site.state, away)
    ward.site.state.mkdir(mode=0o700)
    for name in KEPT:
        if (away / name).exists():
            shutil.copy2(away / name, ward.site.state / name)


def published(console: Console, folder: str) -> str:
    before = {one["number"] for one in console.told("mover slide list")["slides"]}
    console.type(f"mover batch ready {folder} --expected 1 --wait")
    [new] = [one["number"] for one in console.told("mover slide list")["slides"] if one["number"] not in before]
    return str(new)


def walked(console: Console) -> dict[str, Any]:
    """Every tier; of the bucket what is slides, as the page says."""
    more = {"intake": "", "flash": "", "protect": "", "archive": " --prefix slides"}
    return {tier: console.told(f"mover scan start {tier}{words} --wait") for tier, words in more.items()}


def followed(console: Console, keys: str) -> str:
    """The page's commands, as they stand there; the last one's answer."""
    statement, said = "STATEMENT", ""
    for line in on_the_page():
        text = line.replace("--key-a A --key-b B", keys).replace("STATEMENT", statement)
        if text == "systemctl start mover":
            start(console.ward)
        elif text == "mover scan start TIER":
            assert {one["state"] for one in walked(console).values()} == {"complete"}
        elif text == "mover audit verify":
            until(lambda: console.told("mover audit verify", status=None)["whole"], "the loss was never on the tiers")
            said = console.type(text)
        else:
            # the one who asked does not approve; nothing that the doctor calls bad comes of the loss
            said = console.type(text, who="cora" if "approve" in text else "ann")
            statement = next(iter(re.findall(r"acceptance-\w+", said)), statement)
    return said


def test_the_machine_is_lost_and_the_page_brings_back_a_site_that_works_on(console: Console, tmp_path: Path) -> None:
    """Two people with the page, the files of its table and the tiers: nothing else is left of the machine."""
    ward = console.ward
    keys = f"--key-a {tmp_path / 'a'} --key-b {tmp_path / 'b'}"
    console.type(f"mover vault keys new --a {tmp_path / 'a'} --b {tmp_path / 'b'}")
    start(ward)
    for name, role in (("ann", "admin"), ("cora", "custodian")):
        console.person(name, role)
    slide = published(console, "b1")
    run = console.told('mover run request --expression "size_bytes > 0" --wait')["id"]
    dump = console.told("mover vault dump")
    drilled = console.told(f"mover vault drill {keys}")
    assert (drilled["dump"], drilled["different"], drilled["recorded"]) == (dump["id"], [], True)
    # after the dump: a snapshot and a slide that it does not know
    console.type(f"mover run finish {run} --wait")
    [snapshot] = console.told(f"mover snapshot list --run {run}")["snapshots"]
    files = console.told(f"mover snapshot files {snapshot['id']}")["files"]
    lost = published(console, "b2")
    until(lambda: console.told("mover audit verify")["uncovered"] == 0, "no checkpoint came after the dump")
    ward.stop()
    public = (ward.site.state / "vault.public").read_bytes()
    lose(ward, tmp_path / "lost")

    told = followed(console, keys)

    assert "whole but for what is known lost" in told and "ann and cora: restored from the newest dump" in told
    # the pair is the old one, without a file of it that was kept: what is new is sealed for the two, too
    assert (ward.site.state / "vault.public").read_bytes() == public
    assert lost not in console.type("mover slide list")
    assert "as it was sealed" in console.type(f"mover check {run} --read")
    # its row is new, what it holds is not
    [found] = until(
        lambda: console.told(f"mover snapshot list --run {run}")["snapshots"], "no snapshot was found again"
    )
    assert found["state"] == "checked" and found["bytes"] == snapshot["bytes"]
    assert console.told(f"mover snapshot files {found['id']}")["files"] == files
    console.type("mover batch ready b2 --expected 1 --wait")  # lost with its record, and taken in again
    new = published(console, "b3")
    reveal = console.told(f"mover vault reveal {slide} {new} {keys} --purpose 'after the loss'", who="cora")
    assert reveal == {slide: ["b1/H26-320.svs"], new: ["b3/H26-448.svs"]}
    assert console.told("mover vault dump")["state"] == "verified"
    assert console.type("mover audit verify").startswith(told.split(",")[0])
    [restored] = [one for one in console.told("mover vault dumps")["dumps"] if one["id"] == dump["id"]]
    assert restored["state"] == "failed"  # in its own moment it was being made; nobody makes it over, or away
    assert {f"dumps/{dump['id']}.json"} <= ward.objects().keys()
