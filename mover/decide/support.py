"""What may stand in a support bundle, which leaves the house by mail. Pure.

Nothing is taken out of it: things are let in. A text passes word by word, and a word passes when it is one of this
software's own (it stands in its source), a name from the site's settings, an id of ours, a digest or a small number;
every other word becomes `…`. Then what is left is searched for what the vault knows (`words_to_ask`, `without`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from mover.model.ids import KINDS, is_id, is_number

GONE: Final = "…"
TEXT_LIMIT: Final = 400
LIST_LIMIT: Final = 20_000
# shorter ones are met everywhere by chance; a patient's id has more
ASKED_AT_LEAST: Final = 4
ASKED_DIGITS: Final = 6
# a name may have gaps: so many words in a row are asked for together
WORDS_TOGETHER: Final = 3

_EDGES: Final = ".,;:!?()[]{}<>`'\"*=|"
_NUMBER: Final = re.compile(r"[<>=~+-]{0,2}\d{1,3}(?:\.\d{1,3})?(?:%|s|ms|[KMGT]?i?B)?")
# a number of one of these lengths is an accession's or an insurance card's before it is a digest without a letter
_DIGEST: Final = re.compile(r"(?=\d*[a-f])(?:[0-9a-f]{16}|[0-9a-f]{20}|[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})")
# a time passes where this software writes its own: a scan's time names a patient's day
_TIMES: Final = ("_at", "timestamp", "oldest", "newest")
_TIME: Final = re.compile(r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)?")
_PLACE: Final = re.compile(r"([A-Za-z_]+/)?([A-Za-z_]+)\.(py|pyx|sql):\d{1,5}")
# fields of a log line that name people or machines; `what` is prose beside its code
_NOT_LOGGED: Final = frozenset("actor address host socket what refused".split())


class Known(Struct, frozen=True):
    """`words` are this software's own; `names` those of the site's tiers, policies, projects and nodes."""

    words: frozenset[str]
    names: frozenset[str]


def words_of(literals: Iterable[str]) -> frozenset[str]:
    """The words of this software's own texts."""
    return frozenset(word for text in literals for word in _bare(text.split()) if word)


def said(value: Any, known: Known) -> Any:
    """The same value with every word that is not known left out, keys too. Numbers, booleans and null stay."""
    if isinstance(value, str):
        return _text(value, known)
    if isinstance(value, Mapping):
        return {_text(str(key), known): _said_of(str(key), one, known) for key, one in list(value.items())[:LIST_LIMIT]}
    if isinstance(value, list | tuple | set | frozenset):
        return [said(one, known) for one in list(value)[:LIST_LIMIT]]
    return value if value is None or isinstance(value, bool | int | float) else GONE


def log_line(fields: Mapping[str, Any], known: Known, *, allowed: frozenset[str]) -> dict[str, Any]:
    """Of one line of the log what may be shown: fields that the log itself would write, and of these no person."""
    shown = {name: value for name, value in fields.items() if name in allowed and name not in _NOT_LOGGED}
    return {name: _said_of(name, value, known) for name, value in shown.items()}


def words_to_ask(value: Any) -> Iterator[str]:
    """Every text of which the vault is asked whether it knows it: words, and up to three in a row. Ids, slide numbers,
    digests and times of ours are nobody's."""
    for leaf in _leaves(value):
        words = leaf.split()
        for count in range(1, WORDS_TOGETHER + 1):
            for start in range(len(words) - count + 1):
                found = " ".join(words[start : start + count])
                yield from (
                    one for one in {found, found.strip(_EDGES)} if len(one) >= ASKED_AT_LEAST and not _ours(one)
                )


def without(value: Any, known_to_vault: frozenset[str]) -> Any:
    """The same value without these words, wherever they stand."""
    if not known_to_vault:
        return value
    if isinstance(value, str):
        for word in sorted(known_to_vault, key=len, reverse=True):
            value = value.replace(word, GONE)
        return value
    if isinstance(value, Mapping):
        return {without(str(key), known_to_vault): without(one, known_to_vault) for key, one in value.items()}
    if isinstance(value, list):
        return [without(one, known_to_vault) for one in value]
    if isinstance(value, int) and not isinstance(value, bool) and str(value) in known_to_vault:
        return GONE
    return value


def _said_of(name: str, value: Any, known: Known) -> Any:
    time = isinstance(value, str) and name.endswith(_TIMES) and _TIME.fullmatch(value)
    return value if time else said(value, known)


def _text(text: str, known: Known) -> str:
    if text in known.names or _ours(text):
        return text
    return " ".join(word if _passes(word, known) else GONE for word in text[:TEXT_LIMIT].split())


def _passes(word: str, known: Known) -> bool:
    bare = word.strip(_EDGES)
    return not bare or bare in known.words or bare in known.names or bool(_NUMBER.fullmatch(bare)) or _ours(bare)


def _ours(text: str) -> bool:
    kind = text.partition("-")[0]
    known = (kind in KINDS and is_id(text, kind)) or is_number(text)
    return known or any(shape.fullmatch(text) for shape in (_DIGEST, _PLACE))


def _bare(words: Iterable[str]) -> Iterator[str]:
    for word in words:
        yield word.strip(_EDGES)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield str(key)
            yield from _leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    elif isinstance(value, int) and not isinstance(value, bool) and len(str(value)) >= ASKED_DIGITS:
        yield str(value)
