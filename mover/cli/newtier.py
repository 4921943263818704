"""`mover tier add`: a tier of its own file beside the settings, which a daemon takes while it runs.

For whoever may write the settings, on the machine itself: no route does this, and no daemon writes where tiers are
declared. What a daemon refuses is taken away again, so that its next start does not fail by it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from mover.cli import newfile
from mover.cli.common import plan_option, with_output
from mover.model.tiers import TierRole, Zone

if TYPE_CHECKING:
    from mover.cli.common import Where
    from mover.cli.output import Output
    from mover.settings import Settings

LOOK_S = 1.0
RUNNING = Path("/run/systemd/system")  # sd_booted(3)


@click.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(get_args(TierRole)), required=True, help="What it is for.")
@click.option("--zone", type=click.Choice(get_args(Zone)), default="deidentified", show_default=True,
              help="Whether names of patients may stand there.")  # fmt: skip
@click.option("--path", help="The folder of a posix tier.")
@click.option("--seen-as", help="The same folder as the cluster's nodes call it.")
@click.option("--url", help="The bucket of an object tier, such as s3://name/prefix.")
@click.option("--endpoint", help="Its S3 endpoint (none for AWS).")
@click.option("--region", help="Its region.")
@click.option("--credentials-file", help="The file with its credentials.")
@click.option("--read-only", is_flag=True, help="Nothing is ever written to it.")
@click.option("--deletes/--no-deletes", default=False, help="Switch deletion on, or leave it off, as it is unsaid.")
@click.option("--timeout", "timeout_s", type=click.IntRange(1, 3600), default=60, show_default=True, metavar="SECONDS",
              help="How long a daemon that runs may take for it.")  # fmt: skip
@plan_option
@with_output
@click.pass_context
def add(ctx: click.Context, *, out: Output, name: str, timeout_s: int, plan: bool, **said: Any) -> int:
    """Declare one tier more, in a file beside mover.yaml; a daemon that runs takes it without a restart.

    The place is looked at first. What the daemon refuses is not left behind.
    """
    from mover.cli.probes import print_finding
    from mover.settings import tiers_folder

    settings = ctx.obj.settings()
    file = tiers_folder(settings.file) / f"{name}.yaml"
    text = _text(said)
    findings = _look(settings, name, text)
    for finding in findings:
        if not out.as_json:
            print_finding(out, finding)
    if any(finding.verdict == "bad" for finding in findings):
        if out.as_json:
            out.json({"file": None, "findings": findings})
        out.note("\nNothing was written. Mend what is marked [red]bad[/].")
        return 1
    if plan:
        value = {"file": str(file), "text": text, "findings": findings}
        out.show(value, lambda: click.echo(f"\nwould be written, {file}:\n{text}", nl=False))
        return 0
    # a daemon looks there every few seconds
    newfile.folder(file.parent)
    newfile.place(file, text)
    taken = _wait(ctx.obj, name, timeout_s)
    if taken is not None and not taken["taken"]:
        file.unlink()
    out.show({"file": str(file), "daemon": taken}, lambda: _tell(file, name, taken))
    return 0 if taken is None or taken["taken"] else 1


def _text(said: dict[str, Any]) -> str:
    """JSON strings are YAML strings."""
    import msgspec

    kept = {key: value for key, value in said.items() if value not in (None, False)}
    kept = {"kind": "posix" if said["path"] else "object", **kept}
    for key in ("path", "credentials_file"):
        if key in kept:
            kept[key] = str(Path(kept[key]).expanduser().absolute())
    if not said["read_only"]:
        kept["deletes"] = said["deletes"]
    lines = (f"{key}: {msgspec.json.encode(value).decode()}\n" for key, value in kept.items())
    return "# Written by `mover tier add`.\n" + "".join(lines)


def _look(settings: Settings, name: str, text: str) -> list[Any]:
    """By the one reader of settings, so that nothing is written that a start would refuse."""
    from mover.cli import probes
    from mover.settings import load

    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / f"{name}.yaml"
        draft.write_text(text, "utf-8")
        grown = load(settings.file, draft=(name, draft))
    tiers = list(grown.tiers.values())
    with probes.as_its_user(settings) as who:
        beside = [one for one in probes.overlapping(tiers) if name in one.about.split() + one.what.split()]
        return [*probes.look_at_place(grown.tiers[name], who=who), *beside, *probes.shared_devices(tiers)]


def _wait(where: Where, name: str, timeout_s: int) -> dict[str, Any] | None:
    """What the daemon made of it; None where none runs."""
    from mover.clock import monotonic_s, pause
    from mover.errors import MoverError, ServiceUnreachable

    until_s, why = monotonic_s() + timeout_s, "it did not look within the time"
    try:
        with where.connect() as mover:
            while monotonic_s() < until_s:
                if any(tier.name == name and tier.online for tier in mover.tiers()):
                    return {"taken": True, "why": ""}
                told = [line for line in mover.status().warnings if line.startswith((f"{name}: ", "settings: "))]
                if told:
                    return {"taken": False, "why": told[0]}
                pause(LOOK_S)
    except ServiceUnreachable:
        return None
    except MoverError as error:
        why = error.what
    return {"taken": False, "why": why}


def _tell(file: Path, name: str, taken: dict[str, Any] | None) -> None:
    if taken is None:
        click.echo(f"written: {file}\nNo daemon answers; it takes the tier when it starts.")
    elif taken["taken"]:
        click.echo(f"written: {file}\nThe daemon works with {name}. Next: mover doctor --try {name}")
    else:
        click.echo(f"The daemon did not take it, and {file} is gone again: {taken['why']}")
    if RUNNING.is_dir():
        click.echo("Under systemd a unit sees only what its drop-in opens: mover units write, then restart it.")
