"""One run, told in order. Read the package's own words first."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

from mover.clock import SYSTEM, monotonic_s
from mover.decide.dicom.confidentiality import EDITION
from mover.deid.certificate import Scope, build, check_signable, encode, fence_words, sign, this_tool
from mover.deid.crosswalk import FileCrosswalk
from mover.deid.deidentify import PRELOAD, SLIDE_LIMITS
from mover.deid.dicom import OBJECTS_PER_CALL
from mover.deid.durable import write_private
from mover.deid.oneshot import objects, slides, tables
from mover.deid.oneshot.job import Job
from mover.deid.oneshot.outcome import Outcome, set_aside
from mover.deid.oneshot.publish import Publisher, check_places
from mover.deid.oneshot.report import OneShotReport, as_map, make_report
from mover.deid.oneshot.walk import Found, SlideFiles, Sorted, read_head, sort_out, walk
from mover.errors import RequestInvalid
from mover.model.certificate import Inventory
from mover.model.policy import DeidPolicy
from mover.sandbox import Sandbox
from mover.signing import public_fingerprint

WORKERS: Final = 4
MODULES: Final = tuple(dict.fromkeys((*PRELOAD, "mover.deid.dicom.child", "mover.deid.tables_child")))

_T = TypeVar("_T")
_R = TypeVar("_R")


class Signing(Struct, frozen=True):
    """Where a certificate goes and who signs it."""

    path: Path
    key: Ed25519PrivateKey
    role: str = "operator of the one-shot command"


class Options(Struct, frozen=True, kw_only=True):
    """`profile_text_blake3` is the digest of the file that said the profile, "" for the defaults."""

    profile: DeidPolicy = DeidPolicy()
    profile_text_blake3: str = ""
    map_path: Path | None = None
    plan_only: bool = False
    thumbnails: bool = False
    signing: Signing | None = None


def deidentify_folder(
    source_dir: Path,
    out_dir: Path | None,
    crosswalk_path: Path | None,
    *,
    options: Options | None = None,
    map_path: Path | None = None,
    plan_only: bool = False,
    thumbnails: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> OneShotReport:
    """De-identify everything below `source_dir` into `out_dir`; list every file in the crosswalk.

    `progress` is called with (files done, files in all) from worker threads. One file's refusal is an entry of the
    crosswalk; the run's own failure (a full disk, a foreign output folder) is raised. The short arguments are those
    of `options` for callers that need no more. A plan needs neither output folder nor crosswalk: numbers are then made
    up, and what lies in an output folder is not looked at.
    """
    options = options or Options(map_path=map_path, plan_only=plan_only, thumbnails=thumbnails)
    if not options.plan_only and (out_dir is None or crosswalk_path is None):
        raise RequestInvalid("a run needs an output folder and a crosswalk; only a plan goes without")
    if options.signing is not None:
        check_signable(options.profile.determination)  # before a night's work, not after it
    started = monotonic_s()
    private = [crosswalk_path, options.map_path, options.signing.path if options.signing else None]
    check_places(source_dir, out_dir, [path for path in private if path is not None])
    sandbox = Sandbox(MODULES, limits=SLIDE_LIMITS, max_children=_workers())
    with sandbox, FileCrosswalk(crosswalk_path, dry=options.plan_only) as crosswalk:
        publisher = Publisher(out_dir, crosswalk, dry=options.plan_only)
        job = Job(
            sandbox, crosswalk, publisher, options.profile, dry=options.plan_only, thumbnails=options.thumbnails
        )  # fmt: skip
        found = list(walk(source_dir))
        shot = _Shot(job, found, progress)
        outcomes = shot.run()
        superseded = crosswalk.superseded(outcome.entry for outcome in outcomes)
        left_over = tuple(name for name in superseded if publisher.exists(name))
        certificate = b"" if options.plan_only else _write_down(job, options, outcomes, left_over)
    return make_report(
        outcomes, seconds=monotonic_s() - started, dry=options.plan_only, ambiguous=len(job.ambiguous),
        certificate=_fingerprint(options.signing) if certificate else "", left_over=left_over,
    )  # fmt: skip


def _workers() -> int:
    return min(WORKERS, os.cpu_count() or 1)


class _Shot:
    def __init__(self, job: Job, found: Sequence[Found], progress: Callable[[int, int], None] | None) -> None:
        self._job = job
        self._found = found
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()

    def run(self) -> list[Outcome]:
        """Outcomes in the order of the listing, one for each file found."""
        sorted_ = sort_out(self._found, read_head)
        outcomes = [set_aside(one.found, one.status, one.reason, one.detail) for one in sorted_.aside]
        self._count(outcomes)
        seen_objects, seen_tables, refused = self._look(sorted_)
        self._count(refused)
        outcomes += refused
        outcomes += self._make_slides(sorted_.slides)
        outcomes += self._make_objects(seen_objects)
        outcomes += self._make_tables(seen_tables)
        return sorted(outcomes, key=lambda outcome: outcome.position)

    # -- pass 1

    def _look(self, sorted_: Sorted) -> tuple[list[objects.Instance], list[tables.Table], list[Outcome]]:
        job = self._job
        refused: list[Outcome] = []
        seen_tables: list[tables.Table] = []
        for answer in _all(lambda one: tables.survey(job, one), sorted_.tables):
            if isinstance(answer, Outcome):
                refused.append(answer)
            else:
                seen_tables.append(answer)
        starts = range(0, len(sorted_.objects), OBJECTS_PER_CALL)
        chunks = [sorted_.objects[at : at + OBJECTS_PER_CALL] for at in starts]
        seen_objects: list[objects.Instance] = []
        for instances, outcomes in _all(lambda chunk: objects.survey_chunk(job, chunk), chunks):
            seen_objects += instances
            refused += outcomes
        for slide in sorted_.slides:
            slides.survey_slide(job, slide)
        job.graph.settle()
        job.crosswalk.avoid(job.graph.digits())
        job.ambiguous = _ambiguous(job, sorted_.slides)
        return seen_objects, seen_tables, refused

    # -- pass 2

    def _make_slides(self, wanted: Sequence[SlideFiles]) -> list[Outcome]:
        return self._each(lambda slide: slides.handle_slide(self._job, slide), wanted)

    def _make_objects(self, instances: Iterable[objects.Instance]) -> list[Outcome]:
        series = objects.group(instances)
        numbers = objects.numbers_of(self._job, series)
        return self._each(lambda one: objects.handle_series(self._job, one, numbers[one.key]), series)

    def _make_tables(self, wanted: Sequence[tables.Table]) -> list[Outcome]:
        this_year = SYSTEM.now().year
        return self._each(lambda one: [tables.handle_table(self._job, one, this_year=this_year)], wanted)

    def _each(self, handle: Callable[[_T], list[Outcome]], wanted: Sequence[_T]) -> list[Outcome]:
        def counted(one: _T) -> list[Outcome]:
            outcomes = handle(one)
            self._count(outcomes)
            return outcomes

        return [outcome for outcomes in _all(counted, wanted) for outcome in outcomes]

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        with self._lock:
            self._done += len(outcomes)
            if self._progress is not None:
                self._progress(self._done, len(self._found))


def _all(handle: Callable[[_T], _R], wanted: Sequence[_T]) -> list[_R]:
    """In the order of the work. The first failure of the run itself stops what has not begun."""
    with ThreadPoolExecutor(_workers()) as pool:
        futures = [pool.submit(handle, one) for one in wanted]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()


def _ambiguous(job: Job, wanted: Iterable[SlideFiles]) -> frozenset[str]:
    """Names that more than one slide file has: a table's row that uses one is tied to neither (no guess)."""
    counts: dict[str, int] = {}
    for slide in wanted:
        key = slides.slide_key(slide.main, job.profile.extensions)
        counts[key] = counts.get(key, 0) + 1
    return frozenset(key for key, count in counts.items() if count > 1)


