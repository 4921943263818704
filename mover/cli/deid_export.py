"""`mover deid export`: the maps of a one-shot's crosswalk file."""

from __future__ import annotations

from pathlib import Path

import click

from mover.cli.watching import refuse

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("export")
@click.argument("crosswalk", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--uids", type=_FILE, help="Original UID and new UID, as CSV of two columns.")
@click.option("--patients", type=_FILE, help="Original patient id and new patient id, as CSV of two columns.")
@click.option("--purpose", required=True, help="Why; it stands in the crosswalk from then on. No names in it.")
@click.option("--json", "as_json", is_flag=True, help="Print how many rows each map has as JSON.")
def command(crosswalk: Path, uids: Path | None, patients: Path | None, purpose: str, as_json: bool) -> None:
    """Write the UID and patient maps of a CROSSWALK file as MIDI-B takes them.

    The maps are as secret as the crosswalk: 0600, never overwritten, not among the clean files and in no deidentified
    zone. What a daemon de-identified stands in its vault: mover vault export.
    """
    import msgspec

    from mover.deid.oneshot.export import What, export_maps
    from mover.errors import MoverError

    given: dict[What, Path | None] = {"uids": uids, "patients": patients}
    wanted = {what: path for what, path in given.items() if path is not None}
    if not wanted:
        raise click.UsageError("name --uids FILE, --patients FILE or both")
    try:
        counts = export_maps(crosswalk, wanted, purpose=purpose)
    except MoverError as error:
        refuse(error, as_json=as_json)
    if as_json:
        click.echo(msgspec.json.encode({"rows": counts}).decode())
        return
    for what, count in counts.items():
        click.echo(f"{what}: {count} {'row' if count == 1 else 'rows'} (keep the file as secret as the crosswalk)")
