"""The room put together: what the daemon wires, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from mover.catalog.database import Database
from mover.jobs import FailureHandler, Handler
from mover.moving.archives import Archives
from mover.moving.move import Carries, Move
from mover.moving.places import Ends, Place
from mover.moving.plan import Planner
from mover.moving.release import Releases
from mover.moving.transfers import Transfers
from mover.moving.trash import Trash
from mover.moving.verifications import Verifications
from mover.moving.verify import Verify
from mover.policy import PolicyBook
from mover.tiers.staging import StagingTier
from mover.transfer import Transfer


class Moving:
    """`transfers` and `verifications` answer people, `releases` purges what was held long enough; the rest are handlers
    of shards."""

    def __init__(
        self,
        database: Database,
        tiers: Mapping[str, StagingTier],
        places: Mapping[str, Place],
        policies: PolicyBook,
        carrier: Carries,
        transfer: Transfer,
        *,
        node: str,
    ) -> None:
        self._places, self._trash = dict(places), dict[str, Trash]()
        ends = Ends(tiers, self._places)
        self._trash |= _trashes(ends)
        planner = Planner(ends)
        self.releases = Releases(database, ends, self._trash, node=node)
        self.move = Move(database, ends, carrier, planner, self.releases, node=node)
        self.transfers = Transfers(database, ends, policies, planner, self.move, self.releases, node=node)
        self.verify = Verify(database, ends, transfer, node=node)
        self.verifications = Verifications(database, ends, policies, node=node)
        self.archives = Archives(database, ends, policies, transfer, self.verifications, node=node)

    def add(self, name: str, tier: StagingTier, place: Place) -> None:
        """One tier more, which the mapping of tiers has from now on, too."""
        self._trash |= _trashes(Ends({name: tier}, {name: place}))
        self._places[name] = place

    def handlers(self) -> dict[str, Handler]:
        return {
            "transfer-plan": self.move.plan,
            "transfer-move": self.move.move,
            "transfer-release": self.releases.release,
            "transfer-restore": self.releases.bring_back,
            "transfer-purge": self.releases.purge,
            "verify": self.verify.verify, **self.archives.handlers(),
        }

    def failure_handlers(self) -> dict[str, FailureHandler]:
        return {
            "transfer-plan": self.move.failed,
            "transfer-move": self.move.failed,
            "transfer-release": self.releases.failed,
            "transfer-restore": self.releases.failed,
            "transfer-purge": self.releases.failed,
            "verify": self.verify.failed, **self.archives.failure_handlers(),
        }


def _trashes(ends: Ends) -> dict[str, Trash]:
    """Of the tiers whose entries may leave: posix, writable, and no originals on them."""
    return {
        name: Trash(place.path, tier=name, check_identity=ends.tiers[name].check_identity, deletes=place.deletes)
        for name, place in ends.places.items()
        if place.path is not None and not place.read_only and name in ends.tiers
        and ends.tiers[name].zone == "deidentified"
    }  # fmt: skip
