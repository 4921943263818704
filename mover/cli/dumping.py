"""`mover vault dump|dumps|drill|restore`: the vault and the catalog as sealed dumps.

Making and listing ask the daemon. A drill with both key files, and a restore, work on the database and the tiers
themselves, so that the key files never pass through the daemon.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mover.cli.common import with_client, with_output

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.console import DumpDone
    from mover.model import wire
    from mover.sdk import SyncClient

FILE = click.Path(dir_okay=False, path_type=Path)
key_a_option = click.option("--key-a", type=FILE, required=True, help="The first of the two sealed key files.")
key_b_option = click.option("--key-b", type=FILE, required=True, help="The second.")
tier_option = click.option("--tier", help="Where to take it from. [default: the first of the dump policy]")


@click.command("dump")
@click.option("--policy", help="Which policy of kind dump, where there are several.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Until it is verified or failed.")
@with_client
def dump(*, mover: SyncClient, out: Output, policy: str | None, wait: bool) -> int:
    """Dump vault and catalog now: sealed for the two key files, on two tiers, read back."""
    from mover.model import wire

    made = mover.dumps.make(wire.DumpRequest(policy=policy))
    if wait:
        made = mover.dumps.wait(made.id)
    out.facts(made, _facts(made))
    return 0 if not wait or made.state == "verified" else 1


@click.command("dumps")
@with_client
def dumps(*, mover: SyncClient, out: Output) -> int:
    """The dumps, newest first; fails while no new slide is released."""
    from mover.cli.output import size, state

    seen = mover.dumps.list()
    rows = [
        (d.id, state(d.state), d.taken_at, size(d.size_bytes) if d.size_bytes is not None else "", d.pair or "",
         " ".join(f"{c.tier}:{c.state}" for c in d.copies), _drilled(d), d.explanation or "; ".join(d.reasons) or d.why)
        for d in seen.dumps
    ]  # fmt: skip
    out.table(seen, "dump state taken size> pair copies drilled why", rows, empty="no dump was ever made")
    if seen.release_stopped and not out.as_json:
        out.note(f"No new slide is released: {seen.release_stopped}.")
    return 1 if seen.release_stopped else 0


@click.command("reread")
@click.argument("dump_id", metavar="DUMP")
@with_client
def reread(*, mover: SyncClient, out: Output, dump_id: str) -> None:
    """Let the daemon read both copies of DUMP again. That it opens is tried only where it was given the key files."""
    seen = mover.dumps.drill(dump_id)
    out.facts(seen, _facts(seen))


@click.command("drill")
@click.argument("dump_id", required=False, metavar="[DUMP]")
@key_a_option
@key_b_option
@tier_option
@click.option("--purpose", default="a drill", show_default=True, help="Why; it stands in the audit record.")
@with_output
@click.pass_context
def drill(
    ctx: click.Context, *, out: Output, dump_id: str | None, key_a: Path, key_b: Path, tier: str | None, purpose: str
) -> int:
    """Restore DUMP (default: the latest) into a scratch database, compare every table, drop it.

    The two key files are used here and go nowhere; a daemon may run beside.
    """
    import asyncio

    from mover.cli.handed import in_hand
    from mover.cli.vault import _actor, _identified
    from mover.console import drill_dump
    from mover.deid.vaultkeys import RevealKey
    from mover.owner import become_for

    settings, key, actor = in_hand(_identified(ctx.obj)), RevealKey.join(key_a, key_b), _actor()
    become_for(settings)
    done = asyncio.run(drill_dump(settings, tier=tier, dump=dump_id, key=key, actor=actor, purpose=purpose))
    return _tell(out, done, recorded=done.recorded)


@click.command("restore")
@click.argument("dump_id", required=False, metavar="[DUMP]")
@key_a_option
@key_b_option
@tier_option
@click.option("--purpose", required=True, help="Why; it stands in the audit record. No names in it.")
@with_output
@click.pass_context
def restore(
    ctx: click.Context, *, out: Output, dump_id: str | None, key_a: Path, key_b: Path, tier: str | None, purpose: str
) -> int:
    """Restore vault and catalog from DUMP (default: the latest) into an empty database, with no daemon running.

    Needs both key files, and the vault's own key file that was backed up apart. What was erased since the dump is
    erased again, by the file of tombstones. Where the public part of the pair was lost, the pair brings it back.
    """
    import asyncio

    from mover.cli.handed import in_hand
    from mover.cli.vault import _actor, _identified
    from mover.console import restore_dump
    from mover.deid.vaultkeys import RevealKey, encode_file, write_new
    from mover.owner import acting, become_for

    settings, key, actor = in_hand(_identified(ctx.obj)), RevealKey.join(key_a, key_b), _actor()
    become_for(settings)
    done = asyncio.run(restore_dump(settings, tier=tier, dump=dump_id, key=key, actor=actor, purpose=purpose))
    # the dump opened, so this is its pair; without it nothing more would be sealed for the two, nor dumped
    if not settings.vault_public.exists():
        with acting(settings.vault_public.parent):
            write_new(settings.vault_public, encode_file(key.public))
    status = _tell(out, done, erased_again=done.erased)
    out.note("What happened after the dump was taken is not in it: walk the tiers, and look at the audit's ends.")
    return status


def _tell(out: Output, done: DumpDone, **more: object) -> int:
    compared = done.compared
    told = {"dump": done.dump, "taken_at": done.taken_at, "tables": compared.tables, "rows": compared.rows,
            "different": list(compared.different), **more}  # fmt: skip
    pairs = [("dump", done.dump), ("of", done.taken_at), ("tables", compared.tables), ("rows", compared.rows),
             ("different", " ".join(compared.different) or "none")]  # fmt: skip
    out.facts(told, [*pairs, *((name.replace("_", " "), value) for name, value in more.items())])
    return 1 if compared.different else 0


def _facts(dump: wire.Dump) -> list[tuple[str, object]]:
    return [
        ("dump", dump.id), ("state", dump.state), ("taken", dump.taken_at), ("pair", dump.pair),
        ("copies", " ".join(f"{c.tier}:{c.state}" for c in dump.copies) or "none"), ("drilled", _drilled(dump)),
        ("why", dump.explanation or dump.why),
    ]  # fmt: skip


def _drilled(dump: wire.Dump) -> str:
    if not dump.drills:
        return "never"
    last = dump.drills[0]
    return f"{last.kind} {'runs' if last.passed is None else 'passed' if last.passed else 'failed'}"
