"""P9: de-identifying large SVS with digests of source and result, beside copies of the same bytes.

Several slides, two at a time as a daemon takes them: the next one is planned and proved while one is written.
Ours is clocked inside: the sandbox loads its parsers once in a daemon's life. The whole process, with a first
small slide that loads them, stands beside.
"""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from functools import cache
from pathlib import Path

from bench import peers
from bench.context import Context, Course, compete, inside, ours
from bench.corpora import Corpus
from bench.measure import Contestant, RunFailed, Work
from bench.peers import Peer
from mover.demo import svs, texture
from mover.demo.layout import make_layout
from mover.demo.plan import Case, Pack, Person
from mover.tiers import identity

WHOLE, WHOLE_READ = "ours", "ours, read back"
WHOLE_COPY, WHOLE_COPY_READ = "ours, plain copy", "ours, plain copy, read back"
OURS, READ, COPY, COPY_READ = (inside(name) for name in (WHOLE, WHOLE_READ, WHOLE_COPY, WHOLE_COPY_READ))
SEED = 7
SLIDES = 6
LARGE_BYTES = 100_000_000
# an invented person: what is planted must be taken out again
PERSON = Person("Ottilie", "Brinkenaard", "F", "KH60123456", date(1950, 3, 4), "1200 Larchwood Lane", "10234",
                "(210) 555-3210", "brinken@kestrelmail.example")  # fmt: skip


def deidentified(context: Context) -> None:
    wanted = context.sizes.svs_bytes
    place = context.large_place("p9", 3 * SLIDES * wanted)
    corpus = slide(place.folder / "corpus", wanted)
    corpus = _repeated(corpus, SLIDES)
    slide(place.folder / "warm", 1, name="warm.svs")
    course = _SlideCourse(context, corpus, place, discard=True)
    first = str(place.folder / "warm" / "warm.svs")
    tools = [
        ours(WHOLE, "deidentify", "--first", first, "--no-readback"),
        ours(WHOLE_READ, "deidentify", "--first", first),
        ours(WHOLE_COPY, "copy", "--no-readback"),
        ours(WHOLE_COPY_READ, "copy"),
        peers.CP,
        peers.PATHSAFE,
        peers.PATHSAFE_READ,
    ]
    found = compete(course, tools, amount=corpus.size_bytes / 1e9, unit="GB/s", rounds=min(4, context.sizes.rounds))
    work = f"de-identify {SLIDES} SVS of {wanted / 1e6:.0f} MB, digests of source and result"
    found.claim("P9", work, tool=OURS, against=[peers.CP.name], goal=1.1, limit="device-write")
    found.claim("P9-copy", work, tool=OURS, against=[COPY], goal=0.9, limit="device-write")
    found.claim("P9-copy-read", f"{work}, read back", tool=READ, against=[COPY_READ], goal=0.8, limit="device-copy")
    found.claim("P9-pathsafe", work, tool=OURS, against=[peers.PATHSAFE.name], goal=3.0, limit="device-write")
    found.claim(
        "P9-pathsafe-read", f"{work}, read back", tool=READ, against=[peers.PATHSAFE_READ.name], goal=3.0,
        limit="device-copy",
    )  # fmt: skip
    place.remove()


class _SlideCourse(Course, frozen=True, kw_only=True):
    """What comes out has another size than what went in, by a little; plain copies have the same."""

    def enter(self, peer: Peer) -> Contestant:
        def prepare(number: int) -> Work:
            target = self.place.fresh(self.output(peer, number))
            if peer.tier:
                identity.establish(target, name="target", zone="deidentified")
            self.settle(number)
            steps = peer.steps(str(self.corpus.folder), str(target), str(self.context.scratch))
            return Work(steps, synced=str(target), own_clock=peer.own_clock, env=self.env)

        def check(number: int) -> None:
            target = self.place.folder / self.output(peer, number)
            sizes = [file.stat().st_size for file in target.rglob("*.svs")]
            if len(sizes) != SLIDES or abs(sum(sizes) / self.corpus.size_bytes - 1) > 0.05:
                raise RunFailed(f"made slides of {sizes} bytes of {SLIDES} with {self.corpus.size_bytes}")
            shutil.rmtree(target)

        return Contestant(peer.name, prepare, check, peer.rounds)


def slide(folder: Path, size_bytes: int, *, name: str = "slide.svs") -> Corpus:
    """An SVS of a ScanScope with planted identifiers, as near `size_bytes` as whole rows of cells come."""
    folder.mkdir(parents=True)
    path, columns = folder / name, 40 if size_bytes > LARGE_BYTES else 4
    _write(path, columns=columns, rows=columns)
    rows = round(size_bytes / (path.stat().st_size / columns))
    path.unlink()
    _write(path, columns=columns, rows=max(4, rows))
    return Corpus(folder, 1, path.stat().st_size)


def _repeated(one: Corpus, count: int) -> Corpus:
    """The same slide under several names, each with blocks of its own: what is cached of one is not of another."""
    (first,) = one.folder.iterdir()
    for number in range(1, count):
        shutil.copyfile(first, one.folder / f"{first.stem}-{number}{first.suffix}")
    return Corpus(one.folder, count, one.size_bytes * count)


@cache
def _atlas() -> texture.Atlas:
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        return texture.build_atlases(seed=SEED, variants=2, pool=pool)[texture.CLASSIC.name]


def _write(path: Path, *, columns: int, rows: int) -> None:
    layout = make_layout(_atlas(), columns=columns, rows=rows, seed=[SEED, 6, 1])
    svs.write(path, _pack(columns, rows), case=_case(), layout=layout)


def _pack(columns: int, rows: int) -> Pack:
    return Pack(
        index=1, batch="bench", stem="S26-010101_A1_H&E", suffix=".svs", look=texture.CLASSIC.name,
        case="S26-010101", block="A1", stain="H&E", columns=columns, rows=rows, big=True, serial="SS7000001",
        operator="op.quaglia", scanned=datetime(2026, 10, 5, 6, 30),
    )  # fmt: skip


def _case() -> Case:
    return Case(
        number="S26-010101", batch="bench", person=PERSON, pathologist="Dr. Ottilie Schmied",
        received=date(2026, 9, 1), diagnosis="PRAD", gleason=7, stage="II", size_mm=12.0, event=date(2026, 9, 9),
        status="alive", known=True,
    )  # fmt: skip
