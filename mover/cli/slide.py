"""`mover slide`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mover.cli.common import Moment, after_option, limit_option, timeout_option, with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient


@click.group("slide", cls=WholeLines)
def command() -> None:
    """The de-identified slides of the project."""


@command.command("list")
@click.option("--batch", help="Only what packs of this batch became.")
@click.option("--family", help="Only of this family, such as aperio-svs.")
@click.option("--state", type=click.Choice(["published", "aligned", "withdrawn", "removed"]),
              help="Only in this state: aligned once records say something of it.")  # fmt: skip
@click.option("--since", type=Moment(), help="Only what was published from then on; UTC.")
@click.option("--until", type=Moment(), help="Only what was published before then.")
@click.option("--tag", help="Only what people put this tag on.")
@after_option
@limit_option
@with_client
def list_slides(
    *, mover: SyncClient, out: Output, batch: str | None, family: str | None, state: wire.SlideState | None,
    since: datetime | None, until: datetime | None, tag: str | None, after: str | None, limit: int,
) -> None:  # fmt: skip
    """The slides granted to the project, or some of them, by number."""
    from mover.cli.output import size

    page = mover.slides.list(
        batch=batch, family=family, state=state, since=since, until=until, tag=tag, after=after, limit=limit
    )
    rows = [
        (s.number, s.family, size(s.size_bytes), s.digest[:16], "yes" if s.aligned else "no", " ".join(s.tags))
        for s in page.slides
    ]
    asked = any((batch, family, state, since, until, tag))
    none = "none of these" if asked else "no slides yet: mover batch ready FOLDER"
    out.table(page, "number family bytes> digest records tags", rows, empty=none)
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
        ("tags", " ".join(slide.tags) or None),
        ("bytes removed", f"{slide.removed_at:%Y-%m-%d %H:%M}" if slide.removed_at else None),
    ]
    out.facts(slide, [*fixed, *facts, *known])


@command.command("evidence")
@click.argument("number")
@with_client
def evidence(*, mover: SyncClient, out: Output, number: str) -> None:
    """What was removed from a slide, changed and kept, masked; and what was looked for in what is left."""
    one = mover.slides.evidence(number)
    rows = [(j.action, j.code, j.place, j.shape, str(j.times), j.reason) for j in one.judgements]
    out.table(one, "action code place shape times> why", rows, empty="adopted: it came de-identified")
    looked = ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in one.looked.items())
    out.note(f"looked through: {looked or 'nothing'}; proved: {', '.join(p.kind for p in one.proofs) or 'nothing'}")


@command.command("thumbnail")
@click.argument("number")
@click.option("--to", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
@with_client
def thumbnail(*, mover: SyncClient, out: Output, number: str, to: Path) -> None:
    """The small picture of a slide, made anew when it was published, into a file."""
    found = mover.slides.thumbnail(number)
    to.write_bytes(found.data)
    out.facts(
        {"number": number, "digest": found.digest, "file": str(to)},
        [("number", number), ("digest", found.digest), ("bytes", str(len(found.data))), ("file", str(to))],
    )


_TO = click.option(
    "-o", "--to", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write, a JPEG."
)
_PATIENCE_S = 600.0


@command.command("levels")
@click.argument("number")
@with_client
def levels(*, mover: SyncClient, out: Output, number: str) -> None:
    """The levels of a slide that tiles are drawn of."""
    seen = mover.slides.levels(number)
    mpp = f"{seen.mpp_x:g} x {seen.mpp_y:g} µm" if seen.mpp_x and seen.mpp_y else None
    out.facts(
        seen,
        [
            ("number", seen.number),
            ("pixels", f"{seen.width} x {seen.height}"),
            ("a pixel", mpp),
            ("levels", f"{seen.first_level} to {seen.levels - 1}, the last one in full"),
            ("tiles", f"{seen.tile_px} pixels wide and high"),
        ],
    )


@command.command("tile")
@click.argument("number")
@click.argument("level", type=click.IntRange(0, 99))
@click.argument("tile", metavar="COLUMN_ROW")
@_TO
@with_client
def tile(*, mover: SyncClient, out: Output, number: str, level: int, tile: str, to: Path) -> None:
    """One tile of a level into a file, as a viewer asks for it."""
    column, _, row = tile.partition("_")
    if not (column.isdecimal() and row.isdecimal()):
        raise click.BadParameter("a tile is named COLUMN_ROW, such as 3_0", param_hint="COLUMN_ROW")
    _written(out, number, to, mover.slides.tile(number, level, int(column), int(row)))


@command.command("view")
@click.argument("number")
@_TO
@click.option("--x", type=click.IntRange(0), default=0, help="The left edge of the part, in pixels of the full size.")
@click.option("--y", type=click.IntRange(0), default=0, help="Its upper edge.")
@click.option("--width", type=click.IntRange(1), help="How wide the part is; to the right edge when absent.")
@click.option("--height", type=click.IntRange(1), help="How high it is; to the lower edge when absent.")
@click.option("--edge", type=click.IntRange(16, 4096), default=1024, help="The longer edge of the picture, at most.")
@timeout_option
@with_client
def view(
    *, mover: SyncClient, out: Output, number: str, to: Path, x: int, y: int, width: int | None, height: int | None,
    edge: int, timeout_s: float | None,
) -> None:  # fmt: skip
    """A picture of a slide, or of a part of it, into a file; waits while the slide comes from an object tier."""
    patience_s = _PATIENCE_S if timeout_s is None else timeout_s
    data = mover.slides.region(number, x=x, y=y, width=width, height=height, edge_px=edge, patience_s=patience_s)
    _written(out, number, to, data)


def _written(out: Output, number: str, to: Path, data: bytes) -> None:
    to.write_bytes(data)
    facts = {"number": number, "bytes": len(data), "file": str(to)}
    out.facts(facts, [("number", number), ("bytes", str(len(data))), ("file", str(to))])


@command.command("reinstate")
@click.argument("number")
@click.option("--reason", required=True, help="Why the withdrawal was a false alarm; it stands in the audit record.")
@with_client
def reinstate(*, mover: SyncClient, out: Output, number: str, reason: str) -> None:
    """Ask that a withdrawn slide be taken back among the slides. A second person grants it."""
    _asked(out, mover.rulings.ask(number, "reinstate", reason=reason))


@command.command("remove")
@click.argument("number")
@click.option("--reason", required=True, help="Why its bytes shall go for good; it stands in the audit record.")
@with_client
def remove(*, mover: SyncClient, out: Output, number: str, reason: str) -> None:
    """Ask that the bytes of a withdrawn slide be removed from the archive for good. A second person grants it."""
    _asked(out, mover.rulings.ask(number, "remove", reason=reason))


@command.command("rulings")
@click.option("--open", "open_", is_flag=True, help="Only those that wait for a second person.")
@click.option("--slide", "number", help="Only those about this slide.")
@after_option
@limit_option
@with_client
def rulings(
    *, mover: SyncClient, out: Output, open_: bool, number: str | None, after: str | None, limit: int
) -> None:
    """What was asked and decided about withdrawn slides, newest first."""
    page = mover.rulings.list(open=open_, number=number, after=after, limit=limit)
    rows = [(one.id, one.number, one.action, one.state, one.asked_by, one.decided_by or "", one.reason)
            for one in page.rulings]  # fmt: skip
    out.table(page, "ruling number action state asked decided reason", rows, empty="nothing was asked")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("grant")
@click.argument("ruling")
@click.option("--reason", required=True, help="What you looked at; it stands in the audit record.")
@click.option("--manifests", default=0, help="So many kept manifests name a slide that is to be removed: I know.")
@timeout_option
@with_client
def grant(
    *, mover: SyncClient, out: Output, ruling: str, reason: str, manifests: int, timeout_s: float | None
) -> int:
    """Grant what somebody else asked, as a custodian; wait until it is done. Exit status 1 when it failed."""
    mover.rulings.decide(ruling, "grant", reason=reason, manifests=manifests)
    done = mover.rulings.wait(ruling, timeout_s=timeout_s)
    _show(out, done)
    return 0 if done.state == "done" else 1


@command.command("decline")
@click.argument("ruling")
@click.option("--reason", required=True, help="What you looked at; it stands in the audit record.")
@with_client
def decline(*, mover: SyncClient, out: Output, ruling: str, reason: str) -> None:
    """Decline what somebody else asked, as a custodian; the slide stays as it is."""
    _show(out, mover.rulings.decide(ruling, "decline", reason=reason))


def _asked(out: Output, ruling: wire.Ruling) -> None:
    _show(out, ruling)
    out.note(f"a custodian who is not {ruling.asked_by}: mover slide grant {ruling.id} --reason TEXT")


def _show(out: Output, one: wire.Ruling) -> None:
    from mover.cli.output import state

    out.facts(
        one,
        [
            ("ruling", one.id),
            ("slide", one.number),
            ("action", one.action),
            ("state", state(one.state)),
            ("asked", f"{one.asked_by}: {one.reason}"),
            ("decided", f"{one.decided_by}: {one.decision}" if one.decided_by else None),
            ("manifests", f"{one.manifests} kept ones that name it break by this" if one.manifests else None),
            ("why", one.explanation),
        ],
    )
