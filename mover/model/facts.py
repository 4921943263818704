"""What a cohort can ask about: the facts of every slide, and the columns that records add to a project."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

FactType = Literal["text", "integer", "number", "boolean", "date", "year"]


class FactColumn(Struct, frozen=True):
    """One column by its fact's name. `allowed` are the values of an enumeration, when it has them."""

    name: str
    type: str
    table: str
    allowed: tuple[str, ...] | None = None


# what a slide is called; no record may give a fact this name
SLIDE_KEYS = ("number", "subject")

# what people put on slides, any number of each; `tag` in an expression asks whether one is among them
TAG = "tag"

# known of every slide without any record. A record's fact of the same name goes before; `slide.mpp` is then
# what the slide itself says
SLIDE_COLUMNS: dict[str, FactType] = {
    "number": "text",
    "subject": "text",
    "family": "text",
    "vendor": "text",
    "extension": "text",
    "compression": "text",
    "width": "integer",
    "height": "integer",
    "levels": "integer",
    "mpp": "number",
    "objective": "number",
    "size_bytes": "integer",
    # of folders of DICOM objects; `rows` and `columns` where all pictures have the same
    "modality": "text",
    "objects": "integer",
    "frames": "integer",
    "rows": "integer",
    "columns": "integer",
}
