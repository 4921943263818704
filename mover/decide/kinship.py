"""Whose case, block or slide it is: what tables and images say together, read once for the whole release.

Each row of a table, and each object, names some entities together (`entity_key`s such as "case|d19-1"). From all of
them follows which patient a case, a block or a slide belongs to, so that dates of a table without a patient column
move by the same days as those of the table that has one. Nothing is guessed: an entity that two patients claim, by
whatever way, belongs to nobody here, and its dates do not leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

# A slide is named together with its block or case, those with a patient; upwards in this order.
_RISING = ("case", "block", "slide")


class Kinship(Struct, frozen=True):
    """`patient_of`: by the key of a case, block or slide. `torn`: keys that more than one patient claims."""

    patient_of: dict[str, str]
    torn: tuple[str, ...]


def kinship(rows: Iterable[Sequence[str]]) -> Kinship:
    """What these rows of keys say together. Linear in the keys; rows may repeat."""
    claims: dict[str, set[str]] = {}
    above: dict[str, set[str]] = {}
    for row in dict.fromkeys(tuple(row) for row in rows):
        patients = {key for key in row if _kind(key) == "patient"}
        for key in row:
            rank = _rank(key)
            if rank < 0:
                continue
            claims.setdefault(key, set()).update(patients)
            above.setdefault(key, set()).update(other for other in row if 0 <= _rank(other) < rank)
    settled: dict[str, set[str]] = {}
    for key in sorted(claims, key=_rank):
        settled[key] = claims[key].union(*(settled.get(other, set()) for other in above[key]))
    return Kinship(
        patient_of={key: next(iter(found)) for key, found in settled.items() if len(found) == 1},
        torn=tuple(sorted(key for key, found in settled.items() if len(found) > 1)),
    )


def words_by_patient(
    spoken: Iterable[Mapping[str, Sequence[str]]], patient_of: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The words of several surveys (each by the first entity of its row) gathered by patient; what belongs to nobody,
    such as staff lists, stands under "" and counts for everybody."""
    gathered: dict[str, dict[str, None]] = {}
    for words in spoken:
        for key, found in words.items():
            owner = key if _kind(key) == "patient" else patient_of.get(key, "")
            gathered.setdefault(owner, {}).update(dict.fromkeys(found))
    return {owner: tuple(found) for owner, found in gathered.items()}


def _kind(key: str) -> str:
    return key.partition("|")[0]


def _rank(key: str) -> int:
    kind = _kind(key)
    return _RISING.index(kind) if kind in _RISING else -1
