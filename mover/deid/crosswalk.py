"""The crosswalk's second home: one private file beside the one-shot command's output (D10).

A crosswalk ties what was in the source to what stands for it: digests to numbers, patients to subjects, cases, blocks
and slides to keys, UIDs to UIDs. Every verb is insert-or-get: what was given once is given again, whatever is killed in
between. The vault is the first home and has the same verbs.

Order matters. What is new goes to the journal beside the file and is synced before the verb returns, so nothing that
carries a replacement can get a name before the replacement is durable. At the end of a run the file is replaced in
one step, then the journal goes; a kill between the two leaves a journal that says nothing new. From the first look on
the run holds the only lock on the crosswalk: of two runs beside each other, the later end would forget what the other
gave, and one patient would have two pseudonyms.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from mover.decide.folding import one_gap
from mover.decide.patients import at_home, claims
from mover.deid.durable import append_synced, write_private
from mover.deid.identity import Identity, Subject
from mover.errors import Conflict, LimitExceeded, MoverError, RequestInvalid, tier_error
from mover.model.ids import is_number
from mover.randomness import new_number, new_offset_days, new_uid
from mover.wholefile import sync_folder

ENTRIES: Final = 20_000_000
AVOIDED: Final = 5000
DRAWS: Final = 50

Status = Literal["deidentified", "quarantined", "dropped"]


class Crosswalk(Protocol):
    """Who stands for whom. Each verb answers for everything it is asked, and what it says is durable."""

    def numbers(self, digests: Sequence[str]) -> dict[str, str]: ...

    def subjects(self, patients: Sequence[str]) -> dict[str, Subject]: ...

    def keys(self, keys: Sequence[str]) -> dict[str, str]: ...

    def uids(self, uids: Sequence[str]) -> dict[str, str]: ...


class CrosswalkEntry(Struct, frozen=True, kw_only=True):
    """One input file. `source` is an identifier. `output` is the main file of what became of it."""

    source: str
    output: str | None = None
    number: str | None = None
    status: Status
    reason: str | None = None
    detail: str | None = None
    source_blake3: str | None = None
    output_blake3: str | None = None


class Export(Struct, frozen=True, kw_only=True):
    """That a map of this crosswalk was written: when, why, and how many rows of what."""

    at: str
    purpose: str
    rows: dict[str, int]


class CrosswalkFile(Struct, frozen=True, kw_only=True):
    """What stands in the file. The first form had `files` alone."""

    files: tuple[CrosswalkEntry, ...]
    numbers: dict[str, str] = {}
    subjects: dict[str, Subject] = {}
    keys: dict[str, str] = {}
    uids: dict[str, str] = {}
    # patient key -> who issued the number, where nobody says it (`decide.patients`)
    homes: dict[str, str] = {}
    # source digest -> the output's name, so that a file keeps its place in a series
    places: dict[str, str] = {}
    # digest of the last certificate made: the next one names it
    certificate: str = ""
    exports: tuple[Export, ...] = ()


class _Line(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One journal line. `source_blake3` and `number` are the first form."""

    source_blake3: str = ""
    number: str = ""
    numbers: dict[str, str] = {}
    subjects: dict[str, Subject] = {}
    keys: dict[str, str] = {}
    uids: dict[str, str] = {}
    homes: dict[str, str] = {}
    places: dict[str, str] = {}
    exports: tuple[Export, ...] = ()


