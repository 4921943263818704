"""An audit pack: all that shows how one run came to its data, in one file (docs/formats.md, `mover-audit-pack/1`); or
the oldest records of some chains, when they leave the catalog.

JSON lines, compressed with zstd (RFC 8878). The first says what it is, the last holds the digest of every line before
it and the site's signature over that. Nothing in it names a patient: ids, numbers, digests and policies' texts.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal

from msgspec import Struct

from mover.model.certificate import Signature
from mover.model.checkpoint import RetiredChain

FORM: Final = "mover-audit-pack/1"
LINE_MAX: Final = 256 << 20  # the longest lines are certificates of whole batches


class Line(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """One line; `kind` says which."""


class Head(Line, frozen=True, kw_only=True, tag="pack"):
    form: Literal["mover-audit-pack/1"] = FORM
    site: str
    project: str
    run: str
    made_at: str
    made_by: str
    tool: str


class Range(Line, frozen=True, kw_only=True, tag="range"):
    """Instead of a run and what belongs to it: which records of which chains leave by this retirement."""

    id: str
    before: datetime
    chains: tuple[RetiredChain, ...]


class Run(Line, frozen=True, kw_only=True, tag="run"):
    """What the catalog says of the run: who asked, for whom it was made, when it was what."""

    id: str
    state: str
    policy: str
    tier: str
    requested_by: str
    posix_uid: int | None
    selection: str | None
    expression: str | None
    manifest_root: str | None
    created_at: datetime
    ready_at: datetime | None
    finished_at: datetime | None
    cleaned_at: datetime | None
    proofs: dict[str, str | None]


class ManifestLine(Line, frozen=True, kw_only=True, tag="manifest"):
    """A line of the sealed manifest as it was sealed, without its line feed."""

    text: str


class Slide(Line, frozen=True, kw_only=True, tag="slide"):
    """A slide of the manifest: the digests of its files, and the proofs that let it be published. A slide that was
    published in another project and granted to this one has its proofs there."""

    number: str
    digests: tuple[str, ...]
    proofs: dict[str, tuple[str, ...]]  # by kind: verified, deidentified, adopted
    granted: bool = False


class Proof(Line, frozen=True, kw_only=True, tag="proof"):
    id: str
    of: str
    subject: str
    count: int
    bytes: int
    root: str
    verifier: str
    at: datetime
    details: dict[str, Any]


class Certificate(Line, frozen=True, kw_only=True, tag="certificate"):
    batch: str
    digest: str
    body: str


class Policy(Line, frozen=True, kw_only=True, tag="policy"):
    name: str
    digest: str
    loaded_at: datetime
    text: str


class Snapshot(Line, frozen=True, kw_only=True, tag="snapshot"):
    id: str
    repository: str
    tier: str
    policy: str
    state: str
    files: int
    bytes: int
    recorded_at: datetime


class Record(Line, frozen=True, kw_only=True, tag="record"):
    """An audit record as it was hashed."""

    node: str
    seq: int
    at: datetime
    body: str
    prev: str
    hash: str


class Checkpoint(Line, frozen=True, kw_only=True, tag="checkpoint"):
    body: str


class End(Line, frozen=True, kw_only=True, tag="end"):
    """`blake3` is over every line before this one, line feeds included."""

    lines: int
    blake3: str
    signature: Signature


AnyLine = (
    Head | Range | Run | ManifestLine | Slide | Proof | Certificate | Policy | Snapshot | Record | Checkpoint | End
)


def signed_bytes(lines: int, digest: str) -> bytes:
    return f"{FORM}\n{lines}\n{digest}\n".encode()
