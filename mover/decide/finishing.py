"""Whose paths a finish may name.

Paths beside a run's own out/ are opened with the rights of the run's user, and what stands there goes into a snapshot
that the project may restore. So nobody but that user names them, or who may speak for him: otherwise every operator of
the project could have another's private files copied to where he can read them.
"""

from __future__ import annotations

from mover.errors import Denied
from mover.model import wire
from mover.model.access import Identity


def check_paths(
    identity: Identity, body: wire.FinishRequest, *, run: str, run_uid: int | None, own_out: str | None
) -> None:
    """Denied, saying who may. `own_out` is the run's out/ as its job sees it, which anybody may name who may finish;
    of a run without a user nothing else is ever opened."""
    named = [*(body.artifacts or ()), *(body.logs or ()), *([body.code] if body.code else [])]
    if run_uid is None or all(_is_below(path, own_out) for path in named) or speaks_for(identity, run_uid):
        return
    raise Denied(
        f"paths beside the run's own out/ are named by its user (uid {run_uid}), by a scheduler that acts for that "
        "user, or by root at the local socket",
        where=run,
        hint="Finish it without artifacts, code and logs: out/ is protected all the same.",
    )


def speaks_for(identity: Identity, uid: int) -> bool:
    """A scheduler that acts for a user has that user's uid. The kernel's word for root is believed; a token's is an
    admin's of the API, who is not the machine's."""
    return identity.posix_uid == uid or (identity.kind == "machine" and identity.posix_uid == 0)


def _is_below(path: str, own_out: str | None) -> bool:
    """As text: a path that climbs may lead anywhere."""
    if own_out is None or ".." in path.split("/"):
        return False
    return path == own_out or path.startswith(f"{own_out}/")
