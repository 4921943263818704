"""The judgement of the general verb: which way may be taken, what is selected, what becomes of each entry, when
the next step follows, and what may be released (design D4, D11, D12, D14; reliability.md, "Deletion rules").

Facts in, verdicts out. `mover.moving` asks here and carries out; `--plan`, the audit record and the report show the
words that stand here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Literal

import sqlglot
from msgspec import Struct
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from mover.decide.cohort import (
    MAX_CHARS,
    MAX_DEPTH,
    MAX_TOKENS,
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
    Scalar,
    Tagged,
    _error_place,
    _place,
    _Reader,
    _refusal,
    is_like,
)
from mover.errors import ExpressionInvalid, IllegalTransition
from mover.model.facts import TAG
from mover.model.tiers import TierKind, TierRole, Zone

# --- what a transfer may become --------------------------------------------------------------------------

TRANSFER: dict[str, tuple[str, ...]] = {
    "planning": ("refused", "canary", "moving", "done", "failed", "aborted"),
    "canary": ("waiting", "paused", "failed", "aborted"),
    # for a person: after the canary, or before a release beyond its limit
    "waiting": ("moving", "releasing", "done", "incomplete", "aborted"),
    "moving": ("paused", "waiting", "releasing", "done", "incomplete", "failed", "aborted"),
    "paused": ("canary", "moving", "aborted"),
    "releasing": ("done", "incomplete", "failed"),
    # what is left may be tried again; what stands is not moved twice
    "incomplete": ("moving",),
    "failed": ("moving", "aborted"),
    "refused": (),
    "done": (),
    "aborted": (),
}
FINAL = frozenset({"refused", "done", "incomplete", "failed", "aborted"})
WORKING = frozenset({"canary", "moving"})

RELEASE: dict[str, tuple[str, ...]] = {
    "waiting": ("releasing", "dropped"),
    "releasing": ("held", "failed"),
    "held": ("restoring", "purging"),
    "failed": ("releasing", "restoring", "purging"),
    "restoring": ("restored", "held"),
    # what could not be brought back stays held, and may be asked for again
    "restored": (),
    "purging": ("purged", "held"),
    "purged": (),
    "dropped": (),
}


def check_transfer(before: str, after: str, *, subject: str) -> None:
    _check(TRANSFER, "a transfer", before, after, subject)


def check_release(before: str, after: str, *, subject: str) -> None:
    _check(RELEASE, "a release", before, after, subject)


def _check(table: Mapping[str, tuple[str, ...]], noun: str, before: str, after: str, subject: str) -> None:
    if after not in table.get(before, ()):
        allowed = ", ".join(table.get(before, ())) or "nothing"
        raise IllegalTransition(
            f"{noun} that is {before} cannot become {after}", where=subject,
            hint=f"From {before} it may become: {allowed}.",
        )  # fmt: skip


class Round(Struct, frozen=True):
    """How a transfer stands when its last open shard ends."""

    verb: Literal["copy", "move"]
    state: str
    waiting: int
    failed: int
    moved: int


def next_state(round_: Round) -> Literal["again", "waiting", "releasing", "done", "incomplete"]:
    """What follows. `again`: entries that failed for a reason that may pass are tried once more. A canary is
    always shown to a person, also one without a fault."""
    if round_.state == "canary":
        return "waiting"
    if round_.waiting:
        return "again"
    if round_.verb == "move" and round_.moved:
        return "releasing"
    return "incomplete" if round_.failed else "done"


# --- the way from tier to tier ----------------------------------------------------------------------------


class End(Struct, frozen=True):
    """A tier as one end of a transfer. `read_only`: nothing is ever written to it, so nothing leaves it."""

    tier: str
    kind: TierKind
    zone: Zone
    role: TierRole
    read_only: bool
    prefix: str = ""


class Refusal(Struct, frozen=True):
    """Why a transfer, or one entry of it, is refused. `subject` names it by tier, prefix or position."""

    code: str
    what: str
    subject: str = ""


# what other rooms keep on tiers of a role: their rows point there
_OWNED: dict[str, tuple[str, ...]] = {"flash": ("runs",), "archive": ("slides",)}


def judge_way(source: End, target: End, *, release: bool, overlapping: bool) -> Iterator[Refusal]:
    """Every reason against moving from one end to the other, before anything is listed."""
    if source.zone == "identified" and target.zone == "deidentified":
        yield Refusal("zone-crossing", "only a de-identification recipe crosses from identified to deidentified")
    elif "identified" in (source.zone, target.zone):
        yield Refusal(
            "identified-not-yet", "entry paths of identified tiers are vault rows; transfers do not read them yet"
        )
    if target.read_only:
        yield Refusal("target-read-only", f"nothing is ever written to {target.tier}", target.tier)
    if target.role == "protect":
        yield Refusal("target-owned", f"{target.tier} holds snapshot repositories and nothing else", target.tier)
    if _owned(target):
        yield Refusal("target-owned", f"{target.prefix} on {target.tier} belongs to another workflow", target.tier)
    if overlapping:
        yield Refusal("places-overlap", "source and target lie inside each other", source.tier)
    if release:
        yield from _judge_release_way(source)


def _judge_release_way(source: End) -> Iterator[Refusal]:
    if source.zone == "identified":
        yield Refusal("release-original", "an original is never released by a transfer (D14)", source.tier)
    if source.read_only:
        yield Refusal("release-read-only", f"{source.tier} is read-only: its entries cannot be released", source.tier)
    if source.kind != "posix":
        yield Refusal("release-unsupported", "entries of object tiers are copied, and not released yet", source.tier)
    if source.role == "protect" or _owned(source) or (source.role in _OWNED and not source.prefix):
        yield Refusal(
            "release-owned", f"rows of other workflows point to {source.prefix or 'what lies'} on {source.tier}",
            source.tier,
        )  # fmt: skip


def _owned(end: End) -> bool:
    return end.prefix.partition("/")[0] in _OWNED.get(end.role, ())


def owned_key(role: TierRole, key: str) -> bool:
    """Whether a key lies where another workflow's rows point to; such an entry is not released."""
    return role == "protect" or key.partition("/")[0] in (*_OWNED.get(role, ()), ".mover")


