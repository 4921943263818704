"""What runs in the parsing child for data that claims to be clean: each file is planned and proved as a source would
be, by stand-ins that are what it says already, and then looked at once more as it stands (`decide.adoption`).

A file that our output equals byte for byte is proved by that. Of any other, what no tile or pixel copy brought is taken
as if it had been written by us, and the second look must pass on it: no byte outside of what its lists allow. The
answers hold what an object calls its patient; they travel over a socket pair between two of our own processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from pydicom.datadict import keyword_for_tag

from mover.decide.adoption import PLACES_MAX, CleanLook
from mover.decide.dicom.tables import registered
from mover.decide.survey import PlaceSeen
from mover.deid.child import FdSource
from mover.deid.dicom.gather import Gatherer, Look, survey_of
from mover.deid.dicom.outcome import ObjectEvidence, ObjectPlan
from mover.deid.dicom.plan import Engine
from mover.deid.dicom.verify import Proof, Verifier
from mover.deid.dicom.write import file_head
from mover.deid.folders import plan_mirax, plan_vms, slide_id_of
from mover.deid.identity import Aliases, Subject, entity_key
from mover.deid.outcome import SlidePlan
from mover.deid.pixels import Span
from mover.deid.slides import plan_slide
from mover.deid.survey_child import family_of, places_of
from mover.deid.verify import verify_slide
from mover.errors import FormatUnsupported, IdentityError, IntegrityError, LimitExceeded, RedactionUnproven
from mover.model.deid import DicomRules, PixelRules
from mover.model.dicom import Element, Items
from mover.model.recipe import Copy, Literal, Recipe, compact
from mover.model.source import ByteSource
from scanners import mirax, vms
from scanners.dicom.walk import read_object

_REFUSALS: Final = (IdentityError, IntegrityError, LimitExceeded)
STEP_BYTES: Final = 4 << 20
STANDING_BYTES: Final = 256 << 20  # of a file, besides its tiles; more is no structure
_META: Final = frozenset({0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013})
# what an object says about its de-identification, and what goes with it: never somebody's
_STATEMENTS: Final = frozenset({0x00120062, 0x00120063, 0x00120064, 0x00280301, 0x00280303})
_REMOVED, _METHOD, _MODIFIED = 0x00120062, 0x00120063, 0x00280303
_CALLED: Final = ((0x00080050, "case"), (0x00400512, "slide"))

Ranges = tuple[tuple[int, int], ...]


# --- slides --------------------------------------------------------------------------------------------


def slide(fd: int, suffix: str) -> bytes:
    """A slide of one file."""
    source = FdSource(fd)
    return _answer(lambda: _slide(source, suffix), lambda: family_of(source, suffix))


def _slide(source: ByteSource, suffix: str) -> CleanLook:
    plan = plan_slide(source, suffix=suffix)
    evidence = verify_slide(source, plan)
    same = _same(source, plan.recipe)
    return msgspec.structs.replace(
        _look(plan, same=same, sources=[source]),
        standing="" if same else _standing(lambda: verify_slide(source, _as_it_stands(source, plan))),
        evidence={**msgspec.to_builtins(evidence), "equal": same},
    )


def folder(*given: object) -> bytes:
    """A slide of several files: descriptors of the main file and the others, their names, suffix, and the number by
    which it may have been made."""
    *fds, names, suffix, number = given
    sources = [FdSource(fd) for fd in fds if isinstance(fd, int)]
    files = dict(zip(msgspec.convert(names, type=list[str]), sources[1:], strict=True))
    look = partial(_folder, sources[0], files, str(suffix).lower(), str(number))
    return _answer(look, lambda: family_of(sources[0], str(suffix)))


def _folder(main: ByteSource, files: Mapping[str, ByteSource], suffix: str, number: str) -> CleanLook:
    """Such a slide has its id in many places and its parts by name: with the id and the names it has already, all
    must be the same, or it is nobody's work that we know."""
    called: tuple[str, ...] = ()
    if vms.is_mine(main):
        plan = plan_vms(main, files, vms.scan(main, files), known=(), number=number)
    elif mirax.is_mine(suffix, files):
        scan = mirax.scan(main, files)
        plan = plan_mirax(main, files, scan, known=(), number=number, standing_id=scan.slide_id)
        called = () if scan.slide_id == slide_id_of(number) else (scan.slide_id,)
    else:
        raise FormatUnsupported("a slide of several files that no writer exists for")
    sources = [main, *files.values()]
    names = ["", *files]
    same = all(
        _same(sources[file.source], file.recipe) and _is_called(file.path(number or "slide"), names[file.source], plan)
        for file in plan.files()
    )
    standing = "" if same else "its files would be written otherwise"
    return msgspec.structs.replace(
        _look(plan, same=same, sources=sources), standing=standing, called=called,
        evidence={"verifier": "mover-folders/adopted", "equal": same, "tiles": plan.tile_count},
    )  # fmt: skip


