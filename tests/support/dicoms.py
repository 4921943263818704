"""DICOM objects with identifiers planted in every place we know, and the list of what was planted.

`plant(Order(...))` makes one file's bytes from a seed: the same order, the same bytes. The people are invented anew
for every seed, in several number formats and alphabets, so that no rule can learn them. Every planted value is
distinctive enough to be searched for in the output, and `Planted.secrets` says where it was put.

What is kept is listed too: `Planted.kept` are attributes that must read the same afterwards.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, Literal

import imagecodecs
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import UID

Kind = Literal["CT", "MR", "US", "SC", "CR", "SEG", "SR", "PDF", "RTDOSE", "VOLUME", "THUMBNAIL", "LABEL", "OVERVIEW"]
Syntax = Literal["explicit", "implicit", "big", "deflated", "jpeg", "jpeg2000", "rle"]

SYNTAXES: dict[str, str] = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "deflated": "1.2.840.10008.1.2.1.99",
    "big": "1.2.840.10008.1.2.2",
    "jpeg": "1.2.840.10008.1.2.4.50",
    "jpeg2000": "1.2.840.10008.1.2.4.90",
    "rle": "1.2.840.10008.1.2.5",
}
_STORAGE = "1.2.840.10008.5.1.4.1.1."
CLASSES: dict[str, str] = {
    "CT": _STORAGE + "2",
    "MR": _STORAGE + "4",
    "US": _STORAGE + "6.1",
    "SC": _STORAGE + "7",
    "CR": _STORAGE + "1",
    "SEG": _STORAGE + "66.4",
    "SR": _STORAGE + "88.33",
    "PDF": _STORAGE + "104.1",
    "RTDOSE": _STORAGE + "481.2",
    "VOLUME": _STORAGE + "77.1.6",
    "THUMBNAIL": _STORAGE + "77.1.6",
    "LABEL": _STORAGE + "77.1.6",
    "OVERVIEW": _STORAGE + "77.1.6",
}
WHOLE_SLIDE = ("VOLUME", "THUMBNAIL", "LABEL", "OVERVIEW")

_GIVEN = "Anneliese Bartholomew Clementina Dagobert Euphemia Ferdinand Guinevere Hyacinth Ignatius Josephine".split()
_FAMILY = "Quarrington Oberlechner Thistlewood Vandersloot Pemberley Zurbriggen Ashgrove Mirabelle Okonkwa".split()
_ACCENTED = ["Müllenbächer", "Łukasiewiczówna", "Étiennevieux", "Sørensgård"]
_STREETS = "Larkspur Lane|Cobblestone Court|Windmill Way|Harbour Hill".split("|")
_TOWNS = "Eastmereford|Nordhausenbruck|Villeneuve-les-Pins".split("|")
_HOSPITALS = "St. Brendanus Infirmary|Klinikum Waldesruhe|Hopital Sainte-Odile".split("|")


@dataclass(frozen=True)
class Secret:
    """One planted identifier: its text, and where it was put (an attribute, or a place outside the dataset)."""

    value: str
    where: str


@dataclass(frozen=True)
class Burned:
    """A word drawn into the pixels, where it stands, and its ink as a mask of the whole picture."""

    word: str
    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Order:
    """What to make. `visit` tells files of one patient and study apart; files of one seed share the patient."""

    kind: Kind = "CT"
    seed: int = 0
    visit: int = 0
    syntax: Syntax = "explicit"
    charset: str = "ISO_IR 192"
    rows: int = 128
    columns: int = 128
    frames: int = 1
    burned_px: int = 0  # height of letters burned into the pixels, 0 for none
    preamble: bool = True
    padding: bool = True
    trailing: bool = True
    private: bool = True
    overlay: bool = True
    icon: bool = True
    comments: bool = True  # in JPEG frames
    regions: bool = True  # of ultrasound
    undefined_lengths: bool = False


@dataclass
class Planted:
    data: bytes
    order: Order
    dataset: Dataset
    secrets: list[Secret]
    kept: dict[str, str]
    burned: list[Burned] = field(default_factory=list)
    picture: Any = None  # samples before anything was burned in

    def values(self) -> list[str]:
        return list(dict.fromkeys(secret.value for secret in self.secrets))


class _Person:
    """An invented patient and their hospital; the same for every file of a seed."""

    def __init__(self, seed: int, charset: str) -> None:
        rng = random.Random(f"person {seed}")
        family = rng.choice(_FAMILY if charset in ("", "ISO_IR 6") else _FAMILY + _ACCENTED[:1] + _ACCENTED[2:])
        if charset == "ISO_IR 192":
            family = rng.choice([family, *_ACCENTED])
        self.family, self.given = family, rng.choice(_GIVEN)
        self.name = f"{self.family}^{self.given}"
        number = rng.randint(10**7, 10**8 - 1)
        self.mrn = rng.choice([f"{number}", f"M{number}", f"{number % 10**4:04d}-{number // 10**4}"])
        self.birth = f"{rng.randint(1931, 2004)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
        self.street = f"{rng.randint(100, 9999)} {rng.choice(_STREETS)}"
        self.town = f"{rng.choice(_TOWNS)} {rng.randint(10000, 99999)}"
        self.phone = f"(0{rng.randint(200, 999)}) {rng.randint(200, 999)}-{rng.randint(1000, 9999)}"
        self.hospital = rng.choice(_HOSPITALS)
        self.doctor = f"{rng.choice(_FAMILY)}^{rng.choice(_GIVEN)}^^Dr."
        self.operator = f"tech.{rng.choice(_GIVEN).lower()}{rng.randint(10, 99)}"
        self.accession = f"{rng.choice('ADSX')}{rng.randint(10, 24)}-{rng.randint(100000, 999999)}"
        self.serial = f"SN{rng.randint(10**6, 10**7 - 1)}"
        self.station = f"MODSTAT{rng.randint(100, 999)}"
        self.root = f"1.2.826.0.1.3680043.8.{number}"  # whose component is the patient's number
        self.study_date = f"{rng.randint(2009, 2023)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
        self.time = f"{rng.randint(10, 23)}{rng.randint(10, 59)}{rng.randint(10, 59)}"


class _Maker:
    def __init__(self, order: Order) -> None:
        self.order = order
        self.who = _Person(order.seed, order.charset)
        self.rng = random.Random(f"file {order.seed} {order.visit} {order.kind}")
        self.data = Dataset()
        self.secrets: list[Secret] = []
        self.kept: dict[str, str] = {}
        self.burned: list[Burned] = []
        self.picture: Any = None

    # --- how things are put ---------------------------------------------------------------------------

    def hide(self, value: str, where: str) -> str:
        self.secrets.append(Secret(value, where))
        return value

    def put(self, keyword: str, value: str, *, into: Dataset | None = None, secret: str | None = None) -> None:
        """Set an attribute, and list `secret` (all of the value, if not said) as planted there."""
        setattr(self.data if into is None else into, keyword, value)
        self.hide(value if secret is None else secret, keyword)

    def keep(self, keyword: str, value: Any) -> None:
        setattr(self.data, keyword, value)
        self.kept[keyword] = str(getattr(self.data, keyword))

    def uid(self, *parts: int) -> str:
        return ".".join([self.who.root, *map(str, parts)])

    # --- the whole ------------------------------------------------------------------------------------

    def make(self) -> Planted:
        self._identity()
        self._descriptions()
        self._nested()
        if self.order.private:
            self._private()
        kind = self.order.kind
        if kind == "SR":
            self._report()
        elif kind == "PDF":
            self._document()
        elif kind in WHOLE_SLIDE:
            self._slide()
        else:
            self._radiology()
        if self.order.overlay and kind in ("CT", "MR", "CR"):
            self._overlay()
        if self.order.icon and "PixelData" in self.data:
            self._icon()
        if self.order.padding:
            value = self.hide(f"padded for {self.who.mrn}", "DataSetTrailingPadding").encode()
            self.data.add_new(0xFFFCFFFC, "OB", value + b"\0" * (len(value) % 2))
        return Planted(self._bytes(), self.order, self.data, self.secrets, self.kept, self.burned, self.picture)

    # --- the dataset ----------------------------------------------------------------------------------

    def _identity(self) -> None:
        who, order, data = self.who, self.order, self.data
        if order.charset:
            data.SpecificCharacterSet = order.charset
        data.SOPClassUID = CLASSES[order.kind]
        self.put("SOPInstanceUID", self.uid(5, order.visit, 1, hash_of(order.kind)))
        self.put("StudyInstanceUID", self.uid(5))
        self.put("SeriesInstanceUID", self.uid(5, hash_of(order.kind)))
        if order.kind not in ("SR", "PDF"):
            self.put("FrameOfReferenceUID", self.uid(6))
        self.put("PatientName", who.name, secret=who.family)
        self.hide(who.given, "PatientName")
        self.put("PatientID", who.mrn)
        self.put("PatientBirthDate", who.birth)
        data.PatientSex = "O"
        self.put("PatientAddress", f"{who.street}, {who.town}", secret=who.street)
        self.put("PatientTelephoneNumbers", who.phone)
        self.put("PatientMotherBirthName", f"{who.family}-Geborene^X", secret=f"{who.family}-Geborene")
        self.put("AccessionNumber", who.accession)
        self.put("StudyID", f"ST{who.mrn}")
        for keyword in ("StudyDate", "SeriesDate", "ContentDate", "AcquisitionDate"):
            self.put(keyword, who.study_date)
        for keyword in ("StudyTime", "SeriesTime", "ContentTime"):
            self.put(keyword, who.time)
        self.put("AcquisitionDateTime", f"{who.study_date}{who.time}.5", secret=f"{who.study_date}{who.time}")
        self.put("InstitutionName", who.hospital)
        self.put("InstitutionAddress", who.town)
        self.put("ReferringPhysicianName", who.doctor, secret=who.doctor.split("^")[0])
        self.put("PerformingPhysicianName", who.doctor, secret=who.doctor.split("^")[0])
        self.put("OperatorsName", who.operator)
        self.put("StationName", who.station)
        self.put("DeviceSerialNumber", who.serial)
        data.Modality = {"SC": "OT", "PDF": "DOC"}.get(order.kind, "SM" if order.kind in WHOLE_SLIDE else order.kind)
        self.keep("Manufacturer", "Imaginary Imaging")
        self.keep("ManufacturerModelName", "Model Seven")
        data.SeriesNumber, data.InstanceNumber = order.visit + 1, order.visit + 1

    def _descriptions(self) -> None:
        who = self.who
        self.put("StudyDescription", f"follow-up {who.family.upper()} chest", secret=who.family.upper())
        self.put("SeriesDescription", f"as asked by {who.doctor.split('^')[0]}", secret=who.doctor.split("^")[0])
        self.put("ProtocolName", f"for {who.given} {who.family}", secret=f"{who.given} {who.family}")
        text = f"call {who.given} {who.family} at {who.phone}"
        self.put("ImageComments", text)
        self.put("AdditionalPatientHistory", f"seen {who.study_date} at {who.hospital}, lives in {who.street}")

    def _nested(self) -> None:
        who = self.who
        request = Dataset()
        self.put("ScheduledProcedureStepDescription", f"scan of {who.given} {who.family}", into=request)
        self.put("RequestedProcedureID", f"RP{who.mrn}", into=request)
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator = "77477000", "SCT"
        self.put("CodeMeaning", f"CT of {who.family}", into=code)
        request.RequestedProcedureCodeSequence = Sequence([code])
        self.data.RequestAttributesSequence = Sequence([request])
        other = Dataset()
        self.put("PatientID", f"{who.mrn}-OLD", into=other)
        self.put("IssuerOfPatientID", who.hospital, into=other)
        self.data.OtherPatientIDsSequence = Sequence([other])
        earlier = Dataset()
        earlier.ReferencedSOPClassUID = self.data.SOPClassUID
        self.put("ReferencedSOPInstanceUID", self.uid(5, 99, 1), into=earlier)
        self.data.ReferencedImageSequence = Sequence([earlier])
        original = Dataset()
        inner = Dataset()
        self.put("PatientName", f"{who.family}^Formerly", into=inner, secret=f"{who.family}^Formerly")
        original.ModifiedAttributesSequence = Sequence([inner])
        original.AttributeModificationDateTime = self.hide(f"{who.study_date}235959", "AttributeModificationDateTime")
        self.put("ModifyingSystem", f"pacs.{who.station.lower()}", into=original)
        self.data.OriginalAttributesSequence = Sequence([original])

    def _private(self) -> None:
        who = self.who
        block = self.data.private_block(0x0029, "IMAGINARY PRIVATE", create=True)
        block.add_new(0x10, "LO", self.hide(f"{who.family}/{who.mrn}", "private LO"))
        block.add_new(0x11, "UN", self.hide(f"blob:{who.accession}", "private UN").encode())
        block.add_new(0x12, "OB", f"\0{who.phone}\0".encode("utf-16-le"))
        self.hide(who.phone, "private UTF-16")
        nested = Dataset()
        self.put("PatientID", f"{who.mrn}-PRIV", into=nested)
        nested.private_block(0x0011, "INNER PRIVATE", create=True).add_new(
            0x01, "ST", self.hide(f"note on {who.given} {who.family}", "nested private")
        )
        block.add_new(0x20, "SQ", Sequence([nested]))
        # a creator that is a name itself, and an element of an odd group without any creator
        self.data.private_block(0x0031, self.hide(f"{who.family} TOOLS", "private creator"), create=True).add_new(
            0x01, "DS", "1.5"
        )
        self.data.add_new(0x00331101, "LO", self.hide(f"orphan {who.mrn}", "private without creator"))

    def _report(self) -> None:
        who, data = self.who, self.data
        data.Modality = "SR"
        data.ValueType, data.ContinuityOfContent = "CONTAINER", "SEPARATE"
        data.CompletionFlag, data.VerificationFlag = "COMPLETE", "UNVERIFIED"
        data.ConceptNameCodeSequence = Sequence([coded("18748-4", "LN", "Diagnostic imaging report")])
        words = Dataset()
        words.RelationshipType, words.ValueType = "CONTAINS", "TEXT"
        words.ConceptNameCodeSequence = Sequence([coded("121071", "DCM", "Finding")])
        self.put("TextValue", f"{who.given} {who.family} was told by {who.doctor.split('^')[0]}", into=words)
        name = Dataset()
        name.RelationshipType, name.ValueType = "HAS OBS CONTEXT", "PNAME"
        name.ConceptNameCodeSequence = Sequence([coded("121008", "DCM", "Person Observer Name")])
        self.put("PersonName", who.doctor, into=name, secret=who.doctor.split("^")[0])
        number = Dataset()
        number.RelationshipType, number.ValueType = "CONTAINS", "NUM"
        number.ConceptNameCodeSequence = Sequence([coded("410668003", "SCT", "Length")])
        measured = Dataset()
        measured.NumericValue = "12.5"
        measured.MeasurementUnitsCodeSequence = Sequence([coded("mm", "UCUM", "mm")])
        number.MeasuredValueSequence = Sequence([measured])
        when = Dataset()
        when.RelationshipType, when.ValueType = "CONTAINS", "DATETIME"
        when.ConceptNameCodeSequence = Sequence([coded("111526", "DCM", "DateTime Started")])
        self.put("DateTime", f"{who.study_date}{who.time}", into=when)
        data.ContentSequence = Sequence([words, name, number, when])

    def _document(self) -> None:
        who = self.who
        text = self.hide(f"Discharge letter of {who.given} {who.family}, born {who.birth}", "EncapsulatedDocument")
        body = b"%PDF-1.4\n1 0 obj << /Title (" + text.encode() + b") >> endobj\ntrailer << /Root 1 0 R >>\n%%EOF\n"
        self.data.MIMETypeOfEncapsulatedDocument = "application/pdf"
        self.put("DocumentTitle", f"Letter for {who.family}", secret=who.family)
        self.data.EncapsulatedDocument = body + b"\0" * (len(body) % 2)
        self.data.EncapsulatedDocumentLength = len(body)

    def _radiology(self) -> None:
        order = self.order
        colour = order.kind in ("US", "SC")
        self.keep("ImageType", ["DERIVED", "SECONDARY"] if order.kind == "SC" else ["ORIGINAL", "PRIMARY"])
        if order.kind in ("CT", "MR"):
            self.keep("PixelSpacing", [0.75, 0.75])
            self.keep("SliceThickness", 2.5)
            self.keep("ImagePositionPatient", [-100, -90.5, 12.25 * order.visit])
            self.keep("ImageOrientationPatient", [1, 0, 0, 0, 1, 0])
            self.keep("BodyPartExamined", "CHEST")
        if order.kind == "CT":
            self.keep("KVP", 120)
            self.keep("RescaleSlope", 1)
            self.keep("RescaleIntercept", -1024)
        if order.frames > 1:
            self.keep("NumberOfFrames", order.frames)
        if order.kind == "US" and order.regions:
            self._regions()
        samples = self._samples(colour)
        self._pixels(samples)

    def _regions(self) -> None:
        region = Dataset()
        region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
        region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, self.order.rows // 3
        region.RegionLocationMaxX1, region.RegionLocationMaxY1 = self.order.columns - 1, self.order.rows - 1
        region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
        region.PhysicalDeltaX = region.PhysicalDeltaY = 0.05
        self.data.SequenceOfUltrasoundRegions = Sequence([region])

    def _samples(self, colour: bool) -> Any:
        """Frames of a picture, with words burned in if the order says so."""
        order = self.order
        plain = anatomy(order.rows, order.columns, seed=order.seed * 1000 + order.visit)
        if order.kind == "SEG":
            return (plain > 0.5).astype(np.uint8)[None]
        if order.kind == "RTDOSE":
            return (plain * 40000).astype(np.uint32)[None]
        if colour or order.kind in WHOLE_SLIDE:
            samples = np.repeat((plain * 200)[:, :, None], 3, axis=2).astype(np.uint8)
        elif order.kind == "CT":
            samples = (plain * 1500).astype(np.int16)
        else:
            samples = (plain * 900).astype(np.uint16)
        self.picture = samples.copy()
        if order.burned_px:
            words = [self.who.family, self.who.mrn]
            ink_value = int(samples.max()) + (0 if samples.dtype == np.uint8 else 300)
            ink_value = 255 if samples.dtype == np.uint8 else ink_value
            self.burned = burn(samples, words, size_px=order.burned_px, value=ink_value, seed=order.seed)
            self.secrets += [Secret(one.word, "burned into pixels") for one in self.burned]
        return np.repeat(samples[None], order.frames, axis=0)

    def _pixels(self, frames: Any) -> None:
        data = self.data
        data.Rows, data.Columns = frames.shape[1], frames.shape[2]
        data.SamplesPerPixel = 3 if frames.ndim == 4 else 1
        data.PhotometricInterpretation = "RGB" if frames.ndim == 4 else "MONOCHROME2"
        if frames.ndim == 4:
            data.PlanarConfiguration = 0
        bits = frames.dtype.itemsize * 8
        data.BitsAllocated = data.BitsStored = bits
        if self.order.kind in ("MR", "CR"):
            data.BitsStored = 12
        if self.order.kind == "SEG":
            data.BitsAllocated = data.BitsStored = 1
            data.SegmentationType, data.NumberOfFrames = "BINARY", 1
        data.HighBit = data.BitsStored - 1
        data.PixelRepresentation = int(frames.dtype.kind == "i")
        data.BurnedInAnnotation = "YES" if self.burned else "NO"
        for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel"):
            self.kept[keyword] = str(getattr(data, keyword))
        if self.order.syntax in ("jpeg", "jpeg2000", "rle"):
            self._compressed(frames)
            return
        if self.order.kind == "SEG":
            value = np.packbits(frames.reshape(-1), bitorder="little").tobytes()
        else:
            order = ">" if self.order.syntax == "big" else "<"
            value = frames.astype(frames.dtype.newbyteorder(order)).tobytes()
        data.add_new(0x7FE00010, "OW" if bits > 8 else "OB", value + b"\0" * (len(value) % 2))

    def _compressed(self, frames: Any) -> None:
        syntax, data = self.order.syntax, self.data
        if syntax == "rle":
            coded_frames = [rle(frame) for frame in frames]
        elif syntax == "jpeg2000":
            coded_frames = [imagecodecs.jpeg2k_encode(frame, level=0, codecformat="j2k") for frame in frames]
        else:
            coded_frames = [jpeg(frame) for frame in frames]
            data.LossyImageCompression, data.LossyImageCompressionMethod = "01", "ISO_10918_1"
            if frames.ndim == 4:
                data.PhotometricInterpretation = "YBR_FULL_422"
            if self.order.comments:
                note = self.hide(f"scanned for {self.who.name} {self.who.mrn}", "JPEG COM")
                exif = self.hide(f"Artist {self.who.operator}", "JPEG APP1")
                tail = self.hide(f"tail {self.who.accession}", "bytes after EOI")
                coded_frames = [annotated(frame, note.encode(), exif.encode(), tail.encode()) for frame in coded_frames]
        data.PixelData = encapsulate(coded_frames)
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True

    def _slide(self) -> None:
        who, data, kind = self.who, self.data, self.order.kind
        flavour = {"VOLUME": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]}.get(
            kind, ["DERIVED", "PRIMARY", kind, "RESAMPLED"]
        )
        self.keep("ImageType", flavour)
        self.put("ContainerIdentifier", f"{who.accession};A1;3")
        self.put("BarcodeValue", f"{who.accession}*7")
        self.put("LabelText", f"{who.family} {who.accession}", secret=f"{who.family} {who.accession}")
        specimen = Dataset()
        self.put("SpecimenIdentifier", f"{who.accession}-A", into=specimen)
        self.put("SpecimenUID", self.uid(77, self.order.visit), into=specimen)
        self.put("SpecimenShortDescription", f"core of {who.family}", into=specimen)
        step, item = Dataset(), Dataset()
        item.ValueType = "TEXT"
        item.ConceptNameCodeSequence = Sequence([coded("111701", "DCM", "Processing type")])
        self.put("TextValue", f"cut by {who.operator}", into=item)
        step.SpecimenPreparationStepContentItemSequence = Sequence([item])
        specimen.SpecimenPreparationSequence = Sequence([step])
        data.SpecimenDescriptionSequence = Sequence([specimen])
        self.keep("TotalPixelMatrixRows", self.order.rows)
        self.keep("TotalPixelMatrixColumns", self.order.columns * self.order.frames)
        self.keep("NumberOfFrames", self.order.frames)
        self.keep("ImageOrientationSlide", [0, -1, 0, -1, 0, 0])
        self._pixels(self._samples(colour=True))

    def _overlay(self) -> None:
        rows, columns = self.order.rows, self.order.columns
        plane = np.zeros((rows, columns), np.uint8)
        burn(plane, [self.who.family], size_px=12, value=1, seed=self.order.seed)
        data = self.data
        data.add_new(0x60000010, "US", rows)
        data.add_new(0x60000011, "US", columns)
        data.add_new(0x60000040, "CS", "G")
        data.add_new(0x60000050, "SS", [1, 1])
        data.add_new(0x60000100, "US", 1)
        data.add_new(0x60000102, "US", 0)
        data.add_new(0x60001500, "LO", self.hide(f"overlay for {self.who.mrn}", "OverlayLabel"))
        data.add_new(0x60003000, "OW", np.packbits(plane.reshape(-1), bitorder="little").tobytes())

    def _icon(self) -> None:
        icon = Dataset()
        icon.Rows = icon.Columns = 32
        icon.SamplesPerPixel, icon.PhotometricInterpretation = 1, "MONOCHROME2"
        icon.BitsAllocated = icon.BitsStored = 8
        icon.HighBit, icon.PixelRepresentation = 7, 0
        pattern = self.hide(f"ICON{self.who.mrn}", "IconImageSequence").encode()
        icon.PixelData = (pattern * 200)[: 32 * 32]
        icon["PixelData"].VR = "OB"
        self.data.IconImageSequence = Sequence([icon])

    # --- the file -------------------------------------------------------------------------------------

    def _bytes(self) -> bytes:
        order, who = self.order, self.who
        head = bytes(128)
        if order.preamble:
            words = self.hide(f"II*\0 {who.family} {who.mrn}"[:120], "preamble").encode("utf-8")[:128]
            self.secrets[-1] = Secret(who.mrn, "preamble")
            head = words + bytes(128 - len(words))
        meta = FileMetaDataset()
        meta.FileMetaInformationVersion = b"\0\1"
        meta.MediaStorageSOPClassUID = self.data.SOPClassUID
        meta.MediaStorageSOPInstanceUID = self.data.SOPInstanceUID
        meta.TransferSyntaxUID = UID(SYNTAXES[order.syntax])
        meta.ImplementationClassUID = "1.2.826.0.1.3680043.8.498.1"
        meta.SourceApplicationEntityTitle = self.hide(f"AE{who.station}", "SourceApplicationEntityTitle")[:16]
        meta.PrivateInformationCreatorUID = self.hide(self.uid(9, 9), "PrivateInformationCreatorUID")
        meta.PrivateInformation = self.hide(f"private of {who.mrn}", "PrivateInformation").encode() + b"\0" * (
            len(f"private of {who.mrn}") % 2
        )
        whole = DicomBytesIO()
        whole.write(head + b"DICM")
        write_file_meta_info(whole, meta)
        whole.write(self._encoded())
        if order.trailing:
            whole.write(self.hide(f"after the dataset {who.phone}", "trailing bytes").encode())
        return whole.getvalue()

    def _encoded(self) -> bytes:
        body = DicomBytesIO()
        body.is_little_endian = self.order.syntax != "big"
        body.is_implicit_VR = self.order.syntax == "implicit"
        if self.order.undefined_lengths:
            undefine(self.data)
        write_dataset(body, self.data)
        if self.order.syntax != "deflated":
            return body.getvalue()
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packed = packer.compress(body.getvalue()) + packer.flush()
        return packed + b"\0" * (len(packed) % 2)


def plant(order: Order) -> Planted:
    return _Maker(order).make()


def hash_of(kind: str) -> int:
    return sum(kind.encode())


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def undefine(data: Dataset) -> None:
    for element in data:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
                undefine(item)


# --- pictures -----------------------------------------------------------------------------------------------


def anatomy(rows: int, columns: int, *, seed: int) -> Any:
    """Something like a slice of a body, from 0 to 1: an outline, organs with soft edges, a bright rim, noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    y, x = (y - rows / 2) / rows, (x - columns / 2) / columns
    picture = np.zeros((rows, columns), np.float32)
    body = (x / 0.44) ** 2 + (y / 0.38) ** 2
    picture += 0.35 / (1 + np.exp(np.minimum(25 * (body - 1), 50)))
    picture += 0.45 * np.exp(-((body - 0.92) ** 2) / 0.004)
    for _ in range(7):
        cx, cy = rng.uniform(-0.3, 0.3, 2)
        wide, high = rng.uniform(0.04, 0.14, 2)
        organ = ((x - cx) / wide) ** 2 + ((y - cy) / high) ** 2
        picture += rng.uniform(-0.2, 0.35) / (1 + np.exp(np.minimum(12 * (organ - 1), 50)))
    picture += rng.normal(0, 0.015, picture.shape)
    return np.clip(picture, 0, 1)


