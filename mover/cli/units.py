"""`mover units`: from the settings of a site to the drop-ins of its units. For root, on the machine itself.

Nothing is started or stopped here: which moment is a good one for that is a person's to say.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from mover.cli.common import plan_option, with_output
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.decide.units import Line, Place, Site, Unit
    from mover.model import wire
    from mover.settings import Settings

FOLDER = Path("/etc/mover")
FILES = ("mover.yaml", "identified.yaml")  # what the units name
UNITS = Path("/etc/systemd/system")
DROP_IN = "50-tiers.conf"
RUNNING = Path("/run/systemd/system")  # sd_booted(3)
FSTAB = Path("/etc/fstab")
CREDENTIALS = Path("/run/credentials")  # systemd's, which hides them itself
TLS = Path("/etc/ssl/private")

settings_argument = click.argument(
    "files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="[SETTINGS]..."
)


class Written(Struct, frozen=True):
    """One drop-in: `text` is None where none is needed any more, `before` what stands there now."""

    unit: str
    path: Path
    lines: tuple[Line, ...]
    text: str | None
    before: str | None

    @property
    def action(self) -> str:
        if self.text == self.before:
            return "keep"
        return "remove" if self.text is None else "write"


@click.group("units", cls=WholeLines)
def command() -> None:
    """What systemd is told: drop-ins of the units, from the declared tiers; where a site stands."""


@command.command("write")
@settings_argument
@click.option("--into", type=click.Path(file_okay=False, path_type=Path), default=UNITS, show_default=True,
              metavar="DIR", help="Where drop-ins of units stand.")  # fmt: skip
@plan_option
@with_output
def write(*, out: Output, files: tuple[Path, ...], into: Path, plan: bool) -> None:
    """Open declared tiers to the unit that works there, hide the others.

    From /etc/mover/mover.yaml and /etc/mover/identified.yaml, those of both that exist, or from the files named. Call
    it again after a tier was added; nothing is restarted by it.
    """
    from mover.decide.units import remarks

    sites = _sites(files)
    found = _drop_ins(sites, into)
    if plan:
        out.plan(_plan(found))
    else:
        for one in found:
            _put(one)
        changed = [one for one in found if one.action != "keep"]
        if changed and into == UNITS and RUNNING.is_dir():
            subprocess.run(["systemctl", "daemon-reload"], check=True)
        value = [{"action": one.action, "file": str(one.path)} for one in found]
        out.table(value, "action file", [(one.action, one.path) for one in found], empty="no settings, no drop-ins")
        if changed:
            out.note("What runs goes on as it was started: systemctl restart " + " ".join(one.unit for one in changed))
    for remark in [*_stricter(found), *(remark for site in sites for remark in remarks(site))]:
        out.note(remark)


@command.command("where")
@settings_argument
@with_output
def where(*, out: Output, files: tuple[Path, ...]) -> None:
    """Where everything of this site stands: what an uninstall leaves."""
    found = [place for settings in _read(files) for place in _standing(settings)]
    value = [{"what": what, "where": place} for what, place in found]
    out.table(value, "what where", found, empty=f"no settings in {FOLDER}: nothing of a site stands here")


# --- from settings to facts -----------------------------------------------------------------------------------


def _read(files: tuple[Path, ...]) -> list[Settings]:
    from mover.settings import load

    wanted = files or tuple(path for path in (FOLDER / name for name in FILES) if path.exists())
    return [load(path) for path in wanted]


def _sites(files: tuple[Path, ...]) -> list[Site]:
    from mover.decide.units import mistakes
    from mover.errors import SettingsInvalid

    read = _read(files)
    sites = [_site(one, [other for other in read if other is not one]) for one in read]
    wrong = [
        {"where": str(one.file), "what": what} for one, site in zip(read, sites, strict=True) for what in mistakes(site)
    ]
    if wrong:
        raise SettingsInvalid("a tier or the state stands where no unit could work", details=wrong,
                              hint="Put it elsewhere, or bind it to another path.")  # fmt: skip
    return sites


def _site(settings: Settings, others: list[Settings]) -> Site:
    from urllib.parse import urlsplit

    from psycopg.conninfo import conninfo_to_dict

    from mover.decide.units import Site

    identified = settings.role == "identified"
    mine = {place.path for place in _places(settings)}
    host = str(conninfo_to_dict(settings.database.dsn).get("host", "")) if settings.database.dsn else ""
    return Site(
        identified=identified,
        state_dir=str(settings.state_dir),
        places=tuple(_places(settings)),
        hidden=tuple(
            place for other in others for place in _places(other) if place.identified and place.path not in mine
        ),
        other_state=next((str(other.state_dir) for other in others), ""),
        other_secrets=tuple(dict.fromkeys(path for other in others for path in _kept_from(settings, other))),
        secrets=tuple(_secrets(settings)),
        hosts=tuple(
            (tier.name, urlsplit(tier.endpoint).hostname or "")
            for tier in settings.tiers.values()
            if tier.kind == "object" and tier.endpoint
        ),
        database_by_network=bool(host) and not host.startswith("/"),
    )


def _places(settings: Settings) -> list[Place]:
    """What is mounted now, and what fstab(5) would mount: a server may be away in the very minute of an upgrade."""
    from mover.decide.units import Place
    from mover.tiers.mounts import listed, mount_of, table

    mounts = table()
    mounts += [one for one in listed(FSTAB) if one.network]
    found = []
    for tier in settings.tiers.values():
        if tier.path is not None:
            mount = mount_of(tier.path, mounts=mounts)
            found.append(Place(
                tier.name, str(tier.path), tier.zone == "identified", tier.read_only,
                mount=str(mount.point) if mount.network else "",
            ))  # fmt: skip
    return found


def _secrets(settings: Settings) -> list[tuple[str, str]]:
    """Those that stand in our folder for it. What the unit names itself is not said twice."""
    from mover.cli.handed import KEYS
    from mover.cli.logins import APART

    folder = settings.file.parent / "credentials"
    keys = [(name, settings.file.parent / APART / name) for name in KEYS if settings.role == "identified"]
    wanted = [tier.credential for tier in settings.tiers.values() if tier.credential]
    wanted += ["audit.key", "oidc-client-secret"] + ["repository-password"] * (settings.role != "identified")
    found = [*keys, *((name, folder / name) for name in dict.fromkeys(wanted))]
    return [(name, str(path)) for name, path in found if path.exists()]


def _kept_from(settings: Settings, other: Settings) -> Iterator[str]:
    """What opens something for the other one and is not named here. Of a folder of its own beside the settings the
    folder: what is hidden as a file is seen again as soon as another one is renamed over it."""
    ours, home = set(_paths(settings)), other.file.parent
    for file in _secret_files(other):
        apart = file.parent != home and file.parent.is_relative_to(home)
        hidden = file.parent if apart and not any(path.is_relative_to(file.parent) for path in ours) else file
        if hidden not in ours and not any(hidden.is_relative_to(known) for known in (other.state_dir, CREDENTIALS)):
            yield str(hidden)
    if not any(path.is_relative_to(TLS) for path in ours):
        yield str(TLS)


def _secret_files(settings: Settings) -> Iterator[Path]:
    from psycopg.conninfo import conninfo_to_dict

    database = settings.database
    yield from (settings.vault_key, settings.vault_tombstones, *(settings.drill_keys or ()))
    yield from (settings.certificate_key, settings.audit_key, settings.repository_password_file)
    for dsn in (database.dsn, database.vault_dsn, database.dump_dsn):
        said = conninfo_to_dict(dsn) if dsn else {}
        yield from (Path(str(said[name])) for name in ("passfile", "sslkey") if said.get(name))
    named = [database.dsn_file, database.vault_dsn_file, database.dump_dsn_file]
    named += [tier.credentials_file for tier in settings.tiers.values()]
    for receiver in settings.receivers.values():
        named += [getattr(receiver, "token_file", None), getattr(receiver, "password_file", None)]
    named += [settings.listen.tls.key] if settings.listen.tls else []
    yield from (file for file in named if file is not None)


def _paths(value: object) -> Iterator[Path]:
    """Every path that the settings name."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Struct):
        yield from _paths([getattr(value, name) for name in value.__struct_fields__])
    elif isinstance(value, dict):
        yield from _paths(list(value.values()))
    elif isinstance(value, list | tuple):
        yield from (path for one in value for path in _paths(one))


