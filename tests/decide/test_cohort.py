"""Cohort expressions say a few things, typed, and are refused exactly where they say anything else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mover.decide.cohort import (
    MAX_CHARS,
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
    columns_of,
    parse,
)
from mover.errors import ExpressionInvalid
from mover.model.facts import FactColumn

COLUMNS = {
    column.name: column
    for column in (
        FactColumn("diagnosis", "text", "outcomes", ("PRAD", "BRCA")),
        FactColumn("stage", "text", "outcomes"),
        FactColumn("gleason", "integer", "outcomes"),
        FactColumn("size_mm", "number", "outcomes"),
        FactColumn("alive", "boolean", "outcomes"),
        FactColumn("seen", "date", "outcomes"),
        FactColumn("event_year", "year", "outcomes"),
        FactColumn("mpp", "number", "imagery"),
        FactColumn("Odd Name", "integer", "imagery"),
    )
}
DIAGNOSIS, STAGE = Column("diagnosis", "text", "record"), Column("stage", "text", "record")
GLEASON, ALIVE = Column("gleason", "integer", "record"), Column("alive", "boolean", "record")
SEEN, YEAR = Column("seen", "date", "record"), Column("event_year", "year", "record")
PRAD, HIGH = Compare(DIAGNOSIS, "=", "PRAD"), Compare(GLEASON, ">=", 7)

READ: list[tuple[str, Node]] = [
    ("diagnosis = 'PRAD' and gleason >= 7", All((PRAD, HIGH))),
    ("7 <= gleason", HIGH),
    ("DIAGNOSIS = 'PRAD'", PRAD),
    ("diagnosis = 'PRAD' or gleason >= 7 and alive", Any_((PRAD, All((HIGH, Compare(ALIVE, "=", True)))))),
    ("(diagnosis = 'PRAD' or gleason >= 7) and alive", All((Any_((PRAD, HIGH)), Compare(ALIVE, "=", True)))),
    ("not gleason >= 7", Not(HIGH)),
    ("gleason in (7, 8)", OneOf(GLEASON, (7, 8))),
    ("gleason not in (7, 8)", Not(OneOf(GLEASON, (7, 8)))),
    ("gleason between -1 and 2.5", Between(GLEASON, -1, 2.5)),
    ("gleason is null", IsNull(GLEASON)),
    ("gleason is not null", Not(IsNull(GLEASON))),
    ("alive is true", All((Not(IsNull(ALIVE)), Compare(ALIVE, "=", True)))),
    ("alive <> false", Compare(ALIVE, "<>", False)),
    ("stage like 'I%'", Like(STAGE, "I%", False)),
    ("stage not ilike 'i%'", Not(Like(STAGE, "i%", True))),
    ("stage = 'it''s'", Compare(STAGE, "=", "it's")),
    ("seen >= '2024-02-29'", Compare(SEEN, ">=", "2024-02-29")),
    ("event_year < 2020", Compare(YEAR, "<", 2020)),
    ("gleason > event_year", Compare(GLEASON, ">", YEAR)),
    ('"Odd Name" = 1', Compare(Column("Odd Name", "integer", "record"), "=", 1)),
    ("mpp < 0.3", Compare(Column("mpp", "number", "record"), "<", 0.3)),
    ("slide.mpp < 0.3", Compare(Column("mpp", "number", "slide"), "<", 0.3)),
    ("family = 'aperio'", Compare(Column("family", "text", "slide"), "=", "aperio")),
    ("sampled(0.1, seed = 7)", Sampled(0.1, 7)),
    ("sampled(0.1, seed => 7)", Sampled(0.1, 7)),
    ("sampled(1)", Sampled(1.0, 0)),
]


@pytest.mark.parametrize(("text", "tree"), READ, ids=[text for text, _ in READ])
def test_what_a_cohort_may_say_becomes_a_typed_tree(text: str, tree: Node) -> None:
    """The tree, not the text, is what becomes SQL."""
    assert parse(text, COLUMNS) == tree


REFUSED = [
    ("gleason = 'high'", 11, "gleason is integer, not text"),
    ("gleason = '7'", 11, "gleason is integer, not text"),
    ("diagnosis = 7", 13, "diagnosis is text"),
    ("diagnosis = 'PRADD'", 13, "diagnosis is never 'PRADD'"),
    ("diagnosis in ('PRAD', 'prad')", 23, "diagnosis is never 'prad'"),
    ("diagnosis > 'PRAD'", 1, "diagnosis is text, which has no order"),
    ("stage between 'I' and 'II'", 1, "stage is text, which has no order"),
    ("alive = 1", 9, "alive is boolean"),
    ("alive > true", 1, "alive is boolean, which has no order"),
    ("seen = '2024-02-30'", 8, "seen is a date"),
    ("seen = 2024", 8, "seen is date"),
    ("gleason like '7'", 1, "gleason is integer; only text"),
    ("gleason", 1, "gleason is integer, not a condition"),
    ("gleason = null", 1, "nothing equals null"),
    ("gleason = alive", 11, "gleason is integer and alive is boolean"),
    ("gleeson = 7", 1, "no such column"),
    ('diagnosis = "PRAD"', 13, "no such column"),
    ("gleason >= 7 and", 14, "this is not an expression"),
    ("(gleason >= 7", 13, "this is not an expression"),
    ("gleason >= 7)", 13, "this is not an expression"),
    ("gleason = 1; drop table x", 14, "this is not an expression"),
    ("gleason = (select 1)", 19, "a number belongs here"),
    ("gleason in (select 1)", 1, "this is not part of a cohort expression"),
    ("exists (select 1)", 16, "this is not part of a cohort expression"),
    ("gleason = 1 and pg_sleep(9)", 17, "the only function is sampled"),
    ("lower(diagnosis) = 'prad'", 1, "a comparison needs a column"),
    ("gleason::text = '7'", 1, "a comparison needs a column"),
    ("gleason + 1 = 8", 1, "a comparison needs a column"),
    ("stage ~ 'I+'", 1, "this is not part of a cohort expression"),
    ("stage like 'I' escape 'x'", 1, "this is not part of a cohort expression"),
    ("case when alive then true end", 11, "this is not part of a cohort expression"),
    ("true", 1, "this is not part of a cohort expression"),
    ("1 = 1", 1, "a comparison needs a column"),
    ("mover.slide.mpp = 1", 1, "this is not part of a cohort expression"),
    ("run.mpp = 1", 1, "only `slide.`"),
    ("gleason = $1", 12, "a number belongs here"),
    ("gleason in ()", 1, "a list has 1 to"),
    ("sampled(2)", 9, "a fraction lies between"),
    ("sampled(0.5, seed = 1.5)", 14, "a seed is a whole number"),
    ("sampled(0.5, speed = 1)", 14, "the second argument"),
    ("sampled()", 1, "sampled takes a fraction"),
    ("'unterminated", 13, "this is not an expression"),
    ("", 1, "the expression is empty"),
]


@pytest.mark.parametrize(("text", "place", "what"), REFUSED, ids=[text for text, *_ in REFUSED])
def test_everything_else_is_refused_where_it_stands(text: str, place: int, what: str) -> None:
    """A scientist reads the caret; an attacker finds no way round a list of what is allowed."""
    with pytest.raises(ExpressionInvalid) as refused:
        parse(text, COLUMNS)

    assert refused.value.what.startswith(what)
    if text:
        assert refused.value.where == f"character {place}"
        caret = refused.value.what.splitlines()[-1]
        assert caret.index("^") == place - 1


def test_the_hint_names_what_may_stand_there() -> None:
    """Told once, mended once."""
    for text, hint in [
        ("diagnosis = 'PRADD'", "'PRAD', 'BRCA'"),
        ("gleeson = 7", "`gleason`"),
        ("gleason = '7'", "7 without quotes"),
        ('diagnosis = "PRAD"', "single quotes"),
    ]:
        with pytest.raises(ExpressionInvalid) as refused:
            parse(text, COLUMNS)
        assert hint in refused.value.advice


def test_the_caret_stands_in_the_right_line_of_a_long_expression() -> None:
    """Expressions are kept in files and have lines."""
    text = "gleason >= 7\n  and diagnosis = 'PRAD'\n  and gleason = 'x'"

    with pytest.raises(ExpressionInvalid) as refused:
        parse(text, COLUMNS)

    assert refused.value.where == f"character {text.index(chr(39) + 'x') + 1}"
    assert refused.value.what.splitlines()[1:] == ["  and gleason = 'x'", " " * 16 + "^"]


@pytest.mark.parametrize(
    "text",
    [
        "(" * 4000 + "gleason = 1" + ")" * 4000,
        "not " * 2000 + "alive",
        "gleason = " + "-" * 2000 + "1",
        "gleason = 1 and " * 500 + "gleason = 1" + " " * MAX_CHARS,
        "gleason in (" + "1," * 1001 + "1)",
        "alive and " * 700 + "(" * 40 + "alive" + ")" * 40,
    ],
)
def test_bombs_are_refused_before_they_are_walked(text: str) -> None:
    """The expression comes over the network; recursion and lists have bounds."""
    with pytest.raises(ExpressionInvalid):
        parse(text, COLUMNS)


def test_a_long_flat_expression_is_fine() -> None:
    """Seven hundred conditions in a row are long, not deep."""
    tree = parse(" or ".join(["gleason = 1"] * 500), COLUMNS)

    assert isinstance(tree, Any_) and len(tree.parts) == 500
    assert columns_of(tree) == {"gleason"}


def test_the_example_of_the_manual_is_read_as_written() -> None:
    """What a scientist types first."""
    scanners = FactColumn("scanner", "text", "imagery", ("AT2", "AT2 DX", "GT450"))
    text = "diagnosis in ('PRAD','BRCA') and gleason >= 7 and scanner like 'AT2%' and sampled(0.1, seed=7)"

    tree = parse(text, {**COLUMNS, "scanner": scanners})

    scanner = Column("scanner", "text", "record")
    assert tree == All((OneOf(DIAGNOSIS, ("PRAD", "BRCA")), HIGH, Like(scanner, "AT2%", False), Sampled(0.1, 7)))


def test_the_expressions_of_the_page_on_cohorts_are_read() -> None:
    """People type off the page: examples, and every row of its table."""
    page = (Path(__file__).parents[2] / "docs" / "cohorts.md").read_text("utf-8")
    known = {
        **COLUMNS,
        "age": FactColumn("age", "integer", "cases"),
        "scanner": FactColumn("scanner", "text", "imagery", ("AT2", "AT2 DX")),
        **{name: FactColumn(name, "boolean", "cases") for name in "abcd"},
    }
    rows = [line.split("|")[1] for line in page.partition("| written |")[2].partition("\n\n")[0].splitlines()[2:]]
    whole = [text for row in rows for text in re.findall("`([^`]+)`", row) if text.split()[0] in {*known, "7", "alive"}]
    examples = [*re.findall(r'mover cohort \w+ (?:[\w-]+ )?"([^"]+)"', page), *whole]

    assert len(examples) >= 12 and [text for text in examples if not parse(text, known)] == []


WORDS = [
    *"gleason diagnosis stage alive seen slide.mpp number 'PRAD' 7 -1 .5 1e9 = <> <= ( ) and or not in , is null like"
    " ilike between sampled seed => . - ; -- /* */ select case when end exists if interval cast :: as array [ ] { } $1"
    " ? :x @> ~ || ->> E'a' U&'a' x'FF' $$a$$ \"gleason\" `x` is distinct from escape at time zone call drop".split(),
    "\x00", "é", "😀", "\n",
]  # fmt: skip
MUTATED = st.builds(
    lambda text, at, length, word: text[: at % len(text)] + word + text[at % len(text) + length :],
    st.sampled_from([text for text, _ in READ]), st.integers(0, 200), st.integers(0, 4), st.sampled_from(WORDS),
)  # fmt: skip


@pytest.mark.slow
@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join) | MUTATED)
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_tree_or_a_refusal_with_a_place(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Law: no other error, whatever is typed; and the parser below tells no log of it, since it may name a patient."""
    try:
        tree = parse(text, COLUMNS)
    except ExpressionInvalid as refused:
        assert refused.what and (not text.strip() or 1 <= int(refused.where.removeprefix("character ")) <= len(text))
    else:
        assert columns_of(tree) <= {*COLUMNS, "number", "subject", "family"}
    assert not caplog.records


def test_what_the_parser_does_not_know_is_not_told_to_a_log(caplog: pytest.LogCaptureFixture) -> None:
    """Found: it warned of unsupported syntax by quoting the whole text."""
    with pytest.raises(ExpressionInvalid):
        parse("if Kowalczyk then gleason", COLUMNS)

    assert not caplog.records
