"""P8: looking at every entry of a tree, and writing what was seen into the catalog."""

from __future__ import annotations

import os
from collections.abc import Sequence
from statistics import median

from bench import corpora, peers, results
from bench.context import Context, Course, Judged, compete, inside, ours
from bench.database import Catalog
from bench.measure import Contestant, Tally, Work
from bench.peers import Peer
from bench.results import Claim

WHOLE, BARE = "ours, into the catalog", "ours, without catalog"
STAGED = inside(WHOLE)
FIRST, AGAIN = "ours, first scan", "ours, re-scan"
CHANGES, FULL = "ours, changes only", "ours, full re-scan"
CHANGED = 100
MANY = 500_000  # entries, from which one round is enough
UNIT = "thousand entries/s"
ROUNDS = 3
BYTES_PER_ENTRY = 600  # inode, name, a share of its folder
FLAT = 1.3  # memory ten times later, at most


def walks(context: Context) -> None:
    """Names and states by getdents and statx, warm; rows by COPY into a logged staging table."""
    count, rounds = context.sizes.walk_files, min(ROUNDS, context.sizes.rounds)
    with Catalog(context.root / "catalog-p8") as catalog:
        course = _tree(context, "p8", count, catalog)
        staged = ours(WHOLE, "walk", "--dsn", catalog.dsn)
        others = [peers.FIND, peers.FD, peers.RCLONE_LIST, peers.RSYNC_LIST]
        found = _walked(course, [staged, ours(BARE, "walk"), *others], rounds=rounds)
        work = f"walk of {count} entries, states and COPY into a logged table"
        found.claim("P8", work, tool=STAGED, against=[peers.FIND.name], goal=0.6)
        found.claim("P8-rclone", work, tool=STAGED, against=[peers.RCLONE_LIST.name], goal=4.0)
        _rescan(course, catalog)
        _changes("P8b", course, catalog)
        course.place.remove()
        _memory(context, catalog)


class _WalkCourse(Course, frozen=True):
    """Nothing is written but rows; `find` has read the tree before every race, so names and inodes are warm."""

    def enter(self, peer: Peer) -> Contestant:
        nowhere = self.context.scratch / "nowhere"
        nowhere.mkdir(exist_ok=True)

        def prepare(number: int) -> Work:
            os.sync()
            steps = peer.steps(str(self.corpus.folder), str(nowhere), str(self.context.scratch))
            return Work(steps, own_clock=peer.own_clock, env=self.env, servers=self.servers)

        return Contestant(peer.name, prepare, rounds=peer.rounds)

    @property
    def condition(self) -> str:
        return "warm names and inodes"


def _tree(context: Context, name: str, count: int, catalog: Catalog) -> _WalkCourse:
    place = context.many_place(name, need_bytes=count * BYTES_PER_ENTRY, files=int(count * 1.05))
    corpus = corpora.empty(place.folder / "corpus", count)
    for path in corpora.files_of(corpus.folder):
        os.stat(path)
    return _WalkCourse(context, corpus, place, servers=(catalog.pid,))


def _walked(course: _WalkCourse, tools: Sequence[Peer], *, rounds: int = 0) -> Judged:
    count = course.corpus.files
    per = (count / 1e6, "CPU s/million entries")
    return compete(course, tools, amount=count / 1e3, unit=UNIT, rounds=rounds, cpu=per)


def _rescan(course: _WalkCourse, catalog: Catalog) -> None:
    """The same tree scanned and merged twice: the second asks every state again and finds nothing changed."""
    count = course.corpus.files
    tool = ours("ours, twice", "walk", "--dsn", catalog.dsn, "--twice")
    found = _walked(course, [tool], rounds=min(ROUNDS, course.context.sizes.rounds))
    tally = found.tallies[tool.name]
    if not tally.runs:
        course.context.failures["P8-rescan"] = tally.failure
        return
    seconds = {
        FIRST: _medians(tally, "walk_s", "merge_s"),
        f"{FIRST}, without merge": _medians(tally, "walk_s"),
        AGAIN: _medians(tally, "again_walk_s", "again_merge_s"),
        f"{AGAIN}, without merge": _medians(tally, "again_walk_s"),
    }
    rates = {name: round(count / 1e3 / value, 1) for name, value in seconds.items()}
    ratio = rates[AGAIN] / rates[FIRST]
    course.context.claim(
        Claim(
            id="P8-rescan",
            work=f"re-scan of {count} unchanged entries, every state asked again, merged",
            unit=UNIT,
            ours=rates[AGAIN],
            peers={name: rate for name, rate in rates.items() if name != AGAIN},
            limit=None,
            limit_name="",
            ratio=round(ratio, 3),
            against=FIRST,
            goal=1.2,
            met=results.judge(ratio, 1.2, "higher"),
            ours_tool=AGAIN,
            condition=f"{course.condition}; clock of the scans alone",
            place=course.place.kind,
            disturbed=[AGAIN] if tally.disturbed else [],
            stamp=results.stamp(load_before=found.load_before),
        )
    )


