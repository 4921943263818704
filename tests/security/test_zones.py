"""No configuration may tie an identified place to a deidentified one: by swapped ends, by nesting, by links, by
mounts. It is said at start, with file, line and column (D4)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from mover import policy, settings
from mover.errors import ConfigError, Denied, PolicyInvalid, SettingsInvalid
from mover.protect.layout import lay_out
from mover.protect.places import restore_place
from mover.repository.reading import Requester
from mover.tiers import mounts, zones
from mover.tiers.zones import check_site, inside, overlap

SITE = """\
version: 1
site: ward
project: demo
tiers:
  intake: {{kind: posix, zone: identified, role: source, path: {source}, read_only: true}}
  inbox: {{kind: posix, zone: deidentified, role: source, path: inbox}}
  archive: {{kind: posix, zone: deidentified, role: archive, path: {archive}}}
  flash: {{kind: posix, zone: deidentified, role: flash, path: {flash}}}
  protect: {{kind: posix, zone: deidentified, role: protect, path: protect}}
"""
ENDS = {
    "images": "kind: images\nname: images\nfrom: {}\nto: {}\n",
    "stage": "kind: stage\nname: stage\nfrom: {}\nto: {}\n",
    "protect": "kind: protect\nname: protect\nfrom: {}\nto: {}\n",
    "archive": "kind: archive\nname: archive\ntier: {}\nsecond_copy: {}\n",
    "clean": "kind: clean\nname: clean\nfrom: {}\n",
    "records": "kind: records\nname: records\nfrom: {}\ntables:\n  - name: images1\n"
    "    columns: {{f: {{class: image}}}}\n",
}


def check(folder: Path, text: str = "", *, source: str = "intake", archive: str = "archive", flash: str = "flash",
          state: str = "state") -> None:  # fmt: skip
    (folder / "mover.yaml").write_text(
        SITE.format(source=source, archive=archive, flash=flash) + f"state_dir: {state}\n"
    )
    (folder / "p.yaml").write_text(text)
    book = policy.load_files([folder / "p.yaml"] if text else [])
    check_site(settings.load(folder / "mover.yaml"), book)


def whole(kind: str, *ends: str) -> str:
    return ENDS[kind].format(*ends)


@pytest.mark.parametrize(
    ("kind", "ends"),
    [("archive", ("archive", "elsewhere")), ("images", ("intake", "archive")), ("stage", ("archive", "flash")),
     ("protect", ("flash", "protect")),
     ("clean", ("flash",)), ("records", ("intake",)), ("images", ("elsewhere", "archive"))],
)  # fmt: skip
def test_policies_that_go_the_right_way_pass(tmp_path: Path, kind: str, ends: tuple[str, ...]) -> None:
    check(tmp_path, whole(kind, *ends))


@pytest.mark.parametrize(
    ("kind", "ends", "line"),
    [
        ("images", ("archive", "intake"), 3),
        ("images", ("inbox", "archive"), 3),      # a silo whose zone is a claim: nothing was verified
        ("images", ("intake", "intake"), 4),
        ("images", ("intake", "flash"), 4),       # past the archive
        ("stage", ("intake", "flash"), 3),
        ("stage", ("archive", "intake"), 4),
        ("protect", ("flash", "intake"), 4),
        ("protect", ("intake", "protect"), 3),
        ("archive", ("intake", "elsewhere"), 3),
        ("archive", ("archive", "archive"), 4),   # a tier is no second copy of itself
        ("archive", ("archive", "flash"), 4),     # where other workflows remove what is theirs
        ("clean", ("intake",), 3),
        ("records", ("archive",), 3),
    ],
)  # fmt: skip
def test_policies_that_go_the_wrong_way_are_refused_where_they_stand(
    tmp_path: Path, kind: str, ends: tuple[str, ...], line: int
) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        check(tmp_path, whole(kind, *ends))
    assert any(str(one["where"]).rpartition("/")[2].startswith(f"p.yaml:{line}:") for one in caught.value.details)


@pytest.mark.parametrize("places", [
    {"source": "data", "flash": "data"}, {"source": "data", "flash": "data/flash"},
    {"source": "data/in", "archive": "data"}, {"source": "link", "flash": "data"},
    {"source": "state/in"}, {"source": "data", "state": "data/state"},
])  # fmt: skip
def test_a_tier_inside_an_identified_one_is_refused(tmp_path: Path, places: dict[str, str]) -> None:
    """What is walked as a source would be served as flash, without any engine in between."""
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    with pytest.raises(SettingsInvalid) as caught:
        check(tmp_path, **places)
    assert "mover.yaml:" in caught.value.where


@pytest.mark.parametrize(
    "root", ["{}/intake", "{}/intake/batch", "{}", "/", "{}/door", "{}/state", "here", "{}/x/../intake"]
)
def test_a_declared_root_that_leads_into_a_source_or_the_state_is_refused(tmp_path: Path, root: str) -> None:
    """`finish` opens whatever lies below a root for whoever asks."""
    (tmp_path / "intake/batch").mkdir(parents=True)
    (tmp_path / "door").symlink_to("intake/batch")
    with pytest.raises(ConfigError) as caught:
        check(tmp_path, whole("protect", "flash", "protect") + f"roots: [{root.format(tmp_path)!r}]\n")
    assert "p.yaml:5:" in caught.value.where


@pytest.mark.parametrize("now", [{"zone": "deidentified"}, {"role": "archive"}, {"kind": "object"}])
def test_a_registered_tier_keeps_its_zone_role_and_kind(tmp_path: Path, now: dict[str, str]) -> None:
    """Found: a source has no identity file; `zone: deidentified` in the settings, and nothing asked again."""
    (tmp_path / "mover.yaml").write_text(SITE.format(source="intake", archive="archive", flash="flash"))
    tier = settings.load(tmp_path / "mover.yaml").tiers["intake"]
    registered = {"kind": "posix", "zone": "identified", "role": "source"}
    zones.refuse_changed(tier, **registered)
    with pytest.raises(SettingsInvalid):
        zones.refuse_changed(tier, **{**registered, **now})


def test_neighbours_do_not_overlap(tmp_path: Path) -> None:
    """A common prefix of a name is no nesting."""
    for name in ("data", "data2"):
        (tmp_path / name).mkdir()
    assert not overlap(tmp_path / "data", tmp_path / "data2")
    assert overlap(tmp_path / "data", tmp_path / "data")
    assert not inside(tmp_path, tmp_path / "data") and inside(tmp_path / "data", tmp_path)


MOUNTS = """\
20 1 8:1 / / rw - ext4 /dev/a rw
21 20 8:2 / /intake rw - xfs /dev/b rw
22 20 8:2 /2026\\040may /home/bob/data rw - xfs /dev/b rw
23 20 8:1 /srv /export rw - ext4 /dev/a rw
24 20 8:3 / /flash rw - xfs /dev/c rw
"""


@pytest.mark.parametrize(
    ("place", "tier", "expected"),
    [
        ("/home/bob/data", "/intake", True),      # a bind mount of a part of the source
        ("/home", "/intake", True),               # with such a mount somewhere below
        ("/home/bob/other", "/intake", False),
        ("/export/x", "/srv", True),              # the source's parent under another name
        ("/export/x", "/srv/y", False),
        ("/flash", "/intake", False),
        ("/", "/intake", True),
    ],
)  # fmt: skip
def test_mounts_are_seen_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, tier: str, expected: bool
) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    monkeypatch.setattr(mounts, "MOUNTS", str(tmp_path / "mountinfo"))
    monkeypatch.setattr(os.path, "realpath", lambda path: str(path))
    assert overlap(Path(place), Path(tier)) is expected
    assert overlap(Path(tier), Path(place)) is expected


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_source_mounted_below_a_declared_root_later_on_is_neither_protected_nor_restored_to(tmp_path: Path) -> None:
    """The start cannot know it: so finish and restore look again."""
    tmp_path.chmod(0o755)
    for name in ("intake", "shared", "shared/door", "flash"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    (tmp_path / "intake/Mueller.svs").write_text("identified")
    subprocess.run(["mount", "--bind", tmp_path / "intake", tmp_path / "shared/door"], check=True)
    try:
        run = SimpleNamespace(id="run-1", posix_uid=64_001, posix_gid=64_001)
        for path in ("shared/door", "shared/door/Mueller.svs", "shared"):
            with pytest.raises(Denied):
                lay_out(
                    run, finish={"artifacts": [str(tmp_path / path)]}, manifest="{}", roots=(str(tmp_path / "shared"),),
                    flash_root=tmp_path / "flash", seen_as="/flash", forbidden=[tmp_path / "intake"],
                )  # fmt: skip
        target = restore_place(
            str(tmp_path / "shared/door/x"), requester=Requester(64_001, 64_001), local=False,
            roots=(str(tmp_path / "shared"),), forbidden=[tmp_path / "intake"],
        )  # fmt: skip
        with pytest.raises(Denied), target:
            pass
    finally:
        subprocess.run(["umount", tmp_path / "shared/door"], check=True)


def test_a_tier_that_answers_nothing_is_judged_by_its_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To resolve links on a mount whose server is gone would wait for ever, and no other tier would be served."""
    asked: list[str] = []
    honest = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: asked.append(str(path)) or honest(path))
    place = zones._Places(frozenset((tmp_path / "silent",)))
    assert place.overlap(tmp_path / "silent", tmp_path)
    assert not place.overlap(tmp_path / "silent", tmp_path / "other")
    assert str(tmp_path / "silent") not in asked and str(tmp_path / "other") in asked
