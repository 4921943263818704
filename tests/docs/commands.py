"""Commands as the pages say them: found, told apart from prose, and parsed by the commands themselves.

A command stands in a fenced block (`sh`, `console` or without a word) or as a span of code in a sentence. What is
written as it would be typed is parsed as if it were typed; what is written as a pattern (`[--plan]`, `list | show ID`,
`…`) has its words checked: each command and each option must exist.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
from msgspec import Struct

from mover.cli import command as top
from mover.cli.deid import RUN, FolderOrCommand
from mover.schedulers import kueue, slurm

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "policies" / "README.md", *(ROOT / "docs").glob("*.md")])
OURS: dict[str, click.Command] = {"mover": top, "mover-slurm": slurm.command, "mover-kueue": kueue.command}
# what else a page may tell somebody to type
OTHERS = set(
    "apt chown cp curl export fusermount install journalctl make mkdir mover-release mv openssl podman promtool psql"
    " python restic sed sh systemctl systemd-analyze".split()
)
# words that stand for what is not free text
VALUES = {"TIME": "2026-11-22", "N": "1", "SIZE": "1GiB", "UID": "1000", "GID": "1000"}
FENCES = ("sh", "console", "")
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
PATTERN = re.compile(r"[\[\]|…]|\.\.\.")


class Block(Struct, frozen=True):
    language: str
    line: int
    text: str


class Line(Struct, frozen=True):
    page: str
    number: int
    text: str
    typed: bool  # in a block, as somebody types it; else a span in a sentence

    @property
    def pattern(self) -> bool:
        return bool(PATTERN.search(re.sub(r'"[^"]*"', "", self.text)))


def blocks(text: str) -> Iterator[Block]:
    for found in FENCE.finditer(text):
        yield Block(found[1], text.count("\n", 0, found.start()) + 2, found[2])


def lines(page: Path) -> list[Line]:
    """Every command of a page; the order is that of the page, blocks before spans."""
    text, name = page.read_text("utf-8"), str(page.relative_to(ROOT))
    found = [line for block in blocks(text) if block.language in FENCES for line in _of_block(block, name)]
    prose = FENCE.sub(lambda one: "\n" * one[0].count("\n"), text)
    for at, words in enumerate(prose.splitlines(), 1):
        spans = (span[1].strip() for span in SPAN.finditer(words))
        found += [Line(name, at, span, False) for span in spans if span.split()[:1] and span.split()[0] in OURS]
    return found


def _of_block(block: Block, page: str) -> Iterator[Line]:
    """`console` shows what is answered: there a command begins with a dollar sign. `sh` holds nothing else."""
    text = re.sub(r"\\\n\s*", " ", block.text)
    for at, raw in enumerate(text.splitlines(), block.line):
        line = raw.strip()
        if block.language == "console":
            if line.startswith("$ "):
                yield Line(page, at, _without_comment(line[2:]), True)
        elif block.language == "sh":
            if line and not line.startswith("#"):
                yield Line(page, at, _without_comment(line), True)
        elif line.split()[:1] and line.split()[0] in OURS:
            for one in re.split(r"\s{3,}(?=mover )", line):
                yield Line(page, at, _without_comment(one), True)


def _without_comment(line: str) -> str:
    """What follows is said about the command: after a `#`, or after a gap in a pattern's column."""
    line = re.split(r"\s+#\s", line)[0].rstrip()
    return re.split(r"\s{3,}(?=[a-z])", line)[0]


def program(line: str) -> str:
    """The first word that is not an assignment, `sudo` or its options."""
    words = [word for word in shlex.split(line) if not re.match(r"[A-Za-z_]+=", word)]
    while words and words[0] == "sudo":
        words = words[3:] if words[1:2] == ["-u"] else words[1:]
    return words[0] if words else "export"


def refusal(line: Line) -> str | None:
    """Why nobody could type this, or None."""
    if program(line.text) not in OURS:
        return (
            None if program(line.text) in OTHERS else f"no page may tell of {program(line.text)} unknown to the tests"
        )
    typed = list(alternatives(line.text)) if line.pattern else [line.text]
    try:
        for one in typed:
            words = [VALUES.get(word, word) for word in shlex.split(one)]
            words = words[words.index(program(one)) :]
            if line.pattern:
                _look(OURS[words[0]], words[1:])
            else:
                _parse(OURS[words[0]], words, whole=line.typed)
    except click.ClickException as error:
        return error.format_message()
    except ValueError as error:  # a quote that never closes
        return str(error)
    return None


def _parse(command: click.Command, words: list[str], *, whole: bool) -> None:
    """As click does before it calls anything. A span may leave out what the command needs; files are not here."""
    args, parent, name = words[1:], None, words[0]
    while True:
        try:
            ctx = command.make_context(name, list(args), parent=parent)
        except click.exceptions.NoArgsIsHelpError:
            if whole:
                raise
            return
        except (click.MissingParameter, click.BadOptionUsage) as error:
            if whole or isinstance(error, click.NoSuchOption):
                raise
            return
        except click.BadParameter as error:
            if re.search("does not exist|No such file", error.format_message()):
                return
            raise
        except click.exceptions.Exit:
            return
        if not isinstance(command, click.Group):
            return
        rest = [*ctx._protected_args, *ctx.args]
        if not rest:
            return
        found, inner, args = command.resolve_command(ctx, rest)
        if inner is None or found is None:
            raise click.UsageError(f"no such command: {rest[0]}")
        command, parent, name = inner, ctx, found


def alternatives(text: str) -> Iterator[str]:
    """`protect keep | prune (--plan | --apply)` is two commands; alternatives in brackets are options of one."""
    flat, depth = "", 0
    for sign in text:
        depth += (sign in "[(") - (sign in "])")
        flat += " " if sign in "[]()" or (sign == "|" and depth) else sign
    flat = re.sub(r"…|\.\.\.", " ", flat)
    first, *others = flat.split(" | ")
    yield first
    words = first.split()
    for other in others:
        group = _groups(words)
        yield " ".join([*words[:group], other])


def _groups(words: list[str]) -> int:
    """How many of the words lead to the innermost group."""
    command: click.Command | None = OURS[words[0]]
    count = 1
    while isinstance(command, click.Group) and count < len(words):
        inner = command.get_command(click.Context(command), words[count])
        if not isinstance(inner, click.Group):
            break
        command, count = inner, count + 1
    return count


def _look(command: click.Command, words: list[str]) -> None:
    """Commands and options of a pattern exist."""
    ctx = click.Context(command)
    rest = list(words)
    while isinstance(command, click.Group):
        rest = _without_options(command, rest)
        if not rest:
            return
        if isinstance(command, FolderOrCommand) and rest[0] not in command.list_commands(ctx):
            rest = [RUN, *rest]
        _, inner, rest = command.resolve_command(ctx, rest)
        if inner is None:
            raise click.UsageError("no such command")
        command = inner
        ctx = click.Context(command, parent=ctx)
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}
    unknown = [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]
    if unknown:
        raise click.NoSuchOption(unknown[0])


def _without_options(group: click.Group, words: list[str]) -> list[str]:
    taking = {name for one in group.params if isinstance(one, click.Option) and not one.is_flag for name in one.opts}
    while words and words[0].startswith("-"):
        words = words[2:] if words[0] in taking else words[1:]
    return words
