"""What people see while they wait, before they begin and when it is refused, of commands that ask no daemon too."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

if TYPE_CHECKING:
    from mover.errors import MoverError

LINE_EVERY_S: Final = 30.0
SENTENCE_CHARS: Final = 300


class WholeLines(click.Group):
    """A group whose list of commands says each first sentence to its end."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(SENTENCE_CHARS)) for name, one in found if one])


def refuse(error: MoverError, *, as_json: bool) -> NoReturn:
    """As `main` says it: what, where, whether to try again, what to do."""
    from mover.cli.output import print_error

    print_error(error, as_json=as_json)
    sys.exit(error.exit_status)


class Watching:
    """A bar where somebody watches, a line now and then where the words go to a file. As a context it answers what to
    call with (files done, files in all), from any thread but one at a time."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._bar: Any = None
        self._said_at = 0.0

    def __enter__(self) -> Watching:
        from mover.clock import monotonic_s

        self._said_at = monotonic_s()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn(self._doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("files", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        from mover.clock import monotonic_s

        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
        elif monotonic_s() - self._said_at >= LINE_EVERY_S:
            self._said_at = monotonic_s()
            click.echo(f"{self._doing}: {done} of {total} files", err=True)


def some(count: int, noun: str) -> str:
    """ "1 file", "2 files"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
