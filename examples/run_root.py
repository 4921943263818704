"""Read a sealed run root without any framework: what a training script does first.

    python examples/run_root.py /flash/runs/run-01J…

`Slides` is a sequence, as data loaders want one (`len`, `[index]`), of plain values that travel to worker processes.
Of a run in tars (layout `shards`) a slide is a range of a tar: read it by its place, or all of them in their order
with `samples`, which is what the disk likes best.
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, overload

import pyarrow.parquet as pq

from mover.sdk import check


class Slide(NamedTuple):
    """One slide: its main file, or the tar it stands in and where; and its row of `records.parquet`."""

    path: Path
    number: str
    size_bytes: int
    facts: dict[str, Any]
    offset: int = 0

    def read(self, at: int = 0, length: int | None = None) -> bytes:
        """Some of its bytes, or all."""
        with open(self.path, "rb") as file:
            file.seek(self.offset + at)
            return file.read(self.size_bytes - at if length is None else min(length, self.size_bytes - at))


class Slides(Sequence[Slide]):
    """The slides of a run, in the manifest's order; with `split` those of one part of it."""

    def __init__(self, root: str | Path, *, split: str | None = None) -> None:
        self.root = Path(root)
        rows = {row["path"]: row for row in pq.read_table(self.root / "records.parquet").to_pylist()}
        self._slides = [
            Slide(
                self.root / line.get("shard", line["path"]), line["slide"], line["size_bytes"], rows[line["path"]],
                line.get("offset", 0),
            )
            for line in _files(self.root / "manifest.jsonl")
            if line["path"] in rows and split in (None, line.get("split"))
        ]  # fmt: skip

    def __len__(self) -> int:
        return len(self._slides)

    @overload
    def __getitem__(self, index: int) -> Slide: ...
    @overload
    def __getitem__(self, index: slice) -> list[Slide]: ...
    def __getitem__(self, index: int | slice) -> Slide | list[Slide]:
        return self._slides[index]


def samples(root: str | Path, *, split: str | None = None) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Every slide of a run in tars, in their order: its number, and its files by what stands behind the number in their
    names. Tars are given to worker processes whole (`shards`)."""
    for tar in shards(root, split=split):
        with tarfile.open(tar, "r|") as opened:
            for number, members in groupby(opened, key=lambda member: member.name.partition(".")[0]):
                yield number, {member.name.partition(".")[2]: _content(opened, member) for member in members}


def _content(opened: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = opened.extractfile(member)
    assert file is not None, "a run's tars hold plain files only"
    return file.read()


def shards(root: str | Path, *, split: str | None = None) -> list[Path]:
    """The tars of a run, in their order."""
    with open(Path(root) / "manifest.jsonl", "rb") as lines:
        paths = [Path(root) / shard["path"] for shard in json.loads(next(lines)).get("shards", [])]
    return [path for path in paths if split in (None, path.parent.name)]


def _files(manifest: Path) -> Iterator[dict[str, Any]]:
    """The first line is the header; a file beside a slide's main one has no row of facts."""
    with open(manifest, "rb") as lines:
        next(lines)
        yield from map(json.loads, lines)


def main(root: str) -> int:
    checked = check(root)
    for finding in checked.findings:
        print(f"{finding.why}: {finding.path}: {finding.what}", file=sys.stderr)
    if not checked.whole:
        return 1
    slides = Slides(root)
    print(f"{checked.run}: {len(slides)} slides, {checked.bytes} bytes, manifest {checked.manifest_root}")
    for slide in slides[:5]:
        facts = {name: value for name, value in slide.facts.items() if value is not None and name not in slide._fields}
        place = f" at {slide.offset}" if slide.offset else ""
        print(f"  {slide.number}  {slide.path.relative_to(root)}{place}  {facts}")
    if tars := shards(root):
        read = [sum(map(len, files.values())) for _, files in samples(root)]
        print(f"{len(tars)} tars, read in order: {len(read)} samples, {sum(read)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
