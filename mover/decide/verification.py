"""What a second reading of an entry means, whether it may be repaired, and when a tier is due.

Bit rot is what nobody did: the fingerprint is the one under which the bytes were verified, and the bytes are others.
A fingerprint that moved says that somebody wrote; then other bytes are a change, and equal bytes are whole (a copy
that was touched, a restore). Without a known fingerprint a size that still fits means rot: what was verified once
and never looked at again has no better witness.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mover.model.policy import ArchivePolicy, VerifyPolicy
from mover.model.tiers import Fingerprint, TierKind, TierRole

Kind = Literal["bit-rot", "changed", "missing", "stranger", "unreadable"]
DAY_S = 86_400


class Known(Struct, frozen=True):
    """What the catalog says of a key. Without a digest nothing in it vouches for the key."""

    digest: str | None
    size_bytes: int | None = None
    fingerprint: Fingerprint | None = None


class Look(Struct, frozen=True):
    """What stood on the tier: read whole (`digest`), or not there, or the code of what kept it from being read."""

    fingerprint: Fingerprint | None = None
    digest: str = ""
    code: str = ""

    @property
    def missing(self) -> bool:
        return self.fingerprint is None and not self.code


class Verdict(Struct, frozen=True):
    """`kind` is None for what is whole."""

    kind: Kind | None
    reason: str


def judge(known: Known, look: Look) -> Verdict:
    if look.missing:
        return Verdict("missing", "the catalog knows it and it is not on the tier")
    if known.digest is None:
        return Verdict("stranger", "it is on the tier and nothing in the catalog vouches for it")
    if look.code == "changed-while-reading":
        return Verdict("changed", "somebody writes to it")
    if look.code:
        return Verdict("unreadable", f"it could not be read ({look.code})")
    if look.digest == known.digest:
        return Verdict(None, "the bytes are those of the catalog")
    if _moved(known, look):
        return Verdict("changed", "it was written since it was verified, and its bytes are others")
    return Verdict("bit-rot", "nothing says that it was written, and its bytes are others")


def _moved(known: Known, look: Look) -> bool:
    assert look.fingerprint is not None
    if known.fingerprint is not None:
        return look.fingerprint != known.fingerprint
    return known.size_bytes is not None and look.fingerprint.size_bytes != known.size_bytes


class Place(Struct, frozen=True):
    """The tier an entry stands on, as far as a repair depends on it."""

    kind: TierKind
    role: TierRole
    read_only: bool = False
    versioning: bool = False


def obstacle(kind: Kind, place: Place, *, scope: str, second_copy: bool) -> str:
    """What keeps a finding from being repaired, as a sentence; "" when nothing does.

    Repairing never overwrites: a damaged file is moved aside first. An object's key is written once, so a damaged
    object can only step aside where the bucket keeps versions; a missing one is simply put again. A change on a
    tier that people write to is theirs; on an archive, where only we write, it is damage.
    """
    if not second_copy:
        return "no second copy was named"
    if kind == "stranger":
        return "nobody knows what it should be"
    if scope == "run" or place.role == "flash":
        return "a run root is sealed: its run is staged again instead"
    if place.read_only:
        return "the tier is read-only"
    if kind == "changed" and place.role != "archive":
        return "people write on this tier: the change may be meant"
    if place.kind == "object" and kind != "missing" and not place.versioning:
        return "the bucket keeps no versions, so the damaged object could only be overwritten"
    return ""


def is_due(policy: VerifyPolicy, *, last_age_s: float | None, known_for_s: float) -> bool:
    """Every `every_s` after the last one began; the first so long after the policy was first seen, so that a site
    that installs ten of them does not read ten tiers in its first minute."""
    return (known_for_s if last_age_s is None else last_age_s) >= policy.every_s


def of_archive(policy: ArchivePolicy) -> tuple[VerifyPolicy, ...]:
    """Both copies are read, each repaired from the other; one that stands alone is not this policy's to read."""
    if policy.second_copy is None:
        return ()
    return tuple(
        VerifyPolicy(
            name=f"{policy.name}/{tier}", tier=tier, repair_from=other, share_per_day=policy.share_per_day,
            strangers=False,
        )  # fmt: skip
        for tier, other in ((policy.tier, policy.second_copy), (policy.second_copy, policy.tier))
    )


def portion_bytes(policy: VerifyPolicy, total_bytes: int) -> int:
    """How much one scheduled reading takes: the day's share, for the days between two of them; at least a byte, so
    that something is read, and never more than all."""
    return min(total_bytes, max(1, int(total_bytes * policy.share_per_day * policy.every_s / DAY_S)))
