"""Layout `shards`: very many small files in a few tars, each file proved by itself, shared by what they are made of."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from blake3 import blake3

from mover.catalog.database import Database
from mover.decide.tars import File, arrange
from mover.errors import ChangedWhileReading, Conflict, DigestMismatch, RequestInvalid
from mover.model import wire
from mover.model.manifest import ManifestEntry, parse_manifest
from mover.runs import seal, tars
from mover.runs.tars import Place, TarSource
from mover.sdk import check
from tests.rooms.rig import PROJECT, Rig, who
from tests.support.facts import insert
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]

SMALLEST = 65_536
EXAMPLES = Path(__file__).parents[2] / "examples"


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Rig:
    return Rig(tmp_path, dsns, database)


async def asked(rig: Rig, key: str, **said: Any) -> wire.Run:
    said.setdefault("shard_bytes", SMALLEST if "like" not in said else None)
    return await rig.runs.request(who(), wire.RunRequest(**{"layout": "shards", **said}), key=key)


async def ready(rig: Rig, key: str, **said: Any) -> wire.Run:
    run = await asked(rig, key, **said)
    await rig.work()
    seen = await rig.runs.view(PROJECT, run.id)
    assert seen.state == "ready", (seen.reason, seen.explanation)
    return seen


def root_of(rig: Rig, run: wire.Run) -> Path:
    return rig.folder / "flash" / "runs" / run.id


def tars_of(rig: Rig, run: wire.Run) -> dict[str, str]:
    """Name below data/ -> BLAKE3."""
    data = root_of(rig, run) / "data"
    return {one.relative_to(data).as_posix(): blake3(one.read_bytes()).hexdigest() for one in data.rglob("*.tar")}


def inside(rig: Rig, run: wire.Run) -> list[ManifestEntry]:
    manifest = parse_manifest((root_of(rig, run) / "manifest.jsonl").read_bytes())
    return [entry for entry in manifest.entries if entry.slide]


def archived(rig: Rig, number: str, tier: str = "archive") -> Path:
    return rig.folder / tier / f"slides/{number}/1/{number}.svs"


def lose(rig: Rig, numbers: list[str]) -> None:
    for number in numbers:
        archived(rig, number).unlink()


def copied(rig: Rig, number: str) -> None:
    """A second copy, proved whole."""
    data = archived(rig, number).read_bytes()
    rig.tiers["protect"].put(f"slides/{number}/1/{number}.svs", [data], size_bytes=len(data))  # type: ignore[attr-defined]
    proof = f"proof-{number}"
    told = '{"tier": "protect"}'
    rig.rows("insert into mover.proof (id, project_id, kind, subject_id, count, bytes, root, verifier, details)"
             " select %s, %s, 'verified', number, 1, size_bytes, digest, 't', %s from mover.slide where number = %s",
             proof, PROJECT, told, number)  # fmt: skip
    rig.rows("insert into mover.slide_copy (number, tier) values (%s, 'protect')", number)
    rig.rows("update mover.slide_copy set state = 'whole', proof = %s where number = %s", proof, number)


def loaded(root: Path) -> str:
    words = [sys.executable, str(EXAMPLES / "run_root.py"), str(root)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


async def test_many_small_files_come_in_a_few_tars_that_every_tar_reader_reads(rig: Rig) -> None:
    """By split, a slide of several files side by side, the same manifest root as the same files by themselves; read in
    order by Python's own tarfile and by the example, by place by anybody who has the manifest."""
    numbers = rig.slides([1000 + 7 * n for n in range(150)])
    name, data = "im2.dcm", b"another instance"
    rig.tiers["archive"].put(f"slides/{numbers[0]}/1/{name}", [data], size_bytes=len(data))  # type: ignore[attr-defined]
    key = f"slides/{numbers[0]}/1/{name}"
    rig.rows("insert into mover.slide_file (number, name, size_bytes, digest, tier, key)"
             " values (%s, %s, %s, %s, 'archive', %s)",
             numbers[0], name, len(data), blake3(data).hexdigest(), key)  # fmt: skip
    rig.rows("update mover.slide set files_count = 1, files_bytes = %s, root = %s where number = %s",
             len(data), "cd" * 32, numbers[0])  # fmt: skip
    with psycopg.connect(rig.dsns.superuser) as conn:
        insert(conn, "batch", project_id=PROJECT, id="b", tier="intake", policy="images", folder="f", created_by="ann")
        insert(conn, "record_set", project_id=PROJECT, id="r", batch_id="b", policy="records", version=1, source="s",
               created_by="ann")  # fmt: skip
        for number in numbers:
            insert(conn, "aligned", project_id=PROJECT, number=number, subject=number, facts="{}", record_set_id="r")
    splits = {"train": wire.SplitSource(files=numbers[:120]), "test": wire.SplitSource(files=numbers[120:])}

    plan = await rig.runs.plan_request(who(), wire.RunRequest(splits=splits, layout="shards", shard_bytes=SMALLEST))
    run = await ready(rig, "k", splits=splits)
    alone = await ready(rig, "alone", splits=splits, layout="split", shard_bytes=None)

    root = root_of(rig, run)
    assert run.manifest_root == alone.manifest_root and run.count == 152
    assert {path.split("/")[0] for path in tars_of(rig, run)} == {"train", "test"}
    assert sorted(f"data/{path}" for path in tars_of(rig, run)) == sorted(step.subject for step in plan.steps)
    assert plan.counts == {"link": 0, "copy": len(plan.steps)} and 3 < len(plan.steps) < 20
    written = sum(one.stat().st_size for one in root.rglob("*.tar"))
    assert sum(step.bytes for step in plan.steps) == plan.bytes == written
    order: list[str] = []
    for tar in sorted(root.rglob("*.tar")):
        with tarfile.open(tar) as opened:
            order += [member.name for member in opened]
    assert sorted(order) == sorted([f"{number}.svs" for number in numbers] + [f"{numbers[0]}.{name}"])
    assert abs(order.index(f"{numbers[0]}.{name}") - order.index(f"{numbers[0]}.svs")) == 1
    for entry in inside(rig, run):
        found = (root / str(entry.shard)).read_bytes()[entry.offset : int(entry.offset or 0) + entry.size_bytes]
        assert blake3(found).hexdigest() == entry.blake3 and str(entry.shard).startswith(f"data/{entry.split}/")
    for read in (False, True):
        checked = check(root, read=read, expected_root=run.manifest_root)
        assert checked.whole and checked.count == 152, checked.findings
    rows = {row["path"] for row in pq.read_table(root / "records.parquet").to_pylist()}
    assert rows == {entry.path for entry in inside(rig, run)} - {f"data/train/{numbers[0]}/{name}"}
    shown, slides_bytes = loaded(root), checked.bytes - (root / "records.parquet").stat().st_size
    assert f"{run.id}: 150 slides" in shown
    assert f"{len(plan.steps)} tars, read in order: 150 samples, {slides_bytes} bytes" in shown


