"""Run recipes between tiers: move, digest, verify. Read `engine` for the order, `carrier` for streams of items,
`verifier` for the zones.

The front is opened when it is first used: worker processes live in this room too, need none of it, and every module
that they import is time before their first file and memory as long as they live.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mover.transfer.carrier import Carrier
    from mover.transfer.digest import digest_recipe, digest_source, digest_stream
    from mover.transfer.engine import Moved, Transfer
    from mover.transfer.parts import Part, PartJournal
    from mover.transfer.verifier import Clearance, Verifier, clear

__all__ = [
    "Carrier",
    "Clearance",
    "Moved",
    "Part",
    "PartJournal",
    "Transfer",
    "Verifier",
    "clear",
    "digest_recipe",
    "digest_source",
    "digest_stream",
]

_HOMES = {
    "carrier": ("Carrier",),
    "digest": ("digest_recipe", "digest_source", "digest_stream"),
    "engine": ("Moved", "Transfer"),
    "parts": ("Part", "PartJournal"),
    "verifier": ("Clearance", "Verifier", "clear"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"mover.transfer.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
