"""Tables of a release: surveyed and rewritten in the sandbox, rows in their order, every cell of its declared class.

Two calls over the same open file, as for every source: `survey_table` says which rule of the profile the table is of
and whom it speaks of, so that the crosswalk can be asked; `prepare_table` writes it anew and proves it. Between them
the caller joins what all tables and images say (`decide.kinship`) and mints what is missing.

What `survey_table` returns is as sensitive as the table. `PreparedTable` holds the clean table, counts, places and
masked shapes. The judgement is `decide.released`, `decide.tables` and `decide.freetext`; the child is `tables_child`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from mover.decide.drafts import ColumnDraft
from mover.decide.matching import canonical_image
from mover.deid.identity import Aliases, Identity, entity_key
from mover.model.policy import EXTENSIONS, DeidPolicy, TableRule
from mover.model.recipe import Recipe
from mover.sandbox import Sandbox, read_answer

TIMEOUT_S: Final = 600.0
REVIEW_LINES: Final = 1000  # of one table; how many more there are is counted


class TableSurvey(Struct, frozen=True):
    """One look. `links`: the entities that rows name together, each set once, the patient first. `words`: texts that
    name somebody, by the first entity of their row ("" where the row names none); `identity.words` are those of them
    that are long enough to be sought anywhere without false alarms."""

    rule: str
    identity: Identity
    links: tuple[tuple[str, ...], ...]
    words: dict[str, tuple[str, ...]]
    rows: int
    encoding: str
    delimiter: str


class ColumnOutcome(Struct, frozen=True):
    """What became of one column. `position` is its place in the source (from 1); `name` is the policy's word for it,
    "" for one that no rule names. `emptied`: cells that did not leave, by reason."""

    position: int
    name: str
    rule: str
    kept: bool
    cells: int = 0
    emptied: dict[str, int] = {}


class ReviewLine(Struct, frozen=True):
    """A cell that did not leave and that a person may want to see: by place and masked shape, never by value."""

    line: int
    column: str
    reason: str
    shape: str


class Anonymity(Struct, frozen=True):
    """k over the declared quasi-identifiers of one table. `k` is the smallest group among rows that kept theirs (None:
    no column is declared one, or no row kept them); `suppressed` rows lost theirs because their group was smaller than
    the profile's minimum."""

    columns: tuple[str, ...]
    k: int | None
    groups: int
    suppressed: int


class TableEvidence(Struct, frozen=True):
    """What the second pass looked at, in numbers."""

    verifier: str
    methods: tuple[str, ...]
    cells_checked: int
    strings_sought: int


class PreparedTable(Struct, frozen=True):
    """A table as it may leave: `recipe` is one literal, UTF-8 by RFC 4180 without a mark."""

    rule: str
    recipe: Recipe
    rows: int
    skipped: dict[str, int]
    columns: tuple[ColumnOutcome, ...]
    review: tuple[ReviewLine, ...]
    review_more: int
    anonymity: Anonymity
    evidence: TableEvidence

    @property
    def data(self) -> bytes:
        return b"".join(segment.data for segment in self.recipe.segments if hasattr(segment, "data"))


class TableDraft(Struct, frozen=True):
    """A table nobody has declared yet, with a first rule for each column (`decide.drafts`). `signature` is equal for
    tables of the same columns, so that a hundred exports of one kind are one decision."""

    columns: tuple[ColumnDraft, ...]
    rows: int
    encoding: str
    delimiter: str
    signature: str


class Order(Struct, frozen=True):
    """What the child is asked."""

    rules: tuple[TableRule, ...]
    extensions: tuple[str, ...] = EXTENSIONS
    aliases: Aliases = Aliases()
    words: dict[str, tuple[str, ...]] = {}
    minimum_k: int = 0
    this_year: int = 0


def image_key(name: str, extensions: Sequence[str] = EXTENSIONS) -> str:
    """The key of a slide by its file name, as `image` columns and the names of slide files share it; "" for a name of
    which nothing is left."""
    key = canonical_image(name, extensions)
    return entity_key("slide", key) if key else ""


def survey_table(sandbox: Sandbox, fd: int, profile: DeidPolicy) -> TableSurvey:
    """Which rule fits, and whom the table speaks of. PlaceUnknown when no rule fits or a column is not listed,
    StructureInvalid when the file is no certain table."""
    order = Order(rules=profile.tables, extensions=profile.extensions)
    answer = sandbox.run("mover.deid.tables_child:survey", (msgspec.msgpack.encode(order),), (fd,), timeout_s=TIMEOUT_S)
    return read_answer(answer, TableSurvey)


def prepare_table(
    sandbox: Sandbox,
    fd: int,
    *,
    profile: DeidPolicy,
    rule: str,
    aliases: Aliases,
    words: Mapping[str, Sequence[str]] | None = None,
    this_year: int,
) -> PreparedTable:
    """The table rewritten and proved. `aliases` must hold a subject for every patient and a key for every case, block
    and slide of the survey, and `links` from those to patients; ChangedWhileReading when the table names others.
    `words`: all that is known of each patient (`kinship.words_by_patient`), for free text and the last net."""
    order = Order(
        rules=tuple(table for table in profile.tables if table.name == rule),
        extensions=profile.extensions,
        aliases=aliases,
        words={owner: tuple(found) for owner, found in (words or {}).items()},
        minimum_k=profile.minimum_k,
        this_year=this_year,
    )
    answer = sandbox.run(
        "mover.deid.tables_child:prepare", (msgspec.msgpack.encode(order),), (fd,), timeout_s=TIMEOUT_S
    )
    return read_answer(answer, PreparedTable)


def draft_table(sandbox: Sandbox, fd: int) -> TableDraft:
    """What a table holds, column by column, for a person who writes its rules. StructureInvalid when the file is no
    certain table. The answer holds the file's own header: show `shape`, and `name` only in the draft itself."""
    answer = sandbox.run("mover.deid.tables_child:draft", (), (fd,), timeout_s=TIMEOUT_S)
    return read_answer(answer, TableDraft)
