"""Where a slide lies below a run's `data/`."""

from __future__ import annotations

import re
from collections.abc import Mapping

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def slide_path(
    number: str,
    extension: str,
    *,
    layout: str,
    facts: Mapping[str, object] | None = None,
    label: str | None = None,
) -> str:
    """`data/…`: flat, a folder per slide number, or a folder per value of the fact `label`."""
    name = f"{number}.{extension}"
    if layout == "flat":
        return f"data/{name}"
    if layout == "label":
        return f"data/{folder_name((facts or {}).get(label or ''))}/{name}"
    return f"data/{number}/{name}"


def folder_name(value: object) -> str:
    """A value as one safe path part; absent values get a name of their own."""
    text = _UNSAFE.sub("-", str(value)).strip(".-")[:100] if value is not None else ""
    return text or "unlabelled"
