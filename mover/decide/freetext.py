"""What may stay of a free text. The default for free text is that nothing does; this is for profiles that were allowed
to keep it scrubbed, and it fails closed.

Three passes, in this order, because each knows less than the one before it:

1. the dictionary: whatever is known of the patient, in any table or image header, and of staff, goes wherever it
   stands, whole or as part of a longer word, without regard to case and accents;
2. patterns: dates in all usual forms, numbers of five digits and more, telephones, mail and web addresses, streets, and
   what follows a title or a word such as "Mr" or "lives at";
3. an allow-list: of what is left only words of the vocabulary and short numbers pass. An unknown word in lower case is
   taken out; one that begins with a capital may be a name that the second pass should have seen, so the whole cell is
   withheld and a person looks at it.

Pure functions over text; nothing here is kept or logged.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from msgspec import Struct

from mover.decide.folding import plain
from mover.decide.vocabulary import ONLY_SMALL, WORDS

MAX_TEXT_CHARS = 10_000
SHORTEST_KNOWN = 3  # characters of a known token
SHORTEST_INSIDE = 5  # of one that is sought inside longer words too
MAX_PLAIN_DIGITS = 4

_MONTH = (
    r"(?:jan(?:uary|uar|vier)?|feb(?:ruary|ruar)?|f[eé]vr(?:ier)?|m(?:arch|ar|ärz|aerz|ars)|apr(?:il)?|avr(?:il)?|may|mai"
    r"|june?|juni|juin|july?|juli|juil(?:let)?|aug(?:ust)?|août|sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?"
    r"|de[cz](?:ember)?|d[eé]c(?:embre)?)\.?"
)
# bounded: each word is tried from each of its letters, and a cell may be one word of ten thousand
_NAME = r"[^\W\d_][\w'’.\-]{0,60}"
_STREET = (
    r"street|st|road|rd|avenue|ave|lane|ln|drive|dr|court|ct|way|place|pl|boulevard|blvd|square|terrace|close|crescent"
    r"|highway|hwy|parkway|pkwy|straße|strasse|str|gasse|weg|platz|allee|ring|rue"
)
_TOWN = rf"(?:,\s+{_NAME}(?:\s+{_NAME}){{0,2}})?(?:\s+[0-9]{{4,5}})?"
# (what is put in its place, what is looked for); in this order
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (f"[{word}]", re.compile(pattern, re.IGNORECASE))
    for word, pattern in (
        ("address", r"[\w.+%-]{1,64}@[\w.-]{1,255}"),
        ("address", r"(?:\b[a-z][a-z0-9+.-]{0,20}://|www\.|[\\]{2})\S+"),
        ("address", r"\b[a-z]:[\\/]\S+"),
        ("date", r"\b[0-9]{1,4}\s?[./\-]\s?[0-9]{1,2}\s?[./\-]\s?[0-9]{1,4}\b"),
        ("date", rf"\b[0-9]{{1,2}}(?:st|nd|rd|th|\.)?[\s\-]*(?:of\s+)?{_MONTH}(?:[\s,\-]*'?[0-9]{{2,4}})?"),
        ("date", rf"\b{_MONTH}[\s\-]*[0-9]{{1,2}}(?:st|nd|rd|th)?\b(?:[\s,\-]*'?[0-9]{{2,4}})?"),
        ("date", rf"\b{_MONTH}[\s,\-]*'?[0-9]{{2,4}}"),
        ("date", r"\b(?:19|20)[0-9]{2}\b"),
        ("time", r"\b[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?(?:\s?[ap]\.?m\b)?"),
        ("place", rf"\b[0-9]{{1,5}}[a-z]?,?\s+(?:{_NAME}\s+){{1,3}}(?:{_STREET})\b\.?{_TOWN}"),
        ("place", rf"\b(?:{_NAME}(?:{_STREET}))\s+[0-9]{{1,4}}[a-z]?\b"),
        # the town after an address that the dictionary knew
        ("place", rf"(?<=\]),?\s+{_NAME}(?:\s+{_NAME}){{0,2}}\s+(?:[0-9]{{4,5}}\b|\[name\])"),
        # spelt out letter by letter, digit by digit
        ("word", r"(?<![^\W_])(?:[^\W\d_][\s.\-*/_'’]{1,3}){2,}[^\W\d_](?![^\W_])"),
        ("number", r"\b(?:[0-9][\s.\-/]{1,3}){4,}[0-9]\b"),
        ("number", r"\([0-9]{2,5}\)[\s\-]*[0-9][0-9\s\-]{3,}[0-9]"),
        ("number", r"(?:\+|\b)[0-9]{1,4}(?:[\s().\-/]{1,3}[0-9]{2,}){2,}"),
        ("number", r"\b\w{0,40}?[0-9](?:[\-./;:_]?[0-9]){4,}\w*"),
        ("number", r"\b(?=[\w-]{0,40}[0-9]{3})(?=[\w-]{0,40}[^\W\d_])[\w-]{5,}"),
    )
)
_BIG = r"[^\W\d_a-zß-öø-ÿ][\w'’.\-]{0,60}"
_SMALL_PARTS = r"(?:(?:von|van|de|der|den|la|le|di|da|el|al|bin|mc|mac|o|ter|zu)\s+){0,3}"
# what follows one of these is somebody, however many capitalised words it is; the titles stand in any case
_TITLE = re.compile(
    r"\b(?:(?i:dr|doctor|prof|professor|mr|mrs|ms|miss|mister|sir|madam|pt|herr|frau|hr|fr|dipl|med|nurse|sister"
    r"|seen by|signed by|signed|reviewed by|referred by|discussed with|called|patient|name|per|attending|resident|cc"
    rf"|attn|dear|by|with)\b\.?:?\s*){{1,4}}(?P<name>{_SMALL_PARTS}{_BIG}(?:\s+{_SMALL_PARTS}{_BIG}){{0,3}})"
)
_PLACE = re.compile(
    rf"(?:{_BIG}\s+){{1,4}}(?:Hospital|Clinic|Klinik|Klinikum|Krankenhaus|Medical Cent(?:er|re)|Institute|University"
    r"|Laborator(?:y|ies)|Heights|County|Infirmary|Practice|Health|Centre|Center)\b"
)
_TITLES = frozenset({"dr", "mr", "ms", "pt", "hr", "fr", "md", "st"})
_OUR_WORDS = re.compile(r"\[(?:name|address|date|time|place|number|word)\]")
_TOKEN = re.compile(r"\[[a-z]+\]|[^\W\d_]+(?:['’][^\W\d_]+)*|[0-9]+(?:[.,][0-9]+)?|\S", re.UNICODE)
_PLAIN_MARKS = frozenset(".,;:!?()+-/%<>=≤≥±~*&'\"×°")
_ENDINGS = ("s", "es", "ed", "d", "ing", "ly", "al")
_SHORTEST_STEM = 5  # `wells` and `fisher` are people, and so is `fields`
_STEMS = WORDS - ONLY_SMALL


class Dictionary(Struct, frozen=True):
    """Folded tokens of everything known: `whole` match a word, `inside` also a part of one, `brief` (Ng, Do, An) a word
    that is not all small."""

    whole: frozenset[str]
    inside: tuple[str, ...]
    phrases: tuple[str, ...]
    brief: frozenset[str] = frozenset()


class Scrubbed(Struct, frozen=True):
    """`text` is None when a word was left that may be a name; `unknown` are the masked-later places of such words."""

    text: str | None
    replaced: int
    unknown: int


def dictionary(words: Iterable[str]) -> Dictionary:
    """What is sought first. Single letters are no names, pairs only where they are written as one; numbers of three
    digits and more are numbers of somebody when they are known."""
    texts = [" ".join(word.split()) for word in words]
    found = {token for text in texts for token in _known_tokens(text)}
    phrases = sorted({text for text in texts if len(text) >= 4}, key=lambda text: (-len(text), text))
    inside = tuple(sorted(token for token in found if len(token) >= SHORTEST_INSIDE and not token.isdigit()))
    brief = {pair for text in texts for pair in re.findall(r"(?<![^\W_])[^\W\d_]{2}(?![^\W_])", plain(text))}
    return Dictionary(frozenset(found), inside, tuple(phrases), frozenset(brief - _TITLES))


def _known_tokens(text: str) -> Iterator[str]:
    for token in re.findall(r"[^\W_]+", plain(text)):
        if len(token) >= SHORTEST_KNOWN and not (token.isdigit() and len(token) < SHORTEST_KNOWN):
            yield token
            yield from (part for part in re.findall(r"[^\W\d_]+", token) if len(part) >= SHORTEST_KNOWN)


def scrub(text: str, known: Dictionary, *, allowed: frozenset[str] = frozenset()) -> Scrubbed:
    """The text without what could be somebody, or None where a person must look. `allowed`: further words, folded."""
    text = unicodedata.normalize("NFC", text)
    if len(text) > MAX_TEXT_CHARS or not all(c.isprintable() or c in "\r\n\t" for c in text):
        return Scrubbed(None, 0, 1)
    # what looks like our own marks would make a hole look like a word
    text = text.replace("[", "(").replace("]", ")")
    replaced = 0
    text, count = _without_phrases(text, known)
    replaced += count
    for mark, pattern in _PATTERNS:
        text, count = pattern.subn(mark, text)
        replaced += count
    text, count = _without_titled(text)
    replaced += count
    return _allowed_only(text, known, allowed, replaced)


def _without_phrases(text: str, known: Dictionary) -> tuple[str, int]:
    """Known texts of several words as they stand, so that no part of an address is left as a word of the vocabulary."""
    count = 0
    for phrase in known.phrases:
        found = _find_folded(text, phrase)
        while found >= 0:
            text = f"{text[:found]}[name]{text[found + len(phrase) :]}"
            count += 1
            # behind the mark: a cell that says "Name" would be found in the mark itself for ever
            found = _find_folded(text, phrase, found + len("[name]"))
    return text, count


def _find_folded(text: str, phrase: str, start: int = 0) -> int:
    """Where a phrase stands as whole words, case and accents aside; texts whose folding changes their length are left
    to the tokens."""
    hay, needle = plain(text), plain(phrase)
    if len(hay) != len(text) or len(needle) != len(phrase):
        return -1
    start = hay.find(needle, start)
    while start >= 0:
        end = start + len(needle)
        if not hay[start - 1 : start].isalnum() and not hay[end : end + 1].isalnum():
            return start
        start = hay.find(needle, start + 1)
    return -1


def _without_titled(text: str) -> tuple[str, int]:
    text, places = _PLACE.subn("[place]", text)
    count = places

    def hide(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return match[0][: match.start("name") - match.start()] + "[name]"

    return _TITLE.sub(hide, text), count


def _allowed_only(text: str, known: Dictionary, allowed: frozenset[str], replaced: int) -> Scrubbed:
    out: list[str] = []
    position = unknown = 0
    for match in _TOKEN.finditer(text):
        out.append(" " if match.start() > position else "")
        position = match.end()
        token = match[0]
        kind = _judge(token, known, allowed)
        if kind == "unknown":
            unknown += 1
        elif kind == "keep":
            out.append(token)
        elif kind:
            replaced += 1
            out.append(f"[{kind}]")
    return Scrubbed(None if unknown else "".join(out).strip(), replaced, unknown)


def _judge(token: str, known: Dictionary, allowed: frozenset[str]) -> str:
    """keep, unknown, "" for a mark that is dropped, or the word that is put in the token's place."""
    if _OUR_WORDS.fullmatch(token):
        return "keep"
    folded = plain(token)
    if not any(character.isalnum() for character in token):
        return "keep" if token in _PLAIN_MARKS else ""
    if token[0].isdigit():
        digits = re.sub(r"[^0-9]", "", token)
        return "keep" if token.isascii() and len(digits) <= MAX_PLAIN_DIGITS and folded not in known.whole else "number"
    parts = re.findall(r"[^\W\d_]+", folded)
    if any(part in known.whole for part in (folded, *parts)) or any(word in folded for word in known.inside):
        return "name"
    if not token.islower() and not known.brief.isdisjoint(parts):
        return "name"
    if all(_is_word(part, allowed) for part in parts) and (token.islower() or folded not in ONLY_SMALL):
        return "keep"
    return "unknown" if token[0].isupper() or not token[0].islower() else "word"


def _is_word(folded: str, allowed: frozenset[str]) -> bool:
    if folded in WORDS or folded in allowed or len(folded) == 1:
        return True
    stems = (folded[: -len(ending)] for ending in _ENDINGS if folded.endswith(ending))
    known = (stem in _STEMS or stem in allowed for stem in stems if len(stem) >= _SHORTEST_STEM)
    return any(known)