def target_owned(key: str, *, role: TierRole) -> Refusal | None:
    """A tree may lead into another workflow's folder although the target's prefix does not: a run root would hold
    what is not in its manifest, an archived slide what its sidecar does not name (I4)."""
    if not owned_key(role, key):
        return None
    return Refusal("target-owned", "that place on the target belongs to another workflow")


def target_overwrites(tier: str) -> Refusal:
    """Asking first whether a name is free leaves a gap, and names found taken are read, not written: only a tier that
    refuses by itself keeps what stands there. Policies are held to the same (`decide.fitness`)."""
    return Refusal("target-overwrites", f"{tier} would overwrite a name that is taken", tier)


# --- names -------------------------------------------------------------------------------------------------

OBJECT_KEY_BYTES = 1024  # S3 API, "Object key naming guidelines"
POSIX_KEY_BYTES = 4000
POSIX_PART_BYTES = 255


def target_key(key: str, *, prefix: str, to: str) -> str:
    """`prefix/rest` becomes `to/rest`; a prefix that is the entry itself leaves its last name."""
    rest = key[len(prefix) :].lstrip("/") if prefix else key
    rest = rest or key.rpartition("/")[2]
    return f"{to}/{rest}" if to else rest


def name_problem(key: str, *, kind: TierKind) -> Refusal | None:
    """Why a tier of this kind cannot hold an entry of this name."""
    try:
        raw = key.encode("utf-8", "strict" if kind == "object" else "surrogateescape")
    except UnicodeEncodeError:
        return Refusal("name-not-text", "an object's name is UTF-8, and this one is not")
    if kind == "object" and len(raw) > OBJECT_KEY_BYTES:
        return Refusal("name-too-long", f"an object's name has at most {OBJECT_KEY_BYTES} bytes")
    if kind == "object" and any(byte < 0x20 or byte == 0x7F for byte in raw):
        return Refusal("name-control", "control characters in an object's name do not come back from a listing")
    if kind == "posix" and (
        len(raw) > POSIX_KEY_BYTES or any(len(part) > POSIX_PART_BYTES for part in raw.split(b"/"))
    ):
        return Refusal("name-too-long", f"a part of a name has at most {POSIX_PART_BYTES} bytes")
    if raw.split(b"/")[0] == b".mover":
        return Refusal("name-reserved", ".mover/ is the tier's own")
    return None


