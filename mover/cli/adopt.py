"""`mover deid adopt`: what claims to be clean is scanned all the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mover.cli.common import timeout_option, with_client

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient


@click.command("adopt")
@click.argument("tier")
@click.option("--prefix", default="", help="Only what stands below this folder of the tier.")
@click.option("--reason", required=True, help="Who says that it is clean; it stands in the audit record.")
@click.option("--trust-names", is_flag=True, help="The files' names are pseudonyms: somebody answers for that.")
@click.option("--report", "target", type=click.Path(path_type=Path, dir_okay=False),
              help="Write every file's verdict here, as JSON lines.")  # fmt: skip
@timeout_option
@with_client
def command(
    *,
    mover: SyncClient,
    out: Output,
    tier: str,
    prefix: str,
    reason: str,
    trust_names: bool,
    target: Path | None,
    timeout_s: float | None,
) -> int:
    """Scan what stands on a deidentified TIER as if it were a source. Nothing is moved, changed or deleted.

    A file is clean when our own de-identification of it would drop and replace nothing. Exit status: 0 when every file
    is clean, 1 when one is not.
    """
    from mover.cli.output import Bar, counts, size, state

    asked = mover.adoptions.request(tier, prefix=prefix, reason=reason, trust_names=trust_names)
    with Bar(out, total=lambda seen: (sum(seen.verdicts.values()), 0)) as bar:
        done = mover.adoptions.wait(asked.id, progress=bar, timeout_s=timeout_s)
    if target is not None:
        with open(target, "wb") as file:
            mover.adoptions.report(done.id, file.write)
    out.facts(
        done,
        [
            ("adoption", done.id),
            ("state", state(done.state)),
            ("why", done.explanation),
            ("of", f"{done.tier}:{done.prefix}"),
            ("verdicts", counts(done.verdicts)),
            ("bytes", size(done.bytes)),
            ("judged by", done.judged_by),
            ("root", done.root),
        ],
    )
    held = sum(count for verdict, count in done.verdicts.items() if verdict != "clean")
    if held and target is None:
        out.note("which, and why: the same command with --report FILE")
    return 1 if held or done.state != "complete" else 0
