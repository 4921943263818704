"""What a job script may say, as requests, and what its owner is told in a line that everybody can read.

A scheduler shows the reason why a job waits to all its users, and keeps it in its log. What was typed may be
somebody's name (D10), above all what was refused. So an offender is told by its number where it is one and else by its
line, an expression by the place where it is wrong, and nothing that was typed is ever told again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from mover.errors import ConfigError, ExpressionInvalid, MoverError, RequestInvalid
from mover.model import wire
from mover.model.ids import KINDS, is_id, is_number

TOLD_MAX = 400
OFFENDERS_TOLD = 10
# what was typed and is shorter may be part of any word
TYPED_LEAST = 3
STAGE_IN = frozenset(
    "cohort expression files like splits policy tier layout label shard_bytes priority deadline lease_s project".split()
)
STAGE_OUT = frozenset({"artifacts", "code", "logs"})
# the places in a request that are told; any other may hold what was typed
_PLACE = re.compile(r"(?:character|line) [0-9]+|directive|files|splits|podSets|goal")
_ECHO = re.compile(r"(enum value|unknown field) (['`]).*\2", re.DOTALL)


def pairs(said: Iterable[str], *, known: frozenset[str]) -> dict[str, str]:
    """`key=value` words; a key that nobody knows, or that stands twice, is refused."""
    found: dict[str, str] = {}
    for place, word in enumerate(said, start=1):
        key, equals, value = word.partition("=")
        if not equals or not value or key not in known:
            raise RequestInvalid(f"word {place} is none of {'=, '.join(sorted(known))}=", where="directive")
        if key in found:
            raise RequestInvalid(f"{key}= stands twice", where="directive")
        found[key] = value
    return found


def run_request(
    said: dict[str, str], *, read: Callable[[str], list[str]], lease_s: int | None, where: str = "directive"
) -> wire.RunRequest:
    """`read`: the numbers of a list that was named. `lease_s`: the job's own time, unless it says another."""
    values: dict[str, object] = {key: value for key, value in said.items() if key not in ("project", "label")}
    if "label" in said:
        values["layout_label"] = said["label"]
    if "files" in said:
        values["files"] = read(said["files"])
    if "splits" in said:
        values["splits"] = _splits(said["splits"], read)
    if lease_s is not None:
        values.setdefault("lease_s", lease_s)
    try:
        # strict=False: the words are text, and a priority is a number
        return msgspec.convert(values, wire.RunRequest, strict=False)
    except msgspec.ValidationError as error:
        raise RequestInvalid(misfit(error), where=where) from None


def _splits(said: str, read: Callable[[str], list[str]]) -> dict[str, dict[str, object]]:
    """`train=WHAT,test=WHAT`: a frozen list by its id, a list of numbers as @/path, or else a cohort."""
    found: dict[str, dict[str, object]] = {}
    for part in said.split(","):
        name, _, what = part.partition("=")
        if not name or not what or name in found:
            raise RequestInvalid("splits= is NAME=WHAT,NAME=WHAT, each name once", where="splits")
        if what.startswith("@"):
            found[name] = {"files": read(what[1:])}
        else:
            found[name] = {"selection" if is_id(what, "selection") else "cohort": what}
    return found


def finish_request(said: dict[str, str], *, exit_status: int | None, environment: dict[str, str]) -> wire.FinishRequest:
    """Several paths are parted by commas."""

    def paths(key: str) -> list[str] | None:
        return said[key].split(",") if key in said else None

    return wire.FinishRequest(
        artifacts=paths("artifacts"), code=said.get("code"), logs=paths("logs"), exit=exit_status,
        environment=environment,
    )  # fmt: skip


def misfit(error: msgspec.DecodeError) -> str:
    """What does not fit, without the words of whoever wrote it."""
    return _ECHO.sub(r"\1", str(error))


def told(error: MoverError, *, said: object = ()) -> str:
    """An error in one line, its offenders first: the line is short. `said`: what the request was made of."""
    if error.code == ExpressionInvalid.code:
        what = f"{error.code}: its author sees why with `mover cohort explain`"
    else:
        what = _with_offenders(_without(error.what, said), error.details)
    ours = isinstance(error, ConfigError) and error.code != ExpressionInvalid.code
    return line(what, error.where if ours or _is_place(error.where) else "")


def _words(said: object) -> Iterator[str]:
    """Every word in what was said, also each of several that commas part."""
    if isinstance(said, str):
        yield said
        yield from said.split(",")
    elif isinstance(said, dict):
        yield from (word for value in said.values() for word in _words(value))
    elif isinstance(said, list | tuple):
        yield from (word for value in said for word in _words(value))


def told_of(run: wire.Run) -> str:
    """Why a run came to its end before it was ready, or could not be protected."""
    what = " - ".join(part for part in (run.state, run.reason, run.explanation) if part)
    return line(_with_offenders(what, run.offenders), run.id)


def _is_place(where: str) -> bool:
    return _PLACE.fullmatch(where) is not None or any(is_id(where, kind) for kind in KINDS)


def _without(what: str, said: object) -> str:
    for word in _words(said):
        if len(word) >= TYPED_LEAST and not _is_place(word) and not is_number(word):
            what = what.replace(word, "…")
    return what


def line(what: str, where: str = "") -> str:
    text = f"{what} [{where}]" if where else what
    shown = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(shown.split())[:TOLD_MAX]


def _with_offenders(what: str, offenders: Sequence[dict[str, object]]) -> str:
    if not offenders:
        return what
    named = "; ".join(_offender(one) for one in offenders[:OFFENDERS_TOLD])
    rest = len(offenders) - OFFENDERS_TOLD
    return f"{what}: {named}" + (f"; and {rest} more" if rest > 0 else "")


def _offender(one: dict[str, object]) -> str:
    number, place = str(one.get("number", "")), f"line {one['position']}" if one.get("position") else ""
    name = number if is_number(number) else ""
    return f"{' '.join(part for part in (place, name) if part) or 'the set'}: {one.get('why', 'unusable')}"
