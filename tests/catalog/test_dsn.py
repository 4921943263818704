"""A DSN that stands in a file may change while we work: how one gets in, never where."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mover.catalog.dsn import Followed, current

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
