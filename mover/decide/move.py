"""The move protocol as events in, instructions out (design D14).

    plan -> record intent -> write under a temporary name -> sync -> re-read cold -> publish without
    replacing -> record `verified`

Each state says what is true on the device if everything stops right there:

    planned     nothing
    intended    a row says that this attempt, under this fencing number, may be writing
    written     a temporary name, perhaps not durable
    synced      a temporary name, durable, not yet believed
    reread      a temporary name whose bytes on the device equal the source's
    taken       as reread; and somebody's bytes stand under the final name
    published   the final name, whole and durable; no row vouches for it
    recorded    a row vouches for it: the only state that counts as moved
    failed      a temporary name at most

`reread-final` reads cold what stands under the final name, and syncs its folder: an earlier attempt may have
ended between its rename and its sync.

The engine runs it against real tiers, the simulator in tests/sim against a disk that loses what was not
synced. Neither decides anything itself.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mover.errors import IllegalTransition

State = Literal["planned", "intended", "written", "synced", "reread", "taken", "published", "recorded", "failed"]
Instruction = Literal[
    "record-intent",
    "write",
    "sync",
    "reread",
    "publish",
    "reread-final",
    "record",
    "remove-temporary",
    "done",
    "stop",
]


class Move(Struct, frozen=True):
    """One attempt. `epoch` is its fencing number; `expected` a digest known beforehand, or ""."""

    epoch: int
    state: State = "planned"
    expected: str = ""
    digest: str = ""
    reason: str = ""


class Intended(Struct, frozen=True):
    """The intent row was committed under our fencing number."""


class Written(Struct, frozen=True):
    """All bytes were written; `digest` is of the source's bytes and literals, never of what was written."""

    digest: str
    source_unchanged: bool


class Synced(Struct, frozen=True):
    """Data on the device, and every close answered well."""


class Reread(Struct, frozen=True):
    """What the device holds, not what a cache does."""

    digest: str


class Published(Struct, frozen=True):
    """Under the final name, which nothing had, and the folder synced."""


class NameTaken(Struct, frozen=True):
    """Publishing was refused because the final name exists."""


class Recorded(Struct, frozen=True):
    """The row was committed, and our fencing number was the current one in that very transaction."""


class Fenced(Struct, frozen=True):
    """A higher fencing number exists: somebody else owns this move now."""


class Failed(Struct, frozen=True):
    """An instruction could not be carried out. `reason` is an error's code."""

    reason: str


Event = Intended | Written | Synced | Reread | Published | NameTaken | Recorded | Fenced | Failed
Step = tuple[Move, Instruction]


def begin(move: Move) -> Step:
    """Intent comes before the first byte, so that a crash leaves a trace of who was writing what."""
    return move, "record-intent"


def step(move: Move, event: Event) -> Step:
    """The next state and the one instruction to carry out. IllegalTransition for an event out of place."""
    if move.state in ("recorded", "failed"):
        raise IllegalTransition(f"a move that is {move.state} takes no further event")
    match event:
        case Fenced():
            return _fail(move, "lease-lost")
        case Failed():
            return _fail(move, event.reason)
    match move.state, event:
        case "planned", Intended():
            return _to(move, "intended"), "write"
        case "intended", Written():
            return _judge_written(move, event)
        case "written", Synced():
            return _to(move, "synced"), "reread"
        case "synced", Reread():
            if event.digest != move.digest:
                return _fail(move, "digest-mismatch")
            return _to(move, "reread"), "publish"
        case "reread", Published():
            return _to(move, "published"), "record"
        case "reread", NameTaken():
            return _to(move, "taken"), "reread-final"
        case "taken", Reread():
            # Equal bytes are an earlier attempt's that ended before its row: its work is ours to record.
            return (_to(move, "published"), "record") if event.digest == move.digest else _fail(move, "entry-exists")
        case "published", Recorded():
            return _to(move, "recorded"), "remove-temporary"
    raise IllegalTransition(f"{type(event).__name__} does not follow {move.state}")


def _judge_written(move: Move, event: Written) -> Step:
    if not event.source_unchanged:
        return _fail(move, "changed-while-reading")
    if move.expected and event.digest != move.expected:
        return _fail(move, "digest-mismatch")
    return Move(move.epoch, "written", move.expected, event.digest), "sync"


def _to(move: Move, state: State) -> Move:
    return Move(move.epoch, state, move.expected, move.digest)


def _fail(move: Move, reason: str) -> Step:
    """Only the attempt's own temporary name is ever removed; a published name stays, it is whole."""
    return Move(move.epoch, "failed", move.expected, move.digest, reason), "remove-temporary"


def sweep(temporaries: tuple[int, ...], *, epoch: int) -> tuple[int, ...]:
    """Of temporary names left behind, by fencing number, those that may be removed: of earlier owners only.
    One of a later owner means that we are the stale one, and nothing is touched."""
    if any(other > epoch for other in temporaries):
        return ()
    return tuple(other for other in temporaries if other < epoch)
