"""DICOM objects: surveyed in chunks, grouped by series, planned and proved together, written into numbered folders."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import Struct

from mover.decide.filenames import words_of_name
from mover.deid.certificate import removed_counts
from mover.deid.crosswalk import CrosswalkEntry
from mover.deid.dicom import OBJECTS_PER_CALL, ObjectSurvey, PreparedObject, prepare_objects, survey_objects
from mover.deid.durable import check_unchanged
from mover.deid.identity import Aliases, Identity, Refused
from mover.deid.oneshot.job import Job
from mover.deid.oneshot.outcome import Outcome, set_aside
from mover.deid.oneshot.publish import ToPublish
from mover.deid.oneshot.slides import CannotOpen, Opened, opened
from mover.deid.oneshot.walk import Found, written
from mover.errors import ChangedWhileReading, InstanceDropped, MoverError
from mover.model.certificate import FileRecord, OutputFile

# digits of an object's place in its folder: lists of up to 9,999 sort as they were meant
_PLACES = 4


class Instance(Struct, frozen=True):
    """One object and what the survey said of it; its words are in the graph already."""

    found: Found
    survey: ObjectSurvey


class Series(Struct, frozen=True):
    """Objects that belong into one folder, in their order."""

    key: str
    instances: tuple[Instance, ...]

    def identities(self) -> Iterator[Identity]:
        for one in self.instances:
            yield one.survey.identity


def survey_chunk(job: Job, chunk: Sequence[Found]) -> tuple[list[Instance], list[Outcome]]:
    """One call of the sandbox for many headers. What one file of them is refused for is that file's outcome."""
    instances: list[Instance] = []
    outcomes: list[Outcome] = []
    readable: list[Found] = []
    for found in chunk:
        try:
            with opened([found], digests=False):
                readable.append(found)
        except CannotOpen as error:
            outcomes.append(_refused(found, error))
    with opened(readable, digests=False) as files:
        answers = survey_objects(job.sandbox, [one.fd for one in files])
    for found, answer in zip(readable, answers, strict=True):
        if isinstance(answer, Refused):
            outcomes.append(_refused_by(found, answer))
            continue
        job.graph.add(job.crosswalk.known_by(answer.identity), extra=job.graph.keys_in(words_of_name(found.relative)))
        instances.append(Instance(found, _light(answer)))
    return instances, outcomes


def _light(survey: ObjectSurvey) -> ObjectSurvey:
    """Without its words, which the graph holds once for all objects of the patient."""
    identity = Identity(_shared(survey.identity.entities), _shared(survey.identity.uids))
    return msgspec.structs.replace(survey, identity=identity)