def clean_prefix(prefix: str) -> str | None:
    """One spelling of a folder below a tier's root; None for every way out of it."""
    parts = [part for part in prefix.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in prefix:
        return None
    return "/".join(parts)


# --- time and space ----------------------------------------------------------------------------------------


class Pace(Struct, frozen=True):
    """What an earlier transfer between the same tiers moved, and how long it took."""

    entries: int
    bytes: int
    seconds: float


def estimate_s(entries: int, size_bytes: int, history: Sequence[Pace]) -> float | None:
    """Seconds by the pace of earlier transfers: small ones are bound by entries, large ones by bytes, and the
    slower of the two counts. None without history: nothing is guessed."""
    seconds = sum(pace.seconds for pace in history)
    if seconds <= 0:
        return None
    entries_s = sum(pace.entries for pace in history) / seconds
    bytes_s = sum(pace.bytes for pace in history) / seconds
    by_entries = entries / entries_s if entries_s else 0.0
    by_bytes = size_bytes / bytes_s if bytes_s else 0.0
    return max(by_entries, by_bytes)


def judge_space(need_bytes: int, free_bytes: int | None, *, tier: str) -> Refusal | None:
    """None for `free_bytes`: the tier cannot be asked (an object store), and fullness is found on the way."""
    if free_bytes is None or need_bytes <= free_bytes:
        return None
    return Refusal("no-space", f"{need_bytes} bytes are wanted and {free_bytes} are free", tier)


# --- release -------------------------------------------------------------------------------------------------

HOLD_S = 7 * 86_400
RELEASE_ENTRIES_FREE = 100
RELEASE_PERCENT = 1.0


def needs_second_person(
    entries: int,
    *,
    tier_entries: int | None,
    free_entries: int = RELEASE_ENTRIES_FREE,
    percent: float = RELEASE_PERCENT,
    hold_s: int = HOLD_S,
    by_policy: bool = True,
) -> str | None:
    """Why a release waits for a second approval, or None. How large the tier is counts only when it is known. What a
    policy allows is the administrator's word; who asks in his own may ask for less than the usual, never for more."""
    if not by_policy:
        free_entries, percent = min(free_entries, RELEASE_ENTRIES_FREE), min(percent, RELEASE_PERCENT)
        if hold_s < HOLD_S:
            return f"a hold of {hold_s} s is shorter than the {HOLD_S} s that one person may ask for"
    allowed = max(free_entries, int(tier_entries * percent / 100) if tier_entries else 0)
    if entries <= allowed:
        return None
    of = f" of {tier_entries}" if tier_entries else ""
    return f"{entries} entries{of} are more than the {allowed} that one person may release"


class Standing(Struct, frozen=True):
    """What was found right before an entry is released."""

    verified: bool         # the transfer read the copy back cold
    held_by_row: bool      # another workflow's row points to the source
    owned: bool            # it lies where another workflow keeps its own
    links: int             # names of the source's inode
    source_unchanged: bool  # fingerprint and digest, read again
    copy_equal: bool       # the copy, read again cold


def judge_release(found: Standing) -> Refusal | None:
    """The first reason to keep the source, or None. A byte goes only when its copy was proved a moment ago."""
    reasons = (
        (not found.verified, "copy-unverified", "the copy was never read back"),
        (found.owned or found.held_by_row, "release-owned", "a row of another workflow points to it"),
        (not found.source_unchanged, "source-changed", "the source is not what was copied any more"),
        (not found.copy_equal, "copy-differs", "the copy does not read as the source did"),
        (found.links > 1, "several-names", "the file has further names: releasing one of them frees nothing"),
    )
    return next((Refusal(code, what) for wrong, code, what in reasons if wrong), None)


def clock_went_back(now: datetime, newest: datetime | None, *, tolerance_s: float = 5.0) -> bool:
    """Whether something was recorded later than now: then no hold can be trusted to be over."""
    return newest is not None and (newest - now).total_seconds() > tolerance_s


# --- schedules -----------------------------------------------------------------------------------------------


def is_due(now: datetime, *, last: datetime | None, every_s: int | None, running: bool) -> bool:
    """A policy's next transfer begins `every_s` after the last began, and never beside it."""
    if every_s is None or running:
        return False
    return last is None or (now - last).total_seconds() >= every_s


# --- reports -------------------------------------------------------------------------------------------------


def csv_cell(text: str) -> str:
    """A spreadsheet takes `=…`, `+…`, `-…`, `@…` for a formula; an apostrophe makes it text (OWASP, CSV injection).
    Names are already free of control characters (`names.key_text`)."""
    quoted = text.replace('"', '""')
    if quoted[:1] in ("=", "+", "-", "@"):
        quoted = "'" + quoted
    return f'"{quoted}"' if any(character in quoted for character in ',"\r\n;') else quoted


# --- when: a condition over entries --------------------------------------------------------------------------

COLUMNS: dict[str, str] = {
    "name": "text",       # the last part of the key
    "key": "text",        # below the tier's root
    "kind": "text",
    "size": "size",
    "mtime": "date",
    "age": "duration",    # since it was last written
    "digest": "text",     # null when it was never read
    "verified": "duration",  # since it was last read back; null when it never was
    TAG: TAG,             # of the slide whose number is a part of the key
}
_DURATIONS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0, "y": 31_557_600.0}
_SIZES = {
    "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "pb": 1e15,
    "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40, "pib": 2.0**50,
}  # fmt: skip
_UNITS: dict[str, tuple[str, dict[str, float]]] = {"duration": ("d", _DURATIONS), "size": ("MB", _SIZES)}
_KINDS = ("file", "symlink", "folder", "other")


