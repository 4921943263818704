"""De-identify DICOM objects through the sandbox: the front that the one-shot command and batches use.

A call takes up to OBJECTS_PER_CALL open descriptors and answers for each, in order, with a value or a `Refused`:
one broken object never spoils its neighbours. Few large objects keep one child as busy as many small ones, so that a
child is given no more than CHILD_BYTES, or one object. When the child itself dies (a crash, a limit), the call is made
again object by object, so that only the guilty one is refused (D16). Label and overview instances of whole slides
come back as `Refused` with the code of `errors.InstanceDropped`: dropped by rule, not quarantined.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

import msgspec

from mover.deid.dicom.outcome import (
    ObjectEvidence,
    ObjectFacts,
    ObjectPlan,
    ObjectSurvey,
    PreparedAnswer,
    PreparedObject,
    SurveyAnswer,
)
from mover.deid.identity import Aliases, Refused
from mover.errors import LimitExceeded, SandboxFailed
from mover.model.deid import DicomRules, PixelRules
from mover.sandbox import Sandbox, read_answer

OBJECTS_PER_CALL: Final = 120  # descriptors that a caller holds open, for each of its threads
CHILD_BYTES: Final = 256 << 20
READ_BY_ONE: Final = 30  # objects of one child that may have to be read for burned-in text: seconds each
TIMEOUT_S: Final = 600.0
_T = TypeVar("_T")


def survey_objects(sandbox: Sandbox, fds: Sequence[int]) -> list[ObjectSurvey | Refused]:
    """Who and what each object speaks of, from its header alone. Nothing is judged but its structure."""
    return by_children(fds, OBJECTS_PER_CALL, lambda part: _survey(sandbox, part))


def prepare_objects(
    sandbox: Sandbox,
    fds: Sequence[int],
    *,
    aliases: Aliases,
    rules: DicomRules,
    pixels: PixelRules,
    known: tuple[str, ...] = (),
) -> list[PreparedObject | Refused]:
    """Plan and prove each object. `aliases` must hold every patient, entity and UID that the objects' surveys
    named: what is missing there is refused (`place-unknown`), never invented. `known` are identifiers from outside
    (file names, names and numbers from records) that must not be found in any output either."""
    most = OBJECTS_PER_CALL if pixels.burned_in == "trust" else READ_BY_ONE
    return by_children(fds, most, lambda part: _prepare(sandbox, part, (aliases, rules, pixels, known)))


def by_children(
    fds: Sequence[int], most: int, call: Callable[[Sequence[int]], list[_T | Refused]]
) -> list[_T | Refused]:
    """An answer for each, from as many children as it takes."""
    if len(fds) > OBJECTS_PER_CALL:
        raise LimitExceeded(f"more than {OBJECTS_PER_CALL} objects in one call")
    return [one for part in _parts(fds, most) for one in _part(part, call)]


def _parts(fds: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    """The descriptors in their order, each part as much as one child is given."""
    start = size_bytes = 0
    for at, fd in enumerate(fds):
        size_bytes += os.fstat(fd).st_size
        if at > start and (size_bytes > CHILD_BYTES or at - start >= most):
            yield fds[start:at]
            start, size_bytes = at, os.fstat(fd).st_size
    if fds:
        yield fds[start:]


def _part(fds: Sequence[int], call: Callable[[Sequence[int]], list[_T | Refused]]) -> list[_T | Refused]:
    try:
        return call(fds)
    except SandboxFailed as failure:
        if len(fds) == 1:
            return [Refused(failure.code, failure.what)]
    return [one for fd in fds for one in _part((fd,), call)]


def _survey(sandbox: Sandbox, fds: Sequence[int]) -> list[ObjectSurvey | Refused]:
    answer = sandbox.run("mover.deid.dicom.child:survey", (), tuple(fds), timeout_s=TIMEOUT_S)
    made = read_answer(answer, list[SurveyAnswer])
    return [one.survey or one.refused or Refused(SandboxFailed.code, "an empty answer") for one in made]


def _prepare(
    sandbox: Sandbox, fds: Sequence[int], words: tuple[Aliases, DicomRules, PixelRules, tuple[str, ...]]
) -> list[PreparedObject | Refused]:
    packed = msgspec.msgpack.encode(words)
    answer = sandbox.run("mover.deid.dicom.child:prepare", (packed,), tuple(fds), timeout_s=TIMEOUT_S)
    made = read_answer(answer, list[PreparedAnswer])
    return [one.prepared or one.refused or Refused(SandboxFailed.code, "an empty answer") for one in made]


__all__ = [
    "OBJECTS_PER_CALL",
    "ObjectEvidence",
    "ObjectFacts",
    "ObjectPlan",
    "ObjectSurvey",
    "PreparedObject",
    "prepare_objects",
    "survey_objects",
]
