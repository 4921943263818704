"""What systemd hands to a daemon (`LoadCredential=`): a root shell has no $CREDENTIALS_DIRECTORY, so the doctor reads
the unit and its drop-ins, and looks at the files that these name."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from mover.settings import Settings

# systemd.unit(5): what stands earlier hides a file of the same name later
FOLDERS = tuple(Path(path) for path in (
    "/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
))  # fmt: skip


# what the shipped unit hands over from beside the settings, and `mover units write` from the folder of its side
KEYS = ("vault.key", "certificate.key")


class Handed(Struct, frozen=True):
    """One secret: the file that root reads before the start, and the unit file that says so."""

    name: str
    source: Path
    said_in: Path


def unit_of(settings: Settings) -> str:
    return "mover-identified.service" if settings.role == "identified" else "mover.service"


def handed(settings: Settings) -> dict[str, Handed]:
    """By name; empty where no unit starts a daemon with these settings."""
    found: dict[str, Handed] = {}
    for file in _files(unit_of(settings)):
        for option, value in _lines(file):
            if option == "LoadCredential" and not value:
                found.clear()
            elif option == "LoadCredential":
                name, _, source = value.partition(":")
                found[name] = Handed(name, _path(source), file)
    return found if starts(settings) else {}


def starts(settings: Settings) -> bool:
    """Whether the unit starts a daemon with these settings."""
    told = [value for file in _files(unit_of(settings)) for option, value in _lines(file) if option == "ExecStart"]
    return bool(told) and str(settings.file) in shlex.split(told[-1])


def with_sources(settings: Settings, found: dict[str, Handed]) -> Settings:
    """The settings as the daemon will see them, each handed secret at its source."""

    def at(name: str | None, path: Path) -> Path:
        return found[name].source if name in found else path

    tiers = {
        name: tier if tier.credentials_file is None
        else msgspec.structs.replace(tier, credentials_file=at(tier.credential, tier.credentials_file))
        for name, tier in settings.tiers.items()
    }  # fmt: skip
    return msgspec.structs.replace(
        settings, tiers=tiers, vault_key=at("vault.key", settings.vault_key),
        certificate_key=at("certificate.key", settings.certificate_key),
        audit_key=at("audit.key", settings.audit_key),
        repository_password_file=at("repository-password", settings.repository_password_file),
    )  # fmt: skip


def in_hand(settings: Settings) -> Settings:
    """For a command of root that becomes the owner of the state, who may not read what systemd hands to his daemon:
    keys of tiers and vault, read while we may and kept in memory, as systemd keeps them."""
    from mover.owner import foreign

    owner = foreign(settings.state_dir)
    if owner is None or not settings.database.embedded:
        return settings
    wanted = {"vault.key", *(tier.credential for tier in settings.tiers.values())}
    return with_sources(settings, {
        name: msgspec.structs.replace(one, source=_in_memory(one.source, owner))
        for name, one in handed(settings).items() if name in wanted
    })  # fmt: skip


def _in_memory(path: Path, owner: os.stat_result) -> Path:
    """A copy of the same mode, until this process ends; where there is nothing to copy, its reader says so."""
    from mover.deid.vaultkeys import next_path

    # a key that is being made anew has its successor beside it, which opens both
    newest = next_path(path) if next_path(path).exists() else path
    try:
        with open(newest, "rb") as file:
            body, mode = file.read(), os.fstat(file.fileno()).st_mode
    except OSError:
        return path
    handle = os.memfd_create("handed")
    with open(handle, "wb", closefd=False) as copy:
        copy.write(body)
    os.fchmod(handle, stat.S_IMODE(mode))
    os.fchown(handle, owner.st_uid, owner.st_gid)
    return Path(f"/proc/self/fd/{handle}")


def _files(unit: str) -> list[Path]:
    """The unit, then its drop-ins in the order of their names."""
    main = next((folder / unit for folder in FOLDERS if (folder / unit).is_file()), None)
    if main is None:
        return []
    drop_ins: dict[str, Path] = {}
    for folder in FOLDERS:
        for path in (folder / f"{unit}.d").glob("*.conf"):
            drop_ins.setdefault(path.name, path)
    return [main, *(drop_ins[name] for name in sorted(drop_ins))]


def _lines(file: Path) -> list[tuple[str, str]]:
    try:
        text = file.read_text("utf-8")
    except OSError:
        return []
    told = [line.strip() for line in text.splitlines() if "=" in line and line.strip()[:1] not in ("#", ";")]
    return [(option.strip(), value.strip()) for option, _, value in (line.partition("=") for line in told)]


def _path(value: str) -> Path:
    """As `mover.decide.units.word` writes it."""
    return Path(value.strip('"').replace("%%", "%"))