class FileCrosswalk:
    """A crosswalk in a file and its journal. With `dry`, all is minted in memory and nothing is written; then there
    need be no file."""

    def __init__(self, path: Path | None, *, dry: bool = False) -> None:
        assert path is not None or dry
        self._known = path is not None
        self._path = path = path or Path(os.devnull)
        self._journal_path = path.with_name(path.name + ".journal")
        self._dry = dry
        self._lock = threading.Lock()
        self._journal = -1
        self._guard_path = path.with_name(f".{path.name}.lock")
        self._guard = -1 if dry else _lock(self._guard_path)
        self._numbers: dict[str, str] = {}
        self._subjects: dict[str, Subject] = {}
        # older files may hold `a_b` beside `a b`, one patient; what stands for `a b` stands for both from now on
        self._by_gap: dict[str, Subject] = {}
        self._keys: dict[str, str] = {}
        self._uids: dict[str, str] = {}
        self._homes: dict[str, str] = {}
        self._places: dict[str, str] = {}
        self._used: set[str] = set()  # numbers of scans
        self._folders: dict[str, set[str]] = {}
        self.outputs: dict[str, str] = {}  # output name -> digest, as the last whole run wrote it down
        self.certificate = ""
        self._exports: tuple[Export, ...] = ()
        self._avoided: tuple[str, ...] = ()
        self._earlier: tuple[CrosswalkEntry, ...] = ()
        try:
            if self._known:
                self._read_file()
                self._read_journal()
        except MoverError:
            self._unlock()
            raise

    # -- the verbs

    def numbers(self, digests: Sequence[str]) -> dict[str, str]:
        """The numbers of scans, by their digests."""
        with self._lock:
            new = {digest: new_number() for digest in dict.fromkeys(digests) if digest not in self._numbers}
            self._learn(_Line(numbers=new))
            return {digest: self._numbers[digest] for digest in digests}

    def subjects(self, patients: Sequence[str]) -> dict[str, Subject]:
        """Pseudonyms and date offsets, by the patient's entity key."""
        with self._lock:
            wanted = {key: one_gap(known) for key, known in self._at_home(patients).items()}
            new = {
                key: Subject("S" + new_number(), new_offset_days())
                for key in dict.fromkeys(wanted.values()) if key not in self._by_gap
            }  # fmt: skip
            self._learn(_Line(subjects=new))
            return {key: self._by_gap[one] for key, one in wanted.items()}

    def known_by(self, identity: Identity) -> Identity:
        """With its patients under the keys by which tables and other objects name them."""
        with self._lock:
            home = self._at_home(identity.of("patient"))
        return replace(identity, entities=tuple(dict.fromkeys(home.get(key, key) for key in identity.entities)))

    def _at_home(self, patients: Iterable[str]) -> dict[str, str]:
        wanted = list(dict.fromkeys(patients))
        claimed = claims(wanted)
        self._learn(_Line(homes={number: one for number, one in claimed.items() if number not in self._homes}))
        return at_home(wanted, self._homes)

    def keys(self, keys: Sequence[str]) -> dict[str, str]:
        """Replacements of cases, blocks and slides, by entity key."""
        with self._lock:
            new = {key: new_number() for key in dict.fromkeys(keys) if key not in self._keys}
            self._learn(_Line(keys=new))
            return {key: self._keys[key] for key in keys}

    def uids(self, uids: Sequence[str]) -> dict[str, str]:
        with self._lock:
            new = {uid: self._draw_uid() for uid in dict.fromkeys(uids) if uid not in self._uids}
            self._learn(_Line(uids=new))
            return {uid: self._uids[uid] for uid in uids}

    # -- what only this home needs

    def avoid(self, digits: Iterable[str]) -> None:
        """Runs of digits that new UIDs shall not hold. A UID is 39 random digits, so a ZIP code is found in one of
        3,000 by chance: it would say nothing of anybody, and make every search of the output doubtful."""
        with self._lock:
            self._avoided = tuple(dict.fromkeys(digits))[:AVOIDED]

    def _draw_uid(self) -> str:
        for _ in range(DRAWS):
            uid = new_uid()
            if not any(digits in uid for digits in self._avoided):
                break
        return uid

    def tie(self, digest: str, key: str) -> str:
        """The number of a scan whose slide key is known: a table that names the slide shows the same one, whichever
        of the two came first. A key that stands for another scan already keeps what it has."""
        with self._lock:
            number, known = self._numbers.get(digest), self._keys.get(key)
            if number is None:
                number = new_number() if known is None or known in self._used else known
            new_keys = {key: number} if known is None else {}
            new_numbers = {digest: number} if digest not in self._numbers else {}
            self._learn(_Line(numbers=new_numbers, keys=new_keys))
            return number

    def place(self, wanted: dict[str, str]) -> dict[str, str]:
        """Output names by source digest; one that has a name keeps it."""
        with self._lock:
            self._learn(_Line(places={digest: name for digest, name in wanted.items() if digest not in self._places}))
            return {digest: self._places[digest] for digest in wanted}

    def placed(self, digest: str) -> str | None:
        with self._lock:
            return self._places.get(digest)

    def names_below(self, folder: str) -> set[str]:
        """Names given in one folder of the output."""
        with self._lock:
            return set(self._folders.get(folder, ()))

    def folders(self) -> set[str]:
        """Folders of the output that are ours."""
        with self._lock:
            return {*self._used, *self._keys.values(), *self._folders}

    def pairs(self, what: Literal["uids", "patients"]) -> list[tuple[str, str]]:
        """Originals and what stands for them. A patient whom nobody named (`patient| …`) has no original."""
        with self._lock:
            if what == "uids":
                return list(self._uids.items())
            named = ((key.removeprefix("patient|"), one.pseudonym) for key, one in self._subjects.items())
            return [(name, pseudonym) for name, pseudonym in named if not name.startswith(" ")]

    def note_export(self, export: Export) -> None:
        """Durable before a map has its name."""
        with self._lock:
            self._learn(_Line(exports=(export,)))

    def superseded(self, files: Iterable[CrosswalkEntry]) -> list[str]:
        """Outputs that an earlier run made of files which this one did not let through."""
        now = tuple(files)
        made = {entry.output for entry in now}  # twins: one of two names may be refused
        refused = {entry.source: entry.source_blake3 for entry in now if entry.status != "deidentified"}
        return [
            one.output for one in self._earlier
            if one.output and one.output not in made
            and one.source in refused and refused[one.source] in (None, one.source_blake3)
        ]  # fmt: skip

    def save(self, files: Iterable[CrosswalkEntry], *, certificate: str = "", left_over: Sequence[str] = ()) -> None:
        """Replace the file; the journal has nothing more to say then. What earlier runs published of other sources
        stays listed before `files`: next month's folder must not make this month's names forgotten. So does what is
        `left_over` of these, until it is gone."""
        now = tuple(files)
        told = {(entry.source, entry.source_blake3) for entry in now}
        earlier = (
            entry for entry in self._earlier
            if entry.status == "deidentified"
            and ((entry.source, entry.source_blake3) not in told or entry.output in left_over)
        )  # fmt: skip
        whole = CrosswalkFile(
            files=(*earlier, *now), numbers=self._numbers, subjects=self._subjects, keys=self._keys, uids=self._uids,
            homes=self._homes, places=self._places, certificate=certificate or self.certificate, exports=self._exports,
        )  # fmt: skip
        write_private(self._path, msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n")
        self._journal_path.unlink(missing_ok=True)

    def __enter__(self) -> FileCrosswalk:
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1
        self._unlock()

    def _unlock(self) -> None:
        if self._guard >= 0:
            self._guard_path.unlink(missing_ok=True)
            os.close(self._guard)
            self._guard = -1

    # -- the file and its journal

    def _read_file(self) -> None:
        if not self._path.exists():
            return
        try:
            whole = msgspec.json.decode(self._path.read_bytes(), type=CrosswalkFile)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RequestInvalid(
                "the crosswalk file exists and is no crosswalk",
                hint="Name the one an earlier run wrote, or a new file.",
            ) from error
        except OSError as error:
            raise tier_error(error, of="the crosswalk") from error
        for entry in whole.files:
            if entry.number and entry.source_blake3 and is_number(entry.number) and not whole.numbers:
                self._take(_Line(source_blake3=entry.source_blake3, number=entry.number))
            if entry.output and entry.output_blake3:
                self.outputs[entry.output] = entry.output_blake3
        self._take(_Line(numbers=whole.numbers, subjects=whole.subjects, keys=whole.keys, uids=whole.uids))
        self._take(_Line(homes=whole.homes, places=whole.places, exports=whole.exports))
        self.certificate = whole.certificate
        self._earlier = whole.files

    def _read_journal(self) -> None:
        if not self._journal_path.exists():
            return
        for line in self._journal_path.read_bytes().splitlines():
            try:
                self._take(msgspec.json.decode(line, type=_Line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # the line a kill cut short: nothing of it was ever used

    def _learn(self, line: _Line) -> None:
        """Durable first, then known."""
        if line == _Line():
            return
        if len(self._uids) + len(self._places) + len(self._keys) > ENTRIES:
            raise LimitExceeded(f"a crosswalk of more than {ENTRIES} entries")
        if not self._dry:
            self._append(msgspec.json.encode(line) + b"\n")
        self._take(line)

    def _take(self, line: _Line) -> None:
        if line.source_blake3 and is_number(line.number):
            self._numbers[line.source_blake3] = line.number
        self._numbers |= line.numbers
        self._subjects |= line.subjects
        for key, subject in line.subjects.items():
            one = one_gap(key)
            self._by_gap[one] = subject if key == one else self._by_gap.get(one, subject)
        self._keys |= line.keys
        self._uids |= line.uids
        self._homes |= line.homes
        self._places |= line.places
        self._exports += line.exports
        self._used |= {line.number, *line.numbers.values()}
        for name in line.places.values():
            self._folders.setdefault(name.split("/")[0], set()).add(name)

    def _append(self, line: bytes) -> None:
        try:
            if self._journal < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self._journal = os.open(self._journal_path, flags, 0o600)
                sync_folder(self._journal_path.parent)
                if os.fstat(self._journal).st_size:
                    # a line that was cut short ends here, or it would swallow ours and the number with it
                    line = b"\n" + line
            append_synced(self._journal, line)
        except OSError as error:
            raise tier_error(error, of="the crosswalk") from error


def _lock(path: Path) -> int:
    """The lock's file goes with the run that has it; a lock of a file that went meanwhile holds nobody, and is taken
    anew. What a kill leaves is an empty file that nobody has locked."""
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise tier_error(error, of="the crosswalk") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except BlockingIOError as error:
            os.close(fd)
            raise Conflict(
                "another run uses this crosswalk", hint="Wait for it to end, or give this run a crosswalk of its own."
            ) from error
        except OSError as error:
            os.close(fd)
            raise tier_error(error, of="the crosswalk") from error
        os.close(fd)
