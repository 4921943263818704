"""The truth about the tables is made with the rows; the house's own matching must come to the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mover.decide import tables as decide
from mover.decide.matching import Image, Linked, canonical_image, match
from mover.demo.plan import BATCHES, Plan
from mover.demo.tables import COLUMNS, DIALECTS, RECORDS, VERSIONS, cohort, make_tables
from mover.errors import PlaceUnknown
from mover.model.policy import RecordsPolicy
from mover.model.source import MemorySource
from mover.policy import default_folder, load_policies
from scanners import tables as scanner


@pytest.fixture(scope="module")
def policy() -> RecordsPolicy:
    book = load_policies(default_folder())
    return next(one.policy for one in book.all() if isinstance(one.policy, RecordsPolicy))


def typed(policy: RecordsPolicy, folder: Path, name: str) -> Linked:
    rule = next(table for table in policy.tables if table.name == name)
    table = scanner.read(MemorySource((folder / f"{name}.csv").read_bytes()))
    layout = decide.arrange(rule, table.header)
    rows = decide.type_rows(layout, [(row.line, row.cells) for row in table.rows], extensions=policy.extensions)
    decide.check_misfits(rule, rows)
    return Linked(name=name, links=decide.link_columns(rule), grain=rule.one_row_per, rows=rows)


def images_of(plan: Plan, batch: str, policy: RecordsPolicy) -> list[Image]:
    """Every pack as the image work leaves it: good ones with a number, a duplicate with its twin's."""
    numbers = {pack.stem: f"N{pack.index}" for pack in plan.good_packs_of(batch)}
    numbers |= {p.stem: numbers[plan.twin(p).stem] for p in plan.packs_of(batch) if p.fault == "duplicate"}
    return [
        Image(line=n, key=canonical_image(pack.file_name, policy.extensions), number=numbers.get(pack.stem))
        for n, pack in enumerate(plan.packs_of(batch))
    ]


@pytest.mark.parametrize("batch", BATCHES)
def test_matching_ends_every_row_and_image_where_the_truth_says(
    batch: str, plan: Plan, source: Path, expected: dict[str, Any], policy: RecordsPolicy
) -> None:
    """Otherwise the demo would prove that a ledger adds up, but not that it is right."""
    earlier = BATCHES[: BATCHES.index(batch)]
    elsewhere = frozenset(image.key for b in earlier for image in images_of(plan, b, policy))
    linked = [typed(policy, source / RECORDS / batch, name) for name in COLUMNS]
    found = match(linked, images_of(plan, batch, policy), elsewhere=elsewhere)
    truth = expected["batches"][batch]
    assert dict(Counter(outcome.state for outcome in found.images)) == truth["images"]
    for name, outcomes in found.rows.items():
        assert dict(Counter(outcome.state for outcome in outcomes)) == truth["tables"][name]["states"]
        wanted = [state for _, state in make_tables(plan, batch)[name].rows]
        assert [outcome.state for outcome in outcomes] == wanted


def test_a_corrected_export_settles_the_conflict(plan: Plan, source: Path, policy: RecordsPolicy) -> None:
    batch = BATCHES[0]
    linked = [typed(policy, source / RECORDS / batch, name) for name in ("imagery", "cases")]
    linked.append(typed(policy, source / RECORDS / VERSIONS["corrected"], "outcomes"))
    found = match(linked, images_of(plan, batch, policy))
    assert "conflict" not in {outcome.state for outcome in found.images}


def test_the_file_with_an_unlisted_column_is_stopped(source: Path, policy: RecordsPolicy) -> None:
    with pytest.raises(PlaceUnknown):
        typed(policy, source / RECORDS / VERSIONS["unlisted"], "outcomes")


def test_every_dialect_is_what_it_claims_to_be(source: Path) -> None:
    """Readers must be made to work: byte order mark, UTF-16, decimal commas, umlauts in cp1252."""
    for name, dialect in DIALECTS.items():
        raw = (source / RECORDS / BATCHES[0] / f"{name}.csv").read_bytes()
        assert raw.startswith(dialect.bom)
        text = raw[len(dialect.bom) :].decode(dialect.encoding)
        assert text.split("\r\n")[0].split(dialect.delimiter) == list(COLUMNS[name])
    outcomes = (source / RECORDS / BATCHES[0] / "outcomes.csv").read_bytes()
    assert "Rücksprache".encode("cp1252") in outcomes
    with pytest.raises(UnicodeDecodeError):
        outcomes.decode("utf-8")


def test_columns_and_policy_name_the_same_columns(policy: RecordsPolicy) -> None:
    assert {table.name: tuple(table.columns) for table in policy.tables} == COLUMNS


def test_the_cohort_is_neither_empty_nor_everything(plan: Plan, expected: dict[str, Any]) -> None:
    chosen = cohort(plan)
    assert [pack.file_name for pack in chosen] == expected["cohort"]["packs"]
    assert 0 < len(chosen) < sum(len(plan.good_packs_of(batch)) for batch in BATCHES)
