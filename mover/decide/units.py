"""What systemd is told about a site: lines of drop-ins, from the tiers that its settings declare.

The units as shipped know no site: they see the system read-only and none of its tiers. Each line here opens one place
for the unit that works there, or shuts one to a unit that has rights enough to look into it, and says why.

What a unit needs is *required* (it does not start, and ends, without that mount) or *waited for* (it starts after it,
and goes on without it). Required are its state, without which a daemon would begin an empty catalog; what stands on
this machine's own disks; and all of intake's places, which are shown read-only only where they are mounted before the
start. A network file system of the clean daemon is waited for: one server that is away must not take down the daemon
that keeps everybody else's work going and tells people about it (docs/nfs.md).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Literal

from msgspec import Struct

Unit = Literal["mover.service", "mover-identified.service", "mover-watcher.service"]
UNITS: tuple[Unit, ...] = ("mover-identified.service", "mover.service", "mover-watcher.service")

HEADER = "# Written by `mover units write`, and written again by it: your own lines belong into another file here.\n"
# beyond these the units as shipped reach nothing (IPAddressAllow=)
NEAR = ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
HOMES = ("/home", "/root", "/run/user")  # ProtectHome=yes
PRIVATE = ("/tmp", "/var/tmp")  # PrivateTmp=yes
_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f\"'\\:]")
_UNIT_NAME = re.compile(rb"[A-Za-z0-9:_.]")


class Place(Struct, frozen=True):
    """A declared file system tier. `mount` is where its network file system is mounted; empty where it has none."""

    tier: str
    path: str
    identified: bool
    read_only: bool
    mount: str = ""


class Site(Struct, frozen=True):
    """One settings file, and what the other one declares that this one's units must not see."""

    identified: bool
    state_dir: str
    places: tuple[Place, ...]
    hidden: tuple[Place, ...] = ()
    # and where its state, and what it keeps secret, stands: the state folder, files, folders of their own
    other_state: str = ""
    other_secrets: tuple[str, ...] = ()
    # name and file of each secret that stands where systemd shall read it
    secrets: tuple[tuple[str, str], ...] = ()
    # host of each object tier's endpoint, by tier
    hosts: tuple[tuple[str, str], ...] = ()
    database_by_network: bool = False


class Line(Struct, frozen=True):
    section: Literal["Unit", "Service"]
    option: str
    value: str
    reason: str


def units_of(*, identified: bool) -> tuple[Unit, ...]:
    """The units that read this settings file."""
    return ("mover-identified.service",) if identified else ("mover.service", "mover-watcher.service")


def lines(unit: Unit, site: Site) -> list[Line]:
    """What this unit is told, in the order of its drop-in."""
    found = [Line("Unit", "RequiresMountsFor", word(site.state_dir), "its state: without it a new catalog would begin")]
    if unit == "mover-watcher.service":
        return [*found, *_for_the_watcher(site)]
    for place in site.places:
        found += _mounted(place, site)
        found += _opened(place, site)
    if any(_below(path, HOMES) for path in (site.state_dir, *(place.path for place in site.places))):
        found.append(_homes())
    found += _state(site)
    found += [_shut(place, site) for place in site.hidden]
    found += _kept_from(site)
    found += [
        Line("Service", "LoadCredential", f"{name}:{word(file)}", "read by root before the start, shown to it alone")
        for name, file in site.secrets
    ]
    return found + [line for tier, host in site.hosts for line in _reached(tier, host)]


def mistakes(site: Site) -> list[str]:
    """Why no unit could work there."""
    found = []
    places = [(f"tier {place.tier}", place.path) for place in (*site.places, *site.hidden)]
    for what, path in [("state_dir", site.state_dir), *places]:
        if _UNSPEAKABLE.search(path):
            found.append(f"{what}: systemd's lists hold no path with quotes, colons or backslashes")
        if _below(path, PRIVATE):
            found.append(f"{what}: the units have a /tmp of their own and do not see this one")
    states = site.state_dir, site.other_state
    if site.other_state and (_below(states[0], states[1:]) or _below(states[1], states[:1])):
        found.append("state_dir: one folder for two daemons; each locks its own, and hides it from the other")
    return found


def remarks(site: Site) -> list[str]:
    """What a person has to see to, because no rule can."""
    return [
        f"tier {tier}: {host} is a name. Where it means addresses outside of private networks, allow them in a file of "
        "your own: IPAddressAllow="
        for tier, host in site.hosts
        if _address(host) is None and host != "localhost"
    ]


