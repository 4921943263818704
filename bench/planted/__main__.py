"""`python -m bench.planted FOLDER --seed 7`: make a planted pack; with MOVER_SAMPLES set, of the real bases too."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from bench.planted.pack import KINDS, make


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("folder", type=Path)
    ask.add_argument("--seed", type=int, default=1)
    ask.add_argument("--kinds", default=",".join(KINDS))
    ask.add_argument("--names", default="", help="family names that the first people get, with commas between")
    given = ask.parse_args()
    samples = os.environ.get("MOVER_SAMPLES")
    made = make(
        given.folder, given.seed, kinds=given.kinds.split(","), samples=Path(samples) if samples else None,
        names=given.names.split(",") if given.names else (),
    )  # fmt: skip
    print(f"{len(made.truth)} files below {given.folder}")


if __name__ == "__main__":
    main()
