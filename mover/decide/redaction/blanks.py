"""The structure of a page that stands blank: as its own where that is plain JPEG, else the plainest there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from mover.decide.redaction.words import OutTag
from mover.model.slides import Page, Place, Value

_RGB: Final = ((258, (8, 8, 8)), (277, (3,)), (284, (1,)))
_GREY: Final = ((258, (8,)), (262, (1,)), (277, (1,)), (284, (1,)))
_THINNED: Final = frozenset({(1, 1), (2, 1), (2, 2)})
_DEFLATE: Final = 8


def blank_tags(page: Page, places: Iterable[Place]) -> tuple[OutTag, ...]:
    """Everything but where the pixels lie. A blank JPEG must have the subsampling its page says, so both are
    decided here: the page's own where it is a usual one."""
    told = {place.tag: place.value for place in places if not place.key and isinstance(place.value, tuple)}
    numbers = _encoding(page, told)
    tags = [OutTag(256, 4, (page.width,)), OutTag(257, 4, (page.height,))]
    if page.tile_width:
        tags += [OutTag(322, 4, (page.tile_width,)), OutTag(323, 4, (page.tile_height,))]
    else:
        tags.append(OutTag(278, 4, (page.height,)))  # one strip
    return (*tags, *(OutTag(code, 3, value) for code, value in numbers))


def _encoding(page: Page, told: Mapping[int, Value]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    bits = told.get(258)
    if page.compression == 7 and bits == (8,):
        return (*_GREY, (259, (7,)))
    if page.compression == 7 and bits == (8, 8, 8) and told.get(262) == (2,):
        return (*_RGB, (259, (7,)), (262, (2,)))
    if page.compression == 7 and bits == (8, 8, 8):
        thinned = told.get(530)
        usual = thinned if isinstance(thinned, tuple) and thinned in _THINNED else (2, 2)
        return (*_RGB, (259, (7,)), (262, (6,)), (530, (int(usual[0]), int(usual[1]))))
    return (*_RGB, (259, (_DEFLATE,)), (262, (2,)))
