"""Is the audit chain whole? Pure: records and heads in, the verdict out.

One chain per project and node (D21). A record's hash is SHA-256 over the hash before it and the text
`seq|time|project|node|body`, exactly as `mover.audit_append` in schema.sql makes it; the head repeats the
last seq and hash, so that records cut off the end are missed. Whoever owns the database can rewrite
records, hashes and head together; only a copy of a head outside its reach tells (`anchors`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import sha256

from msgspec import Struct


class Link(Struct, frozen=True):
    """One audit record as it stands in the catalog or in an export."""

    project: str
    node: str
    seq: int
    at: datetime
    body: str
    prev: bytes
    hash: bytes


class Head(Struct, frozen=True):
    """Where a chain ends: from the catalog, or written down earlier and kept elsewhere."""

    project: str
    node: str
    seq: int
    hash: bytes


class Loss(Struct, frozen=True):
    """Checkpoint `n` is the first after a restore to a catalog that had `after` as its last: of the chain of `node`
    what stood after `kept` is lost."""

    after: int
    n: int
    node: str
    kept: int


class Broken(Struct, frozen=True):
    """`problem` is one of: changed, dropped, reordered, truncated, headless, rewritten."""

    node: str
    seq: int
    problem: str
    reason: str


class Chain:
    """Checks one chain record by record, in the order given, in constant memory (the first `limit` broken
    links).

    `retired` is the last of the records that may stand in packs elsewhere: the chain may begin after it, or before,
    while they leave; then those that still stand must lead to it. Feed every record with `add`, then ask `finish`.
    """

    def __init__(self, *, limit: int = 100, anchors: Iterable[Head] = (), retired: Head | None = None) -> None:
        self.records = 0
        self.broken: list[Broken] = []
        self._limit = limit
        self._retired = retired
        self._seq, self._hash = (0, b"") if retired is None else (retired.seq, retired.hash)
        self._anchors = {anchor.seq: anchor for anchor in anchors}
        if retired is not None and self._anchors.setdefault(retired.seq, retired).hash != retired.hash:
            self._report(retired.node, retired.seq, "rewritten", "what is said of it is not what copies say")

    @property
    def last_seq(self) -> int:
        return self._seq

    @property
    def last_hash(self) -> bytes:
        return self._hash

    def add(self, link: Link) -> None:
        if not self.records and self._retired is not None and link.seq <= self._seq:
            self._seq, self._hash = link.seq - 1, link.prev if link.seq > 1 else b""
        self.records += 1
        for problem, reason in self._judge(link):
            self._report(link.node, link.seq, problem, reason)
        self._seq = max(self._seq, link.seq)
        self._hash = link.hash

    def extend(self, links: Iterable[Link]) -> None:
        for link in links:
            self.add(link)

    def finish(self, head: Head | None) -> list[Broken]:
        """What is broken, the end included; an empty list means whole."""
        if head is None:
            if self.records or self._retired is not None:
                self._report("", self._seq, "headless", "records stand there, but no head says where they end")
        elif head.seq > self._seq:
            self._report(head.node, head.seq, "truncated", f"the head says {head.seq}, the last is {self._seq}")
        elif (head.seq, head.hash) != (self._seq, self._hash):
            self._report(head.node, head.seq, "changed", "the head is not the last record's hash")
        for anchor in self._anchors.values():
            if anchor.seq > self._seq:
                self._report(anchor.node, anchor.seq, "truncated", "a head that was kept elsewhere is beyond the end")
        return self.broken

    def _judge(self, link: Link) -> Iterator[tuple[str, str]]:
        if link.seq <= self._seq:
            yield "reordered", f"it follows record {self._seq}"
        elif link.seq > self._seq + 1:
            yield "dropped", f"records {self._seq + 1} to {link.seq - 1} are not there"
        elif link.prev != self._hash:
            yield "changed", "it does not continue the record before it"
        if record_hash(link) != link.hash:
            yield "changed", "its content does not hash to what it says"
        anchor = self._anchors.get(link.seq)
        if anchor is not None and anchor.hash != link.hash:
            yield "rewritten", "a head that was kept elsewhere says otherwise"

    def _report(self, node: str, seq: int, problem: str, reason: str) -> None:
        if len(self.broken) < self._limit:
            self.broken.append(Broken(node=node, seq=seq, problem=problem, reason=reason))


def is_lost(losses: Iterable[Loss], n: int, head: Head) -> bool:
    """Whether checkpoint `n` says this of a record that two people know as lost since: no checkpoint is silenced that
    the restored catalog still had, and of the others nothing that still stands."""
    return any(one.after < n < one.n and head.node == one.node and head.seq > one.kept for one in losses)


def record_hash(link: Link) -> bytes:
    """What the record's hash must be, given what it says of itself."""
    stamp = link.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    text = f"{link.seq}|{stamp}|{link.project}|{link.node}|{link.body}"
    return sha256(link.prev + text.encode()).digest()


def check_chain(
    links: Iterable[Link], head: Head | None, *, anchors: Iterable[Head] = (), retired: Head | None = None
) -> list[Broken]:
    """The whole check over a chain at hand."""
    chain = Chain(anchors=anchors, retired=retired)
    chain.extend(links)
    return chain.finish(head)
