"""Which words may be a tag, and what taking a change of tags back leaves as it is.

A tag is a word that people made up and that a whole project reads, in lists, expressions and the audit: it may hold no
identifier. Numbers are told by their shape; names of people are not, so a word that no slide has yet is an admin's to
say, and all others choose from those. The vault is not asked whether somebody goes by it: a refusal would tell whoever
tries names which of them are patients.
"""

from __future__ import annotations

import re

TAGS_MAX = 500  # of a project
CHARS_MAX = 40
SLIDES_MAX = 1_000_000  # of one change
DIGITS = 3  # in one place; a case's number has two, its year and its own

_TAG = re.compile(r"[a-z][a-z0-9:._-]{0,39}")
_YEAR = re.compile(r"(?<![a-z])20[0-9]{2}(?![a-z])")  # of work: whoever was born in one has few slides yet
HINT = "For example: look-again, out-of-focus, paper-2026, q3:keep."


def why_not_tag(tag: str) -> str:
    """Why this cannot be a tag, or nothing. What is refused is not repeated: it may be a name."""
    if not _TAG.fullmatch(tag):
        return f"a tag is at most {CHARS_MAX} small letters, digits, '-', '_', '.' and ':', and begins with a letter"
    digits = re.findall(r"[0-9]+", tag)
    if len(digits) > 1 or (digits and len(digits[0]) > DIGITS and not _YEAR.search(tag)):
        return f"a tag has digits in one place only, {DIGITS} at most or a year: more reads like a case or a day"
    return ""


def told_apart(*, changed: int, still: int) -> str:
    """What taking a change back cannot reach, in words, or nothing."""
    left = changed - still
    if not left:
        return ""
    return f"{left:,} of {changed:,} were changed again since: they stay as they are"
