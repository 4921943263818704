"""DICOM by its own reader: which kind of object a file says it is, so that its refusal names what waits.

Only the file meta information (PS3.10, section 7.1) is looked at, in a bounded head: group 0002 is always explicit
VR little endian, whatever follows it, so neither a deflated dataset nor a sequence without end is ever opened.
What the reader cannot make sense of is DICOM of no known kind, which is refused all the same.
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from io import BytesIO
from typing import Final

from mover.model.source import ByteSource

HEAD_BYTES: Final = 16 << 10
PREAMBLE_BYTES: Final = 128


def is_mine(head: bytes) -> bool:
    """PS3.10 7.1: a preamble of 128 bytes, which may itself look like a TIFF, and a prefix."""
    return head[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] == b"DICM"


def family(source: ByteSource) -> str:
    """"DICOM" and the name that the standard gives to the object's SOP class, when it is one of its classes.

    Only names out of pydicom's own dictionary come back: a UID from the file could spell anything.
    """
    # the reader takes half a second to import, and most files are no DICOM
    from pydicom.uid import UID_dictionary

    known = UID_dictionary.get(_sop_class(source.read(0, min(HEAD_BYTES, source.size_bytes))))
    return f"DICOM {known[0].removesuffix(' Storage')}" if known else "DICOM"


def _sop_class(head: bytes) -> str:
    """Media Storage SOP Class UID (0002,0002), "" where the head does not tell."""
    from pydicom import config
    from pydicom.errors import BytesLengthException, InvalidDicomError
    from pydicom.filereader import read_partial

    # the reader's remarks quote values of the file (D10)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    config.settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = read_partial(BytesIO(head), stop_when=lambda tag, vr, length: True)
            return str(read.file_meta.get("MediaStorageSOPClassUID", ""))
    except (InvalidDicomError, BytesLengthException, EOFError, ValueError, LookupError, AttributeError, TypeError,
            NotImplementedError, OverflowError, struct.error, zlib.error):  # fmt: skip
        return ""
