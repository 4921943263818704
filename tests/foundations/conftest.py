"""One database with a row of everything in two projects, shared by the attacks of a module: each is rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from mover.catalog.postgres import EmbeddedServer
from tests.support.facts import NUMBER, whole_project
from tests.support.postgres import Dsns, add_tiers, fresh_database

SECOND = "H123456789ABCDEFG"


@pytest.fixture(scope="module")
def populated(server: EmbeddedServer) -> Iterator[Dsns]:
    with fresh_database(server) as dsns:
        add_tiers(dsns)
        with psycopg.connect(dsns.superuser) as conn:
            whole_project(conn, "demo", mark="a", number=NUMBER)
            whole_project(conn, "other", mark="b", number=SECOND)
        yield dsns


@pytest.fixture
def two_projects(populated: Dsns) -> Iterator[psycopg.Connection[Any]]:
    """Plain SQL under the daemon's role, in no project yet; whatever it does is rolled back."""
    with psycopg.connect(populated.daemon) as conn:
        yield conn
        conn.rollback()


@pytest.fixture
def attacker(two_projects: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """The same, in project demo."""
    two_projects.execute("select set_config('mover.project', 'demo', true)")
    return two_projects
