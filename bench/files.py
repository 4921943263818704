"""P1 to P5, reflinks and growth: files from one folder to another."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3
from msgspec import structs

from bench import corpora, limits, peers, results
from bench.context import Context, Course, Judged, compete, inside, ours
from bench.corpora import Corpus
from bench.database import Catalog
from bench.measure import Step
from bench.peers import Peer
from bench.places import Place, fresh_filesystem
from bench.results import Claim

PLAIN, VERIFIED = "ours", "ours, read back"
DIGESTED = [peers.RCLONE_CHECK.name, peers.RCLONE_CHECK_TUNED.name]
RCLONES = [peers.RCLONE.name, peers.RCLONE_TUNED.name]
MEMORY_MB = 300.0
ROUNDS = 3  # where a run is long, or leaves a tree of many files that nobody may delete meanwhile


def _gigabytes(course: Course, tools: Sequence[Peer], *, rounds: int = 0) -> Judged:
    return compete(course, tools, amount=course.corpus.size_bytes / 1e9, unit="GB/s", rounds=rounds)


def _thousands(course: Course, tools: Sequence[Peer], *, rounds: int = 0) -> Judged:
    return compete(course, tools, amount=course.corpus.files / 1e3, unit="thousand files/s", rounds=rounds)


def _few(context: Context) -> int:
    return min(ROUNDS, context.sizes.rounds)


# --- P1, P2: slides -------------------------------------------------------------------------------------


def slides(context: Context) -> None:
    """P1: whole slides, warm: without and with reading back."""
    sizes = context.sizes.slides
    place = context.large_place("p1", 3 * sum(sizes))
    course = Course(context, corpora.slides(place.folder / "corpus", sizes), place, discard=True)
    others = [peers.CP, peers.RSYNC, peers.TAR, peers.FPSYNC, peers.RCLONE, peers.RCLONE_TUNED]
    found = _gigabytes(course, [ours(PLAIN, "copy", "--no-readback"), *others])
    work = "whole slides, durable, digested on the way"
    found.claim("P1", work, tool=PLAIN, against=[peers.CP.name], goal=1.2, limit="device-write")
    checked = [peers.CP_RSYNC_CHECK, peers.RCLONE_CHECK, peers.RCLONE_CHECK_TUNED, peers.RCLONE_CHECK_BYTES]
    found = _gigabytes(course, [ours(VERIFIED, "copy"), *checked], rounds=_few(context))
    work = "whole slides, destination read back"
    found.claim(
        "P1-verified", work, tool=VERIFIED, against=[peers.CP_RSYNC_CHECK.name], goal=1.0, limit="device-copy"
    )
    found.claim("P1-rclone", work, tool=VERIFIED, against=DIGESTED, goal=3.0, limit="device-copy")
    found.claim(
        "P1-rclone-bytes", f"{work}, beside a check without digests", tool=VERIFIED,
        against=[peers.RCLONE_CHECK_BYTES.name], goal=3.0, limit="device-copy",
    )  # fmt: skip
    place.remove()


def large(context: Context) -> None:
    """P1 beyond 2 GB: the disk's own rate, because dirty pages are throttled."""
    size = context.sizes.large_bytes
    if not size:
        return
    place = context.large_place("p1-large", 3 * size)
    course = Course(context, corpora.slides(place.folder / "corpus", [size]), place, discard=True)
    found = _gigabytes(course, [ours(PLAIN, "copy", "--no-readback"), peers.CP], rounds=_few(context))
    work = f"one slide of {size / 1e9:.0f} GB, durable, digested on the way"
    found.claim("P1-large", work, tool=PLAIN, against=[peers.CP.name], goal=1.0, limit="device-write")
    place.remove()


