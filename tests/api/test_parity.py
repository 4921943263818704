"""One schema behind API, SDK, command line and pages: `OPERATIONS`, from which the OpenAPI document is made. Each of
the other three is held against it, parameter by parameter; what is elsewhere on purpose is named with its reason."""

from __future__ import annotations

import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
import pytest
from msgspec import Struct

from mover.api import OPERATIONS
from mover.api.commands import COMMANDS
from mover.api.operation import Operation, Planned
from mover.cli import COMMANDS as GROUPS
from mover.model import wire
from mover.sdk import Client
from mover.sdk.nouns import Noun
from mover.sdk.transport import Ask, Transport
from mover.web.assets import HOME
from tests.api.test_routes import BODIES

BY_NAME = {operation.name: operation for operation in OPERATIONS}


def parameters(operation: Operation) -> set[str]:
    """Of query and body; the path's are in the path."""
    return {*operation.query.__struct_fields__, *(operation.body.__struct_fields__ if operation.body else ())}


# --- the SDK ----------------------------------------------------------------------------------------------------

# a person's own, in a browser: with a token or at the local socket there is no session to end and no password
# the three that ask for no operation, and what is made of others, or of none
MADE_OF_OTHERS = ("Runs.keep", "Runs.check", "Plots.get")
PLAIN = ("health", "metrics", "openapi")
BROWSERS = {name for name, one in BY_NAME.items() if one.action == "session.use"}


class Asked(Struct):
    ask: Ask
    answer: Any


class Caught(Exception):
    pass