def _standing(settings: Settings) -> list[tuple[str, str]]:
    """Keys where root keeps them, not where systemd shows them to a daemon."""
    from mover.cli.handed import handed, with_sources

    settings = with_sources(settings, handed(settings))
    found = [("settings", settings.file), ("policies", settings.policies), ("state", settings.state_dir)]
    if settings.role != "clean":
        found += [("vault key", settings.vault_key), ("erased names", settings.vault_tombstones)]
    found += [("audit key", settings.audit_key), ("repository password", settings.repository_password_file)]
    database = settings.state_dir / "postgres" if settings.database.embedded else "the server of its DSN"
    tiers = [(f"tier {tier.name}", str(tier.path or tier.url)) for tier in settings.tiers.values()]
    return [(what, str(place)) for what, place in found] + [("database", str(database)), *tiers]


# --- drop-ins -------------------------------------------------------------------------------------------------


def _drop_ins(sites: list[Site], into: Path) -> list[Written]:
    from mover.decide.units import UNITS as every
    from mover.decide.units import lines, units_of

    told = {unit: lines(unit, site) for site in sites for unit in units_of(identified=site.identified)}
    found = [_drop_in(unit, told.get(unit, []), into / f"{unit}.d" / DROP_IN) for unit in every]
    return [one for one in found if one.text is not None or one.before is not None]


