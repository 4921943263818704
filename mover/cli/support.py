"""`mover support`: what somebody who helps needs to see, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mover.cli.common import plan_option, with_output
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.common import Where
    from mover.cli.output import Output
    from mover.settings import Settings

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group("support", cls=WholeLines)
def command() -> None:
    """For who asks for help: a bundle without identifiers."""


@command.command("bundle")
@click.option("-o", "--output", "target", type=FILE, default=Path("mover-support.tar.gz"), show_default=True,
              help="The file to write; nothing is overwritten.")  # fmt: skip
@click.option("--log", "log_files", type=FILE, multiple=True, help="A log of the daemon, instead of the journal.")
@click.option("--lines", type=click.IntRange(0, 20_000), default=2_000, show_default=True, help="The last so many.")
@plan_option
@with_output
@click.pass_context
def bundle(
    ctx: click.Context, *, out: Output, target: Path, log_files: tuple[Path, ...], lines: int, plan: bool
) -> int:
    """Versions, settings, policies, findings, metrics, work and log in one file, and no identifier.

    Run it as the daemon's user, with the daemon running or not. It is written here and sent nowhere: read it, then
    send it yourself. Exit status 1 where something could not be had."""
    from mover.support import SECTIONS, Asked, make

    if plan:
        out.table(SECTIONS, "section holds", SECTIONS.items(), empty="")
        return 0
    settings = _settings(ctx.obj)
    asked = Asked(lines, log_files, tuple(_findings(ctx.obj)), _url(settings))
    made = make(settings, target, asked)
    absent = {name: told for name, told in made.sections.items() if told.startswith("absent")}
    searched = "compared with what the vault knows" if made.searched else "not compared with the vault"
    pairs = [("bundle", made.file), ("bytes", made.size_bytes), ("words", searched)]
    if made.left_out:
        pairs.append(("left out", f"{made.left_out} words that the vault knows"))
    out.facts(made, [*pairs, *absent.items()])
    out.note("Read it before you send it: tar -xzf, then any of the .json files.")
    return 1 if absent else 0


def _settings(where: Where) -> Settings | None:
    """Without settings that are understood there is still something to say; the doctor says what is wrong with them."""
    from mover.cli.handed import handed, with_sources
    from mover.errors import ConfigError

    try:
        settings = where.settings()
    except ConfigError:
        return None
    return with_sources(settings, handed(settings))


def _url(settings: Settings | None) -> str | None:
    from mover.cli.common import local_url

    return None if settings is None else local_url(settings)


def _findings(where: Where) -> list[tuple[str, str, str]]:
    from mover.cli.doctor import _examine

    return [(one.about, one.verdict, one.what) for one in _examine(where)]
