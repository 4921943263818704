"""The second half of a move (D14): what leaves, what is kept and why, what comes back, what is purged.

Kyoto lost 77 TB to a clean-up that ran against the wrong directory; every rule of deletion has its refusal here.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from mover.access import Access
from mover.catalog.database import Database
from mover.errors import Conflict, Denied, IllegalTransition
from mover.model import wire
from mover.model.policy import MovePolicy, ReleaseRule
from mover.moving.trash import Inode, Trash
from tests.rooms.moving_rig import ANN, PROJECT, MovingRig, request
from tests.support.facts import insert
from tests.support.postgres import Dsns

pytestmark = pytest.mark.slow


@pytest.fixture
async def rig(tmp_path: Path, dsns: Dsns, database: Database) -> AsyncIterator[MovingRig]:
    made = MovingRig(tmp_path, dsns, database)
    yield made
    made.carrier.close()


FILES = {"in/a.svs": b"a" * 3000, "in/deep/b.svs": b"b" * 10}


async def copied(rig: MovingRig, **said: Any) -> wire.Transfer:
    """A move whose copies stand and whose sources have not left yet."""
    asked = await rig.ask(prefix="in", to_prefix="kept", verb="move", **said)
    await rig.work("transfer-plan", "transfer-move", patient=True)
    return await rig.view(asked.id)


async def over(rig: MovingRig) -> int:
    """The hold is over; how many releases begin to be purged."""
    rig.rows("update mover.release set hold_until = now() - interval '1 s' where hold_until is not null")
    return await rig.releases.begin_purges()


async def test_a_move_frees_the_source_after_the_hold_and_not_before(rig: MovingRig) -> None:
    rig.fill("nas", FILES)
    seen = await rig.moved(prefix="in", to_prefix="kept", verb="move")
    assert seen.state == "done" and rig.files("nas") == {}
    assert rig.trash("nas") == FILES and set(rig.files("cold")) == {"kept/a.svs", "kept/deep/b.svs"}
    [release] = seen.releases
    assert (release.state, release.counts) == ("held", {"released": 2})
    assert release.hold_until is not None
    assert await rig.releases.begin_purges() == 0 and rig.trash("nas") == FILES
    assert await over(rig) == 1
    await rig.work()
    assert rig.trash("nas") == {} and not (rig.folder / "nas/.mover/trash" / release.id).exists()
    assert (await rig.view(seen.id)).releases[0].counts == {"purged": 2}
    gone = rig.rows("select key from mover.entry where tier = 'nas' and gone_at is null")
    assert gone == []
    assert rig.actions()[-3:] == ["sources released", "release purge begins", "sources purged"]


async def test_what_was_released_comes_back_while_it_is_held(rig: MovingRig) -> None:
    rig.fill("nas", FILES)
    seen = await rig.moved(prefix="in", to_prefix="kept", verb="move")
    await rig.transfers.restore(ANN, seen.id)
    await rig.work()
    assert rig.files("nas") == FILES and rig.trash("nas") == {}
    assert (await rig.view(seen.id)).releases[0].state == "restored"
    with pytest.raises(Conflict):
        await rig.transfers.restore(ANN, seen.id)
    assert await over(rig) == 0


async def test_a_name_taken_meanwhile_is_not_overwritten_by_what_comes_back(rig: MovingRig) -> None:
    rig.fill("nas", FILES)
    seen = await rig.moved(prefix="in", to_prefix="kept", verb="move")
    rig.fill("nas", {"in/a.svs": b"somebody's new file"})
    await rig.transfers.restore(ANN, seen.id)
    await rig.work()
    assert rig.files("nas") == {**FILES, "in/a.svs": b"somebody's new file"}
    assert rig.trash("nas") == {"in/a.svs": FILES["in/a.svs"]}
    [release] = (await rig.view(seen.id)).releases
    assert release.state == "held" and release.explanation == "1 could not be brought back"


# --- what keeps a source -----------------------------------------------------------------------------------------


async def kept(rig: MovingRig, change: Any, **said: Any) -> tuple[wire.Transfer, dict[str, int]]:
    rig.fill("nas", FILES)
    seen = await copied(rig, **said)
    change()
    await rig.work(patient=True)
    seen = await rig.view(seen.id)
    return seen, seen.releases[0].kept


async def test_a_copy_that_rotted_since_keeps_its_source(rig: MovingRig) -> None:
    """The copy is read again, cold, a moment before the source leaves: not the row is believed."""
    place = rig.folder / "cold/kept/a.svs"

    def rots() -> None:
        place.chmod(0o644)
        with open(place, "r+b") as file:
            file.seek(7)
            file.write(b"!")

    seen, why = await kept(rig, rots)
    assert (seen.state, why) == ("incomplete", {"copy-differs": 1})
    assert rig.files("nas") == {"in/a.svs": FILES["in/a.svs"]}


async def test_a_copy_that_is_gone_keeps_its_source(rig: MovingRig) -> None:
    seen, why = await kept(rig, lambda: (rig.folder / "cold/kept/a.svs").unlink())
    assert why == {"copy-differs": 1} and "in/a.svs" in rig.files("nas")


async def test_a_source_that_was_written_again_is_kept_also_with_its_old_size_and_time(rig: MovingRig) -> None:
    path = rig.folder / "nas/in/a.svs"

    def rewritten() -> None:
        before = path.stat()
        path.write_bytes(b"A" * 3000)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    _, why = await kept(rig, rewritten)
    assert why == {"source-changed": 1} and rig.files("nas") == {"in/a.svs": b"A" * 3000}


async def test_a_file_of_two_names_is_kept(rig: MovingRig) -> None:
    """Releasing one of its names frees nothing, and the other may be somebody's work."""

    def linked() -> None:
        os.link(rig.folder / "nas/in/a.svs", rig.folder / "nas/elsewhere.svs")

    _, why = await kept(rig, linked)
    assert set(why) <= {"several-names", "source-changed"} and "in/a.svs" in rig.files("nas")