class Facts(Struct, frozen=True):
    """What a condition may ask of one entry; None where it is not known."""

    key: str
    kind: str
    size: int
    mtime_s: float
    digest: str | None = None
    verified_s: float | None = None
    tags: frozenset[str] = frozenset()


def parse_when(text: str) -> Node:
    """The condition as a tree of cohort's words, or ExpressionInvalid with the character: `age > 90d and size > 1MB
    and name like '%.svs'`. Units stand right behind their number: s min h d w y; B kB MB GB TB KiB MiB GiB TiB."""
    if not text.strip():
        raise ExpressionInvalid("the condition is empty", where="character 1")
    if len(text) > MAX_CHARS:
        raise ExpressionInvalid(f"the condition has {len(text)} characters, more than {MAX_CHARS}")
    tokens, units = _with_units(text, _tokens(text))
    try:
        dialect = sqlglot.Dialect.get_or_raise("postgres")
        parsed = dialect.parser().parse_into(exp.Condition, tokens, text)
    except SqlglotError as error:
        raise _refusal(text, _error_place(text, error), "this is not a condition") from None
    except RecursionError:
        raise ExpressionInvalid("the condition is nested too deeply") from None
    if len(parsed) != 1 or parsed[0] is None:
        raise _refusal(text, len(text) - 1, "this is not one condition")
    return _WhenReader(text, units).condition(parsed[0])


def _tokens(text: str) -> list[Token]:
    try:
        tokens = sqlglot.tokenize(text, read="postgres")
    except SqlglotError as error:
        raise _refusal(text, _error_place(text, error), "this is not a condition") from None
    if len(tokens) > MAX_TOKENS:
        raise ExpressionInvalid(f"the condition has more than {MAX_TOKENS} words")
    depth = run = 0
    for token in tokens:
        depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(token.token_type, 0)
        run = run + 1 if token.token_type in (TokenType.NOT, TokenType.DASH, TokenType.TILDE) else 0
        if depth > MAX_DEPTH or run > MAX_DEPTH:
            raise _refusal(text, token.start, f"nested deeper than {MAX_DEPTH}")
    return tokens


def _with_units(text: str, tokens: list[Token]) -> tuple[list[Token], dict[int, str]]:
    """`90d` is one number to us and two words to SQL: the unit is taken off the list and kept by its place."""
    kept: list[Token] = []
    units: dict[int, str] = {}
    for token in tokens:
        before = kept[-1] if kept else None
        beside = before is not None and before.token_type == TokenType.NUMBER and token.start == before.end + 1
        if before is not None and beside and re.fullmatch(r"[A-Za-z]{1,3}", token.text):
            units[before.start] = token.text
            continue
        kept.append(token)
    return kept, units


