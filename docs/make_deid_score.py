"""Put the last score into docs/deidentification.md: python docs/make_deid_score.py"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.deid_score import Scores, as_table  # noqa: E402

PAGE = ROOT / "docs" / "deidentification.md"
BEGIN, END = "<!-- score -->\n", "<!-- /score -->\n"


def made() -> str:
    """The page with the table of bench/results/deid_score.json between its marks."""
    scores = msgspec.json.decode((ROOT / "bench" / "results" / "deid_score.json").read_bytes(), type=Scores)
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    at = f"Measured {scores.stamp.at[:10]} at {scores.stamp.commit}."
    return f"{before}{BEGIN}{as_table(scores).strip()}\n\n{at}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(made(), "utf-8")
