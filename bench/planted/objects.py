"""Identifiers planted into DICOM objects of any kind: in attributes, nested, private, in pixels, around the dataset.

`plant(base, ...)` takes anybody's object, keeps its pixels and its transfer syntax, and writes identifiers where the
standard has a place for them and where programs have been seen to leave them. A base that pydicom cannot read or write
is not planted.
"""

from __future__ import annotations

import datetime
import io
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pydicom
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.sequence import Sequence as Items
from pydicom.uid import ImplicitVRLittleEndian

from bench.planted.people import Person

# as many as there are roots that someone else owns: nobody's rule may know this one
ROOTS = ("1.2.826.0.1.3680043.10", "1.3.12.2.1107.5.2", "1.2.840.113619.2.55", "2.16.840.1.113995.3")


@dataclass
class Planted:
    data: bytes
    atoms: dict[str, str] = field(default_factory=dict)
    places: list[tuple[str, str, str]] = field(default_factory=list)  # (category, value, where)
    burned: Any = None  # the drawn words as a picture, and their box
    box: tuple[int, int, int, int] | None = None
    icon: str = ""
    dates: dict[str, str] = field(default_factory=dict)
    study: str = ""


class Planter:
    """One object on its way from base to planted; every `put` is also a line of the truth."""

    def __init__(self, data: Dataset, who: Person, rng: random.Random, number: int) -> None:
        self.data, self.who, self.rng, self.number = data, who, rng, number
        self.out = Planted(b"")
        digits = "".join(one for one in who.mrn if one.isdigit()).lstrip("0")
        self.root = f"{ROOTS[int(digits[-1]) % len(ROOTS)]}.{digits}"
        self.day = who.visit + datetime.timedelta(days=37 * (number % 9))

    def atom(self, value: str, kind: str, category: str, where: str) -> str:
        self.out.atoms.setdefault(value, kind)
        self.out.places.append((category, value, where))
        return value

    def put(
        self, keyword: str, value: str, *atoms: str, kind: str = "id", category: str = "D1", at: Dataset | None = None
    ) -> None:
        try:
            setattr(self.data if at is None else at, keyword, value)
        except ValueError:
            return
        for one in atoms or (value,):
            self.atom(one, kind, category, keyword)

    def uid(self, *parts: int) -> str:
        return self.atom(".".join([self.root, *map(str, parts)]), "uid", "D6", "UID")

    def some(self, share: float = 0.6) -> bool:
        return self.rng.random() < share


def plant(
    base: bytes,
    who: Person,
    rng: random.Random,
    number: int,
    *,
    burn: bool = False,
    charset: str = "",
    more: Sequence[Callable[[Planter], None]] = (),
) -> Planted:
    """`ValueError` and friends of pydicom come through: then this base cannot carry anything. `more` are places of the
    caller's."""
    data = pydicom.dcmread(io.BytesIO(base), force=True)
    if not hasattr(data, "file_meta") or data.file_meta is None:
        data.file_meta = FileMetaDataset()
    planter = Planter(data, who, rng, number)
    _uids(planter)
    _person(planter, charset)
    for places in (_staff, _words, _nested, _private, _odd, *more):
        places(planter)
    drawings: tuple[Callable[[Planter], None], ...] = (_overlay, _icon, _curve)
    if "PixelData" in data:
        for draw in drawings:
            if planter.some(0.4):
                draw(planter)
        _in_frames(planter)
        if burn:
            _burn(planter)
    planter.out.data = _written(planter)
    return planter.out


def _uids(to: Planter) -> None:
    data, study = to.data, abs(hash_of(to.who.mrn)) % 9999
    to.out.study = data.StudyInstanceUID = to.uid(5, study)
    data.SeriesInstanceUID = to.uid(5, study, to.number)
    data.SOPInstanceUID = to.uid(5, study, to.number, 1)
    if "FrameOfReferenceUID" in data:
        data.FrameOfReferenceUID = to.uid(6, study)
    if to.some(0.3):
        data.IrradiationEventUID = to.uid(8, study, to.number)
    if to.some(0.3):
        data.StorageMediaFileSetUID = to.uid(9, study)


def hash_of(text: str) -> int:
    """The same on every machine, unlike `hash`."""
    return sum(ord(one) * 31**place for place, one in enumerate(text)) % 2**31


def _charset(to: Planter, charset: str) -> str:
    """The person's name as the character set writes it: what it cannot write is not planted."""
    given = charset or to.rng.choice(["ISO_IR 192", "ISO_IR 192", "GB18030"])
    to.data.SpecificCharacterSet = given.split("\\") if "\\" in given else given
    return given


