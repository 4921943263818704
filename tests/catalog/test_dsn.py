"""A DSN that stands in a file may change while we work: how one gets in, never where."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from mover.catalog.dsn import Followed, current, unreachable
from mover.errors import CatalogRefused

OLD = "host=db port=5432 user=mover_daemon dbname=mover password=first"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "dsn"
    path.write_text(OLD)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    "new",
    [
        "host=db port=5432 user=mover_daemon dbname=mover password=second",
        "postgresql://mover_daemon:second@db:5432/mover",
        "host=db port=5432 user=mover_daemon dbname=mover passfile=/etc/pgpass sslmode=verify-full sslrootcert=ca",
    ],
)
def test_how_one_gets_in_is_taken_at_the_next_connection(file: Path, new: str) -> None:
    """A password that ends each quarter would end a run of weeks."""
    source = Followed(file, OLD, options="-c search_path=queue")
    assert "password=first" in source() and "search_path" in current(source)
    file.write_text(new)
    assert "first" not in source() and "search_path" in source() and source.problem is None


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (OLD.replace("host=db", "host=other"), "another host: that is taken at the next start"),
        (OLD.replace("mover_daemon", "postgres").replace("5432", "5433"), "another port and another user"),
        (OLD.replace("dbname=mover", "dbname=old"), "another dbname"),
        ("", "is empty"),
        ("secret-words without meaning", "no DSN that PostgreSQL's client understands"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_another_catalog_and_a_file_that_is_half_written_change_nothing(
    file: Path, new: str | bytes, why: str
) -> None:
    """Half of our connections in each of two catalogs would count slides twice. It is said once, without its words."""
    source = Followed(file, OLD)
    file.write_bytes(new if isinstance(new, bytes) else new.encode())
    with capture_logs() as said:
        assert {source() for _ in range(3)} == {OLD}
    assert why in (source.problem or "")
    assert len(said) == 1 and why in said[0]["what"] and "secret-words" not in str(said)
    file.write_text(OLD.replace("first", "third"))
    assert "third" in source() and source.problem is None


def test_a_file_that_others_may_read_now_is_not_taken(file: Path) -> None:
    source = Followed(file, OLD)
    file.write_text(OLD.replace("first", "second"))
    file.chmod(0o644)
    assert source() == OLD and "read by others" in (source.problem or "")


# what libpq said of each, to psycopg 3.3 and PostgreSQL 18
REFUSED = [
    'FATAL:  password authentication failed for user "x"', "fe_sendauth: no password supplied",
    'FATAL:  Peer authentication failed for user "x"', 'FATAL:  role "x" does not exist',
    'FATAL:  role "x" is not permitted to log in', 'FATAL:  database "x" does not exist',
    'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "x", database "x", no encryption',
    'FATAL:  pg_hba.conf rejects connection for host "[local]", user "x", database "x", no encryption',
    'FATAL:  kein pg_hba.conf-Eintrag f\u00fcr Host \u00bb10.0.0.1\u00ab',
]  # fmt: skip
WAITED = {
    "Connection refused\n\tIs the server running on that host": "no server listens there",
    'could not open certificate file "x": No such file or directory': "sslcert",
    'could not load private key file "x": bad decrypt': "sslkey",
    "failed to resolve host 'x': [Errno -2] Name or service not known": "host is not known",
    "FATAL:  the database system is starting up": "starting",
    'FATAL:  too many connections for role "x"': "no connection left",
    'FATAL:  LDAP authentication failed for user "x"': "its own log says why",
    'FATAL:  Passwort-Authentifizierung f\u00fcr Benutzer \u00bbx\u00ab fehlgeschlagen': "its own log says why",
    "something new": "away$",
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_what_no_waiting_mends_is_told_from_what_comes_right(words: str) -> None:
    """libpq gives no SQLSTATE of a connection that failed, so its words must do. Of several servers each refuses."""
    tried = f'connection failed: connection to server at "10.0.0.1", port 5432 failed: {words}'
    refused = unreachable(psycopg.OperationalError(tried), "away")
    assert isinstance(refused, CatalogRefused) and '"x"' not in str(refused) and refused.advice != refused.hint
    several = f"{tried}\nMultiple connection attempts failed. All failures were:\n- host: 'a', port: '1': {tried}"
    assert isinstance(unreachable(psycopg.OperationalError(several), "away"), CatalogRefused)
    waited = unreachable(psycopg.OperationalError(f"{several}\n- host: 'b': Connection refused"), "away")
    assert not isinstance(waited, CatalogRefused) and refused.what.rpartition(": ")[2] in waited.what


@pytest.mark.parametrize(("words", "told"), WAITED.items())
def test_what_is_waited_for_says_why_where_that_is_known(words: str, told: str) -> None:
    waited = unreachable(psycopg.OperationalError(f"connection failed: {words}"), "away")
    assert not isinstance(waited, CatalogRefused) and re.search(told, waited.what)
