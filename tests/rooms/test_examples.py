"""The loaders of `examples/` on a root that was staged: what is shown to people runs as it is shown."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from blake3 import blake3

from mover.catalog.database import Database
from mover.model import wire
from tests.rooms.rig import Rig, who
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
EXAMPLES = Path(__file__).parents[2] / "examples"


def said(script: str, *words: str, status: int = 0) -> str:
    done = subprocess.run([sys.executable, str(EXAMPLES / script), *words], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


async def test_a_loader_and_a_tiler_read_a_root_and_the_loader_refuses_one_with_a_stranger(
    tmp_path: Path, dsns: Dsns, database: Database
) -> None:
    rig = Rig(tmp_path, dsns, database)
    numbers = rig.slides([10, 10])
    for shade, number in enumerate(numbers, start=1):
        picture = io.BytesIO()
        tifffile.imwrite(picture, np.full((512, 768, 3), 60 * shade, np.uint8), tile=(256, 256), photometric="rgb")
        data, key = picture.getvalue(), f"slides/{number}/2/{number}.svs"
        rig.tiers["archive"].put(key, [data], size_bytes=len(data))  # type: ignore[attr-defined]
        rig.rows("update mover.slide set key = %s, size_bytes = %s, digest = %s where number = %s",
                 key, len(data), blake3(data).hexdigest(), number)  # fmt: skip
    run = await rig.request(numbers, key="k")
    await rig.work()
    root = tmp_path / "flash" / "runs" / run.id

    shown = said("run_root.py", str(root))
    assert f"{run.id}: 2 slides" in shown and all(number in shown for number in numbers)
    assert "12 tiles, mean brightness 90.0" in said("tiles.py", str(root), "100")
    tarred = await rig.runs.request(who(), wire.RunRequest(files=numbers, layout="shards"), key="tars")
    await rig.work()
    assert "12 tiles, mean brightness 90.0" in said("tiles.py", str(root.with_name(tarred.id)), "100")

    (root / "data").chmod(0o750)
    (root / "data" / "leftover.svs").write_bytes(b"of another run")
    assert "stranger: data/leftover.svs" in said("run_root.py", str(root), status=1)
