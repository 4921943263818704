"""The reaper weighs whole process trees; races take turns, and nobody is lost silently."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.measure import Contestant, RunFailed, Step, Work, race, run


def python(code: str, **options: bool) -> Step:
    return Step((sys.executable, "-I", "-S", "-c", code), **options)


@pytest.mark.slow
def test_cpu_and_memory_of_worker_processes_count_as_the_tools_own(tmp_path: Path) -> None:
    """A tool that works in processes must not look light; the child here does all the work."""
    busy = "data = bytearray(60 << 20)\nfor n in range(0, len(data), 4096): data[n] = 1\nsum(range(9_000_000))"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', {busy!r}], check=True)"
    weighed = run(Work((python(parent),)), scratch=tmp_path)
    assert weighed.cpu_s > 0.05
    assert weighed.memory_mb > 55


@pytest.mark.slow
def test_a_worker_that_outlives_its_parent_is_waited_for_and_its_cpu_counted(tmp_path: Path) -> None:
    """Daemonised workers are no way to hide work."""
    busy = "sum(range(9_000_000))"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-I', '-S', '-c', {busy!r}])"
    weighed = run(Work((python(parent),)), scratch=tmp_path)
    assert weighed.cpu_s > 0.05


def test_a_tool_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"ended with status 3: no room$"):
        run(Work((python("import sys; print('no room'); sys.exit(3)"),)), scratch=tmp_path)


def test_a_check_that_finds_a_difference_is_a_failure(tmp_path: Path) -> None:
    """rsync -n with -i ends with 0 and says what differs: silence is what counts."""
    with pytest.raises(RunFailed, match="found a difference"):
        run(Work((python("print('>f+++++ slide.svs')", says_nothing=True),)), scratch=tmp_path)


def test_steps_after_a_failed_one_do_not_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(RunFailed):
        run(Work((python("raise SystemExit(1)"), python(f"open({str(made)!r}, 'w')"))), scratch=tmp_path)
    assert not made.exists()


def test_the_tools_own_clock_is_taken_only_where_asked(tmp_path: Path) -> None:
    work = Work((python("print('{\"seconds\": 12.5}')"),), synced=str(tmp_path))
    assert run(work, scratch=tmp_path).seconds < 10
    assert run(work, scratch=tmp_path).counted == {"seconds": 12.5}
    own = Work(work.steps, own_clock=True)
    assert run(own, scratch=tmp_path).seconds == 12.5


def test_contestants_take_turns_backwards_in_every_second_round(tmp_path: Path) -> None:
    """What comes first in a round meets another disk than what comes last: turns even that out."""
    order: list[str] = []

    def contestant(name: str, rounds: int = 0) -> Contestant:
        def prepare(number: int) -> Work:
            order.append(f"{name}{number}")
            return Work((python("pass"),))

        return Contestant(name, prepare, rounds=rounds)

    tallies = race([contestant("a"), contestant("b"), contestant("c", 1)], rounds=2, scratch=tmp_path, told=print)
    assert order == ["a0", "b0", "c0", "b1", "a1"]
    assert [len(tally.runs) for tally in tallies] == [2, 2, 1]


def test_who_fails_once_leaves_the_race_and_says_why(tmp_path: Path) -> None:
    def refuse(number: int) -> None:
        raise RunFailed("made 3 files of 9 bytes")

    told: list[str] = []
    contestants = [Contestant("short", lambda number: Work((python("pass"),)), refuse)]
    (tally,) = race(contestants, rounds=3, scratch=tmp_path, told=told.append)
    assert (tally.runs, tally.failure) == ((), "made 3 files of 9 bytes")
    assert told == ["short: failed: made 3 files of 9 bytes"]


def test_the_words_of_a_failure_name_the_error_and_no_folder_of_this_machine(tmp_path: Path) -> None:
    """They are kept with the results, which other machines read."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = f"raise ValueError('nothing at {tmp_path}/corpus')"
    with pytest.raises(RunFailed, match=r"status 1: ValueError: nothing at corpus$"):
        run(Work((python(code),)), scratch=scratch)
