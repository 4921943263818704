"""What comes back from the parsing child about DICOM objects: values only, no parser is loaded by reading this.

`ObjectSurvey` holds original identifiers and lives in memory; an `ObjectPlan` is safe for the catalog but for its
`removed` and its recipe's literals, as a slide's plan is.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mover.deid.identity import Identity, Refused
from mover.model.recipe import Recipe
from mover.model.slides import Decision

Role = Literal["image", "label", "overview", "other"]
Family = Literal["dicom", "dicom-wsm"]


class ObjectSurvey(Struct, frozen=True):
    """What one look says of an object. `study`, `series` and `instance` are the original UIDs, for grouping (a
    whole-slide pack is one series); `role` is "label" or "overview" where a rule drops the instance and "other"
    for what is no picture. `words` of the identity join the dictionary of all files of the patient."""

    identity: Identity
    family: Family
    role: Role
    study: str
    series: str
    instance: str
    sop_class: str
    class_name: str
    modality: str
    rows: int = 0
    columns: int = 0
    frames: int = 0
    # where the instance stands among its series: (0020,0013), and for whole slides the pyramid's order by size
    instance_number: int = 0
    matrix_columns: int = 0
    matrix_rows: int = 0


class ObjectFacts(Struct, frozen=True):
    """What may stand in the ordinary catalog about an object. UIDs and the patient are the replacements."""

    family: Family
    role: Role
    sop_class: str
    class_name: str
    modality: str
    transfer_syntax: str
    study: str
    series: str
    instance: str
    patient: str
    rows: int
    columns: int
    frames: int
    instance_number: int
    matrix_columns: int
    matrix_rows: int
    # codes of CID 7050 that were applied, and the fixed word of what became of the pixels
    methods: tuple[str, ...]
    pixels: str
    masked_boxes: int = 0
    # of a whole slide: is the instance a level of its pyramid, and at what scale
    level: bool = False
    mpp_x: float | None = None
    mpp_y: float | None = None
    objective: float | None = None


class ObjectPlan(Struct, frozen=True):
    """How an object becomes de-identified; `removed` is the harvest the second pass searches for."""

    recipe: Recipe
    facts: ObjectFacts
    decisions: tuple[Decision, ...]
    removed: tuple[str, ...]
    extension: str = "dcm"


class ObjectEvidence(Struct, frozen=True):
    """What was looked at, in numbers. Holds no value of the source."""

    verifier: str
    methods: tuple[str, ...]
    strings_sought: int
    forms_sought: int
    bytes_searched: int
    elements_checked: int
    frames: int
    pixel_bytes: int
    pixel_list_blake3: str


class PreparedObject(Struct, frozen=True):
    """A plan that has passed the second look, and the evidence of it."""

    plan: ObjectPlan
    evidence: ObjectEvidence


class SurveyAnswer(Struct, frozen=True):
    """One of the two, in the order of the descriptors."""

    survey: ObjectSurvey | None = None
    refused: Refused | None = None


class PreparedAnswer(Struct, frozen=True):
    prepared: PreparedObject | None = None
    refused: Refused | None = None
