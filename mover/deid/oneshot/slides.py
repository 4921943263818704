"""Slides: planned and proved in the sandbox, numbered, written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from blake3 import blake3
from msgspec import Struct

from mover.decide.filenames import words_of_name
from mover.decide.matching import canonical_image
from mover.deid.certificate import removed_counts
from mover.deid.crosswalk import CrosswalkEntry
from mover.deid.deidentify import prepare_slide
from mover.deid.durable import check_unchanged, digest_of
from mover.deid.identity import Identity, entity_key
from mover.deid.oneshot.job import Job
from mover.deid.oneshot.outcome import Outcome, set_aside
from mover.deid.oneshot.walk import Found, SlideFiles, written
from mover.deid.outcome import Prepared
from mover.errors import IdentityError, IntegrityError, MoverError, TierDenied, tier_error
from mover.model.certificate import FileRecord, OutputFile

THUMBNAIL_PX = 1024


class Opened(Struct, frozen=True):
    """A source file held open from its digest to its publishing."""

    found: Found
    fd: int
    before: os.stat_result
    digest: str


def slide_key(found: Found, extensions: tuple[str, ...]) -> str:
    return entity_key("slide", canonical_image(written(found.name), extensions))


def survey_slide(job: Job, slide: SlideFiles) -> None:
    """A slide's name ties it to the case or patient it spells out, where a table or header knows these."""
    key = slide_key(slide.main, job.profile.extensions)
    job.graph.add(Identity(entities=(key,)), extra=job.graph.keys_in(words_of_name(slide.main.relative)))


def handle_slide(job: Job, slide: SlideFiles) -> list[Outcome]:
    """One slide's whole way: an outcome for each of its files. Its refusal is a value; only the run's own failure is
    raised."""
    try:
        with (
            opened([slide.main, *(part for _, part in slide.companions)]) as files,
            job.publisher.lock_of(files[0].digest),
        ):
            return _handle_open(job, slide, files)
    except (IdentityError, IntegrityError, CannotOpen) as error:
        return refused(slide, error)


class CannotOpen(TierDenied):
    """One source file that cannot be opened is that file's fault, not the run's."""

    code = TierDenied.code


def refused(slide: SlideFiles, error: MoverError) -> list[Outcome]:
    parts = [part for _, part in slide.companions]
    main = set_aside(slide.main, "quarantined", error.code, error.what, kind="slide", size_bytes=_size(slide.main))
    rest = [
        set_aside(part, "quarantined", error.code, "part of a slide that is refused", kind="slide")
        for part in parts
    ]  # fmt: skip
    return [main, *rest]


def _handle_open(job: Job, slide: SlideFiles, files: list[Opened]) -> list[Outcome]:
    digest = _digest_of_all(files)
    # a format with an id of its own inside needs the number before its plan; all others only once they are proved
    number = _number(job, slide, digest) if slide.companions else ""
    prepared = prepare_slide(
        job.sandbox,
        files[0].fd,
        suffix=slide.main.path.suffix,
        known=_known(job, slide),
        thumbnail_px=THUMBNAIL_PX if job.thumbnails else 0,
        companions=tuple((name, one.fd) for (name, _), one in zip(slide.companions, files[1:], strict=True)),
        number=number,
        drop_keys=job.profile.slides.drop_keys,
    )
    for one in files:
        check_unchanged(one.fd, one.before)
    job.check_family(prepared.plan.family)
    number = number or _number(job, slide, digest)
    made = _publish(job, number, prepared, files)
    record = _record(number, prepared, (*made, *_publish_thumbnail(job, number, prepared)))
    return _outcomes(job, slide, files, record, prepared, made)


def _number(job: Job, slide: SlideFiles, digest: str) -> str:
    """The scan's number. A slide whose name is its own stands in tables under it; of two slides of one name nobody
    knows which a table means."""
    key = slide_key(slide.main, job.profile.extensions)
    if key in job.ambiguous:
        return job.crosswalk.numbers([digest])[digest]
    return job.crosswalk.tie(digest, key)


def _known(job: Job, slide: SlideFiles) -> tuple[str, ...]:
    words = dict.fromkeys(words_of_name(slide.main.relative))
    for _, part in slide.companions:
        words.update(dict.fromkeys(words_of_name(part.relative)))
    words.update(dict.fromkeys(job.graph.words([slide_key(slide.main, job.profile.extensions)])))
    return tuple(words)


