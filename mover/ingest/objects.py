"""A folder of DICOM objects as one slide: surveyed, judged to be one scan, then made in chunks.

The survey's identities go to the vault between the two, all at once; so the objects of a folder, and of every folder
that was published before, hang together by the same UIDs and the same patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from blake3 import blake3
from msgspec import Struct

from mover.decide.filenames import telling, words_of_name
from mover.decide.patients import one_patient
from mover.deid.dicom import OBJECTS_PER_CALL, ObjectSurvey, PreparedObject, prepare_objects, survey_objects
from mover.deid.identity import Aliases, Refused
from mover.errors import FormatUnsupported, InstanceDropped, MoverError, PackAmbiguous, by_code
from mover.ingest.facts import object_facts
from mover.ingest.making import Made, Piece, Source, check_family, held
from mover.model.policy import DeidPolicy, ImagesPolicy
from mover.model.slides import Decision
from mover.sandbox import Sandbox
from mover.tiers.port import ReadTier

EXTENSION = "dcm"
WORDS_MAX = 4000  # known words that one object's output is searched for
DECISIONS_MAX = 5000  # different judgements kept of one pack
DROPPED_ROLES = ("label", "overview")


class Surveyed(Struct, frozen=True):
    """One object that will be made, and what the survey said of it."""

    source: Source
    survey: ObjectSurvey


class Survey(Struct, frozen=True):
    """A folder that is one scan. `left` counts objects that stay behind, by the reason's code."""

    family: str
    objects: tuple[Surveyed, ...]
    dropped: int
    left: dict[str, int]

    @property
    def words(self) -> tuple[str, ...]:
        """Everything the objects call their people by, and the names of files and folder: of all, because what one
        object says of a patient must not stand in another."""
        found: dict[str, None] = {}
        for one in self.objects:
            found.update(dict.fromkeys(telling(one.survey.identity.words)))
            found.update(dict.fromkeys(words_of_name("/".join(one.source.key.split("/")[-2:]))))
            if len(found) > WORDS_MAX:
                break
        return tuple(found)[:WORDS_MAX]


def survey_folder(
    sandbox: Sandbox, tier: ReadTier, sources: Sequence[Source], *, policy: ImagesPolicy, where: str
) -> Survey:
    """Who and what stands in the folder (blocking). Raises the refusal of an object that may not be left behind, and
    PackAmbiguous for a folder of two patients or of two whole slides."""
    found: list[Surveyed] = []
    dropped, left = 0, Counter[str]()
    # an object that lies there twice is one: it adds nothing to the scan's digest either
    for chunk in _chunks(list({source.blake3: source for source in sources}.values())):
        with held(tier, chunk, where=where) as files:
            answers = survey_objects(sandbox, [file.fileno() for file in files])
        for source, answer in zip(chunk, answers, strict=True):
            if isinstance(answer, Refused) and answer.code == InstanceDropped.code:
                dropped += 1
            elif isinstance(answer, Refused):
                left[_left(answer, policy)] += 1
            elif answer.role in DROPPED_ROLES:
                dropped += 1
            else:
                found.append(Surveyed(source, answer))
    if not found:
        raise FormatUnsupported("the folder holds nothing that may be published", where=where)
    check_one_scan([one.survey for one in found])
    wsm = all(one.survey.family == "dicom-wsm" for one in found)
    return Survey("dicom-wsm" if wsm else "dicom", tuple(sorted(found, key=_order)), dropped, dict(left))


def check_one_scan(surveys: Iterable[ObjectSurvey]) -> None:
    """One patient, and of whole slides one series: levels of two slides are no pyramid."""
    patients: set[str] = set()
    slides: set[str] = set()
    for survey in surveys:
        patients.update(survey.identity.of("patient")[:1])
        if survey.family == "dicom-wsm":
            slides.add(survey.series)
    if not one_patient(patients):
        raise PackAmbiguous(f"objects of {len(patients)} patients lie in one folder")
    if len(slides) > 1:
        raise PackAmbiguous(f"{len(slides)} series of whole slides lie in one folder")


def _order(one: Surveyed) -> tuple[str, int, str, int, str]:
    """Whole slides begin with their largest level; series follow each other, their instances in their own order."""
    survey = one.survey
    return (survey.study, -survey.matrix_columns * survey.matrix_rows, survey.series, survey.instance_number,
            one.source.blake3)  # fmt: skip


def _left(refused: Refused, policy: ImagesPolicy) -> str:
    """The code of an object that stays behind, or its refusal."""
    if policy.refused_objects == "quarantine":
        raise _error(refused)
    return refused.code


