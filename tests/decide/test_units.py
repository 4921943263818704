"""What each unit is told about a site: which places it opens, which it shuts, what it waits for."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from mover.decide.units import HEADER, Place, Site, Unit, drop_in, lines, mistakes, mount_unit, remarks, units_of, word

INTAKE = Place("intake", "/intake", identified=True, read_only=True)
FLASH = Place("flash", "/flash/mover", identified=False, read_only=False)
SHARE = Place("share", "/mnt/share/slides", identified=False, read_only=False, mount="/mnt/share")
HOME = Place("home", "/home/lab/flash", identified=False, read_only=False)


def clean(*places: Place, **more: object) -> Site:
    return Site(identified=False, state_dir="/var/lib/mover", places=places, **more)  # type: ignore[arg-type]


def told(unit: Unit, site: Site) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines(unit, site):
        found.setdefault(line.option, []).append(line.value)
    return found


def test_each_place_is_opened_as_it_is_used_and_no_wider() -> None:
    """A source that could be written to is one typing error away from being written to."""
    site = Site(identified=True, state_dir="/var/lib/mover-identified", places=(INTAKE,))
    said = told("mover-identified.service", site)
    assert said["BindReadOnlyPaths"] == ["/intake"] and "ReadWritePaths" not in said
    assert said["RequiresMountsFor"] == ["/var/lib/mover-identified", "/intake"]
    assert told("mover.service", clean(FLASH))["ReadWritePaths"] == ["/flash/mover"]


def test_the_clean_units_cannot_look_into_intake() -> None:
    """CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH read whatever is not hidden: rights of files alone keep nobody out."""
    site = clean(FLASH, hidden=(INTAKE,))
    for unit in units_of(identified=False):
        assert told(unit, site)["InaccessiblePaths"] == ["/intake"]
    alone = told("mover-watcher.service", clean(FLASH, INTAKE))  # one daemon for both zones
    assert alone["InaccessiblePaths"] == ["/intake"]


def test_a_network_file_system_is_waited_for_and_its_own_disks_are_required() -> None:
    """A server that is away takes down neither the other tiers nor whoever would tell people about it."""
    said = told("mover.service", clean(FLASH, SHARE))
    assert said["RequiresMountsFor"] == ["/var/lib/mover", "/flash/mover"]
    assert said["Wants"] == said["After"] == ["mnt-share.mount"]
    identified = Site(identified=True, state_dir="/s", places=(SHARE,))
    assert "/mnt/share/slides" in told("mover-identified.service", identified)["RequiresMountsFor"]


def test_a_place_whose_server_is_away_is_missing_and_not_the_end_of_the_unit() -> None:
    """systemd refuses all of a unit whose namespace names a folder that is not there: status=226/NAMESPACE, five times,
    and one NFS server has taken everything down. Hidden is then the mount point, or what comes later would be seen."""
    far = Place("intake", "/in/deep/x", identified=True, read_only=True, mount="/in")
    said = told("mover.service", clean(FLASH, SHARE, hidden=(far,)))
    assert said["ReadWritePaths"] == ["/flash/mover", "-/mnt/share/slides"] and said["InaccessiblePaths"] == ["/in"]
    beside = Place("own", "/in/slides", identified=False, read_only=False, mount="/in")
    assert told("mover.service", clean(beside, hidden=(far,)))["InaccessiblePaths"] == ["/in/deep/x"]
    source = Place("share", "/mnt/share/slides", identified=True, read_only=True, mount="/mnt/share")
    assert told("mover.service", clean(source))["BindReadOnlyPaths"] == ["-/mnt/share/slides"]
    apart = Site(identified=True, state_dir="/s", places=(source,))
    assert told("mover-identified.service", apart)["BindReadOnlyPaths"] == ["/mnt/share/slides"]


def test_of_a_home_only_the_declared_place_is_seen() -> None:
    said = told("mover.service", clean(HOME))
    assert said["ProtectHome"] == ["tmpfs"] and said["BindPaths"] == ["/home/lab/flash"]


def test_state_elsewhere_is_opened() -> None:
    site = Site(identified=False, state_dir="/srv/state", places=())
    assert told("mover.service", site)["ReadWritePaths"] == told("mover-watcher.service", site)["ReadWritePaths"]


def test_what_the_identified_daemon_keeps_is_not_there_for_the_clean_units() -> None:
    """The login of the vault, and both halves of the key to every name, are files that DAC_OVERRIDE opens."""
    kept = {"other_state": "/srv/names", "other_secrets": ("/etc/mover/vault-dsn", "/safe/drill a.key")}
    for unit in units_of(identified=False):
        hidden = told(unit, clean(FLASH, **kept))["InaccessiblePaths"]
        assert hidden == ["-/srv/names", "-/etc/mover/vault-dsn", '-"/safe/drill a.key"']
    identified = Site(identified=True, state_dir="/s", places=(), other_state="/var/lib/mover")
    assert "InaccessiblePaths" not in told("mover-identified.service", identified)


@pytest.mark.parametrize("state", ["/tmp/state", "/var/tmp/mover", "/a:b"])
def test_state_that_a_unit_would_not_see_is_refused(state: str) -> None:
    """In a /tmp of its own a daemon would begin a new catalog, and lose it at its end."""
    assert [said.partition(":")[0] for said in mistakes(Site(False, state, ()))] == ["state_dir"]


@pytest.mark.parametrize("other", ["/srv/state", "/srv/state/names", "/srv"])
def test_two_daemons_have_two_states(other: str) -> None:
    assert [said.partition(":")[0] for said in mistakes(Site(False, "/srv/state", (), other_state=other))] == [
        "state_dir"
    ]
    assert mistakes(Site(False, "/srv/state", (), other_state="/srv/state-2")) == []


def test_state_in_a_home_is_bound_into_what_is_left_of_it() -> None:
    """Opened for writing only, the unit would see an empty home, and begin a new catalog."""
    for unit in units_of(identified=False):
        said = told(unit, Site(False, "/home/mover/state", ()))
        assert said["ProtectHome"] == ["tmpfs"] and said["BindPaths"] == ["/home/mover/state"]


def test_secrets_and_far_endpoints_are_named() -> None:
    site = clean(
        secrets=(("keys", "/etc/mover/credentials/keys"),),
        hosts=(("a", "10.1.2.3"), ("b", "203.0.113.7"), ("c", "s3.x")),
    )
    said = told("mover.service", site)
    assert said["LoadCredential"] == ["keys:/etc/mover/credentials/keys"]
    assert said["IPAddressAllow"] == ["203.0.113.7"]
    assert [remark.partition(":")[0] for remark in remarks(site)] == ["tier c"]


def test_the_watcher_reaches_a_catalog_on_another_machine() -> None:
    assert "PrivateNetwork" not in told("mover-watcher.service", clean())
    said = told("mover-watcher.service", clean(database_by_network=True))
    assert said["PrivateNetwork"] == ["no"] and said["RestrictAddressFamilies"] == ["AF_INET AF_INET6"]


@pytest.mark.parametrize("path", ["/tmp/flash", "/var/tmp/x", "/a:b", '/a"b', "/a\\b", "/a\nb"])
def test_what_no_unit_could_open_is_refused_with_its_tier(path: str) -> None:
    """Half a drop-in would start a daemon that sees an empty folder in a tier's place."""
    [mistake] = mistakes(clean(Place("flash", path, identified=False, read_only=False)))
    assert mistake.startswith("tier flash")
    assert mistakes(clean(FLASH, HOME)) == []


def test_the_drop_in_holds_each_line_below_its_reason() -> None:
    made = drop_in(lines("mover.service", clean(Place("flash", "/a b/100%", identified=False, read_only=False))))
    assert made.startswith(HEADER + "\n[Unit]\n# its state")
    assert '# tier flash: written to\nReadWritePaths="/a b/100%%"\n' in made
    assert made.index("[Unit]") < made.index("[Service]") and word("/x") == "/x"


@pytest.mark.parametrize("point", ["/", "/mnt", "/mnt/a-b", "/srv/.hidden", "/.x/y", "/a b/ü", "/a:b_c.d"])
def test_mount_units_are_named_as_systemd_names_them(point: str) -> None:
    """A wrong name would be waited for in vain, without a word."""
    if shutil.which("systemd-escape") is None:
        pytest.skip("systemd-escape is not here (Debian package: systemd)")
    said = subprocess.run(
        ["systemd-escape", "--path", "--suffix=mount", point], capture_output=True, text=True, check=True
    )
    assert mount_unit(point) == said.stdout.strip()