async def test_what_a_row_of_another_workflow_points_to_is_kept(rig: MovingRig) -> None:
    """A slide of any project, or an entry of a live run: bytes go only when no row points to them (I1)."""

    def pointed_at() -> None:
        import psycopg

        with psycopg.connect(rig.dsns.superuser) as conn:
            insert(conn, "slide", number="0123456789ABCDEFG", site="ward", family="aperio", extension="svs",
                   size_bytes=3000, digest="ab" * 32, tier="nas", key="in/a.svs", facts="{}")  # fmt: skip

    _, why = await kept(rig, pointed_at)
    assert why == {"release-owned": 1} and "in/a.svs" in rig.files("nas")


async def test_an_unverified_copy_releases_nothing(rig: MovingRig) -> None:
    def unproved() -> None:
        rig.rows("update mover.transfer_entry set verified_at = null where source = 'in/a.svs'")

    _, why = await kept(rig, unproved)
    assert why == {"copy-unverified": 1} and "in/a.svs" in rig.files("nas")


async def test_a_file_swapped_in_between_look_and_rename_stays_where_it_is(rig: MovingRig) -> None:
    """The last moment: the name is checked by inode after the rename, and given back."""
    rig.fill("nas", {"in/a": b"1", "in/b": b"2"})
    trash = Trash(rig.folder / "nas", tier="nas", check_identity=rig.tiers["nas"].check_identity)
    with trash.opened() as root:
        seen = trash.find(root, "in/a")
        assert seen is not None
        real = trash._refuse_other
        trash._refuse_other = lambda found, expected: os.replace(rig.folder / "nas/in/b", rig.folder / "nas/in/a")  # type: ignore
        from mover.errors import ChangedWhileReading

        with pytest.raises(ChangedWhileReading):
            trash.rename(root, "in/a", ".mover/trash/release-x/in/a", expected=seen)
        trash._refuse_other = real  # type: ignore[method-assign]
        with pytest.raises(ChangedWhileReading):
            trash.rename(root, "in/a", ".mover/trash/release-x/in/a", expected=Inode(seen.device, 1))
    assert rig.files("nas") == {"in/a": b"2"} and rig.trash("nas") == {}


