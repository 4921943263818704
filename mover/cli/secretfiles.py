"""What `mover doctor` says of files that hold a secret: theirs whose daemon it is, wherever they come from."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from mover.cli.handed import KEYS, Handed, unit_of
from mover.cli.logins import APART
from mover.cli.probes import Finding, bad, good, warn
from mover.clock import SYSTEM

if TYPE_CHECKING:
    from mover.settings import Settings, Tier

RENEW_BEFORE = timedelta(days=7)


def secret_files(settings: Settings, found: dict[str, Handed]) -> Iterator[Finding]:
    """Of settings whose handed secrets stand at their sources (`handed.with_sources`)."""
    state = settings.state_dir
    if not state.is_dir():
        yield bad("permissions", f"there is no {state}", "mover init --config /etc/mover")
        return
    problems = 0
    for about, name, path in _wanted(settings):
        problem = _problem(about, path, settings, found.get(name), name)
        if problem is not None:
            problems += 1
            yield problem
    if stat.S_IMODE(state.stat().st_mode) & 0o077:
        problems += 1
        yield bad("permissions", "the state folder is open to others", f"chmod 700 {state}")
    if not problems:
        by_systemd = sorted(name for _, name, _ in _wanted(settings) if name in found)
        says = f"; systemd hands over {' '.join(by_systemd)} (LoadCredential=)" if by_systemd else ""
        yield good("permissions", f"secrets and state are readable by their owner only{says}")
    for tier in settings.tiers.values():
        yield from _temporary(tier)


def _wanted(settings: Settings) -> list[tuple[str, str, Path]]:
    """What each side needs (D20): names and their keys here, snapshots there. What it is called, its name as a
    credential, where it stands."""
    found = []
    if settings.role != "clean":
        found.append(("vault key", "vault.key", settings.vault_key))
    if settings.role != "clean" and settings.certificate_key.exists():  # a site that issues no certificates has none
        found.append(("key of certificates", "certificate.key", settings.certificate_key))
    if settings.role == "both" or settings.role == "clean" and settings.tiers_of(role="protect"):
        found.append(("repository password", "repository-password", settings.repository_password_file))
    for tier in settings.tiers.values():
        if tier.credentials_file:
            found.append((f"credentials of {tier.name}", tier.credential or "", tier.credentials_file))
        if tier.sts and tier.sts.file:
            found.append((f"credentials of {tier.name}", "", tier.sts.file))
    return found


def _problem(about: str, path: Path, settings: Settings, handed: Handed | None, name: str) -> Finding | None:
    about = f"permissions: {about}"
    try:
        status = path.stat()
    except FileNotFoundError:
        return _missing(about, path, settings, handed, name)
    except OSError:
        return warn(about, f"{path} cannot be looked at by this user", "sudo mover doctor")
    if stat.S_IMODE(status.st_mode) & 0o077:
        return bad(about, f"{path} is open to others", f"chmod 600 {path}")
    if handed is None and not os.access(path, os.R_OK):
        return bad(about, f"{path} cannot be read by this user", "sudo mover doctor")
    return None


def _missing(about: str, path: Path, settings: Settings, handed: Handed | None, name: str) -> Finding:
    apart = settings.file.parent / APART / name
    if handed is not None and name in KEYS and apart.exists():
        return bad(about, f"{apart} is there, and {handed.said_in} names {path}: {unit_of(settings)} does not start",
                   f"mover units write && systemctl restart {unit_of(settings)}")  # fmt: skip
    if handed is not None:
        return bad(about, f"{path} is not there, and {handed.said_in} names it: {unit_of(settings)} does not start",
                   f"Put it back: install -m 600 COPY {path}")  # fmt: skip
    waiting = settings.file.parent / "credentials" / name
    if name and waiting.exists():
        return bad(about, f"{waiting} is there, and no unit hands it over",
                   f"mover units write && systemctl restart {unit_of(settings)}")  # fmt: skip
    return bad(about, f"{path} is not there", f"Put it back: install -m 600 -o OWNER COPY {path}")


def _temporary(tier: Tier) -> Iterator[Finding]:
    """Keys of a session end, and with them every call to the store; STS of the settings renews its own."""
    from mover.errors import MoverError
    from mover.tiers.credentials import read_credentials

    if tier.credentials_file is None or not (tier.url or "").startswith("s3:"):
        return
    about = f"credentials of {tier.name}"
    try:
        keys = read_credentials(tier.credentials_file)
    except MoverError as error:
        if os.access(tier.credentials_file, os.R_OK):
            yield bad(about, error.what, error.advice)
        return
    if not keys.session_token and keys.expires_at is None:
        return
    lasting = "Give long-lived keys, or let them be renewed: credentials: {sts: …} (docs/object-tiers.md)."
    if keys.expires_at is None:
        yield warn(about, "they are a session's (STS) and end; the file does not say when", lasting)
        return
    left = keys.expires_at - SYSTEM.now()
    words = f"they are a session's (STS), and {{}} on {keys.expires_at:%Y-%m-%d %H:%M} UTC"
    if left <= timedelta(0):
        yield bad(about, words.format("ended"), lasting)
    elif left < RENEW_BEFORE:
        yield warn(about, words.format("end"), lasting)
    else:
        yield good(about, words.format("end"))
