"""The rig of the rooms with a dump policy, a pair of key files and the right to read everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mover.catalog.dumping import Dumper
from mover.catalog.postgres import EmbeddedServer
from mover.deid.vaultkeys import PublicKey, RevealKey, VaultKey, new_pair
from mover.model.policy import DumpPolicy, KeepRules, Policy
from mover.policy import Loaded
from mover.protect.dumps import Dumps, Means
from mover.protect.room import Protecting
from mover.tiers.port import ReadTier
from tests.rooms.rig import Rig

SITE = "ward"
KEY = VaultKey(bytes(range(32)))
DUMP = DumpPolicy(name="dump", targets=("archive", "protect"), keep=KeepRules(last=1, at_least_s=0))


class Keeping:
    """`pair` is in files `a` and `b` beside the tiers."""

    def __init__(self, rig: Rig, server: EmbeddedServer, *, drill_keys: bool = False) -> None:
        self.rig = rig
        self.pair: RevealKey = new_pair(rig.folder / "a", rig.folder / "b")
        self.public: PublicKey | None = PublicKey(self.pair.public)
        self.dumper = Dumper(rig.dsns.superuser, bin_dir=server.bin_dir)
        self.use(DUMP)
        means = Means(
            self.dumper, lambda: KEY, lambda: self.public, SITE,
            (rig.folder / "a", rig.folder / "b") if drill_keys else None,
        )  # fmt: skip
        rig.protecting = Protecting(rig.protecting.runs._site, means)
        rig.handlers |= rig.protecting.handlers()
        rig.on_failed |= rig.protecting.failure_handlers()

    @property
    def dumps(self) -> Dumps:
        return self.rig.protecting.dumps

    def use(self, policy: Policy) -> None:
        one = Loaded(policy=policy, file=f"{policy.name}.yaml", text="", digest="")
        self.rig.protecting.runs._site.policies._by_name[policy.name] = one

    def tier(self, name: str, tier: ReadTier) -> None:
        self.rig.tiers[name] = tier

    def files(self, tier: str) -> list[Path]:
        return sorted(p for p in (self.rig.folder / tier / "dumps").rglob("*") if p.is_file())

    def sealed(self, tier: str) -> Path:
        [found] = [p for p in self.files(tier) if p.suffix == ".sealed"]
        return found

    def age(self, *, hours: float = 0, days: float = 0) -> None:
        """As if every dump and drill had been made so much earlier."""
        seconds = 3600 * hours + 86_400 * days
        self.rig.rows(
            "update mover.dump set started_at = started_at - make_interval(secs => %s),"
            " taken_at = taken_at - make_interval(secs => %s), verified_at = verified_at - make_interval(secs => %s)",
            seconds, seconds, seconds,
        )  # fmt: skip
        self.rig.rows("update mover.dump_drill set started_at = started_at - make_interval(secs => %s)", seconds)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def records(rig: Rig, action: str) -> Iterator[dict[str, Any]]:
    for row in rig.rows("select body from mover.audit_record order by at, seq"):
        body = msgspec.json.decode(row.body)
        if body["action"] == action:
            yield body
