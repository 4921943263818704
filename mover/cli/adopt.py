"""`mover deid adopt`: what claims to be clean is scanned all the same, and what is clean becomes slides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mover.cli.common import timeout_option, with_client

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient


@click.command("adopt")
@click.argument("tier")
@click.option("--prefix", default="", help="Only what stands below this folder of the tier.")
@click.option("--reason", required=True, help="Who says that it is clean; it stands in the audit record.")
@click.option("--trust-names", is_flag=True,
              help="Names of files, and what DICOM objects call their patient and cases, are pseudonyms: somebody"
                   " answers for that.")  # fmt: skip
@click.option("--plan", is_flag=True, help="Scan only, and register nothing.")
@click.option("--apply", "planned", metavar="ADOPTION", help="Register what is clean by the verdicts of this one.")
@click.option("--report", "target", type=click.Path(path_type=Path, dir_okay=False),
              help="Write every file's verdict, and its slide's number, here, as JSON lines.")  # fmt: skip
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
    plan: bool,
    planned: str | None,
    target: Path | None,
    timeout_s: float | None,
) -> int:
    """Scan what stands on a deidentified TIER as if it were a source, and register what is clean as slides.

    A file is clean when our own de-identification of it would drop and replace nothing. No byte is moved, changed or
    deleted: a slide is known by a number of ours and stands where it stood. Exit status: 0 when every file is clean, 1
    when one is not.
    """
    from mover.cli.output import Bar

    if planned and plan:
        raise click.UsageError("--plan and --apply exclude each other")
    if planned:
        asked = mover.adoptions.register(planned, reason=reason)
    else:
        asked = mover.adoptions.request(tier, prefix=prefix, reason=reason, trust_names=trust_names, register=not plan)
    with Bar(out, total=lambda seen: (sum(seen.verdicts.values()), 0)) as bar:
        done = mover.adoptions.wait(asked.id, progress=bar, timeout_s=timeout_s)
    if target is not None:
        with open(target, "wb") as file:
            mover.adoptions.report(done.id, file.write)
    _show(out, done)
    held = sum(count for verdict, count in done.verdicts.items() if verdict not in ("clean", "known"))
    if held and target is None:
        out.note("which, and why: the same command with --report FILE")
    if done.state == "scanned":
        out.note(f"to register what is clean: mover deid adopt {tier} --apply {done.id} --reason TEXT")
    refused = done.slides.get("refused", 0)
    return 1 if held or refused or done.state not in ("scanned", "complete") else 0


def _show(out: Output, done: wire.Adoption) -> None:
    from mover.cli.output import counts, size, state

    out.facts(
        done,
        [
            ("adoption", done.id),
            ("state", state(done.state)),
            ("why", done.explanation),
            ("of", f"{done.tier}:{done.prefix}"),
            ("verdicts", counts(done.verdicts)),
            ("slides", counts(done.slides) if done.slides else None),
            ("bytes", size(done.bytes)),
            ("judged by", done.judged_by),
            ("root", done.root),
        ],
    )
