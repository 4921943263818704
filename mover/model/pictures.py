"""What is answered as a picture, as it stands."""

from __future__ import annotations

from msgspec import Struct


class Picture(Struct, frozen=True):
    """`data` is None where whoever asks has it already. With an `etag` it never changes under its address."""

    data: bytes | None
    etag: str = ""
    media_type: str = "image/jpeg"
