"""What a site's words must not say about its zones, judged at start (design D4): which tiers a policy may tie
together, and that no place outside an identified tier is, by link, mount or nesting, also inside one.

The engine refuses a crossing whatever the configuration says. This is the fence before it: a policy that could
only ever be refused is said with file:line:column, before a single byte is read.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from msgspec import Struct

from mover import policy as reader
from mover.errors import PolicyInvalid, SettingsInvalid
from mover.model.policy import (
    AlarmPolicy,
    ArchivePolicy,
    AuditPolicy,
    BudgetPolicy,
    CleanPolicy,
    DumpPolicy,
    ImagesPolicy,
    MovePolicy,
    Policy,
    ProtectPolicy,
    RecordsPolicy,
    StagePolicy,
    VerifyPolicy,
)
from mover.policy import Loaded, Mistake, PolicyBook
from mover.settings import Settings, Tier
from mover.tiers.mounts import Mount, table

# of each kind of policy: the key in the file, the field, and the role and zone that a tier there must have
_ENDS: dict[type, tuple[tuple[str, str, str, str], ...]] = {
    ImagesPolicy: (("from", "source", "source", "identified"), ("to", "archive", "archive", "deidentified")),
    RecordsPolicy: (("from", "source", "source", "identified"),),
    StagePolicy: (("from", "archive", "archive", "deidentified"), ("to", "flash", "flash", "deidentified")),
    ProtectPolicy: (("from", "flash", "flash", "deidentified"), ("to", "repository", "protect", "deidentified")),
    CleanPolicy: (("from", "flash", "flash", "deidentified"),),
}

# where a policy names tiers: the key in the file, and the field
_NAMES: dict[type, tuple[tuple[str, str], ...]] = {
    BudgetPolicy: (("tier", "tier"),),
    VerifyPolicy: (("tier", "tier"), ("repair_from", "repair_from")),
    ArchivePolicy: (("tier", "tier"), ("second_copy", "second_copy")),
    MovePolicy: (("from", "source"), ("to", "target")),
    DumpPolicy: (("to", "targets"),),
    AuditPolicy: (("to", "targets"),),
    **{kind: tuple((key, field) for key, field, _, _ in ends) for kind, ends in _ENDS.items()},
}


def tiers_named(policy: Policy) -> list[tuple[str, str]]:
    """Every tier that a policy names, each with the key it stands under."""
    found = [(key, getattr(policy, field)) for key, field in _NAMES.get(type(policy), ())]
    if isinstance(policy, ProtectPolicy) and policy.copy is not None:
        found.append(("copy", policy.copy.repository))
    return [
        (key, name) for key, said in found for name in (said if isinstance(said, tuple) else [said]) if name is not None
    ]


def check_site(settings: Settings, policies: PolicyBook, *, silent: Collection[str] = ()) -> None:
    """Raises SettingsInvalid or PolicyInvalid with every mistake. A policy may name tiers of another node; only
    those that are known here are judged here. `silent` tiers answer nothing now: their places are taken as they are
    spelled, since to resolve links there would wait for ever; the engine's own check at every crossing stays."""
    spelled = {settings.tiers[name].path for name in silent}
    place = _Places(frozenset(path for path in spelled if path is not None))
    document = reader.read(settings.file, error=SettingsInvalid)
    reader.refuse(
        [document.mistake(("tiers", name, "path"), what) for name, what in _nested(settings, place)], SettingsInvalid
    )
    mistakes = [mistake for one in policies.all() for mistake in _wrong_ends(one, settings, place)]
    reader.refuse(mistakes, PolicyInvalid)


def refuse_changed(tier: Tier, *, kind: str, zone: str, role: str) -> None:
    """A tier keeps the zone it was registered with: a source has no file that says its own, so one word in the
    settings would let its bytes pass everywhere without a look."""
    if (tier.kind, tier.zone, tier.role) != (kind, zone, role):
        raise SettingsInvalid(
            f"the tier was registered as {_a(zone)} {role} tier of kind {kind}, and that does not change",
            where=tier.name,
            hint="Give another tier another name.",
        )