class Recorder(Transport):
    """Keeps what would be sent, and sends nothing."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.asked: list[Asked] = []

    async def send(self, ask: Ask, answer: Any) -> Any:
        self.asked.append(Asked(ask, answer))
        raise Caught

    async def stream(self, ask: Ask) -> Any:
        self.asked.append(Asked(ask, str))
        raise Caught
        yield b""


VALUES: dict[Any, Any] = {
    bool: True, int: 7, float: 7.0, datetime: datetime(2026, 1, 2, tzinfo=UTC), str: "x", Any: "x",
    list: ["x"], Sequence: ["x"], dict: {"x": 1.0}, Mapping: {"x": 1.0}, Callable: lambda piece: None,
}  # fmt: skip


# what every figure takes
DRAWN = {"format": "png", "theme": "dark", "width": 7, "height": 7}


def made(shape: Any) -> Any:
    """Some value of this type that is not what it is when nothing is said."""
    origin = typing.get_origin(shape)
    if origin in (types.UnionType, typing.Union):
        return made(next(one for one in typing.get_args(shape) if one is not type(None)))
    if origin is typing.Literal:
        return typing.get_args(shape)[-1]
    kind = origin or shape
    if isinstance(kind, type) and issubclass(kind, Struct):
        return msgspec.convert(BODIES[kind.__name__], kind)
    return VALUES[kind]


async def asked_by(method: Any, recorder: Recorder) -> Asked | None:
    shapes = typing.get_type_hints(method)
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(method).parameters.items():
        free = parameter.kind is inspect.Parameter.VAR_KEYWORD
        other = not parameter.default if isinstance(parameter.default, bool) else None
        given |= (
            DRAWN if free else {} if name == "progress" else {name: other if other is not None else made(shapes[name])}
        )
    before = len(recorder.asked)
    try:
        called = method(**given)
        if inspect.isasyncgen(called):
            await anext(called)
        else:
            await called
    except Caught:
        pass
    return recorder.asked[before] if len(recorder.asked) > before else None


async def sdk() -> dict[str, list[Asked]]:
    """What each method of the SDK asks for, by operation, when everything it takes is given."""
    client, recorder = Client("http://127.0.0.1:1"), Recorder()
    found: dict[str, list[Asked]] = {}
    places: list[Any] = [client]
    for noun in vars(client).values():
        if isinstance(noun, Noun):
            noun._transport = recorder
            places.append(noun)
    client._transport = recorder
    methods = [
        method for place in places for name, method in inspect.getmembers(place, inspect.ismethod) if name[0] != "_"
    ]
    for method in methods:
        if method.__name__ in ("wait", "close", *PLAIN) or method.__qualname__ in MADE_OF_OTHERS:
            continue
        asked = await asked_by(method, recorder)
        assert asked is not None, method.__qualname__
        found.setdefault(operation_of(asked.ask).name, []).append(asked)
    return found


def operation_of(ask: Ask) -> Operation:
    for operation in OPERATIONS:
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(operation.path))
        if operation.method == ask.method and re.fullmatch(pattern, ask.path):
            return operation
    raise AssertionError(f"{ask.method} {ask.path} is no operation")


async def test_every_operation_has_a_method_with_the_same_parameters_and_the_same_answer() -> None:
    """A parameter that only curl can send is one that no scheduler uses."""
    found, wrong = await sdk(), []
    assert set(BY_NAME) - BROWSERS - set(found) == set(), "no method asks for it"
    for name, asked in found.items():
        operation = BY_NAME[name]
        said = {field for one in asked for field, value in one.ask.query.items() if value is not None}
        for one in asked:
            if one.ask.body is not None:
                defaults = {f.name: f.default for f in msgspec.structs.fields(one.ask.body)}
                wrong += [f"{name} sends a {type(one.ask.body)}"] * (type(one.ask.body) is not operation.body)
                said |= {field for field in defaults if type(one.ask.body) in taken_whole(asked)
                         or getattr(one.ask.body, field) != defaults[field]}  # fmt: skip
            planned = one.answer is wire.Plan and issubclass(operation.query, Planned)
            raw = one.answer is bytes and operation.answer is str
            if one.answer is not operation.answer and not planned and not raw:
                wrong.append(f"{name} answers {operation.answer}, its method {one.answer}")
            if operation.key == "required" and not one.ask.key and not one.ask.query.get("plan"):
                wrong.append(f"{name} needs a key")
        if said != parameters(operation):
            wrong.append(f"{name}: {sorted(said ^ parameters(operation))}")
    assert wrong == [], "\n".join(wrong)


def taken_whole(asked: list[Asked]) -> set[type]:
    """Bodies that a method takes as they are: all of their fields can be said."""
    return {type(one.ask.body) for one in asked if one.ask.body == given_body(type(one.ask.body))}


def given_body(shape: type) -> Any:
    return msgspec.convert(BODIES[shape.__name__], shape) if shape.__name__ in BODIES else None


# --- the command line -------------------------------------------------------------------------------------------

# what commands say in words of their own
SAID_OTHERWISE = {
    "expires_at": "days", "posix_uid": "uid", "posix_gid": "gid", "layout_label": "label", "columns": "column",
    "scopes": "scope", "changes_only": "changes", "every": "all", "environment": "env", "number": "slide",
    "text": "file", "password": "ask", "tags": "tag", "strangers": "no_strangers", "waiting": "all",
    "expected_count": "expected", "format": "to",
    "records.declare files": "tables", "verify.request tier": "place", "verify.request prefix": "place",
    "restores.diff to": "other", "policies.check text": "paths", "policies.check name": "paths",
    "policies.list_changes name": "policy", "runs.request files": "file",
    "cohorts.selection after": "selection", "cohorts.selection limit": "selection",  # it prints all of them
}  # fmt: skip
# no command: why
WITHOUT_COMMAND = {
    "adoptions.list_adoptions": "`deid adopt` follows the one it asked for to its end",
    "adoptions.view": "`deid adopt` follows the one it asked for to its end",
    "adoptions.request": "`deid adopt` asks, waits, shows the verdicts and registers: several steps of a person's own",
    "adoptions.register": "a step of `deid adopt`", "adoptions.report": "a step of `deid adopt --report`",
    "batches.certificate": "`batch certificate` is the deid command's file; the page downloads it",
    "cohorts.split": "`cohort split` names the parts by options of its own",
    "dumps.view": "a step of `vault dump --wait`", "protection.view": "a step of `protect … --wait`",
    "rulings.view": "`slide rulings` tells them all", "transfers.request": "`copy` and `move`, by places and words",
    "vault.export": "both key files of a custodian's own", "vault.import_rows": "a custodian's own file",
    "vault.reveal": "both key files of a custodian's own",
} | dict.fromkeys((name for name in BY_NAME if name.startswith("sessions.")), "a session is a browser's")  # fmt: skip
# a parameter without an option: why
WITHOUT_OPTION = {
    "digest": "the command reads the version it changes", "wait": "--wait and --timeout follow a job to its end",
    "plan": "judged below", "state": "--wait asks with it",
}  # fmt: skip


def command_of(operation: str) -> Iterator[click.Command]:
    """Each command that the operation's line leads to: `protect {kind:keep=keep,prune=prune}` are two."""
    line = COMMANDS[operation].replace("[", " ").replace("]", " ")
    choice = re.search(r"^([\w ]*)\{\w+:([^}]+)\}", line)
    words = [line] if choice is None else [choice[1] + pair.partition("=")[2] for pair in choice[2].split(",")]
    for one in words:
        names = one.split()
        here: click.Command = importlib.import_module(GROUPS[names[0]][0]).command
        for name in names[1:]:
            if not isinstance(here, click.Group):
                break
            here = here.commands[name]
        yield here


def test_every_operation_has_a_command_whose_options_cover_its_parameters() -> None:
    """What a page can do, a script in the night can do."""
    assert set(COMMANDS) | set(WITHOUT_COMMAND) == set(BY_NAME) and not set(COMMANDS) & set(WITHOUT_COMMAND)
    lacking = []
    for name in COMMANDS:
        operation = BY_NAME[name]
        commands = list(command_of(name))
        options = {word for one in commands for parameter in one.params for word in words_of(parameter)}
        fixed = set(re.findall(r"\{(\w+):", COMMANDS[name]))  # said by the command's own name
        for field in sorted(parameters(operation) - fixed - set(WITHOUT_OPTION)):
            own = SAID_OTHERWISE.get(f"{name} {field}", SAID_OTHERWISE.get(field, field))
            if not {field, own, re.sub("_(s|px|bytes)$", "", field)} & options:
                lacking.append(f"{name}: {field} is none of {sorted(options)}")
        if issubclass(operation.query, Planned) and not {"plan", "apply"} & options:
            lacking.append(f"{name} cannot be planned")
    assert lacking == [], "\n".join(lacking)


