"""Run recipes between tiers: move, digest, verify. Read `engine` for the order, `verifier` for the zones."""

from mover.transfer.digest import digest_recipe, digest_source, digest_stream
from mover.transfer.engine import Moved, Transfer
from mover.transfer.parts import Part, PartJournal
from mover.transfer.verifier import Clearance, Verifier, clear

__all__ = [
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
