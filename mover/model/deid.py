"""De-identification profiles: what people may narrow or, with a named approval, widen.

A profile is a policy of kind `deid`. Without one the defaults below hold, which are the narrowest: PS3.15's Basic
Application Level Confidentiality Profile with modified dates, cleaned structured content and cleaned pixel data.
An invalid profile stops the work; nothing ever falls back to a default.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

# What is claimed in law. "none" is what holds until somebody claims more; a certificate repeats it.
Basis = Literal["none", "safe-harbor", "expert-determination"]


class SafePrivate(Struct, frozen=True, forbid_unknown_fields=True):
    """Private elements that may stay, by their creator: `elements` are (group, low byte) as "0019,xx0c"."""

    creator: str
    elements: tuple[str, ...]


class DicomRules(Struct, frozen=True, forbid_unknown_fields=True):
    """The options of PS3.15 Annex E. What a wider option keeps is named by an approval (`Approval.option`)."""

    dates: Literal["shift", "remove"] = "shift"  # shift: option 113107, one offset per patient
    retain_uids: bool = False  # 113110
    retain_device: bool = False  # 113109
    retain_institution: bool = False  # 113112
    retain_patient_characteristics: bool = False  # 113108
    descriptors: Literal["remove", "clean"] = "remove"  # 113105
    structured_content: Literal["remove", "clean"] = "clean"  # 113104
    graphics: Literal["remove", "clean"] = "remove"  # 113103
    safe_private: tuple[SafePrivate, ...] = ()  # 113111
    # SOP classes (UID) refused besides those the allow-list does not know
    refuse_classes: tuple[str, ...] = ()


class PixelRules(Struct, frozen=True, forbid_unknown_fields=True):
    """Text burned into pictures. `ocr` reads, masks and reads again; `refuse` sends every class that may carry text
    to quarantine; `trust` believes a BurnedInAnnotation of NO (and needs an approval). Of long `films` every frame is
    searched for edges and a sample is read; `every` reads every frame, `refuse` sends them to quarantine."""

    burned_in: Literal["ocr", "refuse", "trust"] = "ocr"
    ultrasound: Literal["regions", "ocr", "refuse"] = "regions"
    films: Literal["sample", "every", "refuse"] = "sample"
    mask_margin_px: Annotated[int, Meta(ge=0, le=64)] = 3


class SlideRules(Struct, frozen=True, forbid_unknown_fields=True):
    """A project may narrow what families and which of the listed keys pass; nothing can be added here."""

    accept: tuple[str, ...] = ()  # families; empty: all that have a writer
    drop_keys: tuple[str, ...] = ()  # listed vendor keys that this project does not want


class Approval(Struct, frozen=True, forbid_unknown_fields=True):
    """Who allowed an option that keeps more than the default, when, and why. The certificate repeats it."""

    option: str
    by: str
    on: str
    reason: str
