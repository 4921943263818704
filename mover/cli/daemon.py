"""`mover daemon`."""

from __future__ import annotations

import gc
import resource
from pathlib import Path

import click


@click.command("daemon")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Its mover.yaml (default: MOVER_CONFIG, ./mover.yaml, /etc/mover/mover.yaml).")  # fmt: skip
@click.pass_context
def command(ctx: click.Context, config: Path | None) -> None:
    """Run the daemon in the foreground until SIGTERM or SIGINT; systemd is told when it is ready."""
    gc.disable()
    from mover.daemon import main
    from mover.log import close_side_doors

    # what is loaded stays: looking through it for garbage made a third of the start
    gc.freeze()
    gc.enable()
    # memory holds the vault's key and original names: a crash leaves no picture of it, whoever started us
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    close_side_doors()
    main(config or ctx.obj.config_path(), ready=_say)


def _say(urls: list[str]) -> None:
    for url in urls:
        click.echo(f"serving {url}")
