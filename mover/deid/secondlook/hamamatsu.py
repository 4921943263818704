"""What may stand in a Hamamatsu NDPI output, written a second time."""

from __future__ import annotations

import re
from typing import Final

from mover.deid.secondlook.rules import Family, Pages


def _levels(pages: Pages) -> frozenset[int]:
    return frozenset(number for number, page in enumerate(pages) if page.tags.valueof(65421) > 0)


RULES: Final = Family(
    tags=frozenset(
        {256, 257, 258, 259, 262, 271, 272, 273, 274, 277, 278, 279, 282, 283, 284, 296, 305, 339, 530, 531, 532,
         65420, 65421, 65422, 65423, 65424, 65426, 65432, 65435, 65436, 65437, 65438, 65441, 65444, 65449, 65451}
    ),
    texts={
        271: re.compile(r"Hamamatsu"),
        272: re.compile(r"C[0-9]{4,5}(-[0-9]{2})?|NanoZoomer [A-Z0-9]{1,5}"),
        305: re.compile(r"NDP\.scan( U[0-9]{1,2})? [0-9.]{3,14}"),
        65449: re.compile(
            r"((system\.version|Objective\.Lens\.Magnificant|ccd\.width|ccd\.height|target\.white\.intensity|cube\.kind"
            r"|variable\.exposuretime|colorfilterID)=-?[0-9]{1,5}(\.[0-9]{1,6}){0,2}(\r\n|$)"
            r"|Product=C[0-9]{4,5}(-[0-9]{2})?(\r\n|$))+"
        ),
    },
    levels=_levels,
    is_ndpi=True,
)  # fmt: skip