# --- what happens between the look and the rename, and after it ------------------------------------------------------


async def test_two_moves_there_and_back_never_take_both_copies(rig: MovingRig) -> None:
    """I1: each release counts on the copy that the other takes away, and both looked before either one renamed."""
    rig.fill("nas", {"in/a.svs": b"a" * 3000})
    rig.fill("cold", {"kept/a.svs": b"a" * 3000})
    there = await rig.ask("there", prefix="in", to_prefix="kept", verb="move")
    back = await rig.ask("back", source="cold", to="nas", prefix="kept", to_prefix="in", verb="move")
    await rig.work("transfer-plan", "transfer-move", patient=True)
    both, real = threading.Barrier(2), rig.releases._look_at

    def look_at(*said: Any) -> Any:
        found = real(*said)
        both.wait(20)
        return found

    rig.releases._look_at = look_at  # type: ignore[method-assign]
    shards = [await rig.claim_of((await rig.view(one.id)).releases[0].id) for one in (there, back)]
    await asyncio.gather(*(rig.releases.release(shard) for shard in shards))
    await over(rig)
    await rig.work(patient=True)
    stands = {**rig.files("nas"), **rig.files("cold")}
    assert b"a" * 3000 in stands.values()


async def test_a_source_written_to_after_its_look_is_given_back(rig: MovingRig) -> None:
    """I1: the new bytes have no copy anywhere; the inode is the same, so only size and time tell."""
    rig.fill("nas", FILES)
    seen = await copied(rig)
    real = rig.releases._leave

    def leave(tier: str, looks: Any) -> Any:
        with open(rig.folder / "nas/in/a.svs", "ab") as file:
            file.write(b"more")
        return real(tier, looks)

    rig.releases._leave = leave  # type: ignore[method-assign]
    await rig.work(patient=True)
    assert rig.files("nas") == {"in/a.svs": FILES["in/a.svs"] + b"more"}
    assert (await rig.view(seen.id)).releases[0].kept == {"changed-while-reading": 1}


async def test_a_source_written_to_while_it_leaves_is_given_back(rig: MovingRig) -> None:
    """Whoever had it open goes on writing to the inode, wherever its name is now."""
    rig.fill("nas", FILES)
    seen = await copied(rig)
    real = rig.releases._leave

    def leave(tier: str, looks: Any) -> Any:
        with open(rig.folder / "nas/in/a.svs", "ab") as file:
            found = real(tier, looks)
            file.write(b"more")
        return found

    rig.releases._leave = leave  # type: ignore[method-assign]
    await rig.work(patient=True)
    assert rig.files("nas") == {"in/a.svs": FILES["in/a.svs"] + b"more"}
    assert (await rig.view(seen.id)).releases[0].kept == {"source-changed": 1}


async def test_bytes_written_in_the_trash_are_not_purged(rig: MovingRig) -> None:
    rig.fill("nas", FILES)
    seen = await rig.moved(prefix="in", to_prefix="kept", verb="move")
    with next((rig.folder / "nas/.mover/trash").rglob("a.svs")).open("ab") as file:
        file.write(b"more")
    await over(rig)
    await rig.work(patient=True)
    assert rig.trash("nas") == {"in/a.svs": FILES["in/a.svs"] + b"more"}
    assert (await rig.view(seen.id)).releases[0].kept == {"changed-while-reading": 1}


async def test_what_stands_nowhere_else_by_the_end_of_its_hold_is_not_purged(rig: MovingRig) -> None:
    """I1: somebody removed the copy while its source was held; the trash holds the last of it."""
    rig.fill("nas", FILES)
    seen = await rig.moved(prefix="in", to_prefix="kept", verb="move")
    (rig.folder / "cold/kept/a.svs").unlink()
    rig.rows("update mover.entry set gone_at = now() where tier = 'cold' and key = 'kept/a.svs'")
    await over(rig)
    await rig.work(patient=True)
    assert rig.trash("nas") == {"in/a.svs": FILES["in/a.svs"]}
    assert (await rig.view(seen.id)).releases[0].kept == {"copy-missing": 1}


