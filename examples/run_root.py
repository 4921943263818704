"""Read a sealed run root without any framework: what a training script does first.

    python examples/run_root.py /flash/runs/run-01J…

`Slides` is a sequence, as data loaders want one (`len`, `[index]`), of plain values that travel to worker processes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import pyarrow.parquet as pq

from mover.sdk import check


class Slide(NamedTuple):
    """One slide: its main file, and its row of `records.parquet`."""

    path: Path
    number: str
    size_bytes: int
    facts: dict[str, Any]


class Slides(Sequence[Slide]):
    """The slides of a run, in the manifest's order; with `split` those of one part of it."""

    def __init__(self, root: str | Path, *, split: str | None = None) -> None:
        self.root = Path(root)
        rows = {row["path"]: row for row in pq.read_table(self.root / "records.parquet").to_pylist()}
        self._slides = [
            Slide(self.root / line["path"], line["slide"], line["size_bytes"], rows[line["path"]])
            for line in _files(self.root / "manifest.jsonl")
            if line["path"] in rows and split in (None, line.get("split"))
        ]

    def __len__(self) -> int:
        return len(self._slides)

    @overload
    def __getitem__(self, index: int) -> Slide: ...
    @overload
    def __getitem__(self, index: slice) -> list[Slide]: ...
    def __getitem__(self, index: int | slice) -> Slide | list[Slide]:
        return self._slides[index]


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
        print(f"  {slide.number}  {slide.path.relative_to(root)}  {facts}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
