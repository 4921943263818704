"""People with tokens that have stood for a while, as the database wants them for what needs two persons."""

from __future__ import annotations

import hashlib

import psycopg

from mover.model.access import Identity, Role
from tests.support.postgres import Dsns


def person(dsns: Dsns, name: str, role: Role, *, project: str = "demo", days: int = 30) -> Identity:
    """The same one each time."""
    proof, token = hashlib.sha256(f"{name}'s at {project}".encode()).digest(), f"token-{name}-{project}"
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute(
            "insert into mover.token (id, hash, actor, role, project_id, created_at)"
            " values (%s, %s, %s, %s, %s, now() - make_interval(days => %s)) on conflict do nothing",
            (token, proof, name, role, project, days),
        )
    return Identity(actor=name, role=role, project=project, token_id=token, proof=proof)
