"""What a training job leaves behind: checkpoints, metrics, logs, prediction tiles, and odd things.

`write_artifacts` fills a run's `out/`; `write_code` makes the small source tree it was trained from, a
git repository with a commit, an uncommitted change and an untracked file where git is installed. None of
it holds an identifier: a training job never saw one.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

MIB = 1 << 20
_GIT_S = 30.0
_GIT_DATE = "2026-11-20T08:00:00+0000"


class Artifacts(msgspec.Struct, frozen=True):
    """Counted as a walk would count them. `size_bytes` is apparent size without the sparse file's holes."""

    folder: str
    files: int
    folders: int
    symlinks: int
    size_bytes: int
    sparse_file: str


class Code(msgspec.Struct, frozen=True):
    """`commit` is None where git is not installed."""

    folder: str
    commit: str | None


def write_artifacts(out: Path, *, seed: int = 7, scale: float = 1.0) -> Artifacts:
    """At scale 1.0 more than 2,000 artifacts, about 190 MB. The same seed gives the same bytes."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 20])
    _checkpoints(out / "checkpoints", rng, weights=max(2_000, int(2_000_000 * scale)))
    _metrics(out, rng, epochs=12)
    _features(out / "features", rng, rows=max(20, int(5_000 * scale)))
    _predictions(out / "predictions", rng, count=max(40, int(2_000 * scale)))
    _odd_ones(out)
    sparse = out / "cache" / "memmap.bin"
    _sparse(sparse, rng, size_bytes=max(2 * MIB, int(64 * MIB * scale)))
    return _count(out, sparse)


def _checkpoints(folder: Path, rng: np.random.Generator, *, weights: int) -> None:
    """Twelve epochs of float32 weights: most values move a little, an embedding stays as it was."""
    folder.mkdir(parents=True)
    state = rng.standard_normal(weights, dtype=np.float32) * 0.02
    moving = weights * 3 // 4  # the last quarter is frozen, so that a repository can share it
    for epoch in range(12):
        state[:moving] += rng.standard_normal(moving, dtype=np.float32) * 0.001
        (folder / f"epoch-{epoch:03d}.f32").write_bytes(state.tobytes())
    moments = np.concatenate([state * 0.1, np.square(state)])
    (folder / "optimizer.f32").write_bytes(moments.tobytes())
    (folder / "latest").symlink_to("epoch-011.f32")


def _metrics(out: Path, rng: np.random.Generator, *, epochs: int) -> None:
    (out / "logs").mkdir()
    lines = []
    for step in range(epochs * 500):
        loss = 2.0 / (1 + step / 300) + float(rng.random()) * 0.05
        lines.append(json.dumps({"step": step, "epoch": step // 500, "loss": round(loss, 5), "lr": 3e-4}))
    (out / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    for epoch in range(epochs):
        text = "".join(f"epoch {epoch} step {step} {lines[epoch * 500 + step]}\n" for step in range(0, 500, 10))
        (out / "logs" / f"epoch-{epoch:03d}.log").write_text(text)
    (out / "config.json").write_text(json.dumps({"model": "vit-small", "tile": 256, "batch": 64}, indent=1))


def _features(folder: Path, rng: np.random.Generator, *, rows: int) -> None:
    folder.mkdir()
    for part in range(4):
        np.save(folder / f"part-{part}.npy", rng.standard_normal((rows, 768), dtype=np.float32))


def _predictions(folder: Path, rng: np.random.Generator, *, count: int) -> None:
    """Small heat maps, 64 to a folder, as evaluation scripts write them."""
    for n in range(count):
        place = folder / f"{n // 64:03d}"
        if n % 64 == 0:
            place.mkdir(parents=True)
        coarse = Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8))
        stream = io.BytesIO()
        coarse.resize((128, 128), Image.Resampling.BILINEAR).save(stream, "JPEG", quality=90)
        (place / f"tile_{n:05d}.jpg").write_bytes(stream.getvalue())


def _odd_ones(out: Path) -> None:
    """Names and kinds that break careless movers."""
    odd = out / "odd"
    deep = odd.joinpath(*(f"level-{n}" for n in range(12)))
    deep.mkdir(parents=True)
    (odd / "empty folder").mkdir()
    names = ("-rf", "name with  spaces ", "Größe µm.txt", "quote'\"`$HOME.txt", "line\nbreak.txt", "病理.json")
    for n, name in enumerate((*names, "a" * 240)):
        (odd / name).write_text(f"odd name number {n}\n")
    (deep / "deep.txt").write_text("twelve levels down\n")
    (odd / "empty.bin").touch()
    script = odd / "evaluate.sh"
    script.write_text("#!/bin/sh\necho done\n")
    script.chmod(0o755)
    (odd / "private.txt").write_text("owner only\n")
    (odd / "private.txt").chmod(0o600)
    (odd / "second name.sh").hardlink_to(script)
    (odd / "dangling").symlink_to("not/there")
    (odd / "to a folder").symlink_to("level-0", target_is_directory=True)


def _sparse(path: Path, rng: np.random.Generator, *, size_bytes: int) -> None:
    path.parent.mkdir()
    with path.open("wb") as stream:
        stream.truncate(size_bytes)
        for part in range(3):
            stream.seek(part * size_bytes // 3)
            stream.write(rng.bytes(65_536))


def _count(out: Path, sparse: Path) -> Artifacts:
    files = folders = symlinks = size_bytes = 0
    for place, folder_names, file_names in os.walk(out):
        for name in (*folder_names, *file_names):
            path = Path(place) / name
            if path.is_symlink():
                symlinks += 1
            elif path.is_dir():
                folders += 1
            else:
                files += 1
                size_bytes += 3 * 65_536 if path == sparse else path.stat().st_size
    return Artifacts(
        folder=str(out), files=files, folders=folders, symlinks=symlinks, size_bytes=size_bytes, sparse_file=str(sparse)
    )


# --- code ----------------------------------------------------------------------------------------------

_TRAIN = '''"""Train a small model on the slides of one run root."""

import json
import sys
from pathlib import Path


def main(config):
    slides = sorted(Path(config["root"]).rglob("*"))
    print(len(slides), "slides")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
'''

_TEST = """from model import forward


