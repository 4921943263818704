"""The content store of a flash tier: shared by runs that come and go, never believed when touched, never leaked."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from mover.catalog.database import Database
from mover.errors import CatalogUnavailable, ChangedWhileReading, TierFull
from mover.jobs import Shard
from mover.model import wire
from mover.model.policy import CleanPolicy
from mover.runs import content
from mover.runs import roots as module
from mover.runs import stage as stage_module
from mover.runs.content import ContentStore
from mover.runs.fetch import Fetched
from mover.runs.roots import Shared, content_key, content_mark
from mover.sdk import check
from tests.rooms.rig import OTHER, PROJECT, Rig, Space, who
from tests.support.postgres import Dsns
from tests.tiers.test_posix_tier import tmpfs
from tests.transfer.test_engine import loop_mount

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
MIB = 1 << 20


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Rig:
    return Rig(tmp_path, dsns, database)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes of a flash tier's files that were read to know them, by what they are."""
    counted: dict[str, int] = {}
    hash_descriptor = module.hash_descriptor

    def hashing(descriptor: int) -> str:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        what = "content" if "/content/" in path else "data" if "/data/" in path else "other"
        counted[what] = counted.get(what, 0) + os.fstat(descriptor).st_size
        return hash_descriptor(descriptor)

    monkeypatch.setattr(module, "hash_descriptor", hashing)
    return counted


def root(rig: Rig, run: str) -> Path:
    return rig.folder / "flash" / "runs" / run


async def ready(rig: Rig, files: list[str], *, key: str, project: str = PROJECT) -> wire.Run:
    run = await rig.request(files, key=key, project=project)
    await rig.work()
    found = await rig.runs.view(project, run.id)
    assert found.state == "ready", found.explanation
    assert check(root(rig, run.id), read=True, expected_root=found.manifest_root).whole
    return found


async def cleaned(rig: Rig, run: str, *, project: str = PROJECT) -> None:
    await rig.runs.finish(who(project), run, wire.FinishRequest())
    await rig.work()
    await rig.runs.clean(who(project), run)
    await rig.work()
    assert rig.run(run).state == "cleaned" and not root(rig, run).exists()


def marks_are_known(rig: Rig) -> bool:
    rows = {row.digest: row.mark for row in rig.rows("select digest, mark from mover.content")}
    return bool(rows) and rows == rig.roots.marks(rows)


def content_of(rig: Rig, number: str) -> Path:
    return rig.roots.root / content_key(rig.rows("select digest from mover.slide where number = %s", number)[0].digest)


def rewrite(path: Path, data: bytes) -> None:
    """As whoever has the daemon's rights may: other bytes of the same size, and the old time."""
    before = path.stat()
    path.chmod(0o600)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.chmod(0o444)


# --- what was cleaned is shared again ------------------------------------------------------------------------


async def test_what_was_cleaned_is_linked_again_and_no_byte_of_it_read(rig: Rig, read: dict[str, int]) -> None:
    """Our own unlinks move every inode that runs share. A restage after a cleanup is the usual one: it must not read
    terabytes, and neither must a run beside one that is cleaned, of whatever project."""
    slides = rig.slides([1000, 2000, 3000], projects=(PROJECT, OTHER))
    first = await ready(rig, slides, key="1")
    beside = await ready(rig, slides[:2], key="2", project=OTHER)
    await cleaned(rig, first.id)
    assert marks_are_known(rig)
    rig.folder.joinpath("archive").rename(rig.folder / "away")

    again = await ready(rig, slides, key="3")
    await cleaned(rig, beside.id, project=OTHER)
    await cleaned(rig, again.id)

    assert again.linked_count == 3
    assert read.keys() == {"other"}, "neither content nor data/ was read"
    assert marks_are_known(rig)


