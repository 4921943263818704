"""One hospital's folder: slides, objects and tables of the same people, and the list of what was planted.

The list has the form that the scorer of the samples reads (`truth.json` beside `originals/`), so that a program which
is not ours says what came through.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from bench.planted import objects, people, rareobjects, rareslides, slides, tables
from bench.planted.people import Person
from tests.support import dicoms

KINDS = ("wsi", "dicom", "csv")
FIRST_TIME = 1_400_000_000  # of the planted files' times; each next one is a day later
DAY = 86_400
# what the generator of objects makes where no samples are given
ORDERS = tuple(
    dicoms.Order(kind=kind, syntax=syntax, preamble=False, padding=False, trailing=False, private=False, icon=False)
    for kind, syntax in (
        ("CT", "explicit"),
        ("CT", "implicit"),
        ("CT", "big"),
        ("MR", "rle"),
        ("MR", "jpeg2000"),
        ("US", "explicit"),
        ("SC", "jpeg"),
        ("CR", "explicit"),
        ("SEG", "explicit"),
        ("SR", "explicit"),
        ("RTDOSE", "implicit"),
        ("VOLUME", "jpeg"),
        ("THUMBNAIL", "jpeg"),
        ("LABEL", "jpeg"),
        ("OVERVIEW", "jpeg"),
        ("PDF", "explicit"),
    )
)
MAY_DROP = ("LABEL", "OVERVIEW", "PDF")


class Pack:
    """Files are put one by one; `close` writes the truth."""

    def __init__(self, root: Path, seed: int, names: Sequence[str] = ()) -> None:
        self.root, self.seed = root, seed
        self.rng = random.Random(f"pack {seed}")
        self.people = [people.person(self.rng, eastern=number % 3 == 0) for number in range(self.rng.randint(8, 14))]
        self.people = [
            _named(who, names[number]) if number < len(names) else who for number, who in enumerate(self.people)
        ]
        self.truth: dict[str, Any] = {}
        (root / "truth_img").mkdir(parents=True)

    def put(self, name: str, data: bytes) -> None:
        path = self.root / "originals" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def told(self, name: str, **truth: Any) -> None:
        stamp = FIRST_TIME + DAY * len(self.truth)
        os.utime(self.root / "originals" / name, (stamp, stamp))
        self.truth[name] = {"identifiers": [], "images": [], "mtime": stamp, **truth}

    def picture(self, pixels: Any, name: str, category: str, box: Any = None) -> dict[str, Any]:
        at = f"truth_img/{len(list((self.root / 'truth_img').iterdir())):04d}.png"
        Image.fromarray(pixels).save(self.root / at)
        return {"cat": category, "name": name, "ref": at, "box": box}

    def close(self) -> None:
        written = json.dumps({"version": 1, "profile": "planted", "files": self.truth}, ensure_ascii=False)
        (self.root / "truth.json").write_text(written, encoding="utf-8")


def make(
    root: Path, seed: int, *, kinds: Sequence[str] = KINDS, samples: Path | None = None, names: Sequence[str] = ()
) -> Pack:
    """A pack below `root`, which must not exist; the same seed and samples give the same bytes."""
    pack = Pack(root, seed, names)
    if "wsi" in kinds:
        _slides(pack, samples)
    if "dicom" in kinds:
        _objects(pack, samples)
    if "csv" in kinds:
        _tables(pack)
    pack.close()
    return pack


def _named(who: Person, family: str) -> Person:
    return Person(**{**who.__dict__, "family": family})


def _slides(pack: Pack, samples: Path | None) -> None:
    shapes = slides.SHAPES | rareslides.SHAPES
    for path in (
        sorted((samples / "wsi").glob("*small*.svs")) + sorted((samples / "wsi").glob("*Small*.svs")) if samples else ()
    ):
        data = path.read_bytes()
        for kind in ("classic", "big"):
            shapes[f"{path.name} {kind}"] = lambda who, rng, data=data, kind=kind: slides.real(
                data, ".svs", who, rng, kind=kind
            )
    for number, (shape, plant) in enumerate(shapes.items()):
        who = pack.people[number % len(pack.people)]
        rng = random.Random(f"{pack.seed} {shape}")
        planted = plant(who, rng)
        case = who.accession.replace("/", "_")
        stem = case if shape == "vms" else f"{case}_{number}" if number % 2 else f"slide{number:02d}"
        folder = f"wsi/{number % 4}_{who.family}"
        for suffix, data in planted.files.items():
            pack.put(f"{folder}/{suffix[1:]}" if suffix.startswith("+") else f"{folder}/{stem}{suffix}", data)
        name = f"{folder}/{stem}{planted.suffix}"
        truth: dict[str, Any] = {"may_refuse": True} if planted.may_refuse else {}
        if planted.macro_pages:
            truth["macro_pages"] = list(planted.macro_pages)
        days = [f"{who.visit:{way}}" for way in ("%Y:%m:%d %H:%M:%S", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%y")]
        pack.told(
            name,
            domain="wsi",
            format="unsupported" if planted.may_refuse else planted.suffix[1:],
            shape=shape,
            atoms=who.words() | dict.fromkeys(days, "date"),
            expect_vendor=vendor(pack.root / "originals" / name),
            images=[pack.picture(pixels, label, "W2") for label, pixels in planted.labels],
            **truth,
        )


def vendor(path: Path) -> str | None:
    """Whose slide OpenSlide takes it for; None where it cannot open it: then the output need not be opened either."""
    import openslide

    try:
        with openslide.OpenSlide(str(path)) as slide:
            slide.read_region((0, 0), slide.level_count - 1, (16, 16))
            return str(slide.properties["openslide.vendor"])
    except openslide.OpenSlideError:
        return None


def _bases(pack: Pack, samples: Path | None) -> Iterator[tuple[str, bytes]]:
    for number, order in enumerate(ORDERS):
        yield f"{order.kind}-{order.syntax}", dicoms.plant(order_of(order, 1000 * pack.seed + number)).data
    for number, (name, (order, _, _)) in enumerate(rareobjects.BASES.items()):
        yield name, dicoms.plant(order_of(order, 1000 * pack.seed + 500 + number)).data
    for path in sorted((samples / "dicom").glob("*.dcm")) if samples else ():
        yield path.name, path.read_bytes()


def order_of(order: dicoms.Order, seed: int) -> dicoms.Order:
    return dicoms.Order(**{**order.__dict__, "seed": seed})


def _objects(pack: Pack, samples: Path | None) -> None:
    for number, (base, data) in enumerate(_bases(pack, samples)):
        who = pack.people[number % len(pack.people)]
        rng = random.Random(f"{pack.seed} {base}")
        try:
            planted = (
                rare_object(base, data, who, rng, number)
                if base in rareobjects.BASES
                else objects.plant(data, who, rng, number, burn=number % 3 == 0)
            )
        except (ValueError, AttributeError, KeyError, TypeError, NotImplementedError, EOFError, OSError):
            continue  # a base that nobody can write again carries nothing
        patient = who.mrn.replace("/", "_")
        name = f"dicom/st{number % len(pack.people)}/" + (
            f"IM{number:04d}.dcm" if number % 4 else f"{patient}_{number}.dcm"
        )
        pack.put(name, planted.data)
        truth: dict[str, Any] = {}
        if planted.box:
            truth["burn_box"] = list(planted.box)
            truth["images"] = [pack.picture(planted.burned, "burned_in", "D5", list(planted.box))]
        if planted.icon:
            truth["icon_sample"] = planted.icon
        if base.startswith(MAY_DROP):
            truth["may_drop"] = True
        whole_slide = base.startswith(("VOLUME", "THUMBNAIL", "hd_sm", "boxes"))
        pack.told(
            name,
            domain="dicom",
            format="dicom-wsm" if whole_slide else "dicom",
            base=base,
            atoms=planted.atoms,
            study=planted.study,
            patient=who.mrn,
            dates=planted.dates,
            **truth,
        )


def rare_object(base: str, data: bytes, who: Person, rng: random.Random, number: int) -> objects.Planted:
    """An object of `rareobjects.BASES`, of a person whose name its character set can write."""
    order, charset, more = rareobjects.BASES[base]
    if charset in rareobjects.CHARSETS:
        who = rareobjects.writable(who, charset, rng)
    planted = objects.plant(data, who, rng, number, charset=charset, more=(rareobjects.dress, *more))
    planted.data = rareobjects.around(planted.data, who, syntax=order.syntax)
    return planted


def _tables(pack: Pack) -> None:
    for name, write in (
        ("csv1_x.csv", tables.slides),
        ("B cases.csv", tables.cases),
        ("outcomes.2.csv", tables.outcomes),
    ):
        planted = write(pack.people, pack.rng)
        pack.put(f"csv/{name}", planted.data)
        pack.told(f"csv/{name}", domain="csv", format="csv", atoms=planted.atoms, **planted.truth)