def cold(context: Context) -> None:
    """P2: the device itself copies the same files in the same race; nothing can be faster."""
    sizes = context.sizes.slides
    place = context.large_place("p2", 3 * sum(sizes))
    corpus = corpora.slides(place.folder / "corpus", sizes)
    course = Course(context, corpus, place, cold=True, discard=True)
    device = Peer("device, read and write", (), _device, own_clock=True)
    tools = [
        ours(PLAIN, "copy", "--no-readback"), device,
        ours(VERIFIED, "copy", rounds=2), structs.replace(peers.CP, rounds=ROUNDS),
    ]  # fmt: skip
    found = _gigabytes(course, tools)
    work = "whole slides from a cold source, durable, digested on the way"
    found.claim("P2", work, tool=PLAIN, against=[device.name], goal=0.9, limit="device-copy")
    place.remove()


def _device(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    return (Step((sys.executable, "-m", "bench.limits", "copy", source, target)),)


# --- P3, P4, P5: many files -----------------------------------------------------------------------------


def small(context: Context) -> None:
    """P3: thumbnails of 80 KB."""
    count, size = context.sizes.small_files, corpora.SMALL_BYTES
    others = [
        peers.CP, peers.RSYNC, peers.TAR, peers.FPSYNC, peers.CP_RSYNC_CHECK, peers.RCLONE_CHECK,
        peers.RCLONE_CHECK_TUNED, peers.RCLONE_CHECK_BYTES,
    ]  # fmt: skip
    tools = [ours(VERIFIED, "copy"), ours(PLAIN, "copy", "--no-readback"), *others]
    course = _many(context, "p3", count, low=size, high=size, tools=tools)
    found = _thousands(course, _bounded(tools, rounds=ROUNDS), rounds=_few(context))
    work = f"{count} files of 80 KB, destination read back"
    found.claim("P3", work, tool=VERIFIED, against=[peers.CP.name], goal=0.6)
    found.claim("P3-rclone", work, tool=VERIFIED, against=DIGESTED, goal=3.0)
    beside = f"{work}, beside a check without digests"
    found.claim("P3-rclone-bytes", beside, tool=VERIFIED, against=[peers.RCLONE_CHECK_BYTES.name], goal=3.0)
    course.place.remove()


def tiny(context: Context) -> None:
    """P4: patches, annotations, logs."""
    count = context.sizes.tiny_files
    others = [peers.CP, peers.RSYNC, peers.TAR, peers.FPSYNC, peers.RCLONE, peers.RCLONE_TUNED, *_checks()]
    tools = [ours(PLAIN, "copy", "--no-readback"), ours(VERIFIED, "copy"), *others]
    course = _many(context, "p4", count, low=200, high=4 * 1000, tools=tools)
    context.limits["create"] = limits.create_rate(course.place.folder / "limit", max(count // 5, 100))
    found = _thousands(course, _bounded(tools, rounds=ROUNDS), rounds=_few(context))
    work = f"{count} files of 0.2 to 4 KB, durable, digested on the way"
    found.claim("P4", work, tool=PLAIN, against=[peers.CP.name], goal=1.0, limit="create")
    found.claim("P4-rclone", work, tool=PLAIN, against=RCLONES, goal=2.5, limit="create")
    course.place.remove()


def _checks() -> list[Peer]:
    return [structs.replace(peers.RCLONE_CHECK_BYTES, rounds=1)]


def durable(context: Context) -> None:
    """P5: each file safe before its row exists; rows in a real PostgreSQL, one COPY and commit per group."""
    count = context.sizes.durable_files
    with Catalog(context.root / "catalog-p5") as catalog:
        recorded = ours("ours, with rows", "copy", "--no-readback", "--dsn", catalog.dsn)
        tools = [
            recorded,
            ours("ours, with rows, read back", "copy", "--dsn", catalog.dsn),
            peers.RSYNC_FSYNC,
            peers.CP_UNSYNCED,
            peers.CP,
        ]
        course = _many(context, "p5", count, low=200, high=4 * 1000, tools=tools)
        course = structs.replace(course, servers=(catalog.pid,))
        found = _thousands(course, _bounded(tools, rounds=ROUNDS), rounds=_few(context))
        expected = sum(len(found.tallies[name].runs) for name in (tools[0].name, tools[1].name)) * count
        if (rows := catalog.rows()) != expected:
            context.failures["P5"] = f"{rows} rows were recorded of {expected} files"
            return
    work = f"{count} tiny files, each durable before its catalog row"
    found.claim("P5", work, tool=recorded.name, against=[peers.RSYNC_FSYNC.name], goal=10.0, limit="create")
    found.claim("P5-cp", work, tool=recorded.name, against=[peers.CP_UNSYNCED.name], goal=0.7, limit="create")
    course.place.remove()


def _many(context: Context, name: str, count: int, *, low: int, high: int, tools: Sequence[Peer]) -> Course:
    """A file system for the corpus and every output: nothing is deleted in it."""
    trees = 2 + sum(min(ROUNDS, tool.rounds or ROUNDS) for tool in tools)
    each = (low + high) / 2 + 4096  # half a block lost, and the inode
    place = context.many_place(name, need_bytes=int(trees * count * each), files=int(trees * count * 1.1))
    corpus = corpora.many(place.folder / "corpus", count, low=low, high=high)
    return Course(context, corpus, place)


def _bounded(tools: Sequence[Peer], *, rounds: int) -> list[Peer]:
    return [structs.replace(tool, rounds=min(rounds, tool.rounds or rounds)) for tool in tools]


# --- reflinks -------------------------------------------------------------------------------------------


def reflink(context: Context) -> None:
    """One file system with reflinks, the digest verified before: constant time, whatever the size."""
    sizes = context.sizes.reflink_bytes
    context.large_place("reflink-room", 2 * sum(sizes)).remove()
    place = fresh_filesystem(context.root, "reflink", kind="xfs", size_bytes=2 * sum(sizes))
    if place is None:
        context.failures["reflink"] = "needs root, mkfs.xfs (xfsprogs) and a loop device"
        return
    found: list[Judged] = []
    for size in sizes:
        corpus = corpora.slides(place.folder / f"corpus-{size}", [size])
        known = _known(corpus, context.scratch / f"known-{size}.json")
        course = Course(context, corpus, place)
        trusted = ours(f"ours, {_size(size)}", "copy", "--known", str(known))
        clone = Peer(f"cp --reflink, {_size(size)}", ("cp",), _cp_reflink)
        found.append(compete(course, [trusted, clone], amount=1.0, unit="files/s", rounds=_few(context)))
    _claim_constant(context, found, place, sizes)
    place.remove()


def _known(corpus: Corpus, path: Path) -> Path:
    digests = {
        os.path.relpath(file, corpus.folder): blake3().update_mmap(file).hexdigest()
        for file in corpora.files_of(corpus.folder)
    }
    path.write_text(json.dumps(digests))
    return path


def _cp_reflink(source: str, target: str, scratch: str) -> tuple[Step, ...]:
    return (Step(("cp", "-a", "--reflink=always", f"{source}/.", target)),)


def _claim_constant(context: Context, found: Sequence[Judged], place: Place, sizes: Sequence[int]) -> None:
    """Milliseconds of the largest beside those of the smallest."""
    tallies = {name: tally for one in found for name, tally in one.tallies.items() if tally.runs}
    names = [inside(f"ours, {_size(size)}") for size in sizes]
    if any(name not in tallies for name in names):
        context.failures["reflink"] = "; ".join(tally.failure for one in found for tally in one.tallies.values())
        return
    shared = [min(run.counted.get("shared", 0) for run in tallies[name].runs) for name in names]
    values = {name: round(tally.seconds * 1e3, 2) for name, tally in tallies.items()}
    ratio = values[names[-1]] / values[names[0]]
    if min(shared) < 1:
        context.failures["reflink"] = "our engine copied bytes that it could have shared"
    context.claim(
        Claim(
            id="reflink",
            work=f"one slide of {_size(sizes[-1])} within one file system, digest trusted from the catalog",
            unit="ms",
            ours=values[names[-1]],
            peers={name: value for name, value in values.items() if name != names[-1]},
            limit=None,
            limit_name="",
            ratio=round(ratio, 2),
            against=names[0],
            goal=2.0,
            met=ratio <= 2.0 and min(shared) >= 1,
            better="lower",
            ours_tool=names[-1],
            condition="digest verified before; clock of the process without its start",
            place=place.kind,
            rounds={name: [round(run.seconds, 4) for run in tally.runs] for name, tally in tallies.items()},
            stamp=results.stamp(load_before=found[0].load_before),
        )
    )


def _size(size: int) -> str:
    return f"{size / 1e9:g} GB" if size >= 1e9 else f"{size / 1e6:g} MB"


# --- growth ---------------------------------------------------------------------------------------------


def growth(context: Context) -> None:
    """Rate and memory as the work grows: the rate must stay, the engine's memory must stay small."""
    by_files = [_grown_files(context, count) for count in context.sizes.growth_files]
    by_bytes = [_grown_bytes(context, size) for size in context.sizes.growth_bytes]
    for id, found in (("growth-files", by_files), ("growth-bytes", by_bytes)):
        if len(found) > 1:
            _claim_linear(context, id, found)
    _claim_memory(context, [*by_files, *by_bytes])


def _grown_files(context: Context, count: int) -> Judged:
    tool = ours(f"ours, {count} files", "copy")
    course = _many(context, f"growth-{count}", count, low=200, high=4 * 1000, tools=[tool])
    found = _thousands(course, [tool], rounds=1)
    course.place.remove()
    return found


def _grown_bytes(context: Context, size: int) -> Judged:
    tool = ours(f"ours, {_size(size)}", "copy")
    place = context.large_place(f"growth-{size}", 2 * size)
    course = Course(context, corpora.slides(place.folder / "corpus", [size]), place, discard=True)
    found = _gigabytes(course, [tool], rounds=1)
    place.remove()
    return found


def _claim_linear(context: Context, id: str, found: Sequence[Judged]) -> None:
    """The rate of the largest beside that of the one before: work that grows must not slow down."""
    tallies = {name: tally for one in found for name, tally in one.tallies.items()}
    if any(not tally.runs for tally in tallies.values()):
        context.failures[id] = "; ".join(tally.failure for tally in tallies.values() if tally.failure)
        return
    whole = structs.replace(found[-1], tallies=tallies)
    rates = {name: value for one in found for name, value in one.figures("rate", inner=False).items()}
    names = list(rates)
    ratio = rates[names[-1]] / rates[names[-2]]
    context.claim(
        Claim(
            id=id,
            work="growing work, read back: the largest beside the one before",
            unit=found[-1].unit,
            ours=rates[names[-1]],
            peers={name: rates[name] for name in names[:-1]},
            limit=None,
            limit_name="",
            ratio=round(ratio, 2),
            against=names[-2],
            goal=0.7,
            met=ratio >= 0.7,
            ours_tool=names[-1],
            condition=found[-1].condition,
            place=found[-1].place,
            memory_mb=whole.figures("memory", inner=False),
            rounds={name: [round(run.seconds, 3) for run in tallies[name].runs] for name in names},
            stamp=results.stamp(load_before=found[0].load_before),
        )
    )


def _claim_memory(context: Context, found: Sequence[Judged]) -> None:
    """All processes of the engine together, whatever is moved."""
    memory = {name: value for one in found for name, value in one.figures("memory", inner=False).items()}
    if not memory:
        context.failures["memory"] = "nothing was moved"
        return
    most = max(memory, key=lambda name: memory[name])
    ratio = memory[most] / MEMORY_MB
    context.claim(
        Claim(
            id="memory",
            work="memory of all engine processes, the most of any size",
            unit="MB",
            ours=memory[most],
            peers={name: value for name, value in memory.items() if name != most},
            limit=MEMORY_MB,
            limit_name="promised",
            ratio=round(ratio, 2),
            against="300 MB",
            goal=1.0,
            met=ratio <= 1.0,
            better="lower",
            ours_tool=most,
            condition="proportional share (Pss) of the whole process tree, sampled",
            place=found[-1].place,
            stamp=results.stamp(load_before=found[0].load_before),
        )
    )
