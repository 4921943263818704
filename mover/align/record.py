"""Step 3a: what was decided becomes rows, in the caller's transaction and in the order that the proof needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from blake3 import blake3

from mover import __version__
from mover.align.child import Answer
from mover.catalog import facts, proofs
from mover.catalog.database import Connection
from mover.decide.alignment import Aligned, Line
from mover.decide.tables import fact_columns
from mover.model.policy import RecordsPolicy

VERIFIER = f"mover.align {__version__}"


def report_of(answer: Answer) -> dict[str, Any]:
    """Counts by table and state, totals that equal them, and what was skipped or suppressed; no identifier."""
    ledger: dict[str, dict[str, int]] = {}
    for (table, state), count in sorted(Counter((line.table, line.state) for line in answer.aligned.lines).items()):
        ledger.setdefault(table, {})[state] = count
    for table in answer.skipped:
        ledger.setdefault(table, {})
    return {
        "ledger": ledger,
        "totals": {table: sum(states.values()) for table, states in ledger.items()},
        "skipped": answer.skipped,
        "slides_aligned": len(answer.aligned.documents),
        "k": answer.aligned.k,
        "suppressed": answer.aligned.suppressed,
    }


def superseded(answer: Answer) -> Answer:
    """A newer version of the tables was aligned first: what would have matched is late, nothing is used."""
    lines = [_late(line) if line.state == "matched" else line for line in answer.aligned.lines]
    return msgspec.structs.replace(answer, aligned=Aligned(lines=lines, documents=[], k=None, suppressed=0))


def _late(line: Line) -> Line:
    return Line(line.table, line.line, "late", "newer-version-aligned", line.number, None)


async def write(
    conn: Connection,
    project: str,
    record_set: str,
    policy: RecordsPolicy,
    answer: Answer,
    *,
    batch: str,
    version: int,
    table_bytes: int,
    replaces: bool,
) -> str:
    """Ledger, columns and documents, then their proof, whose id is returned for the record set's state.
    `replaces`: no newer version was aligned, so that the documents of earlier ones give way."""
    lines = answer.aligned.lines
    await facts.put_ledger(conn, project, record_set, lines)
    await facts.put_columns(conn, project, fact_columns(policy))
    if replaces:
        await facts.put_aligned(conn, project, record_set, batch, version, answer.aligned.documents)
    return await proofs.add(
        conn,
        project=project,
        kind="aligned",
        subject=record_set,
        count=len(lines),
        bytes=table_bytes,
        root=ledger_root(lines),
        verifier=VERIFIER,
        details=_details(policy, answer),
    )


def ledger_root(lines: Iterable[Line]) -> str:
    """The digest over the ledger, in order of table and line."""
    digest = blake3()
    for line in sorted(lines, key=lambda line: (line.table, line.line)):
        digest.update(f"{line.table}\t{line.line}\t{line.state}\t{line.number or ''}\n".encode())
    return digest.hexdigest()


def _details(policy: RecordsPolicy, answer: Answer) -> dict[str, Any]:
    """The basis that is claimed belongs to the proof (design/deidentification.md, section 3)."""
    tables: Sequence[str] = [table.name for table in policy.tables]
    return {
        "policy": policy.name,
        "basis": policy.basis,
        "tables": tables,
        "k": answer.aligned.k,
        "minimum_k": policy.minimum_k,
        "suppressed": answer.aligned.suppressed,
    }
