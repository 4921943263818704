"""Make a DICOM object's recipe: look, gather words, judge each element, write anew, prove.

An `Engine` serves many objects of one call. Objects of a series say nearly the same, so what was judged and encoded
once for one context (patient, class, study, words) is not judged again for the same bytes: that, and a walk that never
reads pixels, is what makes this fast.
"""

from __future__ import annotations

from itertools import chain
from typing import Final

from msgspec import Struct

from mover.decide.dicom.desk import REASONS, Context, Desk, Out, creators_of
from mover.decide.dicom.harvest import Words
from mover.decide.dicom.rules import REFUSED_CLASSES
from mover.decide.dicom.tables import class_name, registered
from mover.decide.dicom.values import even, seconds_of
from mover.deid.dicom.gather import Gatherer, Look
from mover.deid.dicom.optics import optics_of
from mover.deid.dicom.outcome import ObjectFacts, ObjectPlan, PreparedObject
from mover.deid.dicom.proof import Picture, Proof
from mover.deid.dicom.sought import search_of
from mover.deid.dicom.verify import Verifier
from mover.deid.dicom.write import Writer, file_head
from mover.deid.identity import Aliases, Subject, entity_key
from mover.deid.pixels import PixelFacts, PixelVerdict, Span, judge_pixels
from mover.errors import FormatUnsupported, InstanceDropped, PlaceUnknown, StructureInvalid
from mover.model.deid import DicomRules, PixelRules
from mover.model.dicom import PIXEL_DATA, Element, Items, ObjectScan
from mover.model.recipe import Literal, Segment, compact
from mover.model.slides import Decision
from mover.model.source import ByteSource
from scanners.dicom.walk import BIG_ENDIAN, EXPLICIT, IMPLICIT, read_object

CONTEXTS: Final = 64
MEMO: Final = 20_000
_NATIVE: Final = frozenset({BIG_ENDIAN, EXPLICIT, IMPLICIT})
_IMAGE_PIXEL: Final = range(0x00280002, 0x00280104)  # PS3.3 C.7.6.3: what says how pixels lie
# where the source's frames lie (PS3.3 C.7.6.3.1.8): without their remarks they lie elsewhere, which the writer says
_OFFSETS: Final = (0x7FE00001, 0x7FE00002, 0x7FE00003)
_TIMED: Final = frozenset({"PT", "NM"})  # uptake cannot be told without intervals in seconds
METHOD: Final = "PS3.15 E.1, allow-list by type"
_CODES: Final = {
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113103": "Clean Graphics Option",
    "113104": "Clean Structured Content Option",
    "113105": "Clean Descriptors Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
    "113109": "Retain Device Identity Option",
    "113110": "Retain UIDs Option",
    "113111": "Retain Safe Private Option",
    "113112": "Retain Institution Identity Option",
}


class _Encoded(Struct, frozen=True):
    segments: tuple[Segment, ...]
    reason: str
    coded: bool  # whether a Code Value stands in it


class _Room:
    """One context's desk and what it has already decided."""

    def __init__(self, desk: Desk, context: Context) -> None:
        self.desk, self.context = desk, context
        self.memo: dict[tuple[int, str, bytes], _Encoded] = {}


class Pixels(Struct, frozen=True):
    """What becomes of the pixels: the segments of the whole element, and what the dataset says of them."""

    segments: tuple[Segment, ...]
    frames: tuple[tuple[Span, ...], ...]
    verdict: PixelVerdict | None
    syntax: str
    facts: PixelFacts | None = None
    attributes: tuple[Out, ...] = ()


