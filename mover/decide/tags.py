"""Which words may be a tag, and what taking a change of tags back leaves as it is.

A tag is a word that people made up and that a whole project reads, in lists, expressions and the audit: it may hold no
identifier. It is judged by its shape alone, as texts of cohort expressions are. The vault is not asked whether somebody
goes by it: a refusal would tell whoever tries names which of them are patients.
"""

from __future__ import annotations

import re

TAGS_MAX = 500  # of a project
CHARS_MAX = 40
SLIDES_MAX = 1_000_000  # of one change
DIGITS_IN_A_ROW = 4
DIGITS = 6

_TAG = re.compile(r"[a-z][a-z0-9:._-]{0,39}")
_DAY = re.compile(r"[0-9]{1,4}[:._-][0-9]{1,2}[:._-][0-9]{1,4}")
HINT = "For example: look-again, out-of-focus, paper-2026, q3:keep."


def why_not_tag(tag: str) -> str:
    """Why this cannot be a tag, or nothing. What is refused is not repeated: it may be a name."""
    if not _TAG.fullmatch(tag):
        return f"a tag is at most {CHARS_MAX} small letters, digits, '-', '_', '.' and ':', and begins with a letter"
    if _DAY.search(tag):
        return "this tag reads like a day, and days of people are not for tags"
    digits = re.findall(r"[0-9]+", tag)
    if max(map(len, digits), default=0) > DIGITS_IN_A_ROW or sum(map(len, digits)) > DIGITS:
        return "this tag has as many digits as a case or a patient's number"
    return ""


def told_apart(*, changed: int, still: int) -> str:
    """What taking a change back cannot reach, in words, or nothing."""
    left = changed - still
    if not left:
        return ""
    return f"{left:,} of {changed:,} were changed again since: they stay as they are"