def _person(to: Planter, charset: str) -> None:
    who, data = to.who, to.data
    given = _charset(to, charset)
    name = f"{who.family}^{who.given}"
    if who.eastern and ("192" in given or charset):
        name += f"={who.eastern}"
        for part in who.eastern.replace("=", "^").split("^"):
            to.atom(part, "person", "D1", "PatientName ideographic")
    to.put("PatientName", name, who.family, who.given, kind="person")
    to.put("PatientID", who.mrn)
    to.put("PatientBirthDate", f"{who.birth:%Y%m%d}", kind="date", category="D7")
    to.put("AccessionNumber", who.accession[:16])
    to.put("StudyID", who.accession[:16])
    optional = {
        "OtherPatientNames": (f"{who.family.upper()}^X", who.family, "person"),
        "PatientBirthName": (f"{who.family}^{who.given}", who.family, "person"),
        "PatientMotherBirthName": (f"{who.family}^Mutter", who.family, "person"),
        "OtherPatientIDs": (who.insurance, who.insurance, "id"),
        "PatientInsurancePlanCodeSequence": ("", "", ""),
        "MedicalRecordLocator": (who.mrn, who.mrn, "id"),
        "AdmissionID": (who.mrn, who.mrn, "id"),
        "PatientAddress": (f"{who.street}, {who.town}", who.street, "contact"),
        "PatientTelephoneNumbers": (who.phone, who.phone, "contact"),
        "CountryOfResidence": (who.town, who.town, "contact"),
        "Occupation": (f"Baker in {who.town}", who.town, "contact"),
        "PatientComments": (f"SSN {who.insurance}, call {who.phone}", who.phone, "contact"),
        "AdditionalPatientHistory": (f"{who.full} lives in {who.town}", who.family, "person"),
        "ResponsiblePerson": (f"{who.family}^Anna", who.family, "person"),
        "PlacerOrderNumberImagingServiceRequest": (who.accession, who.accession, "id"),
        "FillerOrderNumberImagingServiceRequest": (who.accession, who.accession, "id"),
        "IssuerOfPatientID": (who.hospital, who.hospital, "org"),
        "PatientReligiousPreference": (who.town, who.town, "contact"),
    }
    for keyword, (value, atom, kind) in optional.items():
        if value and to.some():
            to.put(keyword, value, atom, kind=kind)
    stamp = f"{to.day:%Y%m%d}"
    for keyword in ("StudyDate", "ContentDate", "SeriesDate", "AcquisitionDate"):
        if keyword in ("StudyDate", "ContentDate") or to.some():
            to.put(keyword, stamp, kind="date", category="D7")
    to.put("StudyTime", f"{to.day:%H%M%S}", kind="date", category="D7")
    if to.some():
        to.put("AcquisitionDateTime", f"{to.day:%Y%m%d%H%M%S}", kind="date", category="D7")
    to.out.dates = {one: str(data[one].value) for one in ("StudyDate", "ContentDate", "PatientBirthDate")}


def _staff(to: Planter) -> None:
    who = to.who
    values = {
        "ReferringPhysicianName": (who.doctor, who.doctor, "staff"),
        "PerformingPhysicianName": (who.doctor, who.doctor, "staff"),
        "NameOfPhysiciansReadingStudy": (who.doctor, who.doctor, "staff"),
        "PhysiciansOfRecord": (who.doctor, who.doctor, "staff"),
        "RequestingPhysician": (who.doctor, who.doctor, "staff"),
        "OperatorsName": (who.login, who.login, "staff"),
        "InstitutionName": (who.hospital, who.hospital, "org"),
        "InstitutionAddress": (f"{who.street} {who.town}", who.street, "contact"),
        "InstitutionalDepartmentName": (f"Pathology {who.hospital}", who.hospital, "org"),
        "StationName": (who.station, who.station, "device"),
        "PerformedStationName": (who.station, who.station, "device"),
        "DeviceSerialNumber": (who.serial, who.serial, "device"),
        "PlateID": (who.serial, who.serial, "device"),
        "DetectorID": (who.serial, who.serial, "device"),
        "GantryID": (who.serial, who.serial, "device"),
        "SoftwareVersions": (f"7.1 {who.station}", who.station, "device"),
        "ContentCreatorName": (who.doctor, who.doctor, "staff"),
        "RetrieveAETitle": (who.station, who.station, "device"),
        "StorageMediaFileSetID": (who.accession[:16], who.accession[:16], "id"),
    }
    for keyword, (value, atom, kind) in values.items():
        if to.some(0.7):
            to.put(keyword, value, atom, kind=kind, category="D9")


