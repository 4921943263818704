"""What happens when something is wrong, beside rclone and rsync: `python -m bench.side_by_side [--root DIR]`.

Four mishaps of every day, each played to all three on the same slides: a list with a name that is not there, a byte
that flipped in the archive, a byte that flipped on flash, and what a previous run left behind. What is kept is what a
script would see (the exit status) and what a training job would (the files). `docs/why.md` is made of it.

The peers copy from a plain folder with the published slides, the most common way of staging; ours is a daemon with
the demo's bucket, flash and database. Flips keep size and modification time, as rot does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
import obstore
from blake3 import blake3
from msgspec import Struct
from obstore.store import S3Store

from bench import peers, results
from mover.demo import seaweed
from mover.demo.story import Story, remove_all
from mover.errors import RunRefused
from mover.model import wire
from mover.runs.roots import content_key
from mover.sdk import SyncClient

KEPT = results.LATEST.with_name("side_by_side.json")
SCALE = 0.15  # of the demo's hospital: a dozen slides
NEEDED = 8
TIMEOUT_S = 300.0
UNKNOWN = "S0000-0000-0000-0000-X"

Verdict = Literal["said", "silent", "held"]


class Outcome(Struct, frozen=True):
    """`verdict`: it `held` (the job gets right data, or none), it only `said` so, or it was `silent` and wrong."""

    tool: str
    command: str
    status: str
    stands: str
    verdict: Verdict


class Mishap(Struct, frozen=True):
    title: str
    story: str
    outcomes: list[Outcome]


class Report(Struct, frozen=True):
    stamp: results.Stamp
    versions: dict[str, str]
    mishaps: list[Mishap]


class Hospital(Struct, frozen=True):
    """The demo, running, with its slides published; `archive` is the same slides as plain files."""

    story: Story
    client: SyncClient
    numbers: list[str]
    keys: dict[str, str]
    bucket: S3Store
    archive: Path
    work: Path

    def names(self, first: int, end: int) -> list[str]:
        return [f"{number}.svs" for number in self.numbers[first:end]]


# --- the ground -----------------------------------------------------------------------------------------


@contextmanager
def opened(root: Path) -> Iterator[Hospital]:
    story = Story(root / "demo", scale=SCALE)
    try:
        story.prepare()
        with _scheduler(story) as client:
            yield _published(story, client, root)
    finally:
        remove_all(story.site)


def _scheduler(story: Story) -> SyncClient:
    with story.site.client(story.url) as admin:
        body = wire.TokenRequest(actor="scheduler", role="operator", posix_uid=os.getuid(), posix_gid=os.getgid())
        return story.site.client(story.url, admin.tokens.make(body).secret)


def _published(story: Story, client: SyncClient, root: Path) -> Hospital:
    for folder, count in story.hospital.declared.items():
        batch = client.batches.declare(wire.BatchRequest(folder=folder, expected_count=count))
        client.batches.wait(batch.id, timeout_s=TIMEOUT_S)
    bucket = _bucket(story.server)
    keys = _keys(bucket, {slide.number for slide in client.slides.list(limit=500).slides})
    numbers = sorted(keys)
    if len(numbers) < NEEDED:
        raise SystemExit(f"the small hospital has {len(numbers)} SVS slides, {NEEDED} are needed")
    archive = root / "archive"
    archive.mkdir()
    for number in numbers:
        (archive / f"{number}.svs").write_bytes(obstore.get(bucket, keys[number]).bytes())
    return Hospital(story, client, numbers, keys, bucket, archive, root)


def _bucket(server: seaweed.Seaweed) -> S3Store:
    keys = seaweed.load_credentials(Path(server.credentials_file))
    return S3Store(
        server.bucket, endpoint=server.endpoint, region=server.region, access_key_id=keys.access_key_id,
        secret_access_key=keys.secret_access_key, client_options={"allow_http": True},
    )  # fmt: skip


def _keys(bucket: S3Store, numbers: set[str]) -> dict[str, str]:
    """Where each slide's bytes are, by its number, a part of the key."""
    found = {}
    for page in obstore.list(bucket):
        for entry in page:
            number = next((part for part in entry["path"].split("/") if part in numbers), None)
            if number is not None and entry["path"].endswith(".svs"):
                found[number] = entry["path"]
    return found


