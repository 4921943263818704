"""Which traits a policy needs of its tiers, and what is missing where one is not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from mover.model.policy import ArchivePolicy, ImagesPolicy, MovePolicy, Policy, ProtectPolicy, StagePolicy
from mover.model.tiers import TraitName, Traits

# what the lack of a trait means, as a person reads it
LACKS: dict[TraitName, str] = {
    "conditional_put": "it overwrites a name that is taken",
    "conditional_complete": "a large upload may overwrite a name that is taken",
    "checksum_rejection": "it takes bytes that do not match their checksum",
    "range_read": "it does not give parts of an object",
    "multipart": "it takes no upload in parts",
    "versioning": "it keeps no versions",
    "object_lock": "it does not keep objects from being deleted (a bucket made with object lock, with versions and a "
    "default retention, does; a folder has `append_only: chattr`)",
}


class Need(Struct, frozen=True):
    """`key` is the word of the policy that asks for it."""

    key: str
    tier: str
    trait: TraitName


def needs(policy: Policy) -> Iterator[Need]:
    """What every policy of its kind needs, and what this one asks for by `needs`."""
    match policy:
        case ImagesPolicy():
            yield Need("to", policy.archive, "conditional_put")
            yield from (Need("needs", policy.archive, trait) for trait in policy.needs)
        case StagePolicy():
            yield Need("from", policy.archive, "range_read")
        case ProtectPolicy(lock_s=int()):
            yield Need("lock_s", policy.repository, "object_lock")
        case ArchivePolicy():
            if policy.second_copy is not None:
                yield Need("second_copy", policy.second_copy, "conditional_put")
            if policy.lock_s is not None:
                for tier in filter(None, (policy.tier, policy.second_copy)):
                    yield Need("lock_s", tier, "object_lock")
        case MovePolicy():
            yield Need("from", policy.source, "range_read")
            yield Need("to", policy.target, "conditional_put")
            yield from (Need("needs", policy.target, trait) for trait in policy.needs)


def lost(before: Traits, now: Traits) -> list[str]:
    """What a tier could do when it was registered and cannot any more, by name."""
    return [
        name for name in Traits.__struct_fields__ if getattr(before, name) is True and getattr(now, name) is False
    ]


def missing(policy: Policy, traits: Mapping[str, Traits]) -> Iterator[tuple[str, str]]:
    """(key, sentence) for each need that its tier cannot meet. Tiers unknown here are judged where they are known."""
    for need in needs(policy):
        found = traits.get(need.tier)
        if found is not None and not getattr(found, need.trait):
            yield need.key, f"{need.tier} lacks {need.trait}: {LACKS[need.trait]}"