def burn(
    samples: Any, words: list[str], *, size_px: int, value: int, seed: int, face: str = "", smooth: bool = True
) -> list[Burned]:
    """Draw words line by line into a corner of a picture, in place; what does not fit is not drawn."""
    rng = random.Random(f"burn {seed}")
    rows, columns = samples.shape[:2]
    font = ImageFont.truetype(face, size_px) if face else ImageFont.load_default(size_px)
    sheet = Image.new("L", (columns, rows))
    pen = ImageDraw.Draw(sheet)
    pen.fontmode = "L" if smooth else "1"
    pitch = round(size_px * 1.3)
    left = rng.choice([3, max(3, columns - 4 - max(int(pen.textlength(word, font=font)) for word in words))])
    top = rng.choice([3, max(3, rows - 4 - pitch * len(words))])
    burned = []
    for line, word in enumerate(words):
        box = pen.textbbox((left, top + line * pitch), word, font=font)
        if box[2] > columns or box[3] > rows:
            continue
        pen.text((left, top + line * pitch), word, fill=255, font=font)
        burned.append(Burned(word, *map(int, box)))
    ink = np.asarray(sheet, np.float32) / 255
    ink = ink[:, :, None] if samples.ndim == 3 else ink
    samples[:] = np.round(samples * (1 - ink) + value * ink).astype(samples.dtype)
    return burned


