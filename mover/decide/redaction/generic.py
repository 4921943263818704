"""What of a pyramidal TIFF of no vendor may pass: structure, resolution and colour, and no word at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from mover.decide.redaction.desk import STRUCTURAL, Check, Desk, among, within

GENERIC: Final[dict[int, tuple[int, Check]]] = {
    **{code: rule for code, rule in STRUCTURAL.items() if code != 32997},
    258: (3, among(1, 8, 12, 16, 32)),  # BitsPerSample
    259: (3, among(1, 5, 7, 8, 32946, 33003, 33004, 33005, 34712, 50000, 50001)),  # Compression
    262: (3, among(0, 1, 2, 6)),  # PhotometricInterpretation
    266: (3, among(1)),  # FillOrder
    277: (3, within(1, 64)),  # SamplesPerPixel
    284: (3, among(1, 2)),  # PlanarConfiguration
    317: (3, among(1, 2, 3)),  # Predictor
    338: (3, among(0, 1, 2)),  # ExtraSamples
    339: (3, among(1, 2, 3)),  # SampleFormat
    32997: (4, among(1)),  # ImageDepth
}


class GenericDesk(Desk):
    rules = GENERIC
    defaults: ClassVar[Mapping[int, int]] = {258: 1, 259: 1, 277: 1}
