"""What a job script may say, as requests, and what its owner is told in a line that everybody can read.

A scheduler shows the reason why a job waits to all its users. So an offender is told by its number where it is one
and else by its line: what is no number may be somebody's name (D10).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from mover.errors import MoverError, RequestInvalid
from mover.model import wire
from mover.model.ids import is_number

TOLD_MAX = 400
OFFENDERS_TOLD = 10
STAGE_IN = frozenset(
    {"cohort", "expression", "files", "like", "policy", "tier", "layout", "label", "priority", "lease_s", "project"}
)
STAGE_OUT = frozenset({"artifacts", "code", "logs"})


def pairs(said: Iterable[str], *, known: frozenset[str]) -> dict[str, str]:
    """`key=value` words; a key that nobody knows, or that stands twice, is refused."""
    found: dict[str, str] = {}
    for word in said:
        key, equals, value = word.partition("=")
        if not equals or not value or key not in known:
            raise RequestInvalid(f"{key!r} is not one of {', '.join(sorted(known))}", where="directive")
        if key in found:
            raise RequestInvalid(f"{key!r} stands twice", where="directive")
        found[key] = value
    return found


def run_request(said: dict[str, str], *, files: Sequence[str] | None, lease_s: int | None) -> wire.RunRequest:
    """`files`: the numbers of the list that `said` names. `lease_s`: the job's own time, unless it says another."""
    values: dict[str, object] = {key: value for key, value in said.items() if key not in ("project", "label", "files")}
    if "label" in said:
        values["layout_label"] = said["label"]
    if files is not None:
        values["files"] = list(files)
    if lease_s is not None:
        values.setdefault("lease_s", lease_s)
    try:
        # strict=False: the words are text, and a priority is a number
        return msgspec.convert(values, wire.RunRequest, strict=False)
    except msgspec.ValidationError as error:
        raise RequestInvalid(str(error), where="directive") from None


def finish_request(said: dict[str, str], *, exit_status: int | None, environment: dict[str, str]) -> wire.FinishRequest:
    """Several paths are parted by commas."""

    def paths(key: str) -> list[str] | None:
        return said[key].split(",") if key in said else None

    return wire.FinishRequest(
        artifacts=paths("artifacts"), code=said.get("code"), logs=paths("logs"), exit=exit_status,
        environment=environment,
    )  # fmt: skip


def told(error: MoverError) -> str:
    """An error in one line, its offenders first: the line is short."""
    return line(_with_offenders(error.what, error.details), error.where)


def told_of(run: wire.Run) -> str:
    """Why a run came to its end before it was ready, or could not be protected."""
    what = " - ".join(part for part in (run.state, run.reason, run.explanation) if part)
    return line(_with_offenders(what, run.offenders), run.id)


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
