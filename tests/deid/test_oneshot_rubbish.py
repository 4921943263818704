"""Whatever lies in a folder has an entry at the end, and nothing of what is not understood has an output."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from mover.deid.oneshot import Options, deidentify_folder
from mover.policy import load_profile
from tests.support import dicoms, mirax, slides

pytestmark = pytest.mark.slow

PROFILE = """
kind: deid
name: any-table
tables:
  - name: anything
    columns:
      name: {class: drop}
      n: {class: integer, minimum: 0, maximum: 9}
"""
SUFFIXES = (
    ".svs .ndpi .mrxs .vms .vmu .scn .bif .tif .tiff .ome.tif .dcm .csv .tsv .txt .jpg .isyntax .czi .vsi .svslide .xml"
    " .json .zip .pdf .i2syntax .exe"
).split()  # fmt: skip


def shoot(folder: Path) -> dict[str, dict[str, str]]:
    (folder / "profile.yaml").write_text(PROFILE)
    profile = load_profile(folder / "profile.yaml").policy
    options = Options(profile=profile, map_path=folder / "m.csv", thumbnails=True)  # type: ignore[arg-type]
    deidentify_folder(folder / "in", folder / "out", folder / "x.json", options=options)
    return {one["source"]: one for one in json.loads((folder / "x.json").read_text())["files"]}


def put(folder: Path, name: bytes, data: bytes) -> None:
    path = os.fsencode(folder / "in") + b"/" + name
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def heads() -> list[bytes]:
    """Beginnings that each family's scanner takes for its own."""
    svs, ndpi = slides.svs(), slides.ndpi()
    ct = dicoms.plant(dicoms.Order(kind="CT", seed=3)).data
    return [svs, ndpi, ct, mirax.mirax()[0], b"name,n\r\nx,1\r\n", b"\xff\xfe" + "name\tn\r\n".encode("utf-16-le"), b""]


def test_torn_and_mixed_files_under_any_suffix_end_in_an_entry_each(tmp_path: Path) -> None:
    drawn = random.Random(20)
    for at, suffix in enumerate(SUFFIXES):
        head = drawn.choice(heads())
        data = head[: drawn.randrange(len(head) + 1)] + drawn.randbytes(drawn.randrange(3000))
        put(tmp_path, f"Quibblethwaite/{at}{suffix}".encode(), data)
    entries = shoot(tmp_path)
    assert len(entries) == len(SUFFIXES)
    for entry in entries.values():
        assert (entry["status"] == "deidentified") == bool(entry["output"])
        assert entry["status"] == "deidentified" or (entry["reason"] and entry["detail"])
        assert "Quibblethwaite" not in (entry["detail"] or "")


def test_names_of_any_bytes_go_every_way(tmp_path: Path) -> None:
    """Latin-1 from old scanners, new lines and formulas from jokers: slides, objects, tables and parts alike."""
    main, parts = mirax.mirax(stem="Q")
    put(tmp_path, b"Gr\xfcn/\xe9\n1.mrxs", main)
    for name, data in parts.items():
        put(tmp_path, b"Gr\xfcn/\xe9\n1/" + name.removeprefix("Q/").encode(), data)
    put(tmp_path, b"Gr\xfcn/=1+1.svs", slides.svs())
    put(tmp_path, b"Gr\xfcn/\xff\xfe.dcm", dicoms.plant(dicoms.Order(kind="MR", seed=4)).data)
    put(tmp_path, b"Gr\xfcn/\xe9\xe8.csv", b"name,n\r\nAda,1\r\n")
    entries = shoot(tmp_path)
    assert {entry["status"] for entry in entries.values()} == {"deidentified"}, entries
    for path in (tmp_path / "out").rglob("*"):
        assert path.name.isascii() and "=" not in path.name


def test_a_slide_without_its_parts_and_parts_without_their_slide_are_refused(tmp_path: Path) -> None:
    main, parts = mirax.mirax(stem="lone")
    put(tmp_path, b"a/lone.mrxs", main)
    for name, data in parts.items():
        put(tmp_path, f"b/{name}".encode(), data)
    entries = shoot(tmp_path)
    assert {entry["status"] for entry in entries.values()} == {"quarantined"}
    assert not (tmp_path / "out").exists() or not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