class Engine:
    """Prepares objects one after the other. `known` are words that must not be found in any output."""

    def __init__(self, *, aliases: Aliases, rules: DicomRules, pixels: PixelRules, known: tuple[str, ...] = ()) -> None:
        self._aliases, self._rules, self._pixel_rules = aliases, rules, pixels
        self._known = frozenset(known)
        self._gatherer = Gatherer(rules)
        self._rooms: dict[object, _Room] = {}
        self._verifier = Verifier(rules)
        self._look: Look | None = None

    def prepare(self, source: ByteSource) -> PreparedObject:
        """Plan and prove one object. Raises what makes it impossible: nothing half-clean comes back."""
        scan = read_object(source)
        look = self._look = Look(source, scan)
        self._refuse(look)
        words = self._gatherer.words(look)
        subject = self._subject(look)
        writer = _writer(look)
        room = self._room(look, subject, words, writer.explicit)
        pixels = self._pixels(look, writer)
        plan = self._plan(look, room, words, pixels, writer, source.size_bytes)
        proof = Proof(
            subject=subject,
            uids=self._aliases.uids,
            keys=self._aliases.keys,
            number=self._aliases.number,
            people=room.context.people,
            places=room.context.places,
            frames=pixels.frames,
            verdict=pixels.verdict,
            timed=look.text(0x00080060) in _TIMED,
            picture=_picture(look),
            facts=pixels.facts,
        )
        return PreparedObject(plan, self._verifier.verify(look.source, plan, proof))

    # --- who and what ----------------------------------------------------------------------------------

    def _refuse(self, look: Look) -> None:
        look.check_known()
        if look.scan.pixels is None and _has_lost_its_picture(look):
            raise StructureInvalid("a picture without its pixels")
        if look.sop_class in REFUSED_CLASSES or look.sop_class in self._rules.refuse_classes:
            raise FormatUnsupported(f"DICOM {class_name(look.sop_class)}: a class that is never taken")
        if look.role in ("label", "overview"):
            raise InstanceDropped(f"a picture that shows the slide's label ({look.role})")
        if look.element(0x0040A730) is not None and self._rules.structured_content == "remove":
            raise FormatUnsupported("structured content, which the profile removes")

    def _subject(self, look: Look) -> Subject:
        subject = self._aliases.subjects.get(look.patient)
        if subject is None:
            raise PlaceUnknown("a patient that has no pseudonym")
        return subject

    def _room(self, look: Look, subject: Subject, words: list[Words], explicit: bool) -> _Room:
        people = frozenset(word for one in words for word in one.people) | self._known
        places = frozenset(word for one in words for word in one.places)
        origin = seconds_of(look.raw(0x00080030).strip(b" \0")) if look.text(0x00080060) in _TIMED else None
        key = (look.sop_class, subject, people, places, origin, look.scan.big_endian, explicit)
        room = self._rooms.get(key)
        if room is None:
            if len(self._rooms) >= CONTEXTS:
                self._rooms.clear()
            context = Context(
                sop_class=look.sop_class,
                rules=self._rules,
                pseudonym=subject.pseudonym,
                offset_days=subject.offset_days,
                number=self._aliases.number,
                keys=self._aliases.keys,
                uids=self._aliases.uids,
                people=people,
                places=places,
                origin_s=origin or None,
                big_endian=look.scan.big_endian,
            )
            search = search_of(people, places)
            desk = Desk(
                context,
                key_of=entity_key,  # type: ignore[arg-type]
                opened=self._items,
                fetched=self._fetch,
                holds=search.holds,
            )
            room = self._rooms[key] = _Room(desk, context)
        return room

    def _items(self, element: Element) -> Items:
        return self._look.items(element) if self._look is not None else ()

    def _fetch(self, element: Element) -> bytes:
        return self._look.fetch(element) if self._look is not None else b""

    # --- pixels ----------------------------------------------------------------------------------------

    def _pixels(self, look: Look, writer: Writer) -> Pixels:
        place = look.scan.pixels
        syntax = _syntax(look.scan)
        if place is None:
            return Pixels((), (), None, syntax)
        frames = look.frames()
        facts = look.pixel_facts(frames)
        verdict = judge_pixels(look.source, facts, self._pixel_rules)
        if verdict.segments is not None:
            return self._masked(look, writer, facts, verdict)
        if place.fragments is not None:
            size = look.number(0x00280010) * look.number(0x00280011)
            segments = writer.frames(place.tag, frames, syntax=look.scan.syntax, pixels=size)
            return Pixels(tuple(segments), frames, verdict, syntax, facts)
        length = sum(span.length for frame in frames for span in frame)
        # in big endian words the byte that pads an odd length holds a pixel, and the last pixel's place the pad
        length += length % 2 if place.length > length else 0
        vr = place.vr if place.vr in ("OB", "OW", "OF", "OD") else "OW"
        body = writer.copy(place.value_at, length)
        pad: list[Segment] = [Literal(b"\0")] if length % 2 else []
        head = Literal(writer.head(place.tag, vr, length + length % 2))
        return Pixels((head, *body, *pad), frames, verdict, syntax, facts)

    def _masked(self, look: Look, writer: Writer, facts: PixelFacts, verdict: PixelVerdict) -> Pixels:
        """The masked value as the verdict wrote it; what changed about its reading is said in the dataset."""
        length = verdict.length
        written = verdict.written
        syntax = written.transfer_syntax if written else _syntax(look.scan)
        bits = written.bits_allocated if written else look.bits
        told = look.scan.pixels.vr if look.scan.pixels is not None and written is None else ""
        vr = told if told in ("OB", "OW") else "OW" if bits > 8 or not writer.explicit else "OB"
        pad: list[Segment] = [Literal(b"\0")] if length % 2 else []
        head = Literal(writer.head(PIXEL_DATA, vr, length + length % 2))
        attributes: list[Out] = []
        if written is not None:
            numbers = {
                0x00280002: written.samples, 0x00280100: written.bits_allocated, 0x00280101: written.bits_stored,
                0x00280102: written.high_bit, 0x00280103: int(written.signed),
            }  # fmt: skip
            if written.samples > 1:
                numbers[0x00280006] = written.planar
            attributes = [Out(tag, "US", number.to_bytes(2, "little")) for tag, number in numbers.items()]
            attributes.append(Out(0x00280004, "CS", even(written.photometric.encode())))
        body = [piece for one in verdict.segments or () for piece in writer.placed(one)]
        return Pixels((head, *body, *pad), facts.frames, verdict, syntax, facts, tuple(attributes))

    # --- the dataset -----------------------------------------------------------------------------------

    def _plan(
        self, look: Look, room: _Room, words: list[Words], pixels: Pixels, writer: Writer, size_bytes: int
    ) -> ObjectPlan:
        found, counts, coded = self._elements(look, room, writer)
        instance = self._aliases.uids.get(look.instance, "") if not self._rules.retain_uids else look.instance
        if not instance:
            raise PlaceUnknown("an object whose own UID has no replacement")
        methods = self._methods(counts, pixels)
        own = (_uid(0x00080016, look.sop_class), _uid(0x00080018, instance))
        for tag in _OFFSETS:
            found.pop(tag, None)
        for out in (*pixels.attributes, *_flags(methods, shifted=self._rules.dates == "shift"), *own):
            found[out.tag] = tuple(writer.element(out))
        if not coded:  # else whoever compares an object's codes with its source's would meet foreign ones
            found[0x00120064] = tuple(writer.element(_method_codes(methods)))
        segments: list[Segment] = [Literal(file_head(look.sop_class, instance, pixels.syntax))]
        for tag in sorted(found):
            segments += found[tag]
        segments += pixels.segments
        return ObjectPlan(
            recipe=compact(size_bytes, segments),
            facts=self._facts(look, room, instance, methods, pixels),
            decisions=_decisions(look.scan, counts),
            removed=_removed(words),
        )

    def _elements(
        self, look: Look, room: _Room, writer: Writer
    ) -> tuple[dict[int, tuple[Segment, ...]], dict[str, int], bool]:
        """The encoded elements by tag, how often each reason was given, and whether codes are among them."""
        found: dict[int, tuple[Segment, ...]] = {}
        counts: dict[str, int] = {}
        memo, desk = room.memo, room.desk
        creators = creators_of(look.scan.elements) if self._rules.safe_private else {}
        bare, private, coded = not self._rules.safe_private, 0, False
        for element in look.scan.elements:
            tag, raw = element.tag, element.raw
            if bare and tag & 0x10000:
                private += 1
                continue
            known = memo.get((tag, element.vr, raw)) if raw is not None else None
            if known is None:
                verdict = desk.element(element, creators=creators)
                segments = tuple(writer.element(verdict.out)) if verdict.out is not None else ()
                known = _Encoded(segments, verdict.reason, _has_code(segments, big=look.scan.big_endian))
                if raw is not None and len(raw) <= 4096 and len(memo) < MEMO and not (tag >> 16 & 1 and creators):
                    memo[tag, element.vr, raw] = known
            counts[known.reason] = counts.get(known.reason, 0) + 1
            if known.segments:
                found[tag] = known.segments
                coded = coded or known.coded
            else:
                found.pop(tag, None)
        return found, counts | ({"private": private} if private else {}), coded

    def _methods(self, counts: dict[str, int], pixels: Pixels) -> tuple[str, ...]:
        rules = self._rules
        chosen = {
            "113101": pixels.verdict is not None and self._pixel_rules.burned_in != "trust",
            "113103": rules.graphics == "clean",
            "113104": rules.structured_content == "clean",
            "113105": bool(counts.get("sequence") or counts.get("descriptor")),
            "113107": rules.dates == "shift",
            "113108": rules.retain_patient_characteristics,
            "113109": rules.retain_device,
            "113110": rules.retain_uids,
            "113111": bool(rules.safe_private),
            "113112": rules.retain_institution,
        }
        return ("113100", *(code for code, used in chosen.items() if used))

    def _facts(self, look: Look, room: _Room, instance: str, methods: tuple[str, ...], pixels: Pixels) -> ObjectFacts:
        uids = self._aliases.uids

        def own(uid: str) -> str:
            return uid if self._rules.retain_uids or uid in registered() else uids.get(uid, "")

        verdict = pixels.verdict
        return ObjectFacts(
            family=look.family,
            role=look.role,
            sop_class=look.sop_class,
            class_name=class_name(look.sop_class),
            modality=_word(look.text(0x00080060)),
            transfer_syntax=pixels.syntax,
            study=own(look.text(0x0020000D)),
            series=own(look.text(0x0020000E)),
            instance=instance,
            patient=room.context.pseudonym,
            rows=look.number(0x00280010),
            columns=look.number(0x00280011),
            frames=look.number(0x00280008, 1) if look.scan.pixels is not None else 0,
            instance_number=look.number(0x00200013),
            matrix_columns=look.number(0x00480006),
            matrix_rows=look.number(0x00480007),
            methods=methods,
            pixels=verdict.reason if verdict is not None else "no pixels",
            masked_boxes=len(verdict.boxes) if verdict is not None else 0,
            **optics_of(look),
        )


