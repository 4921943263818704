"""What of a slide may pass, and why. No IO: a scan goes in, decisions come out.

The rule is an allow-list, typed (design: deidentification 1.1). A tag passes when it is listed for the family
and its value has the listed type and range; a vendor's key passes when it is listed and parses as its type.
Everything else is dropped (PS3.15 code X) or written anew from structure (D). Nobody decides by what a value
*looks* like, except to drop what is allowed but carries something that was removed elsewhere.

`Redaction.removed` is the harvest: every dropped or changed string. It is as sensitive as the source; it exists
so that the second pass can search the output for it, and goes nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mover.decide.redaction.aperio import AperioDesk, thumbnail_size
from mover.decide.redaction.desk import Desk, OutPage, OutTag, Redaction
from mover.decide.redaction.generic import GenericDesk
from mover.decide.redaction.hamamatsu import HamamatsuDesk
from mover.decide.redaction.leica import LeicaDesk
from mover.decide.redaction.ome import OmeDesk
from mover.decide.redaction.philips import PhilipsDesk
from mover.decide.redaction.texts import shape_of, strings_of
from mover.decide.redaction.ventana import VentanaDesk
from mover.model.slides import SlideScan

__all__ = ["OutPage", "OutTag", "Redaction", "judge_slide", "shape_of", "strings_of", "thumbnail_size"]

DESKS: Final[dict[str, type[Desk]]] = {
    "aperio-svs": AperioDesk,
    "generic-tiff": GenericDesk,
    "hamamatsu-ndpi": HamamatsuDesk,
    "leica-scn": LeicaDesk,
    "ome-tiff": OmeDesk,
    "philips-tiff": PhilipsDesk,
    "ventana-bif": VentanaDesk,
}


def judge_slide(scan: SlideScan, *, known: Iterable[str] = (), unwanted: Iterable[str] = ()) -> Redaction:
    """Decide about every place of a scanned slide. `known` are identifiers from outside (names, numbers of
    the case, the file's own name): they join the harvest. `unwanted` are listed keys that a profile leaves out.

    Raises PlaceUnknown when something that must be kept cannot be, or carries what was removed elsewhere.
    """
    desk = DESKS[scan.family](scan, known)
    desk.unwanted = frozenset(key.casefold() for key in unwanted)
    return desk.judge()
