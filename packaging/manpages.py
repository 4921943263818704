"""Man pages of every command: `python packaging/manpages.py FOLDER`. Options and words are the commands' own."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import click_man.core

from mover import __version__
from mover.cli import command
from mover.schedulers import kueue, slurm


def write(folder: Path) -> list[Path]:
    commands = {"mover": command, "mover-slurm": slurm.command, "mover-kueue": kueue.command}
    return [page for name, one in commands.items() for page in _below(click.Context(one, info_name=name), folder)]


def _below(ctx: click.Context, folder: Path) -> list[Path]:
    """By asking the group: ours load their commands when they are asked for them."""
    page = folder / f"{ctx.command_path.replace(' ', '-')}.1"
    group = ctx.command
    if isinstance(group, click.Group):
        group.commands = {name: group.get_command(ctx, name) for name in group.list_commands(ctx)}  # type: ignore[misc]
    page.write_text(click_man.core.generate_man_page(ctx, version=__version__), "utf-8")
    inner = group.commands if isinstance(group, click.Group) else {}
    pages = [_below(click.Context(one, info_name=name, parent=ctx), folder) for name, one in inner.items()]
    return [page, *(one for of_it in pages for one in of_it)]


def _whole(command: click.Command, limit: int = 500) -> str:
    """The sentence to its end: what is cut off is mostly what sets a command apart."""
    return command.get_short_help_str(limit)


click_man.core.get_short_help_str = _whole


if __name__ == "__main__":
    write(Path(sys.argv[1]))
