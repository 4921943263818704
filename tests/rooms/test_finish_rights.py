"""`finish` over the API, by role: whose paths go into a snapshot is its run's user's to say."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mover.access import Access
from mover.api import make_app, serve
from mover.catalog.database import Database
from mover.model import wire
from mover.model.access import Identity
from mover.settings import Listen
from tests.api.small_rooms import small_rooms
from tests.rooms.rig import PROJECT, Rig
from tests.support.folders import open_the_way
from tests.support.postgres import Dsns

NOBODY = pwd.getpwnam("nobody")  # a user this machine knows, of a group a scheduler's token may stand for
BOB, BOBS, ANN, SERVICE = NOBODY.pw_uid, NOBODY.pw_gid, 64_002, 64_011
TOKENS: dict[str, dict[str, Any]] = {
    "bob": {"role": "operator", "posix_uid": BOB, "posix_gid": BOBS},
    "ann": {"role": "operator", "posix_uid": ANN, "posix_gid": ANN},
    "nobody": {"role": "admin"},
    "root": {"role": "admin", "posix_uid": 0, "posix_gid": 0},
    "scheduler": {"role": "scheduler", "posix_gid": BOBS},
}

pytestmark = [
    pytest.mark.usefixtures("tier_rows"), pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="runs of two users need root"),
    pytest.mark.skipif(not (shutil.which("setpriv") and shutil.which("curl")), reason="setpriv or curl is not here"),
]  # fmt: skip


class Served:
    def __init__(self, rig: Rig, url: str, socket: Path, session: aiohttp.ClientSession) -> None:
        self.rig, self.url, self.socket, self.session = rig, url, socket, session

    async def finish(self, token: str, run: str, body: dict[str, Any], *, acts_for: int | None = None,
                     plan: bool = False) -> tuple[int, dict[str, Any]]:  # fmt: skip
        headers = {"Authorization": f"Bearer {secret(token)}"}
        headers |= {} if acts_for is None else {"Mover-Acts-For": str(acts_for)}
        path = f"{self.url}/v1/runs/{run}/finish" + "?plan=true" * plan
        async with self.session.post(path, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    def finish_as(self, uid: int, run: str, body: dict[str, Any]) -> int:
        """At the local socket, as a process of this user: what the kernel says of the peer is all there is."""
        command = [
            "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(self.socket), "-H",
            "Content-Type: application/json", "-d", json.dumps(body), f"http://x/v1/runs/{run}/finish",
        ]  # fmt: skip
        privileges = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        return int(subprocess.run([*privileges, *command], capture_output=True, text=True, check=True).stdout)


def secret(name: str) -> str:
    return f"mvr_{name:x<40}"


@pytest.fixture
async def served(tmp_path: Path, dsns: Dsns, database: Database) -> AsyncIterator[Served]:
    rig = Rig(tmp_path, dsns, database)
    open_the_way(tmp_path)
    access = Access(database, project=PROJECT, node="n1", own_uid=SERVICE)
    for name, said in TOKENS.items():
        await access.adopt(secret(name), wire.TokenRequest(actor=name, **said))
    rooms = replace(small_rooms(), runs=rig.runs, protection=rig.protecting.runs)
    socket = tmp_path / "s"
    server = await serve(make_app(rooms, access, version="0"), Listen(unix=socket, host="127.0.0.1", port=0, tls=None))
    socket.chmod(0o666)
    async with aiohttp.ClientSession() as session:
        yield Served(rig, server.urls[0], socket, session)
    await server.stop()


async def test_a_finish_names_paths_of_its_runs_user_in_his_name_only(served: Served) -> None:
    """Found: any operator of the project finished bob's run with bob's private folder below a declared root, and
    restored it from the snapshot. Without such paths everybody who may finish may, whosever run it is."""
    bob = Identity(actor="bob", role="operator", project=PROJECT, posix_uid=BOB, posix_gid=BOBS)
    asked = wire.RunRequest(files=served.rig.slides([1000]))
    run = (await served.rig.runs.request(bob, asked, key="1")).id
    await served.rig.work()
    private = {"artifacts": ["/home/bob/private"], "code": "/home/bob/code"}

    for token, acts_for in (("ann", None), ("nobody", None), ("root", None), ("scheduler", None)):
        for plan in (True, False):
            status, said = await served.finish(token, run, private, acts_for=acts_for, plan=plan)
            assert (status, said["code"], said["where"]) == (403, "denied", run), token
            assert f"uid {BOB}" in said["detail"] and "scheduler" in said["detail"]
    # a scheduler acts for members of its group; nobody at the socket but root speaks for others
    assert (await served.finish("scheduler", run, private, acts_for=ANN))[0] == 403
    assert await asyncio.to_thread(served.finish_as, SERVICE, run, private) == 403
    assert await asyncio.to_thread(served.finish_as, ANN, run, private) == 401
    assert served.rig.run(run).state == "ready"

    for token, acts_for in (("bob", None), ("scheduler", BOB)):
        status, said = await served.finish(token, run, private, acts_for=acts_for)
        assert status == 202, said
        await served.rig.work()  # the path lies under no declared root: the room says that later
        assert (served.rig.run(run).state, served.rig.run(run).reason) == ("ready", "denied")
    assert await asyncio.to_thread(served.finish_as, 0, run, private) == 202
    await served.rig.work()
    out = [f"{served.rig.folder}/flash/runs/{run}/out"]
    assert (await served.finish("ann", run, {"artifacts": out}))[0] == 202
    await served.rig.work()
    assert served.rig.run(run).state == "protected"
