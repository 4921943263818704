"""Published slides as pictures: what a deep zoom asks for, and regions for a report."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mover.api.operation import Call, Operations, Query
from mover.model import wire
from mover.model.pictures import Picture

OPERATIONS = Operations()
JPEG = "image/jpeg"
Pixels = Annotated[int, Meta(ge=1, le=10_000_000)]
Offset = Annotated[int, Meta(ge=0, le=10_000_000)]


class RegionQuery(Query, frozen=True):
    """In pixels of the full size; all of the slide where nothing is said. No edge of the picture is above `edge_px`."""

    x: Offset = 0
    y: Offset = 0
    width: Pixels | None = None
    height: Pixels | None = None
    edge_px: Annotated[int, Meta(ge=16, le=4096)] = 1024


@OPERATIONS.add("GET", "/v1/slides/{number}/view", "slides.read", wire.SlideView, reads="slide")
async def view(call: Call[None, Query]) -> wire.SlideView:
    """The levels of a published slide, for a deep zoom; `still-working` while it is brought from an object tier."""
    return await call.rooms.viewing.view(call.project, call.id)


@OPERATIONS.add("GET", "/v1/slides/{number}/view/{level}/{tile}", "slides.read", str, media_type=JPEG, reads="slide")
async def tile(call: Call[None, Query]) -> Picture:
    """One tile of a level, named COLUMN_ROW, as a JPEG that never changes; levels only, no label and no overview."""
    number, level, place = call.path.values()
    return await call.rooms.viewing.tile(call.project, number, level, place, known=call.known)


@OPERATIONS.add(
    "GET", "/v1/slides/{number}/region", "slides.read", str, query=RegionQuery, media_type=JPEG, reads="slide"
)
async def region(call: Call[None, RegionQuery]) -> Picture:
    """A part of a published slide, or all of it, as one JPEG."""
    query = call.query
    return await call.rooms.viewing.region(
        call.project, call.id, x=query.x, y=query.y, width=query.width, height=query.height, edge_px=query.edge_px
    )
