"""Which entries of a batch folder make which pack, and whether the batch is what was declared.

A pack is a scan and its thumbnail; the barcode is their common name. Most scans are one file. Some are several:
a 3DHISTECH slide is `x.mrxs` and the folder `x`, a Hamamatsu VMS slide its index and the pictures that begin with its
name, and a folder whose only images are DICOM objects is one scan, named after the folder. Nothing is guessed: an
entry that fits no pack is a pack of its own that waits in quarantine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

from blake3 import blake3
from msgspec import Struct
from msgspec.structs import replace

from mover.decide.folding import canonical_name
from mover.model.tiers import Entry

SLIDE_SUFFIXES = (
    ".svs",
    ".ndpi",
    ".ndpis",
    ".vms",
    ".vmu",
    ".mrxs",
    ".scn",
    ".bif",
    ".tif",
    ".tiff",
    ".czi",
    ".vsi",
    ".isyntax",
    ".svslide",
    ".kfb",
    ".sdpc",
    ".tmap",
    ".dcm",
    ".dicom",
)
THUMBNAIL_SUFFIXES = (".jpg", ".jpeg", ".png")
# exports lie beside the images at many sites; they belong to the record workflow
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx", ".json", ".xml", ".ini", ".md5", ".sha256")
DICOM_SUFFIXES = (".dcm", ".dicom")
VMS_SUFFIXES = (".vms", ".vmu")
# the index of a DICOM medium names patients and files, and is part of no object: it stays where it is, as tables do
INDEX_NAMES = ("dicomdir",)
DICOM_FILES_MAX: Final = 5000  # objects of one pack

Kind = Literal["file", "mirax", "vms", "dicom"]
_ALL_KINDS: Final = frozenset(("file", "mirax", "vms", "dicom"))
DicomNames = Literal["suffix", "any"]


class FoundPack(Struct, frozen=True):
    """`barcode` is the canonical common name, an identifier: it stays in the vault. The first key is the
    slide image; of DICOM objects the first in order of name."""

    barcode: str
    keys: tuple[str, ...]
    suffix: str
    size_bytes: int
    reason: str | None = None
    explanation: str | None = None


class Tally(Struct, frozen=True):
    packs: tuple[FoundPack, ...]
    tables: int
    missing: int
    undeclared: int


class Waivers(Struct, frozen=True):
    """What people decided about packs of a batch: canonical names that need no thumbnail, or belong to the batch
    although nobody listed them; packs of the `suffixes` need no thumbnail, now and later."""

    thumbnails: frozenset[str] = frozenset()
    declared: frozenset[str] = frozenset()
    suffixes: frozenset[str] = frozenset()


class Members(Struct, frozen=True):
    """What the keys of a pack are. `main` is the file by which the pack is opened; of DICOM objects all are equal,
    and `companions` are the others."""

    kind: Kind
    main: str
    companions: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        return (self.main, *self.companions)

    @property
    def image_name(self) -> str:
        """What tables may call the image: its file name, or the folder of a pack of several DICOM objects."""
        folder = self.main.rpartition("/")[0]
        return folder if self.kind == "dicom" and self.companions and folder else self.main


def members_of(keys: Sequence[str]) -> Members:
    """The roles of a pack's entries, from their names alone: its thumbnail is not among them, because the slide gets
    a new one."""
    main, rest = keys[0], keys[1:]
    stem, suffix = split_suffix(canonical_name(main))
    if suffix in VMS_SUFFIXES:
        return Members("vms", main, tuple(rest))
    pictures = {key for key in rest if split_suffix(canonical_name(key))[1] in THUMBNAIL_SUFFIXES}
    if suffix == ".mrxs":
        return Members("mirax", main, tuple(key for key in rest if not _beside(key, main, stem, pictures)))
    if suffix in SLIDE_SUFFIXES and suffix not in DICOM_SUFFIXES:
        return Members("file", main, ())
    return Members("dicom", main, tuple(key for key in rest if key not in pictures))


def _beside(key: str, main: str, stem: str, pictures: set[str]) -> bool:
    """A picture of the slide's own name, that is not one of the files in the slide's folder."""
    in_folder = key.rpartition("/")[0].casefold() == main[: -len(".mrxs")].casefold()
    return key in pictures and not in_folder and split_suffix(canonical_name(key))[0] == stem


def canonical_path(key: str, *, below: str = "") -> str:
    """The same for every part of a path, from the batch's folder on; the folder itself keeps its own name."""
    rest = key.removeprefix(below).strip("/") if below and (key + "/").startswith(below + "/") else key
    return "/".join(canonical_name(part) for part in rest.split("/")) if rest else canonical_name(below)