def _publish(job: Job, number: str, prepared: Prepared, files: list[Opened]) -> list[OutputFile]:
    """Parts first: the main file is what a reader opens, and it gets its name when all it needs is there."""
    made: list[OutputFile] = []
    fresh: list[str] = []
    try:
        for file in (*prepared.plan.parts, next(prepared.plan.files())):
            name = f"{number}/{file.path(number)}"
            new = not job.publisher.exists(name)
            one = files[file.source]
            digest = job.publisher.publish(name, one.fd, file.recipe, one.before)
            fresh += [name] if new else []
            made.insert(0, OutputFile(name, digest or "", file.recipe.size_bytes))
    except MoverError:
        job.publisher.withdraw(fresh)
        raise
    return [made[0], *reversed(made[1:])]


def _publish_thumbnail(job: Job, number: str, prepared: Prepared) -> tuple[OutputFile, ...]:
    if not prepared.thumbnail:
        return ()
    name = f"{number}/{number}.jpg"
    digest, size_bytes = job.publisher.publish_bytes(name, prepared.thumbnail)
    return (OutputFile(name, digest, size_bytes),)


def _outcomes(
    job: Job, slide: SlideFiles, files: list[Opened], record: FileRecord, prepared: Prepared, made: list[OutputFile]
) -> list[Outcome]:
    plan, number = prepared.plan, record.number
    output_of = {0: made[0]} | {part.source: out for part, out in zip(plan.parts, made[1:], strict=True)}
    main = Outcome(
        position=slide.main.position,
        entry=_entry(job, files[0], number, output_of[0]),
        kind="slide",
        source_bytes=files[0].before.st_size,
        output_bytes=int(output_of[0].size_bytes),
        family=plan.family,
        decisions=plan.decisions,
        record=record,
    )
    return [main, *(_part(job, one, number, output_of.get(index)) for index, one in enumerate(files[1:], 1))]


def _part(job: Job, one: Opened, number: str, output: OutputFile | None) -> Outcome:
    if output is None:
        return set_aside(
            one.found, "dropped", "not-part", "lies in a slide's folder, but the slide does not need it",
            kind="slide", size_bytes=one.before.st_size,
        )  # fmt: skip
    return Outcome(
        position=one.found.position, entry=_entry(job, one, number, output), kind="slide", main=False,
        source_bytes=one.before.st_size, output_bytes=int(output.size_bytes),
    )  # fmt: skip


def _entry(job: Job, one: Opened, number: str, output: OutputFile) -> CrosswalkEntry:
    return CrosswalkEntry(
        source=written(one.found.relative),
        output=None if job.dry else output.name,
        number=None if job.dry else number,
        status="deidentified",
        source_blake3=one.digest,
        output_blake3=output.blake3 or None,
    )


def _record(number: str, prepared: Prepared, made: tuple[OutputFile, ...]) -> FileRecord:
    plan, evidence = prepared.plan, prepared.evidence
    removed, kept = removed_counts(plan.decisions)
    return FileRecord(
        number=number, kind="slide", format=plan.family, outputs=made, removed=removed, kept=kept,
        strings_removed=len(plan.removed), methods=evidence.methods, verifier=evidence.verifier,
        looked={
            "strings": evidence.strings_sought, "forms": evidence.forms_sought, "bytes": evidence.bytes_searched,
            "tags": evidence.tags_checked, "levels": evidence.levels, "tiles_decoded": evidence.tiles_decoded,
        },
        proof={"tiles": evidence.tiles, "tile_list_blake3": evidence.tile_list_blake3},
    )  # fmt: skip


# --- open sources --------------------------------------------------------------------------------------


@contextmanager
def opened(found: list[Found], *, digests: bool = True) -> Iterator[list[Opened]]:
    """All of them open, each with its digest. A link put in a file's place meanwhile is not followed."""
    with ExitStack() as stack:
        files = []
        for one in found:
            try:
                fd = os.open(one.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError as error:
                raise CannotOpen(f"cannot be opened ({tier_error(error).code})") from error
            stack.callback(os.close, fd)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise CannotOpen("no ordinary file any more")
            files.append(Opened(one, fd, os.fstat(fd), digest_of(fd) if digests else ""))
        yield files


def _digest_of_all(files: list[Opened]) -> str:
    """A slide of several files is the scan that all its files are: main files of two may be the same picture."""
    if len(files) == 1:
        return files[0].digest
    whole = blake3()
    for one in sorted(one.digest for one in files[1:]):
        whole.update(bytes.fromhex(one))
    whole.update(bytes.fromhex(files[0].digest))
    return whole.hexdigest()


def _size(found: Found) -> int:
    try:
        return found.path.lstat().st_size
    except OSError:
        return 0