def _is_called(path: str, name: str, plan: SlidePlan) -> bool:
    """Whether the file has the name by which the others find it. A 3DHISTECH slide's folder is called as its main file,
    which nothing names."""
    return not name or (path.rpartition("/")[2] == name.rpartition("/")[2] if plan.family == "mirax" else path == name)


def _look(plan: SlidePlan, *, same: bool, sources: Sequence[ByteSource]) -> CleanLook:
    facts = msgspec.to_builtins(plan.facts)
    places = tuple(one for one in places_of(plan.decisions, every=True) if one.fate != "kept")[: 4 * PLACES_MAX]
    return CleanLook(
        plan.family, same=same, removed=len(plan.removed), places=places, extension=plan.extension,
        facts={**facts, "levels": len(plan.facts.levels), "level_sizes": facts["levels"]},
        files=tuple((file.source, _besides(file.recipe, sources[file.source].size_bytes)) for file in plan.files()),
    )  # fmt: skip


# --- DICOM objects -------------------------------------------------------------------------------------


def objects(*fds: int) -> bytes:
    """Each object by itself; one that is refused spoils no other."""
    return msgspec.msgpack.encode([_guarded(partial(_object, FdSource(fd)), lambda: "DICOM") for fd in fds])


def _object(source: ByteSource) -> CleanLook:
    look = Look(source, read_object(source))
    survey = survey_of(look, Gatherer())
    engine = _Adopter(
        aliases=Aliases(
            subjects={look.patient: Subject(look.decoded(0x00100020) or look.decoded(0x00100010), 0)},
            keys=_as_they_are(look), uids={uid: uid for uid in survey.identity.uids},
        ),
        rules=DicomRules(), pixels=PixelRules(),
    )  # fmt: skip
    made = engine.prepare(source)
    same = _same(source, made.plan.recipe)
    return CleanLook(
        survey.family,
        same=same,
        standing="" if same else _standing(lambda: engine.again(source)),
        places=() if same else tuple(_lost(look, source, made.plan))[: 4 * PLACES_MAX],
        called=tuple(_called(look)),
        vouched=tuple(_vouched(look, survey.identity.uids)),
        extension="dcm",
        facts=msgspec.to_builtins(made.plan.facts),
        evidence={**msgspec.to_builtins(made.evidence), "equal": same},
        files=((0, _besides(made.plan.recipe, source.size_bytes)),),
    )


class _Adopter(Engine):
    """Keeps what its own second look was told, to look at the object as it stands in the same way."""

    def __init__(self, *, aliases: Aliases, rules: DicomRules, pixels: PixelRules) -> None:
        super().__init__(aliases=aliases, rules=rules, pixels=pixels)
        self._verifier = self._kept = _Remembering(rules)

    def again(self, source: ByteSource) -> ObjectEvidence:
        plan, proof, look = self._kept.last, self._kept.proof, self._look
        assert look is not None
        return Verifier(self._rules).verify(source, _dataset_as_it_stands(source, look, plan), proof)


class _Remembering(Verifier):
    last: ObjectPlan
    proof: Proof

    def verify(self, source: ByteSource, plan: ObjectPlan, proof: Proof) -> ObjectEvidence:
        self.last, self.proof = plan, proof
        return super().verify(source, plan, proof)


