"""One slide of a place that claims to be clean: its files opened, digested, looked at and judged together.

A file of an object store is brought to a nameless file of this machine first, read once for its digest and for the
look: the confined child is given descriptors and no network. Everything here blocks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from mover import __version__
from mover.clock import SYSTEM, Clock
from mover.decide.adoption import CleanLook, Judged, judge_clean, together
from mover.decide.packs import FoundPack, Members, canonical_name, members_of, scan_digest, split_suffix
from mover.decide.survey import PlaceSeen, masked_key
from mover.deid.adoption import attributes_of, look_at_folder, look_at_objects, look_at_slide
from mover.deid.deidentify import MAX_FILES
from mover.deid.dicom import OBJECTS_PER_CALL, ObjectFacts
from mover.errors import ChangedWhileReading, EntryMissing, FormatUnsupported, PackAmbiguous, TierFull
from mover.ingest.facts import object_facts
from mover.ingest.publish import applied
from mover.model.policy import DeidPolicy
from mover.model.sidecar import Sidecar, SidecarFile
from mover.model.tiers import Digest, Fingerprint
from mover.sandbox import Sandbox
from mover.tiers.port import OpenEntry, ReadTier
from mover.tiers.staging import FileEntry
from mover.transfer import Transfer

SPARE_BYTES: Final = 1 << 30  # left free where objects are brought to
STEP_BYTES: Final = 8 << 20
OURS_NS: Final = 315_532_800 * 10**9  # the day that our own files bear: 1980-01-01
VERIFIER: Final = f"mover.adoption {__version__}"


class FileSeen(Struct, frozen=True):
    """One file with its verdict about exactly these bytes of it."""

    key: str
    seen: Fingerprint | None
    digest: Digest | None
    judged: Judged
    family: str = ""


class SlideSeen(Struct, frozen=True, kw_only=True):
    """A slide of one or many files. `sidecar` and `scan` are given for a clean one."""

    files: tuple[FileSeen, ...]
    scan: str = ""
    sidecar: Sidecar | None = None


class _Held(Struct, frozen=True):
    """A file as it was when it was digested, and what hangs on it."""

    key: str
    fd: int
    seen: Fingerprint
    digest: Digest
    attached: tuple[PlaceSeen, ...]


class Onlooker:
    def __init__(self, sandbox: Sandbox, transfer: Transfer, *, site: str, spool: Path, clock: Clock = SYSTEM) -> None:
        self._sandbox, self._transfer = sandbox, transfer
        self._site, self._spool, self._clock = site, spool, clock

    def look(self, tier: ReadTier, pack: FoundPack, *, below: str, trust_names: bool, number: str) -> SlideSeen:
        """`number` is what the slide will be called if it is clean."""
        members = members_of(pack.keys)
        try:
            held, looks = self._looked_at(tier, members)
        except (EntryMissing, ChangedWhileReading) as error:
            refused = Judged("refused", (PlaceSeen("file", "unknown", f"{error.code}: it changed under the look"),))
            return SlideSeen(files=tuple(FileSeen(key, None, None, refused) for key in members.files))
        judged = self._judge(members, held, looks, below=below, trust_names=trust_names)
        files = tuple(
            FileSeen(one.key, one.seen, one.digest, verdict, looks[at if len(looks) > 1 else 0].family)
            for at, (one, verdict) in enumerate(zip(held, judged, strict=True))
        )
        if files[0].judged.verdict != "clean":
            return SlideSeen(files=files)
        sidecar = _sidecar(members, held, looks, number=number, site=self._site, at=self._clock.now().isoformat())
        return SlideSeen(files=files, scan=scan_digest(members, [one.digest.blake3 for one in held]), sidecar=sidecar)

    # --- looking --------------------------------------------------------------------------------------------

    def _looked_at(self, tier: ReadTier, members: Members) -> tuple[list[_Held], list[CleanLook]]:
        """The files in the order of `members`; of DICOM objects a look at each, else one for all."""
        if members.kind != "dicom":
            return self._whole(tier, members)
        held: list[_Held] = []
        looks: list[CleanLook] = []
        for at in range(0, len(members.files), OBJECTS_PER_CALL):
            with self._held(tier, members.files[at : at + OBJECTS_PER_CALL]) as some:
                looks += look_at_objects(self._sandbox, [one.fd for one in some])
                held += some
        return held, looks

    def _whole(self, tier: ReadTier, members: Members) -> tuple[list[_Held], list[CleanLook]]:
        suffix = split_suffix(canonical_name(members.main))[1]
        if len(members.files) > MAX_FILES:
            told = CleanLook("", code=FormatUnsupported.code, what=f"a slide of more than {MAX_FILES} files")
            with self._held(tier, members.files[:1]) as some:
                return [replace(some[0], key=key) for key in members.files], [told]
        with self._held(tier, members.files) as held:
            fds = [one.fd for one in held]
            if members.kind == "file":
                return held, [look_at_slide(self._sandbox, fds[0], suffix=suffix)]
            folder, _, name = members.main.rpartition("/")
            names = [key.removeprefix(f"{folder}/") if folder else key for key in members.companions]
            number = name.rpartition(".")[0]
            return held, [look_at_folder(self._sandbox, fds, names=names, suffix=suffix, number=number)]

    @contextmanager
    def _held(self, tier: ReadTier, keys: Sequence[str]) -> Iterator[list[_Held]]:
        with ExitStack() as stack:
            opened = [stack.enter_context(tier.open(key)) for key in keys]
            held = [self._hold(tier, key, one, stack) for key, one in zip(keys, opened, strict=True)]
            yield held
            if any(one.fingerprint() != file.seen for one, file in zip(opened, held, strict=True)):
                raise ChangedWhileReading("a file changed while it was looked at")

    def _hold(self, tier: ReadTier, key: str, opened: OpenEntry, stack: ExitStack) -> _Held:
        seen = opened.fingerprint()
        attached: list[PlaceSeen] = []
        if isinstance(opened, FileEntry):
            fd = opened.fileno()
            # what is proved is what the device holds, as far as the cache can be asked to forget it
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            digest = self._transfer.digest(opened, segments=True, tier=tier.name)
            names = attributes_of(fd)
        else:
            fd = self._nameless(seen.size_bytes)
            stack.callback(os.close, fd)
            digest = self._transfer.digest_stream(_poured(opened, fd))
            names = tuple(getattr(opened, "attributes", tuple)())
        attached += [PlaceSeen("attribute of the file", "unknown", "it hangs on the file and stays there",
                               masked_key(name)) for name in names]  # fmt: skip
        return _Held(key, fd, seen, digest, tuple(attached))

    def _nameless(self, size_bytes: int) -> int:
        """A file that has no name: whatever ends us, nothing of it is left."""
        room = os.statvfs(self._spool)
        if room.f_bavail * room.f_frsize < size_bytes + SPARE_BYTES:
            raise TierFull("no room on this machine to bring an object to", where=self._spool.name,
                           hint="Free space below the state directory of the daemon.")  # fmt: skip
        return os.open(self._spool, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)

    # --- judging --------------------------------------------------------------------------------------------

    def _judge(
        self, members: Members, held: Sequence[_Held], looks: Sequence[CleanLook], *, below: str, trust_names: bool
    ) -> tuple[Judged, ...]:
        """A verdict for each file: of a slide of several, each has its own names and all have one content."""
        judged = []
        for at, file in enumerate(held):
            look = looks[at if members.kind == "dicom" else 0]
            name = file.key.removeprefix(below).lstrip("/")
            verdict = judge_clean(look, [name], trust_names=trust_names)
            if file.attached and verdict.verdict != "refused":
                verdict = Judged("suspect", (*verdict.reasons, *file.attached))
            judged.append(_with_time(verdict, file.seen))
        strange = _two_scans(looks) if members.kind == "dicom" else ""
        several = members.kind != "dicom" and looks[0].files
        needed = {place for place, _ in looks[0].files} if several else set(range(len(held)))
        return together(judged, needed=needed, strange=strange)


def _with_time(judged: Judged, seen: Fingerprint) -> Judged:
    """Told and not held against it: the day a file was written stays on its tier, whatever is made of the slide."""
    if seen.mtime_ns in (0, OURS_NS):
        return judged
    told = PlaceSeen("time of the file", "kept", "it stays on this tier; no run root has it")
    return replace(judged, reasons=(*judged.reasons, told))


def _two_scans(looks: Sequence[CleanLook]) -> str:
    """One patient, and of whole slides one series, as in a folder that is declared."""
    facts = [msgspec.convert(one.facts, type=ObjectFacts) for one in looks if not one.code]
    patients, series = {one.patient for one in facts}, {one.series for one in facts if one.family == "dicom-wsm"}
    if len(patients) > 1:
        return f"{PackAmbiguous.code}: objects of {len(patients)} patients lie in one folder"
    return f"{PackAmbiguous.code}: {len(series)} series of whole slides lie in one folder" if len(series) > 1 else ""


def _poured(opened: OpenEntry, fd: int) -> Iterator[bytes]:
    """The object's bytes as they come, each of them written to the file before it counts."""
    for at in range(0, opened.size_bytes, STEP_BYTES):
        data = opened.read(at, min(STEP_BYTES, opened.size_bytes - at))
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        yield data


