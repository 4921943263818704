"""Proofs: the rows that make states true (D6)."""

from __future__ import annotations

from collections.abc import Sequence
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
    return (await of_subjects(conn, [subject]))[subject]


async def of_subjects(conn: Connection, subjects: Sequence[str]) -> dict[str, list[wire.Proof]]:
    """Of each of these, in one question."""
    found: dict[str, list[wire.Proof]] = {subject: [] for subject in subjects}
    limit = SUBJECT_PROOFS_LIMIT * len(subjects)
    for row in await _Q.many(conn, "proofs_of_subjects", subjects=list(subjects), limit=limit):
        values = row._asdict()
        found[values.pop("subject_id")].append(wire.Proof(**values))
    return found
