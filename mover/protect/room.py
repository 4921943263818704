"""The room put together: what the daemon wires, and nothing else."""

from __future__ import annotations

from mover.jobs import FailureHandler, Handler
from mover.protect.copies import Copies
from mover.protect.drills import Drills
from mover.protect.dumpdrills import DumpDrills
from mover.protect.dumps import Dumps, Means
from mover.protect.folders import Folders
from mover.protect.holds import Holds
from mover.protect.keys import Keys
from mover.protect.locks import Locks
from mover.protect.rebuild import Rebuild
from mover.protect.restores import Restores
from mover.protect.restoring import Restoring
from mover.protect.retention import Retention
from mover.protect.runs import RunProtection
from mover.protect.shortenings import Shortenings
from mover.protect.site import ProtectSite
from mover.protect.snapshots import Snapshots
from mover.protect.turns import Turns
from mover.protect.upkeep import Upkeep
from mover.protect.versions import Versions


class Protecting:
    """`snapshots`, `versions`, `restores` and `retention` answer people; `runs` plans what a finish would protect, and
    handles its shards; `folders` are protected by themselves; `holds` and `shortenings` are what one person may do and
    what takes two; `upkeep` carries rules out, and `turns` when somebody says so; `keys` are the repositories'
    passwords; `drills` try whether it comes back, `copies` keep a second repository; `rebuild` finds again what the
    catalog forgot; `locks` keeps what is kept from being deleted; `dumps` holds vault and catalog, where `means` are
    given. `begin_due` and `measure` are the daemon's turns."""

    def __init__(self, site: ProtectSite, means: Means | None = None) -> None:
        self.retention = Retention(site)
        self.runs = RunProtection(site, self.retention)
        self.folders = Folders(site, self.retention)
        self.snapshots = Snapshots(site)
        self.holds = Holds(site, self.snapshots)
        self.shortenings = Shortenings(site, self.retention)
        self.upkeep = Upkeep(site, self.retention, self.shortenings)
        self.drills = Drills(site, self.upkeep)
        self.copies = Copies(site, self.upkeep)
        self.turns = Turns(site, self.upkeep, self.retention)
        self.keys = Keys(site)
        self.rebuild = Rebuild(site, self.upkeep)
        self.restores = Restores(site)
        self.versions = Versions(site)
        self._restoring = Restoring(site)
        self.locks = Locks(site)
        self.dumps = Dumps(site, means)
        self._dump_drills = DumpDrills(site, self.dumps)

    async def begin_due(self, project: str) -> int:
        """Rules, trash and prune, drills and copies, folders, lock probes and renewals, dumps: each when its time has
        come; how many began. Any number of daemons begin one."""
        parts = (self.locks, self.dumps, self.upkeep, self.drills, self.copies, self.folders)
        return sum([await part.begin_due(project) for part in parts])

    async def measure(self, project: str) -> None:
        """The gauges, as the catalog has them."""
        await self.locks.measure()
        await self.dumps.measure()
        await self.upkeep.measure(project)
        await self.drills.measure(project)

    def handlers(self) -> dict[str, Handler]:
        return {
            "run-protect": self.runs.protect,
            "folder-protect": self.folders.protect,
            "protect-keep": self.upkeep.keep,
            "protect-prune": self.upkeep.prune,
            "protect-drill": self.drills.drill,
            "protect-sample": self.drills.sample,
            "protect-whole": self.drills.whole,
            "protect-copy": self.copies.copy,
            "protect-rebuild": self.rebuild.rebuild,
            "restore": self._restoring.restore,
            "lock-renew": self.locks.renew,
            "lock-probe": self.locks.probe,
            "dump-make": self.dumps.make,
            "dump-drill": self._dump_drills.drill,
        }

    def failure_handlers(self) -> dict[str, FailureHandler]:
        return {
            "run-protect": self.runs.failed,
            "folder-protect": self.folders.failed,
            "protect-keep": self.upkeep.failed,
            "protect-prune": self.upkeep.failed,
            "protect-drill": self.drills.failed,
            "protect-sample": self.drills.failed,
            "protect-whole": self.drills.failed,
            "protect-copy": self.upkeep.failed,
            "protect-rebuild": self.upkeep.failed,
            "restore": self._restoring.failed,
            "lock-renew": self.locks.renewal_failed,
            "dump-make": self.dumps.failed,
            "dump-drill": self._dump_drills.failed,
        }