def _dataset_as_it_stands(source: ByteSource, look: Look, plan: ObjectPlan) -> ObjectPlan:
    """The dataset as it is, behind file meta information of ours: what stands there is the transport's, and names the
    program that wrote the file (`_lost` holds it against its list)."""
    length = next((one for one in look.scan.meta if one.tag == 0x00020000), None)
    if length is None or length.raw is None or look.scan.inflated is not None:
        raise RedactionUnproven("a dataset that does not stand by itself")
    start = length.value_at + length.length + int.from_bytes(length.raw, "little")
    stands: Recipe = _as_it_stands(source, plan).recipe
    segments: list[Copy | Literal] = [Literal(file_head(look.sop_class, look.instance, look.scan.syntax))]
    at = 0
    for one in stands.segments:
        skipped = min(one.length, max(0, start - at))
        at += one.length
        rest = (
            Literal(one.data[skipped:])
            if isinstance(one, Literal)
            else Copy(one.offset + skipped, one.length - skipped)
        )
        segments.append(rest)
    return msgspec.structs.replace(plan, recipe=compact(source.size_bytes, segments))


def _as_they_are(look: Look) -> dict[str, str]:
    found = {entity_key(kind, text): text for tag, kind in _CALLED if (text := look.decoded(tag))}  # type: ignore[arg-type]
    return found | {entity_key("block", text): text for text in look.specimens()}


def _called(look: Look) -> Iterator[str]:
    """By what the object calls people and things of theirs, each of which may be an original; and what another tool
    says of itself in words of its own."""
    yield from (look.decoded(0x00100020), look.decoded(0x00100010), *_as_they_are(look).values())
    method = look.text(_METHOD)
    version = b"".join(one.raw or b"" for one in look.scan.meta if one.tag == 0x00020013).decode("latin-1").strip(" \0")
    yield from (text for text, own in ((method, "PS3.15 E.1"), (version, "MOVER")) if not text.startswith(own))


def _vouched(look: Look, uids: Sequence[str]) -> Iterator[PlaceSeen]:
    """What only who made the object can know: that it was de-identified at all, that its days were moved, and that
    its UIDs are not the ones the hospital knows."""
    if look.text(_REMOVED) != "YES":
        yield PlaceSeen("(0012,0062) PatientIdentityRemoved", "unknown", "it does not say that it was de-identified")
    if look.text(_MODIFIED) not in ("MODIFIED", "REMOVED") and any(_is_day(one) for one in look.scan.elements):
        yield PlaceSeen(
            "(0028,0303) LongitudinalTemporalInformationModified", "unknown", "it has days, and does not say they moved"
        )
    own = sum(uid not in registered() and not uid.startswith("2.25.") for uid in uids)
    if own:
        yield PlaceSeen("UIDs", "unknown", "UIDs of an organisation, which may be the original ones", "", own)


def _is_day(element: Element) -> bool:
    return element.vr in ("DA", "DT") and bool((element.raw or b"").strip(b" \0"))


def _lost(look: Look, source: ByteSource, plan: ObjectPlan) -> Iterator[PlaceSeen]:
    """Where our output would differ, by tag; sequences item by item."""
    if look.scan.preamble.strip(b"\0"):
        yield PlaceSeen("preamble", "dropped", "it is not empty")
    if look.scan.trailing_bytes:
        yield PlaceSeen("bytes behind the dataset", "dropped", "nothing refers to them")
    for one in look.scan.meta:
        if one.tag not in _META:
            yield PlaceSeen(_named(one.tag), "dropped", "file meta information that may not stand")
    output = _Standing(source, plan.recipe)
    ours = Look(output, read_object(output))
    if not _same_pixels(look, ours):
        yield PlaceSeen("pixels", "rewritten", "pixels or their headers would not stay as they are")
    found: Counter[PlaceSeen] = Counter(_differ(look, look.scan.elements, ours, ours.scan.elements))
    yield from (msgspec.structs.replace(place, times=times) for place, times in found.items())


def _differ(look: Look, before: tuple[Element, ...], ours: Look, after: tuple[Element, ...]) -> Iterator[PlaceSeen]:
    kept = {one.tag: one for one in after}
    for one in before:
        if one.tag in _STATEMENTS:
            continue
        other = kept.get(one.tag)
        if other is None:
            yield PlaceSeen(_named(one.tag), "dropped", "it may not stand in an object of this class")
        elif look.is_sequence(one) and ours.is_sequence(other):
            yield from _differ_items(look, look.items(one), ours, ours.items(other))
        elif _value(look, one) != _value(ours, other):
            yield PlaceSeen(_named(one.tag), "rewritten", "its value would not stay as it is")