def test_forward():
    assert forward([1, 2], [3, 4]) == 11
"""

_FILES = {
    "README.md": "# Gleason grading\n\nTrain with `python train.py configs/base.json`.\n",
    "train.py": _TRAIN,
    "model.py": "def forward(weights, tile):\n    return sum(w * t for w, t in zip(weights, tile))\n",
    "configs/base.json": '{"root": "/flash/run", "epochs": 12, "lr": 0.0003}\n',
    "configs/long.json": '{"root": "/flash/run", "epochs": 120, "lr": 0.0001}\n',
    "tests/test_model.py": _TEST,
    ".gitignore": "out/\n__pycache__/\n",
}


def write_code(folder: Path) -> Code:
    """The tree as a scientist leaves it: committed, then changed once more without committing."""
    folder = Path(folder)
    for name, content in _FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    commit = _commit(folder) if shutil.which("git") else None
    train = folder / "train.py"
    train.write_text(train.read_text().replace("print(len(slides)", "print('found', len(slides)"))
    (folder / "notes.txt").write_text("try a lower learning rate next\n")
    return Code(folder=str(folder), commit=commit)


def _commit(folder: Path) -> str:
    """Nobody's own git configuration or hooks take part, so the commit is the same everywhere."""
    _git(folder, "init", "-q", "--template=", "-b", "main")
    _git(folder, "add", "-A")
    _git(folder, "commit", "-q", "--no-gpg-sign", "-m", "Grade prostate biopsies from frozen features")
    return _git(folder, "rev-parse", "HEAD").strip()


def _git(folder: Path, *arguments: str) -> str:
    identity = {"NAME": "Demo Scientist", "EMAIL": "scientist@demo.example", "DATE": _GIT_DATE}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in identity.items()}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True, timeout=_GIT_S
    )
    return done.stdout
