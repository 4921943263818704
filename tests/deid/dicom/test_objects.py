"""What becomes of an object: who it was is gone, what it shows and how it was made is there."""

from __future__ import annotations

import struct
from datetime import datetime

import pytest

from mover.decide.dicom import values
from mover.decide.dicom.vocabulary import is_maker
from mover.deid.dicom.outcome import PreparedObject
from mover.deid.dicom.plan import Engine
from mover.deid.identity import Aliases
from mover.errors import FormatUnknown, FormatUnsupported, InstanceDropped, PlaceUnknown, StructureInvalid
from mover.model.deid import DicomRules, SafePrivate
from mover.model.source import MemorySource
from tests.deid.dicom.raw import BIG, CT, EXPLICIT, IMPLICIT, Pen, ct, part10
from tests.deid.dicom.support import NUMBER, OFFSET_DAYS, PSEUDONYM, TRUSTING, aliases_of, prepare, read, survey

SYNTAXES = [EXPLICIT, IMPLICIT, BIG]
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def made(extra: dict[int, bytes] | None = None, *, rules: DicomRules | None = None, **words: object):  # type: ignore[no-untyped-def]
    return read(prepare(part10(ct(Pen()) | (extra or {}), **words), rules=rules)[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_patient_becomes_a_pseudonym_and_the_picture_stays(syntax: str) -> None:
    data = part10(ct(Pen(syntax)), syntax=syntax, preamble=b"Quarrington".ljust(128, b"\0"), tail=b"88413377")
    prepared, out = prepare(data)
    before, after = read(data), read(out)
    assert after.PatientID == PSEUDONYM and str(after.PatientName) == PSEUDONYM
    assert after.PixelData == before.PixelData
    for keyword in (
        "SliceThickness",
        "KVP",
        "ImagePositionPatient",
        "PixelSpacing",
        "Manufacturer",
        "ImageType",
        "Rows",
    ):
        assert after[keyword].value == before[keyword].value, keyword
    assert out[:128] == bytes(128) and not out.endswith(b"88413377")
    assert b"Quarrington" not in out and b"SOURCEAETITLE" not in out
    assert prepared.evidence.frames == 1 and prepared.plan.recipe.copied_bytes == 128


def test_an_object_says_what_was_done_to_it() -> None:
    """PS3.15 E.1.1: the flags, the method by words and by CID 7050."""
    after = made()
    assert after.PatientIdentityRemoved == "YES"
    assert after.LongitudinalTemporalInformationModified == "MODIFIED"
    codes = [item.CodeValue for item in after.DeidentificationMethodCodeSequence]
    assert codes[0] == "113100" and "113107" in codes
    assert "BurnedInAnnotation" not in after  # nobody looked at these pixels
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID


def test_codes_of_its_own_stay_the_only_ones() -> None:
    """Then the methods stand in words, so that a comparison with the source finds no foreign code."""
    pen = Pen()
    code = pen.element(0x00080100, "SH", "T-D1100") + pen.element(0x00080102, "SH", "SRT")
    after = made({0x00082218: pen.sequence(0x00082218, [code + pen.element(0x00080104, "LO", "Head of Quarrington")])})
    assert after.AnatomicRegionSequence[0].CodeValue == "T-D1100"
    assert "Quarrington" not in after.AnatomicRegionSequence[0].CodeMeaning
    assert "DeidentificationMethodCodeSequence" not in after
    assert any(one.startswith("113100") for one in after.DeidentificationMethod)


def test_dates_move_by_the_patients_own_days_and_birth_and_hours_go() -> None:
    pen = Pen()
    after = made(
        {
            0x00080022: pen.element(0x00080022, "DA", "2019.03.14"),
            0x0008002A: pen.element(0x0008002A, "DT", "20190314101112.5"),
        }
    )
    days = (datetime.strptime(after.StudyDate, "%Y%m%d") - datetime(2019, 3, 4)).days
    assert days == OFFSET_DAYS
    assert (
        datetime.strptime(after.AcquisitionDate, "%Y%m%d") - datetime.strptime(after.StudyDate, "%Y%m%d")
    ).days == 10
    assert after.AcquisitionDateTime == after.AcquisitionDate
    assert after.PatientBirthDate == "" and after.StudyTime == ""


def test_uptake_times_are_counted_from_the_studys_own() -> None:
    """A PET without intervals has no uptake values; the hour of the day is nobody's business."""
    pen = Pen()
    pet = "1.2.840.10008.5.1.4.1.1.128"
    extra = {0x00080060: pen.element(0x00080060, "CS", "PT"), 0x00080016: pen.element(0x00080016, "UI", pet)}
    after = made(extra | {0x00080032: pen.element(0x00080032, "TM", "111112.25")}, sop_class=pet)
    assert after.StudyTime == "000000" and after.AcquisitionTime == "010000.25"


def test_profiles_that_remove_dates_leave_none() -> None:
    after = made(rules=DicomRules(dates="remove"))
    assert after.StudyDate == "" and after.LongitudinalTemporalInformationModified == "REMOVED"


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_uids_are_replaced_at_every_depth_and_registered_ones_stay(syntax: str) -> None:
    """One graph: a reference inside a sequence leads where the referenced object went."""
    pen = Pen(syntax)
    reference = pen.element(0x00081150, "UI", CT) + pen.element(0x00081155, "UI", "1.2.3.4.5.6")
    nested = pen.sequence(0x00081199, [reference], open_end=True) + pen.element(0x0020000E, "UI", "1.2.3.4.5.1")
    after = read(prepare(part10(ct(pen) | {0x00081115: pen.sequence(0x00081115, [nested])}, syntax=syntax))[1])
    inner = after.ReferencedSeriesSequence[0]
    assert inner.SeriesInstanceUID == after.SeriesInstanceUID != "1.2.3.4.5.1"
    assert inner.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == after.SOPInstanceUID != "1.2.3.4.5.6"
    assert inner.ReferencedSOPSequence[0].ReferencedSOPClassUID == CT == after.SOPClassUID


def test_a_uid_that_only_begins_like_a_registered_one_is_somebodys() -> None:
    pen = Pen()
    after = made({0x00081140: pen.sequence(0x00081140, [pen.element(0x00081155, "UI", "1.2.840.10008.88413377")])})
    assert after.ReferencedImageSequence[0].ReferencedSOPInstanceUID.startswith("2.25.")


def test_private_curve_overlay_icon_and_signature_do_not_pass() -> None:
    pen = Pen()
    extra = {
        0x00190010: pen.element(0x00190010, "LO", "ACME 1"), 0x00191001: pen.element(0x00191001, "DS", "1.5"),
        0x50003000: pen.element(0x50003000, "OW", bytes(8)), 0x60000010: pen.element(0x60000010, "US", 8),
        0x60003000: pen.element(0x60003000, "OW", bytes(8)), 0xFFFCFFFC: pen.element(0xFFFCFFFC, "OB", b"Quarrington!"),
        0x00880200: pen.sequence(0x00880200, [pen.element(0x00280010, "US", 8)]),
        0x04000561: pen.sequence(0x04000561, [pen.element(0x00100010, "PN", "Quarrington^Euphemia")]),
    }  # fmt: skip
    after = made(extra)
    assert not [
        element
        for element in after
        if element.tag.is_private or element.tag.group >= 0x5000 and element.tag.group != 0x7FE0
    ]
    assert "IconImageSequence" not in after and "OriginalAttributesSequence" not in after


def test_private_elements_that_a_profile_lists_stay_when_they_are_numbers_or_plain_words() -> None:
    pen = Pen()
    extra = {
        0x00190010: pen.element(0x00190010, "LO", "ACME 1"), 0x00191001: pen.element(0x00191001, "DS", "1.5"),
        0x00191002: pen.element(0x00191002, "LO", "Quarrington"), 0x00191003: pen.element(0x00191003, "DS", "2.5"),
    }  # fmt: skip
    rules = DicomRules(safe_private=(SafePrivate("ACME 1", ("0019,xx01", "0019,xx02")),))
    after = made(extra, rules=rules)
    assert after[0x00191001].value == 1.5
    assert 0x00191002 not in after and 0x00191003 not in after
    assert "113111" in [item.CodeValue for item in after.DeidentificationMethodCodeSequence]


def test_options_keep_what_they_name_and_nothing_more() -> None:
    pen = Pen()
    extra = {
        0x00181000: pen.element(0x00181000, "LO", "SN-777"), 0x00080080: pen.element(0x00080080, "LO", "Waldesruhe"),
        0x00101010: pen.element(0x00101010, "AS", "093Y"), 0x00100040: pen.element(0x00100040, "CS", "F"),
        0x0008103E: pen.element(0x0008103E, "LO", "Axial chest for Quarrington"),
    }  # fmt: skip
    bare = made(extra)
    assert not any(
        bare.get(name)
        for name in ("DeviceSerialNumber", "InstitutionName", "PatientAge", "PatientSex", "SeriesDescription")
        if bare.get(name) != "REMOVED"
    )
    rich = made(
        extra,
        rules=DicomRules(
            retain_device=True, retain_institution=True, retain_patient_characteristics=True, descriptors="clean"
        ),
    )
    assert rich.DeviceSerialNumber == "SN-777" and rich.InstitutionName == "Waldesruhe"
    assert rich.PatientAge == "090Y" and rich.PatientSex == "F" and rich.SeriesDescription == "Axial chest"


def test_structured_content_keeps_codes_and_numbers_and_loses_text_and_names() -> None:
    pen = Pen()
    concept = pen.sequence(
        0x0040A043,
        [
            pen.element(0x00080100, "SH", "121071")
            + pen.element(0x00080102, "SH", "DCM")
            + pen.element(0x00080104, "LO", "Finding")
        ],
    )
    text = pen.element(0x0040A040, "CS", "TEXT") + concept + pen.element(0x0040A160, "UT", "seen by Thistlewood")
    person = pen.element(0x0040A040, "CS", "PNAME") + concept + pen.element(0x0040A123, "PN", "Thistlewood^Ignatius")
    private = pen.sequence(
        0x0040A168,
        [
            pen.element(0x00080100, "SH", "HOUSE-7")
            + pen.element(0x00080102, "SH", "99WALDESRUHE")
            + pen.element(0x00080104, "LO", "our ward")
        ],
    )
    coded = pen.element(0x0040A040, "CS", "CODE") + concept + private
    elements = {tag: one for tag, one in ct(pen).items() if tag >> 16 not in (0x28, 0x7FE0)}
    report = "1.2.840.10008.5.1.4.1.1.88.33"
    elements |= {
        0x00080016: pen.element(0x00080016, "UI", report),
        0x0040A730: pen.sequence(0x0040A730, [text, person, coded]),
    }
    out = prepare(part10(elements, sop_class=report))[1]
    first, second, third = read(out).ContentSequence
    assert first.TextValue == "REMOVED" and str(second.PersonName) == "ANONYMOUS"
    assert first.ConceptNameCodeSequence[0].CodeMeaning == "Finding"
    assert third.ConceptCodeSequence[0].CodeValue == "HOUSE-7" and b"WALDESRUHE" not in out and b"our ward" not in out
    with pytest.raises(FormatUnsupported):
        prepare(part10(elements, sop_class=report), rules=DicomRules(structured_content="remove"))


@pytest.mark.parametrize("kind", ["LABEL", "OVERVIEW"])
def test_pictures_of_the_label_are_dropped_by_rule(kind: str) -> None:
    pen = Pen()
    slide = {
        0x00080016: pen.element(0x00080016, "UI", WHOLE_SLIDE),
        0x00080008: pen.element(0x00080008, "CS", f"ORIGINAL\\PRIMARY\\{kind}\\NONE"),
    }
    data = part10(ct(pen) | slide, sop_class=WHOLE_SLIDE)
    assert survey(data).role == kind.lower()
    with pytest.raises(InstanceDropped):
        prepare(data)


def test_a_slides_containers_and_specimens_get_the_names_that_tables_get() -> None:
    pen = Pen()
    specimen = pen.element(0x00400551, "LO", "A17-553201-B")
    slide = {
        0x00080016: pen.element(0x00080016, "UI", WHOLE_SLIDE),
        0x00080008: pen.element(0x00080008, "CS", "ORIGINAL\\PRIMARY\\VOLUME\\NONE"),
        0x00400512: pen.element(0x00400512, "LO", "A17-553201;B;1"), 0x00400560: pen.sequence(0x00400560, [specimen]),
    }  # fmt: skip
    data = part10(ct(pen) | slide, sop_class=WHOLE_SLIDE)
    found = survey(data)
    aliases = aliases_of(found)
    after = read(prepare(data)[1])
    assert found.family == "dicom-wsm" and {key.split("|")[0] for key in found.identity.entities} == {
        "patient",
        "case",
        "slide",
        "block",
    }
    assert after.ContainerIdentifier == aliases.keys["slide|a17-553201;b;1"]
    assert after.SpecimenDescriptionSequence[0].SpecimenIdentifier == aliases.keys["block|a17-553201-b"]
    assert after.AccessionNumber == aliases.keys["case|a17-553201"][:16] and NUMBER not in after.AccessionNumber


def encapsulated(pen: Pen, frames: list[bytes], *, table: bool) -> bytes:
    item = lambda data: struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data  # noqa: E731
    return (
        pen.head(0x7FE00010, "OB", 0xFFFFFFFF)
        + item(b"")
        + b"".join(item(one) for one in frames)
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    )


def test_documents_unknown_classes_and_pictures_without_pixels_are_refused() -> None:
    pen = Pen()
    for uid in ("1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.1.3.10", "1.3.46.670589.5.0.1"):
        with pytest.raises(FormatUnsupported):
            made({0x00080016: pen.element(0x00080016, "UI", uid)}, sop_class=uid)
    for lost in ((0x7FE00010,), (0x7FE00010, 0x00280010, 0x00280011)):
        with pytest.raises(StructureInvalid, match="without its pixels"):
            made(dict.fromkeys(lost, b""))
    with pytest.raises(StructureInvalid, match="fewer pixels"):
        made({0x7FE00010: pen.element(0x7FE00010, "OW", bytes(64))})
    with pytest.raises(StructureInvalid):
        made({0x7FE00010: encapsulated(pen, [bytes(64)], table=False)})


def pictureless(pen: Pen) -> dict[int, bytes]:
    return {tag: b"" if tag >> 16 in (0x28, 0x7FE0) else one for tag, one in ct(pen).items()}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_header_of_an_image_class_that_never_had_a_picture_passes_without_its_patient(syntax: str) -> None:
    """Nothing can be burned into what is not there: real collections hold such headers, and they were refused."""
    prepared, out = prepare(part10(pictureless(Pen(syntax)), syntax=syntax))
    after = read(out)
    assert after.PatientID == PSEUDONYM and "PixelData" not in after and b"Quarrington" not in out
    assert prepared.plan.facts.pixels == "no pixels" and prepared.evidence.frames == 0


def test_a_header_of_an_image_class_with_unread_bytes_behind_it_may_have_lost_its_picture() -> None:
    with pytest.raises(StructureInvalid, match="without its pixels"):
        prepare(part10(pictureless(Pen()), tail=bytes(64)))


def test_what_has_no_alias_is_refused_and_never_invented() -> None:
    data = part10(ct(Pen()))
    whole = aliases_of(survey(data))
    for aliases in (
        Aliases(whole.number, {}, whole.keys, whole.uids),
        Aliases(whole.number, whole.subjects, whole.keys, {}),
    ):
        with pytest.raises(PlaceUnknown):
            Engine(aliases=aliases, rules=DicomRules(), pixels=TRUSTING).prepare(MemorySource(data))


def test_bytes_that_pad_the_pixels_are_cut() -> None:
    """Nothing counts what stands behind the last pixel, so anything may stand there."""
    pen = Pen()
    padded = pen.element(0x7FE00010, "OW", bytes(128) + b"Quarrington^Euphemia")
    prepared, out = prepare(part10(ct(pen) | {0x7FE00010: padded}))
    assert len(read(out).PixelData) == 128 and b"Euphemia" not in out
    assert isinstance(prepared, PreparedObject)


@pytest.mark.parametrize("tag", [0x00189004, 0x00282114])
def test_a_long_name_cut_off_by_a_short_attribute_does_not_pass_for_a_term(tag: int) -> None:
    """A defined term is sixteen characters; so is the beginning of a long family name, which was sought only whole."""
    pen = Pen()
    name = {0x00100010: pen.element(0x00100010, "PN", "Brzeczyszczykiewicz^Ina")}
    cut = {tag: pen.element(tag, "CS", "BRZECZYSZCZYKIEW")}
    assert b"BRZECZYSZ" not in prepare(part10(ct(pen) | name | cut))[1]


def test_words_from_records_are_kept_out_too() -> None:
    """A name that only a table knows may stand in a header all the same."""
    pen = Pen()
    after = read(
        prepare(part10(ct(pen) | {0x00181210: pen.element(0x00181210, "SH", "Vandersloot")}), known=("Vandersloot",))[1]
    )
    assert "ConvolutionKernel" not in after


def test_a_number_of_zeros_does_not_take_every_measure_with_it() -> None:
    """Test patients are called 000000, and so are the decimals of every position."""
    pen = Pen()
    position = pen.element(0x00200032, "DS", "0.000000\\0.000000\\17.500000")
    after = read(prepare(part10(ct(pen, number="000000") | {0x00200032: position}))[1])
    assert [float(one) for one in after.ImagePositionPatient] == [0, 0, 17.5]


def test_a_picture_that_says_of_no_class_is_a_secondary_capture_and_keeps_its_pixels() -> None:
    """As scanners wrote them before there were classes and UIDs; the same file gets the same name again."""
    elements = {tag: one for tag, one in ct(Pen()).items() if tag not in (0x00080016, 0x00080018)}
    data = b"".join(elements[tag] for tag in sorted(elements))
    _, out = prepare(data)
    after = read(out)
    assert after.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7" and after.PixelData == bytes(range(128))
    other = survey(data[:-1] + b"Z").instance
    assert after.PatientID == PSEUDONYM and survey(data).instance == survey(data).instance != other


def test_what_says_of_no_class_and_holds_no_picture_is_refused() -> None:
    elements = {tag: one for tag, one in ct(Pen()).items() if tag not in (0x00080016, 0x00080018, 0x00280010)}
    with pytest.raises(FormatUnknown, match="nor holds a picture"):
        prepare(b"".join(elements[tag] for tag in sorted(elements)))


def test_objects_that_name_neither_patient_nor_study_are_no_one_patients() -> None:
    """One pseudonym for all of them would tie strangers to each other, and move their dates together."""
    pen = Pen()
    nobody = dict.fromkeys((0x00100020, 0x00100010, 0x0020000D))
    patients = set()
    for uid in ("1.2.3.1", "1.2.3.2"):
        said = {tag: data for tag, data in ct(pen).items() if tag not in nobody}
        said[0x00080018] = pen.element(0x00080018, "UI", uid)
        patients |= set(survey(part10(said)).identity.of("patient"))
    assert len(patients) == 2


@pytest.mark.parametrize(
    ("tag", "vr", "said"),
    [
        (0x00081090, "LO", "ROOM GRAY"),
        (0x00180015, "CS", "KNEE GRAY"),
        (0x00080008, "CS", "ORIGINAL\\PRIMARY\\GRAY LEE"),
    ],
)
def test_a_short_surname_goes_from_words_that_makers_write(tag: int, vr: str, said: str) -> None:
    """Lee and Gray are too short to be sought inside of words, and are surnames of millions."""
    pen = Pen()
    out = read(prepare(part10(ct(pen, name="Gray^Lee") | {tag: pen.element(tag, vr, said)}))[1])
    assert "GRAY" not in str(out.get(tag, ""))


@pytest.mark.parametrize("value", ["Jane Doe 55512345", "Smithers 03/04/1951", "Doe^Jane", "jane@hospital.example"])
def test_a_maker_says_no_number_date_or_person(value: str) -> None:
    """The makers' words pass unchanged, so their form is what keeps other words out."""
    assert values.maker(value.encode()) is None


def test_a_word_of_a_kind_is_short_and_holds_no_long_number() -> None:
    assert values.open_word(b"ORIGINAL\\PRIMARY\\M_FFE\\M ") is not None
    assert values.open_word(b"DERIVED\\SMITHERS JOHN 5551234") is None
    assert values.open_word(b"KNEE 55512345") is None


def test_a_makers_name_ends_where_the_word_ends() -> None:
    for told in (b"Canon Medical Systems", b"GE Healthcare", b"TOSHIBA_MEC", b"SIEMENS", b"FUJIFILM Corporation"):
        assert is_maker(told)
    assert not is_maker(b"Canonico^Maria") and not is_maker(b"ATLAS^JOHN")
