"""Whose paths a finish may name, case by case."""

from __future__ import annotations

import pytest

from mover.decide.finishing import check_paths
from mover.errors import Denied
from mover.model import wire
from mover.model.access import Identity, Role

OUT = "/flash/runs/run-x/out"
BOB = 1001


def who(role: Role, uid: int | None, *, token: bool = True) -> Identity:
    return Identity(actor="a", role=role, project="demo", token_id="t" if token else "", posix_uid=uid, posix_gid=uid)


def refused(identity: Identity, body: wire.FinishRequest, run_uid: int | None = BOB) -> str:
    try:
        check_paths(identity, body, run="run-x", run_uid=run_uid, own_out=OUT)
    except Denied as error:
        return error.what
    return ""


@pytest.mark.parametrize(
    ("identity", "may"),
    [
        (who("operator", BOB), True),
        (who("scheduler", BOB), True),                # acting for him
        (who("scheduler", None), False),              # for nobody
        (who("scheduler", 1002), False),              # for somebody else
        (who("operator", 1002), False),
        (who("operator", None), False),
        (who("admin", None), False),
        (who("admin", 0), False),                     # a token's root is an admin's word
        (who("admin", 0, token=False), True),         # the kernel's
        (who("admin", 990, token=False), False),      # the daemon's own user at the socket
    ],
)  # fmt: skip
def test_other_paths_are_named_by_the_runs_user_or_in_his_name(identity: Identity, may: bool) -> None:
    """Found: any operator had another's files, below a declared root, copied into a snapshot he may restore."""
    for body in (
        wire.FinishRequest(artifacts=["/home/bob/private"]), wire.FinishRequest(code="/home/bob/code"),
        wire.FinishRequest(logs=["/home/bob/log"]), wire.FinishRequest(artifacts=[OUT, f"{OUT}/../../../x"]),
        wire.FinishRequest(artifacts=[OUT + "side"]),
    ):  # fmt: skip
        assert ("uid 1001" in refused(identity, body)) is not may, body
    for body in (wire.FinishRequest(), wire.FinishRequest(exit=1, artifacts=[OUT, f"{OUT}/model.pt"])):
        assert not refused(identity, body)


def test_of_a_run_without_a_user_nothing_is_refused_here() -> None:
    """Nothing but its out/ is ever opened: there is nobody in whose name (protect.layout says so)."""
    assert not refused(who("operator", None), wire.FinishRequest(code="/home/bob"), run_uid=None)
