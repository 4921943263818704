"""States that people rely on cannot be written without their proof, not even by the daemon's own role (D6, I3)."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from mover.catalog import proofs
from mover.catalog.database import Database
from mover.errors import ProofMissing
from tests.support.facts import DIGEST, NUMBER, insert, whole_project
from tests.support.postgres import Dsns

PROVED = {"kind": "ready", "subject": "run-a", "root": DIGEST, "verifier": "test"}


STATES = {
    "run ready": "update mover.run set state = 'ready' where id = 'run-a'",
    "run finishing": "update mover.run set state = 'finishing' where id = 'run-a'",
    "run protecting": "update mover.run set state = 'protecting' where id = 'run-a'",
    "run protected": "update mover.run set state = 'protected' where id = 'run-a'",
    "run cleaned": "update mover.run set state = 'cleaned' where id = 'run-a'",
    "pack published": f"update mover.pack set state = 'published', number = '{NUMBER}' where id = 'pack-a'",
    "pack published with one proof of two": "update mover.pack set state = 'published', verified_proof = 'proof-a',"
    f" number = '{NUMBER}' where id = 'pack-a'",
    "records aligned": "update mover.record_set set state = 'aligned' where id = 'records-a'",
    "batch complete": "update mover.batch set state = 'complete' where id = 'batch-a'",
    "a new run, ready at birth": "insert into mover.run (id, project_id, tier, policy, requested_by, state)"
    " values ('run-z', 'demo', 'flash', 'stage', 'eve', 'ready')",
}


@pytest.mark.parametrize("attack", STATES)
def test_a_state_without_its_proof_is_refused(attacker: psycopg.Connection[Any], attack: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="needs_proof"):
        attacker.execute(STATES[attack])


BORROWED = {
    "no such proof": "update mover.run set state = 'ready', ready_proof = 'proof-none' where id = 'run-a'",
    "another subject's": "update mover.run set state = 'ready', ready_proof = 'proof-a' where id = 'run-a'",
    "another kind": "update mover.pack set state = 'published', verified_proof = 'proof-a',"
    f" deidentified_proof = 'proof-a', number = '{NUMBER}' where id = 'pack-a'",
}


@pytest.mark.parametrize("attack", BORROWED)
def test_a_borrowed_or_invented_proof_is_refused(attacker: psycopg.Connection[Any], attack: str) -> None:
    """A proof is of one kind, about one subject."""
    with pytest.raises(psycopg.errors.ForeignKeyViolation, match="proof"):
        attacker.execute(BORROWED[attack])


def test_the_kind_a_state_points_at_cannot_be_set(attacker: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.GeneratedAlways):
        attacker.execute("update mover.run set ready_kind = 'verified' where id = 'run-a'")


PROOF = (
    "insert into mover.proof (id, project_id, kind, subject_id, count, bytes, root, verifier)"
    f" values ('proof-z', 'demo', %s, %s, %s, %s, '{DIGEST}', 'eve')"
)
FALSE_PROOFS = {
    "ready, nothing staged": ("ready", "run-a", 1, 10),
    "ready of a run that is not there": ("ready", "run-none", 1, 10),
    "protected, snapshot not checked": ("protected", "run-a", 1, 10),
    "cleaned, not there": ("cleaned", "run-none", 1, 10),
    "complete, a pack undecided": ("complete", "batch-a", 1, 10),
    "aligned, lines missing": ("aligned", "records-a", 2, 0),
}


@pytest.mark.parametrize("attack", FALSE_PROOFS)
def test_a_proof_that_the_rows_contradict_is_refused(attacker: psycopg.Connection[Any], attack: str) -> None:
    """The database counts for itself what it can count."""
    with pytest.raises(psycopg.errors.CheckViolation, match="proof of"):
        attacker.execute(PROOF, FALSE_PROOFS[attack])


@pytest.mark.parametrize(("count", "size"), [(0, 10), (1, 9)])
def test_a_ready_proof_that_claims_less_than_was_staged_is_refused(
    attacker: psycopg.Connection[Any], count: int, size: int
) -> None:
    attacker.execute("update mover.run_entry set staged_at = now(), staged_how = 'copied'")
    with pytest.raises(psycopg.errors.CheckViolation, match="proof of ready"):
        attacker.execute(PROOF, ("ready", "run-a", count, size))


def test_cleanup_of_a_ready_run_needs_proved_protection(attacker: psycopg.Connection[Any]) -> None:
    """I5: the rows of the real path up to `ready`, then the shortcut that must not exist."""
    attacker.execute("update mover.run_entry set staged_at = now(), staged_how = 'copied'")
    attacker.execute(PROOF, ("ready", "run-a", 1, 10))
    attacker.execute("update mover.run set state = 'ready', ready_proof = 'proof-z' where id = 'run-a'")
    for state in ("cleaning", "protected"):
        with pytest.raises(psycopg.errors.CheckViolation, match="protected_needs_proof"), attacker.transaction():
            attacker.execute("update mover.run set state = %s where id = 'run-a'", [state])
    with pytest.raises(psycopg.errors.CheckViolation, match="proof of cleaned"):
        attacker.execute(PROOF.replace("proof-z", "proof-y"), ("cleaned", "run-a", 1, 10))


async def test_the_same_refusals_reach_python_as_proof_missing(database: Database, dsns: Dsns, tier_rows: None) -> None:
    """Callers and the API see one error with a code, whichever rule spoke."""
    with psycopg.connect(dsns.superuser) as conn:
        whole_project(conn, "demo", mark="a", number=NUMBER)
    for statement in (STATES["run ready"], BORROWED["another subject's"]):
        with pytest.raises(ProofMissing):
            async with database.project("demo") as conn:
                await conn.execute(statement)
    with pytest.raises(ProofMissing):
        async with database.project("demo") as conn:
            await proofs.add(conn, project="demo", count=1, bytes=10, **PROVED)


async def test_the_honest_way_stays_open(database: Database, dsns: Dsns, tier_rows: None) -> None:
    """A lock that no key opens proves nothing."""
    with psycopg.connect(dsns.superuser) as conn:
        whole_project(conn, "demo", mark="a", number=NUMBER)
    async with database.project("demo") as conn:
        await conn.execute("update mover.run_entry set staged_at = now(), staged_how = 'copied'")
        proof = await proofs.add(conn, project="demo", count=1, bytes=10, details={"files": 1}, **PROVED)
        await conn.execute("update mover.run set state = 'ready', ready_proof = %s where id = 'run-a'", [proof])
    async with database.project("demo") as conn:
        (found,) = await proofs.of_subject(conn, "run-a")
    assert (found.id, found.kind, found.count, found.root) == (proof, "ready", 1, DIGEST)


def test_insert_writes_what_the_attacks_stand_on(attacker: psycopg.Connection[Any]) -> None:
    """The daemon may do ordinary work: the refusals above are about proofs, not about rights."""
    insert(attacker, "cohort", id="cohort-c", project_id="demo", name="b", version=1, expression="true", created_by="a")
    attacker.execute("update mover.run set state = 'admitted' where id = 'run-a'")
