"""`mover tier remove`: a tier that was added in a file of its own is taken out of the settings again.

Only the declaration goes, never a byte, and only where nothing stands on it. For root, on the machine itself, as
`mover tier add`: the database is asked as the daemon's user, the file is root's to remove.

With the daemon stopped: one that runs would go on to publish there, admit runs and move until its next start, and
whatever came so after the look would stand on a tier that nobody serves. It lets go by a restart only, so stopping it
first costs nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mover.cli.common import plan_option, with_output

if TYPE_CHECKING:
    from mover.catalog.database import Database
    from mover.cli.output import Output
    from mover.model import wire
    from mover.settings import Settings

REMEDIES = {
    "slides": "mover slide list: a tier that holds published slides stays declared",
    "files of slides": "mover slide list: a tier that holds published slides stays declared",
    "second copies": "mover archive status: a repair needs them",
    "snapshots": "mover snapshot list: they go by the rules of their policy",
    "dumps": "mover vault dumps: they go once newer ones stand elsewhere",
    "signed ends of the audit": "mover audit verify reads them: the tier stays declared",
    "runs": "mover run list, then mover run clean RUN",
    "released files": "mover transfer list: they go when their hold is over",
    "open batches": "mover batch list: wait for them",
    "packs in quarantine": "mover quarantine list: they are looked at again there, or excluded",
    "open transfers": "mover transfer list: wait for them, or mover transfer abort TRANSFER",
    "waiting work": "mover shard list: wait for it",
}


@click.command("remove")
@click.argument("name")
@plan_option
@with_output
@click.pass_context
def remove(ctx: click.Context, *, out: Output, name: str, plan: bool) -> int:
    """Take a tier out of the settings that `mover tier add` declared, where nothing stands on it; never a byte.

    What policies, slides, runs or snapshots still need of it is told with what to do. Exit status 1: it stays.
    """
    from mover.owner import as_owner

    settings, actor = ctx.obj.settings(), f"uid:{os.getuid()}"
    file = _declared(settings, name)
    with _stopped(settings) as stopped:
        steps = [*([] if stopped else [_running(settings)]), *_named(settings, name), *_standing_on(settings, name)]
        if plan or steps:
            out.plan(_plan(file, steps), done="It was not removed.")
            return 1 if steps else 0
        _check_removable(file)
        as_owner(settings, lambda: asyncio.run(_recorded(settings, name, actor)))
        _unlink(file)
    out.show({"removed": name, "file": str(file)}, lambda: _tell(file))
    return 0


def _tell(file: Path) -> None:
    from mover.cli.newtier import RUNNING

    click.echo(f"removed: {file}\nThe files of the tier stay where they are. Start the daemon again.")
    if RUNNING.is_dir():
        click.echo("Under systemd, before that: mover units write. A unit whose drop-in names a folder that is gone "
                   "does not start.")  # fmt: skip


@contextlib.contextmanager
def _stopped(settings: Settings) -> Iterator[bool]:
    """Whether no daemon runs on this state; then none begins meanwhile."""
    from mover.errors import Conflict
    from mover.opening import locked_state
    from mover.owner import acting

    with contextlib.ExitStack() as stack:
        stopped = True
        if settings.state_dir.is_dir():
            try:
                with acting(settings.state_dir):
                    stack.enter_context(locked_state(settings.state_dir))
            except Conflict:
                stopped = False
        yield stopped


def _running(settings: Settings) -> wire.PlanStep:
    from mover.cli.handed import starts, unit_of
    from mover.model import wire

    why = f"systemctl stop {unit_of(settings).removesuffix('.service')}" if starts(settings) else "stop it first"
    return wire.PlanStep(action="stands", subject="the daemon that works with it", reason=why)


def _declared(settings: Settings, name: str) -> Path:
    from mover.errors import Conflict, NotFound
    from mover.settings import tiers_folder

    if name not in settings.tiers:
        raise NotFound(f"there is no tier {name}", hint=f"There are: {', '.join(sorted(settings.tiers))}.")
    file = tiers_folder(settings.file) / f"{name}.yaml"
    if not file.exists():
        raise Conflict(f"{name} stands in the settings themselves", where=str(settings.file),
                       hint="Take it out there, and restart the daemon.")  # fmt: skip
    return file


def _check_removable(file: Path) -> None:
    from mover.errors import SettingsInvalid

    if not os.access(file.parent, os.W_OK):
        raise SettingsInvalid("the file of this tier cannot be removed by this user", where=str(file),
                              hint="Nothing was changed. Call it as root, or as who writes the settings.")  # fmt: skip


def _unlink(file: Path) -> None:
    from mover.errors import SettingsInvalid
    from mover.wholefile import sync_folder

    try:
        file.unlink()
        sync_folder(file.parent)
    except OSError as error:
        raise SettingsInvalid("the file of this tier could not be removed", where=str(file),
                              hint="That it goes stands in the audit already: call this again.") from error  # fmt: skip


def _named(settings: Settings, name: str) -> list[wire.PlanStep]:
    from mover.model import wire
    from mover.policy import load_policies
    from mover.tiers.zones import tiers_named

    found = [(one, key) for one in load_policies(settings.policies).all() for key, tier in tiers_named(one.policy)
             if tier == name]  # fmt: skip
    return [
        wire.PlanStep(action="stands", subject=f"policy {one.name}, {key}",
                      reason=f"mover policy edit {one.name} --reason WHY")
        for one, key in found
    ]  # fmt: skip


def _standing_on(settings: Settings, name: str) -> list[wire.PlanStep]:
    import msgspec

    from mover.catalog.standing import Standing
    from mover.model import wire
    from mover.owner import as_owner

    text = as_owner(settings, lambda: asyncio.run(_rows(settings, name)))
    return [
        wire.PlanStep(action="stands", subject=f"{one.count} {one.what} of {one.project}", reason=REMEDIES[one.what])
        for one in msgspec.json.decode(text, type=list[Standing])
    ]


async def _rows(settings: Settings, name: str) -> str:
    import msgspec

    from mover.catalog.standing import standing
    from mover.jobs.shards import tier_queue

    async with _database(settings) as database:
        return msgspec.json.encode(await standing(database, name, queue=tier_queue(name))).decode()


async def _recorded(settings: Settings, name: str, actor: str) -> str:
    """Before the file goes: a crash between leaves a record of what was about to be done, and the tier."""
    from mover import audit

    tier = settings.tiers[name]
    async with _database(settings) as database, database.project(settings.project) as conn:
        await audit.record(
            conn, project=settings.project, node=settings.node, actor=actor, action="tier removed", subject=name,
            details={"kind": tier.kind, "zone": tier.zone, "role": tier.role},
        )  # fmt: skip
    return name


@contextlib.asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Database]:
    from mover.catalog.database import Database
    from mover.opening import open_catalog

    with open_catalog(settings) as dsn:
        database = await Database.open(dsn, name="mover-tier", max_size=2)
        try:
            yield database
        finally:
            await database.close()


def _plan(file: Path, steps: list[wire.PlanStep]) -> wire.Plan:
    from mover.model import wire

    if steps:
        return wire.Plan(step="tier remove", counts={"in the way": len(steps)}, bytes=0, steps=steps)
    gone = wire.PlanStep(action="remove", subject=str(file), reason="nothing stands on it; its files stay")
    return wire.Plan(step="tier remove", counts={"remove": 1}, bytes=0, steps=[gone])
