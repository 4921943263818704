"""P8: looking at every entry of a tree, and writing what was seen into the catalog."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from bench import corpora, peers, results
from bench.context import Context, Course, Judged, compete, ours
from bench.database import Catalog
from bench.measure import Contestant, Work
from bench.peers import Peer
from bench.results import Claim

STAGED, BARE = "ours, into the catalog", "ours, without catalog"
UNIT = "thousand entries/s"


def walks(context: Context) -> None:
    """P8: names and states by getdents and statx, warm; rows by COPY into a logged staging table."""
    count = context.sizes.walk_files
    with Catalog(context.root / "catalog") as catalog:
        course = _tree(context, "p8", count, catalog)
        staged = ours(STAGED, "walk", "--dsn", catalog.dsn)
        others = [peers.FIND, peers.FD, peers.RCLONE_LIST, peers.RSYNC_LIST]
        tools = [staged, ours(BARE, "walk"), *others]
        found = compete(course, tools, amount=count / 1e3, unit=UNIT)
        work = f"walk of {count} entries, states and COPY into a logged table"
        found.claim("P8", work, tool=STAGED, against=[peers.FIND.name], goal=0.6)
        found.claim("P8-rclone", work, tool=STAGED, against=[peers.RCLONE_LIST.name], goal=4.0)
        course.place.remove()
