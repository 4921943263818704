"""Verification on real tiers: what differs from the catalog is found and named, and repaired from a second copy."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from blake3 import blake3

from mover.catalog.database import Database
from mover.demo.seaweed import Seaweed
from mover.errors import Conflict, NotFound, RequestInvalid
from mover.model import wire
from mover.model.policy import VerifyPolicy
from mover.moving import verify as module
from mover.moving.places import Ends, Place
from mover.moving.verifications import Verifications
from mover.moving.verify import Verify
from mover.policy import Loaded, PolicyBook
from mover.tiers import identity as identities
from mover.tiers.posix import PosixTier
from mover.transfer import Transfer
from tests.rooms.rig import PROJECT, Rig, who
from tests.support.postgres import Dsns
from tests.support.seaweed import locked_bucket, object_tier
from tests.tiers.test_posix_tier import ROOT_ONLY
from tests.transfer.test_engine import loop_mount

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
POLICY = VerifyPolicy(name="verify", tier="archive", every_s=3600, share_per_day=0.5, strangers=False)


class Ward(Rig):
    """The rig with the rooms of verification: an archive, a mirror of it, and a NAS that people write to."""

    def __init__(self, folder: Path, dsns: Dsns, database: Database) -> None:
        super().__init__(folder, dsns, database)
        for name, role in (("mirror", "archive"), ("nas", "source")):
            root = folder / name
            root.mkdir(exist_ok=True)
            identity = identities.establish(root, name=name, zone="deidentified")
            self.tiers[name] = PosixTier(name, "deidentified", root, role=role, identity=identity)  # type: ignore[arg-type]
            self.rows(
                "insert into mover.tier (name, kind, zone, role, identity, traits)"
                " values (%s, 'posix', 'deidentified', %s, 'test', '{}') on conflict do nothing", name, role,
            )  # fmt: skip
        roles = {"intake": "source", "archive": "archive", "mirror": "archive", "nas": "source", "flash": "flash"}
        places = {name: Place(role, name == "intake", folder / name) for name, role in roles.items()}  # type: ignore[arg-type]
        ends = Ends(self.tiers, places)  # type: ignore[arg-type]
        book = PolicyBook([Loaded(policy=POLICY, file="verify.yaml", text="", digest="")])
        self.verify = Verify(database, ends, Transfer(), node="n1")
        self.verifications = Verifications(database, ends, book, node="n1")
        self.handlers["verify"] = self.verify.verify
        self.on_failed["verify"] = self.verify.failed

    def path(self, tier: str, key: str) -> Path:
        return self.folder / tier / key

    def put(self, tier: str, key: str, data: bytes, *, verified: bool = True) -> str:
        """A file that the catalog vouches for, under the fingerprint it has now."""
        opened: Any = self.tiers[tier]
        opened.put(key, [data], size_bytes=len(data))
        seen, digest = opened.stat(key).fingerprint, blake3(data).hexdigest()
        self.rows(
            "insert into mover.entry (project_id, tier, key, kind, size_bytes, mtime_ns, mark, digest, verified_at)"
            " values (%s, %s, %s, 'file', %s, %s, %s, %s, now() - interval '1 day')",
            PROJECT, tier, os.fsencode(key), seen.size_bytes, seen.mtime_ns, seen.mark, digest,
        )  # fmt: skip
        return digest

    async def read(self, **request: Any) -> wire.Verification:
        made = await self.verifications.request(who(), wire.VerificationRequest(**request))
        await self.work("verify")
        return await self.verifications.view(PROJECT, made.id)

    async def found(self, verification: wire.Verification) -> dict[str, wire.Finding]:
        page = await self.verifications.findings(PROJECT, verification.id, None, 1000)
        return {one.key: one for one in page.findings}


@pytest.fixture
def ward(tmp_path: Path, dsns: Dsns, database: Database) -> Ward:
    return Ward(tmp_path, dsns, database)


def rot(path: Path) -> None:
    """Another byte on the disk, under a file that nobody wrote: times are put back, and the change time is what the
    catalog is told of."""
    facts = path.stat()
    with open(path, "r+b") as file:
        file.seek(facts.st_size // 2)
        byte = file.read(1)
        file.seek(facts.st_size // 2)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def unseen(ward: Ward, tier: str, key: str) -> None:
    """A disk rots without a new change time; a test cannot, so the catalog learns the time as if it had always been."""
    now = ward.tiers[tier].stat(key).fingerprint
    ward.rows(
        "update mover.entry set mark = %s, mtime_ns = %s where tier = %s and key = %s",
        now.mark, now.mtime_ns, tier, os.fsencode(key),
    )  # fmt: skip


async def test_each_way_to_differ_from_the_catalog_has_its_name(ward: Ward) -> None:
    """The whole promise in one tier: nothing differs in silence, and what is whole is said to be."""
    for name in ("whole", "rotten", "written", "touched", "gone", "closed"):
        ward.put("archive", f"a/{name}", name.encode() * 5000)
    rot(ward.path("archive", "a/rotten"))
    unseen(ward, "archive", "a/rotten")
    ward.path("archive", "a/written").write_bytes(b"other bytes, other size")
    os.utime(ward.path("archive", "a/touched"), (1, 1))
    ward.path("archive", "a/gone").unlink()
    ward.path("archive", "a/closed").unlink()
    ward.path("archive", "a/closed").mkdir()
    ward.path("archive", "a/stranger").write_bytes(b"nobody knows me")

    seen = await ward.read(tier="archive")

    kinds = {key: one.kind for key, one in (await ward.found(seen)).items()}
    assert kinds == {
        "a/rotten": "bit-rot", "a/written": "changed", "a/gone": "missing", "a/closed": "unreadable",
        "a/stranger": "stranger",
    }  # fmt: skip
    assert (seen.state, seen.entries, seen.checked, seen.repaired) == ("complete", 6, 7, 0)
    assert seen.open == {kind: 1 for kind in ("bit-rot", "changed", "missing", "unreadable", "stranger")}
    assert (await ward.found(seen))["a/rotten"].explanation


async def test_what_was_read_whole_has_a_new_proof_and_a_touched_file_its_new_fingerprint(ward: Ward) -> None:
    """Oldest proof first only works when proofs are renewed."""
    for name in ("one", "two"):
        ward.put("archive", name, name.encode())
    os.utime(ward.path("archive", "two"), (1, 1))
    seen = await ward.read(tier="archive", strangers=False)
    assert seen.findings == {}
    fresh = ward.rows(
        "select key, mtime_ns from mover.entry where verified_at > now() - interval '1 hour' order by key"
    )
    assert [(bytes(row.key), row.mtime_ns == 10**9) for row in fresh] == [(b"one", False), (b"two", True)]


async def test_slides_and_their_thumbnails_are_verified_and_their_sidecars_are_no_strangers(ward: Ward) -> None:
    """The archive itself: rows of slides vouch for it, without any walk or transfer."""
    [number] = ward.slides([5000])
    key = f"slides/{number}/1/{number}.svs"
    ward.path("archive", f"slides/{number}/sidecar.json").write_bytes(b"{}")
    assert (await ward.read(tier="archive")).findings == {}
    rot(ward.path("archive", key))
    unseen(ward, "archive", key)
    seen = await ward.read(tier="archive")
    assert {k: (one.kind, one.subject) for k, one in (await ward.found(seen)).items()} == {key: ("bit-rot", number)}


async def test_what_another_project_owns_is_no_stranger(ward: Ward) -> None:
    """One archive, many projects (D18): nobody is told that a neighbour's slide should not be there."""
    ward.put("archive", "mine", b"mine")
    ward.slides([100], projects=("other",))
    assert (await ward.read(tier="archive")).findings == {}


