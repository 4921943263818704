"""`mover audit verify FILE`: does a pack hold together? Asked of the file alone, by anybody, with no daemon.

What is checked: the signature over every line; the manifest and the root that the ready run promised; that every slide
of it was verified and de-identified (or adopted), by proofs that are there; that policies and certificates are what
their digests say; that every chain of the audit is whole from its first record, and fits the signed checkpoints. A
chain may begin later where a signed checkpoint in the file says that two people let the records before go; a pack of
such records is checked for exactly those that it says it holds.
The file carries its own public key: only a fingerprint that the reader knows from elsewhere makes it the site's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from blake3 import blake3
from msgspec import Struct

from mover import signing
from mover.audit.checkpoints import heads_of, losses_of, problems_of
from mover.decide.audit import Chain, Head, Link, Loss, is_lost
from mover.errors import StructureInvalid
from mover.model import auditpack as lines
from mover.model.amounts import counted
from mover.model.checkpoint import Restored, Retired, RetiredChain, SignedCheckpoint
from mover.model.manifest import parse_manifest

PROBLEMS_MAX = 100
READ_BYTES = 1 << 20
# what a reader of a pack looks for first: who was let at the data, and who said yes
_APPROVALS = ("approved", "granted", "agreed", "decided")

_LINE = msgspec.json.Decoder(lines.AnyLine)


class Checked(Struct, frozen=True, kw_only=True):
    """`problems` is empty when the pack is whole; `notes` are what it cannot show."""

    whole: bool
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    site: str = ""
    project: str = ""
    run: str = ""
    retirement: str = ""
    before: datetime | None = None
    ranges: tuple[RetiredChain, ...] = ()
    made_at: str = ""
    made_by: str = ""
    manifest_root: str = ""
    files: int = 0
    slides: int = 0
    lines: dict[str, int] = {}
    about_run: tuple[dict[str, Any], ...] = ()
    approvals: int = 0
    covered_until: datetime | None = None
    fingerprint: str = ""
    signers: tuple[str, ...] = ()
    trusted: bool = False


def check_pack(
    path: Path, *, trusted: Sequence[str] = (), certificate: Callable[[bytes], Sequence[str]] = lambda body: ()
) -> Checked:
    """Reads the file once. `trusted` are fingerprints known from elsewhere, `certificate` says what is wrong with a
    certificate's body. TierError where the file cannot be read; a file that is no pack is a problem, not an error."""
    check = _Check(trusted, certificate)
    try:
        for line in _lines(path):
            check.take(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, zstandard.ZstdError, StructureInvalid) as error:
        check.problem(f"line {check.count + 1}: not a line of an audit pack ({str(error)[:120]})")
    return check.finish()


def matching(
    path: Path, *, subject: str | None = None, actor: str | None = None, action: str | None = None,
    since: datetime | None = None, until: datetime | None = None,
) -> Iterator[tuple[lines.Record, dict[str, Any]]]:  # fmt: skip
    """The records of a pack that was checked, in its order, as the search of the catalog takes them: `action` is its
    first words, times are half open."""
    for text in _lines(path):
        line = _LINE.decode(text)
        if not isinstance(line, lines.Record):
            continue
        body = msgspec.json.decode(line.body)
        wanted = subject in (None, body.get("subject")) and actor in (None, body.get("actor"))
        if wanted and str(body.get("action", "")).startswith(action or "") \
                and (since is None or line.at >= since) and (until is None or line.at < until):  # fmt: skip
            yield line, body


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
        rest = b""
        while piece := reader.read(READ_BYTES):
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
            if len(rest) > lines.LINE_MAX:
                raise StructureInvalid("a line is longer than any of a pack")
        if rest:
            raise StructureInvalid("the last line has no end")


