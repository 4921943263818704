"""Build the small hospital: slides, thumbnails, tables, the list of planted identifiers, the truth.

    <root>/hospital/source/<batch>/         packs            the identified source tier
    <root>/hospital/source/records/<batch>/ tables
    <root>/hospital/truth/planted.json      every identifier (0600)
    <root>/hospital/truth/expected.json     what each step should count (0600)
    <root>/hospital/complete.json           written last; a matching one means: reuse

A build that was killed leaves no `complete.json` and is thrown away by the next.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from mover.clock import monotonic_s
from mover.demo import planted, slides, tables, texture
from mover.demo.plan import BATCHES, REASONS, Pack, Plan, make_plan, sizes
from mover.demo.trees import remove_tree
from mover.errors import SettingsInvalid, TierFull

VERSION = 3
MARKER = "complete.json"

Progress = Callable[[int, int, str], None]


class Hospital(msgspec.Struct, frozen=True):
    """`declared` is the number of packs each batch's sender announces, faulty ones included."""

    root: str
    source: str
    planted: str
    expected: str
    version: int
    seed: int
    scale: float
    packs: int
    size_bytes: int
    rows: int
    declared: dict[str, int]
    seconds: float
    reused: bool = False


def build_hospital(root: Path, *, scale: float = 1.0, seed: int = 7, progress: Progress | None = None) -> Hospital:
    """The hospital under `root`, built or reused. `progress(done, total, what)` counts packs."""
    home = Path(root) / "hospital"
    existing = _complete(home, scale=scale, seed=seed)
    if existing:
        return existing
    started = monotonic_s()
    _clear(home, need_bytes=int(2.6e9 * min(1.0, scale)))
    plan = make_plan(seed=seed, scale=scale)
    size_bytes = _write_packs(home / "source", plan, progress or _silent)
    truth = tables.write_tables(home / "source", plan)
    planted.save(planted.list_planted(plan), home / "truth" / "planted.json")
    _save_private(home / "truth" / "expected.json", expected(plan, truth))
    hospital = _describe(home, plan, truth, size_bytes=size_bytes, seconds=monotonic_s() - started)
    # Last, so that a build killed before this line is never taken for whole.
    _save_private(home / MARKER, hospital)
    return hospital


def expected(plan: Plan, truth: dict[str, dict[str, tables.Table]]) -> dict[str, Any]:
    """What each step should count; holds original names, so it stays on the identified side."""
    return {
        "version": VERSION,
        "seed": plan.seed,
        "scale": plan.scale,
        "cohort": {
            "expression": tables.COHORT,
            "packs": [pack.file_name for pack in tables.cohort(plan)],
        },
        "batches": {batch: _expected_batch(plan, batch, truth[batch]) for batch in BATCHES},
    }


def _expected_batch(plan: Plan, batch: str, truth: dict[str, tables.Table]) -> dict[str, Any]:
    good, faulty = plan.good_packs_of(batch), [pack for pack in plan.packs_of(batch) if pack.fault]
    return {
        "folder": batch,
        "declared": len(plan.packs_of(batch)),
        "good": [pack.file_name for pack in good],
        "faulty": [
            {"file": pack.file_name, "fault": pack.fault, "reason": REASONS[pack.fault]}
            for pack in faulty
            if pack.fault
        ],
        "same_scan": {pack.file_name: plan.twin(pack).file_name for pack in faulty if pack.fault == "duplicate"},
        "images": tables.images_ledger(plan, batch),
        "tables": {
            name: {
                "file": f"{tables.RECORDS}/{batch}/{name}.csv",
                "rows": len(table.rows),
                "states": table.states(),
            }
            for name, table in truth.items()
        },
    }


# --- packs --------------------------------------------------------------------------------------------


