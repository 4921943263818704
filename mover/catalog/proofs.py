"""Proofs: the rows that make states true (D6)."""

from __future__ import annotations

from typing import Any, Literal

from psycopg.types.json import Jsonb

from mover.catalog import queries
from mover.catalog.database import Connection
from mover.model import wire
from mover.randomness import new_id

ProofKind = Literal["verified", "deidentified", "adopted", "complete", "aligned", "ready", "protected", "cleaned"]

SUBJECT_PROOFS_LIMIT = 100

_Q = queries.load(__file__)


async def add(
    conn: Connection,
    *,
    project: str,
    kind: ProofKind,
    subject: str,
    count: int,
    bytes: int,
    root: str,
    verifier: str,
    details: dict[str, Any] | None = None,
) -> str:
    """Writes the proof and returns its id; the caller sets the state that points at it in the same
    transaction.

    Facts come before their proof: the entries staged, the packs decided, the snapshot checked. Otherwise the
    database refuses, which `Database` reports as ProofMissing. `details` holds no identifier.
    """
    proof_id = new_id("proof")
    values = {"id": proof_id, "project": project, "kind": kind, "subject": subject, "count": count,
              "bytes": bytes, "root": root, "verifier": verifier, "details": Jsonb(details or {})}  # fmt: skip
    await conn.execute(_Q["add_proof"], values)
    return proof_id


async def of_subject(conn: Connection, subject: str) -> list[wire.Proof]:
    cursor = await conn.execute(_Q["proofs_of_subject"], {"subject": subject, "limit": SUBJECT_PROOFS_LIMIT})
    return [wire.Proof(**row._asdict()) for row in await cursor.fetchall()]
