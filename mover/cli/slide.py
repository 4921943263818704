"""`mover slide`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import after_option, limit_option, with_client

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient


@click.group("slide")
def command() -> None:
    """The de-identified slides of the project."""


@command.command("list")
@after_option
@limit_option
@with_client
def list_slides(*, mover: SyncClient, out: Output, after: str | None, limit: int) -> None:
    """The slides granted to the project, by number."""
    from mover.cli.output import size

    page = mover.slides.list(after=after, limit=limit)
    rows = [(s.number, s.family, size(s.size_bytes), s.digest[:16], "yes" if s.aligned else "no") for s in page.slides]
    out.table(page, "number family bytes> digest records", rows, empty="no slides yet: mover batch ready FOLDER")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("show")
@click.argument("number")
@with_client
def show(*, mover: SyncClient, out: Output, number: str) -> None:
    """One slide with what is known of it."""
    from mover.cli.output import size

    slide = mover.slides.view(number)
    known = [(name, value) for name, value in sorted((slide.aligned or {}).items())]
    facts = [(name, value) for name, value in sorted(slide.facts.items())]
    fixed = [
        ("number", slide.number),
        ("family", slide.family),
        ("bytes", size(slide.size_bytes)),
        ("digest", slide.digest),
        ("withdrawn", slide.withdrawn),
    ]
    out.facts(slide, [*fixed, *facts, *known])
