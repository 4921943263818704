"""Real objects of many makers: each comes out clean or is refused with a true reason, and none crashes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mover.errors import MoverError
from tests.deid.dicom.support import prepare, read

# Cut off on purpose, and one that is no object.
REFUSED = {"MR_truncated.dcm", "rtplan_truncated.dcm", "no_meta.dcm"}
RETAINED = (
    "Rows Columns BitsAllocated BitsStored PixelRepresentation SamplesPerPixel PixelSpacing SliceThickness Modality "
    "ImageOrientationPatient ImagePositionPatient KVP RepetitionTime EchoTime RescaleSlope RescaleIntercept "
    "WindowCenter SOPClassUID ImageType BodyPartExamined TotalPixelMatrixRows Manufacturer LossyImageCompression"
).split()


def samples() -> list[Path]:
    folder = Path(os.environ.get("MOVER_SAMPLES", "")) / "dicom"
    if not os.environ.get("MOVER_SAMPLES") or not folder.is_dir():
        pytest.skip("MOVER_SAMPLES is not set: the sample files are not here")
    return sorted(folder.glob("*.dcm"))


@pytest.mark.soak  # each picture is read for burned-in text
def test_every_sample_comes_out_clean_or_is_refused() -> None:
    refused = set()
    for path in samples():
        data = path.read_bytes()
        try:
            made, out = prepare(data)
        except MoverError:
            refused.add(path.name)
            continue
        before, after = read(data) if data[128:132] == b"DICM" else None, read(out)
        assert after.PatientIdentityRemoved == "YES" and not [one for one in after if one.tag.is_private]
        for keyword in RETAINED if before is not None else ():
            if keyword in before and not path.name.startswith("hd_sm"):  # whose patient is called as its maker
                assert before.get(keyword) == after.get(keyword), (path.name, keyword)
        native = before is not None and "PixelData" in before and not made.plan.facts.masked_boxes
        if native and before.file_meta.TransferSyntaxUID.is_compressed is False:
            assert after.PixelData[: len(before.PixelData)] == before.PixelData[: len(after.PixelData)]
        assert made.evidence.elements_checked > 5
    assert refused == REFUSED
