"""Tables: surveyed for whom they speak of, rewritten once slides and objects have their numbers."""

from __future__ import annotations

from msgspec import Struct

from mover.deid.crosswalk import CrosswalkEntry
from mover.deid.durable import check_unchanged
from mover.deid.identity import Identity
from mover.deid.oneshot.job import Job
from mover.deid.oneshot.objects import aliases_for
from mover.deid.oneshot.outcome import Outcome, set_aside
from mover.deid.oneshot.publish import TABLES
from mover.deid.oneshot.slides import CannotOpen, Opened, opened
from mover.deid.oneshot.walk import Found, written
from mover.deid.tables import PreparedTable, TableSurvey, prepare_table, survey_table
from mover.errors import FormatUnsupported, IdentityError, IntegrityError, MoverError
from mover.model.certificate import Anonymity, FileRecord, OutputFile


class Table(Struct, frozen=True):
    found: Found
    survey: TableSurvey


def survey(job: Job, found: Found) -> Table | Outcome:
    """Which rule of the profile fits and who is named; what the rows tie together joins the graph."""
    if not job.profile.tables:
        return set_aside(
            found, "quarantined", FormatUnsupported.code, "a table, and the profile declares none", kind="table",
        )  # fmt: skip
    try:
        with opened([found], digests=False) as files:
            seen = survey_table(job.sandbox, files[0].fd, job.profile)
    except (IdentityError, IntegrityError, CannotOpen) as error:
        return _refused(found, error)
    for link in seen.links:
        job.graph.add(Identity(entities=link, words=seen.words.get(link[0], ()) if link else ()))
    job.graph.add(Identity(words=seen.words.get("", ())))
    return Table(found, seen)


def handle_table(job: Job, table: Table, *, this_year: int) -> Outcome:
    found = table.found
    try:
        with opened([found]) as files:
            made = prepare_table(
                job.sandbox,
                files[0].fd,
                profile=job.profile,
                rule=table.survey.rule,
                aliases=aliases_for(job, [table.survey.identity]),
                words=job.graph.words_by_patient(),
                this_year=this_year,
            )
            check_unchanged(files[0].fd, files[0].before)
            return _publish(job, table, files[0], made)
    except (IdentityError, IntegrityError, CannotOpen) as error:
        return _refused(found, error)


def _publish(job: Job, table: Table, file: Opened, made: PreparedTable) -> Outcome:
    """Named by its rule and a number: two files of one rule stand beside each other."""
    number = job.crosswalk.numbers([file.digest])[file.digest]
    name = f"{TABLES}/{made.rule}-{number}.csv"
    with job.publisher.lock_of(file.digest):
        digest = job.publisher.publish(name, file.fd, made.recipe, file.before)
    output = OutputFile(name, digest or "", made.recipe.size_bytes)
    return Outcome(
        position=file.found.position,
        entry=CrosswalkEntry(
            source=written(file.found.relative), output=None if job.dry else name, number=None if job.dry else number,
            status="deidentified", source_blake3=file.digest, output_blake3=digest,
        ),
        kind="table",
        source_bytes=file.before.st_size,
        output_bytes=made.recipe.size_bytes,
        family="table",
        record=_record(number, made, output),
        anonymity=_anonymity(made),
        review=len(made.review) + made.review_more,
    )  # fmt: skip


def _record(number: str, made: PreparedTable, output: OutputFile) -> FileRecord:
    """Columns count by class, cells that did not leave by reason: numbers of the policy's own words."""
    removed: dict[str, int] = {}
    for column in made.columns:
        if not column.kept:
            removed["columns"] = removed.get("columns", 0) + 1
        for reason, count in column.emptied.items():
            removed[f"cells {reason}"] = removed.get(f"cells {reason}", 0) + count
    for reason, count in made.skipped.items():
        removed[f"rows {reason}"] = count
    evidence = made.evidence
    return FileRecord(
        number=number, kind="table", format="table", outputs=(output,), removed=dict(removed),
        kept=sum(column.kept for column in made.columns), strings_removed=evidence.strings_sought,
        methods=evidence.methods, verifier=evidence.verifier,
        looked={"strings": evidence.strings_sought, "cells": evidence.cells_checked},
        proof={"rows": made.rows, "rule": made.rule},
    )  # fmt: skip


def _anonymity(made: PreparedTable) -> Anonymity | None:
    found = made.anonymity
    if not found.columns:
        return None
    return Anonymity(
        table=made.rule, columns=found.columns, rows=made.rows, smallest=found.k or 0, suppressed=found.suppressed
    )


def _refused(found: Found, error: MoverError) -> Outcome:
    return set_aside(found, "quarantined", error.code, error.what, kind="table")
