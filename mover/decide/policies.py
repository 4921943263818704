"""What a change of a policy changes, and which of it a second person looks at first: two policies in, reasons out.

A second person agrees where data goes elsewhere, where less is protected, watched or told, where more of people's data
may pass, and where something of the site's own is run or read. All else acts at once: whoever sees a clinic's NAS
suffer must not wait for a colleague to lower a budget.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
from msgspec import Struct

from mover.decide.retention import shorter, terms_of
from mover.model.policy import ImagesPolicy, Policy, ProtectPolicy, RecordsPolicy

TOLD_CHARACTERS = 120
_FOR_EVER = float("inf")
_BY_CODE = 1.5  # reviewers where nothing is said: two for some codes, one for the others


class Change(Struct, frozen=True):
    """One field, by its path in the file; None where it does not stand."""

    field: str
    before: Any
    after: Any

    @property
    def words(self) -> str:
        return f"{spoken(self.before)} → {spoken(self.after)}"


class Risk(Struct, frozen=True):
    field: str
    why: str

    @property
    def words(self) -> str:
        return f"{self.field}: {self.why}" if self.field else self.why


When = Callable[[Any, Any], bool]


class _Rule(Struct, frozen=True):
    """`new`: of a policy that was not there before, too."""

    field: str
    when: When
    why: str
    new: bool = False


def kind_of(policy: Policy) -> str:
    return cast(str, type(policy).__struct_config__.tag)


def changes(before: Policy | None, after: Policy | None) -> list[Change]:
    """Fields whose value is another, defaults included: a value that was left out is the default it stands for."""
    old, new = _flat(before), _flat(after)
    return [
        Change(field, old.get(field), new.get(field))
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
    ]


def risks(before: Policy | None, after: Policy | None) -> list[Risk]:
    """Why a second person agrees first; none: it acts at once."""
    if before is not None and (after is None or kind_of(before) != kind_of(after)):
        first = _goes(before)
        return first + (risks(None, after) if after is not None else [])
    if after is None:
        return []
    old, new = _plain(before), _plain(after)
    found = [
        Risk(rule.field, rule.why)
        for rule in _RULES[kind_of(after)]
        if (rule.new or before is not None) and rule.when(_at(old, rule.field), _at(new, rule.field))
    ]
    if isinstance(after, ProtectPolicy) and isinstance(before, ProtectPolicy):
        found += [Risk(word, _SHORTER) for word in shorter(terms_of(before), terms_of(after))]
    return found


def _goes(policy: Policy) -> list[Risk]:
    """What is lost with a policy; the persons that it asked for are, too."""
    gone = [Risk("", why) for why in (_GONE.get(kind_of(policy)),) if why]
    asked = isinstance(policy, ImagesPolicy | RecordsPolicy) and (
        _less(_BY_CODE)(policy.reviewers, None) or _fewer_reviewers(policy.reviewers_of, None)
    )
    return gone + ([Risk("", _ALONE)] if asked else [])


def spoken(value: Any) -> str:
    if value is None:
        return "nothing"
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return said if len(said) <= TOLD_CHARACTERS else f"{said[:TOLD_CHARACTERS]}…"


# --- when ----------------------------------------------------------------------------------------------------


def _changed(before: Any, after: Any) -> bool:
    """Nothing is as good as an empty list."""
    return bool((before or None) != (after or None))


def _more_of(before: Any, after: Any) -> bool:
    return any(one not in (before or []) for one in after or [])


def _fewer_of(before: Any, after: Any) -> bool:
    return _more_of(after, before)


def _said(word: Any) -> When:
    return lambda before, after: after == word and before != word


def _less(nothing: float) -> When:
    return lambda before, after: _number(after, nothing) < _number(before, nothing)


def _more(nothing: float) -> When:
    return lambda before, after: _number(after, nothing) > _number(before, nothing)


def _number(value: Any, nothing: float) -> float:
    return nothing if value is None else float(value)


def _fewer_reviewers(before: Any, after: Any) -> bool:
    """Of codes: what is not said is the default, which is two or one."""
    old, new = before or {}, after or {}
    return any(_number(new.get(code), _BY_CODE) < _number(old.get(code), _BY_CODE) for code in old.keys() | new.keys())


def _some_less(before: Any, after: Any) -> bool:
    """Of rules that keep: one keeps less."""
    return any((after.get(name) or 0) < (count or 0) for name, count in _counts(before))


def _counts(keep: dict[str, Any]) -> list[tuple[str, int]]:
    return [(name, value) for name, value in keep.items() if isinstance(value, int)]


# --- what ----------------------------------------------------------------------------------------------------

_TIER = "another tier; what stands on the one before stays there"
_PASS = "what may pass of people's data is judged by it"
_READ = "it is read with the daemon's own rights, and whoever may restore sees it"
_RUN = "an executable of the site is run"
_GOES = "sources leave by it"
_SHORTER = "it promises less: what held goes on until two persons agreed to that, too (mover protect ask shorten)"
_ALONE = "fewer persons decide about what waits in quarantine"
_LOCK = "locks are promised for less"
_LATER = "damage is found later"

_RULES: dict[str, tuple[_Rule, ...]] = {
    "images": (
        _Rule("from", _changed, _TIER), _Rule("to", _changed, _TIER), _Rule("profile", _changed, _PASS, new=True),
        _Rule("refused_objects", _said("leave"), "a folder is published without what was refused of it", new=True),
        _Rule("reviewers", _less(_BY_CODE), _ALONE, new=True),
        _Rule("reviewers_of", _fewer_reviewers, _ALONE, new=True),
    ),
    "records": (_Rule("", _changed, _PASS, new=True),),
    "deid": (_Rule("", _changed, _PASS, new=True),),
    "stage": (
        _Rule("from", _changed, _TIER), _Rule("to", _changed, _TIER),
        _Rule("unknown_patients", _said("allow"), "one patient may be on both sides of a split", new=True),
    ),
    "protect": (
        _Rule("from", _changed, _TIER), _Rule("to", _changed, _TIER), _Rule("prefix", _changed, "another repository"),
        _Rule("roots", _more_of, _READ, new=True), _Rule("folders", _more_of, _READ, new=True),
        _Rule("folders", _fewer_of, "a folder is no longer protected as it was"),
        _Rule("prune_grace_s", _less(0), "packs go sooner after they were marked"),
        *(_Rule(field, _more(0), _LATER) for field in ("drill_every_s", "sample_every_s", "whole_every_s")),
        _Rule("sample_percent", _less(0), _LATER),
        *(_Rule(field, _more(_FOR_EVER), "its alarm comes later") for field in ("recovery_time_s", "recovery_point_s")),
    ),
    "clean": (
        _Rule("from", _changed, _TIER),
        _Rule("automatic", _said(True), "run roots go without anybody asking", new=True),
        _Rule("before_clean", _changed, _RUN, new=True), _Rule("after_clean", _changed, _RUN, new=True),
        _Rule("aside_s", _less(_FOR_EVER), "what was moved aside goes sooner"),
    ),
    "budget": (),
    "verify": (
        _Rule("tier", _changed, _TIER),
        _Rule("repair_from", _changed, "files are replaced by those of another tier", new=True),
        _Rule("share_per_day", _less(0), _LATER),
    ),
    "archive": (
        _Rule("tier", _changed, _TIER), _Rule("second_copy", _changed, _TIER),
        _Rule("lock_s", _less(0), _LOCK), _Rule("lock_mode", _said("governance"), _LOCK),
    ),
    "move": (
        _Rule("release", _changed, _GOES, new=True), _Rule("from", _changed, _TIER), _Rule("to", _changed, _TIER),
    ),
    "dump": (
        _Rule("to", _changed, _TIER), _Rule("keep", _some_less, "dumps are kept for less"),
        _Rule("max_age_s", _more(0), "slides are released on an older dump"), _Rule("drill_every_s", _more(0), _LATER),
    ),
    "audit": (
        _Rule("to", _fewer_of, "signed ends of the audit go to fewer tiers"),
        _Rule("every_s", _more(0), "the ends of the audit are signed later"),
    ),
    "alarm": (
        _Rule("to", _fewer_of, "fewer are told"), _Rule("severity", _said("now"), "less is told"),
        _Rule("codes", _changed, "other needs are told"),
    ),
}  # fmt: skip

_GONE = {
    "protect": "nothing new is protected by it; what it keeps stays",
    "deid": _PASS,
    "verify": "what stands there is not read again",
    "archive": "published slides have no second copy made, and their locks run out",
    "dump": "vault and catalog are dumped no more",
    "audit": "the audit's ends are signed and copied no more",
    "alarm": "nobody is told",
}


# --- values --------------------------------------------------------------------------------------------------


def _plain(policy: Policy | None) -> dict[str, Any]:
    return {} if policy is None else cast(dict[str, Any], msgspec.json.decode(msgspec.json.encode(policy)))


def _at(plain: dict[str, Any], field: str) -> Any:
    return plain.get(field) if field else plain


def _flat(policy: Policy | None) -> dict[str, Any]:
    return dict(_leaves(_plain(policy), ())) if policy is not None else {}


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Members of a list that have names go by them: a table that moved up is no other table."""
    named = isinstance(value, list) and value and all(isinstance(one, dict) and "name" in one for one in value)
    if named:
        value = {one["name"]: one for one in value}
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    else:
        yield ".".join(path), value
