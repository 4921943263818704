"""What runs in the parsing child for DICOM (D16): functions over open descriptors, msgpack out.

The answers hold identifiers (a survey) or the harvest (a plan): they travel over a socket pair between two of our own
processes and nowhere else. One object's refusal is a value in the list; nothing else is caught.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from mover.deid.child import FdSource
from mover.deid.dicom.gather import Gatherer, Look, survey_of
from mover.deid.dicom.outcome import PreparedAnswer, SurveyAnswer
from mover.deid.dicom.plan import Engine
from mover.deid.identity import Aliases, Refused
from mover.errors import IdentityError, IntegrityError, LimitExceeded
from mover.model.deid import DicomRules, PixelRules
from scanners.dicom.walk import read_object

# What a file can bring about; anything else is a fault of ours and ends the child.
_REFUSALS = (IdentityError, IntegrityError, LimitExceeded)


def survey(*fds: int) -> bytes:
    gatherer = Gatherer()

    def look(fd: int) -> SurveyAnswer:
        source = FdSource(fd)
        return SurveyAnswer(survey=survey_of(Look(source, read_object(source)), gatherer))

    return _answers(fds, look, lambda refused: SurveyAnswer(refused=refused))


def prepare(*words: int | bytes) -> bytes:
    """Descriptors, then the packed (aliases, rules, pixel rules, known)."""
    *fds, packed = words
    aliases, rules, pixels, known = msgspec.msgpack.decode(
        bytes(packed), type=tuple[Aliases, DicomRules, PixelRules, tuple[str, ...]]
    )
    engine = Engine(aliases=aliases, rules=rules, pixels=pixels, known=known)
    return _answers(
        fds,
        lambda fd: PreparedAnswer(prepared=engine.prepare(FdSource(fd))),
        lambda refused: PreparedAnswer(refused=refused),
    )


def _answers(
    fds: Sequence[int | bytes], call: Callable[[int], Struct], refuse: Callable[[Refused], Struct]
) -> bytes:
    found: list[Struct] = []
    for fd in fds:
        try:
            found.append(call(int(fd)))
        except _REFUSALS as refusal:
            found.append(refuse(Refused(refusal.code, refusal.what)))
    return msgspec.msgpack.encode(found)
