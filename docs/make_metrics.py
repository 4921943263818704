"""Writes docs/metrics.md from mover/metrics.py: `python docs/make_metrics.py`. A test keeps the two equal."""

from __future__ import annotations

from pathlib import Path

from mover.metrics import described

HEAD = """\
# Metrics

Made from `mover/metrics.py` by `docs/make_metrics.py`; edit there.

`GET /metrics` answers them in Prometheus' text format, to this machine without a token and to others with one.
Units stand in the names. Labels come from small closed sets: tier names, states, codes; never an id, never a name
from outside. Histograms have buckets from 5 ms to 30 minutes.

| metric | kind | labels | what it says |
|---|---|---|---|
"""


def page() -> str:
    return HEAD + "".join(
        f"| `{one.name}` | {one.kind} | {', '.join(one.labels)} | {one.says} |\n" for one in described()
    )


if __name__ == "__main__":
    Path(__file__).with_name("metrics.md").write_text(page(), "utf-8")
