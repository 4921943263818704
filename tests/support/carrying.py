"""Trees, items and tiers for tests of the carrier."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from mover.model.moving import Item, Options, Outcome
from mover.model.tiers import Fingerprint, Zone
from mover.tiers import identity
from mover.tiers.posix import TEMPORARY, PosixTier, fingerprint_of
from mover.transfer.carrier import Carrier


def posix_tier(root: Path, name: str, zone: Zone = "deidentified") -> PosixTier:
    root.mkdir(parents=True, exist_ok=True)
    identity.establish(root, name=name, zone=zone)
    return PosixTier(name, zone, root)


def plant(root: Path, sizes: dict[str, int], *, seed: int = 1) -> dict[str, bytes]:
    """Files of random bytes, with old times."""
    chance = random.Random(seed)
    made = {}
    for number, (key, size) in enumerate(sizes.items()):
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        made[key] = chance.randbytes(size)
        path.write_bytes(made[key])
        os.utime(path, ns=(10**18 + number, 10**18 + number * 1_000_000))
    return made


def items(tier: PosixTier, keys: Iterable[str], *, to: str = "out/") -> list[Item]:
    return [item(tier, key, number=number, to=to) for number, key in enumerate(keys)]


def item(tier: PosixTier, key: str, *, number: int = 0, to: str = "out/") -> Item:
    status = os.lstat(os.fsencode(tier.root) + b"/" + os.fsencode(key))
    kind = "symlink" if stat.S_ISLNK(status.st_mode) else "folder" if stat.S_ISDIR(status.st_mode) else "file"
    return Item(number, key, to + key, kind, fingerprint_of(status))  # type: ignore[arg-type]


def carried(
    carrier: Carrier,
    source: PosixTier,
    target: PosixTier,
    wanted: Iterable[Item],
    options: Options | None = None,
) -> dict[int, Outcome]:
    """The outcomes by id; each id once."""
    found: dict[int, Outcome] = {}
    for outcomes in carrier.carry(wanted, source=source, target=target, options=options or Options()):
        for one in outcomes:
            assert one.id not in found, "an item came twice"
            found[one.id] = one
    return found


def files(root: Path) -> dict[str, bytes]:
    """Every file below a root, its control folder left out."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink() and ".mover" not in path.relative_to(root).parts
    }


def rests(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.startswith(TEMPORARY.decode())]


def planned(size: int) -> Fingerprint:
    return Fingerprint(size, 0, "")


def numbered(count: int, *, folder: str = "many") -> Iterator[str]:
    return (f"{folder}/{number % 7}/{number:05}" for number in range(count))
