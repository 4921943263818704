"""The hash-chained record of who did what, written in the caller's transaction (D21).

`record` is the last statement of a transaction: it locks the chain's head until the commit, and everything
before it then runs without that lock.
"""

from mover.audit.chain import export, heads, page, record, verify

__all__ = ["export", "heads", "page", "record", "verify"]