async def test_an_unmounted_tier_is_an_error_and_not_everything_missing(ward: Ward) -> None:
    """I7: an empty mount point must never look like a thousand losses."""
    for position in range(5):
        ward.put("archive", f"f{position}", b"x")
    made = await ward.verifications.request(who(), wire.VerificationRequest(tier="archive"))
    (ward.folder / "archive").rename(ward.folder / "away")
    (ward.folder / "archive").mkdir()
    await ward.work("verify")
    seen = await ward.verifications.view(PROJECT, made.id)
    assert (seen.state, seen.reason, seen.findings) == ("planning", "tier-unavailable", {})
    shutil.rmtree(ward.folder / "archive")
    (ward.folder / "away").rename(ward.folder / "archive")
    ward.due()
    await ward.work("verify")
    seen = await ward.verifications.view(PROJECT, made.id)
    assert (seen.state, seen.checked, seen.findings) == ("complete", 5, {})


async def test_a_tier_that_goes_away_in_the_middle_loses_nothing_and_reports_nothing(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and its record: the chunk is thrown away."""
    ward.put("archive", "one", b"1")
    look_at_all = module.look_at_all

    def and_away(tier: Any, rows: Any) -> Any:
        (ward.folder / "archive").rename(ward.folder / "away")
        (ward.folder / "archive").mkdir()
        return [module.Look() for _ in rows]

    monkeypatch.setattr(module, "look_at_all", and_away)
    made = await ward.verifications.request(who(), wire.VerificationRequest(tier="archive"))
    await ward.work("verify")
    monkeypatch.setattr(module, "look_at_all", look_at_all)
    assert (await ward.verifications.view(PROJECT, made.id)).findings == {}


async def test_a_tier_of_which_nothing_is_known_is_no_success(ward: Ward) -> None:
    seen = await ward.read(tier="archive", prefix="no/such")
    assert (seen.state, seen.reason) == ("failed", "nothing-known")


# --- scopes ------------------------------------------------------------------------------------------------------


async def test_a_prefix_is_a_folder_and_not_a_beginning_of_names(ward: Ward) -> None:
    for key in ("a/one", "ab/two", "a"):
        if key != "a":
            ward.put("archive", key, key.encode())
    seen = await ward.read(tier="archive", prefix="a/")
    assert (seen.entries, seen.prefix) == (1, "a")


async def test_a_list_is_compared_key_by_key_whatever_bytes_are_in_a_name(ward: Ward) -> None:
    odd = os.fsdecode(b"caf\xe9\n.svs")
    ward.put("archive", odd, b"odd")
    ward.path("archive", "unknown").write_bytes(b"?")
    seen = await ward.read(tier="archive", keys=["caf\\xe9\\x0a.svs", "unknown", "nowhere"])
    assert {key: one.kind for key, one in (await ward.found(seen)).items()} == {
        "unknown": "stranger", "nowhere": "missing"
    }  # fmt: skip
    assert seen.checked == 3


async def test_a_run_root_is_compared_with_its_manifest(ward: Ward) -> None:
    """Training on foreign data for three days is what a run fears most; its root leaves no entries in the catalog."""
    run = await ward.request(ward.slides([1000, 2000]), key="1")
    await ward.work()
    whole = await ward.read(run=run.id)
    assert (whole.state, whole.tier, whole.findings) == ("complete", "flash", {}) and whole.checked >= 2
    assert ward.rows("select key from mover.entry where tier = 'flash'") == []
    [path, *_] = ward.rows("select path from mover.run_entry where number is not null order by path")
    target = ward.folder / "flash" / "runs" / run.id / path.path
    os.chmod(target, 0o600)
    target.write_bytes(b"other")
    seen = await ward.read(run=run.id)
    assert [(one.kind, one.subject) for one in (await ward.found(seen)).values()] == [("changed", run.id)]


async def test_a_run_root_in_tars_is_read_tar_by_tar(ward: Ward) -> None:
    """Of files in a tar the tar is what stands there: its digest was taken while each of them was proved."""
    body = wire.RunRequest(files=ward.slides([1000, 2000]), layout="shards")
    run = await ward.runs.request(who(), body, key="1")
    await ward.work()
    whole = await ward.read(run=run.id)
    assert (whole.state, whole.findings, whole.checked) == ("complete", {}, 2)
    target = ward.folder / "flash" / "runs" / run.id / "data" / "000000.tar"
    os.chmod(target, 0o600)
    target.write_bytes(target.read_bytes()[:-1] + b"!")
    found = await ward.found(await ward.read(run=run.id))
    assert {key.rpartition("/")[2]: one.kind for key, one in found.items()} == {"000000.tar": "bit-rot"}


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({}, "a tier or a run"),
        ({"tier": "nowhere"}, "not a tier"),
        ({"tier": "intake"}, "deidentified"),
        ({"tier": "archive", "repair_from": "archive"}, "second copy of itself"),
        ({"tier": "archive", "repair_from": "intake"}, "deidentified"),
        ({"tier": "archive", "prefix": "../x"}, "below the tier"),
        ({"tier": "archive", "keys": ["a"], "prefix": "b"}, "no prefix"),
        ({"tier": "archive", "keys": ["/etc/passwd"]}, "key 1"),
        ({"run": "r", "tier": "archive"}, "verified whole"),
    ],
)
async def test_a_request_that_cannot_be_meant_is_refused(ward: Ward, body: dict[str, Any], what: str) -> None:
    with pytest.raises(RequestInvalid, match=what):
        await ward.verifications.request(who(), wire.VerificationRequest(**body))


async def test_a_run_that_is_not_sealed_cannot_be_verified(ward: Ward) -> None:
    run = await ward.request(ward.slides([1000]), key="1")
    with pytest.raises(Conflict, match="sealed"):
        await ward.verifications.request(who(), wire.VerificationRequest(run=run.id))
    with pytest.raises(NotFound):
        await ward.verifications.request(who("other"), wire.VerificationRequest(run=run.id))


async def test_the_same_key_is_the_same_verification(ward: Ward) -> None:
    body = wire.VerificationRequest(tier="archive")
    first = await ward.verifications.request(who(), body, key="k")
    assert (await ward.verifications.request(who(), body, key="k")).id == first.id
    with pytest.raises(Conflict):
        await ward.verifications.request(who(), wire.VerificationRequest(tier="mirror"), key="k")


# --- repair ------------------------------------------------------------------------------------------------------


def kept(ward: Ward, tier: str = "archive") -> list[bytes]:
    folder = ward.folder / tier / ".mover" / "quarantine"
    return [one.read_bytes() for one in folder.iterdir()] if folder.exists() else []


async def test_damage_is_repaired_from_a_second_copy_and_the_damaged_bytes_are_kept(ward: Ward) -> None:
    """Moved aside, never overwritten: what rotted is evidence, and the copy may be the one that is wrong."""
    data = b"the slide" * 10_000
    for name in ("rotten", "gone", "written"):
        ward.put("archive", name, data + name.encode())
        ward.put("mirror", f"elsewhere/{name}", data + name.encode())
    rot(ward.path("archive", "rotten"))
    unseen(ward, "archive", "rotten")
    damaged = ward.path("archive", "rotten").read_bytes()
    ward.path("archive", "gone").unlink()
    ward.path("archive", "written").write_bytes(b"somebody's")

    seen = await ward.read(tier="archive", repair_from="mirror")

    assert (seen.repaired, seen.open) == (3, {})
    for name in ("rotten", "gone", "written"):
        assert ward.path("archive", name).read_bytes() == data + name.encode()
    assert sorted(kept(ward)) == sorted([damaged, b"somebody's"])
    assert ward.actions().count("entry repaired") == 3
    found = (await ward.found(seen))["rotten"]
    assert found.state == "repaired" and found.repaired_from == "mirror" and found.quarantine
    again = await ward.read(tier="archive")
    assert (again.findings, again.checked) == ({}, 3)


async def test_what_was_written_between_the_finding_and_its_repair_stays(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repair may wait long for the tier of its copy; somebody's newer bytes must not land in a quarantine for it."""
    ward.put("archive", "one", b"bytes" * 100)
    ward.put("mirror", "one", b"bytes" * 100)
    rot(ward.path("archive", "one"))
    unseen(ward, "archive", "one")
    real = Verify._repair

    async def later(self: Verify, *args: Any) -> str:
        ward.path("archive", "one").write_bytes(b"newer")
        return await real(self, *args)

    monkeypatch.setattr(Verify, "_repair", later)
    seen = await ward.read(tier="archive", repair_from="mirror")
    [finding] = (await ward.found(seen)).values()
    assert finding.state == "open" and "any more" in (finding.explanation or "")
    assert ward.path("archive", "one").read_bytes() == b"newer" and kept(ward) == []


async def test_a_damaged_copy_repairs_nothing(ward: Ward) -> None:
    """The copy is read cold first: from two rotten files no good one is made, and nothing is moved."""
    for tier in ("archive", "mirror"):
        ward.put(tier, "both", b"bytes" * 100)
        rot(ward.path(tier, "both"))
        unseen(ward, tier, "both")
    before = ward.path("archive", "both").read_bytes()
    seen = await ward.read(tier="archive", repair_from="mirror")
    [finding] = (await ward.found(seen)).values()
    assert (finding.state, finding.quarantine) == ("open", None)
    assert "no whole second copy" in (finding.explanation or "")
    assert ward.path("archive", "both").read_bytes() == before and kept(ward) == []


async def test_without_a_second_copy_it_is_reported_and_alarmed(ward: Ward) -> None:
    """And the alarm ends when the file is whole again, not when somebody looked."""
    from mover import metrics

    ward.put("archive", "one", b"bytes" * 100)
    whole = ward.path("archive", "one").read_bytes()
    rot(ward.path("archive", "one"))
    unseen(ward, "archive", "one")
    for _ in range(2):
        await ward.read(tier="archive")
        await ward.verifications.measure(PROJECT)
        assert metrics.VERIFY_OPEN.labels("archive", "bit-rot")._value.get() == 1
    ward.path("archive", "one").write_bytes(whole)
    await ward.read(tier="archive")
    await ward.verifications.measure(PROJECT)
    assert 'kind="bit-rot"' not in "\n".join(
        line for line in metrics.render().decode().splitlines() if line.startswith("mover_verify_open_findings")
    )
    states = ward.rows("select state from mover.verification_finding order by id")
    assert [row.state for row in states] == ["repeated", "cleared"]


async def test_what_people_changed_on_their_own_tier_is_not_undone(ward: Ward) -> None:
    """On a NAS a change may be meant; bit rot is not."""
    for name in ("changed", "rotten"):
        ward.put("nas", name, name.encode() * 100)
        ward.put("mirror", name, name.encode() * 100)
    ward.path("nas", "changed").write_bytes(b"a better version")
    rot(ward.path("nas", "rotten"))
    unseen(ward, "nas", "rotten")
    seen = await ward.read(tier="nas", repair_from="mirror")
    found = await ward.found(seen)
    assert (found["changed"].state, found["rotten"].state) == ("open", "repaired")
    assert ward.path("nas", "changed").read_bytes() == b"a better version"


@pytest.mark.parametrize("point", ["_move_aside", "_bring", "_repaired"])
async def test_a_repair_cut_at_any_point_ends_when_it_is_run_again(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """A crash after the rename leaves the name empty: the second run must end it, and never lose either file."""
    data = b"bytes" * 1000
    ward.put("archive", "one", data)
    ward.put("mirror", "one", data)
    rot(ward.path("archive", "one"))
    unseen(ward, "archive", "one")
    damaged = ward.path("archive", "one").read_bytes()
    real, cut = getattr(Verify, point), []

    if point == "_repaired":
        async def dies(self: Verify, *args: Any) -> None:
            cut.append(1)
            raise asyncio.CancelledError
    else:
        def dies(self: Verify, *args: Any) -> Any:  # type: ignore[misc]
            result = real(self, *args)  # it was done, and nobody heard of it
            cut.append(1)
            if len(cut) == 1:
                raise KeyError("cut")
            return result

    monkeypatch.setattr(Verify, point, dies)
    made = await ward.verifications.request(who(), wire.VerificationRequest(tier="archive", repair_from="mirror"))
    try:
        await ward.work("verify")
    except asyncio.CancelledError:
        pass
    monkeypatch.setattr(Verify, point, real)
    assert cut
    ward.lapse()
    ward.rows("update mover.shard set state = 'waiting', not_before = now() where state = 'running'")
    ward.due()
    await ward.work("verify")
    seen = await ward.verifications.view(PROJECT, made.id)
    assert seen.state == "complete"
    assert ward.path("archive", "one").read_bytes() == data
    assert kept(ward) == [damaged]


async def test_a_name_that_somebody_else_took_meanwhile_is_left_alone(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never overwritten holds for the repair itself."""
    ward.put("archive", "one", b"bytes" * 100)
    ward.put("mirror", "one", b"bytes" * 100)
    rot(ward.path("archive", "one"))
    unseen(ward, "archive", "one")
    move_aside = Verify._move_aside

    def and_somebody(self: Verify, name: str, key: str, aside: str) -> None:
        move_aside(self, name, key, aside)
        ward.path("archive", "one").write_bytes(b"somebody was faster")

    monkeypatch.setattr(Verify, "_move_aside", and_somebody)
    seen = await ward.read(tier="archive", repair_from="mirror")
    [finding] = (await ward.found(seen)).values()
    assert finding.state == "open" and "entry-exists" in (finding.explanation or "")
    assert ward.path("archive", "one").read_bytes() == b"somebody was faster" and len(kept(ward)) == 1


# --- order, kills, schedule, report --------------------------------------------------------------------------------


async def test_a_share_takes_what_was_verified_longest_ago_and_days_cover_the_whole(ward: Ward) -> None:
    """A petabyte is read in a month, not in a night: each reading takes the oldest proofs."""
    for position in range(6):
        ward.put("archive", f"f{position}", bytes(1000))
        ward.rows(
            "update mover.entry set verified_at = now() - make_interval(days => %s) where key = %s",
            10 + position, f"f{position}".encode(),
        )  # fmt: skip
    ward.rows("insert into mover.policy (name, digest, kind, text, loaded_at)"
              " values ('verify', 'x', 'verify', '', now() - interval '2 days')")  # fmt: skip
    oldest = []
    for _ in range(24):
        assert await ward.verifications.begin_due(PROJECT) == 1
        assert await ward.verifications.begin_due(PROJECT) == 0, "one at a time"
        await ward.work("verify")
        [last] = (await ward.verifications.list(PROJECT, None, 1)).verifications
        assert (last.state, last.policy, last.entries) == ("complete", "verify", 1)
        [row] = ward.rows("select key from mover.verification_entry where verification_id = %s", last.id)
        oldest.append(bytes(row.key).decode())
        ward.rows("update mover.verification set created_at = created_at - interval '2 hours'")
    assert oldest[:7] == ["f5", "f4", "f3", "f2", "f1", "f0", "f5"]
    assert ward.actions().count("verification begun") == 24


async def test_old_reports_keep_their_findings_and_forget_what_was_whole(ward: Ward) -> None:
    """A reading every day for years must not fill the catalog with lines that say nothing."""
    ward.put("archive", "whole", b"1")
    ward.put("archive", "gone", b"2")
    ward.path("archive", "gone").unlink()
    seen = await ward.read(tier="archive")
    ward.rows("update mover.verification set finished_at = now() - interval '1 year'")
    await ward.verifications.begin_due(PROJECT)
    left = ward.rows("select key from mover.verification_entry where verification_id = %s", seen.id)
    assert [bytes(row.key) for row in left] == [b"gone"]
    assert (await ward.verifications.view(PROJECT, seen.id)).findings == {"missing": 1}


async def test_a_policy_waits_its_interval_after_it_is_first_seen(ward: Ward) -> None:
    """A fresh installation does not read its tiers in its first minute."""
    ward.put("archive", "one", b"1")
    ward.rows("insert into mover.policy (name, digest, kind, text) values ('verify', 'x', 'verify', '')")
    assert await ward.verifications.begin_due(PROJECT) == 0


async def test_an_aborted_verification_reads_no_further_and_keeps_what_it_found(ward: Ward) -> None:
    ward.put("archive", "one", b"1")
    made = await ward.verifications.request(who(), wire.VerificationRequest(tier="archive"))
    await ward.verifications.abort(who(), made.id)
    assert (await ward.verifications.abort(who(), made.id)).state == "aborted"
    await ward.work("verify")
    assert (await ward.verifications.view(PROJECT, made.id)).checked == 0
    assert ward.actions()[-1] == "verification aborted"


async def test_a_verification_gives_its_worker_back_after_a_slice(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """A month's reading in one of two places of work would halve a hospital's staging."""
    monkeypatch.setattr(module, "CHUNK_ENTRIES", 2)
    monkeypatch.setattr(module, "SLICE_S", -1)
    for position in range(5):
        ward.put("archive", f"f{position}", b"x")
    made = await ward.verifications.request(who(), wire.VerificationRequest(tier="archive"))
    shard = await ward.claim("verify")
    await ward.verify.verify(shard)
    [row] = ward.rows("select state::text, claims, failures from mover.shard where kind = 'verify'")
    assert tuple(row) == ("waiting", 0, 0)
    monkeypatch.setattr(module, "SLICE_S", 20.0)
    await ward.work("verify")
    assert (await ward.verifications.view(PROJECT, made.id)).checked == 5


async def test_the_report_names_every_entry_once_as_json_lines_and_as_csv(ward: Ward) -> None:
    """A spreadsheet must not run a file's name as a formula."""
    ward.put("archive", "=cmd|x", b"1")
    ward.put("archive", "gone", b"2")
    ward.path("archive", "gone").unlink()
    seen = await ward.read(tier="archive")

    async def report(format_: Any) -> bytes:
        return b"".join([piece async for piece in ward.verifications.report(PROJECT, seen.id, format_)])

    lines = [msgspec.json.decode(line) for line in (await report("jsonl")).splitlines()]
    assert {line["key"]: line["state"] for line in lines} == {"=cmd|x": "whole", "gone": "open"}
    rows = list(csv.DictReader(io.StringIO((await report("csv")).decode())))
    assert {row["key"] for row in rows} == {"'=cmd|x", "gone"}
    with pytest.raises(NotFound):
        [_ async for _ in ward.verifications.report("other", seen.id, "jsonl")]


CHILD = """
import asyncio, sys
from pathlib import Path
from mover.catalog.database import Database
from mover.demo.seaweed import Seaweed
from mover.moving import verify
from tests.rooms.test_verify import Ward
from tests.support.postgres import Dsns
from tests.tiers.test_posix_tier import ROOT_ONLY
from tests.transfer.test_engine import loop_mount

async def main():
    folder, database, superuser, daemon, vault = sys.argv[1:]
    verify.CHUNK_ENTRIES = 3
    opened = await Database.open(daemon, name="child", max_size=4)
    ward = Ward(Path(folder), Dsns(database, superuser, daemon, vault), opened)
    print("ready", flush=True)
    record = verify.Verify._record
    async def told(self, *args):
        await record(self, *args)
        print("chunk", flush=True)
    verify.Verify._record = told
    await ward.work("verify")

asyncio.run(main())
"""


async def test_a_verification_killed_in_the_middle_goes_on_where_it_was(ward: Ward, dsns: Dsns) -> None:
    """kill -9 of the process that reads: every entry is looked at, none is counted twice."""
    for position in range(20):
        ward.put("archive", f"f{position:02}", b"x" * 100)
    ward.path("archive", "f19").unlink()
    made = await ward.verifications.request(who(), wire.VerificationRequest(tier="archive"))
    child = started(ward, dsns)
    try:
        assert child.stdout is not None
        for wanted in ("ready", "chunk", "chunk"):
            assert (await asyncio.to_thread(child.stdout.readline)).strip() == wanted
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.communicate()
    between = await ward.verifications.view(PROJECT, made.id)
    assert between.state == "reading" and 6 <= between.checked < 20
    ward.lapse()
    ward.rows("update mover.shard set state = 'waiting', not_before = now() where state = 'running'")
    await ward.work("verify")
    seen = await ward.verifications.view(PROJECT, made.id)
    assert (seen.state, seen.checked, seen.findings) == ("complete", 20, {"missing": 1})


def started(ward: Ward, dsns: Dsns) -> subprocess.Popen[str]:
    arguments = [str(ward.folder), dsns.database, dsns.superuser, dsns.daemon, dsns.vault]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], cwd=Path(__file__).parents[2], text=True, stdout=subprocess.PIPE
    )


def test_a_listing_of_what_is_known_stays_out_of_other_projects(ward: Ward) -> None:
    """Row level security, not a where clause: the other project sees neither verifications nor findings."""
    insert_into = "insert into mover.verification (id, project_id, tier, scope, strangers, created_by)"
    ward.rows(f"{insert_into} values ('v', 'demo', 'archive', 'tier', false, 'ann')")
    with psycopg.connect(ward.dsns.daemon) as conn:
        conn.execute("select set_config('mover.project', 'other', true)")
        assert conn.execute("select count(*) from mover.verification").fetchone() == (0,)


# --- object tiers -------------------------------------------------------------------------------------------------


def in_bucket(ward: Ward, tier: Any) -> Any:
    """The archive as a bucket instead of a folder."""
    ward.tiers["archive"] = tier
    ward.verify._ends.places["archive"] = Place("archive")  # type: ignore[index]
    return tier


def replaced(tier: Any, ward: Ward, key: str, data: bytes) -> None:
    """Other bytes at a key, as a store that rots or an administrator would leave them; the catalog learns the tag."""
    tier.remove(key)
    tier.put(key, [data], size_bytes=len(data))
    unseen(ward, "archive", key)


async def test_on_a_bucket_without_versions_what_is_missing_is_put_again_and_damage_is_only_reported(
    ward: Ward, weed: Seaweed
) -> None:
    """Keys are written once: the damaged object could only be overwritten, and that is never done."""
    tier = in_bucket(ward, object_tier(weed, name="archive", role="archive"))
    for name in ("gone", "rotten"):
        ward.put("archive", name, name.encode() * 100)
        ward.put("mirror", name, name.encode() * 100)
    tier.remove("gone")
    replaced(tier, ward, "rotten", b"ROTTEN" * 100)
    seen = await ward.read(tier="archive", repair_from="mirror")
    found = await ward.found(seen)
    assert (found["gone"].kind, found["gone"].state) == ("missing", "repaired")
    assert (found["rotten"].kind, found["rotten"].state) == ("bit-rot", "open")
    assert "overwritten" in (found["rotten"].explanation or "")
    assert tier.read("gone") == b"gone" * 100 and tier.read("rotten") == b"ROTTEN" * 100


async def test_on_a_bucket_with_versions_the_damaged_object_stays_a_version(ward: Ward, weed: Seaweed) -> None:
    """The bucket's own history is the quarantine: behind a delete marker, the damaged bytes stay."""
    tier = in_bucket(ward, object_tier(locked_bucket(weed), name="archive", role="archive"))
    assert tier.traits.versioning
    ward.put("archive", "rotten", b"rotten" * 100)
    ward.put("mirror", "rotten", b"rotten" * 100)
    replaced(tier, ward, "rotten", b"ROTTEN" * 100)
    seen = await ward.read(tier="archive", repair_from="mirror")
    assert (seen.repaired, seen.open) == (1, {})
    assert "version" in ((await ward.found(seen))["rotten"].quarantine or "")
    assert tier.read("rotten") == b"rotten" * 100
    assert (await ward.read(tier="archive")).findings == {}


# --- rot of a real disk -------------------------------------------------------------------------------------------


@ROOT_ONLY
async def test_a_bit_that_turns_on_the_disk_itself_is_found_and_repaired(ward: Ward, tmp_path: Path) -> None:
    """No fingerprint moves, no system call fails, and a warm read sees nothing: only a cold reading does. The bit is
    turned in the image under a mounted file system."""
    data = os.urandom(3_000_000)
    with loop_mount(tmp_path, "ext4") as root:
        ward.tiers["archive"] = on_disk(root, ward)
        ward.put("archive", "one", data)
        ward.put("mirror", "one", data)
    turn_and_mount(tmp_path / "image", data[1_000_000:1_000_064], root)
    try:
        seen = await ward.read(tier="archive", repair_from="mirror")
        found = (await ward.found(seen))["one"]
        assert (found.kind, found.state) == ("bit-rot", "repaired")
        assert (root / "one").read_bytes() == data
        [kept_] = (root / ".mover" / "quarantine").iterdir()
        assert kept_.read_bytes() != data
    finally:
        unmount(root)


def turn_and_mount(image: Path, where: bytes, root: Path) -> None:
    place = image.read_bytes().index(where)
    with open(image, "r+b") as file:
        file.seek(place)
        file.write(bytes([where[0] ^ 1]))
    subprocess.run(["mount", "-o", "loop", str(image), str(root)], check=True)


def unmount(root: Path) -> None:
    subprocess.run(["umount", str(root)], check=True)


def on_disk(root: Path, ward: Ward) -> PosixTier:
    identity = identities.establish(root, name="archive", zone="deidentified")
    ward.verify._ends.places["archive"] = Place("archive", False, root)  # type: ignore[index]
    return PosixTier("archive", "deidentified", root, role="archive", identity=identity)
