"""What every way of a run needs: the sandbox, who stands for whom, the graph, the profile, where outputs go."""

from __future__ import annotations

import threading

from mover.deid.crosswalk import FileCrosswalk
from mover.deid.oneshot.graph import Graph
from mover.deid.oneshot.publish import Publisher
from mover.errors import FormatUnsupported
from mover.model.policy import DeidPolicy
from mover.sandbox import Sandbox


class Job:
    def __init__(
        self,
        sandbox: Sandbox,
        crosswalk: FileCrosswalk,
        publisher: Publisher,
        profile: DeidPolicy,
        *,
        dry: bool,
        thumbnails: bool,
    ) -> None:
        self.sandbox = sandbox
        self.crosswalk = crosswalk
        self.publisher = publisher
        self.profile = profile
        self.dry = dry
        self.thumbnails = thumbnails
        self.graph = Graph()
        # slide keys that more than one file of this folder has
        self.ambiguous: frozenset[str] = frozenset()
        self.lock = threading.Lock()

    def check_family(self, family: str) -> None:
        """A profile may accept fewer families than there are writers for."""
        accepted = self.profile.slides.accept
        if accepted and family not in accepted:
            raise FormatUnsupported(f"{family}: the profile does not accept it")