def drop_in(found: Iterable[Line]) -> str:
    """The file: each line under its reason."""
    told = list(found)
    parts = [HEADER]
    for section in ("Unit", "Service"):
        of_it = [line for line in told if line.section == section]
        if of_it:
            parts.append(f"\n[{section}]\n")
        parts += [f"# {line.reason}\n{line.option}={line.value}\n" for line in of_it]
    return "".join(parts)


def word(path: str) -> str:
    """A path as one word of a list in a unit file (systemd.syntax(7))."""
    escaped = path.replace("%", "%%")
    return f'"{escaped}"' if " " in escaped else escaped


def mount_unit(point: str) -> str:
    """The unit's name of a mount point, as `systemd-escape --path --suffix=mount` says it."""
    name = point.strip("/").encode()
    if not name:
        return "-.mount"
    said = b"".join(
        b"-" if letter == b"/" else letter if _plain(letter, first=at == 0) else b"\\x%02x" % letter[0]
        for at, letter in enumerate(name[at : at + 1] for at in range(len(name)))
    )
    return said.decode("ascii") + ".mount"


# --- steps --------------------------------------------------------------------------------------------------


def _mounted(place: Place, site: Site) -> Iterator[Line]:
    if place.mount and not site.identified:
        unit = mount_unit(place.mount)
        yield Line("Unit", "Wants", unit, f"tier {place.tier}: waited for; while its server is away the rest goes on")
        yield Line("Unit", "After", unit, f"tier {place.tier}: and let go before it is unmounted")
        return
    yield Line("Unit", "RequiresMountsFor", word(place.path), f"tier {place.tier}: not an empty folder in its place")


def _opened(place: Place, site: Site) -> Iterator[Line]:
    """A home is hidden as a whole: there the place is bound into what is left of it. What is waited for may be missing
    at the start (`-`), or systemd would refuse all of the unit; where it is written to, it is found when it comes."""
    path = ("-" if place.mount and not site.identified else "") + word(place.path)
    if place.read_only:
        yield Line("Service", "BindReadOnlyPaths", path, f"tier {place.tier}: read, never written")
    else:
        option = "BindPaths" if _below(place.path, HOMES) else "ReadWritePaths"
        yield Line("Service", option, path, f"tier {place.tier}: written to")


def _homes() -> Line:
    return Line("Service", "ProtectHome", "tmpfs", "of homes only the places named here")


def _state(site: Site) -> Iterator[Line]:
    """Where StateDirectory= of the unit does not make and open it already."""
    if site.state_dir != f"/var/lib/mover{'-identified' if site.identified else ''}":
        option = "BindPaths" if _below(site.state_dir, HOMES) else "ReadWritePaths"
        yield Line("Service", option, word(site.state_dir), "its state, elsewhere than as shipped")


def _kept_from(site: Site) -> Iterator[Line]:
    """With `-`: a key may be in a safe. Those of the identified daemon only; it has no rights to look at others'."""
    if not site.identified:
        for path in (*([site.other_state] if site.other_state else []), *site.other_secrets):
            yield Line(
                "Service", "InaccessiblePaths", f"-{word(path)}", "not for this daemon, whose rights would open it"
            )


def _shut(place: Place, site: Site) -> Line:
    """Without a leading `-`: what could not be hidden would be seen as soon as it is mounted. So of a network file
    system its mount point is hidden, which is there while the server is away; but not where this unit works on it."""
    shared = any(_below(own.path, (place.mount,)) for own in site.places if own != place)
    return Line(
        "Service", "InaccessiblePaths", word(place.path if shared else place.mount or place.path),
        f"tier {place.tier}: patients' names; this unit's rights would otherwise open them",
    )  # fmt: skip


def _for_the_watcher(site: Site) -> Iterator[Line]:
    if _below(site.state_dir, HOMES):
        yield _homes()
    yield from _state(site)
    yield from _kept_from(site)
    for place in (*site.hidden, *(place for place in site.places if place.identified)):
        yield _shut(place, site)
    if site.database_by_network:
        reason = "the catalog is on another machine"
        yield Line("Service", "PrivateNetwork", "no", reason)
        yield Line("Service", "RestrictAddressFamilies", "AF_INET AF_INET6", reason)
        yield Line("Service", "IPAddressAllow", " ".join(("localhost", *NEAR[2:])), reason)


def _reached(tier: str, host: str) -> Iterator[Line]:
    address = _address(host)
    if address is not None and not any(address in ipaddress.ip_network(near) for near in NEAR):
        yield Line("Service", "IPAddressAllow", str(address), f"tier {tier}: its endpoint is outside of this site")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def _plain(letter: bytes, *, first: bool) -> bool:
    return _UNIT_NAME.fullmatch(letter) is not None and not (first and letter == b".")
