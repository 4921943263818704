"""The closing lines of a test run: where processes were killed, what was skipped for want of what, and how long the
long tests took. All come from the reports, which pytest-xdist carries home from its workers.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

# as .ci/deps installs them; a skip that names one wants it
DEBIAN_PACKAGES = ("restic", "xfsprogs", "git", "strace", "systemd", "rclone", "rsync")
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


def soak_lines(reports: Iterable[Any]) -> Iterator[str]:
    """One line per file with long tests, the longest first: its minutes, and how each of its tests ended."""
    took: dict[str, float] = defaultdict(float)
    ended: dict[str, Counter[str]] = defaultdict(Counter)
    for report in reports:
        if "soak" in report.keywords:
            file = report.nodeid.partition("::")[0]
            took[file] += report.duration
            if report.when == "call" or report.outcome != "passed":
                ended[file][report.outcome] += 1
    for file in sorted(took, key=lambda file: -took[file]):
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(ended[file].items()))
        yield f"{took[file] / 60:7.1f} min  {file}: {told}"