def _drop_in(unit: Unit, told: list[Line], path: Path) -> Written:
    from mover.decide.units import drop_in

    before = path.read_text("utf-8") if path.exists() else None
    return Written(unit, path, tuple(told), drop_in(told) if told else None, before)


def _stricter(found: list[Written]) -> Iterator[str]:
    """What was waited for and is required from now on: neither mounted now nor in fstab(5)."""
    for one in found:
        if one.text is not None and one.before is not None:
            waited = {line for line in one.before.splitlines() if line.startswith("Wants=")}
            for line in sorted(waited - set(one.text.splitlines())):
                mount = line.partition("=")[2]
                yield f"{one.unit} does not wait for {mount} any more: mount it, or name it in {FSTAB}, and write again"


def _put(one: Written) -> None:
    """Beside it and renamed: systemd reads the old lines or the new ones."""
    if one.action == "remove":
        one.path.unlink()
    elif one.action == "write":
        one.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        aside = one.path.with_suffix(".partial")
        aside.write_text(one.text or "", "utf-8")
        aside.chmod(0o644)
        os.replace(aside, one.path)


def _plan(found: list[Written]) -> wire.Plan:
    from mover.model import wire

    steps = []
    for one in found:
        steps.append(wire.PlanStep(action=one.action, subject=str(one.path), reason=_why(one)))
        steps += [
            wire.PlanStep(action="tell", subject=f"{line.option}={line.value}", reason=line.reason)
            for line in one.lines
        ]
    counts = dict(Counter(one.action for one in found))
    return wire.Plan(step="units write", counts=counts, bytes=0, steps=steps)


def _why(one: Written) -> str:
    if one.action == "keep":
        return "says what the settings say already"
    return "no settings name this unit any more" if one.text is None else f"what {one.unit} may see"
