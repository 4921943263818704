"""The rooms of one node in a process of another user, with the rights that `setpriv` left it: one JSON line asks, one
answers. `test_service_rights` is who asks."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from mover.catalog.database import Database
from mover.model import wire
from mover.model.access import Identity
from mover.model.policy import ProtectPolicy
from mover.policy import Loaded
from mover.repository import crypto, locks
from tests.rooms.rig import POLICIES, PROJECT, Rig
from tests.support.postgres import Dsns

UMASK = 0o077  # the unit's


async def serve(folder: Path, dsns: Dsns, shared: Path) -> None:
    database = await Database.open(dsns.daemon, name="service", max_size=4)
    rig = Rig(folder, dsns, database)
    [protect] = [p for p in POLICIES if isinstance(p, ProtectPolicy)]
    declared = msgspec.structs.replace(protect, roots=(str(shared),))
    rig.book._by_name["protect"] = Loaded(policy=declared, file="p.yaml", text="", digest="")
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await answer(rig, **json.loads(line))), flush=True)
    finally:
        await database.close()


async def answer(rig: Rig, do: str, job: list[int], **said: Any) -> dict[str, Any]:
    who = Identity(actor="job", role="operator", project=PROJECT, posix_uid=job[0], posix_gid=job[1])
    if do == "stage":
        said["run"] = (await rig.runs.request(who, wire.RunRequest(files=said["files"]), key=said["key"])).id
    elif do == "finish":
        await rig.runs.finish(who, said["run"], wire.FinishRequest(artifacts=said.get("artifacts")))
    else:
        await rig.runs.clean(who, said["run"])
    await rig.work()
    seen = await rig.runs.view(PROJECT, said["run"])
    return {"run": seen.id, "state": seen.state, "reason": seen.reason, "explanation": seen.explanation}


if __name__ == "__main__":
    os.umask(UMASK)
    crypto.SCRYPT_N, crypto.SCRYPT_P, locks.SETTLE_S = 1024, 1, 0.005  # as conftest has them
    asyncio.run(serve(Path(sys.argv[1]), Dsns(*sys.argv[2:6]), Path(sys.argv[6])))
