from __future__ import annotations
from msgspec import Struct
from mover.deid.dicom.outcome import ObjectEvidence
class Proof(Struct, frozen=True):
    subject: object
    uids: object
    keys: object
    number: str
    people: object
    places: object
    frames: object
    masked: bool
class Verifier:
    def __init__(self, rules): pass
    def verify(self, source, plan, proof):
        return ObjectEvidence('', (), 0,0,0,0,0,0,'')
