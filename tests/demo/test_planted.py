"""A search that finds nothing proves nothing until it was seen to find."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from mover.demo import planted as search
from mover.demo.generate import Hospital
from mover.demo.plan import Plan
from mover.demo.planted import CHUNK, Planted, Searcher, disguises, search_everything

VALUES = [
    Planted("Marzenbjacinth", "person"),
    Planted("Mühlenbackery", "person"),
    Planted("KH73092330", "mrn"),
    Planted("S26-027583", "accession"),
    Planted("07/23/1958", "birth-date"),
]


@pytest.mark.parametrize("item", VALUES, ids=lambda item: item.kind + item.value[:3])
@pytest.mark.parametrize("shift", range(9))
def test_every_disguise_is_found_at_every_alignment(item: Planted, shift: int) -> None:
    searcher = Searcher(VALUES)
    v = item.value
    for text in (v, v.upper(), v.lower(), v[::-1], v.encode().hex(), v.encode().hex().upper()):
        assert hits_of(searcher, b"x" * shift + text.encode() + b"!!", item)
    for encoding in ("utf-16-le", "utf-16-be", "latin-1"):
        assert hits_of(searcher, b"\xff" * shift + v.encode(encoding) + b"\xfe", item)
    assert hits_of(searcher, base64.b64encode(b"\x07" * shift + v.encode() + b"\x99" * shift), item)


def hits_of(searcher: Searcher, data: bytes, item: Planted) -> list[search.Hit]:
    return [hit for hit in searcher.search_bytes(data) if hit.value == item.value]


def test_a_hit_tells_where_and_is_told_once(tmp_path: Path) -> None:
    """Also where a chunk or a window of the search ends in the middle of the value."""
    value = VALUES[0].value.encode()
    for at in (0, search.WINDOW - 5, CHUNK - 7, CHUNK - len(value), CHUNK, 2 * CHUNK - 1):
        path = tmp_path / "file.bin"
        path.write_bytes(b"\0" * at + value + b"\0" * 99)
        found = search_everything([path], VALUES)
        assert [(hit.offset, hit.where) for hit in found] == [(at, str(path))]


def test_names_of_files_and_targets_of_links_are_searched(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "S26-027583_A1.svs").touch()
    (folder / "link").symlink_to("../marzenbjacinth")
    assert {hit.kind for hit in search_everything([folder], VALUES)} == {"accession", "person"}


def test_a_missing_target_is_an_error_and_not_a_clean_search(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        search_everything([tmp_path / "not-there"], VALUES)


def test_a_value_too_short_to_be_distinctive_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        Searcher([Planted("Smith", "person")])


def test_every_disguise_is_long_enough_for_the_sieve(planted: list[Planted]) -> None:
    assert min(len(pattern) for item in planted for _, pattern in disguises(item.value)) >= search.SHORTEST


@pytest.mark.slow
def test_random_bytes_hold_none_of_the_identifiers(planted: list[Planted]) -> None:
    """Else a clean bucket of two gigabytes of JPEG would look leaky now and then."""
    assert search_everything([np.random.default_rng(3).bytes(64 << 20)], planted) == []


@pytest.mark.slow
def test_originals_hold_what_was_planted_in_them(source: Path, plan: Plan) -> None:
    """Name, number, case, operator and scanner of each good slide are in its file; tables hold everybody."""
    for pack in (pack for pack in plan.packs if pack.fault is None and not pack.big):
        person = plan.case(pack.case).person
        wanted = {person.last, person.mrn, pack.case, pack.operator, pack.serial}
        items = [Planted(value, "any") for value in wanted]
        found = {hit.value for hit in search_everything([source / pack.batch / pack.file_name], items)}
        assert found == wanted


@pytest.mark.slow
def test_each_kind_of_identifier_is_somewhere_in_the_source(hospital: Hospital, planted: list[Planted]) -> None:
    """What is not there cannot be shown to be gone. (Of birth dates, one of three spellings is planted.)"""
    by_kind: dict[str, list[Planted]] = {}
    for item in planted:
        by_kind.setdefault(item.kind, []).append(item)
    assert {"person", "mrn", "accession", "birth-date", "file-name", "serial", "operator", "staff"} <= set(by_kind)
    for kind, items in by_kind.items():
        assert search_everything([Path(hospital.source)], items), kind
