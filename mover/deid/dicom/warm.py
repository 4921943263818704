"""Imported by a zygote before it forks: one made-up object is taken through the whole engine, so that tables, code
dictionaries, patterns and what pydicom loads late stand in memory once, for all its children.

A child that starts cold spends a tenth of a second on them, as much as on a hundred objects.
"""

from __future__ import annotations

from typing import Final

from mover.decide.dicom.desk import Out
from mover.deid.dicom.gather import Gatherer, Look, survey_of
from mover.deid.dicom.plan import Engine
from mover.deid.dicom.write import Writer, file_head
from mover.deid.identity import Aliases, Subject
from mover.model.deid import DicomRules, PixelRules
from mover.model.recipe import Literal
from mover.model.source import MemorySource
from scanners.dicom.walk import EXPLICIT, read_object

_CT: Final = "1.2.840.10008.5.1.4.1.1.2"
_UID: Final = "2.25.1"
_NUMBERS: Final = {0x00280002: 1, 0x00280010: 2, 0x00280011: 2, 0x00280100: 8, 0x00280101: 8, 0x00280102: 7}
_CODE: Final = (Out(0x00080100, "SH", b"113100"), Out(0x00080102, "SH", b"DCM "), Out(0x00080104, "LO", b"made up "))
_VALUES: Final = (
    Out(0x00080008, "CS", b"ORIGINAL\\PRIMARY"),
    Out(0x00080016, "UI", _CT.encode() + b"\0"),
    Out(0x00080018, "UI", _UID.encode()),
    Out(0x00080020, "DA", b"20200102"),
    Out(0x00080060, "CS", b"CT"),
    Out(0x00080070, "LO", b"Maker "),
    Out(0x00081032, "SQ", (_CODE,)),
    Out(0x00100010, "PN", b"Nobody^Neverborn"),
    Out(0x00100020, "LO", b"NN00000001"),
    Out(0x00180050, "DS", b"1.5 "),
    Out(0x00181210, "SH", b"STANDARD"),
    Out(0x0020000D, "UI", _UID.encode()),
    Out(0x0020000E, "UI", _UID.encode()),
)


def made_up() -> bytes:
    """The smallest object that meets every kind of rule."""
    writer = Writer(MemorySource(b""), explicit=True, big=False, inflated=False)
    numbers = (Out(tag, "US", number.to_bytes(2, "little")) for tag, number in _NUMBERS.items())
    outs = (*_VALUES, Out(0x00280004, "CS", b"MONOCHROME2 "), *numbers, Out(0x00280301, "CS", b"NO"))
    ordered = (*sorted(outs, key=lambda one: one.tag), Out(0x7FE00010, "OW", bytes(4)))
    segments = (segment for one in ordered for segment in writer.element(one))
    return file_head(_CT, _UID, EXPLICIT) + b"".join(one.data for one in segments if isinstance(one, Literal))


def warm_up() -> None:
    source = MemorySource(made_up())
    identity = survey_of(Look(source, read_object(source)), Gatherer()).identity
    aliases = Aliases(
        number="0" * 17,
        subjects={key: Subject("0" * 17, 1) for key in identity.entities},
        uids={uid: "2.25.2" for uid in identity.uids},
    )
    Engine(aliases=aliases, rules=DicomRules(), pixels=PixelRules(burned_in="trust")).prepare(source)


warm_up()