# --- the sidecar --------------------------------------------------------------------------------------------


def _sidecar(
    members: Members, held: Sequence[_Held], looks: Sequence[CleanLook], *, number: str, site: str, at: str
) -> Sidecar:
    """Vouches for the files where they lie: keys are the broker's, names are what a run root calls them."""
    dicom = members.kind == "dicom"
    main, *rest = _objects(held, looks, number) if dicom else _files(members, held, looks[0], number)
    facts = _facts(looks) if dicom else looks[0].facts
    evidence = {
        "verifier": VERIFIER, "methods": ["de-identified as a source, and the same", "second look"],
        "files": [one.evidence for one in looks][:OBJECTS_PER_CALL], "adopted": True,
    }  # fmt: skip
    return Sidecar(
        number=number, site=site, family=facts.pop("family", looks[0].family), extension=looks[0].extension,
        key=main.key, size_bytes=main.size_bytes, blake3=main.blake3, segments=main.segments, literals=main.literals,
        facts=facts, evidence=evidence, created_at=at, software=f"mover {__version__}", files=tuple(rest),
        profile=applied(DeidPolicy(), dicom=dicom),
    )  # fmt: skip


def _files(members: Members, held: Sequence[_Held], look: CleanLook, number: str) -> list[SidecarFile]:
    """The main file and what else the slide needs; a stray file of its folder is none of it."""
    folder, _, name = members.main.rpartition("/")
    stem = name.rpartition(".")[0]
    made = []
    for place, besides in look.files:
        file = held[place]
        below = file.key.removeprefix(f"{folder}/") if folder else file.key
        called = f"{number}/{below.partition('/')[2]}" if below.startswith(f"{stem}/") else below
        made.append(_file(file, f"{number}.{look.extension}" if place == 0 else called, besides))
    return made


