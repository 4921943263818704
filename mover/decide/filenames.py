"""Which words of a file's name and of its folders may name somebody.

A slide's stem is its barcode, a folder is often a patient: such words must not be found in any output. But names like
`label`, `slide_1`, `st0` or `volume2` are everybody's, and an output says "label" and "VOLUME" rightly: they would only
make clean files look dirty. So a word counts when it is long enough, is no calendar day, and is more than everybody's
words and a few digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

SHORTEST: Final = 5
WORDS: Final = 200_000  # of one file; more is no dictionary but a bomb

# what everybody's files and folders are called: kinds, formats, vendors, stains, places of work, words of standards
EVERYBODYS: Final = frozenset(
    """
    label macro overview thumbnail thumb preview volume slide slides image images picture pictures scan scans scanned
    scanner level levels layer layers tile tiles index data dataset base baseline main master original originals copy
    copies backup export exports exported import imported input output inbox intake outbox incoming outgoing archive
    archived archives test tests sample samples demo example examples temp tmp new old final draft raw clean deid
    anon anonymized anonymised anonymous deidentified identified case cases patient patients person people subject
    subjects study studies studie series serie session sessions exam exams examination visit visits batch batches run
    runs rack racks tray trays slot barcode barcodes block blocks section sections part parts piece region regions roi
    mask masks annotation annotations report reports result results record records table tables outcome outcomes
    clinical pathology pathologie histology histologie cytology radiology radiologie laboratory labor lab hospital
    department institute university research project projects public private shared share home users user desktop
    documents downloads files file folder folders media storage store volumes server network drive disk unknown none
    null untitled unnamed noname default generic general misc other others various todo done ready quarantine failed
    error broken small large tiny big full half whole multi single first second third last left right front back
    top bottom upper lower normal tumor tumour cancer tissue biopsy resection frozen permanent specimen container
    positive negative control controls stain stains stained staining hande haematoxylin hematoxylin eosin
    brightfield fluorescence dapi channel channels pyramid pyramidal tiled stripped strips
    dicom dicomdir dicoms dcm wsi wsis wsm svs ndpi ndpis vms vmu mrxs scn bif tif tiff bigtiff ome ometif ometiff
    jpeg jpg jp2 jpeg2000 png csv tsv txt xml json ini dat zip iso
    aperio leica hamamatsu ventana roche philips mirax threedhistech histech zeiss olympus sakura nanozoomer scanscope
    axioscan pannoramic panoramic intellisite versa kfbio motic huron trestle siemens toshiba canon fuji agfa
    slidedat datafile vendor format formats version
    mr ct us pt nm cr dx mg xa rf sr sc sm rt rtdose rtplan rtstruct im img ser st se wsi
    january february march april june july august september october november december
    januar februar maerz juni juli oktober dezember
    monday tuesday wednesday thursday friday saturday sunday
    brain breast chest heart liver lung kidney prostate colon skin stomach thyroid pancreas spleen bladder uterus
    ovary cervix abdomen pelvis spine thorax lymph node bone marrow knee shoulder ankle wrist elbow hip head neck
    the and with without from into for
    """.split()
)  # fmt: skip

_SPLIT: Final = re.compile(r"[\s_,;|=/\\^<>\"&?#()\[\]{}+@~!'.:-]+")
_RUNS: Final = re.compile(r"[^\W\d_]+|[0-9]+")
_DAY: Final = re.compile(
    r"(19|20)[0-9]{2}[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12][0-9]|3[01])"
    r"|(0?[1-9]|[12][0-9]|3[01])[-_.](0?[1-9]|[12][0-9]|3[01])[-_.](19|20)[0-9]{2}"
)
# a birthday and four digits are a person's number in the north: the day alone says nothing, the whole says who it is
_PERSON: Final = re.compile(
    r"(?<![0-9])(?:18|19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:[06][1-9]|[1278][0-9]|[39][01])[-+][0-9]{4}(?![0-9])"
)
# an everybody's word with so many digits is still everybody's: IM0001, slide_12, gt450, wsm1, batch2024
_DIGITS: Final = 4


def words_of_name(relative: str) -> tuple[str, ...]:
    """The words of a path below the source that may name somebody: whole parts, and the pieces they consist of."""
    found: dict[str, None] = {}
    folders, _, name = relative.rpartition("/")
    for part in (*folders.split("/"), stem_of(name)):
        for word in (part, *_PERSON.findall(part), *_SPLIT.split(part)):
            if may_name(word):
                found.setdefault(word.strip())
    return tuple(found)


def stem_of(name: str) -> str:
    """A file's name without its last extension. A second one stays: `Smith.John.svs` is somebody."""
    match = re.fullmatch(r"(.+)\.[A-Za-z][A-Za-z0-9]{0,7}", name, re.DOTALL)
    return match.group(1) if match else name


def may_name(word: str) -> bool:
    """Whether finding the word somewhere would say anything about anybody."""
    word = word.strip()
    if len(word) < SHORTEST or _DAY.fullmatch(word):
        return False
    if _PERSON.search(word):
        return True
    runs = _RUNS.findall(word)
    digits = sum(len(run.lstrip("0")) for run in runs if run[0] in "0123456789" and not _DAY.fullmatch(run))
    letters = [run.casefold() for run in runs if run[0] not in "0123456789"]
    if digits > _DIGITS:
        return True
    # pieces of a word short of three letters say nothing beside few digits: A1, IM_12, b-2
    return any(len(run) > 2 and run not in EVERYBODYS and not _everybodys_plural(run) for run in letters)


def _everybodys_plural(run: str) -> bool:
    return run.endswith("s") and run[:-1] in EVERYBODYS


def telling(words: Iterable[str]) -> Iterator[str]:
    """Of words that a patient's records hold (names, numbers, addresses), those worth searching for."""
    for word in words:
        word = " ".join(word.split())
        if may_name(word):
            yield word