class _Check:
    def __init__(self, trusted: Sequence[str], certificate: Callable[[bytes], Sequence[str]]) -> None:
        self.count = 0
        self._trusted, self._certificate = tuple(trusted), certificate
        self._problems: list[str] = []
        self._hash = blake3()
        self._counts: Counter[str] = Counter()
        self._head: lines.Head | None = None
        self._run: lines.Run | None = None
        self._range: lines.Range | None = None
        self._end: lines.End | None = None
        self._manifest: list[str] = []
        self._slides: dict[str, lines.Slide] = {}
        self._proofs: dict[str, tuple[str, str]] = {}
        self._chains: dict[str, Chain] = {}
        self._checkpoints: list[SignedCheckpoint] = []
        self._losses: list[Loss] = []
        self._restored: list[tuple[int, Restored]] = []
        self._retired: list[tuple[int, Retired]] = []
        self._accepted: list[tuple[object, object]] = []
        self._ends: frozenset[tuple[str, int]] | None = None
        self._stamps: dict[tuple[str, int], datetime] = {}
        self._about: list[dict[str, Any]] = []
        self._approvals = 0

    def problem(self, what: str) -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(what)

    def take(self, text: bytes) -> None:
        line = _LINE.decode(text)
        self.count += 1
        if self._end is not None:
            self.problem(f"line {self.count:,} stands after the signed end")
            return
        if (self.count == 1) != isinstance(line, lines.Head):
            self.problem("the first line, and no other, says what the file is")
        self._counts[str(type(line).__struct_config__.tag)] += 1
        if isinstance(line, lines.End):
            self._end = line
            self._about_end(line)
            return
        self._hash.update(text + b"\n")
        self._keep(line)

    def _keep(self, line: lines.AnyLine) -> None:
        match line:
            case lines.Head():
                self._head = self._head or line
            case lines.Run():
                if self._run is not None or self._range is not None:
                    self.problem("there are two runs")
                self._run = line
            case lines.Range():
                if self._run is not None or self._range is not None or self.count != 2:
                    self.problem("what a pack is about stands once, and second")
                self._range = line
            case lines.ManifestLine(text=text):
                self._manifest.append(text)
            case lines.Slide():
                self._slides[line.number] = line
            case lines.Proof():
                self._proofs[line.id] = (line.of, line.root)
            case lines.Policy():
                if blake3(line.text.encode()).hexdigest() != line.digest:
                    self.problem(f"policy {line.name}: its text is not what its digest says")
            case lines.Certificate():
                self._about_certificate(line)
            case lines.Checkpoint():
                self._about_checkpoint(line)
            case lines.Record():
                self._about_record(line)

    # --- parts -------------------------------------------------------------------------------------------

    def _about_end(self, end: lines.End) -> None:
        digest = self._hash.hexdigest()
        if (end.lines, end.blake3) != (self.count - 1, digest):
            self.problem(
                "the lines are not those that were signed: "
                + ("one of them or more says something else" if end.lines == self.count - 1 else
                   f"{end.lines:,} were signed, {self.count - 1:,} stand here")
            )  # fmt: skip
        for what in signing.problems_of(end.signature, lines.signed_bytes(end.lines, end.blake3)):
            self.problem(what)

    def _about_certificate(self, line: lines.Certificate) -> None:
        body = line.body.encode()
        if blake3(body).hexdigest() != line.digest:
            self.problem(f"certificate of {line.batch}: not what its digest says")
        for what in self._certificate(body):
            self.problem(f"certificate of {line.batch}: {what}")

    def _about_checkpoint(self, line: lines.Checkpoint) -> None:
        body = line.body.encode()
        found = problems_of(body)
        for what in found:
            self.problem(f"a checkpoint: {what}")
        if not found:
            signed = msgspec.json.decode(body, type=SignedCheckpoint)
            expected = self._checkpoints[-1].checkpoint.n + 1 if self._checkpoints else 1
            if signed.checkpoint.n != expected:
                self.problem(f"checkpoint {expected} is not there")
            if self._head is not None and signed.checkpoint.project != self._head.project:
                self.problem(f"checkpoint {signed.checkpoint.n} is another project's")
            self._checkpoints.append(signed)
            if isinstance(restored := signed.checkpoint.restored, Restored):
                self._losses += losses_of(signed.checkpoint.n, restored)
                self._restored.append((signed.checkpoint.n, restored))
            if isinstance(retired := signed.checkpoint.retired, Retired):
                self._retired.append((signed.checkpoint.n, retired))
            if self._chains:
                self.problem("a checkpoint stands after the records")

    def _about_record(self, line: lines.Record) -> None:
        if line.node not in self._chains:
            self._chains[line.node] = self._chain(line.node)
        project = self._head.project if self._head else ""
        link = Link(
            project=project, node=line.node, seq=line.seq, at=line.at, body=line.body,
            prev=bytes.fromhex(line.prev), hash=bytes.fromhex(line.hash),
        )  # fmt: skip
        self._chains[line.node].add(link)
        if (line.node, line.seq) in self._last_ends():
            self._stamps[line.node, line.seq] = line.at
        body = msgspec.json.decode(line.body)
        if body.get("action") == "audit restore accepted":
            self._accepted.append((body.get("subject"), body.get("details", {}).get("lost")))
        if body.get("action") == "audit retirement approved":
            self._accepted.append((body.get("subject"), body.get("details", {}).get("pack")))
        held = self._held(line.node)
        if self._range is not None and (held is None or line.seq > held.upto or line.at >= self._range.before):
            self.problem(f"record {line.node}/{line.seq} is none of those that the pack is to hold")
        self._approvals += str(body.get("action", "")).endswith(_APPROVALS)
        if self._run is not None and body.get("subject") == self._run.id and len(self._about) < 10_000:
            self._about.append({"at": line.at, "record": f"{line.node}/{line.seq}", **body})

    def _chain(self, node: str) -> Chain:
        """Anchors beyond what a pack of retired records holds are about others."""
        held = self._held(node)
        anchors = [
            head for one in self._checkpoints for head in heads_of(one.checkpoint)
            if head.node == node and not is_lost(self._losses, one.checkpoint.n, head)
            and (held is None or head.seq <= held.upto)
        ]  # fmt: skip
        return Chain(anchors=anchors, retired=self._base(node))

    def _base(self, node: str) -> Head | None:
        """The last record of a chain that two people let go, by the signed checkpoints; what a restore took back with
        the checkpoint that says so is not said."""
        known = [
            end for n, one in self._standing() for end in one.chains if end.node == node
            and (self._range is None or end.upto <= (held.after if (held := self._held(node)) else 0))
        ]  # fmt: skip
        last = max(known, key=lambda end: end.upto, default=None)
        return None if last is None else Head("", node, last.upto, bytes.fromhex(last.hash))

    def _standing(self) -> list[tuple[int, Retired]]:
        """Statements that no restore took back."""
        return [
            (n, one) for n, one in self._retired
            if not any(later.after < n < m for m, later in self._restored)
        ]  # fmt: skip

    def _held(self, node: str) -> RetiredChain | None:
        return next((one for one in self._range.chains if one.node == node), None) if self._range else None

    def _last_ends(self) -> frozenset[tuple[str, int]]:
        """Of the last checkpoint, which stands before every record."""
        if self._ends is None:
            last = self._checkpoints[-1].checkpoint.heads if self._checkpoints else ()
            self._ends = frozenset((end.node, end.seq) for end in last)
        return self._ends

    # --- the whole -----------------------------------------------------------------------------------------

    def finish(self) -> Checked:
        if self._end is None:
            ended = f"after line {self.count:,}" if self.count else "before its first line, or is no audit pack"
            self.problem(f"the signed end is not there: the file was cut off {ended}")
        files, notes = 0, list[str]()
        if self._range is None:
            files = self._about_manifest()
            notes += self._about_slides()
        for node, one in self._chains.items():
            last = Head("", node, one.last_seq, one.last_hash)
            for link in one.finish(last):
                self.problem(f"record {node}/{link.seq}: {link.problem}, {link.reason}")
        if self._range is None:
            self._about_absent()
            notes += [*self._about_restores(), *self._about_retirements(), *self._about_cover()]
        else:
            self._about_range(self._range)
        signers = tuple(sorted({signed.signature.fingerprint for signed in self._checkpoints}))
        fingerprint = self._end.signature.fingerprint if self._end else ""
        is_trusted = bool(fingerprint) and signing.same_key(fingerprint, self._trusted)
        if self._trusted and not is_trusted:
            self.problem("signed with a key that is not one you trust")
        for signer in signers:
            if self._trusted and not signing.same_key(signer, self._trusted):
                self.problem(f"a checkpoint is signed with a key that is not one you trust: {signer}")
        head, run = self._head, self._run
        return Checked(
            whole=not self._problems, problems=tuple(self._problems), notes=tuple(notes),
            site=head.site if head else "", project=head.project if head else "", run=head.run if head else "",
            retirement=self._range.id if self._range else "", before=self._range.before if self._range else None,
            ranges=self._range.chains if self._range else (),
            made_at=head.made_at if head else "", made_by=head.made_by if head else "",
            manifest_root=(run.manifest_root if run else None) or "", files=files, slides=len(self._slides),
            lines=dict(self._counts), about_run=tuple(self._about), approvals=self._approvals,
            covered_until=self._covered(), fingerprint=fingerprint, signers=signers, trusted=is_trusted,
        )  # fmt: skip

    def _about_manifest(self) -> int:
        """How many files; each must be one of its slide's, and the root the one that the proof of `ready` has."""
        run = self._run
        if run is None or self._head is None or run.id != self._head.run:
            self.problem("the run that the pack is about is not there")
            return 0
        try:
            manifest = parse_manifest("".join(f"{line}\n" for line in self._manifest).encode())
        except (StructureInvalid, ValueError) as error:
            self.problem(f"the manifest: {getattr(error, 'what', 'it does not parse')}")
            return 0
        root = manifest.header.root
        if root != run.manifest_root or manifest.header.run != run.id:
            self.problem("the manifest is not the run's")
        ready = self._proofs.get(run.proofs.get("ready") or "")
        if ready != ("ready", root):
            self.problem("the run has no proof that its root was ready with this manifest")
        for entry in manifest.entries:
            slide = self._slides.get(entry.slide) if entry.slide else None
            if entry.slide and (slide is None or entry.blake3 not in slide.digests):
                self.problem(f"{entry.path}: its digest is not one of slide {entry.slide}")
        return manifest.header.count

    def _about_slides(self) -> Iterator[str]:
        elsewhere = 0
        for slide in self._slides.values():
            for kind, ids in slide.proofs.items():
                if not any(self._proofs.get(id, ("", ""))[0] == kind for id in ids):
                    self.problem(f"slide {slide.number}: its proof of {kind} is not there")
            decided = slide.proofs.keys() >= {"verified", "deidentified"} or "adopted" in slide.proofs
            if slide.granted and not decided:
                elsewhere += 1
            elif not decided:
                self.problem(f"slide {slide.number}: nothing proves it verified and de-identified, or adopted")
        if elsewhere:
            yield f"{counted(elsewhere, 'slide')} published in another project, which has their proofs"

    def _about_absent(self) -> None:
        bases: dict[str, Head | None] = {}
        for signed in self._checkpoints:
            for end in heads_of(signed.checkpoint):
                if end.node in self._chains:
                    continue
                if end.node not in bases:
                    bases[end.node] = self._base(end.node)
                base = bases[end.node]
                if not is_lost(self._losses, signed.checkpoint.n, end) and (base is None or end.seq > base.seq):
                    self.problem(f"checkpoint {signed.checkpoint.n}: the chain of {end.node} is not there")

    def _about_range(self, held: lines.Range) -> None:
        """Each chain begins and ends where the pack says, and a signed checkpoint covers it."""
        newest = {end.node: end.seq for end in self._checkpoints[-1].checkpoint.heads} if self._checkpoints else {}
        for one in held.chains:
            found = self._chains.get(one.node)
            if found is None or found.records != one.upto - one.after or found.last_seq != one.upto:
                self.problem(f"records {one.after + 1} to {one.upto} of {one.node} are not all there")
            elif found.last_hash.hex() != one.hash:
                self.problem(f"record {one.node}/{one.upto} is not the one that was to be the last")
            if newest.get(one.node, 0) < one.upto:
                self.problem(f"no checkpoint covers record {one.node}/{one.upto}")
        if self._counts.keys() - {"pack", "range", "checkpoint", "record", "end"}:
            self.problem("beside the records stand lines that belong to a run")

    def _about_retirements(self) -> Iterator[str]:
        """Each is told with its pack; its record stands here, or left with those of a later one."""
        standing = self._standing()
        carried = {id for _, one in standing for id in one.carried}
        for n, one in standing:
            if (one.id, one.pack) not in self._accepted and one.id not in carried:
                self.problem(f"checkpoint {n} tells of a retirement that no record tells of")
            chains = ", ".join(f"{part.node} {part.after + 1} to {part.upto}" for part in one.chains)
            by = f"{one.asked_by} and {one.approved_by}"
            yield f"older records stand in a pack with the digest {one.pack} (agreed by {by}): {chains}"

    def _about_restores(self) -> Iterator[str]:
        """Told for ever. One whose record was itself lost by a later one is told with that."""
        said = [
            (one.checkpoint.n, one.checkpoint.at, one.checkpoint.restored)
            for one in self._checkpoints if isinstance(one.checkpoint.restored, Restored)
        ]  # fmt: skip
        for n, at, one in said:
            if any(later.after < n < m for m, _, later in said):
                continue
            lost = [msgspec.structs.asdict(part) for part in one.lost]
            carried = any(one.id in later.carried for _, later in self._standing())
            if (one.id, lost) not in self._accepted and not carried:
                self.problem(f"checkpoint {n} tells of a restore that no record tells of")
            chains = ", ".join(f"{part.node} {part.kept + 1} to {part.upto}" for part in one.lost) or "none"
            by = f"{one.asked_by} and {one.approved_by}"
            yield f"the catalog was restored (said {at} by {by}); records lost: {chains}"

    def _covered(self) -> datetime | None:
        """Until when every chain is covered by the last checkpoint."""
        if not self._checkpoints:
            return None
        ends = self._checkpoints[-1].checkpoint.heads
        stamps = [self._stamps[end.node, end.seq] for end in ends if (end.node, end.seq) in self._stamps]
        return max(stamps, default=None)

    def _about_cover(self) -> Iterator[str]:
        if not self._checkpoints:
            yield "no checkpoint covers the records: whoever owned the database could have written them all anew"
            return
        ends = {end.node: end.seq for end in self._checkpoints[-1].checkpoint.heads}
        later = sum(one.last_seq - ends.get(node, 0) for node, one in self._chains.items())
        if later > 0:
            yield f"{counted(later, 'record')} at the end, younger than the last checkpoint"
