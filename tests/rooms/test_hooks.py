"""Cleanup hooks in the life of a run: real executables before its root goes and when it is gone."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import msgspec
import pytest

from mover.catalog.database import Database
from mover.model import wire
from mover.model.policy import CleanPolicy, HookRule
from mover.policy import Loaded
from tests.rooms.rig import POLICIES, PROJECT, Rig, who
from tests.support.postgres import Dsns

pytestmark = [
    pytest.mark.usefixtures("tier_rows"), pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a hook that is root's"),
]  # fmt: skip


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Rig:
    made = Rig(tmp_path, dsns, database)
    (tmp_path / "hooks.d").mkdir(mode=0o755)
    [clean] = [p for p in POLICIES if isinstance(p, CleanPolicy)]
    rules = msgspec.structs.replace(
        clean, before_clean=(HookRule(name="drain"), HookRule(name="ask")), after_clean=(HookRule(name="tell"),)
    )
    made.book._by_name["clean"] = Loaded(policy=rules, file="c.yaml", text="", digest="")
    for name in ("drain", "ask", "tell"):
        put(made, name)
    return made


def put(rig: Rig, name: str, text: str = "true") -> None:
    """A hook that says in `told` that it was run, and with what."""
    path = rig.folder / "hooks.d" / name
    path.write_text(f'#!/bin/sh\necho "{name} $*" >> {rig.folder}/told\n{text}\n')
    path.chmod(0o755)


def told(rig: Rig) -> list[str]:
    path = rig.folder / "told"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def written(path: Path) -> str:
    """A line that a hook writes, when it has."""
    deadline_s = time.monotonic() + 120
    while not path.exists() or not path.read_text().endswith("\n"):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return path.read_text().strip()


async def finished(rig: Rig) -> str:
    run = await rig.request(rig.slides([1000]), key="1")
    await rig.work()
    await rig.runs.finish(who(), run.id, wire.FinishRequest())
    await rig.work()
    return run.id


def states(seen: wire.Run) -> list[tuple[str, str, str, int]]:
    return [(hook.phase, hook.name, hook.state, hook.attempts) for hook in seen.hooks]


async def test_hooks_are_run_in_their_order_around_the_removal(rig: Rig) -> None:
    """What drains a cache needs the root; what tells somebody that the space is free must not do so before."""
    run = await finished(rig)
    root = rig.folder / "flash/runs" / run
    put(rig, "drain", f"test -d {root}/data")
    put(rig, "tell", f"test ! -e {root}")
    plan = await rig.runs.plan_clean(PROJECT, run)
    assert [(s.subject, s.reason) for s in plan.steps if s.action == "hook"] == [
        ("drain", "before-clean"), ("ask", "before-clean"), ("tell", "after-clean")
    ]  # fmt: skip
    assert plan.counts["hook"] == 3 and not told(rig)

    await rig.runs.clean(who(), run)
    await rig.work()

    seen = await rig.runs.view(PROJECT, run)
    assert (seen.state, seen.explanation) == ("cleaned", None)
    assert states(seen) == [
        ("before-clean", "drain", "succeeded", 1), ("before-clean", "ask", "succeeded", 1),
        ("after-clean", "tell", "succeeded", 1),
    ]  # fmt: skip
    assert (rig.folder / "told").read_text().splitlines() == [
        f"{name} {phase} {run} flash {root}"
        for name, phase in (("drain", "before-clean"), ("ask", "before-clean"), ("tell", "after-clean"))
    ]
    assert rig.actions().count("run hook ended") == 3
    # asked again, nothing is run again
    await rig.runs.clean(who(), run)
    assert await rig.work() == [] and len(told(rig)) == 3


async def test_a_hook_that_fails_stops_what_comes_behind_it_until_it_is_asked_for_again(rig: Rig) -> None:
    """Nothing of the root is touched before the whole chain succeeded; what succeeded is not run again."""
    run = await finished(rig)
    root = rig.folder / "flash/runs" / run
    put(rig, "ask", "echo the cache is busy; exit 3")
    put(rig, "tell", "exit 4")
    await rig.runs.clean(who(), run)
    await rig.work()

    seen = await rig.runs.view(PROJECT, run)
    assert (seen.state, seen.reason) == ("protected", "hook-failed")
    assert seen.explanation == "nothing was removed: the before-clean hook `ask` ended with status 3"
    assert (seen.hooks[1].exit_status, seen.hooks[1].output) == (3, "the cache is busy\n")
    assert (root / "data").is_dir() and root.stat().st_mode & 0o777 == 0o550 and "tell" not in told(rig)

    put(rig, "ask")
    await rig.runs.clean(who(), run)
    await rig.work()
    seen = await rig.runs.view(PROJECT, run)
    assert (seen.state, root.exists(), told(rig)) == ("cleaned", False, ["drain", "ask", "ask", "tell"])
    assert seen.explanation == (
        "the root is gone, and the after-clean hook `tell` ended with status 4: `mover run clean` asks for it again"
    )
    put(rig, "tell")
    await rig.runs.clean(who(), run)
    assert await rig.work() == ["run-after-clean"]
    seen = await rig.runs.view(PROJECT, run)
    assert (seen.state, seen.explanation, states(seen)[-1]) == (
        "cleaned", None, ("after-clean", "tell", "succeeded", 2)
    )  # fmt: skip


async def test_a_hook_that_was_cut_off_is_run_again(rig: Rig) -> None:
    """A daemon that is killed, or has lost its lease, leaves a hook of which nobody knows how far it came. It has no
    say any more, and no hook of it goes on beside the next one's."""
    run = await finished(rig)
    put(rig, "drain", f"echo $$ > {rig.folder}/pid; test -e {rig.folder}/go || exec sleep 1000")
    await rig.runs.clean(who(), run)
    paused = asyncio.create_task(rig.clean.clean(await rig.claim("run-clean")))
    pid = await asyncio.to_thread(written, rig.folder / "pid")
    assert states(await rig.runs.view(PROJECT, run)) == [("before-clean", "drain", "running", 1)]
    paused.cancel()
    with pytest.raises(asyncio.CancelledError):
        await paused
    assert not await asyncio.to_thread(os.path.exists, f"/proc/{pid}")

    (rig.folder / "go").touch()
    rig.lapse()
    rig.due()
    rig.rows("update mover.shard set state = 'waiting' where state = 'running'")
    await rig.work()
    seen = await rig.runs.view(PROJECT, run)
    assert seen.state == "cleaned" and states(seen)[0] == ("before-clean", "drain", "succeeded", 2)


async def test_a_run_that_was_never_ready_has_its_hooks_too(rig: Rig) -> None:
    """They belong to the place, not to what was trained there; and a refused one leaves the root as it is."""
    (rig.folder / "hooks.d/ask").chmod(0o777)
    run = (await rig.request(rig.slides([1000]), key="1")).id
    await rig.runs.cancel(who(), run)
    await rig.work()
    seen = await rig.runs.view(PROJECT, run)
    assert (seen.state, seen.reason) == ("failed", "hook-failed")
    assert seen.hooks[1].state == "refused" and "written by others" in (seen.explanation or "")
    (rig.folder / "hooks.d/ask").chmod(0o755)
    await rig.runs.clean(who(), run)
    await rig.work()
    assert (await rig.runs.view(PROJECT, run)).state == "cleaned"
