"""`mover answers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import with_client

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient

_COLOURS = {"good": "green", "warn": "yellow", "bad": "red"}


@click.command("answers")
@click.argument("question", required=False)
@click.argument("about", required=False)
@with_client
def command(*, mover: SyncClient, out: Output, question: str | None, about: str | None) -> None:
    """What a compliance officer asks, answered from the catalog's rows.

    Without QUESTION: which there are. ABOUT is the id that some of them are about."""
    if question is None:
        asked = mover.answers.questions()
        rows = [(f"mover answers {one.code}{' ID' if one.about else ''}", one.asks) for one in asked.questions]
        out.table(asked, "ask question", rows, empty="there are none")
        return
    said = mover.answers.answer(question, about=about)
    if out.as_json:
        out.json(said)
        return
    colour = _COLOURS.get(said.tone)
    out.note(f"{said.asks}\n  [{colour}]{said.answer}[/]" if colour else f"{said.asks}\n  {said.answer}")
    if said.rows:
        out.table(said, " ".join(name.replace(" ", "-") for name in said.columns), said.rows, empty="")
    if said.cut:
        out.note("… and more; the audit has them all: mover audit list")
    out.note("proof: " + " | ".join(said.proof))
