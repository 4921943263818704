"""`mover watch`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("watch")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="The daemon's mover.yaml (default: MOVER_CONFIG, ./mover.yaml, /etc/mover/mover.yaml).")  # fmt: skip
@click.pass_context
def command(ctx: click.Context, config: Path | None) -> None:
    """Hear of changes on tiers, for scans of changes only.

    See `mover scan TIER --changes`. Runs beside the daemon until SIGTERM, with CAP_SYS_ADMIN and
    CAP_DAC_READ_SEARCH and nothing else. After each start a full scan has to come first.
    """
    from mover.daemon import watch

    watch(config or ctx.obj.config_path(), ready=_say)


def _say(tiers: list[str]) -> None:
    for tier in tiers:
        click.echo(f"watching {tier}")
