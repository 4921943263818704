"""The closing lines of a test run: where processes were killed and what was skipped for want of what.

Both come from the reports, which pytest-xdist carries home from its workers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

# as .ci/deps installs them; a skip that names one wants it
DEBIAN_PACKAGES = ("restic", "xfsprogs", "git", "strace", "systemd")
KILL = "kill"


def kill_lines(reports: Iterable[Any]) -> Iterator[str]:
    """One line per kill, by step: the shards in flight and how far their work was."""
    kills: dict[str, list[str]] = defaultdict(list)
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name == KILL and getattr(report, "when", "") == "call":
                step, _, what = value.partition(": ")
                kills[step].append(what)
    for step, found in kills.items():
        yield f"{step}: {len(found)} kills, each with work in flight"
        yield from (f"  {what}" for what in found)


def skip_lines(reports: Iterable[Any]) -> Iterator[str]:
    """Each reason once, with its tests and the package that would make them run."""
    tests: dict[str, list[str]] = defaultdict(list)
    for report in reports:
        told = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        tests[told.removeprefix("Skipped: ")].append(report.nodeid)
    for reason, found in sorted(tests.items()):
        wanted = [name for name in DEBIAN_PACKAGES if re.search(rf"\b{name}\b", reason)]
        advice = f" -> needs Debian package: {' '.join(wanted)} (apt-get install {' '.join(wanted)})" if wanted else ""
        yield f"{len(found)} skipped: {reason}{advice}"
        yield from (f"  {test}" for test in found)