def split_suffix(name: str) -> tuple[str, str]:
    stem, dot, suffix = name.rpartition(".")
    return (stem, dot + suffix) if dot and stem else (name, "")


class _Sorted(Struct):
    """The entries of a folder by what they are, before anybody asks which belong together."""

    slides: dict[str, list[Entry]]
    thumbnails: dict[str, list[Entry]]
    companions: dict[str, list[Entry]]
    objects: dict[str, list[Entry]]
    others: list[Entry]
    tables: int = 0


def find_packs(
    entries: Iterable[Entry],
    *,
    require_thumbnail: bool,
    without_thumbnail: frozenset[str] = frozenset(),
    folder: str = "",
    dicom_names: DicomNames = "suffix",
    expected_count: int | None = None,
    expected: frozenset[str] | None = None,
    ignore: frozenset[str] = frozenset(),
    waivers: Waivers = Waivers(),  # noqa: B008 - a frozen value
) -> Tally:
    """Group the entries of `folder` into packs and compare with what was declared.

    Kinds in `without_thumbnail` need none, even where one is required. With `dicom_names` "any", files without a
    suffix or named by numbers and dots are DICOM objects too. `expected` holds canonical names with or without
    suffix. Packs beyond an expected list are quarantined as `not-declared`; names without a pack count as missing.
    """
    found = _sort([e for e in entries if canonical_name(e.key) not in ignore], dicom_names)
    _claim_for_vms(found)
    optional = without_thumbnail if require_thumbnail else _ALL_KINDS
    packs = [
        _judge_slide(
            stem, images, found.thumbnails.pop(stem, []), found.companions.pop(stem, []),
            _ALL_KINDS if _waived(stem, images, waivers) else optional,
        )
        for stem, images in sorted(found.slides.items())
    ]  # fmt: skip
    packs += list(_object_packs(found, {p.barcode for p in packs}, folder, optional, waivers))
    packs += [
        _lone(stem, images, "pack-incomplete", "a thumbnail without a slide image")
        for stem, images in sorted(found.thumbnails.items())
    ]
    strangers = found.others + [e for left in found.companions.values() for e in left]
    packs += [
        _lone(canonical_name(e.key), [e], "entry-unknown", "neither a slide image nor a thumbnail nor a table")
        for e in sorted(strangers, key=lambda e: e.key)
    ]
    return _compare(_apart(packs, folder), found.tables, expected_count, expected, waivers.declared)


def _waived(stem: str, images: Sequence[Entry], waivers: Waivers) -> bool:
    return stem in waivers.thumbnails or split_suffix(canonical_name(images[0].key))[1] in waivers.suffixes


def _sort(listed: list[Entry], dicom_names: DicomNames) -> _Sorted:
    found = _Sorted(defaultdict(list), defaultdict(list), defaultdict(list), defaultdict(list), [])
    folders_of_mirax = {e.key[: -len(".mrxs")].casefold() for e in listed if e.key.casefold().endswith(".mrxs")}
    mixed = _folders_of_slides(listed)
    for entry in listed:
        folder = entry.key.rpartition("/")[0]
        stem, suffix = split_suffix(canonical_name(entry.key))
        if folder.casefold() in folders_of_mirax:
            found.companions[split_suffix(canonical_name(folder + ".mrxs"))[0]].append(entry)
        elif entry.kind != "file":
            found.others.append(entry)
        elif canonical_name(entry.key) in INDEX_NAMES or suffix in TABLE_SUFFIXES:
            found.tables += 1
        elif suffix in THUMBNAIL_SUFFIXES:
            found.thumbnails[stem].append(entry)
        elif not _is_object(entry.key, dicom_names):
            (found.slides[stem] if suffix in SLIDE_SUFFIXES else found.others).append(entry)
        elif folder in mixed:
            # beside other images, where nothing says which objects belong together, each stands alone
            found.slides[stem if suffix in DICOM_SUFFIXES else canonical_name(entry.key)].append(entry)
        else:
            found.objects[folder].append(entry)
    return found


