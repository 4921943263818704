"""`mover demo`."""

from __future__ import annotations

import importlib
from pathlib import Path

import click


@click.command("demo")
@click.option("--root", type=click.Path(file_okay=False, readable=False, path_type=Path), default=".demo",
              show_default=True, help="The folder for everything the demo makes.")  # fmt: skip
@click.option("--serve", is_flag=True, help="Leave the daemon running and print its URL.")
@click.option("--stop", is_flag=True, help="End what an earlier demo left running.")
@click.option("--remove", is_flag=True, help="End it and delete the folder.")
@click.option("--scale", type=click.FloatRange(0.01, 10), default=1.0, show_default=True, help="Size of the hospital.")
@click.option("--linger", "linger_s", type=click.IntRange(min=0), metavar="SECONDS",
              help="How long daemon and bucket stay up afterwards (default: half an hour; 0: not at all).")
def command(root: Path, serve: bool, stop: bool, remove: bool, scale: float, linger_s: int | None) -> None:
    """Run the whole workflow on a small generated hospital, through the same API a scheduler calls."""
    # the two rooms stand side by side: neither imports the other, the name is enough
    story = importlib.import_module("mover.demo.story")
    if sum((serve, stop, remove)) > 1:
        raise click.UsageError("choose one of --serve, --stop and --remove")
    if stop:
        story.stop(root)
        return
    try:
        story.main(root, serve=serve, remove=remove, scale=scale, linger_s=linger_s)
    except KeyboardInterrupt:
        click.echo("stopped, and so is everything the demo had started; call it again to begin anew", err=True)
        raise click.exceptions.Exit(130) from None
