"""The audit record: written with the work it describes, and any later change is found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import psycopg
import pytest

from mover import audit
from mover.catalog.database import Database
from mover.decide.audit import Head, Link, check_chain, record_hash
from mover.errors import RequestInvalid
from tests.support.postgres import Dsns


def make_chain(length: int) -> list[Link]:
    """A chain as the database would write it."""
    links: list[Link] = []
    at = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    for seq in range(1, length + 1):
        prev = links[-1].hash if links else b""
        link = Link("demo", "n1", seq, at + timedelta(seconds=seq), f'{{"seq":{seq}}}', prev, b"")
        links.append(msgspec.structs.replace(link, hash=record_hash(link)))
    return links


def head_of(links: list[Link]) -> Head:
    return Head("demo", "n1", links[-1].seq, links[-1].hash)


def changed(links: list[Link]) -> list[Link]:
    return [*links[:3], msgspec.structs.replace(links[3], body='{"seq":9}'), *links[4:]]


def rehashed(links: list[Link]) -> list[Link]:
    """The forger also mends the hash of the record he changed, but not those after it."""
    forged = msgspec.structs.replace(links[3], body='{"seq":9}')
    return [*links[:3], msgspec.structs.replace(forged, hash=record_hash(forged)), *links[4:]]


def dropped(links: list[Link]) -> list[Link]:
    return [*links[:3], *links[4:]]


def renumbered(links: list[Link]) -> list[Link]:
    """A record taken out, and the later ones moved up so that no number is missing."""
    return [*links[:3], *(msgspec.structs.replace(link, seq=link.seq - 1) for link in links[4:])]


def reordered(links: list[Link]) -> list[Link]:
    return [*links[:3], links[4], links[3], *links[5:]]


def redated(links: list[Link]) -> list[Link]:
    earlier = links[3].at - timedelta(microseconds=1)
    return [*links[:3], msgspec.structs.replace(links[3], at=earlier), *links[4:]]


@pytest.mark.parametrize(
    ("tamper", "problem", "seq"),
    [
        (changed, "changed", 4),
        (rehashed, "changed", 5),
        (dropped, "dropped", 5),
        (renumbered, "changed", 4),
        (reordered, "reordered", 4),
        (redated, "changed", 4),
    ],
)
def test_every_tampering_is_found_and_the_link_named(tamper, problem: str, seq: int) -> None:
    """A compliance officer must see where the chain breaks, not only that it does."""
    links = make_chain(8)
    broken = check_chain(tamper(links), head_of(links))
    assert (problem, seq) in [(link.problem, link.seq) for link in broken]


def test_records_cut_off_the_end_are_missed_by_the_head() -> None:
    """Every remaining record is genuine; only the head knows that more was there."""
    links = make_chain(8)
    assert [link.problem for link in check_chain(links[:6], head_of(links))] == ["truncated"]
    assert [link.problem for link in check_chain([], head_of(links))] == ["truncated"]


def test_a_chain_without_its_head_is_not_whole() -> None:
    """Removing the head would otherwise hide any cut."""
    assert [link.problem for link in check_chain(make_chain(3), None)] == ["headless"]


def test_a_forger_who_rewrites_everything_is_caught_by_a_head_kept_elsewhere() -> None:
    """Inside the database a full re-signing is invisible; a copy of a head outside its reach tells."""
    true = make_chain(5)
    forged: list[Link] = []
    for link in true:
        prev = forged[-1].hash if forged else b""
        lie = msgspec.structs.replace(link, body='{"lie":1}', prev=prev)
        forged.append(msgspec.structs.replace(lie, hash=record_hash(lie)))
    assert check_chain(forged, head_of(forged)) == []
    assert {link.problem for link in check_chain(forged, head_of(forged), anchors=[head_of(true)])} == {"rewritten"}
    cut = check_chain(true[:3], head_of(true[:3]), anchors=[head_of(true)])
    assert [link.problem for link in cut] == ["truncated"]


def test_an_untouched_chain_is_whole() -> None:
    links = make_chain(8)
    assert check_chain(links, head_of(links), anchors=[head_of(links[:4])]) == []


def rewritten_from(links: list[Link], at: int) -> list[Link]:
    """Link `at` and all after it say something else, each with its own hash."""
    made = links[:at]
    for link in links[at:]:
        lie = msgspec.structs.replace(link, body='{"lie":1}', prev=made[-1].hash if made else b"")
        made.append(msgspec.structs.replace(lie, hash=record_hash(lie)))
    return made


def test_a_chain_may_begin_later_only_up_to_what_two_people_let_go() -> None:
    """While records leave, those that still stand lead to the last of them; afterwards the next one follows it."""
    links = make_chain(8)
    base, end = head_of(links[:5]), head_of(links)
    for first in range(6):
        assert check_chain(links[first:], end, retired=base, anchors=[head_of(links[:3]), end]) == []
    problems = {
        "more left": (links[6:], end), "all left": ([], end), "one in the middle": ([*links[:2], *links[3:]], end),
        "rewritten before it": (rewritten_from(links[2:], 0), end), "cut": (links[5:7], end),
        "a first record that follows another": ([msgspec.structs.replace(links[5], prev=b"x"), *links[6:]], end),
        "no head": (links[5:], None), "nothing at all": ([], None),
    }  # fmt: skip
    for what, (rest, head) in problems.items():
        assert check_chain(rest, head, retired=base), what
    assert check_chain([], base, retired=base) == [], "a node that is no more left whole"
    other = msgspec.structs.replace(base, hash=links[3].hash)
    for rest in (links, links[4:], links[5:]):
        assert check_chain(rest, end, retired=other), "the end of what left is not that record"
    assert check_chain(links[5:], end, retired=base, anchors=[other])


async def write(database: Database, count: int, *, node: str = "n1", project: str = "demo") -> None:
    for index in range(count):
        async with database.project(project) as conn:
            await audit.record(
                conn, project=project, node=node, actor="ann", action="batch-declare",
                subject=f"batch-{index}", reason="ready", request="r1", details={"count": index},
            )  # fmt: skip


async def test_what_the_database_writes_the_pure_check_accepts(database: Database) -> None:
    """The text that is hashed is made in SQL and remade in Python; they must agree to the byte."""
    await write(database, 3)
    await write(database, 2, node="n2")
    async with database.project("demo") as conn:
        verdict = await audit.verify(conn, "demo")
    assert verdict.whole and verdict.records == 5 and verdict.chains == {"n1": 3, "n2": 2}


async def test_a_record_vanishes_with_the_transaction_it_belongs_to(database: Database) -> None:
    """An audit line about something that did not happen is as wrong as a missing one."""
    with pytest.raises(ZeroDivisionError):
        async with database.project("demo") as conn:
            await audit.record(conn, project="demo", node="n1", actor="a", action="x", subject="s")
            raise ZeroDivisionError
    async with database.project("demo") as conn:
        assert (await audit.verify(conn, "demo")).records == 0


TAMPERINGS = {
    "changed byte": "update mover.audit_record set body = replace(body, 'ann', 'bob') where seq = 2",
    "dropped": "delete from mover.audit_record where seq = 2",
    "cut off": "delete from mover.audit_record where seq = 4",
    "cut off with its head": "delete from mover.audit_record where seq = 4; delete from mover.audit_head",
    "reordered": "update mover.audit_record set seq = 20 where seq = 2;"
    " update mover.audit_record set seq = 2 where seq = 3;"
    " update mover.audit_record set seq = 3 where seq = 20",
    "redated": "update mover.audit_record set at = at - interval '1 day' where seq = 2",
    "another node's": "update mover.audit_record set node = 'n9' where seq = 4",
    "all gone": "delete from mover.audit_record",
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
async def test_a_superuser_cannot_edit_history_unseen(database: Database, dsns: Dsns, tampering: str) -> None:
    """Whoever owns the database may write anything; what he may not is stay unnoticed (I8)."""
    await write(database, 4)
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute(TAMPERINGS[tampering])
    async with database.project("demo") as conn:
        verdict = await audit.verify(conn, "demo")
    assert not verdict.whole and verdict.broken


async def test_pages_cover_every_record_once_newest_first(database: Database) -> None:
    """People page through; nothing may fall between two pages."""
    await write(database, 5)
    await write(database, 2, node="n2")
    seen: list[tuple[str, int]] = []
    after = None
    async with database.project("demo") as conn:
        while True:
            page = await audit.page(conn, "demo", after=after, limit=3)
            seen += [(line.node, line.seq) for line in page.records]
            after = page.next
            if after is None:
                break
        of_one = await audit.page(conn, "demo", audit.Wanted(subject="batch-4"))
        with pytest.raises(RequestInvalid):
            await audit.page(conn, "demo", after="not a cursor")
    assert seen == [("n2", 2), ("n2", 1), *[("n1", seq) for seq in (5, 4, 3, 2, 1)]]
    assert [line.body["details"] for line in of_one.records] == [{"count": 4}]


async def test_an_outsider_can_recompute_the_export(database: Database) -> None:
    """The export alone, without our database or our code, holds all that the hashes need."""
    from hashlib import sha256

    await write(database, 3)
    text = b"".join([piece async for piece in audit.export(database, "demo")])
    lines = [msgspec.json.decode(line) for line in text.splitlines()]
    prev = b""
    for line in lines:
        stamp = datetime.fromisoformat(line["at"]).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        text = f"{line['seq']}|{stamp}|{line['project']}|{line['node']}|{line['body']}"
        prev = sha256(prev + text.encode()).digest()
        assert prev.hex() == line["hash"]
    assert len(lines) == 3