def _folders_of_slides(listed: list[Entry]) -> set[str]:
    """Folders that hold slide images other than DICOM objects."""
    suffixes = frozenset(SLIDE_SUFFIXES) - frozenset(DICOM_SUFFIXES)
    return {e.key.rpartition("/")[0] for e in listed if split_suffix(canonical_name(e.key))[1] in suffixes}


def _is_object(key: str, dicom_names: DicomNames) -> bool:
    """Does the name say that this is a DICOM object? Modalities name them by UID, or without any suffix."""
    name = canonical_name(key)
    if split_suffix(name)[1] in DICOM_SUFFIXES:
        return True
    return dicom_names == "any" and ("." not in name or not name.strip("0123456789."))


def _claim_for_vms(found: _Sorted) -> None:
    """A VMS slide's pictures lie beside its index, and their names begin with the index's name. Which of them it
    names, only its content says; what begins so and is not named is never copied. The longest such name wins."""
    indexes: dict[str, set[str]] = defaultdict(set)
    for stem, images in found.slides.items():
        for image in images:
            if split_suffix(canonical_name(image.key))[1] in VMS_SUFFIXES:
                indexes[image.key.rpartition("/")[0]].add(stem)
    if not indexes:
        return
    for stem in list(found.thumbnails):
        own = stem in found.slides and not _has_vms(found.slides[stem])
        kept = [e for e in found.thumbnails[stem] if own or not _claim(found, indexes, e)]
        found.thumbnails[stem] = kept
        if not kept:
            del found.thumbnails[stem]
    found.others = [e for e in found.others if e.kind != "file" or not _claim(found, indexes, e)]


def _has_vms(images: list[Entry]) -> bool:
    return any(split_suffix(canonical_name(image.key))[1] in VMS_SUFFIXES for image in images)


def _claim(found: _Sorted, indexes: Mapping[str, set[str]], entry: Entry) -> bool:
    """The name goes on after the index's with something else than a letter or a digit: `x1.jpg` is not of `x`."""
    folder, name = entry.key.rpartition("/")[0], canonical_name(entry.key)
    stems = [stem for stem in indexes.get(folder, ()) if name.startswith(stem) and _ends(name[len(stem) :])]
    if stems:
        found.companions[max(stems, key=len)].append(entry)
    return bool(stems)


def _ends(rest: str) -> bool:
    return rest != "" and not rest[0].isalnum()


def _judge_slide(
    stem: str, found: list[Entry], thumbnails: list[Entry], companions: list[Entry], optional: frozenset[str]
) -> FoundPack:
    entries = found + thumbnails + companions
    if len(found) > 1:
        return _lone(stem, entries, "pack-ambiguous", f"{len(found)} slide images share one barcode")
    if len(thumbnails) > 1:
        return _lone(stem, entries, "pack-ambiguous", f"{len(thumbnails)} thumbnails share one barcode")
    if not thumbnails and members_of([e.key for e in entries]).kind not in optional:
        return _lone(stem, entries, "pack-incomplete", "the thumbnail is missing")
    if found[0].fingerprint.size_bytes == 0:
        return _lone(stem, entries, "structure-invalid", "the slide image is empty")
    if any(companion.kind != "file" for companion in companions):
        return _lone(stem, entries, "entry-unknown", "a link, a pipe or a device among the slide's files")
    return _lone(stem, entries, None, None)


