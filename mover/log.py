"""Structured logs: one JSON object a line to stderr, an action with fields.

No identifier may enter a log (D10), so the door is narrow: only the field names listed here pass, with plain and
short values; a field that is not listed is dropped and its name reported in `refused`. An exception leaves its type,
our stable code and the lines of code it came through. Its text is left out unless it is one of our own errors, whose
texts hold no identifiers; texts of libraries quote file names and values.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TextIO

import structlog

from mover.errors import MoverError

# ours, and nothing else: ids, numbers, codes, counts, sizes, durations, names from our own code or settings
FIELDS = frozenset(
    """
    request actor role project node version
    batch pack records record_set run cohort selection snapshot restore token proof record shard number subject
    entry row tier zone queue kind policy state step table family action reason code retry attempt attempts
    epoch priority count members bytes size_bytes seconds delay_s lease_s wait_s rate_bytes_s files slides rows
    removed kept found missing strays staged linked copied quarantined published duplicates skipped failed
    method route status signal exit_status pid port host address socket
    digest root verifier repository_id added_bytes
    error what error_types frames
    """.split()
)
TEXT_LIMIT = 400
LIST_LIMIT = 50
FRAMES_LIMIT = 20

# <level> as syslog numbers it: the journal reads the prefix and strips it
_PRIORITY = {"critical": 2, "exception": 3, "error": 3, "warning": 4, "info": 6, "debug": 7}
_OWN = ("event", "level", "timestamp", "room", "refused", "at")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Event = MutableMapping[str, Any]


def configure(*, level: str = "info", journal: bool = False, stream: TextIO | None = None) -> None:
    """Called once by whoever owns the process. `journal` adds the syslog priority to each line."""
    _configure_structlog(level=level, journal=journal, stream=stream)
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(max(logging.WARNING, getattr(logging, level.upper())))


def _configure_structlog(*, level: str, journal: bool = False, stream: TextIO | None = None) -> None:
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        describe_exception,
        only_known_fields,
        _render(journal),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )


def close_side_doors() -> None:
    """What Python itself would print past us: warnings, and exceptions that nobody caught, with the text of the
    exception and of every cause. A failed insert's text quotes the row. For a process that holds identifiers."""
    logging.captureWarnings(True)
    log = get_logger("process")

    def uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            log.critical("process ends by an error", exc_info=error)

    def in_thread(given: threading.ExceptHookArgs) -> None:
        log.error("thread ended by an error", exc_info=given.exc_value)

    def in_finalizer(given: Any) -> None:
        log.error("an error that nobody could catch", exc_info=given.exc_value)

    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, in_thread, in_finalizer


def get_logger(name: str) -> Any:
    """`log.info("shard done", shard=…, seconds=…)`: the first word says what happened, the fields to what."""
    return structlog.get_logger(room=name)


@contextmanager
def bound(**fields: str) -> Iterator[None]:
    """Every line written inside, in this task and those it starts, carries these fields: a request's id."""
    with structlog.contextvars.bound_contextvars(**fields):
        yield


def describe_exception(_: Any, __: str, event: Event) -> Event:
    """`exc_info` becomes what may be shown of it."""
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event.update(exception_fields(error))
    return event


def exception_fields(error: BaseException) -> dict[str, Any]:
    """Type, code, the types of its causes and file:line of the frames; its text only when it is ours."""
    frames = traceback.extract_tb(_first(error).__traceback__)[-FRAMES_LIMIT:]
    fields: dict[str, Any] = {
        "error": type(error).__name__,
        "error_types": [type(cause).__name__ for cause in _causes(error)],
        "frames": [f"{_short(frame.filename)}:{frame.lineno}" for frame in frames],
    }
    if isinstance(error, MoverError):
        fields |= {"code": error.code, "what": error.what}
    return fields


def _first(error: BaseException) -> BaseException:
    """Of a group the error that came first: it ended the other tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _causes(error: BaseException) -> Iterator[BaseException]:
    if (first := _first(error)) is not error:
        yield first
        error = first
    for _ in range(10):
        following = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if following is None:
            return
        yield following
        error = following


def _short(path: str) -> str:
    """The end of the path only: where this is installed is nobody's business."""
    return "/".join(path.split("/")[-2:])


def only_known_fields(_: Any, __: str, event: Event) -> Event:
    """The narrow door. Runs last, so that nothing can add a field behind it."""
    passed: Event = {name: event[name] for name in _OWN if name in event}
    passed["event"] = _CONTROL.sub("?", str(event.get("event", "")))[:TEXT_LIMIT]
    refused = sorted(name for name in event if name not in FIELDS and name not in _OWN)
    for name, value in event.items():
        if name in FIELDS:
            passed[name] = _plain(value)
    if refused:
        passed["refused"] = refused[:LIST_LIMIT]
    return passed


def _plain(value: Any) -> Any:
    """Numbers and short texts; of anything else only its type, because its text is not ours."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _CONTROL.sub("?", value)[:TEXT_LIMIT]
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in list(value)[:LIST_LIMIT]]
    return f"<{type(value).__name__}>"


def _render(journal: bool) -> Any:
    as_json = structlog.processors.JSONRenderer(ensure_ascii=True, sort_keys=False)

    def render(logger: Any, method: str, event: Event) -> str:
        prefix = f"<{_PRIORITY.get(str(event.get('level')), 6)}>" if journal else ""
        return prefix + str(as_json(logger, method, event))

    return render


class _Bridge(logging.Handler):
    """Libraries log through the standard module, with texts that quote whatever they hold. Of their lines we keep
    who said it, where in its code, how loud, and the exception's type."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname.lower() if record.levelno >= logging.WARNING else "info"
        say = getattr(structlog.get_logger(room=record.name), "error" if level == "critical" else level)
        say("library message", at=f"{_short(record.pathname)}:{record.lineno}", exc_info=record.exc_info)


# Until somebody configures, the door is narrow already: structlog's own default would print whatever it is given.
_configure_structlog(level="warning")
