"""Cohort expressions: a small typed language in PostgreSQL's own words, parsed by sqlglot, believed in nothing.

`parse` turns a text into a frozen tree of the few things a cohort may say (comparison, and/or/not, in, between,
is null, like, literals, known columns, `sampled`). Whatever else the parser understands is refused where it
stands. `mover.decide.vectors` judges the tree over columns of facts; nothing of an expression ever becomes SQL.

An expression is kept, shown to the whole project and written into manifests, so it may hold no identifier (D10):
comments are refused, and a text in it must be one that the column can hold, or shaped like it.

A missing fact is neither equal nor unequal to anything, as in SQL: `stage <> 'IV'` does not select slides whose
stage is unknown; say `or stage is null`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from difflib import get_close_matches
from typing import Any, Literal

import sqlglot
from msgspec import Struct
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from mover.decide.tags import HINT as TAG_HINT
from mover.decide.tags import why_not_tag
from mover.errors import ExpressionInvalid
from mover.model.facts import SLIDE_COLUMNS, TAG, FactColumn
from mover.model.ids import CROCKFORD

# it warns of what it does not know by quoting it, and an expression may hold what no log may (I2)
logging.getLogger("sqlglot").disabled = True

MAX_CHARS = 8192
MAX_TOKENS = 4000
MAX_DEPTH = 32
MAX_LIST = 1000
MAX_SEED = 2**31

# a node of sqlglot's tree; its classes are arranged differently from version to version
Parsed = Any
Scalar = str | int | float | bool
Operator = Literal["=", "<>", "<", "<=", ">", ">="]


class Column(Struct, frozen=True):
    """`home`: facts of records or of the slide itself."""

    name: str
    type: str
    home: Literal["record", "slide"]


class Compare(Struct, frozen=True):
    left: Column
    operator: Operator
    right: Column | Scalar


class OneOf(Struct, frozen=True):
    column: Column
    values: tuple[Scalar, ...]


class Between(Struct, frozen=True):
    column: Column
    low: Scalar
    high: Scalar


class IsNull(Struct, frozen=True):
    column: Column


class Like(Struct, frozen=True):
    column: Column
    pattern: str
    any_case: bool


class Tagged(Struct, frozen=True):
    """People put this tag on the slide; without one, any. Never unknown: a slide has it, or not."""

    tag: str | None


class Sampled(Struct, frozen=True):
    """A share of the slides, decided for each by its number and the seed: stable when others come and go."""

    fraction: float
    seed: int


class Not(Struct, frozen=True):
    inner: Node


class All(Struct, frozen=True):
    parts: tuple[Node, ...]


class Any_(Struct, frozen=True):
    parts: tuple[Node, ...]


Node = Compare | OneOf | Between | IsNull | Like | Tagged | Sampled | Not | All | Any_


def parse(text: str, columns: Mapping[str, FactColumn]) -> Node:
    """The expression as a tree, or ExpressionInvalid: `where` is the character position (from 1), `what` shows
    the line with a caret."""
    if not text.strip():
        raise ExpressionInvalid("the expression is empty", where="character 1")
    if len(text) > MAX_CHARS:
        raise ExpressionInvalid(f"the expression has {len(text)} characters, more than {MAX_CHARS}")
    return _Reader(text, columns).condition(_parsed(text))


def columns_of(node: Node) -> set[str]:
    """The names of the columns an expression asks about."""
    match node:
        case Compare():
            return {c.name for c in (node.left, node.right) if isinstance(c, Column)}
        case OneOf() | Between() | IsNull() | Like():
            return {node.column.name}
        case Not():
            return columns_of(node.inner)
        case All() | Any_():
            return set().union(*(columns_of(part) for part in node.parts))
        case Tagged():
            return {TAG}
    return set()


# --- text to sqlglot's tree ------------------------------------------------------------------------------


def _parsed(text: str) -> Parsed:
    try:
        tokens = sqlglot.tokenize(text, read="postgres")
        _bound(text, tokens)
        return sqlglot.parse_one(text, read="postgres", into=exp.Condition)
    except SqlglotError as error:
        place = _error_place(text, error)
        raise _refusal(text, place, "this is not an expression") from None
    except RecursionError:
        raise ExpressionInvalid("the expression is nested too deeply") from None


def _bound(text: str, tokens: list[Token]) -> None:
    """Before anything recursive looks at it."""
    if len(tokens) > MAX_TOKENS:
        raise ExpressionInvalid(f"the expression has more than {MAX_TOKENS} words")
    depth = run = 0
    for token in tokens:
        depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(token.token_type, 0)
        run = run + 1 if token.token_type in (TokenType.NOT, TokenType.DASH, TokenType.TILDE) else 0
        if token.comments:
            hint = "An expression is kept; say why in a place of your own."
            raise _refusal(text, token.start, "a comment may not stand in an expression", hint=hint)
        if depth > MAX_DEPTH or run > MAX_DEPTH:
            raise _refusal(text, token.start, f"nested deeper than {MAX_DEPTH}")


def _error_place(text: str, error: SqlglotError) -> int:
    """Where sqlglot stopped: line and column of the last character of the token it did not want."""
    for found in getattr(error, "errors", ()):
        if found.get("line") and found.get("col"):
            lines = text.split("\n")[: found["line"]]
            before = sum(len(line) + 1 for line in lines[:-1])
            return max(0, before + found["col"] - len(found.get("highlight") or "x"))
    return len(text.rstrip()) - 1


def _refusal(text: str, place: int, what: str, *, hint: str | None = None) -> ExpressionInvalid:
    """One line of the expression with a caret under the place; a long line is cut around it."""
    place = max(0, min(place, len(text) - 1))
    begin = text.rfind("\n", 0, place) + 1
    end = text.find("\n", place)
    line = text[begin : end if end >= 0 else len(text)].replace("\t", " ")
    caret = place - begin
    if caret > 60:
        line, caret = "…" + line[caret - 50 :], 51
    return ExpressionInvalid(f"{what}:\n{line[:110]}\n{' ' * caret}^", where=f"character {place + 1}", hint=hint)


# --- sqlglot's tree to ours ------------------------------------------------------------------------------

_OPERATORS: dict[type[Any], Operator] = {
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
}  # fmt: skip
_MIRRORED: dict[Operator, Operator] = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_ORDERED = ("<", "<=", ">", ">=")
_NUMERIC = ("integer", "number", "year")
_NUMBER_LIKE = re.compile(rf"[{CROCKFORD}%_]{{0,17}}")
_SUBJECT_LIKE = re.compile(rf"[S%_][{CROCKFORD}%_]{{0,16}}")
# of text columns without a list: pseudonyms, areas, single short words. A name with a number in it is neither
_WORD_LIKE = re.compile(rf"S[{CROCKFORD}%]{{0,16}}|[0-9%_]{{0,3}}|[^0-9\s]{{0,12}}|[a-z-]{{0,24}}")
_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class _Reader:
    """Reads one expression. Every node type and every argument of it is named here; the rest is refused."""

    def __init__(self, text: str, columns: Mapping[str, FactColumn]) -> None:
        self._text = text
        self._columns = columns

    def condition(self, node: Parsed, depth: int = 0) -> Node:
        if depth > 2 * MAX_DEPTH:
            raise self._refused(node, f"nested deeper than {MAX_DEPTH}")
        read = self._readers().get(type(node))
        if read is None:
            raise self._refused(node, "this is not part of a cohort expression", hint=_LANGUAGE)
        return read(node, depth)

    def _readers(self) -> dict[type[Any], Callable[[Any, int], Node]]:
        return {
            exp.Paren: lambda n, d: self.condition(self._only(n, "this"), d + 1),
            exp.And: lambda n, d: All(tuple(self._chain(n, exp.And, d))),
            exp.Or: lambda n, d: Any_(tuple(self._chain(n, exp.Or, d))),
            exp.Not: lambda n, d: Not(self.condition(self._only(n, "this"), d + 1)),
            exp.In: self._in,
            exp.Between: self._between,
            exp.Is: self._is,
            exp.Like: self._like,
            exp.ILike: self._like,
            exp.Anonymous: self._sampled,
            exp.Column: self._flag,
            **dict.fromkeys(_OPERATORS, self._compare),
        }

    def _chain(self, node: Parsed, kind: type[Any], depth: int) -> Iterator[Node]:
        """`a and b and c` is one list, however many: sqlglot nests it to the left."""
        parts = []
        while type(node) is kind:
            self._only(node, "this", "expression")
            parts.append(node.args["expression"])
            node = node.args["this"]
        parts.append(node)
        return (self.condition(part, depth + 1) for part in reversed(parts))

    def _compare(self, node: Parsed, depth: int) -> Node:
        self._only(node, "this", "expression")
        operator = _OPERATORS[type(node)]
        left, right = node.args["this"], node.args["expression"]
        if not isinstance(left, exp.Column):
            left, right, operator = right, left, _MIRRORED[operator]
        if not isinstance(left, exp.Column):
            raise self._refused(node, "a comparison needs a column on one side")
        column = self._column(left)
        if column.type == TAG:
            return self._tagged(right, operator)
        if operator in _ORDERED and column.type in ("text", "boolean"):
            raise self._refused(left, f"{column.name} is {column.type}, which has no order", hint="Use = or in (…).")
        if isinstance(right, exp.Column):
            return Compare(column, operator, self._comparable(column, right))
        return Compare(column, operator, self._value(right, column, listed=True))

    def _tagged(self, node: Parsed, operator: Operator) -> Node:
        """A slide has many tags or none, so nothing but having one can be asked."""
        if operator not in ("=", "<>"):
            raise self._refused(node, "a slide has a tag or not", hint="Use = or in (…).")
        if not (isinstance(node, exp.Literal) and node.is_string):
            raise self._refused(node, "a tag stands in single quotes", hint="Say `tag is null` for slides without any.")
        if why := why_not_tag(node.this):
            raise self._refused(node, why, hint=TAG_HINT)
        return Tagged(node.this) if operator == "=" else Not(Tagged(node.this))

    def _comparable(self, column: Column, node: Parsed) -> Column:
        other = self._column(node)
        if other.type != column.type and not {other.type, column.type} <= set(_NUMERIC):
            raise self._refused(node, f"{column.name} is {column.type} and {other.name} is {other.type}")
        return other

    def _in(self, node: Parsed, depth: int) -> Node:
        self._only(node, "this", "expressions", "negate")
        column = self._column(node.args["this"])
        items = node.args.get("expressions") or []
        if not 1 <= len(items) <= MAX_LIST:
            raise self._refused(node, f"a list has 1 to {MAX_LIST} values")
        if column.type == TAG:
            found: Node = Any_(tuple(self._tagged(item, "=") for item in items))
        else:
            found = OneOf(column, tuple(self._value(item, column, listed=True) for item in items))
        return Not(found) if node.args.get("negate") else found

    def _between(self, node: Parsed, depth: int) -> Node:
        self._only(node, "this", "low", "high", "negate")
        column = self._column(node.args["this"])
        if column.type in ("text", "boolean", TAG):
            raise self._refused(node, f"{column.name} is {column.type}, which has no order", hint="Use = or in (…).")
        low, high = (self._value(node.args[side], column) for side in ("low", "high"))
        return Not(Between(column, low, high)) if node.args.get("negate") else Between(column, low, high)

    def _is(self, node: Parsed, depth: int) -> Node:
        self._only(node, "this", "expression", "negate")
        column, right = self._column(node.args["this"]), node.args["expression"]
        negate = bool(node.args.get("negate"))
        if isinstance(right, exp.Not):  # how other versions of the parser write `is not`
            negate, right = not negate, right.this
        if isinstance(right, exp.Null) and column.type == TAG:
            found: Node = Tagged(None)
            negate = not negate
        elif isinstance(right, exp.Null):
            found = IsNull(column)
        elif isinstance(right, exp.Boolean) and column.type == "boolean":
            # `is true` is never unknown, so `is not true` holds where the fact is missing
            found = All((Not(IsNull(column)), Compare(column, "=", bool(right.this))))
        else:
            raise self._refused(right, "after `is` stands null, or true or false for a boolean column")
        return Not(found) if negate else found

    def _like(self, node: Parsed, depth: int) -> Node:
        self._only(node, "this", "expression", "negate")
        column = self._column(node.args["this"])
        pattern = node.args["expression"]
        if column.type != "text":
            raise self._refused(node, f"{column.name} is {column.type}; only text is like a pattern")
        if not (isinstance(pattern, exp.Literal) and pattern.is_string):
            raise self._refused(pattern, "a pattern is a text in single quotes")
        self._check_pattern(pattern, column, any_case=isinstance(node, exp.ILike))
        found = Like(column, pattern.this, isinstance(node, exp.ILike))
        return Not(found) if node.args.get("negate") else found

    def _flag(self, node: Parsed, depth: int) -> Node:
        column = self._column(node)
        if column.type != "boolean":
            raise self._refused(node, f"{column.name} is {column.type}, not a condition; compare it with something")
        return Compare(column, "=", True)

    def _sampled(self, node: Parsed, depth: int) -> Node:
        self._only(node, "this", "expressions")
        if str(node.this).lower() != "sampled":
            raise self._refused(node, "the only function is sampled(fraction, seed = number)", hint=_LANGUAGE)
        arguments = node.args.get("expressions") or []
        if len(arguments) not in (1, 2):
            raise self._refused(node, "sampled takes a fraction and a seed: sampled(0.1, seed = 7)")
        fraction = self._number(arguments[0])
        seed = self._seed(arguments[1]) if len(arguments) == 2 else 0
        if not 0 <= fraction <= 1:
            raise self._refused(arguments[0], "a fraction lies between 0 and 1")
        if seed != int(seed) or not 0 <= seed < MAX_SEED:
            raise self._refused(arguments[1], "a seed is a whole number")
        return Sampled(float(fraction), int(seed))

    def _seed(self, node: Parsed) -> float:
        if isinstance(node, exp.EQ | exp.Kwarg | exp.PropertyEQ):
            if str(node.this.name).lower() != "seed":
                raise self._refused(node, "the second argument of sampled is its seed")
            node = node.expression
        return self._number(node)

    # leaves

    def _column(self, node: Parsed) -> Column:
        if not isinstance(node, exp.Column):
            raise self._refused(node, "a column belongs here")
        self._only(node, "this", "table")
        if not isinstance(node.this, exp.Identifier):
            raise self._refused(node, "a column belongs here")
        name = node.this.name if node.this.args.get("quoted") else node.this.name.lower()
        table = node.table.lower()
        if table not in ("", "slide"):
            raise self._refused(node, "only `slide.` may stand before a column")
        if not table and name in self._columns:
            return Column(name, self._columns[name].type, "record")
        if name in SLIDE_COLUMNS:
            return Column(name, SLIDE_COLUMNS[name], "slide")
        if name == TAG:
            return Column(name, TAG, "slide")
        raise self._unknown(node, name)

    def _unknown(self, node: Parsed, name: str) -> ExpressionInvalid:
        known = sorted({*self._columns, *SLIDE_COLUMNS, TAG})
        close = get_close_matches(name, known, n=1)
        hint = f"Did you mean `{close[0]}`?" if close else f"Known columns: {', '.join(known[:40])}."
        if node.this.args.get("quoted"):
            hint = "Text stands in single quotes; double quotes mean a column."
        return self._refused(node, "no such column", hint=hint)

    def _value(self, node: Parsed, column: Column, *, listed: bool = False) -> Scalar:
        """The literal in the column's type; of an enumeration only what it can be."""
        if isinstance(node, exp.Null):
            raise self._refused(node, "nothing equals null", hint=f"Say `{column.name} is null`.")
        if column.type in _NUMERIC:
            return self._numeric(node, column)
        if column.type == "boolean":
            if not isinstance(node, exp.Boolean):
                raise self._refused(node, f"{column.name} is boolean; compare it with true or false")
            return bool(node.this)
        if not (isinstance(node, exp.Literal) and node.is_string):
            raise self._refused(node, f"{column.name} is {column.type}; its value stands in single quotes")
        if column.type == "date":
            return self._date(node, column)
        if listed:
            self._check_listed(node, column)
        if self._allowed(column) is None:
            self._check_shape(node, column)
        return str(node.this)

    def _numeric(self, node: Parsed, column: Column) -> Scalar:
        bare = node.this if isinstance(node, exp.Neg) else node
        if isinstance(bare, exp.Literal) and bare.is_string:
            hint = f"Write {bare.this} without quotes." if re.fullmatch(r"-?[0-9.]+", bare.this) else None
            raise self._refused(node, f"{column.name} is {column.type}, not text", hint=hint)
        return self._number(node)

    def _number(self, node: Parsed) -> int | float:
        bare, sign = (node.this, -1) if isinstance(node, exp.Neg) else (node, 1)
        if not isinstance(bare, exp.Literal) or bare.is_string:
            raise self._refused(node, "a number belongs here")
        text = str(bare.this)
        if re.fullmatch(r"[0-9]{1,18}", text):
            return sign * int(text)
        if re.fullmatch(r"[0-9]{0,18}\.?[0-9]{0,18}([eE][+-]?[0-9]{1,2})?", text) and text[:1] not in "eE":
            return sign * float(text)
        raise self._refused(node, "a number has at most 18 digits")

    def _date(self, node: Parsed, column: Column) -> str:
        try:
            if _ISO_DATE.fullmatch(node.this):
                return date.fromisoformat(node.this).isoformat()
        except ValueError:
            pass  # a thirteenth month; said below
        raise self._refused(node, f"{column.name} is a date", hint="Write it as '2026-07-31'.")

    def _allowed(self, column: Column) -> tuple[str, ...] | None:
        return self._columns[column.name].allowed if column.home == "record" else None

    def _check_shape(self, node: Parsed, column: Column) -> None:
        """What is no number, pseudonym or plain word may be a name or a case: it selects nothing, and stays."""
        if column.home == "slide" and column.name in ("number", "subject"):
            shape = {"number": _NUMBER_LIKE, "subject": _SUBJECT_LIKE}[column.name]
        else:
            shape = _WORD_LIKE
        if not shape.fullmatch(node.this):
            raise self._refused(node, f"{column.name} is never like this", hint="Original names select nothing here.")

    def _check_pattern(self, node: Parsed, column: Column, *, any_case: bool) -> None:
        allowed = self._allowed(column)
        if allowed is None:
            self._check_shape(node, column)
            return
        fold = str.casefold if any_case else str
        if not any(is_like(fold(value), fold(node.this)) for value in allowed):
            words = ", ".join(repr(word) for word in allowed[:50])
            raise self._refused(node, f"{column.name} is never like this", hint=f"It is one of {words}.")

    def _check_listed(self, node: Parsed, column: Column) -> None:
        allowed = self._allowed(column)
        if allowed is not None and node.this not in allowed:
            words = ", ".join(repr(word) for word in allowed[:50])
            raise self._refused(node, f"{column.name} is never {str(node.this)[:60]!r}", hint=f"It is one of {words}.")

    # refusing

    def _only(self, node: Parsed, *names: str) -> Any:
        """No argument but the named ones may be set: what we do not read must not be there. Returns the first."""
        for name, value in node.args.items():
            if name not in names and value not in (None, False, [], ""):
                raise self._refused(node, "this is not part of a cohort expression", hint=_LANGUAGE)
        return node.args[names[0]]

    def _refused(self, node: Parsed, what: str, *, hint: str | None = None) -> ExpressionInvalid:
        return _refusal(self._text, _place(node), what, hint=hint)