def _differ_items(look: Look, before: Items, ours: Look, after: Items) -> Iterator[PlaceSeen]:
    if len(before) != len(after):
        yield PlaceSeen("items of a sequence", "dropped", "they may not stand in an object of this class")
    for one, other in zip(before, after, strict=False):
        yield from _differ(look, one, ours, other)


def _value(look: Look, element: Element) -> bytes:
    raw = element.raw if element.raw is not None else look.fetch(element)
    return raw.rstrip(b" \0")


def _same_pixels(look: Look, ours: Look) -> bool:
    """Frame by frame; what pads a value or an item is nobody's."""
    before, after = look.frames(), ours.frames()
    if len(before) != len(after):
        return False
    return all(_bytes_of(look, one) == _bytes_of(ours, other) for one, other in zip(before, after, strict=True))


def _bytes_of(look: Look, frame: tuple[Span, ...]) -> bytes:
    return b"".join(look.source.read(span.offset, span.length) for span in frame).rstrip(b"\0")


def _named(tag: int) -> str:
    group = tag >> 16
    if group & 1:
        return f"private group {group:04X}"
    return f"({group:04X},{tag & 0xFFFF:04X}) {keyword_for_tag(tag) or 'of no standard'}"


# --- as it stands --------------------------------------------------------------------------------------


def _answer(look: Callable[[], CleanLook], family: Callable[[], str]) -> bytes:
    return msgspec.msgpack.encode(_guarded(look, family))


def _guarded(look: Callable[[], CleanLook], family: Callable[[], str]) -> CleanLook:
    try:
        return look()
    except _REFUSALS as refusal:
        return CleanLook(family(), code=refusal.code, what=refusal.what)


def _standing(look: Callable[[], object]) -> str:
    try:
        look()
    except _REFUSALS as refusal:
        return refusal.what
    return ""


def _besides(recipe: Recipe, size_bytes: int) -> Ranges:
    """The ranges of the source that no copy of the recipe takes: what is searched when records arrive."""
    found, at = [], 0
    for start, end in sorted((one.offset, one.offset + one.length) for one in recipe.segments if isinstance(one, Copy)):
        if start > at:
            found.append((at, start - at))
        at = max(at, end)
    return (*found, (at, size_bytes - at)) if at < size_bytes else tuple(found)


def _as_it_stands(source: ByteSource, plan: Any) -> Any:
    """The plan of a file that is the source: its tiles are copies, all else as if it had been written by us."""
    besides = _besides(plan.recipe, source.size_bytes)
    if sum(length for _, length in besides) > STANDING_BYTES:
        raise RedactionUnproven("more than a structure stands beside its tiles")
    segments: list[Copy | Literal] = []
    at = 0
    for start, length in besides:
        segments += [Copy(at, start - at), Literal(source.read(start, length))]
        at = start + length
    segments.append(Copy(at, source.size_bytes - at))
    return msgspec.structs.replace(plan, recipe=compact(source.size_bytes, segments))


class _Standing:
    """A recipe's output, for a parser."""

    def __init__(self, source: ByteSource, recipe: Recipe) -> None:
        self._source, self._placed = source, list(recipe.placed())
        self.size_bytes = recipe.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        found, end = [], offset + length
        for one in self._placed:
            start, stop = max(offset, one.at), min(end, one.at + one.segment.length)
            if start >= stop:
                continue
            if isinstance(one.segment, Literal):
                found.append(one.segment.data[start - one.at : stop - one.at])
            else:
                found.append(self._source.read(one.segment.offset + start - one.at, stop - start))
        return b"".join(found)


def _same(source: ByteSource, recipe: Recipe) -> bool:
    """Is the recipe's output the source, byte for byte? What is copied to its own place need not be read."""
    if recipe.size_bytes != source.size_bytes:
        return False
    at = 0
    for segment in recipe.segments:
        if isinstance(segment, Literal):
            if source.read(at, segment.length) != segment.data:
                return False
        elif segment.offset != at and not _alike(source, segment.offset, at, segment.length):
            return False
        at += segment.length
    return True


def _alike(source: ByteSource, one: int, other: int, length: int) -> bool:
    for start in range(0, length, STEP_BYTES):
        size = min(STEP_BYTES, length - start)
        if source.read(one + start, size) != source.read(other + start, size):
            return False
    return True
