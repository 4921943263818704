"""A run root looked at by the job itself: what is not as it was sealed is named, and whatever is, passes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from blake3 import blake3

from mover.errors import NotFound, StructureInvalid
from mover.model.manifest import ManifestEntry, ManifestShard, make_manifest
from mover.sdk import Checked, check, run_of
from mover.sdk import rootcheck as module
from tests.cli.conftest import Said, mover

assert mover  # a fixture
FILES = {"data/A/A.svs": b"a" * 5000, "data/B/B.svs": b"b" * 70, "records.parquet": b"rows"}
BEFORE_S, SEALED = 1_700_000_000, datetime(2024, 11, 22, 12, 0, 0, 250, UTC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    for path, data in FILES.items():
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        (made / path).write_bytes(data)
    (made / "out").mkdir()
    (made / "out" / "weights.pt").write_bytes(b"the job's own")
    entries = [ManifestEntry(path, len(data), blake3(data).hexdigest()) for path, data in FILES.items()]
    header, manifest = make_manifest(entries, run="run-x", cohort=None, created="2026-11-22T12:00:00Z")
    (made / "manifest.jsonl").write_bytes(manifest)
    promised = {"run": "run-x", "manifest_root": header.root, "count": header.count, "bytes": header.bytes}
    (made / "RUN.json").write_text(json.dumps(promised | {"sealed_at": SEALED.isoformat(), "format": "mover-run"}))
    for one in [made, *made.rglob("*")]:
        os.utime(one, (BEFORE_S, BEFORE_S))
    return made


def told(checked: Checked) -> list[tuple[str, str]]:
    return sorted((finding.path, finding.why) for finding in checked.findings)


def test_a_root_as_it_was_sealed_is_whole_and_what_the_job_writes_is_its_own_matter(root: Path) -> None:
    for read in (False, True):
        checked = check(root, read=read)
        assert checked.whole and (checked.count, checked.bytes, checked.read) == (3, 5074, read)
    assert run_of(root) == "run-x"


def same_size(root: Path) -> None:
    (root / "data/A/A.svs").write_bytes(b"c" * 5000)


def shorter(root: Path) -> None:
    (root / "data/B/B.svs").write_bytes(b"b" * 69)
    os.utime(root / "data/B/B.svs", (BEFORE_S, BEFORE_S))


def exchanged(root: Path) -> None:
    """Same size, same time, another file under the name: its folder tells."""
    (root / "data/B/B.new").write_bytes(b"c" * 70)
    os.utime(root / "data/B/B.new", (BEFORE_S, BEFORE_S))
    os.replace(root / "data/B/B.new", root / "data/B/B.svs")


def linked(root: Path) -> None:
    (root / "data/B/B.svs").rename(root / "out/B.svs")
    (root / "data/B/B.svs").symlink_to("../../out/B.svs")
    os.utime(root / "data/B", (BEFORE_S, BEFORE_S))


def planted(root: Path) -> None:
    (root / "data/leftover.svs").write_bytes(b"of another run")
    (root / "notes").mkdir()
    (root / "notes/a.txt").write_bytes(b"")
    for one in (root / "data", root / "notes"):
        os.utime(one, (BEFORE_S, BEFORE_S))


def lost(root: Path) -> None:
    (root / "data/A/A.svs").unlink()
    os.utime(root / "data/A", (BEFORE_S, BEFORE_S))


def lines_cut(root: Path) -> None:
    lines = (root / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (root / "manifest.jsonl").write_bytes(b"".join(lines[:1] + lines[2:]))


@pytest.mark.parametrize(
    ("harm", "findings"),
    [
        (same_size, [("data/A/A.svs", "changed")]),
        (shorter, [("data/B/B.svs", "changed")]),
        (exchanged, [("data/B/", "changed")]),
        (linked, [("data/B/B.svs", "changed")]),
        (planted, [("data/leftover.svs", "stranger"), ("notes/a.txt", "stranger")]),
        (lost, [("data/A/A.svs", "missing")]),
        (lines_cut, [("data/A/A.svs", "stranger"), ("manifest.jsonl", "changed"), ("manifest.jsonl", "changed")]),
    ],
)
def test_what_differs_is_named_and_fails(
    root: Path, mover: Callable[..., Said], harm: Callable[[Path], None], findings: list[tuple[str, str]]
) -> None:
    harm(root)
    assert told(check(root)) == findings
    said = mover("check", str(root), "--offline")
    assert said.status == 1 and all(path in said.out + said.err for path, _ in findings)


def test_bytes_that_rotted_under_their_size_and_time_are_found_by_reading(
    root: Path, mover: Callable[..., Said]
) -> None:
    """This is what times cannot tell, and why `--read` and `mover verify` exist."""
    same_size(root)
    os.utime(root / "data/A/A.svs", (BEFORE_S, BEFORE_S))
    assert check(root).whole
    assert told(check(root, read=True)) == [("data/A/A.svs", "damaged")]
    assert mover("check", str(root), "--offline").status == 0
    assert mover("check", str(root), "--offline", "--read", "--json").status == 1


def test_a_root_whose_manifest_and_promise_were_both_exchanged_is_found_by_the_catalogs(root: Path) -> None:
    assert told(check(root, expected_root="0" * 64)) == [("manifest.jsonl", "changed")]


def test_a_folder_that_is_no_sealed_root_is_not_whole_but_an_error(root: Path, mover: Callable[..., Said]) -> None:
    """An empty mount point must never pass for a root without differences."""
    with pytest.raises(NotFound):
        check(root / "out")
    assert mover("check", str(root / "data")).status != 0
    assert mover("check", "run-nowhere", "--offline").status != 0
    (root / "RUN.json").write_text("{}")
    with pytest.raises(StructureInvalid):
        check(root)


def test_findings_are_counted_beyond_those_that_are_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FINDINGS_MAX", 2)
    planted(root)
    lost(root)
    checked = check(root)
    assert (checked.found, len(checked.findings)) == (3, 2)


# --- files in tars -------------------------------------------------------------------------------------------

TAR = "data/000000.tar"
INSIDE = {"data/A.svs": (512, b"a" * 700), "data/B.svs": (2048, b""), "data/C.svs": (2560, b"c" * 9)}


@pytest.fixture
def wrapped(root: Path) -> Path:
    """The same kind of root, with its slides in a tar."""
    shutil.rmtree(root / "data")
    (root / "data").mkdir()
    body = bytearray(4608)
    for at, data in INSIDE.values():
        body[at : at + len(data)] = data
    (root / TAR).write_bytes(body)
    seal(root)
    return root


def seal(root: Path, *, shards_root: str | None = None, **moved: int) -> None:
    """`moved`: another offset in the index."""
    entries = [
        ManifestEntry(path, len(data), blake3(data).hexdigest(), shard=TAR, offset=moved.get(path[5], at))
        for path, (at, data) in INSIDE.items()
    ]
    entries.append(ManifestEntry("records.parquet", 4, blake3(b"rows").hexdigest()))
    tar = (root / TAR).read_bytes()
    shards = [ManifestShard(TAR, len(tar), blake3(tar).hexdigest(), len(INSIDE))]
    header, manifest = make_manifest(entries, run="run-x", cohort=None, created="2026-11-22T12:00:00Z", shards=shards)
    (root / "manifest.jsonl").write_bytes(manifest)
    promised = {"run": "run-x", "manifest_root": header.root, "count": header.count, "bytes": header.bytes,
                "shards_root": shards_root or header.shards_root}  # fmt: skip
    (root / "RUN.json").write_text(json.dumps(promised | {"sealed_at": SEALED.isoformat()}))
    for one in [root, *root.rglob("*")]:
        os.utime(one, (BEFORE_S, BEFORE_S))


def test_files_in_tars_are_checked_by_their_index_and_each_is_read_where_it_stands(wrapped: Path) -> None:
    """A flipped byte of one of a hundred thousand files is that file's, and its tar's; what is between the files is the
    tar's alone."""
    for read in (False, True):
        checked = check(wrapped, read=read)
        assert checked.whole and (checked.count, checked.bytes) == (4, 713), checked.findings
    for at, named in ((520, {("data/A.svs", "damaged"), (TAR, "damaged")}), (4, {(TAR, "damaged")})):
        before = (wrapped / TAR).read_bytes()
        (wrapped / TAR).write_bytes(before[:at] + b"!" + before[at + 1 :])
        os.utime(wrapped / TAR, (BEFORE_S, BEFORE_S))
        assert check(wrapped).whole and set(told(check(wrapped, read=True))) == named
        (wrapped / TAR).write_bytes(before)
        os.utime(wrapped / TAR, (BEFORE_S, BEFORE_S))
    (wrapped / TAR).write_bytes(before[:1000])
    (wrapped / "data/000001.tar").write_bytes(b"")
    assert {(TAR, "changed"), ("data/000001.tar", "stranger")} <= set(told(check(wrapped)))
    (wrapped / TAR).unlink()
    assert (TAR, "missing") in told(check(wrapped, read=True))


def test_an_index_that_is_not_the_sealed_one_or_points_beside_a_file_is_told(wrapped: Path) -> None:
    """Files are read by place: a place that is another's, or nobody's, gives wrong pixels under a right name."""
    seal(wrapped, shards_root="ab" * 32)
    assert told(check(wrapped)) == [("manifest.jsonl", "changed")]
    seal(wrapped, B=600)
    assert ("data/B.svs", "changed") in told(check(wrapped))
    seal(wrapped, C=4605)
    assert told(check(wrapped)) == [("data/C.svs", "changed")]
    seal(wrapped, A=1024)
    assert check(wrapped).whole and ("data/A.svs", "damaged") in told(check(wrapped, read=True))