_LANGUAGE = (
    "An expression compares columns with values: = <> < <= > >=, and, or, not, in (…), between … and …, is null, "
    "like, ilike, tag = '…', sampled(fraction, seed = number)."
)


def is_like(value: str, pattern: str) -> bool:
    """PostgreSQL's LIKE: `%` any text, `_` one character, a backslash takes the next one literally. Looks back to
    the last `%` only, so that no pattern takes longer than the product of both lengths."""
    wanted = _pattern_parts(pattern)
    at = part = 0
    resume: tuple[int, int] | None = None
    while at < len(value):
        if part < len(wanted) and wanted[part] == "%":
            resume, part = (part + 1, at), part + 1
        elif part < len(wanted) and wanted[part] in ("_", "=" + value[at]):
            at, part = at + 1, part + 1
        elif resume is not None:
            resume = (resume[0], resume[1] + 1)
            part, at = resume
        else:
            return False
    return all(one == "%" for one in wanted[part:])


def _pattern_parts(pattern: str) -> list[str]:
    parts: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == "\\":
            parts.append("=" + next(characters, "\\"))
        else:
            parts.append(character if character in "%_" else "=" + character)
    return parts


def _place(node: Parsed) -> int:
    """Where the leftmost word of this node stands; sqlglot keeps places on its leaves."""
    starts = [part.meta["start"] for part in node.walk() if "start" in part.meta]
    return min(starts, default=0)
