"""Sidecars: what vouches for a slide in the archive, ten years from now too."""

from __future__ import annotations

import msgspec
import pytest

from mover.errors import StructureInvalid
from mover.model.sidecar import Profile, Sidecar, SidecarFile, Thumbnail, decode_sidecar, encode_sidecar, sidecar_key

NUMBER = "0" * 17


def made(**changes: object) -> Sidecar:
    values = {
        "number": NUMBER, "site": "ward", "family": "mirax", "extension": "mrxs", "key": f"slides/{NUMBER}/1/x.mrxs",
        "size_bytes": 10, "blake3": "a" * 64, "segments": ("a" * 64,), "facts": {"levels": 3}, "evidence": {},
        "created_at": "2026-01-01T00:00:00+00:00", "software": "mover 1",
    }  # fmt: skip
    return Sidecar(**{**values, **changes})


FILES = (
    SidecarFile(f"{NUMBER}/Data0000.dat", "slides/k/1", 20, "b" * 64),
    SidecarFile("0/z", "slides/k/2", 5, "c" * 64),
)


def test_a_sidecar_comes_back_as_it_went() -> None:
    profile = Profile("default", "1", "e" * 64, "f" * 64)
    whole = made(files=FILES, thumbnail=Thumbnail("t", 3, "d" * 64), profile=profile)
    assert decode_sidecar(encode_sidecar(whole)) == whole
    assert (whole.total_bytes, len(whole.keys)) == (35, 5)
    assert {whole.key, "t", "slides/k/1", "slides/k/2", sidecar_key(NUMBER)} == whole.keys


def test_the_root_of_several_files_says_which_bytes_lie_under_which_name() -> None:
    """The proof names the root: two files that changed places must not have the same one."""
    swapped = (msgspec.structs.replace(FILES[0], blake3="c" * 64), msgspec.structs.replace(FILES[1], blake3="b" * 64))
    assert made().root == "a" * 64
    assert made(files=FILES).root == made(files=FILES[::-1]).root
    assert len({made().root, made(files=FILES).root, made(files=swapped).root, made(files=FILES[:1]).root}) == 4


def test_a_sidecar_of_version_1_still_opens() -> None:
    """Archives outlive the software that filled them."""
    first = msgspec.json.decode(encode_sidecar(made(thumbnail=Thumbnail("t", 3, "d" * 64), version=1)))
    del first["files"], first["profile"]
    opened = decode_sidecar(msgspec.json.encode(first))
    assert (opened.files, opened.root, opened.thumbnail) == ((), "a" * 64, Thumbnail("t", 3, "d" * 64))


@pytest.mark.parametrize("changes", [{"version": 3}, {"format": "other"}, {"version": 1}])
def test_what_is_not_understood_vouches_for_nothing(changes: dict[str, object]) -> None:
    with pytest.raises(StructureInvalid):
        decode_sidecar(encode_sidecar(made(**changes)))
    with pytest.raises(StructureInvalid):
        decode_sidecar(b"{}")