async def test_what_was_moved_on_meanwhile_is_purged(rig: MovingRig) -> None:
    """The copy left its place for another, where it was read back: the first source may go."""
    rig.fill("nas", FILES)
    seen = await rig.moved(prefix="in", to_prefix="kept", verb="move")
    await rig.moved("on", source="cold", to="flash", prefix="kept", to_prefix="data", verb="move")
    assert set(rig.files("flash")) == {"data/a.svs", "data/deep/b.svs"} and rig.files("cold") == {}
    await over(rig)
    await rig.work(patient=True)
    assert (await rig.view(seen.id)).releases[0].counts == {"purged": 2}


async def test_what_a_purge_that_was_given_up_left_comes_back_too(rig: MovingRig) -> None:
    """I7: a restore that leaves files in the trash and calls itself restored would hide them for ever."""
    rig.fill("nas", FILES)
    seen = await rig.moved(prefix="in", to_prefix="kept", verb="move")
    rig.rows("update mover.release_entry set state = 'purging'")
    await rig.transfers.restore(ANN, seen.id)
    await rig.work(patient=True)
    assert rig.files("nas") == FILES and (await rig.view(seen.id)).releases[0].state == "restored"


# --- what keeps everything ----------------------------------------------------------------------------------------


async def test_many_sources_wait_for_a_second_person(rig: MovingRig) -> None:
    """Neither another name for who asked, nor another token that they made, nor the name that a scheduler's word has
    with somebody else's behind it, is another person; whoever the machine made is."""
    access = Access(rig.database, project=PROJECT, node="n1", own_uid=990)
    tokens = {}
    for name, maker in (("ann", ANN), ("again", "ann"), ("bob", ANN)):
        made = await access.make_token(tokens.get(maker, ANN), wire.TokenRequest(actor=name, role="admin"))
        tokens[name] = await access.authenticate(made.secret or "")
    rig.fill("nas", FILES)
    body = request(prefix="in", to_prefix="kept", verb="move", release=wire.TransferRelease(entries=1))
    asked = await rig.transfers.request(tokens["ann"], body, key="k")
    await rig.work(patient=True)
    seen = await rig.view(asked.id)
    assert (seen.state, seen.reason) == ("waiting", "release") and rig.files("nas") == FILES
    for one in (tokens["ann"], tokens["again"], structs.replace(tokens["ann"], actor="ann for uid:7")):
        with pytest.raises(Denied, match="second person"):
            await rig.transfers.approve(one, seen.id)
    await rig.transfers.approve(tokens["bob"], seen.id)
    await rig.work(patient=True)
    seen = await rig.view(seen.id)
    assert (seen.state, seen.releases[0].approved_by) == ("done", "bob") and rig.trash("nas") == FILES


async def test_any_person_approves_what_a_policy_released(tmp_path: Path, dsns: Dsns, database: Database) -> None:
    """A policy is nobody: the machine, at whose word it begins, may be the one who looks."""
    policy = MovePolicy(name="nightly", source="nas", target="cold", prefix="in", to_prefix="kept", every_s=3600,
                        release=ReleaseRule(entries=1))  # fmt: skip
    rig = MovingRig(tmp_path, dsns, database, policies=(policy,))
    rig.fill("nas", FILES)
    assert await rig.transfers.begin_due(PROJECT) == 1
    await rig.work(patient=True)
    [seen] = (await rig.transfers.list(PROJECT)).transfers
    assert (seen.state, seen.reason) == ("waiting", "release")
    await rig.transfers.approve(ANN, seen.id)
    rig.carrier.close()


