"""What a policy may say of a table's columns, and what facts come of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mover.decide.folding import fold, without_marks
from mover.decide.matching import LINKS, order_tables
from mover.decide.tables.cells import allowed_values, neutralise
from mover.errors import PolicyInvalid
from mover.model.facts import SLIDE_KEYS, FactColumn
from mover.model.policy import ColumnRule, RecordsPolicy, TableRule

MAX_VALUES = 500  # of one enumeration; a list made from the data itself is longer, and full of names
MAX_FACTS = 500  # of one policy
FACT_TYPES = {
    "age": "integer", "zip3": "text", "integer": "integer", "number": "number", "boolean": "boolean",
    "enum": "text", "code": "text",
}  # fmt: skip
_FACT = re.compile(r"^[a-z][a-z0-9_]{0,62}$")


def check_policy(policy: RecordsPolicy) -> None:
    """Raise PolicyInvalid naming every contradiction at once; call it before any table is opened."""
    problems = [f"table {table.name}: {text}" for table in policy.tables for text in _table_problems(policy, table)]
    problems += _set_problems(policy)
    if problems:
        raise PolicyInvalid(
            f"the records policy contradicts itself: {problems[0]}",
            where=policy.name,
            details=[{"problem": text} for text in problems],
        )


def fact_columns(policy: RecordsPolicy) -> list[FactColumn]:
    """The columns that cohorts can ask about once tables of this policy are aligned."""
    return [
        FactColumn(
            name=fact_name(column, rule),
            type=fact_type(rule),
            table=table.name,
            allowed=allowed_values(rule) if rule.rule == "enum" else None,
        )
        for table in policy.tables
        for column, rule in table.columns.items()
        if is_fact(rule)
    ]


def is_fact(rule: ColumnRule) -> bool:
    """Keys become facts (as pseudonyms) only when the policy gives them a name of their own."""
    if rule.rule in ("case", "patient"):
        return rule.rename is not None
    return rule.rule in FACT_TYPES or (rule.rule == "date" and rule.dates != "drop")


def fact_type(rule: ColumnRule) -> str:
    if rule.rule == "date":
        return "year" if rule.dates == "year" else "date"
    return FACT_TYPES.get(rule.rule, "text")


def fact_name(column: str, rule: ColumnRule) -> str:
    if rule.rename is not None:
        return rule.rename
    return re.sub(r"[^a-z0-9]+", "_", without_marks(column.casefold())).strip("_")


def _set_problems(policy: RecordsPolicy) -> Iterator[str]:
    names = [table.name for table in policy.tables]
    facts = [column.name for column in fact_columns(policy)]
    if not policy.tables:
        yield "no table is declared"
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"the table {name} is declared twice"
    if "images" in names:
        yield "a table may not be called images: the ledger uses the word for the batch's slides"
    for name in sorted({name for name in facts if facts.count(name) > 1}):
        yield f"two columns give the fact {name}; rename one with `as`"
    if len(facts) > MAX_FACTS:
        yield f"more than {MAX_FACTS} facts"
    for extension in policy.extensions:
        if not extension.startswith(".") or len(extension) < 2:
            yield f"the extension {extension!r} does not begin with a dot"
    links = {table.name: link_columns(table) for table in policy.tables}
    stranded = set(links) - {name for ring in order_tables(links) for name in ring}
    for name in sorted(stranded):
        yield f"table {name}: reaches no image, neither directly nor through a case or a patient of another table"


def _table_problems(policy: RecordsPolicy, table: TableRule) -> Iterator[str]:
    classes: list[str] = [rule.rule for rule in table.columns.values()]
    for link in LINKS:
        if classes.count(link) > 1:
            yield f"more than one column of class {link}"
    if table.one_row_per not in classes:
        yield f"one row per {table.one_row_per}, but no column of that class"
    elif "image" in classes and table.one_row_per != "image":
        yield f"a table with an image column has one row per image, not per {table.one_row_per}"
    folded = [fold(column) for column in table.columns]
    if len(set(folded)) < len(folded):
        yield "two columns differ only in case or spaces"
    for column, rule in table.columns.items():
        for text in _fact_problems(column, rule):
            yield f"column {column}: {text}"
        for text in column_problems(rule, basis=policy.basis):
            yield f"column {column}: {text}"


def _fact_problems(column: str, rule: ColumnRule) -> Iterator[str]:
    if rule.text == "scrub":
        yield "free text becomes no fact; scrubbed text is for released tables (a policy of kind deid)"
    if is_fact(rule):
        name = fact_name(column, rule)
        if not _FACT.match(name):
            yield f"{name!r} is no name for a fact; give one with `as` (lower case, digits, underscores)"
        if name in SLIDE_KEYS:
            yield f"{name} is a slide's own word; give the fact another with `as`"
    elif rule.quasi:
        yield "only a column that becomes a fact counts as a quasi-identifier"


def column_problems(rule: ColumnRule, *, basis: str) -> Iterator[str]:
    """What contradicts itself in one column, whether it becomes a fact or stays in a released table."""
    if rule.rule == "date" and rule.dates == "shift" and basis == "safe-harbor":
        yield "shifted dates are not Safe Harbor (45 CFR 164.514(b)(2)); claim expert-determination or use years"
    yield from _word_problems(rule)
    if rule.rule in ("integer", "number") and (rule.minimum is None or rule.maximum is None):
        # a record number, a phone and a date without dashes are numbers too
        yield "a number needs a minimum and a maximum, or any record number would pass as one"
    if rule.minimum is not None and rule.maximum is not None and rule.minimum > rule.maximum:
        yield "the minimum is above the maximum"
    if rule.round is not None and rule.rule not in ("age", "integer", "number"):
        yield "only ages and numbers are rounded"
    elif rule.round is not None and rule.rule != "number" and rule.round != int(rule.round):
        yield "ages and integers are rounded in whole steps"
    if (rule.rule == "code") != (rule.code is not None):
        yield "`code` names the system of a column of class code, and every such column needs it"
    if rule.text == "scrub" and rule.rule != "text":
        yield "only free text (class text) is scrubbed"
    if rule.pattern is not None:
        yield from _pattern_problems(rule)


def _word_problems(rule: ColumnRule) -> Iterator[str]:
    values = allowed_values(rule)
    if rule.rule == "enum" and not values:
        yield "an enumeration lists its values; nothing unlisted leaves a table"
    if len(rule.values) + len(rule.map) > MAX_VALUES:
        yield f"more than {MAX_VALUES} values and synonyms"
    for value in values:
        if value != neutralise(value) or not value.strip() or not value.isprintable():
            yield f"the value {value!r} is blank, unprintable or would start a formula in a spreadsheet"
    targets = {target for target in rule.map.values() if target and target not in values}
    for target in sorted(targets) if rule.rule == "enum" else ():
        yield f"map leads to {target!r}, which is not among the values"


def _pattern_problems(rule: ColumnRule) -> Iterator[str]:
    if rule.rule not in (*LINKS, "block", "slide"):
        yield "a pattern picks a key out of a cell: only image, case, patient, block and slide have one"
    try:
        compiled = re.compile(rule.pattern or "")
    except re.error:
        yield "the pattern is no regular expression"
        return
    if rule.rule == "block" and compiled.groupindex:
        if not set(compiled.groupindex) <= {"case", "block", "slide"} or compiled.groups > len(compiled.groupindex):
            yield "the groups of a block's pattern are called case, block and slide"
        elif list(compiled.groupindex) != ["case", "block", "slide"][: compiled.groups]:
            yield "a block's pattern has the case first, then the block, then the slide"
    elif compiled.groups != 1:
        yield "the pattern needs exactly one group"


def link_columns(table: TableRule) -> tuple[str, ...]:
    present = {rule.rule for rule in table.columns.values()}
    return tuple(link for link in LINKS if link in present)
