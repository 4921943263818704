"""End the demo's processes after a while: `python -m mover.demo.linger ROOT SECONDS`."""

from __future__ import annotations

import sys
from pathlib import Path

from mover.clock import pause
from mover.demo.site import Site

if __name__ == "__main__":
    site = Site(Path(sys.argv[1]))
    pause(float(sys.argv[2]))
    # not through Site.stop: that would end this very process before its work
    site.stop_services()
