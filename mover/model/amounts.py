"""How many, in words."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """`1 slide`, `1,200 slides`; `many` where an s does not make it."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