async def test_webdataset_reads_a_run_in_tars(rig: Rig) -> None:
    """The format's own reader: a sample for each slide, under its number."""
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    numbers = rig.slides([1000] * 100)
    run = await ready(rig, "k", files=numbers)
    paths = [str(root_of(rig, run) / "data" / path) for path in sorted(tars_of(rig, run))]
    read = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert [sample["__key__"] for sample in read] == sorted(numbers) and {len(sample["svs"]) for sample in read} == {
        1000
    }


async def test_what_stands_on_the_flash_is_not_read_in_the_archive_again(rig: Rig) -> None:
    """The same set is linked whole. Of another that shares most of it, tars whose range did not change are linked, and
    those that did are made of what stands in the old ones, or by itself: the archive is asked for the rest only."""
    numbers = rig.slides([2000] * 200)
    first = await ready(rig, "k", files=numbers[:199])
    by_itself = await ready(rig, "single", files=numbers[-1:], layout="flat", shard_bytes=None)
    before = tars_of(rig, first)
    lose(rig, numbers)

    again = await ready(rig, "again", files=numbers[:199])
    assert tars_of(rig, again) == before and again.linked_count == 199
    other = await ready(rig, "other", files=numbers[1:])
    after = tars_of(rig, other)
    assert len(set(after.values()) & set(before.values())) >= len(before) - 3 and set(after.values()) != set(
        before.values()
    )
    assert check(root_of(rig, other), read=True, expected_root=other.manifest_root).whole
    like = await ready(rig, "like", like=first.id, layout=None)
    assert tars_of(rig, like) == before and like.exact and like.manifest_root == first.manifest_root
    smaller = await asked(rig, "smaller", like=first.id, layout=None, shard_bytes=2 * SMALLEST)
    plan = rig.rows("select path from mover.run_tar where run_id = %s", smaller.id)
    assert 1 < len(plan) < len(before)

    for run in (first, by_itself, again, other, like, smaller):
        await rig.runs.cancel(who(), run.id)
    await rig.work()
    assert not list((rig.folder / "flash" / "runs").iterdir())
    held = "select digest from mover.content_held('flash')"
    assert rig.rows(held) == []
    await asked(rig, "kept", files=numbers[:199])
    # let in: from here on nobody takes away what it will link
    assert {row.digest for row in rig.rows(held)} == set(before.values())


