"""What people read: tables and facts on stdout, progress and errors on stderr; with --json, JSON and nothing else.

Written for somebody tired: the state first, then what went wrong and how often, then what to type next.
"""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from mover.errors import MoverError
from mover.model import wire

DETAILS_SHOWN = 20
_PIPE_WIDTH = 100_000  # nothing is folded for a program that reads lines
_COLOURED = re.compile(r"\[(red|yellow|green|bold)\](.*?)\[/\]", re.DOTALL)
# what a terminal obeys, and what turns the order of letters round (UAX 9): names are other people's words
_TURNS = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_CONTROLS = (*range(32), *range(127, 160), *_TURNS)
_SHOWN = {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in _CONTROLS}
_SHOWN_CONTROLS = {code: shown for code, shown in _SHOWN.items() if code not in (9, 10)}
_JSON_CONTROLS = {code: f"\\u{code:04x}" for code in _CONTROLS if code >= 127}  # JSON itself escapes those below
_BAD = frozenset("failed refused quarantined offline expired conflict cancelled broken".split())
_GOOD = frozenset("complete caught-up published aligned ready protected cleaned checked matched online whole".split())


class Output:
    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def json(self, value: Any) -> None:
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode().translate(_JSON_CONTROLS))

    def show(self, value: Any, people: Callable[[], None]) -> None:
        """`people` prints the same thing for people."""
        if self.as_json:
            self.json(value)
        else:
            people()

    def table(self, value: Any, columns: str, rows: Iterable[Iterable[Any]], *, empty: str) -> None:
        """`columns` are words; one that ends in `>` is right-aligned. On a terminal as wide as it is, else in
        full width, so that for a pipe a row is a line."""
        if self.as_json:
            self.json(value)
            return
        listed = [[_cell(cell) for cell in row] for row in rows]
        if not listed:
            say(empty)
            return
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        names = columns.split()
        # a column that says nothing only makes the others narrow
        used = [at for at in range(len(names)) if any(row[at] for row in listed)]
        for name in (names[at] for at in used):
            right = name.endswith(">")
            made.add_column(painted(name.removesuffix(">")), justify="right" if right else "left", overflow="fold")
        for row in listed:
            made.add_row(*(painted(row[at]) for at in used))
        console().print(made)

    def facts(self, value: Any, pairs: Iterable[tuple[str, Any]]) -> None:
        """Aligned `name: value` lines; what is None or empty is left out."""
        if self.as_json:
            self.json(value)
            return
        shown = [(name, _cell(fact)) for name, fact in pairs if fact not in (None, "", [], {})]
        width = max((len(name) for name, _ in shown), default=0)
        for name, fact in shown:
            console().print(painted(f"{name:>{width}}  {fact}"), soft_wrap=True)

    def note(self, text: str) -> None:
        """One line beside the answer; never in JSON."""
        if not self.as_json:
            console().print(painted(text), soft_wrap=True)

    def plan(self, plan: wire.Plan, *, done: str = "Nothing was changed.") -> None:
        if self.as_json:
            self.json(plan)
            return
        counts = ", ".join(f"{count} {name}" for name, count in plan.counts.items())
        self.note(f"[bold]plan of {plan.step}[/]: {counts or 'nothing'}; {size(plan.bytes)}. {done}")
        rows = [(step.action, step.subject, size(step.bytes) if step.bytes else "", step.reason) for step in plan.steps]
        self.table(plan, "action subject bytes> reason", rows, empty="nothing to do")
        if plan.truncated:
            self.note(f"… and more; these are the first {len(plan.steps)}")


def console(*, stderr: bool = False) -> Any:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _PIPE_WIDTH, highlight=False, emoji=False)


def painted(text: str) -> Any:
    """`[red]…[/]` as commands write it becomes colour; every other bracket is text, and a control character is shown
    instead of obeyed: names, tags and reasons are other people's words."""
    from rich.text import Text

    plain, *rest = _COLOURED.split(text.translate(_SHOWN_CONTROLS))
    made = Text(plain)
    for colour, inner, after in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        made.append(inner, style=colour).append(after)
    return made


def say(text: str) -> None:
    """A line that holds other people's words, as it is but for what a terminal would obey."""
    click.echo(text.translate(_SHOWN_CONTROLS))


def shown() -> Callable[[bytes], bytes]:
    """For pieces of a file that go to a terminal; a pipe gets them as they are."""
    if not sys.stdout.isatty():
        return bytes
    reader = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    return lambda piece: reader.decode(piece).translate(_SHOWN_CONTROLS).encode()


def print_error(error: MoverError, *, as_json: bool) -> None:
    request = next((note.removeprefix("request ") for note in getattr(error, "__notes__", [])), "")
    if as_json:
        said = {
            "code": error.code, "what": error.what, "where": error.where, "retry": error.retry,
            "hint": error.advice, "request": request, "details": error.details,
        }  # fmt: skip
        click.echo(msgspec.json.encode(said).decode().translate(_JSON_CONTROLS), err=True)
        return
    # an expression is shown over its caret; no line of it can pass for one of ours, which begin further left
    what, *under = error.what.split("\n")
    click.echo(f"{click.style('error', fg='red')}: {what.translate(_SHOWN)} ({error.code})", err=True)
    for line in under:
        click.echo(f"{'':>9}{line.translate(_SHOWN)}", err=True)
    again = {"never": "not by itself", "later": "later, as it is", "elsewhere": "from another copy or node"}
    lines = [("where", error.where), ("again", again[error.retry]), ("to do", error.advice), ("request", request)]
    for name, line in lines:
        if line:
            click.echo(f"{name:>7}: {line.translate(_SHOWN)}", err=True)
    for detail in error.details[:DETAILS_SHOWN]:
        click.echo("         - " + "  ".join(f"{value}" for value in detail.values()).translate(_SHOWN), err=True)
    if len(error.details) > DETAILS_SHOWN:
        click.echo(f"         … and {len(error.details) - DETAILS_SHOWN} more (all of them with --json)", err=True)


def size(count: float | None) -> str:
    """Bytes as people say them."""
    if count is None:
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def state(word: str) -> str:
    """The word, in the colour of its meaning."""
    if word in _BAD:
        return f"[red]{word}[/]"
    return f"[green]{word}[/]" if word in _GOOD else word


def counts(by_name: dict[str, int]) -> str:
    return ", ".join(f"{count} {state(name)}" for name, count in sorted(by_name.items())) or "none"


def proofs(found: list[wire.Proof]) -> str:
    return ", ".join(f"{one.kind} ({one.count}, {size(one.bytes)})" for one in found)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return str(value)


class Bar:
    """Progress on stderr: a bar on a terminal, a line per change of state elsewhere, nothing with --json."""

    def __init__(self, out: Output, *, total: Callable[[Any], tuple[int, int]]) -> None:
        """`total` reads (done, of all) from what is seen."""
        self._quiet = out.as_json
        self._total = total
        self._bar: Any = None
        self._task: Any = None
        self._said = ""

    def __enter__(self) -> Bar:
        if not self._quiet and sys.stderr.isatty():
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
                console=console(stderr=True), transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("waiting", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, seen: Any) -> None:
        done, of_all = self._total(seen)
        if self._bar is not None:
            self._bar.update(self._task, description=seen.state, completed=done, total=of_all or None)
        elif not self._quiet and seen.state != self._said:
            self._said = seen.state
            click.echo(f"{seen.id}: {seen.state}" + (f" {done}/{of_all}" if of_all else ""), err=True)