def _shared(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Patients, studies and series are named by many objects: each text stands in memory once."""
    return tuple(sys.intern(text) for text in texts)


def group(instances: Iterable[Instance]) -> list[Series]:
    """One series, one folder; an object without a series stands alone. Whole slides begin with the largest level."""
    groups: dict[str, list[Instance]] = {}
    for one in instances:
        series = one.survey.series or f"alone {one.found.relative}"
        groups.setdefault(f"series|{one.survey.study}|{series}", []).append(one)
    return [Series(key, tuple(sorted(members, key=_order))) for key, members in groups.items()]


def _order(one: Instance) -> tuple[int, int, int]:
    return (-one.survey.matrix_columns * one.survey.matrix_rows, one.survey.instance_number, one.found.position)


def numbers_of(job: Job, series: Sequence[Series]) -> dict[str, str]:
    """The folder of each series. A whole slide scanned in one series is known to tables by its own key, so the folder
    is named by that; a second series of the same glass has a number of its own."""
    own: dict[str, list[str]] = {}
    for one in series:
        for key in {key for identity in one.identities() for key in identity.of("slide")}:
            if one.instances[0].survey.family == "dicom-wsm":
                own.setdefault(key, []).append(one.key)
    single = {keys[0]: slide for slide, keys in own.items() if len(keys) == 1}
    minted = job.crosswalk.keys([single.get(one.key, one.key) for one in series])
    return {one.key: minted[single.get(one.key, one.key)] for one in series}


def handle_series(job: Job, series: Series, number: str) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for start in range(0, len(series.instances), OBJECTS_PER_CALL):
        outcomes += _handle_chunk(job, series.instances[start : start + OBJECTS_PER_CALL], number)
    return outcomes


def _handle_chunk(job: Job, chunk: Sequence[Instance], number: str) -> list[Outcome]:
    outcomes: list[Outcome] = []
    readable: list[Instance] = []
    for one in chunk:
        try:
            with opened([one.found], digests=False):
                readable.append(one)
        except CannotOpen as error:
            outcomes.append(_refused(one.found, error))
    with opened([one.found for one in readable]) as files:
        names = _places(job, number, files)
        answers = prepare_objects(
            job.sandbox,
            [one.fd for one in files],
            aliases=aliases_for(job, (one.survey.identity for one in readable), number=number),
            rules=job.profile.dicom,
            pixels=job.profile.pixels,
            known=_known(job, readable),
        )
        outcomes += _settle(job, files, answers, number=number, names=names)
    return outcomes


def aliases_for(job: Job, identities: Iterable[Identity], *, number: str = "") -> Aliases:
    """Everything that may be written in the place of what these identities name, and whose each of them is."""
    entities: dict[str, None] = {}
    uids: dict[str, None] = {}
    for identity in identities:
        entities.update(dict.fromkeys(identity.entities))
        uids.update(dict.fromkeys(identity.uids))
    keys = [key for key in entities if not key.startswith("patient|")]
    links = {key: job.graph.patient_of[key] for key in keys if key in job.graph.patient_of}
    patients = [key for key in entities if key.startswith("patient|")]
    return Aliases(
        number=number,
        subjects=job.crosswalk.subjects([*patients, *links.values()]),
        keys=job.crosswalk.keys(keys),
        uids=job.crosswalk.uids(list(uids)),
        links=links,
    )


def _places(job: Job, number: str, files: Sequence[Opened]) -> dict[str, str]:
    """Names in the folder. An object keeps the one it had, whatever came to its series since."""
    with job.lock:
        taken = job.crosswalk.names_below(number)
        wanted: dict[str, str] = {}
        at = len(taken)
        for file in files:
            if file.digest in wanted or job.crosswalk.placed(file.digest):
                wanted.setdefault(file.digest, "")
                continue
            at += 1
            wanted[file.digest] = f"{number}/{number}-{at:0{_PLACES}d}.dcm"
        return job.crosswalk.place(wanted)


def _known(job: Job, chunk: Sequence[Instance]) -> tuple[str, ...]:
    """A word of letters alone in a name or folder may be any word (a body part, a sequence), which objects keep by
    rule; it counts where some file or row holds it as a name."""
    known: dict[str, None] = {}
    for one in chunk:
        for word in words_of_name(one.found.relative):
            if any(character.isdigit() for character in word) or job.graph.known_word(word):
                known.setdefault(word)
    named = (key for one in chunk for key in job.crosswalk.known_by(one.survey.identity).entities)
    known.update(dict.fromkeys(job.graph.words(named)))
    return tuple(known)


def _settle(
    job: Job,
    files: Sequence[Opened],
    answers: Sequence[PreparedObject | Refused],
    *,
    number: str,
    names: dict[str, str],
) -> list[Outcome]:
    """What was proved is published as one group; all else is set aside."""
    outcomes: list[Outcome] = []
    passed: list[tuple[Opened, PreparedObject]] = []
    for file, answer in zip(files, answers, strict=True):
        if isinstance(answer, Refused):
            outcomes.append(_refused_by(file.found, answer, size_bytes=file.before.st_size))
            continue
        try:
            check_unchanged(file.fd, file.before)
            passed.append((file, answer))
        except ChangedWhileReading as error:
            outcomes.append(_refused(file.found, error))
    wanted = [
        ToPublish(names[file.digest], file.fd, file.digest, made.plan.recipe, file.before) for file, made in passed
    ]
    for (file, made), digest in zip(passed, job.publisher.publish_many(wanted), strict=True):
        if isinstance(digest, MoverError):
            outcomes.append(_refused(file.found, digest))
        else:
            outcomes.append(_published(job, file, made, number=number, name=names[file.digest], digest=digest))
    return outcomes


def _published(
    job: Job, file: Opened, made: PreparedObject, *, number: str, name: str, digest: str | None
) -> Outcome:
    output = OutputFile(name, digest or "", made.plan.recipe.size_bytes)
    return Outcome(
        position=file.found.position,
        entry=CrosswalkEntry(
            source=written(file.found.relative), output=None if job.dry else name, number=None if job.dry else number,
            status="deidentified", source_blake3=file.digest, output_blake3=digest,
        ),
        kind="dicom",
        source_bytes=file.before.st_size,
        output_bytes=made.plan.recipe.size_bytes,
        family=made.plan.facts.family,
        decisions=made.plan.decisions,
        record=_record(number, made, output),
    )  # fmt: skip


def _record(number: str, made: PreparedObject, output: OutputFile) -> FileRecord:
    plan, evidence = made.plan, made.evidence
    removed, kept = removed_counts(plan.decisions)
    return FileRecord(
        number=number, kind="dicom", format=plan.facts.family, outputs=(output,), removed=removed, kept=kept,
        strings_removed=len(plan.removed), methods=evidence.methods, verifier=evidence.verifier,
        looked={
            "strings": evidence.strings_sought, "forms": evidence.forms_sought, "bytes": evidence.bytes_searched,
            "elements": evidence.elements_checked, "frames": evidence.frames, "masked_boxes": plan.facts.masked_boxes,
        },
        proof={
            "pixels": plan.facts.pixels, "pixel_bytes": evidence.pixel_bytes,
            "pixel_list_blake3": evidence.pixel_list_blake3,
        },
        options=plan.facts.methods,
    )  # fmt: skip


def _refused(found: Found, error: MoverError) -> Outcome:
    return set_aside(found, "quarantined", error.code, error.what, kind="dicom")


def _refused_by(found: Found, answer: Refused, *, size_bytes: int = 0) -> Outcome:
    status = "dropped" if answer.code == InstanceDropped.code else "quarantined"
    return set_aside(found, status, answer.code, answer.what, kind="dicom", size_bytes=size_bytes)  # type: ignore[arg-type]
