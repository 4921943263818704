"""What may stand in a support bundle: words are let in, never taken out."""

from __future__ import annotations

from typing import Any

import pytest

from mover.decide.support import Known, log_line, said, without, words_of, words_to_ask
from mover.model.ids import make_id

OURS = Known(
    words=words_of(["pack published", "could not read {name}", "size_bytes", "started_at", "tier {x}: the folder"]),
    names=frozenset({"archive", "0.1.0"}),
)
SHARD = make_id("shard", now_ms=1, entropy=bytes(10))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("pack published", "pack published"),
        ("could not read MUELLER^ANNA.svs", "could not read …"),
        ("tier archive: the folder /srv/S26-010257", "tier archive: the folder …"),
        (SHARD, SHARD),
        ("shard-mueller", "…"),
        ("ab" * 32, "ab" * 32),
        ("0.1.0", "0.1.0"),
        ("04.03.1950", "…"),
        ("4711123", "…"),
        ("2024010112345678 80276001011699900861", "… …"),
        ("95%", "95%"),
        ({"size_bytes": 4711123, "Mueller": [None, True, "Anna"]}, {"size_bytes": 4711123, "…": [None, True, "…"]}),
        ({"started_at": "2026-11-22T18:00:00Z"}, {"started_at": "2026-11-22T18:00:00Z"}),
        ({"reason": "2026-10-05 20:52:10"}, {"…": "… …"}),
        (b"anna", "…"),
    ],
)
def test_a_word_passes_when_it_is_ours_and_any_other_is_left_out(given: Any, shown: Any) -> None:
    """A list of what to take out would have to know every patient; a list of what may stay knows nobody (I2)."""
    assert said(given, OURS) == shown


def test_a_log_line_keeps_its_fields_and_no_person() -> None:
    line = {"event": "pack published", "actor": "anna", "tier": "archive", "seen": "x", "what": "pack", "shard": SHARD}
    assert log_line(line, OURS, allowed=frozenset("event actor tier what shard".split())) == {
        "event": "pack published", "tier": "archive", "shard": SHARD
    }  # fmt: skip


def test_the_vault_is_asked_for_words_and_what_it_knows_is_left_out() -> None:
    """A tier may be called as a patient is; ids of ours are nobody's name, and short words are met by chance."""
    value = {"node": "mueller anna (x)", "shard": SHARD, "size_bytes": 4711123, "few": 12}
    asked = set(words_to_ask({**value, "accession": "2024010112345678"}))
    assert {"node", "mueller", "anna", "mueller anna", "4711123", "2024010112345678"} <= asked
    assert SHARD not in asked and "12" not in asked
    left = without(value, frozenset({"mueller anna", "4711123"}))
    assert left == {"node": "… (x)", "shard": SHARD, "size_bytes": "…", "few": 12}
