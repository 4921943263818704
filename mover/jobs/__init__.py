"""Distribute work: shards in the catalog are the truth, Procrastinate jobs carry only a shard's id (D3).

A workflow adds shards in the transaction that changes its state and finishes them in the transaction that
records their result; the feeder turns due shards into queue jobs and keeps the backlog bounded.
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