def _objects(held: Sequence[_Held], looks: Sequence[CleanLook], number: str) -> list[SidecarFile]:
    """In the order of objects that we make: whole slides begin with their largest level."""

    def order(at: int) -> tuple[str, int, str, int, str]:
        facts = msgspec.convert(looks[at].facts, type=ObjectFacts)
        return (facts.study, -facts.matrix_columns * facts.matrix_rows, facts.series, facts.instance_number,
                held[at].digest.blake3)  # fmt: skip

    made = []
    for place, at in enumerate(sorted(range(len(held)), key=order), start=1):
        name = f"{number}.dcm" if place == 1 else f"{number}-{place:04d}.dcm"
        made.append(_file(held[at], name, looks[at].files[0][1]))
    return made


def _file(file: _Held, name: str, besides: tuple[tuple[int, int], ...]) -> SidecarFile:
    return SidecarFile(
        name, file.key, file.digest.size_bytes, file.digest.blake3, file.digest.segments, literals=besides
    )


def _facts(looks: Sequence[CleanLook]) -> dict[str, Any]:
    objects = [msgspec.convert(one.facts, type=ObjectFacts) for one in looks]
    family = "dicom-wsm" if all(one.family == "dicom-wsm" for one in objects) else "dicom"
    return {**object_facts(objects, family=family), "family": family}
