"""`mover deid survey`: what is in a folder, before anything moves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mover.cli.watching import Watching, refuse, some

if TYPE_CHECKING:
    from mover.decide.survey import FolderSurvey, PlaceSeen, TableSeen

SHOWN_PLACES = 12  # of one family and fate on a terminal; --all and --json show every one
SHOWN_LINES = 30
HEADS = {"unknown": "unknown, so dropped", "dropped": "dropped by rule", "rewritten": "written anew", "kept": "kept"}


@click.command("survey")
@click.argument("source_dir", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--profile", "profile_path", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="Judge by this policy of kind deid (default: the narrowest rules).")  # fmt: skip
@click.option("--draft", type=click.Path(path_type=Path, dir_okay=False),
              help="Write a profile to begin with; it holds the headers of tables in clear.")  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Every place, not only the first of each kind.")
@click.option("--json", "as_json", is_flag=True, help="Print the survey as JSON.")
def command(source_dir: Path, profile_path: Path | None, draft: Path | None, everything: bool, as_json: bool) -> None:
    """Look at everything below SOURCE_DIR and say what would become of it. Nothing is changed or copied.

    Values are never shown, only their shapes (A a 9); a vendor's keys stand by name where they are on our lists and
    masked where they are not. Exit status: 0 when nothing would wait for a person, 1 when something would.
    """
    import msgspec

    from mover.deid.survey import survey_source
    from mover.errors import MoverError
    from mover.policy import load_profile

    try:
        profile = load_profile(profile_path).policy if profile_path else None
        with Watching("looking") as progress:
            survey, comments = survey_source(source_dir, profile=profile, draft=draft, progress=progress)  # type: ignore[arg-type]
    except MoverError as error:
        refuse(error, as_json=as_json)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(survey), indent=2).decode())
    else:
        _print(survey, everything=everything)
        _print_draft(survey, draft, comments)
    sys.exit(1 if waiting(survey) else 0)


def waiting(survey: FolderSurvey) -> int:
    """How many files would wait for a person: refused ones, undeclared tables, folders nobody could list."""
    tables = sum(one.files for one in survey.tables if not one.rule)
    unwanted = sum(one.files for one in survey.families if not one.accepted)
    return sum(one.files for one in survey.refused) + tables + unwanted + survey.unlisted_folders


# --- words for somebody tired --------------------------------------------------------------------------


def _print(survey: FolderSurvey, *, everything: bool) -> None:
    from mover.cli.output import size

    what = f"{some(survey.files, 'file')}, {size(survey.bytes)}"
    click.echo(f"{what}, judged by the profile {survey.profile}; nothing was moved")
    for family in survey.families:
        unwanted = "" if family.accepted else " (the profile does not accept it)"
        click.echo(f"\n{family.family}: {some(family.files, 'file')}, {size(family.bytes)}{unwanted}")
        for fate in ("unknown", "dropped", "rewritten", "kept"):
            _print_places(fate, [one for one in family.places if one.fate == fate], everything)
        if family.more:
            click.echo(f"  and {some(family.more, 'place')} more than are told apart")
    if survey.groups:
        click.echo("\nclasses of DICOM objects:")
        for group in _some(survey.groups, everything):
            click.echo(f"  {group.files:7} {group.group}")
    for table in survey.tables:
        _print_table(table)
    if survey.refused:
        click.echo("\nwould wait in quarantine:")
        for one in _some(survey.refused, everything):
            told = one.what if not one.family or one.family in one.what else f"{one.family}: {one.what}"
            click.echo(f"  {one.files:7} {one.code}: {told}")
    if survey.aside:
        click.echo("\nleft aside: " + ", ".join(f"{count} {reason}" for reason, count in survey.aside.items()))
    if survey.unlisted_folders:
        folders = some(survey.unlisted_folders, "folder")
        click.echo(f"\n{folders} could not be listed: what is in there is not counted above")
    if survey.beyond_bounds:
        click.echo(f"\n{some(survey.beyond_bounds, 'file')} counted, but not told apart: too many different kinds")


def _print_places(fate: str, places: Sequence[PlaceSeen], everything: bool) -> None:
    from mover.cli.output import say

    if not places:
        return
    click.echo(f"  {HEADS[fate]}: {sum(one.times for one in places)}")
    shown = places if everything else places[:SHOWN_PLACES]
    for one in shown:
        shape = f" [{one.shape}]" if one.shape else ""
        say(f"  {one.times:7} {one.place}{shape}: {one.reason}")
    if len(shown) < len(places):
        click.echo(f"          … {len(places) - len(shown)} more (--all)")


def _print_table(table: TableSeen) -> None:
    from mover.cli.output import say, size

    head = f"table {table.rule}" if table.rule else f"undeclared table {table.name}"
    dialect = f"{table.encoding}, {table.delimiter!r}"
    say(f"\n{head}: {some(table.files, 'file')}, {some(table.rows, 'row')}, {size(table.bytes)}, {dialect}")
    if table.rule:
        return
    click.echo(f"  {table.why}; proposed:")
    for column in table.columns:
        say(f"  {column.position:4} [{column.shape}] {column.rule}  # {column.why}")


def _print_draft(survey: FolderSurvey, draft: Path | None, comments: Sequence[str]) -> None:
    undeclared = [one for one in survey.tables if not one.rule]
    click.echo("")
    if draft is not None:
        click.echo(f"draft: {draft} (headers in clear: keep it where the originals are, and read every line)")
        if comments:
            click.echo(f"  left as comments, because no profile may say it: {', '.join(comments)}")
    elif undeclared:
        click.echo("a profile to begin with: add --draft FILE")
    held = waiting(survey)
    click.echo(f"{some(held, 'file')} would wait for a person" if held else "nothing would wait for a person")


def _some(lines: Sequence[Any], everything: bool) -> Sequence[Any]:
    return lines if everything else lines[:SHOWN_LINES]
