"""Which means keep a repository's files from being deleted, as its policies say, and the tier that uses them.

Several policies may write into one repository: then the longest lock and the stricter mode hold for all of it, because
equal blobs are stored once and nobody can say whose they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal

from msgspec import Struct

from mover.errors import EntryMissing, SettingsInvalid, TierUnavailable
from mover.model.policy import ArchivePolicy, Policy, ProtectPolicy
from mover.model.tiers import LockMode
from mover.policy import PolicyBook
from mover.tiers.immutable import takes_attribute
from mover.tiers.locking import AppendOnlyTier, LockingTier, below, innermost, object_locks
from mover.tiers.posix import PosixTier

# a repository's own lock files live for minutes
PASSING = "locks/"
# replaced or given up in its ordinary life: hidden at once on buckets, gone for good when their locks have run out
HIDDEN = ("index/", "snapshots/")
Means = Literal["object lock", "immutable files"]
Seal = Callable[[int], None]


class Rule(Struct, frozen=True):
    """How one repository is kept. `retain_s` and `mode` are of object lock. An archive is probed as a repository is;
    its locks are renewed where its slides are known (`moving.archives`)."""

    policy: str
    tier: str
    prefix: str
    means: Means
    retain_s: int = 0
    mode: LockMode = "COMPLIANCE"
    repository: bool = True


def rules(policies: PolicyBook) -> list[Rule]:
    """One for each repository and archive that is kept by some means, in order of tier and prefix."""
    found: dict[tuple[str, str], Rule] = {}
    for one in policies.all():
        for rule in _rules_of(one.policy):
            place = (rule.tier, rule.prefix)
            found[place] = _stricter(found[place], rule) if place in found else rule
    return [found[place] for place in sorted(found)]


def _rules_of(policy: Policy) -> list[Rule]:
    if isinstance(policy, ProtectPolicy):
        return [rule] if (rule := _rule(policy)) is not None else []
    if isinstance(policy, ArchivePolicy) and policy.lock_s is not None:
        mode: LockMode = "COMPLIANCE" if policy.lock_mode == "compliance" else "GOVERNANCE"
        return [
            Rule(policy.name, tier, "", "object lock", policy.lock_s, mode, repository=False)
            for tier in (policy.tier, policy.second_copy) if tier is not None
        ]  # fmt: skip
    return []


def _rule(policy: ProtectPolicy) -> Rule | None:
    prefix = policy.prefix.strip("/")
    if policy.lock_s is not None:
        mode: LockMode = "COMPLIANCE" if policy.lock_mode == "compliance" else "GOVERNANCE"
        return Rule(policy.name, policy.repository, prefix, "object lock", policy.lock_s, mode)
    if policy.append_only is not None:
        return Rule(policy.name, policy.repository, prefix, "immutable files")
    return None


def _stricter(one: Rule, other: Rule) -> Rule:
    longer = one if one.retain_s >= other.retain_s else other
    mode: LockMode = "COMPLIANCE" if "COMPLIANCE" in (one.mode, other.mode) else "GOVERNANCE"
    return Rule(longer.policy, one.tier, one.prefix, longer.means, longer.retain_s, mode, longer.repository)


def kept(tier: Any, rule: Rule | None, *, seal: Seal | None) -> Any:
    """The tier as the repository sees it. SettingsInvalid where the means are not at hand: a repository that is to be
    kept is never written without."""
    if rule is None:
        return tier
    passing = below(rule.prefix, PASSING)
    if rule.means == "object lock":
        locks = object_locks(tier)
        if locks is None:
            raise SettingsInvalid("the tier cannot be asked for object locks", where=rule.tier)
        hidden = below(rule.prefix, *HIDDEN)
        return LockingTier(tier, locks, retain_s=rule.retain_s, mode=rule.mode, passing=passing, hidden=hidden)
    folder = innermost(tier)
    if seal is None or not isinstance(folder, PosixTier):
        raise SettingsInvalid(
            "nothing here makes files immutable", where=rule.tier,
            hint="Start the daemon with CAP_LINUX_IMMUTABLE (docs/protection.md). Once two persons agreed "
            "(mover protect ask shorten), `append_only` may leave the policy.",
        )  # fmt: skip
    # index files are made again from the packs (`repair index`): left open, so that a prune can replace them
    return AppendOnlyTier(tier, folder, seal, passing=(*passing, *below(rule.prefix, "index/")))


def bring_back_doors(tier: Any, prefix: str) -> list[str]:
    """Config and keys of a repository that somebody hid, or put other bytes upon: without them it would look as if
    there were none, and a new one would be made in its place; or it could not be opened."""
    if not isinstance(tier, LockingTier):
        return []
    hidden = [key for place in below(prefix, "config", "keys/") for key in tier.locks.hidden(place)]
    return [key for key in hidden if tier.bring_back(key)] + put_right(tier, prefix, "config", "keys/")


def put_right(tier: Any, prefix: str, *kinds: str) -> list[str]:
    """Blocking. Objects that are seen and that somebody put other bytes upon: those that were there are on top again.
    What cannot be put right stays as it is, for the pass and for checks to tell."""
    if not isinstance(tier, LockingTier):
        return []
    righted = []
    for key in [key for place in below(prefix, *kinds) for key in tier.locks.overlaid(place)]:
        with suppress(EntryMissing):
            righted += [key] if tier.put_right(key) else []
    return righted


def wants_seal(policies: PolicyBook) -> bool:
    return any(rule.means == "immutable files" for rule in rules(policies))


def check_means(policies: PolicyBook, tiers: Mapping[str, Any], *, seal: Seal | None) -> None:
    """Blocking, at the start: SettingsInvalid where a policy asks for means that are not at hand here. A tier that is
    away now is judged when it is used."""
    for rule in rules(policies):
        if rule.tier not in tiers:
            continue
        kept(tiers[rule.tier], rule, seal=seal)
        folder = innermost(tiers[rule.tier])
        if rule.means == "immutable files" and folder.root.is_dir() and not takes_attribute(folder.root):
            raise SettingsInvalid(
                "the file system has no immutable attribute", where=rule.tier,
                hint="Use ext4, xfs or btrfs, or a bucket with object lock; over NFS the server has to do it.",
            )  # fmt: skip
        mode = default_mode(tiers[rule.tier]) if rule.means == "object lock" else None
        if mode is not None and mode != rule.mode:
            raise SettingsInvalid(
                f"the bucket locks new objects as {mode}, the policy {rule.policy} says {rule.mode}", where=rule.tier,
                hint="Set the bucket's default retention to that mode, or `lock_mode` to the bucket's.",
            )  # fmt: skip


def default_mode(tier: Any) -> LockMode | None:
    """None also when the tier is away now."""
    locks = object_locks(tier)
    try:
        return locks.default_mode() if locks is not None else None
    except TierUnavailable:
        return None
