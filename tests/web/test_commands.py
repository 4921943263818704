"""Beside each action stands the same as a command: here every such line is held against the commands that exist."""

from __future__ import annotations

import importlib
import re
from itertools import pairwise

import click
import pytest

from mover.api.app import OPERATIONS
from mover.api.commands import COMMANDS
from mover.cli import COMMANDS as GROUPS

# no command does the same by one question: these take files, keys or several steps of a person's own
WITHOUT = {
    "adoptions.request", "adoptions.list_adoptions", "adoptions.view", "adoptions.register", "adoptions.report",
    "batches.certificate", "cohorts.split", "dumps.view", "protection.view", "rulings.view", "transfers.request",
    "vault.export", "vault.import_rows", "vault.reveal",
}  # fmt: skip


def found(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words lead to, and what is left of them."""
    here: click.Command = importlib.import_module(GROUPS[words[0]][0]).command
    rest = words[1:]
    while isinstance(here, click.Group):
        here, rest = here.commands[rest[0]], rest[1:]
    return here, rest


def lines(template: str) -> list[str]:
    """Every choice of words: `{kind:keep=keep,prune=prune}` chooses the command itself."""
    chosen = re.search(r"\{\w+:([^}]+)\}", template)
    if chosen is None:
        return [template]
    return [template.replace(chosen[0], pair.partition("=")[2]) for pair in chosen[1].split(",")]


@pytest.mark.parametrize("operation", sorted(COMMANDS))
def test_a_command_beside_an_action_exists_and_takes_its_options(operation: str) -> None:
    """An option that only some choices take is never filled for the others: each is taken by one at least."""
    lacking: list[set[str]] = []
    for line in lines(COMMANDS[operation]):
        command, rest = found(line.replace("[", " ").replace("]", " ").split())
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        said = {word for word in rest if word.startswith("--")}
        lacking.append(said - options)
        takes = any(isinstance(parameter, click.Argument) for parameter in command.params)
        bare = [word for before, word in pairwise(["", *rest]) if word[0] == "{" and not before.startswith("--")]
        assert takes or not bare, line
    assert set.intersection(*lacking) == set()


def test_every_operation_has_its_command_or_a_reason() -> None:
    names = {operation.name for operation in OPERATIONS}
    assert set(COMMANDS) <= names
    sessions = {name for name in names if name.startswith(("sessions.", "accounts."))}
    assert names - set(COMMANDS) - sessions <= WITHOUT


def test_parameters_of_a_command_are_parameters_of_its_operation() -> None:
    """A misspelt slot would show a person a command that says nothing of what was chosen."""
    for operation in OPERATIONS:
        template = COMMANDS.get(operation.name, "")
        slots = {slot.partition(":")[0] for slot in re.findall(r"\{([^}]+)\}", template)}
        known = set(re.findall(r"\{(\w+)\}", operation.path)) | set(operation.query.__struct_fields__)
        known |= set(operation.body.__struct_fields__) if operation.body else set()
        assert slots <= known, operation.name
