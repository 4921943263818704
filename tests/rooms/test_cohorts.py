"""Cohorts on the real database: what an expression means, what a selection freezes, and how long it takes."""

from __future__ import annotations

import random
from hashlib import sha256
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from mover.catalog import selections
from mover.catalog.database import Database
from mover.clock import monotonic_s
from mover.cohorts import Cohorts
from mover.decide.cohort import (
    All,
    Any_,
    Between,
    Column,
    Compare,
    IsNull,
    Like,
    Node,
    Not,
    OneOf,
    Sampled,
    parse,
)
from mover.errors import ExpressionInvalid, NotFound, RequestInvalid, RunRefused
from mover.model import wire
from mover.model.facts import FactColumn
from mover.model.ids import make_number
from tests.support.facts import DIGEST, insert
from tests.support.postgres import Dsns

pytestmark = pytest.mark.usefixtures("tier_rows")
PROJECT = "demo"
COLUMNS = [
    FactColumn("diagnosis", "text", "outcomes", ("PRAD", "BRCA", "LUAD")),
    FactColumn("stage", "text", "outcomes"),
    FactColumn("gleason", "integer", "outcomes"),
    FactColumn("size_mm", "number", "outcomes"),
    FactColumn("alive", "boolean", "outcomes"),
    FactColumn("seen", "date", "outcomes"),
    FactColumn("mpp", "number", "imagery"),
]
BY_NAME = {column.name: column for column in COLUMNS}


def number(n: int) -> str:
    return make_number(n.to_bytes(10, "big"))


def fill(dsns: Dsns, documents: list[dict[str, Any] | None], *, project: str = PROJECT, first: int = 0) -> list[str]:
    """Slides with these aligned documents; None is a slide that no record speaks of."""
    numbers = [number(first + n) for n in range(len(documents))]
    own = {"mpp_x": 0.25, "width": 1000, "vendor": "aperio"}
    with psycopg.connect(dsns.superuser) as conn:
        insert(conn, "batch", project_id=project, id=f"batch-{project}", tier="intake", policy="images",
               folder=f"f-{project}", created_by="ann")  # fmt: skip
        insert(conn, "record_set", project_id=project, id=f"records-{project}", batch_id=f"batch-{project}",
               policy="records", version=1, source="s", created_by="ann")  # fmt: skip
        with conn.cursor() as cursor:
            cursor.executemany(
                "insert into mover.slide (number, site, family, extension, size_bytes, digest, tier, key, facts)"
                " values (%s, 'ward', 'aperio', 'svs', %s, %s, 'archive', %s, %s)",
                [(n, 100 + i, DIGEST, f"slides/{n}", Jsonb(own)) for i, n in enumerate(numbers)],
            )
            cursor.executemany("insert into mover.slide_grant (project_id, number) values (%s, %s)",
                               [(project, n) for n in numbers])  # fmt: skip
            cursor.executemany(
                "insert into mover.aligned (project_id, number, facts, record_set_id) values (%s, %s, %s, %s)",
                [(project, n, Jsonb(d), f"records-{project}") for n, d in zip(numbers, documents, strict=True)
                 if d is not None],
            )  # fmt: skip
            cursor.executemany(
                "insert into mover.fact_column values (%s, %s, %s, %s, %s) on conflict do nothing",
                [(project, c.name, c.type, c.table, list(c.allowed) if c.allowed else None) for c in COLUMNS],
            )
    return numbers


async def selected(database: Database, expression: str, *, project: str = PROJECT) -> list[str]:
    async with database.project(project) as conn:
        frozen = await selections.freeze(conn, project, expression=expression)
        cursor = await conn.execute("select number from mover.selection_slide where selection_id = %s order by number",
                                    [frozen.selection_id])  # fmt: skip
        found = [row.number for row in await cursor.fetchall()]
    assert frozen.count == len(found)
    return found


