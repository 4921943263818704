"""What a run says at its end: counts for the terminal. Names stand in the crosswalk only."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from msgspec import Struct

from mover.deid.oneshot.outcome import Outcome
from mover.model.certificate import Anonymity
from mover.model.slides import Decision


class PlannedFile(Struct, frozen=True):
    """What `--plan` may show of one file: its place in the listing, never its name."""

    position: int
    status: str
    reason: str | None
    family: str | None
    size_bytes: int
    decisions: tuple[Decision, ...]


class OneShotReport(Struct, frozen=True, kw_only=True):
    """`reasons` are of quarantined files, `dropped_reasons` of dropped ones; `details` says in words what a reason
    was, with how often. `by_kind` counts files by kind and status."""

    files: int
    deidentified: int
    quarantined: int
    dropped: int
    reasons: dict[str, int]
    dropped_reasons: dict[str, int]
    details: dict[str, dict[str, int]]
    by_kind: dict[str, dict[str, int]]
    families: dict[str, int]
    source_bytes: int
    output_bytes: int
    seconds: float
    # slide names that more than one file has: tables that use them are tied to neither
    ambiguous_names: int = 0
    # cells of tables that did not leave and that a person may want to see
    cells_to_review: int = 0
    certificate: str = ""
    # outputs of these files from an earlier run that still lie there, though this one would not have made them
    left_over: tuple[str, ...] = ()
    # k of each table over its declared quasi-identifiers
    anonymity: tuple[Anonymity, ...] = ()
    planned: tuple[PlannedFile, ...] = ()


DETAILS = 50


def make_report(
    outcomes: Sequence[Outcome],
    *,
    seconds: float,
    dry: bool,
    ambiguous: int,
    certificate: str,
    left_over: tuple[str, ...] = (),
) -> OneShotReport:
    reasons: dict[str, dict[str, int]] = {"quarantined": {}, "dropped": {}}
    by_kind: dict[str, dict[str, int]] = {}
    families: dict[str, int] = {}
    details: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        entry = outcome.entry
        _count(by_kind.setdefault(outcome.kind, {}), entry.status)
        if entry.status != "deidentified":
            _count(reasons[entry.status], entry.reason or "error")
            _detail(details.setdefault(entry.reason or "error", {}), entry.detail or "")
        elif outcome.main:
            _count(families, outcome.family)
    done = sum(counts.get("deidentified", 0) for counts in by_kind.values())
    return OneShotReport(
        files=len(outcomes), deidentified=done, quarantined=sum(reasons["quarantined"].values()),
        dropped=sum(reasons["dropped"].values()), reasons=reasons["quarantined"], dropped_reasons=reasons["dropped"],
        details=details, by_kind=by_kind, families=families,
        source_bytes=sum(outcome.source_bytes for outcome in outcomes),
        output_bytes=sum(outcome.output_bytes for outcome in outcomes),
        seconds=seconds, ambiguous_names=ambiguous, cells_to_review=sum(outcome.review for outcome in outcomes),
        certificate=certificate, left_over=left_over,
        anonymity=tuple(outcome.anonymity for outcome in outcomes if outcome.anonymity is not None),
        planned=tuple(_planned(outcome) for outcome in outcomes) if dry else (),
    )  # fmt: skip


def _count(counts: dict[str, int], word: str) -> None:
    counts[word] = counts.get(word, 0) + 1


def _detail(counts: dict[str, int], words: str) -> None:
    if words in counts or len(counts) < DETAILS:
        _count(counts, words)


def _planned(outcome: Outcome) -> PlannedFile:
    return PlannedFile(
        position=outcome.position, status=outcome.entry.status, reason=outcome.entry.reason,
        family=outcome.family or None, size_bytes=outcome.source_bytes, decisions=outcome.decisions,
    )  # fmt: skip


def as_map(outcomes: Sequence[Outcome]) -> bytes:
    """source,output of what was de-identified: one line for each slide, object and table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "output"])
    writer.writerows(
        [outcome.entry.source, outcome.entry.output] for outcome in outcomes if outcome.main and outcome.entry.output
    )
    return text.getvalue().encode()
