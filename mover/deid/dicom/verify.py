"""The second look at a DICOM object (design: deidentification 4, proof 1-5).

It shares no parser and no list with the writer. pydicom reads the output, as a file that exists nowhere: literals from
the plan, copies from the source. Then

1. the file is what PS3.10 wants: a preamble of zeros, file meta information of the six allowed elements whose UIDs
   are the dataset's own, elements in strictly ascending order, nothing private, nothing behind the dataset;
2. every value is held against an allow-list written here a second time: text only in listed places and forms, names and
   identifiers only as the aliases say, UIDs only registered or the site's own, dates only the source's, moved;
3. everything that is text or bytes is searched for every word of the harvest in all its forms;
4. the pixels are the source's: the same ranges, copied, or equal to them outside of what was masked.

What was found clean once for the same words is not searched again for the next object of the series. Looks 1 to 3 are
`reread`, look 4 is `samepixels`, and `proof` is what both are told.
"""

from __future__ import annotations

import logging
import struct
import warnings
from typing import Final

from pydicom import config
from pydicom.errors import BytesLengthException

from mover.deid.dicom.outcome import ObjectEvidence, ObjectPlan
from mover.deid.dicom.proof import Proof, WrittenFile
from mover.deid.dicom.reread import Rereading, Session
from mover.deid.dicom.samepixels import check_pixels
from mover.errors import RedactionUnproven
from mover.model.deid import DicomRules
from mover.model.source import ByteSource

VERIFIER: Final = "mover-dicom-1"
METHODS: Final = ("pydicom re-read", "second allow-list", "search in all forms", "pixel ranges")
SEEKERS: Final = 32
_PARSER_ERRORS: Final = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error, OSError, NotImplementedError, EOFError,
    RuntimeError, OverflowError, BytesLengthException, UnicodeError,
)  # fmt: skip


class Verifier:
    """Proves outputs one after the other; remembers what it proved of equal values."""

    def __init__(self, rules: DicomRules) -> None:
        self._rules = rules
        self._sessions: dict[object, Session] = {}
        logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # its remarks quote values (D10)
        config.settings.reading_validation_mode = config.IGNORE

    def verify(self, source: ByteSource, plan: ObjectPlan, proof: Proof) -> ObjectEvidence:
        """Evidence, or RedactionUnproven. The caller must not publish anything this did not pass."""
        file = WrittenFile(source, plan)
        session = self._session(proof, plan)
        look = Rereading(self._rules, plan, proof, session)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pixels = look.read(file)
        except _PARSER_ERRORS as error:
            raise RedactionUnproven("the second parser cannot read the output") from error
        digest = check_pixels(file, source, pixels, proof, look.found)
        return ObjectEvidence(
            verifier=VERIFIER,
            methods=METHODS,
            strings_sought=len(session.search.seeker.strings),
            forms_sought=session.search.seeker.forms,
            bytes_searched=look.searched_bytes,
            elements_checked=look.elements,
            frames=len(proof.frames),
            pixel_bytes=sum(span.length for frame in proof.frames for span in frame),
            pixel_list_blake3=digest,
        )

    def _session(self, proof: Proof, plan: ObjectPlan) -> Session:
        key = (proof.subject, proof.people, proof.places, plan.facts.transfer_syntax, plan.facts.sop_class)
        found = self._sessions.get(key)
        if found is None:
            if len(self._sessions) >= SEEKERS:
                self._sessions.clear()
            found = self._sessions[key] = Session(proof.people, proof.places)
        return found