def jpeg(frame: Any) -> bytes:
    return saved(frame, "JPEG", quality=90)


def saved(frame: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, kind, **options)
    return buffer.getvalue()


def annotated(frame: bytes, note: bytes, exif: bytes, tail: bytes) -> bytes:
    """A JPEG with a comment, an application segment and bytes after its end."""
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(note)) + note
    body = b"Exif\0\0" + exif
    application = b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body
    return frame[:2] + comment + application + frame[2:] + tail


def rle(frame: Any) -> bytes:
    """PS3.5 Annex G: a segment per byte of a sample, most significant first, each as PackBits."""
    planes = [frame] if frame.ndim == 2 else [frame[:, :, channel] for channel in range(frame.shape[2])]
    segments = []
    for plane in planes:
        big = plane.astype(plane.dtype.newbyteorder(">"))
        parts = np.frombuffer(big.tobytes(), np.uint8).reshape(*plane.shape, plane.dtype.itemsize)
        segments += [packbits(parts[:, :, index]) for index in range(plane.dtype.itemsize)]
    offsets, at = [], 64
    for segment in segments:
        offsets.append(at)
        at += len(segment)
    return struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments))) + b"".join(segments)


def packbits(plane: Any) -> bytes:
    """Literal runs only: long, but what every decoder reads."""
    out = bytearray()
    for row in plane:
        line = row.tobytes()
        for at in range(0, len(line), 128):
            run = line[at : at + 128]
            out += bytes([len(run) - 1]) + run
    return bytes(out + b"\0" * (len(out) % 2))