def _error(refused: Refused) -> MoverError:
    return by_code(refused.code)(f"an object of the folder: {refused.what}")


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), OBJECTS_PER_CALL):
        yield items[start : start + OBJECTS_PER_CALL]


class ObjectMaker:
    """The objects of a surveyed folder, in its order. `aliases` hold all that the survey's identities named."""

    def __init__(
        self,
        sandbox: Sandbox,
        tier: ReadTier,
        survey: Survey,
        *,
        aliases: Aliases,
        policy: ImagesPolicy,
        profile: DeidPolicy,
    ) -> None:
        check_family(survey.family, policy=policy, profile=profile)
        self._sandbox, self._tier, self._survey = sandbox, tier, survey
        self._aliases, self._policy, self._profile = aliases, policy, profile
        self._sum = _Sum(survey)

    def pieces(self) -> Iterator[Piece]:
        self._sum = _Sum(self._survey)
        words, number = self._survey.words, self._aliases.number
        for chunk in _chunks(self._survey.objects):
            sources = [one.source for one in chunk]
            with held(self._tier, sources, where=number) as files:
                answers = prepare_objects(
                    self._sandbox, [file.fileno() for file in files], aliases=self._aliases,
                    rules=self._profile.dicom, pixels=self._profile.pixels, known=words,
                )  # fmt: skip
                for source, file, answer in zip(sources, files, answers, strict=True):
                    if isinstance(answer, PreparedObject):
                        place = self._sum.add(answer)
                        name = f"{number}.{EXTENSION}" if place == 1 else f"{number}-{place:04d}.{EXTENSION}"
                        yield Piece(name, file, answer.plan.recipe, source.seen)
                    elif answer.code == InstanceDropped.code:
                        self._sum.dropped += 1
                    else:
                        self._sum.left[_left(answer, self._policy)] += 1
        if not self._sum.objects:
            raise FormatUnsupported("the folder holds nothing that may be published", where=number)

    def made(self) -> Made:
        return self._sum.made(self._survey.family)


class _Sum:
    """What is kept of the objects: sums, judgements that differ, and a line of facts of each; no recipe."""

    def __init__(self, survey: Survey) -> None:
        self.dropped, self.left = survey.dropped, Counter(survey.left)
        self.objects: list[Any] = []
        self._decisions: Counter[Decision] = Counter()
        self._numbers: Counter[str] = Counter()
        self._pixels = blake3()
        self._verifier, self._methods, self._options = "", dict[str, None](), dict[str, None]()
        self._copied_bytes = 0

    def add(self, made: PreparedObject) -> int:
        """The object's place among those that are published, from 1."""
        plan, evidence = made.plan, made.evidence
        self.objects.append(plan.facts)
        for decision in plan.decisions:
            alike = msgspec.structs.replace(decision, times=1)
            if alike in self._decisions or len(self._decisions) < DECISIONS_MAX:
                self._decisions[alike] += decision.times
        for name in ("strings_sought", "forms_sought", "bytes_searched", "elements_checked", "frames", "pixel_bytes"):
            self._numbers[name] += getattr(evidence, name)
        self._numbers["masked_boxes"] += plan.facts.masked_boxes
        self._pixels.update(f"{evidence.pixel_list_blake3}\n".encode())
        self._verifier = evidence.verifier
        self._methods.update(dict.fromkeys(evidence.methods))
        self._options.update(dict.fromkeys(plan.facts.methods))
        self._copied_bytes += plan.recipe.copied_bytes
        return len(self.objects)

    def made(self, family: str) -> Made:
        evidence = {
            "verifier": self._verifier, "methods": list(self._methods), "objects": len(self.objects), **self._numbers,
            "pixel_list_blake3": self._pixels.hexdigest(), "options": sorted(self._options),
            "dropped": self.dropped, "left": dict(sorted(self.left.items())),
        }  # fmt: skip
        decisions = [msgspec.structs.replace(one, times=times) for one, times in self._decisions.items()]
        if self.dropped:
            decisions.append(Decision("object", "drop", "X", "a label or overview picture", "", self.dropped))
        decisions += [
            Decision("object", "drop", "X", f"left behind: {code}", "", times)
            for code, times in sorted(self.left.items())
        ]
        return Made(
            family=family, extension=EXTENSION, facts=object_facts(self.objects, family=family),
            decisions=tuple(decisions), evidence=evidence, verifier=self._verifier, count=len(self.objects),
            copied_bytes=self._copied_bytes,
        )  # fmt: skip
