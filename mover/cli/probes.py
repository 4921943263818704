"""Trying the places a person names, before anything is built on them. Shared by `init` and `doctor`."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.settings import Settings, Tier
    from mover.tiers.object import ObjectTier
    from mover.tiers.posix import PosixTier

ANSWER_S = 10.0


class Finding(Struct, frozen=True):
    """One thing that was looked at. `remedy` says what to do, and is there unless it is good."""

    about: str
    verdict: str  # good, warn or bad
    what: str
    remedy: str = ""


def good(about: str, what: str) -> Finding:
    return Finding(about, "good", what)


def warn(about: str, what: str, remedy: str) -> Finding:
    return Finding(about, "warn", what, remedy)


def bad(about: str, what: str, remedy: str) -> Finding:
    return Finding(about, "bad", what, remedy)


def print_finding(out: Output, finding: Finding) -> None:
    colour = {"good": "green", "warn": "yellow", "bad": "red"}[finding.verdict]
    out.note(f"[{colour}]{finding.verdict:>5}[/]  {finding.about}: {finding.what}")
    if finding.remedy:
        out.note(f"         to do: {finding.remedy}")


def make_tier(tier: Tier, *, identity: str | None = None) -> PosixTier | ObjectTier:
    from mover.tiers.object import ObjectTier
    from mover.tiers.posix import PosixTier

    if tier.path is not None:
        return PosixTier(tier.name, tier.zone, tier.path, role=tier.role, read_only=tier.read_only, identity=identity)
    return ObjectTier.of(tier, identity=identity)


def user_of(settings: Settings) -> os.stat_result | None:
    """Root may everything, the daemon is somebody else: who owns the state folder. None where that is no question."""
    if os.geteuid() != 0 or not settings.state_dir.is_dir():
        return None
    owner = settings.state_dir.stat()
    return owner if owner.st_uid else None


def may(path: Path, way: str, user: os.stat_result) -> bool:
    """access(2) asks with the real user: so a child takes it."""
    asked = ["/usr/bin/test", f"-{way}", str(path)]
    groups = os.getgrouplist(name_of(user.st_uid), user.st_gid)
    told = subprocess.run(
        asked, user=user.st_uid, group=user.st_gid, extra_groups=groups, timeout=ANSWER_S, check=False
    )
    return told.returncode == 0


def name_of_unit(role: str) -> str:
    """The user whom the unit of that daemon names."""
    return "mover-identified" if role == "identified" else "mover"


def name_of(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # an id that nobody has here: only its group counts
        return "nobody"


@contextmanager
def as_its_user(settings: Settings) -> Iterator[str]:
    """Tiers are looked at, and tried, by who works there; in words who that is. A file server takes root for nobody
    (root_squash): what root may says nothing there, and on a disk root may everything."""
    # before: an environment may be readable by root alone
    from mover.owner import acting
    from mover.tiers import identity, locking, mounts, object, posix  # noqa: F401

    user = user_of(settings)
    with acting(settings.state_dir):
        yield _who(user.st_uid) if user else "this user"


def _who(uid: int) -> str:
    name = name_of(uid)
    return f"user {uid if name == 'nobody' else name}"


def look_at_place(tier: Tier, *, who: str = "this user") -> list[Finding]:
    """What can be said of a tier's place without writing to it, by the rights of who asks (`as_its_user`)."""
    if tier.path is None:
        return []
    about = f"tier {tier.name}"
    try:
        there = stat.S_ISDIR(tier.path.stat().st_mode)
    except PermissionError:
        return [bad(about, f"a folder above it is closed to {who}", f"Let them enter it: namei -l {tier.path}")]
    except OSError:
        there = False
    if not there:
        return [bad(about, "the folder is not there", f"mount {tier.path}")]
    if not _may(tier.path, os.R_OK | os.X_OK):
        return [bad(about, f"the folder cannot be read by {who}", "Let them read it, such as by a group of theirs.")]
    found = []
    for folder in (tier.path, tier.path / ".mover") if not tier.read_only else ():
        if os.path.isdir(folder) and not _may(folder, os.W_OK | os.X_OK):
            found.append(bad(about, f"{folder} cannot be written by {who}", "Give it to them, or a group of theirs."))
    if tier.role == "source":
        found.append(_look_at_source(tier.path, about, who))
    return found


def _may(path: Path, way: int) -> bool:
    return os.access(path, way, effective_ids=True)


def _look_at_source(path: Path, about: str, who: str) -> Finding:
    if not any(os.scandir(path)):
        return warn(about, "the folder is empty", "An unmounted source looks like this; is it mounted?")
    if _may(path, os.W_OK) and not os.statvfs(path).f_flag & os.ST_RDONLY:
        return warn(about, f"{who} could write to the source", f"mount -o remount,ro {path}")
    return good(about, "readable, and not writable")


def overlapping(tiers: list[Tier]) -> list[Finding]:
    """Two tiers in one folder would read each other's bytes; across zones that is a leak."""
    placed = [(tier.name, tier.path.resolve()) for tier in tiers if tier.path is not None]
    return [
        bad(f"tier {one}", f"lies inside tier {other}", "Give every tier a folder of its own.")
        for one, inner in placed
        for other, outer in placed
        if one != other and inner.is_relative_to(outer)
    ]


def shared_devices(tiers: list[Tier]) -> list[Finding]:
    """What protects should not die with what it protects."""
    placed = [(tier.role, tier.path) for tier in tiers if tier.path is not None and os.path.isdir(tier.path)]
    devices = {role: os.stat(path).st_dev for role, path in placed}
    if "flash" in devices and devices["flash"] == devices.get("protect"):
        return [warn("tier protect", "flash and protect are one file system", "Put snapshots on other disks.")]
    return []


def describe(tier: PosixTier | ObjectTier) -> str:
    """What a probe found, in words."""
    from mover.tiers.posix import PosixTier

    traits = tier.traits
    words = [name.replace("_", " ") for name in traits.__struct_fields__ if getattr(traits, name) is True]
    if isinstance(tier, PosixTier):
        from mover.cli.output import size

        status = os.statvfs(tier.root)
        words.insert(0, f"{size(status.f_bavail * status.f_frsize)} free of {size(status.f_blocks * status.f_frsize)}")
    return ", ".join(words)
