"""One look for all who want to see the same."""

from __future__ import annotations

import asyncio

import pytest

from mover.runs.shared import Shared


class Scene:
    """What is looked at: each look takes its turn of the loop, and says which look it was."""

    def __init__(self) -> None:
        self.looks = 0
        self.go_on = asyncio.Event()

    async def look(self) -> int:
        self.looks += 1
        at = self.looks
        await self.go_on.wait()
        return at


async def test_a_thousand_who_ask_at_once_are_served_by_two_looks_and_none_is_told_what_was_before_them() -> None:
    shared: Shared[int] = Shared()
    scene = Scene()
    first = asyncio.create_task(shared.get(scene.look))
    await asyncio.sleep(0)
    later = [asyncio.create_task(shared.get(scene.look)) for _ in range(1000)]
    await asyncio.sleep(0)
    scene.go_on.set()
    assert await first == 1
    assert set(await asyncio.gather(*later)) == {2}


async def test_who_is_content_with_an_older_look_takes_it_until_it_is_forgotten() -> None:
    """A change that comes while somebody looks may have been missed by that look."""
    shared: Shared[int] = Shared()
    scene = Scene()
    looking = asyncio.create_task(shared.get(scene.look, age_s=3600))
    await asyncio.sleep(0)
    shared.forget()
    scene.go_on.set()
    assert await looking == 1
    assert [await shared.get(scene.look, age_s=3600) for _ in range(3)] == [2, 2, 2]
    assert await shared.get(scene.look) == 3


async def test_a_look_that_fails_or_is_given_up_is_nobody_elses() -> None:
    shared: Shared[int] = Shared()
    scene = Scene()

    async def broken() -> int:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await shared.get(broken, age_s=3600)
    gone = asyncio.create_task(shared.get(scene.look, age_s=3600))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(shared.get(scene.look, age_s=3600))
    await asyncio.sleep(0)
    gone.cancel()
    scene.go_on.set()
    assert await waiting == 2