def _words(to: Planter) -> None:
    who = to.who
    texts = {
        "StudyDescription": f"Biopsy {who.family.upper()}",
        "SeriesDescription": f"axial {who.full}",
        "ProtocolName": f"{who.family} protocol",
        "ImageComments": f"call {who.full} at {who.phone}",
        "FrameComments": f"{who.full}",
        "AcquisitionComments": f"{who.family}",
        "DerivationDescription": f"cropped for {who.doctor}",
        "RequestedProcedureDescription": f"of {who.full}",
        "PerformedProcedureStepDescription": f"for {who.full}",
        "ReasonForStudy": f"{who.full} fell in {who.street}",
        "ContrastBolusAgent": f"given by {who.login}",
        "AcquisitionProtocolDescription": f"{who.family} 3 mm",
        "AdmittingDiagnosesDescription": f"{who.full}",
        "StudyComments": f"{who.mrn} {who.full}",
        "IdentifyingComments": f"{who.full}",
        "TextComments": f"{who.full}",
        "RequestedContrastAgent": f"{who.family}",
        "SeriesNumber_": "",
        "ContentDescription": f"mask of {who.full}",
        "ContentLabel": "MASK",
        "UserContentLabel": who.family[:16],
        "ImagePresentationComments": f"{who.full}",
        "AcquisitionDeviceProcessingDescription": who.family,
        "PatientState": f"{who.full} calm",
        "MedicalAlerts": f"{who.full}",
        "Allergies": f"{who.full} none",
        "SpecialNeeds": f"{who.full}",
        "CurrentPatientLocation": who.street,
        "PatientInstitutionResidence": who.town,
        "VisitComments": who.full,
        "InterpretationText": f"{who.full} is well",
        "DistributionName": f"{who.family}^{who.given}",
        "RTPlanLabel": who.family[:16],
        "RTPlanName": who.full,
        "StructureSetLabel": who.family[:16],
        "DoseComment": who.full,
    }
    for keyword, value in texts.items():
        if value and not keyword.endswith("_") and to.some():
            found = [
                one
                for one in (who.family, who.family.upper(), who.given, who.phone, who.doctor, who.street, who.mrn)
                if one in value
            ]
            to.put(keyword, value, *found, kind="person", category="D3")


def _nested(to: Planter) -> None:
    who, data = to.who, to.data
    asked = Dataset()
    to.put(
        "ScheduledProcedureStepDescription", f"CT for {who.full}", who.family, kind="person", category="D2", at=asked
    )
    to.put("ScheduledProcedureStepID", f"RP{who.mrn}"[:16], category="D2", at=asked)
    to.put("RequestedProcedureID", who.accession[:16], category="D2", at=asked)
    data.RequestAttributesSequence = Items([asked])
    other = Dataset()
    to.put("PatientID", who.insurance, category="D2", at=other)
    inner = Dataset()
    to.put("UniversalEntityID", who.hospital, kind="org", category="D2", at=inner)
    other.IssuerOfPatientIDQualifiersSequence = Items([inner])
    data.OtherPatientIDsSequence = Items([other])
    if to.some():
        seen = Dataset()
        seen.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        seen.ReferencedSOPInstanceUID = to.uid(7, to.number)
        meant = Dataset()
        meant.CodeValue, meant.CodingSchemeDesignator = "121322", "DCM"
        to.put("CodeMeaning", f"{who.family} source", who.family, kind="person", category="D2", at=meant)
        seen.PurposeOfReferenceCodeSequence = Items([meant])
        data.SourceImageSequence = Items([seen])
    if to.some():
        before = Dataset()
        old = Dataset()
        to.put("PatientName", f"{who.family}^{who.given}", who.family, kind="person", category="D2", at=old)
        to.put("PatientID", who.mrn, category="D2", at=old)
        before.ModifiedAttributesSequence = Items([old])
        to.put("ModifyingSystem", who.station, kind="device", category="D9", at=before)
        before.AttributeModificationDateTime = f"{to.day:%Y%m%d}"
        before.ReasonForTheAttributeModification, before.SourceOfPreviousValues = "CORRECT", who.hospital
        data.OriginalAttributesSequence = Items([before])
    if to.some():
        deed = Dataset()
        to.put("HumanPerformerName", who.doctor, kind="staff", category="D2", at=deed)
        to.put("HumanPerformerOrganization", who.hospital, kind="org", category="D2", at=deed)
        data.ActualHumanPerformersSequence = Items([deed])


