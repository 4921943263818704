"""Survey, mint and prepare one object in this process: what the sandbox's child and the crosswalk do together."""

from __future__ import annotations

import io

import pydicom
from pydicom.dataset import Dataset

from mover.deid.dicom.gather import Gatherer, Look, survey_of
from mover.deid.dicom.outcome import ObjectSurvey, PreparedObject
from mover.deid.dicom.plan import Engine
from mover.deid.identity import Aliases, Subject
from mover.model.deid import DicomRules, PixelRules
from mover.model.recipe import Copy
from mover.model.source import MemorySource
from scanners.dicom.walk import read_object

PSEUDONYM, NUMBER, OFFSET_DAYS = "7KQ2M4X9RTBW5ZVHC", "N4T8PQ2XK7MWRZ5VB", 137
TRUSTING = PixelRules(burned_in="trust")


def survey(data: bytes) -> ObjectSurvey:
    source = MemorySource(data)
    return survey_of(Look(source, read_object(source)), Gatherer())


def aliases_of(*surveys: ObjectSurvey) -> Aliases:
    """Aliases as a crosswalk would mint them, but the same in every run."""
    uids = dict.fromkeys(uid for one in surveys for uid in one.identity.uids)
    entities = dict.fromkeys(key for one in surveys for key in one.identity.entities)
    patients = [key for key in entities if key.startswith("patient|")]
    others = [key for key in entities if not key.startswith("patient|")]
    return Aliases(
        NUMBER,
        {key: Subject(PSEUDONYM, OFFSET_DAYS) for key in patients},
        {key: f"E{place:016X}" for place, key in enumerate(others)},
        {uid: f"2.25.{10**37 + place}" for place, uid in enumerate(uids)},
    )


def prepare(
    data: bytes, *, rules: DicomRules | None = None, pixels: PixelRules = TRUSTING, known: tuple[str, ...] = ()
) -> tuple[PreparedObject, bytes]:
    """One object prepared and written."""
    engine = Engine(aliases=aliases_of(survey(data)), rules=rules or DicomRules(), pixels=pixels, known=known)
    made = engine.prepare(MemorySource(data))
    return made, written(made, data)


def written(made: PreparedObject, data: bytes) -> bytes:
    return b"".join(
        data[one.offset : one.offset + one.length] if isinstance(one, Copy) else one.data
        for one in made.plan.recipe.segments
    )


def read(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data))