def sampled_share(number: str, seed: int) -> int:
    """SplitMix64's finishing steps over the number's digest, as docs/cohorts.md says, without numpy."""
    x = (int.from_bytes(sha256(number.encode()).digest()[:8], "big") + seed * 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return (x ^ (x >> 31)) >> 32


def means(node: Node, number: str, facts: dict[str, Any]) -> bool | None:
    """SQL's three-valued logic in Python: the oracle. None is unknown."""

    def value(operand: Any) -> Any:
        if not isinstance(operand, Column):
            return operand
        own = {"mpp": 0.25, "width": 1000, "vendor": "aperio", "family": "aperio", "number": number}
        return facts.get(operand.name) if operand.home == "record" else own[operand.name]

    match node:
        case All(parts):
            found = [means(part, number, facts) for part in parts]
            return False if False in found else None if None in found else True
        case Any_(parts):
            found = [means(part, number, facts) for part in parts]
            return True if True in found else None if None in found else False
        case Not(inner):
            held = means(inner, number, facts)
            return None if held is None else not held
        case IsNull(column):
            return value(column) is None
        case Sampled(fraction, seed):
            return sampled_share(number, seed) < int(fraction * 2**32)
        case Compare(left, operator, right):
            a, b = value(left), value(right)
            if a is None or b is None:
                return None
            return {"=": a == b, "<>": a != b, "<": a < b if operator == "<" else False,
                    "<=": a <= b if operator == "<=" else False, ">": a > b if operator == ">" else False,
                    ">=": a >= b if operator == ">=" else False}[operator]  # fmt: skip
        case OneOf(column, values):
            return None if value(column) is None else value(column) in values
        case Between(column, low, high):
            return None if value(column) is None else low <= value(column) <= high
        case Like(column, pattern, any_case):
            text = value(column)
            if text is None:
                return None
            text, pattern = (text.lower(), pattern.lower()) if any_case else (text, pattern)
            return bool(text.startswith(pattern[:-1])) if pattern.endswith("%") else bool(text == pattern)
    raise AssertionError(node)


def documents(count: int, seed: int) -> list[dict[str, Any] | None]:
    chance = random.Random(seed)
    kinds: dict[str, list[Any]] = {
        "diagnosis": ["PRAD", "BRCA", "LUAD"],
        "stage": ["I", "II", "IIA", "it's"],
        "gleason": [6, 7, 8, 9],
        "size_mm": [0.5, 12.25, 18.7],
        "alive": [True, False],
        "seen": ["2019-12-31", "2024-02-29"],
        "mpp": [0.25, 0.5],
    }
    made: list[dict[str, Any] | None] = []
    for _ in range(count):
        facts = {name: chance.choice(values) for name, values in kinds.items() if chance.random() < 0.8}
        made.append(facts if chance.random() < 0.9 else None)
    return made


EXPRESSIONS = [
    "diagnosis = 'PRAD' and gleason >= 7",
    "diagnosis <> 'PRAD'",
    "not (diagnosis = 'PRAD' and gleason >= 7)",
    "diagnosis in ('BRCA', 'LUAD') or not alive",
    "stage not in ('I', 'II') and size_mm between 1 and 12.25",
    "stage is null or stage = 'it''s'",
    "alive is true",
    "alive is not true",
    "stage like 'I%' and stage not ilike 'ii%'",
    "seen >= '2020-01-01' and size_mm = 18.7",
    "mpp < 0.3",
    "slide.mpp < 0.3 and mpp >= 0.3",
    "family = 'aperio' and sampled(0.5, seed = 7)",
    "sampled(0.25) and not sampled(0.25, seed = 1)",
    "gleason > size_mm",
    f"number in ('{number(1)}', '{number(2)}')",
    "width = 1000 and vendor = 'aperio' and size_mm is not null",
]


async def test_an_expression_selects_exactly_what_it_says(dsns: Dsns, database: Database) -> None:
    """Every kind of condition against an independent reading of it, unknown facts included."""
    made = documents(120, seed=3)
    numbers = fill(dsns, made)

    for expression in EXPRESSIONS:
        tree = parse(expression, BY_NAME)
        expected = [n for n, facts in zip(numbers, made, strict=True) if means(tree, n, facts or {}) is True]
        assert await selected(database, expression) == sorted(expected), expression


async def test_values_are_parameters_and_odd_documents_are_skipped(dsns: Dsns, database: Database) -> None:
    """Quotes, percent signs and braces in values mean themselves; a document of the wrong type stops nobody."""
    odd: list[dict[str, Any] | None] = [
        {"stage": "';drop--"},
        {"stage": "%s{}%(x)s"},
        {"gleason": "seven", "alive": "yes", "size_mm": {"a": 1}},
        {"stage": "a\\b"},
    ]
    numbers = fill(dsns, odd)

    assert await selected(database, "stage = ''';drop--'") == [numbers[0]]
    assert await selected(database, "stage = '%s{}%(x)s'") == [numbers[1]]
    assert await selected(database, "gleason >= 0 or alive or size_mm > 0") == []
    assert await selected(database, "stage like 'a\\\\b'") == [numbers[3]]


async def test_a_selection_is_frozen_with_its_root_and_stays(dsns: Dsns, database: Database) -> None:
    """A run trains on what was selected, not on what the question would select today."""
    numbers = fill(dsns, [{"gleason": 7}, {"gleason": 8}, {"gleason": 6}])
    async with database.project(PROJECT) as conn:
        first = await selections.freeze(conn, PROJECT, expression="gleason >= 7")
        same = await selections.freeze(conn, PROJECT, numbers=numbers[:2])
        other = await selections.freeze(conn, PROJECT, numbers=numbers[1:])
        with pytest.raises(RunRefused):
            await selections.freeze(conn, PROJECT, numbers=[numbers[0], number(99)])
        with pytest.raises(RequestInvalid):
            await selections.freeze(conn, PROJECT)

    assert (first.count, first.bytes, first.root) == (2, 201, same.root)
    assert first.selection_id != same.selection_id and other.root != first.root
    with psycopg.connect(dsns.daemon) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("select set_config('mover.project', 'demo', true)")
        conn.execute("update mover.selection_list set offsets = '{}'")


async def test_every_offender_of_a_list_is_named_with_its_reason(dsns: Dsns, database: Database) -> None:
    """A run with one wrong name is refused before the first byte; people get the whole list at once."""
    numbers = fill(dsns, [{}, {}, {}])
    fill(dsns, [{}], project="other", first=500)
    with psycopg.connect(dsns.superuser) as conn:
        insert(conn, "pack", project_id=PROJECT, id="pack-q", batch_id="batch-demo", entry="e", barcode="b",
               state="quarantined", reason="redaction-unproven", number=numbers[2])  # fmt: skip
    asked = [numbers[0], number(77), "D19-1_Kowalczyk.svs", numbers[0], numbers[2], number(500), numbers[1]]

    async with database.project(PROJECT) as conn:
        usable, offenders = await selections.resolve_numbers(conn, PROJECT, asked)

    assert usable == [numbers[0], numbers[1]]
    assert [(one["position"], one["number"], one["why"]) for one in offenders] == [
        (2, number(77), "unknown"),
        (3, "D19-1_Kowalczyk.svs", "malformed"),
        (4, numbers[0], "duplicate"),
        (5, numbers[2], "quarantined"),
        (6, number(500), "unknown"),
    ]
    assert selections.storable(offenders)[1]["number"] == "A99-9_Aaaaaaaaa.aaa"
    assert selections.storable(offenders)[0] == offenders[0]


async def test_cohorts_are_saved_in_versions_and_found_by_every_name(dsns: Dsns, database: Database) -> None:
    """`high-grade@1` means the same for ever; saving the same words again makes nothing new."""
    fill(dsns, [{"gleason": 7}, {"gleason": 8}, {"gleason": 6}])
    cohorts = Cohorts(database, node="n1")

    first = await cohorts.save(PROJECT, "ann", wire.CohortRequest(name="high-grade", expression="gleason >= 7"))
    again = await cohorts.save(PROJECT, "ann", wire.CohortRequest(name="high-grade", expression="gleason >= 7"))
    second = await cohorts.save(PROJECT, "ann", wire.CohortRequest(name="high-grade", expression="gleason >= 8"))

    assert (first.version, first.count, first.bytes) == (1, 2, 201)
    assert again == first and (second.version, second.count) == (2, 1)
    assert await cohorts.get(PROJECT, "high-grade") == second == await cohorts.get(PROJECT, "high-grade@2")
    assert await cohorts.get(PROJECT, first.id) == first == await cohorts.get(PROJECT, "high-grade@1")
    assert await cohorts.list(PROJECT) == [second]
    other = first.id[:-1] + ("y" if first.id.endswith("z") else "z")
    for unknown in ("high", "high-grade@3", "high-grade@x", other):
        with pytest.raises(NotFound):
            await cohorts.get(PROJECT, unknown)
    with pytest.raises(ExpressionInvalid):
        await cohorts.save(PROJECT, "ann", wire.CohortRequest(name="wrong", expression="gleason >= 'x'"))
    assert await cohorts.list("other") == []


async def test_columns_tell_what_an_expression_may_ask(dsns: Dsns, database: Database) -> None:
    """Facts with their allowed words first, then what every slide knows of itself; a shadowed one by its full name."""
    fill(dsns, [{}])

    columns = {c.name: c for c in (await Cohorts(database, node="n1").columns(PROJECT)).columns}

    assert columns["diagnosis"].allowed == ["PRAD", "BRCA", "LUAD"]
    assert (columns["mpp"].table, columns["slide.mpp"].table, columns["family"].table) == ("imagery", "slide", "slide")
    async with database.project(PROJECT) as conn:
        for name, column in columns.items():
            await selections.count(conn, f"{name} is not null and not {name} is null"), column.type


@pytest.mark.slow
async def test_ten_thousand_aligned_slides_are_asked_in_bounded_time(dsns: Dsns, database: Database) -> None:
    """A scientist tries expressions until one fits; a count must not be a coffee break."""
    fill(dsns, documents(10_000, seed=5))
    with psycopg.connect(dsns.superuser, autocommit=True) as conn:
        conn.execute("analyze")
    begun = monotonic_s()
    async with database.project(PROJECT) as conn:
        counted, _ = await selections.count(conn, "diagnosis = 'PRAD' and gleason >= 7")
        frozen = await selections.freeze(conn, PROJECT, expression="diagnosis = 'PRAD' and gleason >= 7")
        seconds = monotonic_s() - begun

    assert counted == frozen.count > 1000
    assert seconds < 5, seconds