async def test_a_large_tier_lets_more_go_at_once(rig: MovingRig) -> None:
    """One percent of what walks know of it."""
    rig.fill("nas", FILES)
    rig.rows(
        "insert into mover.entry (project_id, tier, key, kind, size_bytes, mtime_ns, mark)"
        " select 'demo', 'nas', ('x/' || n)::bytea, 'file', 1, 1, '1:1' from generate_series(1, 200) n"
    )
    seen = await rig.moved(prefix="in", to_prefix="kept", verb="move", release=wire.TransferRelease(entries=0))
    assert seen.state == "done"


async def test_a_release_that_waits_is_given_up_with_its_transfer(rig: MovingRig) -> None:
    rig.fill("nas", FILES)
    seen = await rig.moved(prefix="in", to_prefix="kept", verb="move", release=wire.TransferRelease(entries=0))
    seen = await rig.transfers.abort(ANN, seen.id)
    assert (seen.state, seen.releases[0].state) == ("aborted", "dropped") and rig.files("nas") == FILES
    with pytest.raises(IllegalTransition):
        await rig.transfers.abort(ANN, (await rig.moved("two", prefix="in", to_prefix="other")).id)


@pytest.mark.parametrize("tier", ["nas", "cold"])
async def test_a_tier_without_its_identity_releases_nothing(rig: MovingRig, tier: str) -> None:
    """D11: absent or different means not mounted: stop, delete nothing."""
    rig.fill("nas", FILES)
    seen = await copied(rig)
    identity = rig.folder / tier / ".mover/tier.json"
    hidden = identity.read_bytes()
    identity.unlink()
    for opened in rig.tiers.values():
        opened._proved = None
    await rig.work("transfer-release", once=True)
    assert rig.files("nas") == FILES and rig.trash("nas") == {}
    assert "tier-unavailable" in ((await rig.view(seen.id)).explanation or "")
    identity.write_bytes(hidden)
    await rig.work(patient=True)
    assert (await rig.view(seen.id)).state == "done"


async def test_a_clock_that_went_back_releases_and_purges_nothing(rig: MovingRig) -> None:
    """D12: no hold can be trusted to be over."""
    rig.fill("nas", FILES)
    seen = await rig.moved(prefix="in", to_prefix="kept", verb="move")
    rig.rows("insert into mover.node (id, seen_at, version) values ('n9', now() + interval '1 hour', '0')")
    assert await over(rig) == 0 and rig.trash("nas") == FILES
    assert "clock" in ((await rig.view(seen.id)).releases[0].explanation or "")
    rig.rows("update mover.node set seen_at = now()")
    assert await over(rig) == 1


async def test_a_catalog_restored_from_a_backup_purges_nothing(rig: MovingRig) -> None:
    """A row of yesterday may name what was brought back today."""
    rig.fill("nas", FILES)
    await rig.moved(prefix="in", to_prefix="kept", verb="move")
    rig.rows("update mover.release set epoch = '7/1'")
    assert await over(rig) == 0 and rig.trash("nas") == FILES


async def test_a_trash_on_an_unmounted_tier_is_not_taken_for_purged(rig: MovingRig) -> None:
    rig.fill("nas", FILES)
    seen = await rig.moved(prefix="in", to_prefix="kept", verb="move")
    await over(rig)
    (rig.folder / "nas").rename(rig.folder / "away")
    (rig.folder / "nas").mkdir()
    await rig.work("transfer-purge", once=True)
    assert "purged" not in (await rig.view(seen.id)).releases[0].counts
    (rig.folder / "nas").rmdir()
    (rig.folder / "away").rename(rig.folder / "nas")
    await rig.work(patient=True)
    assert (await rig.view(seen.id)).releases[0].counts == {"purged": 2}