def _has_lost_its_picture(look: Look) -> bool:
    """Whether pixels must have been there: they are described, or bytes of an image class stand behind its elements
    that nobody could read. An image class alone does not say so: headers are sent without their pictures."""
    if any(one.tag in _IMAGE_PIXEL for one in look.scan.elements):
        return True
    return bool(look.scan.trailing_bytes) and "Image" in class_name(look.sop_class).split()


def _flags(methods: tuple[str, ...], *, shifted: bool) -> list[Out]:
    """PS3.15 E.1.1 points 6 and 8: what was done is said in the object."""
    told = "\\".join([METHOD, *(f"{code} {_CODES[code]}"[:64] for code in methods)])
    flags = [
        Out(0x00120062, "CS", b"YES "),
        Out(0x00120063, "LO", even(told.encode())),
        Out(0x00280303, "CS", b"MODIFIED" if shifted else b"REMOVED "),
    ]
    return [*flags, Out(0x00280301, "CS", b"NO")] if "113101" in methods else flags


def _method_codes(methods: tuple[str, ...]) -> Out:
    """CID 7050 as coded entries."""
    items = []
    for code in methods:
        meaning = Out(0x00080104, "LO", even(_CODES[code].encode()))
        items.append((Out(0x00080100, "SH", code.encode()), Out(0x00080102, "SH", b"DCM "), meaning))
    return Out(0x00120064, "SQ", tuple(items))


