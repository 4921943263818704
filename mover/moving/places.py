"""A tier as transfers need it beside its port: what it is for, where its root is, how much room it has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from mover.decide.moving import End
from mover.errors import RequestInvalid, TierUnavailable
from mover.model.tiers import TierRole
from mover.tiers.guard import guarded
from mover.tiers.staging import StagingTier
from mover.tiers.zones import overlap


class Place(Struct, frozen=True):
    """`path` is None for object tiers."""

    role: TierRole
    read_only: bool = False
    path: Path | None = None
    deletes: bool = True


class Ends(Struct, frozen=True):
    """All tiers this node can reach."""

    tiers: Mapping[str, StagingTier]
    places: Mapping[str, Place]

    def end(self, name: str, prefix: str) -> End:
        if name not in self.tiers or name not in self.places:
            hint = "`mover tier list` names them."
            raise RequestInvalid(f"{name[:60]} is not a tier of this node", where="tier", hint=hint)
        tier, place = self.tiers[name], self.places[name]
        return End(name, tier.kind, tier.zone, place.role, place.read_only, prefix)

    def tier(self, name: str) -> StagingTier:
        """For a shard: a tier that this node does not reach may be reached by the next that takes the shard."""
        if name not in self.tiers:
            raise TierUnavailable("this node does not reach the tier", where=name)
        return self.tiers[name]

    def overlapping(self, source: End, target: End) -> bool:
        """Does anything below one prefix also lie below the other? Asks the mount table; blocking."""
        if source.tier == target.tier:
            return _inside(source.prefix, target.prefix) or _inside(target.prefix, source.prefix)
        one, other = self.places[source.tier].path, self.places[target.tier].path
        if one is None or other is None:
            return False
        return overlap(one / source.prefix, other / target.prefix)

    def free_bytes(self, name: str) -> int | None:
        """Blocking. None where a tier cannot say."""
        path = self.places[name].path
        if path is None:
            return None
        try:
            facts = guarded(lambda _: os.statvfs(path), self.tiers[name])
        except OSError:
            raise TierUnavailable("its space cannot be asked", where=name) from None
        return facts.f_bavail * facts.f_frsize


def _inside(prefix: str, other: str) -> bool:
    return not other or prefix == other or prefix.startswith(other + "/")
