"""From bytes to values, strictly, once, at the edge.

Refused here: bodies that are not UTF-8 JSON of the declared shape, unknown fields and parameters, parameters
said twice, NUL (PostgreSQL's text cannot hold it), compressed bodies (a bomb costs its sender nothing). A
message names the place and the fault, never the value: a value may be a name.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
from aiohttp import web

from mover.api.operation import ID_PATTERN, Query
from mover.errors import LimitExceeded, MediaTypeUnknown, RequestInvalid

_PLACE = re.compile(r" - at `(?P<where>[^`]*)`$")
_QUOTED_VALUE = re.compile(r"^(Invalid enum value) .*$", re.DOTALL)
_LENGTH = re.compile(r"^Expected `str` of length (?P<bound>[<>]=) (?P<count>\d+)$")
_FORM = re.compile(
    r"^Expected `str` matching regex '\^(?P<first>\[[^]]+\])(?P<rest>\[[^]]+\])\{(?P<least>\d+),(?P<most>\d+)\}\$'$"
)
_CLASSES = {"A-Z": "letters", "a-z": "small letters", "0-9": "digits"}
_KEY_SHAPE = re.compile(r"^[\x21-\x7e]{1,200}$")
_EVENT_SHAPE = re.compile(r"[0-9]{1,18}\Z")
_UID_SHAPE = re.compile(r"^[0-9]{1,10}\Z")
ACTS_FOR = "Mover-Acts-For"
PROJECT = "Mover-Project"
_PROJECT_SHAPE = re.compile(r"^[a-z][a-z0-9-]{1,40}\Z")
UID_MAX = 2**31 - 1
_ID_SHAPE = re.compile(ID_PATTERN)


async def read_body(request: web.Request, shape: type[msgspec.Struct] | None, *, timeout_s: float) -> Any:
    """The body as this type; an absent body stands for one without any field."""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise MediaTypeUnknown("compressed bodies are not taken", hint="Send the body as it is.")
    raw = await _read(request, timeout_s=timeout_s)
    if shape is None:
        if raw.strip() not in (b"", b"{}"):
            raise RequestInvalid("this request takes no body", where="body")
        return None
    if raw and request.content_type != "application/json":
        raise MediaTypeUnknown("the body is not declared as JSON")
    return decode(raw or b"{}", shape)


async def _read(request: web.Request, *, timeout_s: float) -> bytes:
    try:
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except TimeoutError as error:
        raise LimitExceeded(f"the body did not arrive within {timeout_s:g} s") from error


def decode(raw: bytes, shape: type[msgspec.Struct]) -> Any:
    """Raises RequestInvalid with the place in the body."""
    try:
        text = raw.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise RequestInvalid("the body is not valid UTF-8", where=f"byte {error.start}") from None
    if "\\u0000" in text:
        raise RequestInvalid("the body holds a NUL character", where="body")
    try:
        return msgspec.json.decode(text, type=shape)
    except msgspec.DecodeError as error:
        raise invalid(error, root="body") from None
    except RecursionError:
        raise RequestInvalid("the body is nested too deeply", where="body") from None


def read_query(request: web.Request, shape: type[Query]) -> Any:
    values: dict[str, str] = {}
    for name, value in request.query.items():
        if name in values:
            raise RequestInvalid(f"the parameter {name!r} stands twice", where="query")
        if "\0" in value or not value.isprintable():
            raise RequestInvalid("a parameter holds a character that cannot be printed", where="query")
        values[name] = value
    try:
        return msgspec.convert(values, shape, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error, root="query") from None


def read_path(request: web.Request) -> dict[str, str]:
    """Ids, numbers and names are short and plain; anything else names nothing, which is 404 for the rooms to
    say, but must not reach SQL or a log as it is."""
    for name, value in request.match_info.items():
        if not _ID_SHAPE.match(value):
            raise RequestInvalid("an id is 1 to 128 letters, digits, '-', '_', '.' or '@'", where=f"path {name}")
    return dict(request.match_info)


def read_key(request: web.Request, *, required: bool) -> str:
    key = request.headers.get("Idempotency-Key", "")
    if required and not key:
        raise RequestInvalid(
            "this request needs an Idempotency-Key", where="Idempotency-Key",
            hint="Send what stays the same when this is repeated: cluster/job/submit-time/restart.",
        )  # fmt: skip
    if key and not _KEY_SHAPE.match(key):
        raise RequestInvalid("a key is 1 to 200 printable ASCII characters", where="Idempotency-Key")
    return key


def read_last_event(request: web.Request) -> int:
    """What an event stream goes on after; 0 from its beginning."""
    said = request.headers.get("Last-Event-ID", "0")
    if not _EVENT_SHAPE.match(said):
        raise RequestInvalid("an event is a number of at most 18 digits", where="Last-Event-ID")
    return int(said)


def read_acts_for(request: web.Request) -> int | None:
    """The uid in whose name a scheduler asks; None where it asks for itself."""
    said = request.headers.get(ACTS_FOR)
    if said is None:
        return None
    if not _UID_SHAPE.match(said) or int(said) > UID_MAX:
        raise RequestInvalid("a uid is a number of at most 31 bits", where=ACTS_FOR)
    return int(said)


def read_project(request: web.Request) -> str | None:
    """The project in which this one request is meant; None is the token's, or the one the session looks at."""
    said = request.headers.get(PROJECT)
    if said is None:
        return None
    if not _PROJECT_SHAPE.match(said):
        raise RequestInvalid("a project's name is 2 to 41 small letters, digits and '-'", where=PROJECT)
    return said


def invalid(error: msgspec.DecodeError, *, root: str) -> RequestInvalid:
    message = str(error)
    place = _PLACE.search(message)
    what = _QUOTED_VALUE.sub(r"\1", _PLACE.sub("", message))
    if length := _LENGTH.match(what):
        bound = "at least" if length["bound"] == ">=" else "at most"
        what = f"this text must have {bound} {length['count']} character" + "s" * (length["count"] != "1")
    elif "matching regex" in what:
        what = _form(_FORM.match(what))
    return RequestInvalid(what, where=place["where"].replace("$", root, 1) if place else root)


def _form(found: re.Match[str] | None) -> str:
    """A pattern in words, as far as people wrote it: a beginning, then what may follow, so often."""
    if found is None:
        return "this text has not the form that it must have"
    may, most = found["rest"][1:-1], int(found["most"]) + 1
    words = [said for of, said in _CLASSES.items() if of in may]
    if "letters" in words:
        words.remove("small letters")
    signs = re.sub("|".join(_CLASSES), "", may)
    told = ", ".join([*words, *(repr(sign) for sign in signs)])
    first = "a letter" if "0-9" not in found["first"] else "a letter or digit"
    return f"this text may be {int(found['least']) + 1} to {most} of: {told}; it begins with {first}"
