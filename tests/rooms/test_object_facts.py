"""What cohorts may ask about a folder of DICOM objects: nothing that does not hold for the whole."""

from __future__ import annotations

from typing import Any

from mover.deid.dicom import ObjectFacts
from mover.ingest.facts import object_facts

SYNTAX = {"plain": "1.2.840.10008.1.2.1", "jpeg": "1.2.840.10008.1.2.4.50"}


def one(**more: Any) -> ObjectFacts:
    told: dict[str, Any] = {
        "family": "dicom", "role": "image", "sop_class": "1", "class_name": "CT Image", "modality": "CT",
        "transfer_syntax": SYNTAX["plain"], "study": "1", "series": "1", "instance": "1", "patient": "S1", "rows": 512,
        "columns": 256, "frames": 1, "instance_number": 1, "matrix_columns": 0, "matrix_rows": 0, "methods": (),
        "pixels": "",
    }  # fmt: skip
    return ObjectFacts(**{**told, **more})


def facts(*objects: ObjectFacts, family: str = "dicom") -> dict[str, Any]:
    return object_facts(objects, family=family)


def test_what_all_pictures_share_is_said_and_what_differs_is_not() -> None:
    same = facts(one(), one(frames=4))
    assert same == {"objects": 2, "modality": "CT", "frames": 5, "rows": 512, "columns": 256, "subject": "S1",
                    "compression": "none"}  # fmt: skip
    mixed = facts(one(), one(rows=64, transfer_syntax=SYNTAX["jpeg"]))
    assert mixed == {"objects": 2, "modality": "CT", "frames": 2, "columns": 256, "subject": "S1"}


def test_the_modality_is_that_of_the_pictures() -> None:
    """A report or a screenshot beside a CT leaves it a CT; two kinds of pictures are named as DICOM names them."""
    report = one(modality="SR", rows=0, columns=0, frames=0)
    assert facts(one(), report, one(modality="OT"))["modality"] == "CT"
    assert facts(one(modality="PT"), one())["modality"] == "CT\\PT"
    assert facts(report)["modality"] == "SR" and facts(one(modality="OT"))["modality"] == "OT"


def test_a_word_of_the_files_own_choice_is_no_modality() -> None:
    """Facts stand in the ordinary catalog, where no name may (I2)."""
    assert "modality" not in facts(one(modality="QUINCY"))


def test_a_pyramid_is_made_of_levels_alone() -> None:
    level = {"family": "dicom-wsm", "modality": "SM", "rows": 256, "columns": 256, "level": True}
    big = one(**level, matrix_columns=4096, matrix_rows=2048, mpp_x=0.25, mpp_y=0.26, objective=40.0)
    small = one(**level, matrix_columns=1024, matrix_rows=512, mpp_x=1.0, mpp_y=1.04)
    thumbnail = one(family="dicom-wsm", modality="SM", matrix_columns=300, matrix_rows=150)
    told = facts(small, big, big, thumbnail, family="dicom-wsm")
    wanted = {"width": 4096, "height": 2048, "levels": 2, "mpp_x": 0.25, "mpp_y": 0.26, "objective": 40.0, "objects": 4}
    assert {name: told[name] for name in wanted} == wanted and told["level_sizes"] == [[4096, 2048], [1024, 512]]
    assert "rows" not in told and "levels" not in facts(thumbnail, family="dicom-wsm")