def _has_code(segments: tuple[Segment, ...], *, big: bool) -> bool:
    """Whether an encoded element holds a Code Value, (0008,0100)."""
    mark = b"\x00\x08\x01\x00" if big else b"\x08\x00\x00\x01"
    return any(isinstance(part, Literal) and mark in part.data for part in segments)


def _picture(look: Look) -> Picture | None:
    """The layout of plain native pixels; None where bytes and pixels do not go together so simply."""
    place, bits = look.scan.pixels, look.bits
    swapped = look.scan.big_endian and bits == 8
    if place is None or place.fragments is not None or bits % 8 or swapped or "422" in look.text(0x00280004):
        return None
    samples = look.number(0x00280002, 1)
    planar = samples > 1 and look.number(0x00280006) == 1
    return Picture(look.number(0x00280010), look.number(0x00280011), samples, bits // 8, planar)


def _writer(look: Look) -> Writer:
    """In the source's own syntax; encapsulated pixels are always explicit (PS3.5 A.4), whatever a writer did."""
    scan = look.scan
    encapsulated = scan.pixels is not None and scan.pixels.fragments is not None
    return Writer(look.source, explicit=scan.explicit or encapsulated, big=scan.big_endian, inflated=_moved(scan))


def _word(text: str) -> str:
    """A defined term such as CT; what is longer is none of the standard's."""
    return text if text.isascii() and text.isalnum() and text.isupper() and len(text) <= 8 else ""


def _uid(tag: int, uid: str) -> Out:
    return Out(tag, "UI", even(uid.encode("ascii"), b"\0"))


def _syntax(scan: ObjectScan) -> str:
    """What the output says of itself, which is what it is: a native dataset's syntax is that of its bytes."""
    if scan.pixels is not None and scan.pixels.fragments is not None:
        if scan.syntax in _NATIVE:
            raise StructureInvalid("encapsulated pixels in a transfer syntax that has none")
        return scan.syntax
    if scan.pixels is not None and scan.syntax not in _NATIVE:
        raise StructureInvalid("native pixels in a transfer syntax that has none")
    return BIG_ENDIAN if scan.big_endian else EXPLICIT if scan.explicit else IMPLICIT


def _moved(scan: ObjectScan) -> bool:
    return scan.inflated is not None


def _decisions(scan: ObjectScan, counts: dict[str, int]) -> tuple[Decision, ...]:
    """What was judged, by reason: one object has hundreds of elements, a batch a million objects."""
    found = []
    for reason, times in sorted(counts.items()):
        code, why = REASONS[reason]
        action = "keep" if code == "K" else "drop" if code == "X" else "rebuild"
        found.append(Decision("dataset", action, code, why, "", times))  # type: ignore[arg-type]
    found.append(Decision("file meta information and preamble", "rebuild", "D", "written anew", "", 1))
    if scan.trailing_bytes:
        found.append(Decision("behind the dataset", "drop", "X", "nothing behind the dataset is kept", "", 1))
    return tuple(found)


def _removed(words: list[Words]) -> tuple[str, ...]:
    """The harvest: every word, loose text and UID, once."""
    texts = ((*one.people, *one.places, *one.loose, *one.uids) for one in words)
    return tuple(dict.fromkeys(chain.from_iterable(texts)))