def _nested(settings: Settings, place: _Places) -> Iterator[tuple[str, str]]:
    placed = [(tier, tier.path) for tier in settings.tiers.values() if tier.path is not None]
    for tier, path in placed:
        if tier.zone != "identified":
            continue
        for other, there in placed:
            if other.zone != "identified" and place.overlap(path, there):
                yield other.name, f"its place overlaps that of {tier.name}, which is identified"
        if place.overlap(path, settings.state_dir):
            yield tier.name, "its place overlaps the state directory"


def _wrong_ends(one: Loaded, settings: Settings, place: _Places) -> Iterator[Mistake]:
    document = reader.parse(one.text, file=one.file)
    for key, field, role, zone in _ENDS.get(type(one.policy), ()):
        tier = settings.tiers.get(getattr(one.policy, field))
        if tier is not None and (tier.role, tier.zone) != (role, zone):
            what = f"{tier.name} is {_a(tier.zone)} {tier.role} tier; here stands {_a(zone)} {role} tier"
            yield document.mistake((key,), what)
    if isinstance(one.policy, MovePolicy):
        yield from (document.mistake((key,), what) for key, what in _about_move(one.policy, settings))
    if isinstance(one.policy, VerifyPolicy):
        yield from (document.mistake((key,), what) for key, what in _about_verify(one.policy, settings))
    if isinstance(one.policy, ArchivePolicy):
        yield from (document.mistake((key,), what) for key, what in _about_archive(one.policy, settings))
    if isinstance(one.policy, DumpPolicy):
        yield from (document.mistake(("to", at), what) for at, what in _about_dump(one.policy, settings, place))
    if isinstance(one.policy, AuditPolicy):
        # a tier that another process of this node writes to is not known here, and not missing
        known = [(at, what) for at, what in _about_copies(one.policy.targets, settings)
                 if one.policy.targets[at] in settings.tiers]  # fmt: skip
        yield from (document.mistake(("to", at), what) for at, what in known)
    if isinstance(one.policy, AlarmPolicy):
        unknown = [(at, name) for at, name in enumerate(one.policy.receivers) if name not in settings.receivers]
        yield from (document.mistake(("to", at), f"the settings have no receiver {name}") for at, name in unknown)
    if isinstance(one.policy, ProtectPolicy):
        yield from (document.mistake((key,), what) for key, what in _about_keeping(one.policy, settings))
        for index, root in enumerate(one.policy.roots):
            for what in _about_root(root, settings, place):
                yield document.mistake(("roots", index), what)


def _about_move(policy: MovePolicy, settings: Settings) -> Iterator[tuple[str, str]]:
    """Tiers of any role, of one zone: what crosses goes through de-identification (D4)."""
    source, target = settings.tiers.get(policy.source), settings.tiers.get(policy.target)
    for key, tier in (("from", source), ("to", target)):
        if tier is not None and tier.zone != "deidentified":
            yield key, f"{tier.name} is {_a(tier.zone)} tier; a move stays among deidentified ones"
    if source is not None and policy.release is not None and (source.read_only or source.kind != "posix"):
        yield "release", f"entries of {source.name} cannot be released: it is read-only or an object tier"
    if target is not None and target.read_only:
        yield "to", f"{target.name} is read-only"


def _about_verify(policy: VerifyPolicy, settings: Settings) -> Iterator[tuple[str, str]]:
    """Only deidentified tiers have digests in the catalog; and a tier is no second copy of itself."""
    tier = settings.tiers.get(policy.tier)
    copy = settings.tiers.get(policy.repair_from) if policy.repair_from else None
    for key, one in (("tier", tier), ("repair_from", copy)):
        if one is not None and one.zone != "deidentified":
            yield key, f"{one.name} is {_a(one.zone)} tier; the catalog knows digests of deidentified ones only"
    if tier is not None and policy.repair_from is not None and tier.read_only:
        yield "repair_from", f"{tier.name} is read-only: nothing can be repaired on it"
    if policy.repair_from == policy.tier:
        yield "repair_from", "a tier is no second copy of itself"


def _about_archive(policy: ArchivePolicy, settings: Settings) -> Iterator[tuple[str, str]]:
    """Two archive tiers that are written: on others people or other workflows remove what is theirs."""
    for key, name in (("tier", policy.tier), ("second_copy", policy.second_copy)):
        tier = settings.tiers.get(name) if name else None
        if tier is not None and (tier.role != "archive" or tier.zone != "deidentified" or tier.read_only):
            yield key, f"{tier.name} is no deidentified archive tier that can be written"
    if policy.second_copy == policy.tier:
        yield "second_copy", "a tier is no second copy of itself"


