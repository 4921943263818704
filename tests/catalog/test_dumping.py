"""One consistent dump of the real database, its facts, and the way back."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from mover.catalog.dumping import SCRATCH, Dumper, differing
from mover.catalog.migrate import migrate
from mover.catalog.postgres import SUPERUSER, EmbeddedServer
from mover.errors import CatalogError, CatalogUnavailable, Conflict
from tests.support.facts import NUMBER, whole_project
from tests.support.postgres import Dsns, add_tiers

# restoring grants rights of roles, which all databases of a server share: never two at once
pytestmark = [*[pytest.mark.slow], pytest.mark.xdist_group("dumping")]


@pytest.fixture
def dumper(server: EmbeddedServer, dsns: Dsns) -> Dumper:
    add_tiers(dsns)
    with psycopg.connect(dsns.superuser) as conn:
        whole_project(conn, "demo", mark="a", number=NUMBER)
    return Dumper(dsns.superuser, bin_dir=server.bin_dir)


def test_every_table_of_a_full_database_comes_back_equal(dumper: Dumper) -> None:
    """Rows, constraints, functions and row security: a migration over it finds nothing to do."""
    with dumper.moment() as moment:
        stream = b"".join(dumper.stream(moment))
    assert moment.facts["mover.slide"].rows == 1 and moment.schema >= "0014"
    with dumper.scratch("cut") as scratch:
        scratch.restore([stream])
        assert differing(moment.facts, scratch.facts()) == []
        assert migrate(scratch.dsn) == []


def test_the_dump_and_its_facts_are_of_one_moment(dumper: Dumper, dsns: Dsns) -> None:
    """What is committed between the two must be in neither: else every busy night's drill would fail."""
    with dumper.moment() as moment:
        with psycopg.connect(dsns.superuser) as conn:
            conn.execute("insert into mover.project (id) values ('later')")
        stream = b"".join(dumper.stream(moment))
    with dumper.scratch("torn") as scratch:
        scratch.restore([stream])
        assert differing(moment.facts, scratch.facts()) == []
    assert differing(moment.facts, dumper.facts()) == ["mover.project"]


def test_one_changed_value_is_a_difference(dumper: Dumper, dsns: Dsns) -> None:
    before = dumper.facts()
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute("update mover.slide set size_bytes = size_bytes + 1")
    after = dumper.facts()
    assert differing(before, after) == ["mover.slide"]
    assert before["mover.slide"].rows == after["mover.slide"].rows


def test_a_torn_stream_restores_nothing(dumper: Dumper) -> None:
    """All or nothing, in one transaction: half a vault that looks like one would mint numbers twice."""
    with dumper.moment() as moment:
        stream = b"".join(dumper.stream(moment))

    def broken():  # type: ignore[no-untyped-def]
        yield stream[: len(stream) // 2]
        raise CatalogError("the copy ended")

    with dumper.scratch("twice") as scratch:
        for torn in ([stream[: len(stream) // 2]], broken(), [b"no dump at all"]):
            with pytest.raises(CatalogError):
                scratch.restore(torn)
        assert scratch.facts() == {}


def test_nothing_is_restored_over_something(dumper: Dumper) -> None:
    with pytest.raises(Conflict):
        dumper.restore([])


def test_scratch_databases_are_gone_afterwards_also_those_of_a_killed_drill_and_no_other_drills(
    dumper: Dumper, server: EmbeddedServer
) -> None:
    """Two houses may drill on one server; sweeping away what the other restores into would fail its drill."""

    def standing() -> list[str]:
        rows = conn.execute("select datname from pg_database where starts_with(datname, %s)", [SCRATCH]).fetchall()
        return [name for (name,) in rows]

    def killed() -> None:
        """Its connection is cut, so it cannot tidy up after itself."""
        with dumper.scratch("killed"):
            conn.execute("select pg_terminate_backend(pid, 60000) from pg_stat_activity where pid = %s", [maker()])

    def maker() -> int:
        [name] = [name for name in standing() if name.endswith("_killed")]
        return int(name.removeprefix(SCRATCH).partition("_")[0])

    with psycopg.connect(server.dsn(SUPERUSER, "postgres"), autocommit=True) as conn:
        with pytest.raises(psycopg.OperationalError):
            killed()
        assert len(standing()) == 1
        with dumper.scratch("working"):
            with pytest.raises(ZeroDivisionError), dumper.scratch("broken"):
                raise ZeroDivisionError
            assert [name.rpartition("_")[2] for name in standing()] == ["working"]
        assert standing() == []


def test_a_role_that_sees_only_a_part_makes_no_dump(server: EmbeddedServer, dsns: Dsns) -> None:
    """Row security would have left out every project but none, quietly (I7)."""
    partial = Dumper(dsns.daemon, bin_dir=server.bin_dir)
    with pytest.raises(CatalogError, match="may not read everything"), partial.moment():
        raise AssertionError


def test_a_password_stands_in_no_process_list(
    dumper: Dumper, server: EmbeddedServer, dsns: Dsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words of a command can be read by every user of the machine."""
    import subprocess

    seen: list[tuple[list[str], dict[str, str]]] = []
    real = subprocess.Popen

    def noting(words, **more):  # type: ignore[no-untyped-def]
        seen.append((words, more["env"]))
        return real(words, **more)

    monkeypatch.setattr("mover.catalog.dumping.subprocess.Popen", noting)
    password = (server.secrets_dir / f"{SUPERUSER}.pgpass").read_text().strip().rpartition(":")[2]
    given = Dumper(make_conninfo(dsns.superuser, password=password), bin_dir=server.bin_dir)
    with given.moment() as moment:
        assert sum(map(len, given.stream(moment))) > 10_000
    [(words, environment)] = seen
    assert password not in " ".join(words) and environment["PGPASSWORD"] == password


def test_a_server_that_is_away_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CatalogUnavailable), Dumper(make_conninfo("", host=str(tmp_path), user="x")).moment():
        raise AssertionError