def _write_packs(source: Path, plan: Plan, progress: Progress) -> int:
    """All packs, the big one first. Threads suffice: encoding, joining and writing leave the GIL."""
    for batch in BATCHES:
        (source / batch).mkdir(parents=True)
    order = sorted((pack for pack in plan.packs if pack.fault != "duplicate"), key=lambda pack: not pack.big)
    total, done, size_bytes = len(plan.packs), 0, 0
    with ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="hospital") as pool:
        atlases = texture.build_atlases(seed=plan.seed, variants=sizes(plan.scale).variants, pool=pool)
        progress(0, total, "tissue painted")
        for written in pool.map(lambda pack: _write_pack(source, plan, pack, atlases), order):
            done, size_bytes = done + 1, size_bytes + written.size_bytes
            progress(done, total, "packs written")
    for pack in plan.packs:
        if pack.fault == "duplicate":
            done, size_bytes = done + 1, size_bytes + _repeat(source, pack, plan.twin(pack))
            progress(done, total, "packs written")
    return size_bytes


def _write_pack(source: Path, plan: Plan, pack: Pack, atlases: dict[str, texture.Atlas]) -> slides.Written:
    written = slides.write_pack(source, pack, case=plan.case(pack.case), atlas=atlases[pack.look], seed=plan.seed)
    scanned = pack.scanned.timestamp()  # the file's own time tells the scan's, as it does in real life
    for file in written.files:
        os.utime(source / file, (scanned, scanned))
    return written


def _repeat(source: Path, pack: Pack, twin: Pack) -> int:
    """The same bytes under a second name."""
    size_bytes = 0
    for suffix in (pack.suffix, ".jpg"):
        target = source / pack.batch / (pack.stem + suffix)
        shutil.copy2(source / twin.batch / (twin.stem + suffix), target)
        size_bytes += target.stat().st_size
    return size_bytes


# --- reuse and housekeeping ---------------------------------------------------------------------------


def _describe(
    home: Path, plan: Plan, truth: dict[str, dict[str, tables.Table]], *, size_bytes: int, seconds: float
) -> Hospital:
    return Hospital(
        root=str(home),
        source=str(home / "source"),
        planted=str(home / "truth" / "planted.json"),
        expected=str(home / "truth" / "expected.json"),
        version=VERSION,
        seed=plan.seed,
        scale=plan.scale,
        packs=len(plan.packs),
        size_bytes=size_bytes,
        rows=sum(len(table.rows) for batch in truth.values() for table in batch.values()),
        declared={batch: len(plan.packs_of(batch)) for batch in BATCHES},
        seconds=round(seconds, 2),
    )


def _complete(home: Path, *, scale: float, seed: int) -> Hospital | None:
    """The hospital that stands there, if it is whole and the one asked for, at this very place."""
    try:
        found = msgspec.json.decode((home / MARKER).read_bytes(), type=Hospital)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    except PermissionError as error:
        raise _foreign(home) from error
    same = (found.version, found.seed, found.scale, found.root) == (VERSION, seed, scale, str(home))
    return msgspec.structs.replace(found, reused=True) if same and Path(found.source).is_dir() else None


def _clear(home: Path, *, need_bytes: int) -> None:
    try:
        if home.exists():
            remove_tree(home)
        home.mkdir(parents=True, mode=0o700)
        (home / "truth").mkdir(mode=0o700)
    except PermissionError as error:
        raise _foreign(home) from error
    free = shutil.disk_usage(home).free
    if free < need_bytes:
        raise TierFull(
            f"The small hospital needs {need_bytes / 1e9:.1f} GB and {free / 1e9:.1f} GB are free",
            where=str(home),
            hint="Free space there, or choose another place for the demo.",
        )


def _foreign(home: Path) -> SettingsInvalid:
    return SettingsInvalid(
        "Leftovers of another user stand where the demo wants to build",
        where=str(home),
        hint=f"Remove them (sudo rm -rf {home.parent}) or choose another place for the demo.",
    )


def _save_private(path: Path, value: object) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(msgspec.json.format(msgspec.json.encode(value), indent=1))


def _silent(done: int, total: int, what: str) -> None:
    """No one watches."""