# --- the end -------------------------------------------------------------------------------------------


def _write_down(job: Job, options: Options, outcomes: list[Outcome], left_over: Sequence[str]) -> bytes:
    """Certificate and map before the crosswalk, whose new form says that the run is over."""
    signed = b""
    if options.signing is not None:
        signed = _certificate(job, options, options.signing, outcomes)
        write_private(options.signing.path, signed)
    if options.map_path is not None:
        write_private(options.map_path, as_map(outcomes))
    certificate = blake3(signed).hexdigest() if signed else ""
    job.crosswalk.save((outcome.entry for outcome in outcomes), certificate=certificate, left_over=left_over)
    return signed


def _certificate(job: Job, options: Options, signing: Signing, outcomes: list[Outcome]) -> bytes:
    fences = fence_words(job.sandbox.protection)
    scope = Scope(
        made_at=SYSTEM.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        role=signing.role,
        profile=options.profile,
        profile_text_blake3=options.profile_text_blake3,
        dicom_table=EDITION,
        fences=fences,
        inventory=_inventory(outcomes),
        files=tuple(outcome.record for outcome in outcomes if outcome.record is not None),
        anonymity=tuple(outcome.anonymity for outcome in outcomes if outcome.anonymity is not None),
        source_digests=tuple(o.entry.source_blake3 for o in outcomes if o.entry.source_blake3),
        previous=job.crosswalk.certificate,
        crosswalk="a private file outside the output folder, kept by whoever ran the command",
    )
    return encode(sign(build(scope, this_tool(fences)), signing.key))


def _inventory(outcomes: Sequence[Outcome]) -> Inventory:
    report = make_report(outcomes, seconds=0.0, dry=False, ambiguous=0, certificate="")
    return Inventory(
        files=report.files, published=report.deidentified, quarantined=report.reasons, dropped=report.dropped_reasons,
        by_kind=report.by_kind, source_bytes=report.source_bytes, output_bytes=report.output_bytes,
    )  # fmt: skip


def _fingerprint(signing: Signing | None) -> str:
    return public_fingerprint(signing.key) if signing else ""