def flip(path: Path) -> None:
    """One bit, in the middle; size and modification time stay."""
    before = path.stat()
    mode = before.st_mode & 0o7777
    os.chmod(path, mode | 0o200)
    with open(path, "r+b") as file:
        file.seek(before.st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.chmod(path, mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# --- the peers ------------------------------------------------------------------------------------------


class Said(Struct, frozen=True):
    shown: str
    status: int

    @property
    def ended(self) -> str:
        return f"exit {self.status}"


class Peer(Struct, frozen=True):
    """How people bring a list of slides to flash with it, how they clean up, and how they check."""

    name: str
    copy: tuple[str, ...]
    mirror: tuple[str, ...]
    check: tuple[str, ...]


PEERS = (
    Peer(
        "rclone",
        ("copy", "--files-from", "LIST", "archive", "FLASH"),
        ("sync", "--files-from", "LIST", "archive", "FLASH"),
        ("check", "--one-way", "--files-from", "LIST", "archive", "FLASH"),
    ),
    Peer(
        "rsync",
        ("-a", "--files-from=LIST", "archive/", "FLASH/"),
        ("-a", "--delete", "--files-from=LIST", "archive/", "FLASH/"),
        ("-anci", "--files-from=LIST", "archive/", "FLASH/"),
    ),
)


class Hand:
    """One peer at work in a folder of its own below the hospital's."""

    def __init__(self, peer: Peer, here: Hospital, scene: str) -> None:
        self.peer, self._here = peer, here
        self.flash = here.work / f"flash-{peer.name}-{scene}"
        self.flash.mkdir()

    def run(self, words: Sequence[str], names: Sequence[str]) -> Said:
        listed = self._here.work / "list.txt"
        listed.write_text("".join(f"{name}\n" for name in names))
        real = [word.replace("LIST", listed.name).replace("FLASH", self.flash.name) for word in words]
        program = peers.find(self.peer.name) or self.peer.name
        done = subprocess.run(
            [program, *real], cwd=self._here.work, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )  # fmt: skip
        # a dry run of rsync says what differs by lines, not by its status
        status = done.returncode or (1 if "-anci" in words and done.stdout.strip() else 0)
        shown = " ".join((self.peer.name, *words)).replace("LIST", "list").replace("FLASH", "flash")
        return Said(shown, status)

    def copy(self, names: Sequence[str]) -> Said:
        return self.run(self.peer.copy, names)

    def standing(self) -> set[str]:
        return {path.name for path in self.flash.iterdir()}

    def wrong(self, names: Sequence[str], truth: dict[str, bytes]) -> list[str]:
        return [name for name in names if (self.flash / name).read_bytes() != truth[name]]


# --- the mishaps ----------------------------------------------------------------------------------------


def missing_name(here: Hospital) -> Mishap:
    names = here.names(0, 5)
    outcomes = []
    for hand in (Hand(peer, here, "missing") for peer in PEERS):
        said = hand.copy([*names, f"{UNKNOWN}.svs"])
        stands = f"{len(hand.standing())} of {len(names) + 1} files"
        outcomes.append(Outcome(hand.peer.name, said.shown, said.ended, stands, "said" if said.status else "silent"))
    try:
        here.client.runs.request(wire.RunRequest(files=[*here.numbers[:5], UNKNOWN]), key="missing/1")
    except RunRefused as refused:
        named = [str(one["name"]) for one in refused.details]
        held = named == [UNKNOWN]
        stands = f"nothing; the answer names {len(named)} of 1 offenders"
        outcomes.append(_ours("mover run request --files list", "refused", stands, "held" if held else "silent"))
    return Mishap(
        "A list with one name that is not there",
        "Five slides are there, the sixth is a typing error. A job trains on what stands in the folder.",
        outcomes,
    )


def rot_in_archive(here: Hospital) -> Mishap:
    name, number = here.names(5, 6)[0], here.numbers[5]
    truth = (here.archive / name).read_bytes()
    flip(here.archive / name)
    outcomes = []
    for hand in (Hand(peer, here, "rot") for peer in PEERS):
        copied = hand.copy([name])
        checked = hand.run(hand.peer.check, [name])
        wrong = hand.wrong([name], {name: truth})
        shown = f"{copied.shown}; then {checked.shown}"
        ended = f"{copied.ended}; {checked.ended}"
        stands = "the damaged slide" if wrong else "the right slide"
        silent = bool(wrong) and not copied.status and not checked.status
        outcomes.append(Outcome(hand.peer.name, shown, ended, stands, "silent" if silent else "said"))
    obstore.put(here.bucket, here.keys[number], (here.archive / name).read_bytes())
    run = here.client.runs.request(wire.RunRequest(files=[number]), key="rot/1")
    run = here.client.runs.wait(run.id, timeout_s=TIMEOUT_S)
    held = run.ready_at is None and run.reason == "archive-lost"
    stands = f"nothing: {run.explanation}"
    outcomes.append(_ours("mover run request", f"failed, {run.reason}", stands, _held(held)))
    return Mishap(
        "A byte that flipped in the archive",
        "Years later one bit of a stored slide is another; its size and time are not. The copy is asked for, "
        "then checked against the archive.",
        outcomes,
    )


def rot_on_flash(here: Hospital) -> Mishap:
    names, numbers = here.names(0, 4), here.numbers[:4]
    truth = {name: (here.archive / name).read_bytes() for name in names}
    outcomes = []
    for hand in (Hand(peer, here, "flash") for peer in PEERS):
        hand.copy(names)
        flip(hand.flash / names[0])
        again = hand.copy(names)
        wrong = hand.wrong(names, truth)
        stands = f"{len(wrong)} of {len(names)} slides damaged"
        verdict: Verdict = "silent" if wrong and not again.status else "said"
        outcomes.append(Outcome(hand.peer.name, again.shown, again.ended, stands, verdict))
        checked = hand.run(hand.peer.check, names)
        stands = "compared with the archive, byte by byte"
        verdict = "said" if checked.status else "silent"
        outcomes.append(Outcome(hand.peer.name, checked.shown, checked.ended, stands, verdict))
    outcomes += _our_flash(here, numbers, truth)
    return Mishap(
        "A byte that flipped on flash",
        "The set was staged for an earlier job; one bit of it is another since, size and time are not. The next "
        "job asks for the same set again.",
        outcomes,
    )


def _our_flash(here: Hospital, numbers: list[str], truth: dict[str, bytes]) -> list[Outcome]:
    first = _ready(here, numbers, "flash/1")
    flip(_file(first, f"{numbers[0]}.svs"))
    digest = blake3(truth[f"{numbers[0]}.svs"]).hexdigest()
    flip(Path(here.story.places.flash.path) / content_key(digest))  # with reflinks it is another file
    seen = here.client.verifications.request(wire.VerificationRequest(run=first.id), key="flash/verify")
    seen = here.client.verifications.wait(seen.id, timeout_s=TIMEOUT_S)
    found = sum(seen.findings.values())
    second = _ready(here, numbers, "flash/2")
    wrong = [name for name, content in truth.items() if _file(second, name).read_bytes() != content]
    return [
        _ours("mover run request", second.state, f"{len(wrong)} of {len(truth)} slides damaged", _held(not wrong)),
        _ours(
            "mover verify --run RUN", f"{found} found", f"{', '.join(seen.findings)}; against the sealed manifest",
            "said" if found == 1 else "silent",
        ),
    ]  # fmt: skip


def leftover(here: Hospital) -> Mishap:
    first, second = here.names(0, 4), here.names(2, 5)
    outcomes = []
    for hand in (Hand(peer, here, "leftover") for peer in PEERS):
        hand.copy(first)
        for words in (hand.peer.copy, hand.peer.mirror):
            said = hand.run(words, second)
            strange = hand.standing() - set(second)
            stands = f"{len(hand.standing())} slides, {len(strange)} of them not asked for"
            verdict: Verdict = "held" if not strange else "said" if said.status else "silent"
            outcomes.append(Outcome(hand.peer.name, said.shown, said.ended, stands, verdict))
    _ready(here, here.numbers[:4], "leftover/1")
    run = _ready(here, here.numbers[2:5], "leftover/2")
    standing = {path.name for path in (Path(run.root or "") / "data").rglob("*") if path.is_file()}
    strange = standing - set(second)
    stands = f"{len(standing)} slides, {len(strange)} of them not asked for"
    outcomes.append(_ours("mover run request", run.state, stands, _held(standing == set(second))))
    return Mishap(
        "What a previous run left behind",
        "The first job had four slides, the next wants three, two of them the same. The folder on flash is the same.",
        outcomes,
    )


MISHAPS: tuple[Callable[[Hospital], Mishap], ...] = (missing_name, rot_on_flash, leftover, rot_in_archive)


def _ours(command: str, status: str, stands: str, verdict: Verdict) -> Outcome:
    return Outcome("mover", command, status, stands, verdict)


def _held(right: bool) -> Verdict:
    return "held" if right else "silent"


def _ready(here: Hospital, numbers: list[str], key: str) -> wire.Run:
    run = here.client.runs.request(wire.RunRequest(files=numbers), key=key)
    run = here.client.runs.wait(run.id, timeout_s=TIMEOUT_S)
    if run.state != "ready":
        raise SystemExit(f"run {run.id} is {run.state}: {run.explanation}")
    return run


def _file(run: wire.Run, name: str) -> Path:
    return next((Path(run.root or "") / "data").rglob(name))


# --- the command ----------------------------------------------------------------------------------------


def played(root: Path) -> Report:
    load_before = os.getloadavg()[0]
    with opened(root) as here:
        mishaps = [mishap(here) for mishap in MISHAPS]
    versions = {name: said for name, said in peers.versions().items() if name in ("rclone", "rsync")}
    return Report(results.stamp(load_before=load_before), versions, mishaps)


def main(words: Sequence[str] | None = None) -> int:
    told = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.side_by_side", description=told)
    parser.add_argument("--root", help="a folder to work in; default: a fresh temporary one")
    parser.add_argument("--json", default=str(KEPT), help="where the outcomes are kept")
    asked = parser.parse_args(words)
    absent = [peer.name for peer in PEERS if peers.find(peer.name) is None]
    if absent:
        print(f"not installed here: {', '.join(absent)}", file=sys.stderr)
        return 2
    root = Path(tempfile.mkdtemp(prefix="side-by-side-", dir=asked.root))
    try:
        report = played(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    Path(asked.json).write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    for mishap in report.mishaps:
        print(f"\n{mishap.title}")
        for one in mishap.outcomes:
            print(f"  {one.tool:7} {one.verdict:6} {one.status:22} {one.stands:45} {one.command}")
    ours = [one for mishap in report.mishaps for one in mishap.outcomes if one.tool == "mover"]
    return 1 if any(one.verdict == "silent" for one in ours) else 0


if __name__ == "__main__":
    sys.exit(main())
