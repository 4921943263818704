"""Words of other people stand as they are: in tables, facts and notes, and times are said as they were printed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest
from click.testing import CliRunner

from mover.cli.common import Moment, as_of_option
from mover.cli.output import Output, painted
from mover.cli.protect import show_turn
from mover.cli.run import _show
from mover.cli.snapshot import _until
from mover.model import wire

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "said", ["weights[best].pt", "see [/tickets/4]", "[/]", "a[1].pt", "[link=http://x]y", "back\\[slash"]
)
def test_brackets_of_names_and_reasons_are_text(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Read as markup, `weights[best].pt` loses a part of its name and one reason breaks every list that shows it."""
    out = Output(as_json=False)
    out.table(None, "path", [(said,)], empty="")
    out.facts(None, [("reason", said)])
    out.note(said)
    assert capsys.readouterr().out.count(said) == 3


def test_what_commands_colour_is_coloured_and_only_that() -> None:
    """The colours are the commands' own: nothing between them is read twice."""
    text = painted("[red]2 missing[/]: of run[7] [green]whole[/]")
    assert text.plain == "2 missing: of run[7] whole"
    assert [(text.plain[span.start : span.end], span.style) for span in text.spans] == [
        ("2 missing", "red"), ("whole", "green"),
    ]  # fmt: skip


def test_a_control_character_in_a_name_is_shown_and_not_obeyed() -> None:
    """A job may name a file so that a terminal is cleared, or writes what nobody printed."""
    assert painted("out/\x1b[2J\x9b1m.pt\r").plain == "out/\\x1b[2J\\x9b1m.pt\\x0d"


def test_a_row_is_a_line_for_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """`mover snapshot files ID | grep …` finds long paths, too."""
    path = "/artifacts/" + "deep/" * 100 + "weights.pt"
    Output(as_json=False).table(None, "type path", [("file", path)], empty="")
    assert f"file   {path}" in [line.rstrip() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    "said",
    ["2026-11-22 12:00:00Z", "2026-11-22 12:00:00", "2026-11-22T12:00:00", "2026-11-22T12:00:00.000000Z",
     "2026-11-22T13:00:00+01:00"],
)  # fmt: skip
def test_a_time_is_taken_as_it_was_printed(said: str) -> None:
    """Who copies a time out of a table or out of JSON need not rewrite it."""
    assert Moment().convert(said, None, None) == NOON


def test_what_is_no_time_says_how_to_say_one() -> None:
    """A refused option shows a form that is taken."""
    with pytest.raises(click.BadParameter, match="2026-11-22 18:00:00"):
        Moment().convert("yesterday", None, None)


def test_as_of_a_printed_second_means_all_of_it() -> None:
    """A snapshot recorded at 12:00:00.7 is printed as 12:00:00, and is on record then."""

    @click.command
    @as_of_option
    def command(as_of: datetime) -> None:
        click.echo(as_of.isoformat())

    def asked(said: str) -> datetime:
        return datetime.fromisoformat(CliRunner().invoke(command, ["--as-of", said]).output.strip())

    assert timedelta(seconds=0.9) < asked("2026-11-22 12:00:00Z") - NOON < timedelta(seconds=1)
    assert asked("2026-11-22T12:00:00.25Z") - NOON == timedelta(seconds=0.25)


def test_a_turn_that_runs_does_not_say_that_nothing_was_to_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    """Only its end tells that."""
    for finished in (None, NOON):
        turn = wire.ProtectTurn(
            id="turn-1", policy="p", kind="drill", state="done" if finished else "running", started_at=NOON,
            finished_at=finished,
        )  # fmt: skip
        show_turn(Output(as_json=False), turn)
        assert ("nothing was to be done" in capsys.readouterr().out) == bool(finished)


def test_a_hold_says_until_when_as_tables_say_times() -> None:
    """One form of a time everywhere: what was printed can be said again."""
    until = [
        _until(wire.Hold(id="hold-1", snapshot="s", reason="paper", placed_by="ada", placed_at=NOON, until=end))
        for end in (NOON, None)
    ]
    assert until == ["until 2026-11-22 12:00:00Z", "until released"]


def test_the_last_words_of_a_hook_that_failed_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever reads why a cleanup stopped must not need the daemon's node; what a script prints is anybody's."""
    hook = wire.RunHook(
        phase="before-clean", name="drain", state="failed", attempts=2, why="ended with status 3", began_at=NOON,
        output="".join(f"line {n}\n" for n in range(30)) + "\x1b[2Jbusy\n",
    )  # fmt: skip
    done = wire.RunHook(phase="before-clean", name="ask", state="succeeded", attempts=1, began_at=NOON, output="quiet")
    run = wire.Run(
        id="run-1", state="protected", tier="flash", policy="stage", created_at=NOON, explanation="nothing was removed",
        hooks=[hook, done],
    )  # fmt: skip
    _show(Output(as_json=False), run)
    said = capsys.readouterr().out
    assert "before-clean hook drain: failed, attempt 2 (ended with status 3)" in said
    assert "| line 29" in said and "line 10" not in said and "\\x1b[2Jbusy" in said and "\x1b[2J" not in said
    assert "hook ask: succeeded" in said and "quiet" not in said
