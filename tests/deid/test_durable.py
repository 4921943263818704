"""Many small outputs made durable together: whole or not at all, and no neighbour suffers."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from mover.deid import durable
from mover.deid.durable import Wanted, write_outputs
from mover.errors import ChangedWhileReading, DigestMismatch, EntryExists
from mover.model.recipe import Copy, Literal, Recipe

BODY = bytes(range(256)) * 64
MADE = b"new head" + BODY[100:]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "source"
    path.write_bytes(BODY)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def wanted(folder: Path, source: int, count: int) -> list[Wanted]:
    folder.mkdir(exist_ok=True)
    recipe = Recipe(len(BODY), (Literal(b"new head"), Copy(100, len(BODY) - 100)))
    return [Wanted(folder / f"{at:03}", source, recipe, os.fstat(source)) for at in range(count)]


def test_a_group_is_written_whole_and_in_order(tmp_path: Path, source: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than are open at a time: each digest belongs to the file of its place."""
    monkeypatch.setattr(durable, "GROUP_FILES", 4)
    found = write_outputs(wanted(tmp_path / "out", source, 10))
    assert found == [blake3(MADE).hexdigest()] * 10
    written = sorted((tmp_path / "out").iterdir())
    assert len(written) == 10 and all(one.read_bytes() == MADE for one in written)
    assert {int(one.stat().st_mtime) for one in written} == {durable.MTIME_S}


def test_a_source_that_changed_costs_only_its_own_output(tmp_path: Path, source: int) -> None:
    group = wanted(tmp_path / "out", source, 3)
    (tmp_path / "other").write_bytes(b"other")
    group[1] = Wanted(group[1].target, source, group[1].recipe, os.stat(tmp_path / "other"))
    found = write_outputs(group)
    assert isinstance(found[1], ChangedWhileReading) and found[0] == found[2] == blake3(MADE).hexdigest()
    assert [one.name for one in sorted((tmp_path / "out").iterdir())] == ["000", "002"]


def test_bytes_that_read_back_differently_get_no_name(
    tmp_path: Path, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that tells lies is found out before anybody sees the file."""
    honest, asked = durable._digest_past_cache, []

    def lies_once(fd: int) -> str:
        asked.append(fd)
        return honest(fd) if len(asked) != 2 else blake3(b"rot").hexdigest()

    monkeypatch.setattr(durable, "_digest_past_cache", lies_once)
    monkeypatch.setattr(durable, "SYNC_THREADS", 1)
    found = write_outputs(wanted(tmp_path / "out", source, 3))
    assert isinstance(found[1], DigestMismatch)
    assert [one.name for one in sorted((tmp_path / "out").iterdir())] == ["000", "002"]


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, durable.DIRECT_BYTES, durable.DIRECT_BYTES + 5])
@pytest.mark.parametrize("direct", [True, False])
def test_what_the_device_holds_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, direct: bool
) -> None:
    """Also where a file system knows no direct reads."""
    if not direct:
        monkeypatch.setattr(durable, "open_direct", lambda fd, flags: -1)
    data = random.Random(size).randbytes(size)
    (tmp_path / "file").write_bytes(data)
    fd = os.open(tmp_path / "file", os.O_RDWR)
    os.fsync(fd)
    assert durable._digest_past_cache(fd) == blake3(data).hexdigest()
    os.close(fd)


def test_no_name_is_given_before_all_of_the_group_is_durable(
    tmp_path: Path, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves nothing half-written under a final name."""
    synced: list[int] = []
    sync, name = os.fsync, durable._give_name

    def counts(fd: int) -> None:
        synced.append(fd)
        sync(fd)

    def checks(fd: int, hidden: Path | None, target: Path) -> None:
        assert len(synced) == 5
        name(fd, hidden, target)

    monkeypatch.setattr(durable.os, "fsync", counts)
    monkeypatch.setattr(durable, "_give_name", checks)
    write_outputs(wanted(tmp_path / "out", source, 5))
    assert len(synced) == 6  # and the folder


def test_a_taken_name_ends_the_group_and_replaces_nothing(tmp_path: Path, source: int) -> None:
    group = wanted(tmp_path / "out", source, 3)
    group[1].target.write_bytes(b"somebody's")
    with pytest.raises(EntryExists):
        write_outputs(group)
    assert group[1].target.read_bytes() == b"somebody's"
    assert not [one for one in (tmp_path / "out").iterdir() if one.name.startswith(".")]
