"""Through the sandbox, as workflows call it: many objects in one child, each with an answer of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mover.deid import dicom as front
from mover.deid.deidentify import SLIDE_LIMITS
from mover.deid.dicom import OBJECTS_PER_CALL, ObjectSurvey, PreparedObject, prepare_objects, survey_objects
from mover.deid.identity import Refused
from mover.errors import LimitExceeded
from mover.model.deid import DicomRules
from mover.sandbox import Sandbox
from tests.deid.dicom.raw import Pen, ct, part10
from tests.deid.dicom.support import TRUSTING, aliases_of


@pytest.mark.slow
def test_a_broken_object_does_not_spoil_its_neighbours(tmp_path: Path) -> None:
    whole = part10(ct(Pen()))
    fds = []
    for place, data in enumerate((whole, whole[: len(whole) // 2], b"no DICOM at all", whole)):
        path = tmp_path / str(place)
        path.write_bytes(data)
        fds.append(os.open(path, os.O_RDONLY))
    with Sandbox(("mover.deid.dicom.child",), limits=SLIDE_LIMITS) as sandbox:
        surveys = survey_objects(sandbox, fds)
        found = [one for one in surveys if isinstance(one, ObjectSurvey)]
        answers = prepare_objects(sandbox, fds, aliases=aliases_of(*found), rules=DicomRules(), pixels=TRUSTING)
    for fd in fds:
        os.close(fd)
    assert [type(one) for one in answers] == [PreparedObject, Refused, Refused, PreparedObject]
    first, last = answers[0], answers[3]
    assert isinstance(first, PreparedObject) and isinstance(last, PreparedObject) and first.plan == last.plan


def test_a_child_gets_a_bounded_number_of_objects_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child's memory and time are those of a few large objects as well as of many small ones."""
    monkeypatch.setattr(front, "CHILD_BYTES", 1000)
    fds = []
    for place, size in enumerate((400, 400, 400, 5000, 10, 10, 10, 10)):
        (tmp_path / str(place)).write_bytes(bytes(size))
        fds.append(os.open(tmp_path / str(place), os.O_RDONLY))
    parts = [[fds.index(fd) for fd in part] for part in front._parts(fds, 3)]
    for fd in fds:
        os.close(fd)
    assert parts == [[0, 1], [2], [3], [4, 5, 6], [7]]


def test_a_call_has_a_bound() -> None:
    with Sandbox() as sandbox, pytest.raises(LimitExceeded):
        survey_objects(sandbox, [0] * (OBJECTS_PER_CALL + 1))
