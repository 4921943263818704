"""What `mover doctor` says of the machine around the daemon: programs, limits, mounts, room, certificates, clocks."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mover.cli.probes import ANSWER_S, Finding, bad, good, may, name_of, name_of_unit, user_of, warn
from mover.clock import SYSTEM
from mover.owner import acting

if TYPE_CHECKING:
    from mover.settings import Settings, Tier

# a database, three object stores and the groups of small files, all at once
LEAST_FILES = 8192
# stores refuse what was signed a quarter of an hour away
STORE_GAP_S = 60.0
STORE_REFUSES_S = 900.0
RENEW_DAYS = 21
LEAST_FREE_SHARE = 0.05


def versions() -> Iterator[Finding]:
    """Beside our own: what judges our outputs, and what can open our snapshots without us."""
    import openslide

    yield good("versions", f"OpenSlide {openslide.__library_version__}")
    restic = shutil.which("restic")
    if restic is None:
        yield good("versions", "no restic on this machine; Mover needs none, people without Mover do")
        return
    told = subprocess.run([restic, "version"], capture_output=True, text=True, timeout=ANSWER_S, check=False)
    yield good("versions", " ".join(told.stdout.split()[:2]) or "restic says nothing of its version")


def limits(hard: int | None = None) -> Iterator[Finding]:
    """Of this shell; the units set their own."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if hard is None else hard
    if hard != resource.RLIM_INFINITY and hard < LEAST_FILES:
        yield warn("limits", f"at most {hard} open files", f"Raise nofile to {LEAST_FILES} or more (limits.conf(5)).")
    else:
        yield good("limits", f"{'any number of' if hard == resource.RLIM_INFINITY else hard} open files")


def time_zone() -> Iterator[Finding]:
    """Records are in UTC; this is what a person on this machine reads beside them."""
    now = SYSTEM.now()
    yield good("time zone", f"{now.astimezone().tzname()} on this machine; Mover records and shows UTC")


# --- folders ---------------------------------------------------------------------------------------------------


def mounted(settings: Settings) -> Iterator[Finding]:
    from mover.tiers import mounts

    for tier in _posix(settings):
        mount = mounts.stands_on(_path(tier))
        about, words = f"tier {tier.name}", f"on {mount.filesystem}"
        if mount.soft:
            yield bad(about, f"{words}, mounted soft: it may lose what it accepted", "Mount it hard (docs/nfs.md).")
        elif mount.option("ro") is not None and not tier.read_only:
            yield bad(about, f"{words}, mounted read-only", "Mount it rw, or say `read_only: true` of a source.")
        elif mount.option("nolock") is not None or mount.option("local_lock") in ("all", "flock"):
            yield warn(about, f"{words}, with locks that other machines do not see", "Mount it without nolock.")
        else:
            yield good(about, words)
    hooks = mounts.mount_of(settings.hooks_dir)
    if os.path.isdir(settings.hooks_dir) and hooks.option("noexec") is not None:
        yield bad("hooks", "they stand on a file system mounted noexec", "Mount it with exec, or move `hooks_dir`.")


def room(settings: Settings) -> Iterator[Finding]:
    """A full state folder stops the database, and with it everything."""
    from mover.cli.output import size

    state = [("state", settings.state_dir)] if os.path.isdir(settings.state_dir) else []
    tiers = [(f"tier {tier.name}", _path(tier)) for tier in _posix(settings) if not tier.read_only]
    for about, path in state + tiers:
        facts = os.statvfs(path)
        free, whole = facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize
        if whole and free < LEAST_FREE_SHARE * whole:
            yield warn(about, f"{size(free)} free of {size(whole)}", "Clean up, or make it larger.")
        elif facts.f_files and facts.f_favail < LEAST_FREE_SHARE * facts.f_files:
            yield warn(about, f"{facts.f_favail} inodes free of {facts.f_files}", "Remove small files there.")
        elif about == "state":
            yield good(about, f"{size(free)} free of {size(whole)}")
    for tier in _posix(settings):
        whole = (facts := os.statvfs(_path(tier))).f_blocks * facts.f_frsize
        if tier.capacity_bytes and tier.capacity_bytes > whole:
            yield warn(f"tier {tier.name}", f"`capacity_bytes` says more than the {size(whole)} there are",
                       "Say at most what the file system holds, or leave it out.")  # fmt: skip


def rights(settings: Settings, *, handed: frozenset[Path] = frozenset()) -> Iterator[Finding]:
    """Root may everything; the daemon is somebody else. So each path is asked as the owner of the state folder, but for
    those that systemd hands over: root reads them."""
    if os.geteuid() != 0 or not settings.state_dir.is_dir():
        return
    user = user_of(settings)
    if user is None:
        yield warn("rights", "the state folder is root's, so the daemon would run as root",
                   f"chown -R {name_of_unit(settings.role)}: {settings.state_dir}")  # fmt: skip
        return
    wanted = [(settings.file, "r"), (settings.policies, "rx"), (settings.state_dir, "rwx")]
    secrets = [settings.vault_key] * (settings.role != "clean")
    secrets += [settings.repository_password_file] * (settings.role != "identified")
    secrets += [tier.credentials_file for tier in settings.tiers.values() if tier.credentials_file]
    database = settings.database
    secrets += filter(None, (database.dsn_file, database.vault_dsn_file, database.dump_dsn_file))
    wanted += [(path, "r") for path in secrets if path not in handed and path.exists()]
    by_root = _posix(settings)
    with acting(settings.state_dir):  # whom a file server may show more than root
        tiers = {tier.name: tier for tier in by_root + _posix(settings)}
    wanted += [(_path(tier), "rx" if tier.read_only else "rwx") for tier in tiers.values()]
    denied = [(path, way) for path, ways in wanted for way in ways if not may(path, way, user)]
    who = name_of(user.st_uid) if name_of(user.st_uid) != "nobody" else str(user.st_uid)
    for path, way in denied:
        word = {"r": "read", "w": "write", "x": "enter"}[way]
        yield bad("rights", f"the user {who} may not {word} {path}", _opened(path, way, who, settings))
    if not denied:
        yield good("rights", f"{len(wanted)} paths are open to user {who} as it needs them")


