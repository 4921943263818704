"""The hash-chained record of who did what, written in the caller's transaction (D21).

`record` is the last statement of a transaction: it locks the chain's head until the commit, and everything
before it then runs without that lock. `Checkpoints` carries signed heads out of the database's reach; `make_pack`
puts all that concerns one run into a file that `check_pack` judges by itself. `Restores` and `Retirements` are the two
ways in which a chain may lack records that were there: two people said so, and it is told for ever.
"""

from mover.audit.chain import Wanted, events, export, heads, page, record, verify
from mover.audit.checkpoints import Checkpoints, checkpoint_page
from mover.audit.pack import make_pack
from mover.audit.packcheck import check_pack
from mover.audit.restores import Restores
from mover.audit.retirements import Retirements

__all__ = [
    "Checkpoints",
    "Restores",
    "Retirements",
    "Wanted",
    "check_pack",
    "checkpoint_page",
    "events",
    "export",
    "heads",
    "make_pack",
    "page",
    "record",
    "verify",
]
