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
    name: str | None = None,
    several: bool = False,
    split: str | None = None,
) -> str:
    """`data/...`: flat, a folder per slide number, per value of the fact `label`, or per split.

    What stands in tars (layout `shards`) has the name that it has flat, or by split where there are splits: which files
    a run has is one question, and how they are wrapped another (`decide.tars`).
    `name` is a file beside the slide's main one. A slide of several files has a folder of its own in every layout:
    its index names its parts by where they lie.
    """
    name = name or f"{number}.{extension}"
    if layout == "label":
        name = f"{folder_name((facts or {}).get(label or ''))}/{f'{number}/' if several else ''}{name}"
    elif layout == "split" or (layout == "shards" and split):
        name = f"{split}/{f'{number}/' if several else ''}{name}"
    elif layout not in ("flat", "shards") or several:
        name = f"{number}/{name}"
    return f"data/{name}"


def folder_name(value: object) -> str:
    """A value as one safe path part; absent values get a name of their own."""
    text = _UNSAFE.sub("-", str(value)).strip(".-")[:100] if value is not None else ""
    return text or "unlabelled"