class _WhenReader(_Reader):
    """Cohort's reader over the columns of an entry. What a cohort may say and a condition may not is refused here:
    functions, tables before columns, facts of slides."""

    def __init__(self, text: str, units: dict[int, str]) -> None:
        super().__init__(text, {})
        self._units = units

    def _readers(self) -> dict[type[Any], Callable[[Any, int], Node]]:
        return {kind: read for kind, read in super()._readers().items() if kind is not exp.Anonymous}

    def _column(self, node: Any) -> Column:
        if not isinstance(node, exp.Column) or not isinstance(node.this, exp.Identifier):
            raise self._refused(node, "a column belongs here")
        self._only(node, "this")
        name = node.this.name.lower()
        if name not in COLUMNS:
            close = get_close_matches(name, COLUMNS, n=1)
            hint = f"Did you mean `{close[0]}`?" if close else f"Known: {', '.join(COLUMNS)}."
            if node.this.args.get("quoted"):
                hint = "Text stands in single quotes; double quotes mean a column."
            raise self._refused(node, "no such column", hint=hint)
        return Column(name, COLUMNS[name], "record")

    def _value(self, node: Any, column: Column, *, listed: bool = False) -> Scalar:
        if isinstance(node, exp.Null):
            raise self._refused(node, "nothing equals null", hint=f"Say `{column.name} is null`.")
        if column.type in _UNITS:
            return self._measured(node, column)
        if not (isinstance(node, exp.Literal) and node.is_string):
            raise self._refused(node, f"{column.name} is {column.type}; its value stands in single quotes")
        if column.type == "date":
            return self._date(node, column)
        if column.name == "kind" and node.this not in _KINDS:
            hint = f"It is one of {', '.join(_KINDS)}."
            raise self._refused(node, f"kind is never {str(node.this)[:60]!r}", hint=hint)
        return str(node.this)

    def _measured(self, node: Any, column: Column) -> float:
        bare = node.this if isinstance(node, exp.Neg) else node
        if not isinstance(bare, exp.Literal) or bare.is_string:
            raise self._refused(node, f"{column.name} is a {column.type}", hint=self._example(column))
        number = self._number(node)
        unit = self._units.get(_place(node))
        default, known = _UNITS[column.type]
        if unit is None and (column.type == "size" or number == 0):
            return float(number)
        if unit is None:
            raise self._refused(node, f"a {column.type} needs a unit", hint=self._example(column))
        if unit.lower() not in known:
            raise self._refused(node, f"{unit} is no unit of a {column.type}", hint=self._example(column))
        return number * known[unit.lower()]

    def _example(self, column: Column) -> str:
        unit, known = _UNITS[column.type]
        return f"Write it as 90{unit}; units are {', '.join(known)}."

    def _check_pattern(self, node: Any, column: Column, *, any_case: bool) -> None:
        """Any pattern: what is selected here are names of files, not facts about people."""

    def _comparable(self, column: Column, node: Any) -> Column:
        raise self._refused(node, "a column is compared with a value")


def matches(node: Node, facts: Facts, *, now_s: float) -> bool:
    """Whether the condition holds; unknown is no (as in SQL's where)."""
    return _holds(node, facts, now_s) is True


def _holds(node: Node, facts: Facts, now_s: float) -> bool | None:
    match node:
        case All():
            return _both([_holds(part, facts, now_s) for part in node.parts])
        case Any_():
            found = _both([_negated(_holds(part, facts, now_s)) for part in node.parts])
            return _negated(found)
        case Not():
            return _negated(_holds(node.inner, facts, now_s))
        case Tagged(tag):
            return tag in facts.tags if tag is not None else bool(facts.tags)
        case IsNull():
            return _fact(node.column, facts, now_s) is None
        case Compare() | OneOf() | Between() | Like():
            value = _fact(node.column if not isinstance(node, Compare) else node.left, facts, now_s)
            return None if value is None else _asked(node, value)
    raise AssertionError("the reader makes no other node")


def _both(parts: Sequence[bool | None]) -> bool | None:
    """SQL's `and` of three values."""
    if any(part is False for part in parts):
        return False
    return None if any(part is None for part in parts) else True


def _negated(value: bool | None) -> bool | None:
    return None if value is None else not value


def _asked(node: Compare | OneOf | Between | Like, value: Any) -> bool:
    match node:
        case Compare():
            return _COMPARISONS[node.operator](value, node.right)
        case OneOf():
            return value in node.values
        case Between():
            return bool(node.low <= value <= node.high)
        case Like():
            fold: Callable[[str], str] = str.casefold if node.any_case else str
            return is_like(fold(value), fold(node.pattern))


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b, "<>": lambda a, b: a != b, "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip


def _fact(column: Column, facts: Facts, now_s: float) -> Scalar | None:
    match column.name:
        case "name":
            return facts.key.rpartition("/")[2]
        case "age":
            return now_s - facts.mtime_s
        case "mtime":
            return _day(facts.mtime_s)
        case "verified":
            return None if facts.verified_s is None else now_s - facts.verified_s
        case "key" | "kind" | "size" | "digest":
            found: Scalar | None = getattr(facts, column.name)
            return found
    raise AssertionError("the reader makes no other column")


def _day(seconds: float) -> str:
    """The UTC day, which sorts as text. Proleptic Gregorian arithmetic, since times of files may be absurd."""
    days = int(seconds // 86_400) + 719_468
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_index = (5 * day_of_year + 2) // 153
    month = month_index + 3 if month_index < 10 else month_index - 9
    year = year_of_era + era * 400 + (1 if month <= 2 else 0)
    return f"{year:04d}-{month:02d}-{day_of_year - (153 * month_index + 2) // 5 + 1:02d}"
