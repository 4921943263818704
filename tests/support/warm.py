"""One-shot runs by the hundred: each starts a zygote and loads every parser, which costs more than most of what the
tests give it to do. In the tests of a process they share one, as the batches of a daemon do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from mover.deid.oneshot import shot
from mover.sandbox import Sandbox


class _Kept(Sandbox):
    """It outlives the run that opens it."""

    def __exit__(self, *_: object) -> None:
        pass


@contextmanager
def warm_runs() -> Iterator[None]:
    """Until the end of the block a run finds the sandbox of an earlier one that asked for the same."""
    made: dict[str, _Kept] = {}
    with ExitStack() as ends, pytest.MonkeyPatch.context() as patch:

        def kept(*given: Any, **words: Any) -> _Kept:
            asked = repr((given, words))
            if asked not in made:
                made[asked] = _Kept(*given, **words)
                ends.callback(made[asked].close)
            return made[asked]

        patch.setattr(shot, "Sandbox", kept)
        yield