def words_of(parameter: click.Parameter) -> set[str]:
    """`--past-days` and what the function calls it; an argument is known by its name alone."""
    names = {word.lstrip("-").replace("-", "_") for word in parameter.opts}
    return names | {word + "s" for word in names} | {str(parameter.name)}


# --- the pages --------------------------------------------------------------------------------------------------

# no page asks for it: why
FOLLOWED = "the page lists them all, and asks for the list again"
MACHINES = "of the machine: who runs it does so at its terminal, beside the files that it is about"
CUSTODIANS = "what is revealed is opened by the custodian's own key file, which no browser is given"
TRANSFERS = "copies and moves are planned and watched where their lists are: on the command line"
WITHOUT_PAGE = {
    "adoptions.request": MACHINES, "adoptions.list_adoptions": MACHINES, "adoptions.view": MACHINES,
    "adoptions.register": MACHINES, "adoptions.report": MACHINES, "archives.keep": MACHINES,
    "archives.list_archives": MACHINES, "dumps.drill": MACHINES, "dumps.list_dumps": MACHINES, "dumps.make": MACHINES,
    "dumps.view": MACHINES, "folders.list_folders": MACHINES, "folders.protect": MACHINES,
    "protection.add_key": MACHINES, "protection.list_keys": MACHINES, "protection.request": MACHINES,
    "protection.view": MACHINES, "service.reload": MACHINES,
    "shortenings.rebuild": MACHINES, "snapshots.check": MACHINES,
    "transfers.abort": TRANSFERS, "transfers.approve": TRANSFERS, "transfers.list_transfers": TRANSFERS,
    "transfers.pause": TRANSFERS, "transfers.report": TRANSFERS, "transfers.request": TRANSFERS,
    "transfers.restore": TRANSFERS, "transfers.resume": TRANSFERS, "transfers.view": TRANSFERS,
    "verify.report": "the page shows the findings themselves", "verify.view": FOLLOWED,
    "policies.view_change": FOLLOWED, "rulings.view": FOLLOWED, "scans.view": FOLLOWED, "shortenings.view": FOLLOWED,
    **dict.fromkeys((name for name in BY_NAME if name.startswith("plots.")), "for reports: pages draw their own"),
    "runs.ready": "a training asks it while the run is staged",
    "runs.strays": "paths that a job left: whoever ran it lists them",
    "vault.erase": CUSTODIANS, "vault.export": CUSTODIANS, "vault.import_rows": CUSTODIANS,
    "vault.reveal": CUSTODIANS, "vault.status": CUSTODIANS,
}  # fmt: skip


def sources() -> str:
    return "\n".join(path.read_text() for path in sorted((HOME / "static").rglob("*.js")))


def test_every_operation_is_reachable_in_a_page_or_named_with_a_reason() -> None:
    named = set(re.findall(r'"([a-z]+\.[a-z_]+)"', sources())) & set(BY_NAME)
    assert sorted(set(BY_NAME) - named - set(WITHOUT_PAGE)) == [], "no page, and no reason"
    assert set(WITHOUT_PAGE) <= set(BY_NAME)


KEYS = re.compile(r"(?:^|,)\s*(?:(\w+)\s*(?=[,:}]|$)|\.\.\.)")


def literal(text: str) -> set[str]:
    """Names in `{ id, limit: 1 }`; of what is nested in it, nothing."""
    while re.search(r"[\[({][^\[\](){}]*[\])}]", text):
        text = re.sub(r"[\[({][^\[\](){}]*[\])}]", "0", text)
    return {name for name in KEYS.findall(text) if name}


@pytest.mark.parametrize("kind", ["asked", "done"])
def test_pages_ask_with_the_parameters_that_there_are(kind: str) -> None:
    """A parameter nobody knows is refused, but only when somebody presses the button."""
    text, wrong, seen = sources(), [], 0
    opening = r'\b(?:call|useAsk|useEvents|ask)\("([\w.]+)",\s*\{' if kind == "asked" else r'operation="([\w.]+)"'
    for found in re.finditer(opening, text):
        operation = BY_NAME[found[1]]
        path = set(re.findall(r"\{(\w+)\}", operation.path))
        if kind == "asked":
            said = literal(balanced(text, found.end()))
        else:
            tag = text[found.end() : found.end() + 4000]
            given = re.match(r"[^<>]*?said=\$\{\{", tag)
            said = literal(balanced(tag, given.end())) if given else set()
        seen += bool(said)
        wrong += [f"{found[1]}: {name}" for name in said - path - parameters(operation)]
    assert wrong == [] and seen > 15


def balanced(text: str, at: int) -> str:
    """From just behind an opening brace to the one that closes it."""
    depth = 1
    for end in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[at:end]
    raise AssertionError("a brace that nothing closes")
