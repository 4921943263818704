"""The closing lines that a person reads instead of eight thousand names."""

from __future__ import annotations

import pytest

from tests.support.summary import skip_lines, soak_lines


def report(nodeid: str, when: str, outcome: str, seconds: float, *marks: str, why: str = "") -> pytest.TestReport:
    longrepr = ("file", 1, why) if why else None
    return pytest.TestReport(
        nodeid, ("file", 1, "test"), dict.fromkeys(marks, 1), outcome, longrepr, when, duration=seconds  # type: ignore[arg-type]
    )  # fmt: skip


def test_each_file_of_long_tests_says_how_long_it_took_and_how_they_ended() -> None:
    """Whoever calls `make soak` again wants to know what the night goes to; a skip must not look like a pass."""
    found = [
        report("tests/a.py::one", "setup", "passed", 30, "soak"),
        report("tests/a.py::one", "call", "passed", 60, "soak"),
        report("tests/a.py::two", "call", "failed", 30, "soak"),
        report("tests/b.py::one", "setup", "skipped", 6, "soak"),
        report("tests/c.py::one", "call", "passed", 600, "hypothesis"),
        report("tests/d.py::one", "setup", "failed", 0, "soak"),
        report("tests/e.py::one", "call", "passed", 300, "soak"),
    ]
    assert [line.split(maxsplit=2) for line in soak_lines(found)] == [
        ["5.0", "min", "tests/e.py: 1 passed"],
        ["2.0", "min", "tests/a.py: 1 failed, 1 passed"],
        ["0.1", "min", "tests/b.py: 1 skipped"],
        ["0.0", "min", "tests/d.py: 1 failed"],
    ]


def test_a_skip_says_which_package_it_wants() -> None:
    """What was not run is told with the way to have it run."""
    told = list(skip_lines([report("tests/a.py::one", "setup", "skipped", 0, why="Skipped: rclone is missing")]))
    assert told == [
        "1 skipped: rclone is missing -> needs Debian package: rclone (apt-get install rclone)", "  tests/a.py::one",
    ]  # fmt: skip
