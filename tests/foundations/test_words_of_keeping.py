"""What a site's words about locks and dumps must not say, and where each mistake is told: at start, by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mover import policy, settings
from mover.decide.fitness import lost, missing
from mover.errors import ConfigError, PolicyInvalid
from mover.model.policy import DumpPolicy, ProtectPolicy
from mover.model.tiers import Traits
from mover.tiers.zones import check_site

SITE = """\
version: 1
site: ward
project: demo
tiers:
  intake: {kind: posix, zone: identified, role: source, path: intake, read_only: true}
  inbox: {kind: posix, zone: deidentified, role: source, path: inbox, read_only: true}
  archive: {kind: posix, zone: deidentified, role: archive, path: archive}
  inside: {kind: posix, zone: deidentified, role: archive, path: archive/below}
  flash: {kind: posix, zone: deidentified, role: flash, path: flash}
  protect: {kind: posix, zone: deidentified, role: protect, path: protect}
  vault-bucket: {kind: object, zone: deidentified, role: protect, url: "s3://b/p", credentials_file: keys}
"""
PROTECT = "kind: protect\nname: protect\nfrom: flash\nto: {}\n{}\n"
DUMP = "kind: dump\nname: dump\nto: [{}, {}]\n{}\n"


def judged(folder: Path, text: str) -> None:
    (folder / "mover.yaml").write_text(SITE)
    (folder / "p.yaml").write_text(text)
    check_site(settings.load(folder / "mover.yaml"), policy.load_files([folder / "p.yaml"]))


@pytest.mark.parametrize(
    "text",
    [
        PROTECT.format("vault-bucket", "lock_s: 86400"),
        PROTECT.format("vault-bucket", "lock_s: 86400\nlock_mode: governance"),
        PROTECT.format("protect", "append_only: chattr"),
        DUMP.format("archive", "vault-bucket", ""),
        DUMP.format("archive", "protect", 'at: "23:59"\ntime_zone: Europe/Berlin'),
    ],
)
def test_what_can_be_kept_passes(tmp_path: Path, text: str) -> None:
    judged(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (PROTECT.format("protect", "lock_s: 86400"), 5, "is a folder, which has no object lock"),
        (PROTECT.format("vault-bucket", "append_only: chattr"), 5, "is a bucket: it has `lock_s`"),
        (PROTECT.format("protect", "append_only: chattr\nlock_s: 86400"), 5, "a tier is one of the two"),
        (PROTECT.format("vault-bucket", "lock_s: 60"), 5, ">= 86400"),
        (DUMP.format("archive", "archive", ""), 3, "two different tiers"),
        (DUMP.format("archive", "inside", ""), 3, "that is one copy, not two"),
        (DUMP.format("archive", "intake", ""), 3, "read-only or identified"),
        (DUMP.format("archive", "inbox", ""), 3, "read-only or identified"),
        (DUMP.format("archive", "nowhere", ""), 3, "there is no tier nowhere"),
        (DUMP.format("archive", "protect", "time_zone: Mars/Olympus"), 4, "is not known"),
        (DUMP.format("archive", "protect", "keep: {}"), 4, "kept for ever"),
    ],
)
def test_what_cannot_be_kept_is_said_by_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    """Not at the first night."""
    with pytest.raises(PolicyInvalid) as refused:
        judged(tmp_path, text)
    assert what in refused.value.what and f"p.yaml:{line}:" in refused.value.where


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("drill_key_a: a\n", "come together or not at all"),
        ("database: {embedded: true, dump_dsn_file: x}\n", "either `embedded: true`"),
        ("tiers:\n  fast: {kind: object, zone: deidentified, role: flash, url: 's3://b', credentials_file: k}\n",
         "a flash tier is a file system"),
    ],
)  # fmt: skip
def test_half_a_setting_is_refused(tmp_path: Path, more: str, what: str) -> None:
    (tmp_path / "mover.yaml").write_text("version: 1\nsite: ward\nproject: demo\n" + more)
    with pytest.raises(ConfigError) as refused:
        settings.load(tmp_path / "mover.yaml")
    assert what in str(refused.value.details)


def test_both_drill_keys_arrive(tmp_path: Path) -> None:
    (tmp_path / "mover.yaml").write_text("version: 1\nsite: ward\nproject: demo\ndrill_key_a: a\ndrill_key_b: b\n")
    assert settings.load(tmp_path / "mover.yaml").drill_keys == (tmp_path / "a", tmp_path / "b")


def test_a_bucket_without_locks_is_refused_with_what_helps() -> None:
    """The policy would be a promise that the store does not keep."""
    asked = ProtectPolicy(name="protect", flash="flash", repository="bucket", lock_s=86_400)
    [(key, what)] = missing(asked, {"bucket": Traits(versioning=True)})
    assert key == "lock_s" and "append_only: chattr" in what
    assert list(missing(asked, {"bucket": Traits(object_lock=True)})) == []
    assert list(missing(DumpPolicy(name="dump", targets=("a", "b")), {"a": Traits()})) == []


def test_a_tier_that_can_do_less_than_when_it_was_registered_is_told() -> None:
    """Drift: versions switched off, another server behind the name."""
    before = Traits(conditional_put=True, object_lock=True, versioning=True, filesystem="ext4")
    assert lost(before, Traits(conditional_put=True, filesystem="xfs")) == ["object_lock", "versioning"]
    assert lost(before, before) == [] and lost(Traits(), before) == []
