"""Logs hold what happened and never whose slide it was."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mover import log
from mover.errors import DigestMismatch

NAME = "Mustermann^Erika"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    log.configure(stream=stream)
    yield stream
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
    log._configure_structlog(level="warning")


def last(lines: io.StringIO) -> dict[str, Any]:
    return json.loads(lines.getvalue().splitlines()[-1])


def test_a_line_is_an_action_with_fields(lines: io.StringIO) -> None:
    log.get_logger("jobs").info("shard done", shard="shard-1", bytes=5, seconds=0.25)
    found = last(lines)
    assert found.pop("timestamp").endswith("Z")
    assert found == {
        "event": "shard done", "level": "info", "room": "jobs", "shard": "shard-1", "bytes": 5, "seconds": 0.25,
    }  # fmt: skip


def test_a_field_nobody_listed_does_not_pass(lines: io.StringIO) -> None:
    """The name of the field is from our code and may be shown; its value may be anybody's."""
    log.get_logger("jobs").info("read", path=f"/intake/{NAME}.svs", tier="intake")
    assert last(lines)["refused"] == ["path"] and last(lines)["tier"] == "intake"
    assert NAME not in lines.getvalue()


def test_values_that_are_not_plain_show_their_type_only(lines: io.StringIO) -> None:
    log.get_logger("jobs").info("read", tier={"name": NAME}, what=Path(NAME), members=[NAME.encode()] * 500)
    found = last(lines)
    assert (found["tier"], found["what"]) == ("<dict>", "<PosixPath>")
    assert found["members"] == ["<bytes>"] * log.LIST_LIMIT and NAME not in lines.getvalue()


def test_an_exceptions_text_stays_out_and_its_way_through_the_code_stays_in(lines: io.StringIO) -> None:
    """Errors of libraries quote file names and rows; the stack of file and line is what a programmer needs."""
    try:
        try:
            Path(f"/intake/{NAME}.svs").read_bytes()
        except OSError as error:
            raise ValueError(NAME) from error
    except ValueError:
        log.get_logger("jobs").exception("read failed")
    found = last(lines)
    assert (found["error"], found["error_types"]) == ("ValueError", ["FileNotFoundError"])
    assert any(frame.startswith("tests/test_log.py:") for frame in found["frames"]) and NAME not in lines.getvalue()


def test_of_a_group_of_tasks_the_error_that_ended_them_is_told(lines: io.StringIO) -> None:
    """A daemon that ends by one of its loops says by which, and by what."""

    async def loop() -> None:
        raise ValueError(NAME) from OSError(NAME)

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.Event().wait())
            group.create_task(loop())

    try:
        asyncio.run(together())
    except ExceptionGroup:
        log.get_logger("process").exception("ends")
    found = last(lines)
    assert (found["error"], found["error_types"]) == ("ExceptionGroup", ["ValueError", "OSError"])
    assert found["frames"][-1].startswith("tests/test_log.py:") and NAME not in lines.getvalue()


def test_our_own_errors_bring_code_and_sentence(lines: io.StringIO) -> None:
    try:
        raise DigestMismatch("the copy differs") from OSError(NAME)
    except DigestMismatch:
        log.get_logger("tiers").exception("copy failed")
    found = last(lines)
    assert (found["code"], found["what"]) == ("digest-mismatch", "the copy differs") and NAME not in lines.getvalue()


def test_libraries_speak_without_their_words(lines: io.StringIO) -> None:
    """aiohttp, psycopg and the rest put URLs, rows and paths into their messages."""
    try:
        raise RuntimeError(NAME)
    except RuntimeError:
        logging.getLogger("aiohttp.server").exception("error at /%s", NAME)
    found = last(lines)
    assert found["room"] == "aiohttp.server" and found["error"] == "RuntimeError" and "test_log.py:" in found["at"]
    assert NAME not in lines.getvalue()
    logging.getLogger("asyncio").info("chatter %s", NAME)
    assert last(lines)["room"] == "aiohttp.server"


def test_a_request_id_reaches_every_line_it_causes(lines: io.StringIO) -> None:
    with log.bound(request="r-1"):
        log.get_logger("api").info("asked")
        assert last(lines)["request"] == "r-1"
    log.get_logger("api").info("idle")
    assert "request" not in last(lines)


def test_control_characters_cannot_forge_a_line(lines: io.StringIO) -> None:
    log.get_logger("api").info("asked\n<0>forged", code='x\n{"event":"forged"}\u2028\x1b[2J')
    assert len(lines.getvalue().splitlines()) == 1
    assert "\x1b" not in lines.getvalue() and last(lines)["code"].startswith("x?{")


def test_the_journal_is_told_the_priority() -> None:
    stream = io.StringIO()
    log._configure_structlog(level="info", journal=True, stream=stream)
    log.get_logger("api").warning("slow")
    log.get_logger("api").error("failed")
    log._configure_structlog(level="warning")
    assert [line[:3] for line in stream.getvalue().splitlines()] == ["<4>", "<3>"]


def test_every_call_in_the_house_uses_fixed_words_and_listed_fields() -> None:
    """What would be refused at night is found here: an unlisted field, or an action made of values."""
    root = Path(log.__file__).parent
    wrong = []
    for path in root.glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not _is_log_call(node) or path.name == "log.py":
                continue
            fixed = bool(node.args) and isinstance(node.args[0], ast.Constant)
            fields = {word.arg for word in node.keywords} - {None, "exc_info"}
            if not fixed or fields - log.FIELDS:
                wrong.append(f"{path.relative_to(root)}:{node.lineno} {sorted(fields - log.FIELDS)}")
    assert wrong == []


def _is_log_call(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("debug", "info", "warning", "error", "exception", "critical")
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("log", "_log", "logger")
    )