def _changes(id: str, course: _WalkCourse, catalog: Catalog) -> None:
    """Files change under a watcher; a scan of changes beside a full scan after as many changes."""
    if os.geteuid() != 0 or not course.place.image:
        course.context.failures[id] = "skipped: watching a file system of its own takes root (fanotify, loop mounts)"
        return
    count = course.corpus.files
    tool = ours("ours, changes", "changes", "--dsn", catalog.dsn, "--files", str(CHANGED))
    found = _walked(course, [tool], rounds=1 if count > MANY else min(ROUNDS, course.context.sizes.rounds))
    tally = found.tallies[tool.name]
    if not tally.runs:
        course.context.failures[id] = tally.failure
        return
    named = {CHANGES: "changes_s", FULL: "full_s", FIRST: "first_s"}
    seconds = {name: _medians(tally, counted) for name, counted in named.items()}
    rates = {name: round(count / 1e3 / value, 1) for name, value in seconds.items()}
    ratio = rates[CHANGES] / rates[FULL]
    course.context.claim(
        Claim(
            id=id,
            work=f"re-scan of {count} entries of which {CHANGED} changed: changed folders only, merged",
            unit=UNIT,
            ours=rates[CHANGES],
            peers={name: rate for name, rate in rates.items() if name != CHANGES},
            limit=None,
            limit_name="",
            ratio=round(ratio, 3),
            against=FULL,
            goal=50,
            met=results.judge(ratio, 50, "higher"),
            ours_tool=CHANGES,
            condition=f"{course.condition}; clock of the scans alone, the watcher's word included",
            place=course.place.kind,
            disturbed=[CHANGES] if tally.disturbed else [],
            stamp=results.stamp(load_before=found.load_before),
        )
    )


def _medians(tally: Tally, *names: str) -> float:
    return median(sum(run.counted[name] for name in names) for run in tally.runs)


def _memory(context: Context, catalog: Catalog) -> None:
    """All processes of the walk together, the reading ones included."""
    found: list[Judged] = []
    for count in context.sizes.walk_growth:
        course = _tree(context, f"p8-{count}", count, catalog)
        tool = ours(f"ours, {count} entries", "walk", "--dsn", catalog.dsn)
        found.append(_walked(course, [tool], rounds=1))
        if count == context.sizes.walk_growth[-1]:
            _changes("P8b-large", course, catalog)
        course.place.remove()
    memory = {name: value for one in found for name, value in one.figures("memory", inner=False).items()}
    if len(memory) < 2:
        context.failures["P8-memory"] = "; ".join(_failures(found)) or "only one size was walked"
        return
    names = list(memory)
    ratio = memory[names[-1]] / memory[names[0]]
    context.claim(
        Claim(
            id="P8-memory",
            work="memory of a walk as the tree grows, the largest beside the smallest",
            unit="MB",
            ours=memory[names[-1]],
            peers={name: memory[name] for name in names[:-1]},
            limit=None,
            limit_name="",
            ratio=round(ratio, 2),
            against=names[0],
            goal=FLAT,
            met=results.judge(ratio, FLAT, "lower"),
            better="lower",
            ours_tool=names[-1],
            condition="proportional share (Pss) of the whole process tree, sampled",
            place=found[-1].place,
            memory_mb=memory,
            rounds={
                name: [round(run.seconds, 3) for run in tally.runs]
                for one in found for name, tally in one.tallies.items() if not tally.inner
            },
            stamp=results.stamp(load_before=found[0].load_before),
        )
    )  # fmt: skip


def _failures(found: Sequence[Judged]) -> list[str]:
    return [tally.failure for one in found for tally in one.tallies.values() if tally.failure]
