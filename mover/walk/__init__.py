"""Bounded, resumable walks of tiers into the catalog.

Read `conductor` for how a walk goes, `reader` for what looks at folders, `ledger` for what is written down when,
`scans` for what people ask for. The front is loaded when it is asked for: reading processes import this package,
and must not pay for a database driver each.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mover.walk.bench import changes_posix, stage_posix, walk_posix
    from mover.walk.ledger import Names
    from mover.walk.scans import Scans

__all__ = ["Names", "Scans", "changes_posix", "stage_posix", "walk_posix"]

_HOMES = {
    "Names": "mover.walk.ledger",
    "Scans": "mover.walk.scans",
    "changes_posix": "mover.walk.bench",
    "stage_posix": "mover.walk.bench",
    "walk_posix": "mover.walk.bench",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(importlib.import_module(_HOMES[name]), name)