def _private(to: Planter) -> None:
    who, data = to.who, to.data
    block = data.private_block(0x0011, "KRAEHWINKEL PATHO 3.1", create=True)
    block.add_new(0x01, "LO", to.atom(who.full, "person", "D4", "private LO")[:64])
    block.add_new(0x02, "OB", who.full.encode("utf-16-le") + b"\0" * (len(who.full) % 2))
    block.add_new(0x03, "DS", "".join(one for one in who.mrn if one.isdigit())[:16])
    block.add_new(0x04, "UN", f"{who.mrn} {who.family}".encode() + b" ")
    inside = Dataset()
    inside.PatientName = f"{who.family}^{who.given}"
    inner = inside.private_block(0x0013, who.family[:20], create=True)  # a creator that is a name
    inner.add_new(0x01, "UT", f"{who.full}; {who.street}")
    block.add_new(0x05, "SQ", Items([inside]))
    if to.some():
        named = data.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        named.add_new(0x10, "OB", b"SV10\x04\x03\x02\x01" + who.full.encode() + bytes(40))
        named.add_new(0x18, "LO", who.mrn)


def _odd(to: Planter) -> None:
    """Places outside of what people think of: groups that are no more, numbers that hold text, arrays of bytes."""
    who, data = to.who, to.data
    if to.some(0.3):
        data.add_new(0x40000010, "LT", to.atom(who.full, "person", "D3", "retired Arbitrary"))
    if to.some(0.3):
        data.add_new(0x00204000 + 2, "UN", b"odd " + who.family.encode() + b" ")
    if to.some(0.3):
        data.add_new(0x00100033, "DA", f"{who.birth:%Y%m%d}")
    if to.some(0.3):
        data.add_new(0x00189004, "CS", who.family.upper()[:16].replace("'", " ") if who.family.isascii() else "PRODUCT")
    if to.some(0.3):
        data.InstanceCreatorUID = to.uid(4, to.number)
    if to.some(0.3):
        data.LossyImageCompressionMethod = ["ISO_10918_1", who.family[:16]] if who.family.isascii() else "ISO_10918_1"
    if to.some(0.3):
        data.MACParametersSequence = Items([_signed(to)])


def _signed(to: Planter) -> Dataset:
    one = Dataset()
    one.MACIDNumber, one.MACAlgorithm = 7, "SHA1"
    one.DataElementsSigned = [0x00100010]
    one.MACCalculationTransferSyntaxUID = to.uid(3, 1)
    return one


# --- pictures ------------------------------------------------------------------------------------------


def drawn(words: str, size: tuple[int, int], height: int = 14) -> np.ndarray:
    picture = Image.new("L", size, 0)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(height)
    for line, text in enumerate(words.split("\n")):
        draw.text((1, 1 + line * (height + 4)), text, fill=255, font=font)
    return np.asarray(picture)


def _overlay(to: Planter) -> None:
    data, group = to.data, to.rng.choice([0x6000, 0x6002, 0x601E])
    rows, columns = int(data.Rows), int(data.Columns)
    bits = (drawn(f"{to.who.family}\n{to.who.mrn}", (columns, rows)) > 100).astype(np.uint8)
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    data.add_new((group, 0x10), "US", rows)
    data.add_new((group, 0x11), "US", columns)
    data.add_new((group, 0x22), "LO", to.atom(to.who.full, "person", "D5", "overlay description"))
    data.add_new((group, 0x40), "CS", "G")
    data.add_new((group, 0x50), "SS", [1, 1])
    data.add_new((group, 0x100), "US", 1)
    data.add_new((group, 0x102), "US", 0)
    data.add_new((group, 0x1500), "LO", to.who.mrn)
    data.add_new((group, 0x3000), "OW", packed + b"\0" * (len(packed) % 2))
    data.add_new((group, 0x4000), "LT", f"{to.who.full} {to.who.phone}")


def _icon(to: Planter) -> None:
    icon = Dataset()
    icon.SamplesPerPixel, icon.PhotometricInterpretation = 1, "MONOCHROME2"
    icon.Rows = icon.Columns = 64
    icon.BitsAllocated, icon.BitsStored, icon.HighBit, icon.PixelRepresentation = 8, 8, 7, 0
    pixels = np.maximum(
        drawn(to.who.mrn, (64, 64)), np.frombuffer(to.rng.randbytes(4096), np.uint8).reshape(64, 64) // 2
    )
    icon.PixelData = pixels.tobytes()
    to.out.icon = pixels.tobytes()[1000:1048].hex()
    to.data.IconImageSequence = Items([icon])


