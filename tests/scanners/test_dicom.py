"""DICOM is refused by its true kind until its writer exists; no file can make the reader fail or talk."""

from __future__ import annotations

import os
import random
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

import scanners
from mover.deid.deidentify import prepare_slide, slide_sandbox
from mover.errors import FormatUnsupported
from mover.model.source import MemorySource
from scanners import dicom
from tests.scanners.test_structure import CountingSource

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
MAGNETIC_RESONANCE = "1.2.840.10008.5.1.4.1.1.4"


def instance(sop_class: str = WHOLE_SLIDE, syntax: str = ExplicitVRLittleEndian, pixels: int = 64) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.PatientName = sop_class, "1.2.3", "Quincy^Ada"
    dataset.PixelData = bytes(pixels)
    dataset["PixelData"].VR = "OW"
    out = BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("sop_class", "kind"),
    [(WHOLE_SLIDE, "DICOM VL Whole Slide Microscopy Image:"), (MAGNETIC_RESONANCE, "DICOM MR Image:")],
)
def test_dicom_is_refused_by_the_name_of_its_class(sop_class: str, kind: str, syntax: str) -> None:
    """Whoever looks at the quarantine sees whether slides or brains wait there, under whatever name."""
    with pytest.raises(FormatUnsupported, match=f"^{kind} recognised"):
        scanners.identify(MemorySource(instance(sop_class, syntax)), ".svs")


def test_a_uid_of_nobody_is_not_repeated() -> None:
    """A UID is free text to whoever writes the file: it may hold a patient's number."""
    made = instance("1.2.826.0.1.19640711.4711")
    with pytest.raises(FormatUnsupported) as refusal:
        scanners.identify(MemorySource(made), ".dcm")
    assert refusal.value.what.startswith("DICOM: recognised")


def test_a_large_file_is_known_by_its_head() -> None:
    source = CountingSource(instance(pixels=8 << 20))
    assert dicom.family(source) == "DICOM VL Whole Slide Microscopy Image"
    assert source.read_bytes <= dicom.HEAD_BYTES


def test_no_damage_gets_more_than_a_refusal(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does the reader quote the file while it fails."""
    seed, made = random.Random(5), instance()
    for _ in range(400):
        data = bytearray(made)
        for _ in range(seed.randrange(1, 12)):
            data[seed.randrange(132, 400)] = seed.randrange(256)
        del data[seed.randrange(133, len(data)) :]
        with pytest.raises(FormatUnsupported, match="^DICOM"):
            scanners.identify(MemorySource(bytes(data)), ".dcm")
    told = capfd.readouterr()
    assert told.out + told.err + caplog.text == ""


def test_every_readable_sample_is_named_as_pydicom_reads_it() -> None:
    """The real files of many makers and all transfer syntaxes."""
    folder = Path(os.environ.get("MOVER_SAMPLES", "")) / "dicom"
    if not os.environ.get("MOVER_SAMPLES") or not folder.is_dir():
        pytest.skip("MOVER_SAMPLES is not set: the sample files are not here")
    named = 0
    for path in sorted(folder.rglob("*.dcm")):
        head = path.read_bytes()
        if not dicom.is_mine(head):
            continue
        found = dicom.family(MemorySource(head))
        meta = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"]).file_meta
        told = meta.get("MediaStorageSOPClassUID")
        unnamed = told is None or told.name == told
        assert found == ("DICOM" if unnamed else f"DICOM {told.name.removesuffix(' Storage')}")
        named += not unnamed
    assert named > 10


@pytest.mark.slow
def test_the_confined_child_may_load_the_reader(tmp_path: Path) -> None:
    """It is imported only when a DICOM file comes, when the child has no files left but our libraries."""
    path = tmp_path / "scan.dcm"
    path.write_bytes(instance())
    refusal = pytest.raises(FormatUnsupported, match="VL Whole Slide Microscopy Image")
    with slide_sandbox(max_children=1) as sandbox, open(path, "rb") as file, refusal:
        prepare_slide(sandbox, file.fileno(), suffix=".dcm")