async def test_a_file_that_is_not_whole_comes_from_its_second_copy_or_fails_the_run_with_all_like_it(rig: Rig) -> None:
    """Each file is proved by itself, from what the flash gave back: one flipped byte among thousands of files is found,
    told to whoever keeps the archive, and never published in a tar."""
    numbers = rig.slides([1500] * 60)
    flipped, gone, lost = numbers[3], numbers[7], numbers[11]
    for number in (flipped, gone):
        copied(rig, number)
    path = archived(rig, flipped)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    lose(rig, [gone])

    run = await ready(rig, "k", files=numbers)
    assert check(root_of(rig, run), read=True, expected_root=run.manifest_root).whole
    doubts = {row.key.split("/")[1]: row.reason for row in rig.rows("select * from mover.archive_doubt")}
    assert doubts == {flipped: "digest-mismatch", gone: "entry-missing"}

    lose(rig, [lost, flipped])
    archived(rig, flipped, "protect").unlink()
    rig.rows("delete from mover.content")
    for old in (rig.folder / "flash" / ".mover" / "content").rglob("*"):
        if old.is_file():
            old.unlink()
    failing = await asked(rig, "failing", files=numbers)
    await rig.work()
    seen = await rig.runs.view(PROJECT, failing.id)
    assert (seen.state, seen.reason) == ("cleaned", "archive-lost")
    assert {one["number"] for one in seen.offenders} == {lost, flipped}
    assert not list((rig.folder / "flash" / ".mover" / "content").rglob("*.mover-tmp-*"))


