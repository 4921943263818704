"""Identifiers planted into slides of every family: in tags, texts, colour profiles, pictures, and between all of them.

The containers are written by the tests' writers, which share no code with the engine; what stands in them, in which
order of bytes, in which dialect and behind which key, is drawn here. `SHAPES` names every kind of slide; each gives
its files by the name behind the stem.
"""

from __future__ import annotations

import base64
import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import tifffile
from PIL import Image

from bench.planted.people import Person
from tests.support import mirax, scn_bif, slides, tiffs, vms
from tests.support.slides import Entry, Layout, Picture, raw, text

LAYOUTS = {"classic": (False, "<"), "big": (True, "<"), "motorola": (False, ">"), "big motorola": (True, ">")}


@dataclass
class Planted:
    files: dict[str, bytes]  # by what follows the stem: ".svs", or "/Slidedat.ini"
    suffix: str
    labels: list[tuple[str, np.ndarray]] = field(default_factory=list)  # name, the picture that must not come out
    macro_pages: tuple[int, ...] = ()
    may_refuse: bool = False


def hostile_tags(who: Person, rng: random.Random, order: str = "<", *, share: float = 0.6) -> list[Entry]:
    """Tags that no reader needs, in every type there is, with a name or a number in each; a share of them."""
    told = f"{who.full} {who.mrn}".encode()
    even = told + b" " * (-len(told) % 8)
    shorts = struct.pack(f"{order}{len(even) // 2}H", *struct.unpack(f">{len(even) // 2}H", even))
    stamp = f"{who.visit:%Y:%m:%d %H:%M:%S}"
    every = [
        text(269, f"C:\\lis\\{who.mrn}\\{who.accession}.tif"),
        text(285, who.full),
        text(306, stamp),
        text(315, who.doctor),
        text(316, who.station),
        text(33432, who.hospital),
        text(271, f"Maker {who.hospital}"),
        text(272, who.serial),
        raw(700, f"<x:xmpmeta><dc:creator>{who.full}</dc:creator></x:xmpmeta>".encode(), 1),
        raw(33723, b"\x1c\x02\x50\x00\x20" + told, 7),
        raw(34377, b"8BIM\x04\x04\0\0" + told, 1),
        raw(37510, b"UNICODE\0" + who.full.encode("utf-16-le"), 7),
        raw(65000, who.full.encode("utf-16-be"), 7),
        Entry(65001, 3, shorts, len(even) // 2),
        Entry(65002, 1, told, len(told)),
        Entry(65003, 4, even, len(even) // 4),
        Entry(65004, 12, even, len(even) // 8),
        Entry(65005, 6, told, len(told)),
        Entry(65006, 16, even, len(even) // 8),
        raw(65007, zlib.compress(told * 3), 7),
        text(65008, base64.b64encode(told).decode()),
        text(65009, told.hex()),
        raw(65010, told[::-1], 7),
        text(42112, f"<GDALMetadata>{who.family}</GDALMetadata>"),
        text(42113, who.mrn),
        text(700 + 34000, who.insurance),
        raw(50839, told, 1),
        raw(37724, told, 7),
        text(270 + 65000 - 230, stamp),
        raw(40092, who.full.encode("utf-16-le"), 1),
        text(33550 + 1, who.town),
        text(50708, who.station),
        text(42032, who.doctor),
        text(36867, stamp),
        text(333, who.login),
        text(337, who.family),
    ]
    return list({one.code: one for one in every if rng.random() < share}.values())


def layout(who: Person, rng: random.Random, name: str, *, hidden: bool = True) -> Layout:
    big, order = LAYOUTS[name]
    told = f"{who.full};{who.mrn};".encode()
    between = told + b"\0" * (-len(told) % 2) if hidden and rng.random() < 0.5 else b""
    return Layout(big=big, order=order, gap=between, tail=told * 3 if hidden else b"")


def label_of(who: Person, *, wide: bool = False) -> np.ndarray:
    words = f"{who.full}\n{who.accession}\n{who.mrn}\n{who.hospital[:18]}"
    return written(words, *((900, 300) if wide else (420, 480)))


def written(words: str, width: int, height: int) -> np.ndarray:
    """A label as a camera sees it: with a grain, so that no two encode alike."""
    plain = slides.label_picture(words.encode("latin-1", "replace").decode("latin-1"), width // 2, height // 2)
    large = np.asarray(Image.fromarray(plain).resize((width, height))).astype(int)
    grain = np.random.default_rng(len(words) + sum(map(ord, words))).integers(-25, 26, large.shape)
    return np.clip(large + grain, 0, 255).astype(np.uint8)


def profile(who: Person) -> bytes:
    """A colour profile whose words name somebody, as a scanner's own calibration does."""
    return slides.icc(who.family[:13])


# --- Aperio --------------------------------------------------------------------------------------------


def aperio_words(who: Person, rng: random.Random, head: str) -> bytes:
    keys = [
        "AppMag = 20",
        "StripeWidth = 2040",
        f"ScanScope ID = {who.serial}",
        f"Filename = {who.accession} {who.family}",
        f"Title = {who.full} {who.mrn}",
        f"Date = {who.visit:%m/%d/%y}",
        f"Time = {who.visit:%H:%M:%S}",
        "Time Zone = GMT+01:00",
        f"User = {who.login}",
        "Parmset = GENIE on USM",
        "MPP = 0.4990",
        "Left = 25.691574",
        "Top = 23.449873",
        "LineCameraSkew = -0.000424",
        "LineAreaXOffset = 0.019265",
        "LineAreaYOffset = -0.000313",
        "Focus Offset = 0.000000",
        f"DSR ID = {who.station}",
        f"ImageID = {who.mrn}",
        "OriginalWidth = 46000",
        "Originalheight = 32914",
        "Filtered = 5",
        "ICC Profile = ScanScope v1",
        f"Barcode = {who.barcode}",
        f"Patient Name = {who.full}",
        f"{who.family} = yes",
        f"CustomField.1 = {who.phone}",
        f"Rack = {who.login}",
        f"Slide = {who.accession}",
        f"Exposure Time = {who.mrn}",
        "Exposure Scale = 0.000001",
        "DisplayColor = 0",
        f"Gamma = {who.family}",
        f"SessionMode = {who.doctor}",
        "ScannerType = GT450",
        f"Z = {who.birth}",
    ]
    first, rest = keys[:2], [one for one in keys[2:] if rng.random() < 0.75]
    rng.shuffle(rest)
    return "|".join(
        [head, *first, *rest, "MPP = 0.4990"] if not any("MPP" in k for k in rest) else [head, *first, *rest]
    ).encode(rng.choice(["utf-8", "cp1250"]), "replace")


def svs(who: Person, rng: random.Random, *, kind: str = "classic", codec: int = 7, gt450: bool = False) -> Planted:
    at = layout(who, rng, kind)
    maker = (
        "Aperio Leica Biosystems GT450 v1.0.1 "
        if gt450
        else rng.choice(["Aperio Image Library v12.0.15", "Aperio Image Library v11.2.1 "])
    )
    ways = "JPEG/RGB Q=80" if codec == 7 else "J2K/KDU Q=70"
    size = (rng.choice([320, 448]), 256)
    head = f"{maker}\r\n{size[0]}x{size[1]} [0,0 {size[0]}x{size[1]}] (64x64) {ways}"
    told = aperio_words(who, rng, head)
    order = at.order
    encode = slides.jpeg if codec == 7 else slides.jp2k
    icc = [raw(34675, slides.icc())]
    common: dict[str, Any] = {"encode": encode, "compression": codec, "order": order}
    below = (size[0] // 4, size[1] // 4)
    pictures = [
        slides.level(size, description=told, extra=hostile_tags(who, rng, order) + icc, **common),
        slides.strips(slides.tissue(*below), description=told.decode("latin-1"), order=order, extra=icc),
        slides.level(below, description=f"{head} -> {below[0]}x{below[1]} {ways}|{who.full}", **common),
    ]
    label, macro = label_of(who), label_of(who, wide=True)
    if rng.random() < 0.8:
        name = None if gt450 else f"{maker}\r\nlabel 420x480|{who.full}"
        pictures.append(slides.strips(label, kind=rng.choice([1, 1, 0]) if gt450 else 1, description=name, order=order))
    if rng.random() < 0.8:
        name = None if gt450 else f"{maker}\r\nmacro 900x300"
        pictures.append(
            slides.strips(macro, kind=9, description=name, order=order, extra=hostile_tags(who, rng, order))
        )
    return Planted({".svs": slides.assemble(pictures, at)}, ".svs", [("label", label), ("macro", macro)])


def real(base: bytes, suffix: str, who: Person, rng: random.Random, *, kind: str = "classic") -> Planted:
    """A slide as its scanner wrote it, put together anew with more tags and other words; only its pixels are real."""
    pictures, labels = [], []
    with tifffile.TiffFile(io.BytesIO(base)) as tiff:
        for number, page in enumerate(tiff.pages):
            entries = []
            for tag in page.tags.values():
                if tag.code in (273, 279, 324, 325, 270):
                    continue
                tiff.filehandle.seek(tag.valueoffset)
                size = tag.valuebytecount
                entries.append(Entry(tag.code, int(tag.dtype), tiff.filehandle.read(size), tag.count))
            words = str(page.tags.valueof(270, "") or "")
            if "AppMag" in words:
                at = words.index("|")
                words = aperio_words(who, rng, words[:at]).decode("latin-1")
            elif words:
                words += f"|{who.full}"
            codes = {one.code for one in entries}
            entries += [text(270, words.encode("latin-1", "replace"))] if words else []
            entries += [one for one in hostile_tags(who, rng) if one.code not in codes]
            segments = []
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                tiff.filehandle.seek(offset)
                segments.append(tiff.filehandle.read(count))
            if number and not page.is_tiled and page.subfiletype in (1, 9):
                labels.append((f"picture {number}", page.asarray()))
            pictures.append(Picture(tuple(entries), tuple(segments), page.is_tiled))
    return Planted({suffix: slides.assemble(pictures, layout(who, rng, kind))}, suffix, labels)


# --- Hamamatsu -----------------------------------------------------------------------------------------


def ndpi(who: Person, rng: random.Random) -> Planted:
    ends = rng.choice(["\r\n", "\r", "\n"])
    lines = [
        f"Created={who.visit:%Y/%m/%d}",
        f"Updated={who.visit:%Y/%m/%d}",
        "Product=C13210-01",
        f"NDP.S/N={who.serial}",
        f"Macro.S/N={who.serial}",
        "Objective.Lens.Magnificant=17.58",
        "Objective.Lens.Magnificant=20",
        f"Operator={who.login}",
        f"Slide.Barcode={who.barcode}",
        f"SerialNumber={who.serial}",
        f"Date={who.visit:%d.%m.%Y}",
        f"BarcodeNo={who.accession}",
        f"{who.family}=1",
        f"Comment={who.full} {who.phone}",
        "Scanner.Speed=fast",
        f"Focus.Time={who.mrn}",
        "LayerSpacing=0",
        "Firmware.Version=2.3.27",
        f"SlideName={who.mrn}",
        "[Shading]",
        f"Hospital={who.hospital}",
    ]
    rng.shuffle(lines)
    taken = {271, 272, 305, 306, 65427, 65441, 65442, 65449, 65468, 270}
    extra = [one for one in hostile_tags(who, rng) if one.code not in taken and one.code < 65420]
    words = label_of(who, wide=True)
    data = slides.ndpi(
        reference=f"{who.accession}_{who.family}",
        properties=ends.join(lines) + ends,
        extra=extra,
        comment=rng.choice([b"Hamamatsu NanoZoomer\0", f"{who.full}".encode(), b""]),
        size=rng.choice([(256, 192), (512, 256)]),
        tail=f"{who.full};{who.mrn}".encode() * 2,
        planes=rng.choice([1, 1, 3]),
        positions=rng.random() < 0.7,
        overview=words,
    )
    return Planted({".ndpi": data}, ".ndpi", [("macro", words)])


def virtual(who: Person, rng: random.Random) -> Planted:
    keys = (
        ("Reference", f"{who.accession} {who.family}"),
        ("AuthCode", who.mrn),
        ("Operator", who.login),
        (who.family, "1"),
        ("Patient", who.full),
    )
    stem = who.accession.replace("/", "_")
    main, beside = vms.vms(
        vms.Shape(columns=rng.choice([1, 2]), rows=rng.choice([1, 2])),
        stem=stem,
        keys=keys,
        comment=who.full.encode(),
        coding=rng.choice(["utf-8", "utf-8-sig"]),
        label=who.mrn,
        strays={f"{stem}.txt": who.full.encode()},
    )
    return Planted({".vms": main} | {f"+{name}": data for name, data in beside.items()}, ".vms")


# --- 3DHISTECH -----------------------------------------------------------------------------------------


def mrxs(who: Person, rng: random.Random) -> Planted:
    general = [
        ("SLIDE_NAME", f"{who.accession} {who.full}"),
        ("PROJECT_NAME", who.hospital),
        ("SLIDE_TYPE", "SLIDE_TYPE_BRIGHTFIELD"),
        ("SLIDE_CREATIONDATETIME", f"{who.visit:%d/%m/%Y %H:%M:%S}"),
        ("SLIDE_UTC_CREATIONDATETIME", f"{who.visit:%d/%m/%Y %H:%M:%S}"),
        ("OPERATOR", who.login),
        (who.family.upper(), who.mrn),
        ("SLIDE_QUALITY", who.doctor),
        ("CUSTOM_BARCODE", who.barcode),
    ]
    rng.shuffle(general)
    shape = mirax.Shape(
        grid=rng.choice([(4, 4), (6, 4)]),
        levels=rng.choice([1, 2, 3]),
        files=rng.choice([1, 2, 5]),
        positions=rng.choice(["", "VIMSLIDE_POSITION_BUFFER", "StitchingIntensityLayer"]),
        coding=rng.choice(["JPEG", "PNG"]),
        missing=frozenset(rng.sample(range(16), rng.choice([0, 3]))),
    )
    words = f"{who.full} {who.mrn}"
    main, beside = mirax.mirax(
        shape,
        stem="STEM",
        general=general,
        lines=[f"# {who.full}", f"# {who.mrn}", f"[{who.family}]", f"{who.given} = 1"],
        extras=mirax.label_records(words.encode("latin-1", "replace").decode("latin-1")),
        slide_id=f"{rng.getrandbits(128):032X}",
        gap=f"{who.full};".encode(),
        tail=words.encode(),
        coding=rng.choice(["utf-8", "utf-8-sig"]),
        newline=rng.choice(["\r\n", "\n"]),
        index_name=rng.choice(["Index.dat", "index.dat"]),
        data_name=rng.choice(["Data{:04d}.dat", "data_{:d}.dat"]),
        strays={"notes.txt": words.encode(), f"{who.family}.xml": words.encode()},
    )
    label = slides.label_picture(words.encode("latin-1", "replace").decode("latin-1"), 200, 240)
    files = {".mrxs": main} | {name.removeprefix("STEM"): data for name, data in beside.items()}
    return Planted(files, ".mrxs", [("label", label)])


# --- Leica, Ventana ------------------------------------------------------------------------------------


def xml_noise(who: Person, rng: random.Random) -> str:
    return (
        f"<!-- {who.family} {who.mrn} --><?note {who.given}?><remark><![CDATA[{who.full} <{who.phone}>]]></remark>"
        f"<patient name={quoteattr(who.full)} id='&#{ord(who.mrn[0])};{who.mrn[1:]}'>{who.street}</patient>"
    )


def scn(who: Person, rng: random.Random) -> Planted:
    codes = {254, 256, 257, 258, 259, 262, 277, 284, 282, 283, 296, 322, 323, 530, 270}
    extra = [one for one in hostile_tags(who, rng) if one.code not in codes]
    words = who.accession
    data = scn_bif.scn(
        label=words,
        extra=extra,
        second=rng.random() < 0.4,
        more=xml_noise(who, rng),
        attributes=f"operator={quoteattr(who.login)}",
        layout=layout(who, rng, "big"),
        encode=slides.jpeg,
        thinned=(1, 1),
    )
    return Planted({".scn": data}, ".scn", [("macro", slides.label_picture(words, 64, 192))], macro_pages=(0,))


def bif(who: Person, rng: random.Random) -> Planted:
    quote = rng.choice("'\"")
    values = {
        "Mode": "Brightfield",
        "ScanRes": "0.25",
        "Magnification": "40",
        "Z-layers": "1",
        "ScanWhitePoint": "235",
        "UnitNumber": who.serial,
        "UserName": who.login,
        "BuildDate": f"{who.visit:%b %d %Y}",
        "BuildVersion": "3.3.1.1",
        "BaseName": f"C:\\scans\\{who.accession}",
        "Barcode1D": who.mrn,
        "Barcode2D": base64.b64encode(who.barcode.encode()).decode(),
        "JP2FileName": f"{who.accession}.jp2",
        "SlideAnnotation": who.mrn,
        "Patient": who.family.replace("'", "&apos;"),
    }
    order = list(values)
    rng.shuffle(order)
    iscan = " ".join(f"{key}={quote}{values[key]}{quote}" for key in order)
    codes = {254, 256, 257, 258, 259, 262, 277, 278, 284, 282, 283, 296, 322, 323, 530, 270, 700}
    extra = [one for one in hostile_tags(who, rng) if one.code not in codes]
    words = f"{who.accession} {who.mrn}"
    data = scn_bif.bif(
        iscan=iscan,
        wrapped=rng.random() < 0.5,
        stitched=rng.random() < 0.7,
        label=words,
        extra=extra,
        more=xml_noise(who, rng),
        attributes=f"site={quoteattr(who.hospital)}",
        layout=layout(who, rng, "big"),
        overlap=rng.choice([0, 4]),
        label_tag=rng.choice(["Label_Image", "Label Image"]),
    )
    return Planted({".bif": data}, ".bif", [("label", slides.label_picture(words))])


# --- Philips, OME, no vendor ---------------------------------------------------------------------------


def philips(who: Person, rng: random.Random) -> Planted:
    attr = tiffs.attribute
    words = f"{who.accession} {who.mrn}"
    stamp = f"{who.visit:%Y%m%d%H%M%S}.000000"
    root = [
        attr("DICOM_ACQUISITION_DATETIME", stamp),
        attr("DICOM_DEVICE_SERIAL_NUMBER", who.serial),
        attr("PIM_DP_UFS_BARCODE", base64.b64encode(who.barcode.encode()).decode()),
        attr("PIIM_DP_SCANNER_OPERATOR_ID", who.login),
        attr("PIIM_DP_SCANNER_RACK_NUMBER", who.mrn, kind="IUInt16"),
        attr("PIM_DP_SOURCE_FILE", f"%FILENAME%{who.accession}"),
        attr("DICOM_SOFTWARE_VERSIONS", f"&quot;{who.station}&quot;"),
        attr("DICOM_DATE_OF_LAST_CALIBRATION", f"&quot;{who.visit:%Y%m%d}&quot;"),
        f"<!-- {who.family} -->",
        attr("X_PATIENT", f"<![CDATA[{who.full}]]>"),
        attr(who.accession, "1"),
    ]
    rng.shuffle(root)
    pictures = [tiffs.philips_picture(kind, words) for kind in ("LABELIMAGE", "MACROIMAGE")]
    told = tiffs.philips_xml(*root, pictures=pictures if rng.random() < 0.7 else ())
    at = layout(who, rng, rng.choice(["classic", "big"]))
    extra = [one for one in hostile_tags(who, rng) if one.code not in (305, 271, 272)]
    others = []
    if rng.random() < 0.7:
        label = written(words, 420, 480)
        others.append(
            tiffs.Sheet(slides.strips(label, kind=1, description="Label", extra=[text(305, "Philips DP v1.0")]))
        )
        others.append(tiffs.Sheet(slides.strips(written(words, 900, 300), kind=9, description="Macro")))
    data = tiffs.philips(xml=told, layout=at, extra=extra, others=others, software="Philips DP v1.0")
    return Planted({".tiff": data}, ".tiff", [("label", written(words, 420, 480))])


def ome(who: Person, rng: random.Random) -> Planted:
    size = (256, 192)
    head = (
        f'<Experimenter ID="Experimenter:0" FirstName={quoteattr(who.given)} LastName={quoteattr(who.family)} '
        f"Email={quoteattr(who.email)} UserName={quoteattr(who.login)}/>"
        f'<Instrument ID="Instrument:0"><Microscope SerialNumber={quoteattr(who.serial)}/>'
        f'<Objective ID="Objective:0" NominalMagnification="20" SerialNumber={quoteattr(who.serial)}/></Instrument>'
    )
    inside = f"<AcquisitionDate>{who.visit:%Y-%m-%dT%H:%M:%S}</AcquisitionDate><Description>{who.family}</Description>"
    tail = (
        f'<StructuredAnnotations><XMLAnnotation ID="Annotation:0"><Value><OriginalMetadata><Key>{who.family}</Key>'
        f"<Value>{who.mrn}</Value></OriginalMetadata></Value></XMLAnnotation></StructuredAnnotations>"
        f"<!-- {who.full} -->"
    )
    label = label_of(who)
    behind = rng.random() < 0.5
    second = tiffs.ome_image(1, (420, 480), name="label", data='<TiffData IFD="1" PlaneCount="1"/>')
    images = [tiffs.ome_image(0, size, name=f"{who.accession} {who.family}", inside=inside)] + (
        [second] if behind else []
    )
    told = tiffs.ome_xml(
        *images, head=head, tail=tail, attributes=f' Creator={quoteattr(who.full)} UUID="urn:uuid:{who.mrn}"'
    )
    at = layout(who, rng, rng.choice(["big", "classic"]))
    others = [tiffs.Sheet(slides.strips(label))] if behind else []
    extra = [one for one in hostile_tags(who, rng) if one.code not in (305,)]
    data = tiffs.ome(xml=told, layout=at, others=others, extra=extra, compression=rng.choice([7, 8, 5, 33005]))
    return Planted({".ome.tif": data}, ".ome.tif", [("label", label)])


def generic(who: Person, rng: random.Random) -> Planted:
    at = layout(who, rng, rng.choice(list(LAYOUTS)))
    codec = rng.choice([1, 5, 7, 8, 33005])
    extra = hostile_tags(who, rng, at.order) + [text(270, f"{who.full} scanned by {who.login}")]
    extra += [raw(34675, slides.icc())] if rng.random() < 0.5 else []
    label = label_of(who)
    others = [tiffs.Sheet(slides.strips(label, kind=1, order=at.order))] if rng.random() < 0.4 else []
    data = tiffs.pyramid(layout=at, compression=codec, below=rng.random() < 0.3, extra=extra, others=others)
    return Planted({".tif": data}, ".tif", [("label", label)] if others else [])


def unsupported(who: Person, rng: random.Random) -> Planted:
    told = f"{who.full} {who.mrn} {who.accession}".encode() * 4
    kind = rng.choice([".czi", ".vsi", ".isyntax", ".kfb", ".sdpc", ".tmap"])
    heads = {
        ".czi": b"ZISRAWFILE" + bytes(6) + struct.pack("<QQ", 512, 512),
        ".vsi": b"II*\0\x08\0\0\0\0\0\0\0\0\0",
        ".isyntax": b'<DataObject ObjectType="DPUfsImport">',
        ".kfb": b"KFBIO\0\0\0",
        ".sdpc": b"SQ\0\0",
        ".tmap": b"TMAP\0\0",
    }
    return Planted({kind: heads[kind] + told + bytes(4096)}, kind, may_refuse=True)


SHAPES: dict[str, Callable[[Person, random.Random], Planted]] = {
    "svs classic": lambda who, rng: svs(who, rng),
    "svs big": lambda who, rng: svs(who, rng, kind="big"),
    "svs big motorola": lambda who, rng: svs(who, rng, kind="big motorola"),
    "svs jpeg 2000": lambda who, rng: svs(who, rng, codec=33005),
    "svs gt450": lambda who, rng: svs(who, rng, gt450=True),
    "svs gt450 big": lambda who, rng: svs(who, rng, gt450=True, kind="big"),
    "ndpi": ndpi,
    "vms": virtual,
    "mrxs": mrxs,
    "scn": scn,
    "bif": bif,
    "philips": philips,
    "ome": ome,
    "generic": generic,
    "unsupported": unsupported,
}