def _opened(path: Path, way: str, who: str, settings: Settings) -> str:
    """A file is its daemon's alone; a folder that is another's, or both daemons', is opened beside its owner."""
    if os.path.isfile(path) and path != settings.file:
        return f"chown {who} {path}"
    if way != "w":
        return f"setfacl -m u:{who}:{'r' if path == settings.file else 'rx'} {path}"
    return f"chown {who} {path}" if settings.role != "identified" else f"setfacl -m u:{who}:rwx {path}"


# --- certificates and clocks -----------------------------------------------------------------------------------


def certificates(settings: Settings) -> Iterator[Finding]:
    tls = settings.listen.tls
    if tls is not None:
        yield _dated("certificate of listen.tls", tls.certificate)
        yield from _pair(tls.certificate, tls.key)
    for tier in settings.tiers.values():
        if tier.ca_file is not None:
            yield _dated(f"ca_file of {tier.name}", tier.ca_file)
    receivers = {f"receiver {name}": receiver for name, receiver in settings.receivers.items()}
    for about, other in {"access.oidc": settings.access.oidc, "lineage": settings.lineage, **receivers}.items():
        if other is not None and other.ca_file is not None:
            yield _dated(f"ca_file of {about}", other.ca_file)


def _dated(about: str, path: Path) -> Finding:
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError:
        return bad(about, f"{path} cannot be read", "Run doctor as the daemon's user, or mend the path.")
    except ValueError:
        return bad(about, f"{path} holds no certificate", "Write it as PEM.")
    ends = min(one.not_valid_after_utc for one in found)
    days = (ends - SYSTEM.now()).days
    if days < 0:
        return bad(about, f"it ended on {ends:%Y-%m-%d}", "Renew it.")
    if days < RENEW_DAYS:
        return warn(about, f"it ends on {ends:%Y-%m-%d}, in {days} days", "Renew it.")
    return good(about, f"good until {ends:%Y-%m-%d}")


def _pair(certificate: Path, key: Path) -> Iterator[Finding]:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError:  # SSLError is one, too
        yield bad("key of listen.tls", "it is not the certificate's, or cannot be read", "Name both of one pair.")
        return
    if stat.S_IMODE(key.stat().st_mode) & 0o007:
        yield bad("key of listen.tls", f"{key} is open to others", f"chmod 640 {key}")


def store_clocks(settings: Settings) -> Iterator[Finding]:
    """What is signed by a clock that is wrong is refused, and a lock until a date ends by the store's clock."""
    for tier in settings.tiers.values():
        if tier.kind != "object" or tier.proxy or (settings.role == "clean" and tier.zone == "identified"):
            continue
        about, gap_s = f"tier {tier.name}", _gap_s(tier)
        if gap_s is None:
            yield warn(about, "its store tells no time", "Compare the clocks by hand: curl -I on its endpoint.")
        elif abs(gap_s) > STORE_REFUSES_S:
            yield bad(about, f"the store's clock is {gap_s:+.0f} s from ours: refused", "chronyc tracking")
        elif abs(gap_s) > STORE_GAP_S:
            yield warn(about, f"the store's clock is {gap_s:+.0f} s from ours", "chronyc tracking")
        else:
            yield good(about, "the store's clock and ours agree")


def _gap_s(tier: Tier) -> float | None:
    """By the Date header, which every answer has (RFC 9110, 6.6.1), a refusal as well."""
    import http.client
    import ssl
    from urllib.parse import urlsplit

    from mover.errors import ConfigError
    from mover.tiers.object import ObjectTier

    try:
        where = ObjectTier.of(tier).where
    except ConfigError:  # its keys are away, and that was said
        return None
    url = urlsplit(where.service if where.scheme == "s3" else where.endpoint)
    if not url.hostname:
        return None
    asked: http.client.HTTPConnection
    if url.scheme == "https":
        context = ssl.create_default_context()
        if tier.ca_file is not None:
            context.load_verify_locations(tier.ca_file)
        asked = http.client.HTTPSConnection(url.hostname, url.port, timeout=ANSWER_S, context=context)
    else:
        asked = http.client.HTTPConnection(url.hostname, url.port, timeout=ANSWER_S)
    try:
        asked.request("HEAD", "/")
        told = asked.getresponse().getheader("Date")
        return (parsedate_to_datetime(told) - SYSTEM.now()).total_seconds() if told else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        asked.close()


def _posix(settings: Settings) -> list[Tier]:
    """Those this role works on, and that are there."""
    return [
        tier for tier in settings.tiers.values()
        if tier.path is not None and os.path.isdir(tier.path)
        and not (settings.role == "clean" and tier.zone == "identified")
    ]  # fmt: skip


def _path(tier: Tier) -> Path:
    assert tier.path is not None
    return tier.path