def _object_packs(
    found: _Sorted, taken: set[str], below: str, optional: frozenset[str], waivers: Waivers
) -> Iterator[FoundPack]:
    """One pack for each folder of DICOM objects: named by the folder's place below the batch's folder, because
    series of two studies are often called the same."""
    folders: dict[str, list[str]] = defaultdict(list)
    for folder in sorted(found.objects):
        folders[canonical_path(folder, below=below)].append(folder)
    for barcode, places in sorted(folders.items()):
        objects = sorted((e for place in places for e in found.objects[place]), key=lambda e: e.key)
        thumbnails = found.thumbnails.pop(barcode, [])
        reason = explanation = None
        if barcode in taken or len(places) > 1:
            reason, explanation = "pack-ambiguous", "another folder, or a slide image, has the name of this folder"
        elif len(objects) > DICOM_FILES_MAX:
            reason, explanation = "pack-too-large", f"more than {DICOM_FILES_MAX} DICOM objects in one folder"
        elif len(thumbnails) > 1:
            reason, explanation = "pack-ambiguous", f"{len(thumbnails)} thumbnails share one barcode"
        elif not thumbnails and "dicom" not in optional and not _waived(barcode, objects, waivers):
            reason, explanation = "pack-incomplete", "the thumbnail is missing"
        yield _lone(barcode, objects + thumbnails, reason, explanation)


def _apart(packs: list[FoundPack], below: str) -> list[FoundPack]:
    """Two packs of one name would be one row, and one of them silently missing: the later one, which always waits in
    quarantine, is called by its path."""
    taken: set[str] = set()
    apart = []
    for pack in packs:
        name = pack.barcode
        if name in taken:
            name = canonical_path(pack.keys[0], below=below)
        while name in taken:
            name += "?"
        taken.add(name)
        apart.append(pack if name == pack.barcode else replace(pack, barcode=name))
    return apart


def _lone(barcode: str, entries: list[Entry], reason: str | None, explanation: str | None) -> FoundPack:
    keys = tuple(e.key for e in entries)
    size = sum(e.fingerprint.size_bytes for e in entries)
    suffix = split_suffix(canonical_name(keys[0]))[1]
    return FoundPack(barcode, keys, suffix, size, reason, explanation)


def _compare(
    packs: list[FoundPack],
    tables: int,
    expected_count: int | None,
    expected: frozenset[str] | None,
    declared: frozenset[str],
) -> Tally:
    missing = undeclared = 0
    if expected is not None:
        wanted = {split_suffix(name)[0] if split_suffix(name)[1] in SLIDE_SUFFIXES else name for name in expected}
        # a folder of objects may be expected by its last name
        called = [frozenset((p.barcode, p.barcode.rpartition("/")[2])) for p in packs]
        missing = len(wanted - frozenset().union(*called))
        strange = [not names & wanted and p.barcode not in declared for names, p in zip(called, packs, strict=True)]
        undeclared = sum(strange)
        packs = [
            replace(p, reason="not-declared", explanation="found, but not in the declared list") if beyond else p
            for p, beyond in zip(packs, strange, strict=True)
        ]
    elif expected_count is not None:
        missing = max(0, expected_count - len(packs))
        undeclared = max(0, len(packs) - expected_count)
    return Tally(tuple(packs), tables, missing, undeclared)


# files of a slide's folder that hold something of the scan; what else lies there makes it no other scan
_OF_THE_SCAN: Final = {"mirax": (".dat", ".ini"), "vms": (".jpg", ".jpeg")}


def scan_digest(members: Members, digests: Sequence[str]) -> str:
    """What makes a scan of several files this scan: equal bytes in equal roles give one number (D19), whatever the
    files are called and in whatever order they are found. `digests` are BLAKE3 in hex, in the order of `files`.

    A scan of one file is its file's digest. Otherwise BLAKE3 over the raw digests: first those of the companions in
    their own order, each once, then the main file's. DICOM objects have equal roles, so all of them are sorted. A
    stray file in a MIRAX folder is no part of the scan and does not count.
    """
    main, rest = digests[0], list(zip(members.companions, digests[1:], strict=True))
    if members.kind == "dicom":
        parts = sorted(set(digests))
    else:
        counted = _OF_THE_SCAN.get(members.kind, ())
        parts = [*sorted({d for key, d in rest if canonical_name(key).endswith(counted)}), main]
    return parts[0] if len(parts) == 1 else blake3(b"".join(map(bytes.fromhex, parts))).hexdigest()