async def test_a_flash_that_gives_back_other_bytes_once_is_no_files_fault(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad sector must not be told to the archive's keeper as damage there, nor fail the run: the tar is made again
    from the same files before any of them is blamed."""
    numbers = rig.slides([1500] * 20)
    real, tries = rig.carrier.transfer.run_recipe, []

    def read_back(*arguments: Any, **more: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise DigestMismatch("the flash holds other bytes")
        return real(*arguments, **more)

    monkeypatch.setattr(rig.carrier.transfer, "run_recipe", read_back)
    run = await ready(rig, "k", files=numbers)
    assert len(tries) == 1 + len(tars_of(rig, run)) and not rig.rows("select * from mover.archive_doubt")


async def test_a_tar_whose_making_is_killed_anywhere_is_made_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has its name, after it, and after it was linked: what is left is made again, or read and then believed;
    what of it was damaged meanwhile is not."""
    numbers = rig.slides([1500] * 40)
    run = await asked(rig, "k", files=numbers)
    name, linked = tars._name, tars.linked
    content = rig.folder / "flash" / ".mover" / "content"

    def dying(*given: Any) -> bool:
        if when == "named":
            name(*given)
        raise Killed

    async def too_late(*given: Any) -> None:
        raise Killed

    for when in ("made", "named", "linked"):
        with monkeypatch.context() as dies:
            dies.setattr(tars, "_name", name if when == "linked" else dying)
            dies.setattr(tars, "linked", too_late if when == "linked" else linked)
            shard = await rig.claim("run-stage")
            with pytest.raises(Killed):
                await rig.stage.stage(shard)
        rig.lapse()
        if when == "named":
            [left] = [
                one
                for one in content.rglob("*")
                if one.is_file() and len(one.name) == 64 and one.parent.name == one.name[:2]
            ]
            left.write_bytes(b"other bytes")
            with pytest.raises(ChangedWhileReading, match="damaged"):
                await rig.stage.stage(await rig.claim("run-stage"))
            rig.lapse()
    await rig.stage.stage(await rig.claim("run-stage"))
    await rig.work()
    seen = await rig.runs.view(PROJECT, run.id)
    assert seen.state == "ready", (seen.reason, seen.explanation)
    assert check(root_of(rig, run), read=True, expected_root=seen.manifest_root).whole


async def test_runs_that_ask_for_the_same_at_once_each_have_it_whole(rig: Rig) -> None:
    """Whoever comes second finds the tar of the first under its digest, and believes it when it was read."""
    numbers = rig.slides([1500] * 90)
    runs = [await asked(rig, f"k{at}", files=numbers) for at in range(3)]
    await rig.crowd(4)
    seen = [await rig.runs.view(PROJECT, run.id) for run in runs]
    assert [one.state for one in seen] == ["ready"] * 3, [(one.reason, one.explanation) for one in seen]
    assert len({tuple(sorted(tars_of(rig, run).items())) for run in seen}) == 1
    for one in seen:
        assert check(root_of(rig, one), read=True, expected_root=one.manifest_root).whole
    content = rig.folder / "flash" / ".mover" / "content"
    assert len([one for one in content.rglob("*") if one.is_file()]) == len(tars_of(rig, seen[0]))
    assert not list(content.rglob(".mover-tmp-*"))


async def test_a_run_that_is_cancelled_while_it_is_sealed_leaves_no_strangers(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the seal writes is known to the catalog before it stands there: cleanup finds nothing to set aside, and the
    manifest of a run that was never sealed is nobody's to read."""
    run = await asked(rig, "k", files=rig.slides([1500] * 5))
    await rig.work("run-stage")

    prove = seal.Seal._prove_ready

    async def cancelled(*given: Any, **more: Any) -> None:
        standing = {one.name for one in root_of(rig, run).iterdir()}
        assert standing == {"data", "out", "records.parquet", "manifest.jsonl", "RUN.json"}
        await rig.runs.cancel(who(), run.id)
        await prove(*given, **more)

    monkeypatch.setattr(seal.Seal, "_prove_ready", cancelled)
    await rig.work()
    with pytest.raises(Conflict, match="sealed with"):
        [piece async for piece in rig.runs.manifest(PROJECT, run.id)]
    rig.due()
    await rig.work()
    seen = await rig.runs.view(PROJECT, run.id)
    assert (seen.state, seen.strays) == ("cleaned", [])


async def test_shard_bytes_belong_to_tars_and_the_policy_may_say_both(rig: Rig) -> None:
    numbers = rig.slides([1000])
    with pytest.raises(RequestInvalid, match="shard_bytes goes with"):
        await asked(rig, "wrong", files=numbers, layout="flat")
    run = await ready(rig, "usual", files=numbers, shard_bytes=None)
    [row] = rig.rows("select shard_bytes, wanted_bytes from mover.run where id = %s", run.id)
    assert (row.shard_bytes, row.wanted_bytes) == (256 << 20, 512 + 1024 + 1024)


def test_any_range_of_a_tar_that_is_not_there_yet_is_that_of_the_tar(rig: Rig) -> None:
    """The engine asks for pieces in any order, from several threads; what a file does not hold is zeros, and told."""
    numbers = rig.slides([700, 0, 1300])
    files = [File(f"data/{n}.svs", n, size, "ab" * 32) for n, size in zip(numbers, (700, 0, 1300), strict=True)]
    plan = arrange("data/000000.tar", files)
    places = {one.path: Place("archive", f"slides/{one.number}/1/{one.number}.svs") for one in files}
    source = TarSource(plan, places, rig.tiers)
    whole = source.read(0, source.size_bytes)
    for at in range(0, source.size_bytes, 311):
        length = min(997, source.size_bytes - at)
        assert source.read(at, length) == whole[at : at + length]
    assert source.zone == "deidentified" and not source.missing
    lose(rig, numbers[2:])
    assert source.read(0, source.size_bytes) != whole and source.missing == {files[2].path}
    assert TarSource(plan, {files[0].path: Place("intake", "x")}, rig.tiers).zone == "identified"
