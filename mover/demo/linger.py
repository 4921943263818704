"""End the demo's processes after a while: `python -m mover.demo.linger ROOT SECONDS`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from mover.demo.site import Site

if __name__ == "__main__":
    site = Site(Path(sys.argv[1]))
    time.sleep(float(sys.argv[2]))
    # not through Site.stop: that would end this very process before its work
    site.stop_services()
