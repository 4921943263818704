"""Distribute work: shards in the catalog are the truth, Procrastinate jobs carry only a shard's id (D3).

A workflow adds shards in the transaction that changes its state and finishes them in the transaction that
records their result; the feeder turns due shards into queue jobs and keeps the backlog bounded.

Order of locks in a transaction: a digest or a tier, then the subject (batch, run), then packs and entries, the head
of the audit chain last. The handler's own shard may be locked at any point: nobody else of this epoch wants it.
Files are hashed outside of transactions, except under a digest's lock, which is there for that.
"""

from mover.jobs.shards import NewShard, Shard, add_shards, finish_shard, siblings_open
from mover.jobs.threads import in_thread
from mover.jobs.worker import FailureHandler, Handler, Worker

__all__ = [
    "FailureHandler",
    "Handler",
    "NewShard",
    "Shard",
    "Worker",
    "add_shards",
    "finish_shard",
    "in_thread",
    "siblings_open",
]
