"""Root types a command, and the state is the daemon's user's.

Who owns a folder may have laid a link into it, and root follows links anywhere: so what is done below the state folder
is done as its owner. Root's own part, the settings, is done by a second process that can do nothing else.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from mover.errors import CatalogError, MoverError, by_code
from mover.settings import Settings


def foreign(folder: Path) -> os.stat_result | None:
    """Whose it is, where root is not the owner; None where nothing needs to change."""
    if os.geteuid() != 0 or not folder.is_dir():
        return None
    facts = folder.stat()
    return facts if facts.st_uid else None


def become(state_dir: Path) -> None:
    """For good: PostgreSQL runs under no two users at once."""
    if (owner := foreign(state_dir)) is not None:
        _join(owner)
        os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
        os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
        _move_in(owner)


def become_for(settings: Settings) -> None:
    """Before the embedded database is opened here. A server's is opened by whoever may read its logins."""
    if settings.database.embedded:
        become(settings.state_dir)


@contextlib.contextmanager
def acting(folder: Path) -> Iterator[None]:
    """For a while, in a process without threads and children: files are made and found as the folder's owner would."""
    owner = foreign(folder)
    if owner is None:
        yield
        return
    before = os.getgroups()
    _join(owner)
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


def as_owner(settings: Settings, act: Callable[[], str]) -> str:
    """What opens the embedded database, in a process that is its owner for good; this one stays root, for the files
    that only root may write. What it raises is raised here."""
    return in_its_process(settings.state_dir, act) if settings.database.embedded else act()


def in_its_process(state_dir: Path, act: Callable[[], str]) -> str:
    """As `acting`, for what starts programs: one that begins under two users at once is not trusted by its own loader,
    which then finds no library beside it (ld.so(8), secure-execution mode)."""
    if foreign(state_dir) is None:
        return act()
    answers, answer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(answers)
        become(state_dir)
        _answer(answer, act)
    os.close(answer)
    try:
        return _told(answers)
    finally:
        os.close(answers)
        os.waitpid(child, 0)


_STOPPED = "stopped"


class _Said(msgspec.Struct, frozen=True):
    """`text` is the answer, or what an error says; `code` an error's, or that somebody stopped it."""

    text: str
    code: str | None = None
    where: str = ""
    hint: str | None = None
    details: list[dict[str, Any]] = []


def _told(answers: int) -> str:
    with open(answers, "rb", closefd=False) as told:
        body = told.read()
    if not body:
        raise CatalogError("a process of this command ended by itself", hint="Call it again.")
    said = msgspec.json.decode(body, type=_Said)
    if said.code == _STOPPED:
        raise KeyboardInterrupt
    if said.code is not None:
        raise by_code(said.code)(said.text, where=said.where, hint=said.hint, details=said.details)
    return said.text


def _answer(handle: int, act: Callable[[], str]) -> NoReturn:
    """What stands on this copy of the stack belongs to the other process: it is never unwound."""
    try:
        said = _said(act)
        with open(handle, "wb") as told:
            told.write(msgspec.json.encode(said))
    finally:
        os._exit(0)


def _said(act: Callable[[], str]) -> _Said:
    try:
        return _Said(act())
    except MoverError as error:
        return _Said(error.what, error.code, error.where, error.advice, error.details)
    except KeyboardInterrupt:
        return _Said("", _STOPPED)
    except Exception as error:  # noqa: BLE001 - the other process says it
        traceback.print_exc()
        # its words may quote what no error of ours does
        return _Said(
            f"what this command does as the owner of the state ended by {type(error).__name__}", CatalogError.code,
            hint="A mistake of this software: its traceback stands above, and helps whoever mends it.",
        )  # fmt: skip


def _join(owner: os.stat_result) -> None:
    try:
        os.initgroups(pwd.getpwuid(owner.st_uid).pw_name, owner.st_gid)
    except KeyError:
        os.setgroups([])


def _move_in(owner: os.stat_result) -> None:
    """libpq looks into $HOME for a certificate of ours before it greets a server with TLS: where it may not look, as in
    root's home, it does not connect, or goes on in plain text."""
    try:
        home = pwd.getpwuid(owner.st_uid).pw_dir
    except KeyError:
        home = "/nonexistent"
    os.environ["HOME"] = home
    for name in [name for name in os.environ if name.startswith("XDG_")]:
        del os.environ[name]


@contextlib.contextmanager
def left_behind(state_dir: Path, act: Callable[[], Path]) -> Iterator[Callable[[], Path]]:
    """Before root becomes the owner: a process that stays root, does `act` when it is told to, and nothing else."""
    if foreign(state_dir) is None:
        yield act
        return
    (orders, order), (answers, answer) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(order)
        os.close(answers)
        _obey(orders, answer, act)
    os.close(orders)
    os.close(answer)

    def told() -> Path:
        os.write(order, b"!")
        return Path(_told(answers))

    try:
        yield told
    finally:
        os.close(order)
        os.close(answers)
        os.waitpid(child, 0)


def _obey(orders: int, answer: int, act: Callable[[], Path]) -> NoReturn:
    try:
        if os.read(orders, 1):
            _answer(answer, lambda: str(act()))
    finally:
        os._exit(0)