async def test_purging_names_rows_and_touches_no_other_file(rig: MovingRig) -> None:
    """Another file under a trash name, and files nobody released, stay."""
    rig.fill("nas", FILES)
    seen = await rig.moved(prefix="in", to_prefix="kept", verb="move")
    folder = rig.folder / "nas/.mover/trash" / seen.releases[0].id
    (folder / "in/a.svs").rename(folder / "in/kept-aside")
    (folder / "in/a.svs").write_bytes(b"not the one")
    await over(rig)
    await rig.work(patient=True)
    assert rig.trash("nas") == {"in/a.svs": b"not the one", "in/kept-aside": FILES["in/a.svs"]}
    [release] = (await rig.view(seen.id)).releases
    assert release.counts == {"purged": 1, "kept": 1} and release.kept == {"changed-while-reading": 1}


async def test_looking_at_a_transfer_waits_for_no_worker(rig: MovingRig) -> None:
    """A page of transfers that took the rows of their releases would stop them all while it is read."""
    rig.fill("nas", FILES)
    seen = await rig.moved(prefix="in", to_prefix="kept", verb="move")
    async with rig.database.project("demo") as conn:
        await conn.execute("select from mover.release for update")
        async with asyncio.timeout(60):
            assert (await rig.view(seen.id)).releases[0].state == "held"


# --- kills -------------------------------------------------------------------------------------------------------


class Gone(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("point", ["before the rename", "between two renames", "after the renames"])
async def test_a_kill_at_any_point_of_a_release_leaves_every_file_in_one_place(rig: MovingRig, point: str) -> None:
    rig.fill("nas", FILES)
    seen = await copied(rig)
    shard = await rig.claim("transfer-release")
    real_leave, real_rename, renames = rig.releases._leave, Trash.rename, []

    def leave(tier: str, looks: Any) -> Any:
        if point == "before the rename":
            raise Gone
        real_leave(tier, looks)
        raise Gone

    def rename(self: Trash, root: int, source: str, target: str, *, expected: Inode) -> None:
        if point == "between two renames" and renames:
            raise Gone
        renames.append(source)
        real_rename(self, root, source, target, expected=expected)

    rig.releases._leave, Trash.rename = leave, rename  # type: ignore[method-assign]
    try:
        with pytest.raises(Gone):
            await rig.releases.release(shard)
    finally:
        rig.releases._leave, Trash.rename = real_leave, real_rename  # type: ignore[method-assign]
    stands = {**rig.files("nas"), **rig.trash("nas")}
    assert stands == FILES
    rig.lapse()
    await rig.work(patient=True)
    seen = await rig.view(seen.id)
    assert (seen.state, seen.releases[0].counts) == ("done", {"released": 2})
    assert rig.trash("nas") == FILES and rig.files("nas") == {}


async def test_a_kill_in_mid_purge_ends_purged(rig: MovingRig) -> None:
    rig.fill("nas", FILES)
    seen = await rig.moved(prefix="in", to_prefix="kept", verb="move")
    await over(rig)
    shard = await rig.claim("transfer-purge")
    real = Trash.remove
    removed: list[str] = []

    def remove(self: Trash, root: int, key: str, *, expected: Inode) -> bool:
        if removed:
            raise Gone
        removed.append(key)
        return real(self, root, key, expected=expected)

    Trash.remove = remove  # type: ignore[method-assign]
    try:
        with pytest.raises(Gone):
            await rig.releases.purge(shard)
    finally:
        Trash.remove = real  # type: ignore[method-assign]
    assert len(rig.trash("nas")) == 1
    rig.lapse()
    await rig.work(patient=True)
    assert rig.trash("nas") == {} and (await rig.view(seen.id)).releases[0].state == "purged"


async def test_two_workers_on_one_release_move_nothing_twice(rig: MovingRig) -> None:
    rig.fill("nas", {f"in/{n}": bytes([n]) * 50 for n in range(20)})
    seen = await copied(rig)
    first = await rig.claim("transfer-release")
    rig.lapse()
    second = await rig.claim("transfer-release")
    found = await asyncio.gather(rig.releases.release(first), rig.releases.release(second), return_exceptions=True)
    assert [type(one).__name__ for one in found] == ["LeaseLost", "NoneType"]
    seen = await rig.view(seen.id)
    assert seen.releases[0].counts == {"released": 20} and len(rig.trash("nas")) == 20
