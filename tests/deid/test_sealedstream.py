"""A stream that only both key files open, and that cannot be cut, turned or changed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mover.deid.sealedstream import PIECE_BYTES, Examined, examine, open_sealed, seal
from mover.deid.vaultkeys import PublicKey, RevealKey, new_pair
from mover.errors import Denied, IntegrityError

FACTS = {"dump": "dump-1", "site": "ward", "taken_at": "2026-01-01", "software": "mover", "schema": "0014"}


@pytest.fixture
def pair(tmp_path: Path) -> RevealKey:
    return new_pair(tmp_path / "a", tmp_path / "b")


def sealed(pair: RevealKey, plain: bytes) -> bytes:
    chunks = [plain[at : at + 70_001] for at in range(0, len(plain), 70_001)]
    return b"".join(seal(chunks, PublicKey(pair.public), **FACTS))


def opened(pair: RevealKey, data: bytes, step: int = 4096) -> bytes:
    return b"".join(open_sealed((data[at : at + step] for at in range(0, len(data), step)), pair))


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 17])
def test_what_was_sealed_opens_again_however_it_is_cut(pair: RevealKey, size: int) -> None:
    plain = random.Random(size).randbytes(size)
    data = sealed(pair, plain)
    assert opened(pair, data) == opened(pair, data, 1 << 22) == plain
    assert examine([data]).size_bytes == len(data)


def test_two_seals_of_one_stream_are_different(pair: RevealKey) -> None:
    """Equal dumps of two nights must not show that nothing happened."""
    assert sealed(pair, b"same") != sealed(pair, b"same")


@pytest.mark.parametrize("seed", range(24))
def test_a_flipped_bit_anywhere_is_met_before_its_plain_text_is(pair: RevealKey, seed: int) -> None:
    chance = random.Random(seed)
    plain = chance.randbytes(2 * PIECE_BYTES + 99)
    data = bytearray(sealed(pair, plain))
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    came = b""
    with pytest.raises((IntegrityError, Denied)):
        for piece in open_sealed([bytes(data)], pair):
            came += piece
    assert plain.startswith(came)


def test_pieces_that_are_left_out_turned_or_cut_off_are_met(pair: RevealKey) -> None:
    """At the very borders of pieces, where lengths still fit."""
    pieces = list(seal([random.Random(1).randbytes(3 * PIECE_BYTES)], PublicKey(pair.public), **FACTS))
    head, *body = pieces
    for wrong in ([head, *body[1:]], [head, body[1], body[0], *body[2:]], [head, *body[:-1]], [*pieces, body[0]]):
        with pytest.raises(IntegrityError):
            opened(pair, b"".join(wrong))


def test_a_piece_under_another_head_does_not_open(pair: RevealKey) -> None:
    """Somebody's older dump must not pass for last night's."""
    old = list(seal([b"old"], PublicKey(pair.public), **FACTS))
    forged = old[0].replace(b"2026-01-01", b"2026-02-02")
    assert forged != old[0]
    with pytest.raises(IntegrityError):
        opened(pair, forged + b"".join(old[1:]))


def test_another_pair_is_refused_by_its_name(pair: RevealKey, tmp_path: Path) -> None:
    other = new_pair(tmp_path / "c", tmp_path / "d")
    with pytest.raises(Denied, match=pair.pair.hex()):
        opened(other, sealed(pair, b"x"))


def test_without_keys_the_structure_and_the_pair_can_be_told(pair: RevealKey) -> None:
    """That it opens cannot: a drill without keys must not claim it."""
    data = sealed(pair, random.Random(2).randbytes(PIECE_BYTES + 5))
    found = examine([data])
    assert isinstance(found, Examined) and found.pieces == 2 and found.head.pair == pair.pair
    for wrong in (data[:-1], data + b"x", data[: len(data) // 2], b"PGDMP" * 100):
        with pytest.raises(IntegrityError):
            examine([wrong])


def test_a_stream_that_broke_off_is_never_sealed_to_its_end(pair: RevealKey) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield b"half"
        raise IntegrityError("the dump ended with status 1")

    came: list[bytes] = []
    with pytest.raises(IntegrityError, match="status 1"):
        came.extend(seal(broken(), PublicKey(pair.public), **FACTS))
    with pytest.raises(IntegrityError):
        examine(came)