async def test_where_roots_have_inodes_of_their_own_a_cleanup_reads_none_that_is_untouched(
    tmp_path: Path, dsns: Dsns, database: Database, read: dict[str, int]
) -> None:
    """Reflinks: the seal says how each inode looks. A file that was changed under its old size and time is found still,
    and a plan over HTTP names it as unread."""
    with loop_mount(tmp_path, "xfs -m reflink=1") as folder:
        rig = Rig(folder, dsns, database)
        if not rig.roots.reflink:
            pytest.skip("no reflinks on this machine's XFS")
        slides = rig.slides([1000, 2000, 3000])
        run = await ready(rig, slides, key="1")
        plan = await rig.runs.plan_clean(PROJECT, run.id)
        assert plan.counts == {"remove": 6} and "data" not in read
        changed = next((root(rig, run.id) / "data").rglob(f"*{slides[1]}*.svs"))
        rewrite(changed, b"x" * 2000)
        plan = await rig.runs.plan_clean(PROJECT, run.id)
        assert plan.counts == {"remove": 5, "read": 1} and "data" not in read

        await cleaned(rig, run.id)

        assert read["data"] == 2000
        [stray] = rig.rows("select why, moved_to from mover.stray")
        assert stray.why == "changed" and (folder / "flash" / stray.moved_to).read_bytes() == b"x" * 2000
        again = await ready(rig, slides, key="2")
        assert again.linked_count == 3 and "content" not in read


