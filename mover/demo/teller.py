"""How the demo speaks to a person: titles, lines, tables and progress, on a terminal and into a pipe alike.

Into a pipe nothing is drawn and redrawn: progress becomes a line every few seconds, and the width is one that
logs and mails keep whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mover.clock import monotonic_s

PIPE_WIDTH = 100
LINE_EVERY_S = 5.0

Tick = Callable[[int, int], None]


class Teller:
    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(emoji=False, highlight=False)
        if console is None and not self.console.is_terminal:
            self.console.width = PIPE_WIDTH

    def title(self, text: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{text}", align="left")

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def table(self, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
        """A column whose name ends in `>` is right-aligned; eighty columns must be enough for all of them."""
        made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
        for name in columns:
            justify: JustifyMethod = "right" if name.endswith(">") else "left"
            made.add_column(name.removesuffix(">"), justify=justify, overflow="fold")
        for row in rows:
            made.add_row(*(str(cell) for cell in row))
        self.console.print(made)

    @contextmanager
    def bar(self, what: str) -> Iterator[Tick]:
        """`tick(done, total)` as often as one likes, from any thread."""
        if not self.console.is_terminal:
            yield self._lines(what)
            return
        counted = TextColumn("{task.completed}/{task.total}")
        columns = (TextColumn(f"  {what}"), BarColumn(), counted, TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def _lines(self, what: str) -> Tick:
        began = said = monotonic_s()

        def tick(done: int, total: int) -> None:
            nonlocal said
            now = monotonic_s()
            if now - said >= LINE_EVERY_S and done < total:
                said = now
                self.say(f"  {what}: {done}/{total} after {now - began:.0f} s")

        return tick


def size(count: int) -> str:
    """Bytes as `mover` says them everywhere."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("unreachable")


def counts(by_name: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in by_name.items()) or "none"


__all__ = ["Teller", "Tick", "counts", "size"]
