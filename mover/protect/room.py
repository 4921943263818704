"""The room put together: what the daemon wires, and nothing else."""

from __future__ import annotations

from mover.jobs import FailureHandler, Handler
from mover.protect.restores import Restores
from mover.protect.restoring import Restoring
from mover.protect.retention import Retention
from mover.protect.runs import RunProtection
from mover.protect.site import ProtectSite
from mover.protect.snapshots import Snapshots
from mover.protect.versions import Versions


class Protecting:
    """`snapshots`, `versions`, `restores` and `retention` answer people; `runs` plans what a finish would protect, and
    handles its shards."""

    def __init__(self, site: ProtectSite) -> None:
        self.retention = Retention(site)
        self.runs = RunProtection(site, self.retention)
        self.snapshots = Snapshots(site)
        self.restores = Restores(site)
        self.versions = Versions(site)
        self._restoring = Restoring(site)

    def handlers(self) -> dict[str, Handler]:
        return {"run-protect": self.runs.protect, "restore": self._restoring.restore}

    def failure_handlers(self) -> dict[str, FailureHandler]:
        return {"run-protect": self.runs.failed, "restore": self._restoring.failed}
