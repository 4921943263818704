"""Words between the desks that judge a slide and the writer that compiles what they decided."""

from __future__ import annotations

from msgspec import Struct

from mover.model.slides import Decision, Value


class OutTag(Struct, frozen=True):
    """A tag as it will stand in the output: TIFF type and decoded value."""

    code: int
    kind: int
    value: Value


class OutPage(Struct, frozen=True):
    """A directory of the output. With `blank` the page stands, because readers count on it, and every tile of it is
    one blank literal; `children` are its SubIFDs."""

    index: int
    tags: tuple[OutTag, ...]
    blank: bool = False
    children: tuple[OutPage, ...] = ()


class Redaction(Struct, frozen=True):
    """`pages` are the levels. `thumbnail` is the directory of a picture that is yet to be drawn from them. `around` are
    listed words that hold something removed as a part: inside of these it is no trace."""

    decisions: tuple[Decision, ...]
    pages: tuple[OutPage, ...]
    removed: tuple[str, ...]
    thumbnail: OutPage | None = None
    around: tuple[str, ...] = ()