def _curve(to: Planter) -> None:
    data = to.data
    data.add_new((0x5000, 0x05), "US", 2)
    data.add_new((0x5000, 0x22), "LO", to.atom(to.who.full, "person", "D3", "curve description"))
    data.add_new((0x5000, 0x3000), "OW", f"{to.who.mrn} {to.who.family} ".encode("utf-16-le"))
    data.add_new((0x5000, 0x2500), "LO", to.who.login)


def _burn(to: Planter) -> None:
    """Two lines in a corner of uncompressed pixels, as bright as the picture gets."""
    data = to.data
    if (
        data.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian).is_compressed
        or int(data.get("NumberOfFrames", 1)) > 1
    ):
        return
    if (
        data.BitsAllocated not in (8, 16)
        or "PALETTE" in data.PhotometricInterpretation
        or "YBR" in data.PhotometricInterpretation
    ):
        return
    rows, columns, samples = int(data.Rows), int(data.Columns), int(data.get("SamplesPerPixel", 1))
    order = ">" if data.file_meta.get("TransferSyntaxUID") == "1.2.840.10008.1.2.2" else "<"
    kind = np.dtype(f"{order}{'i' if data.PixelRepresentation else 'u'}{data.BitsAllocated // 8}")
    if samples == 3 and data.get("PlanarConfiguration", 0) == 1:
        return
    raw = np.frombuffer(data.PixelData, kind)[: rows * columns * samples].copy()
    pixels = raw.reshape(rows, columns, samples)
    letters = max(10, min(28, rows // 14))
    width, height = min(columns - 4, letters * 9), letters * 2 + 14
    if height > rows // 4 or rows < 100:
        return  # over the middle of a small picture nobody writes, and the scorer takes the box for a loss
    words = drawn(f"{to.who.family}\n{to.who.mrn}", (width, height), letters)
    x, y = 3, to.rng.choice([4, rows - height - 4])
    bright = int(pixels.max()) if pixels.max() > 0 else 255
    pixels[y : y + height, x : x + width][words > 100] = bright
    tail = data.PixelData[rows * columns * samples * kind.itemsize :]
    data.PixelData = raw.tobytes() + tail
    to.out.box, to.out.burned = (x, y, x + width, y + height), words


def _in_frames(to: Planter) -> None:
    """A comment in each compressed JPEG frame, and application data after its start."""
    data = to.data
    syntax = str(data.file_meta.get("TransferSyntaxUID", ""))
    if not syntax.startswith("1.2.840.10008.1.2.4.5") or not to.some(0.7):
        return
    fragments = list(generate_fragments(data.PixelData))
    if len(fragments) != int(data.get("NumberOfFrames", 1)):
        return
    note = to.atom(to.who.full, "person", "D8", "JPEG comment").encode()
    told = b"\xff\xfe" + struct.pack(">H", len(note) + 2) + note
    told += b"\xff\xed" + struct.pack(">H", len(note) + 16) + b"Photoshop 3.0\0" + note
    frames = [one[:2] + told + one[2:] if one[:2] == b"\xff\xd8" else one for one in fragments]
    data.PixelData = encapsulate(frames)


# --- around the dataset --------------------------------------------------------------------------------


def _written(to: Planter) -> bytes:
    data, who = to.data, to.who
    meta = data.file_meta
    if "TransferSyntaxUID" not in meta:
        little = getattr(data, "original_encoding", (True, True))
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if little[0] else "1.2.840.10008.1.2.1"
        if little == (False, False):
            meta.TransferSyntaxUID = "1.2.840.10008.1.2.2"
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    # an object of no class becomes raw data: a picture it is not
    meta.MediaStorageSOPClassUID = data.get("SOPClassUID", "1.2.840.10008.5.1.4.1.1.66")
    if to.some():
        meta.SourceApplicationEntityTitle = to.atom(who.station[:16], "device", "D8", "meta source AE")
    if to.some():
        meta.PrivateInformationCreatorUID = "1.2.3.4"
        meta.PrivateInformation = who.full.encode() + b"\0" * (len(who.full.encode()) % 2)
    if to.some():
        data.preamble = who.full.encode().ljust(128, b"\0")[:128]
        to.atom(who.full, "person", "D8", "preamble")
    if to.some() and "PixelData" in data:
        data.DataSetTrailingPadding = (who.mrn + " " + who.full).encode() + b"\0" * 3
        data[0xFFFCFFFC].value += b"\0" * (len(data[0xFFFCFFFC].value) % 2)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, data, enforce_file_format=True)
    return stream.getvalue()
