"""Small Hamamatsu VMS slides made in memory, with anything planted anywhere; shares no code with ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from tests.support import slides

SECTION = "Virtual Microscope Specimen"


class Shape(Struct, frozen=True):
    columns: int = 2
    rows: int = 2
    layers: int = 1
    part: tuple[int, int] = (256, 128)
    small: tuple[int, int] = (128, 64)


def vms(
    shape: Shape = Shape(),  # noqa: B008 - a frozen value
    *,
    stem: str = "S24-771001",
    keys: Sequence[tuple[str, str]] = (("Reference", "Quincy"), ("AuthCode", "771001")),
    lines: Sequence[str] = (),
    comment: bytes = b"Hamamatsu JPEG Library, version 1.0.3\0",
    dress: Callable[[bytes], bytes] = lambda data: data,
    tail: bytes = b"",
    coding: str = "utf-8",
    label: str = "Quincy",
    dialect: int = 3,
    strays: dict[str, bytes] | None = None,
) -> tuple[bytes, dict[str, bytes]]:
    """(the .vms file, everything beside it by name). `dialect` is how many numbers an image's key has at most."""
    text = [f"[{SECTION}]", f"NoLayers={shape.layers}", f"NoJpegColumns={shape.columns}", f"NoJpegRows={shape.rows}"]
    files: dict[str, bytes] = {}
    for layer in range(shape.layers):
        for row in range(shape.rows):
            for column in range(shape.columns):
                name = f"{stem}({layer},{column},{row}).jpg"
                pixels = slides.tissue(*shape.part, seed=layer * 100 + row * 10 + column)
                files[name] = dress(slides.restart_jpeg(pixels, comment)[0]) + tail
                text.append(f"{_key(layer, column, row, dialect)}={name}")
    files[f"{stem}_map2.jpg"] = dress(slides.restart_jpeg(slides.tissue(*shape.small, seed=77), comment)[0]) + tail
    files[f"{stem}_macro.jpg"] = dress(slides.jpeg(slides.label_picture(label, 300, 100)))
    files[f"{stem}.opt"] = bytes(20)  # too short to be believed
    text += [f"MapFile={stem}_map2.jpg", f"MacroImage={stem}_macro.jpg", f"OptimisationFile={stem}.opt"]
    width, height = shape.part[0] * shape.columns, shape.part[1] * shape.rows
    text += [f"PhysicalWidth={width * 250}", f"PhysicalHeight={height * 250}", "SourceLens=20", "LayerSpacing=0"]
    text += [f"{key}={value}" for key, value in keys] + list(lines)
    return "\r\n".join([*text, ""]).encode(coding), files | (strays or {})


def _key(layer: int, column: int, row: int, dialect: int) -> str:
    if dialect == 3:
        return f"ImageFile({layer},{column},{row})"
    if dialect == 2:
        return f"ImageFile({column},{row})" if column or row else "ImageFile"
    return "ImageFile"
