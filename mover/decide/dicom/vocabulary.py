"""Closed lists: who makes scanners, and the words of an examination's description that name nobody."""

from __future__ import annotations

import re
from typing import Final

from mover.decide.folding import Vocabulary

_MAKERS: Final = tuple(
    name.encode()
    for name in (
        "ge ", "ge_", "gems", "ge medical", "siemens", "philips", "toshiba", "canon", "hitachi", "hologic", "fuji",
        "fujifilm",
        "agfa", "carestream", "kodak", "konica", "shimadzu", "samsung", "medison", "mindray", "esaote", "aloka",
        "acuson", "atl", "bruker", "varian", "elekta", "nucletron", "accuray", "tomotherapy", "brainlab", "raysearch",
        "picker", "marconi", "elscint", "adac", "lodox", "planmeca", "sirona", "vatech", "leica", "aperio", "hamamatsu",
        "3dhistech", "ventana", "roche", "zeiss", "olympus", "nikon", "topcon", "heidelberg", "neusoft",
        "united imaging", "pixelmed", "qimaging", "osirix", "offis", "dcmtk", "imatron", "lumisys", "vidar", "merge",
        "mallinckrodt",
        "cedara", "vital images", "medtronic", "ziehm", "swissray", "sectra", "imaging dynamics", "lorad", "trex",
    )
)  # fmt: skip

DESCRIPTOR_WORDS: Final = frozenset(
    """abd abdomen angio ankle aorta arm arterial axial bilateral biopsy body bolus bone brain breast cardiac cerebral
    cervical chest cine clavicle colon contrast cor coronal cranial ct ctac cta delayed diffusion dixon dorsal dose dual
    dwi dynamic ecg elbow enhanced epi fat femur flair foot forearm frontal full gad gre hand he head heart hip
    humerus image kidney knee lat lateral left leg limb liver localizer lower lumbar lung mammo mip mpr mr mra mri nasal
    neck nm non oblique obstetric orbit ovary pa pancreas pelvis perfusion pet phase plan plus portal post pre prone
    prostate proton recon rest right rt sag sagittal scan scout se sequence series shoulder sinus skull slice soft spect
    spine spleen static stress supine swi t1 t2 te thick thigh thin thoracic thorax tibia tissue tof tra transverse tse
    ultrasound upper us uterus venous vessel view vol volume w wb whole with without wo wrist xr ap pd fs stir adc b0
    3d 2d 1mm 2mm 3mm 5mm""".split()
)
# Defined terms of Image Type, Frame Type and the like (PS3.3), which may be somebody's name, too.
TERMS: Final = Vocabulary(
    [
        *DESCRIPTOR_WORDS,
        *"""original derived primary secondary localizer other none resampled thumbnail fluence projection image m p r i
    phase
    magnitude real imaginary mixed reformatted average averaged max min mean min_ip max_ip add subtraction ratio
    rcbf rcbv rcbf mtt ttp cbf cbv map maps adc fa tensor trace norm nd fm ff csa emission transmission gated tomo
    reprojection attenuation corrected reconstruction recon epicardial obstetrical small parts cardio stress rest tee
    mammographic biplane single plane monoplane occlusal portal drr simulator rtimage blank fluoro radiograph color
    monochrome processing presentation binary fractional yes no unknown patient""".split(),
    ]
)
_TOKENS: Final = re.compile(r"[A-Za-z0-9]+")


def is_maker(raw: bytes) -> bool:
    """Whether a listed maker's name begins the value, as a word: Atlas is nobody's company."""
    told = raw.strip().lower()
    ends = (len(one) for one in _MAKERS if told.startswith(one))
    return any(not (told[end - 1 : end].isalpha() and told[end : end + 1].isalpha()) for end in ends)


def clean_descriptor(text: str) -> str:
    """Only the listed words of a description, in their order (option 113105)."""
    return " ".join(word for word in _TOKENS.findall(text) if word.lower() in DESCRIPTOR_WORDS)[:64]
