"""By what an object's patient is known."""

from __future__ import annotations

import io

import pydicom
import pytest

from mover.deid.dicom.gather import Look
from mover.deid.identity import entity_key
from mover.model.source import MemorySource
from scanners.dicom.walk import read_object
from tests.support import objects


def key_of(**attributes: str) -> str:
    dataset = pydicom.dcmread(io.BytesIO(objects.ct(1)))
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    source = MemorySource(target.getvalue())
    return Look(source, read_object(source)).patient


def test_the_issuer_is_part_of_the_number() -> None:
    """Two hospitals' equal record numbers are two patients."""
    ours, theirs = (key_of(PatientID="4711", IssuerOfPatientID=one) for one in ("Ward A", "Ward B"))
    assert ours != theirs and key_of(PatientID="4711", IssuerOfPatientID=" WARD A") == ours
    assert key_of(PatientID="4711", IssuerOfPatientID="") == key_of(PatientID="4711") == entity_key("patient", "4711")


@pytest.mark.parametrize("number", ["UNKNOWN", "0000", "N/A", "anonymous"])
def test_a_placeholder_makes_no_patient_of_many(number: str) -> None:
    """Then the name says who it is; where that says nothing either, the study does."""
    assert key_of(PatientID=number, PatientName="Quincy^Jane") == entity_key("patient", "Quincy^Jane")
    one = key_of(PatientID=number, PatientName="ANONYMOUS", StudyInstanceUID="1.2.3")
    other = key_of(PatientID=number, PatientName="ANONYMOUS", StudyInstanceUID="1.2.4")
    assert one != other