def _about_keeping(policy: ProtectPolicy, settings: Settings) -> Iterator[tuple[str, str]]:
    tier = settings.tiers.get(policy.repository)
    if tier is not None and policy.append_only is not None and tier.kind != "posix":
        yield "append_only", f"{tier.name} is a bucket: it has `lock_s`"
    if tier is not None and policy.lock_s is not None and tier.kind != "object":
        yield "lock_s", f"{tier.name} is a folder, which has no object lock: it has `append_only: chattr`"


def _about_dump(policy: DumpPolicy, settings: Settings, place: _Places) -> Iterator[tuple[int, str]]:
    """Sealed, so any deidentified tier may hold it; but two in one place are one."""
    yield from _about_copies(policy.targets, settings)
    tiers = [settings.tiers.get(name) for name in policy.targets]
    paths = [tier.path for tier in tiers if tier is not None and tier.path is not None]
    if len(paths) == 2 and place.overlap(paths[0], paths[1]):
        yield 1, f"its place overlaps that of {policy.targets[0]}: that is one copy, not two"


def _about_copies(targets: Sequence[str], settings: Settings) -> Iterator[tuple[int, str]]:
    for at, name in enumerate(targets):
        tier = settings.tiers.get(name)
        if tier is None:
            yield at, f"there is no tier {name}"
        elif tier.zone != "deidentified" or tier.read_only:
            yield at, f"{name} is read-only or identified: this is written to deidentified tiers"


def _about_root(root: str, settings: Settings, place: _Places) -> Iterator[str]:
    pure = PurePosixPath(root)
    if not pure.is_absolute() or ".." in pure.parts or "\0" in root:
        yield "a root is an absolute path without '..'"
        return
    for tier in settings.tiers.values():
        if tier.zone == "identified" and tier.path is not None and place.overlap(Path(root), tier.path):
            yield f"the root overlaps the tier {tier.name}, which is identified"
    if place.overlap(Path(root), settings.state_dir):
        yield "the root overlaps the state directory, which holds the vault's key"


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


# --- places ------------------------------------------------------------------------------------------------


class Spot(Struct, frozen=True):
    """A folder by its file system and its path in there: the same for every mount and link that leads to it."""

    device: str
    path: PurePosixPath

    def holds(self, other: Spot) -> bool:
        return self.device == other.device and other.path.is_relative_to(self.path)


class _Places(Struct, frozen=True):
    """Places and the spots they are; those `unresolved` by their spelling alone."""

    unresolved: frozenset[Path] = frozenset()

    def overlap(self, one: Path, other: Path) -> bool:
        mounts = table()
        left, right = self._spots(one, mounts), self._spots(other, mounts)
        return any(a.holds(b) or b.holds(a) for a in left for b in right)

    def _spots(self, path: Path, mounts: Sequence[Mount]) -> list[Spot]:
        """The place itself, and everything that is mounted below it."""
        real = self.real(path)
        below = [Spot(mount.device, mount.root) for mount in mounts if mount.point.is_relative_to(real)]
        return [_spot(real, mounts), *below]

    def real(self, path: Path) -> PurePosixPath:
        return PurePosixPath(os.path.abspath(path) if path in self.unresolved else os.path.realpath(path))


def overlap(one: Path, other: Path) -> bool:
    """Does anything below one place also lie below the other, through nesting, links on the way or (bind)
    mounts, of either or inside either?"""
    return _Places().overlap(one, other)


def inside(path: Path, place: Path) -> bool:
    """Is `path` the place itself or below it, by whatever mount it is reached?"""
    mounts, places = table(), _Places()
    return _spot(places.real(place), mounts).holds(_spot(places.real(path), mounts))


def _spot(real: PurePosixPath, mounts: Sequence[Mount]) -> Spot:
    holding = [mount for mount in mounts if real.is_relative_to(mount.point)]
    if not holding:
        return Spot("", real)
    # of two mounts at one point the later one is seen
    mount = max(enumerate(holding), key=lambda pair: (len(pair[1].point.parts), pair[0]))[1]
    return Spot(mount.device, mount.root / real.relative_to(mount.point))