async def test_a_kill_between_unlinks_and_their_marks_costs_that_group_a_read(
    rig: Rig, read: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a wrong belief: what is not written down is looked at."""
    monkeypatch.setattr(stage_module, "LINKED_AT_ONCE", 2)
    slides = rig.slides([1000, 2000, 3000, 4000])
    first = await ready(rig, slides, key="1")
    unlinked, killed = content.unlinked, []

    async def kill(conn: Any, tier: str, marks: dict[str, str]) -> None:
        if not killed:
            killed.extend(marks)
            raise CatalogUnavailable("killed")
        await unlinked(conn, tier, marks)

    monkeypatch.setattr(content, "unlinked", kill)
    await rig.runs.finish(who(), first.id, wire.FinishRequest())
    await rig.work()
    await rig.runs.clean(who(), first.id)
    await rig.work()
    rig.due()
    await rig.work()
    assert rig.run(first.id).state == "cleaned" and len(killed) == 2
    read.clear()

    assert (await ready(rig, slides, key="2")).linked_count == 4

    sizes = {row.digest: row.size_bytes for row in rig.rows("select digest, size_bytes from mover.slide")}
    assert read["content"] == sum(sizes[digest] for digest in killed)


async def test_what_was_touched_before_we_unlinked_it_is_not_believed_after(rig: Rig) -> None:
    """A job that may write the inode (the daemon's own user, or root) must not have its change covered by our mark;
    nor one whose other bytes came between our looks."""
    [slide] = rig.slides([1000])
    run = await ready(rig, [slide], key="1")
    path = content_of(rig, slide)
    known = {path.name: rig.rows("select mark from mover.content")[0].mark}
    [entry] = rig.rows("select path from mover.run_entry where number is not null")
    name = root(rig, run.id) / entry.path
    looked = module.mark_of(name.stat())
    rewrite(path, b"x" * 1000)
    rig.roots.unseal(run.id)

    names = [Shared(entry.path, path.name, 1000, looked)]
    assert rig.roots.unlink_shared(run.id, names, known) == {}
    assert not name.exists() and content_mark(path.stat()) not in known.values()


async def test_a_shared_file_that_was_changed_goes_aside_and_every_run_that_holds_it_is_told(rig: Rig) -> None:
    """Known damage must reach who trains on it: in the run, as an event, whatever its project."""
    slides = rig.slides([1000, 2000], projects=(PROJECT, OTHER))
    first = await ready(rig, slides, key="1")
    other = await ready(rig, slides[:1], key="2", project=OTHER)
    away = await ready(rig, slides[1:], key="3", project=OTHER)
    rewrite(content_of(rig, slides[0]), b"x" * 1000)

    last = await ready(rig, slides, key="4")

    assert last.linked_count == 1, "the damaged one was fetched anew"
    told = rig.rows("select run_id, path from mover.run_entry where damaged_at is not null order by run_id")
    assert [row.run_id for row in told] == sorted([first.id, other.id])
    events = rig.rows("select run_id, state::text from mover.run_event where reason = 'content-damaged'")
    assert {(row.run_id, row.state) for row in events} == {(first.id, "ready"), (other.id, "ready")}
    for project, run in ((PROJECT, first), (OTHER, other)):
        seen = await rig.runs.view(project, run.id)
        assert [(one["number"], seen.damaged_count) for one in seen.damaged] == [(slides[0], 1)]
    assert (await rig.runs.view(OTHER, away.id)).damaged == []
    [kept] = rig.rows("select moved_to, size_bytes from mover.damaged")
    assert (rig.roots.root / kept.moved_to).read_bytes() == b"x" * 1000

    await cleaned(rig, first.id)
    assert [row.why for row in rig.rows("select why from mover.stray")] == ["changed"]


async def test_damage_found_while_a_run_is_staged_is_staged_again_before_it_is_ready(rig: Rig) -> None:
    """I4: a run that linked content before somebody found it rotten does not become ready with it."""
    [slide] = rig.slides([1000])
    await ready(rig, [slide], key="1")
    run = await rig.request([slide], key="2")
    await rig.work("run-stage")
    path = content_of(rig, slide)
    rewrite(path, b"x" * 1000)
    async with rig.database.project(PROJECT) as conn:
        await content.locked(conn, "flash", {path.name})
        await content.set_aside(conn, rig.stage._flash["flash"], "flash", path.name)

    await rig.work()

    found = rig.run(run.id)
    assert found.state == "ready", found.explanation
    assert check(root(rig, run.id), read=True).whole


async def test_two_damages_of_one_digest_are_two_pieces_of_evidence(rig: Rig) -> None:
    """And one that was set aside by somebody who was killed before his commit is told by the next sweep."""
    [slide] = rig.slides([1000])
    run = await ready(rig, [slide], key="1")
    digest = content_of(rig, slide).name
    for data in (b"one", b"two"):
        content_of(rig, slide).unlink(missing_ok=True)
        content_of(rig, slide).write_bytes(data)
        rig.roots.set_aside(digest)
    assert rig.rows("select * from mover.damaged") == []

    store = ContentStore(rig.database, rig.stage._flash, node="n1")
    await store.sweep(PROJECT, "flash")
    await store.sweep(PROJECT, "flash")

    kept = [rig.roots.root / row.moved_to for row in rig.rows("select moved_to from mover.damaged order by moved_to")]
    assert [path.read_bytes() for path in kept] == [b"one", b"two"]
    told = rig.rows("select run_id from mover.run_entry where damaged_at is not null")
    assert [row.run_id for row in told] == [run.id]


async def test_tars_are_cleaned_shared_again_and_told_damaged_as_files_are(rig: Rig, read: dict[str, int]) -> None:
    """Layout `shards`: a tar is one entry of the content store."""
    slides = rig.slides([1000, 2000])

    async def in_tars(key: str) -> wire.Run:
        asked = wire.RunRequest(files=slides, layout="shards", shard_bytes=65_536)
        run = await rig.runs.request(who(), asked, key=key)
        await rig.work()
        return await rig.runs.view(PROJECT, run.id)

    first, beside = await in_tars("1"), await in_tars("2")
    read.clear()
    await cleaned(rig, first.id)
    third = await in_tars("3")
    assert (third.state, third.linked_count) == ("ready", 2)
    assert read.keys() <= {"other"} and marks_are_known(rig)

    [tar] = rig.rows("select path, digest from mover.run_tar where run_id = %s", third.id)
    rewrite(rig.roots.root / content_key(tar.digest), b"x" * (rig.roots.root / content_key(tar.digest)).stat().st_size)
    last = await in_tars("4")

    assert last.state == "ready" and check(root(rig, last.id), read=True).whole
    for run in (beside, third):
        seen = await rig.runs.view(PROJECT, run.id)
        assert [one["path"] for one in seen.damaged] == [tar.path]


# --- nothing leaks ---------------------------------------------------------------------------------------------


async def test_what_a_cancelled_run_fetched_makes_room_for_others(rig: Rig, read: dict[str, int]) -> None:
    """Bytes without a row were unknown to admission and to eviction for ever. With one they go like any idle content,
    or are read before they are shared."""
    slides = rig.slides([1000, 2000])
    run = await rig.request(slides, key="1")
    shard = await rig.claim("run-stage")
    fetch = rig.stage._fetch.fetch

    async def cancelled(shard: Shard, tier: str, entries: Sequence[Any]) -> AsyncGenerator[Fetched, None]:
        async for fetched in fetch(shard, tier, entries):
            await rig.runs.cancel(who(), run.id)
            yield fetched

    rig.stage._fetch.fetch = cancelled  # type: ignore[method-assign]
    await rig.stage.stage(shard)
    assert rig.rows("select * from mover.content") == []
    rig.due()
    await rig.work()
    rig.stage._fetch.fetch = fetch  # type: ignore[method-assign]
    assert rig.run(run.id).state == "cleaned"

    [left] = rig.rows("select digest, mark, verified_at from mover.content")
    assert (left.mark, left.verified_at) == ("", None)
    again = await ready(rig, slides, key="2")
    assert again.linked_count == 1 and read["content"] in (1000, 2000)
    assert marks_are_known(rig)


async def test_a_sweep_gives_strays_of_the_store_a_row_and_takes_nothing_from_a_fetch(rig: Rig) -> None:
    """An eviction that was killed between row and file; a fetch at this moment, whose row comes with its link."""
    one, two = rig.slides([1000, 2000])
    path = content_of(rig, one)
    rig.tiers["flash"].put(content_key(path.name), [bytes([1]) * 1000], size_bytes=1000)  # type: ignore[attr-defined]
    (path.parent / ".mover-tmp-00").write_bytes(b"on its way")
    store = ContentStore(rig.database, rig.stage._flash, node="n1")
    fetch, swept = rig.stage._fetch.fetch, []

    async def sweeping(shard: Shard, tier: str, entries: Sequence[Any]) -> AsyncGenerator[Fetched, None]:
        async for fetched in fetch(shard, tier, entries):
            swept.append(await store.sweep(PROJECT, "flash"))
            yield fetched

    assert await store.sweep(PROJECT, "flash") == 1
    assert await store.sweep(PROJECT, "flash") == 0
    rig.stage._fetch.fetch = sweeping  # type: ignore[method-assign]
    await ready(rig, [one, two], key="1")
    assert swept == [1] and marks_are_known(rig)

    await store.evict(PROJECT, "flash", [path.name])
    assert path.exists(), "a run holds it"


async def test_what_was_set_aside_is_held_for_its_time_and_goes_on_record(rig: Rig) -> None:
    """Strays and damaged content have an end: the policy's, with a reason, and rows that say so."""
    [slide] = rig.slides([1000])
    run = await ready(rig, [slide], key="1")
    await rig.runs.finish(who(), run.id, wire.FinishRequest())
    await rig.work()
    deep = root(rig, run.id) / "out" / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "late.pt").write_bytes(b"late")
    await rig.runs.clean(who(), run.id)
    await rig.work()
    content_of(rig, slide).write_bytes(b"rot")
    async with rig.database.project(PROJECT) as conn:
        await content.set_aside(conn, rig.stage._flash["flash"], "flash", content_of(rig, slide).name)
    aside = [rig.roots.root / ".mover/strays" / run.id, rig.roots.root / ".mover/damaged" / content_of(rig, slide).name]
    store, policy = ContentStore(rig.database, rig.stage._flash, node="n1"), CleanPolicy(name="clean", flash="flash")
    for_ever = CleanPolicy(name="clean", flash="flash", aside_s=None)
    for table in ("stray", "damaged"):
        rig.rows(f"update mover.{table} set at = now() - interval '89 days'")  # noqa: S608 - our own words

    assert await store.purge(PROJECT, "flash", policy) == 0
    for table in ("stray", "damaged"):
        rig.rows(f"update mover.{table} set at = now() - interval '91 days'")  # noqa: S608
    assert await store.purge(PROJECT, "flash", for_ever) == 0
    assert all(path.exists() for path in aside)
    await rig.runs.tend_store(PROJECT, "flash")
    assert await store.purge(PROJECT, "flash", policy) == 0

    assert not any(path.exists() for path in aside)
    rows = rig.rows("select purged_at from mover.stray union all select purged_at from mover.damaged")
    assert len(rows) == 2 and all(row.purged_at for row in rows)
    reasons = rig.rows("select body::jsonb ->> 'reason' as reason from mover.audit_record"
                       " where body::jsonb ->> 'action' like '%%purged'")  # fmt: skip
    assert [row.reason for row in reasons] == ["set aside 91.0 days ago; the policy clean holds it for 90.0"] * 2


# --- a seal that was given up -----------------------------------------------------------------------------------


async def test_a_seal_that_is_tried_again_writes_what_the_first_one_decided(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt that hung on one node may go on when another has sealed the root: both must write the same."""
    run = await rig.request(rig.slides([1000]), key="1")
    await rig.work("run-stage")
    seal = rig.roots.seal
    monkeypatch.setattr(rig.roots, "seal", lambda *_: (_ for _ in ()).throw(ChangedWhileReading("killed")))
    await rig.work("run-seal")
    before = {name: (root(rig, run.id) / name).read_bytes() for name in module.SEALED}
    monkeypatch.setattr(rig.roots, "seal", seal)
    rig.rows("insert into mover.fact_column (project_id, name, type, table_name) values ('demo', 'late', 'text', 't')")
    rig.due()

    await rig.work()

    assert rig.run(run.id).state == "ready"
    assert {name: (root(rig, run.id) / name).read_bytes() for name in module.SEALED} == before
    assert rig.run(run.id).identity.encode() == before["RUN.json"]
    assert check(root(rig, run.id), read=True).whole


def test_a_write_that_was_given_up_renames_nothing_and_leaves_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tier hung in the middle; another node sealed the root since."""
    rig.roots.begin("run-x", module.Requester(None, None))
    rig.roots.write("run-x", "RUN.json", b"of the other", epoch=2)
    monkeypatch.setattr(rig.roots, "within", lambda work: work(lambda: True))
    with pytest.raises(ChangedWhileReading):
        rig.roots.write("run-x", "RUN.json", b"late", epoch=1)
    assert {path.name: path.read_bytes() for path in root(rig, "run-x").iterdir()} == {"RUN.json": b"of the other"}


async def test_a_worker_that_links_late_takes_nothing_out_of_a_root(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between unlink and link of a name the root would lack a file; a name that is right stays."""
    [slide] = rig.slides([1000])
    run = await ready(rig, [slide], key="1")
    [entry] = rig.rows("select path, digest from mover.run_entry where number is not null")
    monkeypatch.setattr(os, "unlink", lambda *_, **__: pytest.fail("taken away"))
    rig.roots.share(run.id, [(entry.digest, entry.path)], module.Requester(None, None))


# --- a full flash -----------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path, dsns: Dsns, database: Database) -> Iterator[Rig]:
    """A flash tier of 8 MiB, really."""
    (tmp_path / "flash").mkdir()
    with tmpfs(tmp_path / "flash", "size=8m"):
        yield Rig(tmp_path, dsns, database)


def left_half(rig: Rig) -> list[str]:
    return [p.name for p in rig.roots.root.rglob("*") if "partial" in p.name or p.name.startswith(".mover-tmp")]


@pytest.mark.parametrize("layout", ["number", "shards"])
async def test_a_flash_that_fills_up_while_a_run_is_fetched_says_so_and_goes_on_when_there_is_room(
    small: Rig, layout: Any
) -> None:
    """Whoever filled it was promised nothing; the run waits in `staging`, as the table says, with words that help."""
    rig = small
    slides = rig.slides([2 * MIB, 2 * MIB, 2 * MIB])
    rig.roots.limit = Space(capacity=1 << 40, free=1 << 40)
    filler = rig.roots.root / "filler"
    filler.write_bytes(bytes(4 * MIB))
    run = await rig.runs.request(who(), wire.RunRequest(files=slides, layout=layout), key="1")
    await rig.work()

    found = await rig.runs.view(PROJECT, run.id)
    assert found.state == "staging" and found.manifest_root is None
    assert found.explanation and found.explanation.startswith(f"tried again after {TierFull.code}")
    assert f"The tier flash is full: {TierFull.hint}" in found.explanation
    assert left_half(rig) == []
    # a tar is all or nothing
    assert marks_are_known(rig) if layout == "number" else not rig.rows("select from mover.content")

    filler.unlink()
    rig.due()
    await rig.work()
    again = await rig.runs.view(PROJECT, run.id)
    assert again.state == "ready", again.explanation
    assert check(root(rig, run.id), read=True, expected_root=again.manifest_root).whole
    await cleaned(rig, run.id)


async def test_a_flash_that_fills_up_before_the_seal_leaves_nothing_half(small: Rig) -> None:
    """Names, folders, manifests: little, and the last that finds no place. Idle content goes for it."""
    rig = small
    idle, slide = rig.slides([2 * MIB, 2 * MIB])
    await cleaned(rig, (await ready(rig, [idle], key="1")).id)
    run = await rig.request([slide], key="2")
    rig.roots.limit = Space(capacity=1 << 40, free=1 << 40)
    await rig.work("run-stage")
    filler = rig.roots.root / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))

    await rig.work()
    full = await rig.runs.view(PROJECT, run.id)
    assert full.state == "staging" and TierFull.code in (full.explanation or "")
    assert left_half(rig) == [] and not (root(rig, run.id) / "RUN.json").exists()
    assert content_of(rig, idle).exists()

    rig.roots.limit = None  # it knows that it is full: what nobody holds goes, and the next try finds room
    rig.due()
    await rig.work()
    rig.due()
    await rig.work()
    again = await rig.runs.view(PROJECT, run.id)
    assert again.state == "ready", again.explanation
    assert not content_of(rig, idle).exists() and filler.exists()
    assert check(root(rig, run.id), read=True, expected_root=again.manifest_root).whole


def _once(monkeypatch: pytest.MonkeyPatch, name: str, code: int, where: Callable[..., bool]) -> list[str]:
    """The system's call fails once, where it is asked."""
    call, failed = getattr(os, name), list[str]()

    def failing(*args: Any, **kwargs: Any) -> Any:
        if not failed and where(*args):
            failed.append(str(args[0]))
            raise OSError(code, os.strerror(code))
        return call(*args, **kwargs)

    monkeypatch.setattr(os, name, failing)
    return failed


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_quota_that_is_reached_anywhere_is_a_full_tier_and_nothing_worse(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Folder, link, each file of the seal, and the folder for strays: one after the other fails once, and the same run
    still goes its whole way."""
    [slide] = rig.slides([1000])
    run = await rig.request([slide], key="1")
    faults: list[tuple[str, Callable[..., bool]]] = [
        ("mkdir", lambda path, *_: str(path).endswith("/data")),
        ("link", lambda *_: True),
        *(("replace", lambda _, to, name=name: Path(to).name == name) for name in module.SEALED),
    ]
    for name, where in faults:
        with monkeypatch.context() as patch:
            failed = _once(patch, name, code, where)
            await rig.work()
        assert failed, name
        found = await rig.runs.view(PROJECT, run.id)
        assert found.state == "staging" and TierFull.code in (found.explanation or ""), name
        assert left_half(rig) == []
        rig.due()
    await rig.work()
    assert check(root(rig, run.id), read=True).whole
    await rig.runs.finish(who(), run.id, wire.FinishRequest())
    await rig.work()
    (root(rig, run.id) / "out" / "late").write_bytes(b"late")
    await rig.runs.clean(who(), run.id)
    with monkeypatch.context() as patch:
        failed = _once(patch, "mkdir", code, lambda path, *_: path == run.id)
        await rig.work()
    assert failed and rig.run(run.id).state == "cleaning" and (root(rig, run.id) / "out" / "late").exists()
    rig.due()
    await rig.work()
    assert rig.run(run.id).state == "cleaned"


async def test_an_inode_that_takes_no_more_names_is_copied(
    rig: Rig, read: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ext4 has 65,000. The copy is read back, is as read-only as its neighbours, and costs no reading at cleanup."""
    [slide] = rig.slides([1000])
    link = os.link

    def bounded(source: Any, target: Any, **how: Any) -> None:
        if not how and os.stat(source).st_nlink > 2:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        link(source, target, **how)

    monkeypatch.setattr(os, "link", bounded)
    runs = [await ready(rig, [slide], key=str(number)) for number in range(4)]
    names = [next((root(rig, run.id) / "data").rglob("*.svs")) for run in runs]
    assert [name.stat().st_nlink for name in names] == [3, 3, 1, 1]
    assert {name.stat().st_mode & 0o222 for name in names} == {0}
    assert {blake3(name.read_bytes()).hexdigest() for name in names} == {content_of(rig, slide).name}
    assert marks_are_known(rig)
    read.clear()
    for run in runs:
        await cleaned(rig, run.id)
    assert "data" not in read and "content" not in read


def test_a_copy_that_reads_back_otherwise_is_no_copy(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"bytes")
    with pytest.raises(module.DigestMismatch):
        module.duplicate(str(tmp_path / "source"), str(tmp_path / "target"), "0" * 64)
    assert not (tmp_path / "target").exists()
