"""The `mover` command: one file per noun, on the SDK; each is loaded when it is called, so that `--help` is quick."""

from __future__ import annotations

import importlib
import sys

import click

# name -> module that holds a click command named `command`, and its line in `mover --help`
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("mover.cli.init", "Ask for your tiers, try them, write mover.yaml and policies."),
    "doctor": ("mover.cli.doctor", "Check everything and say what to do about it."),
    "daemon": ("mover.cli.daemon", "Run the daemon in the foreground."),
    "units": (
        "mover.cli.units",
        "What systemd is told: drop-ins of the units, from the declared tiers; where a site stands.",
    ),
    "support": ("mover.cli.support", "For who asks for help: a bundle without identifiers."),
    "watch": ("mover.cli.watch", "Hear of changes on tiers, for scans of changes only."),
    "demo": ("mover.cli.demo", "Run the whole workflow on a small generated hospital."),
    "status": ("mover.cli.status", "How the daemon is doing, and who you are to it."),
    "reload": ("mover.cli.reload", "Take changed settings and policies now; say what waits for a restart."),
    "events": ("mover.cli.events", "What changes, as it changes: nouns and ids."),
    "alarm": ("mover.cli.alarm", "What was told to whom; try a receiver."),
    "needs": ("mover.cli.needs", "What waits for a person, the most urgent first."),
    "tier": ("mover.cli.tier", "Where bytes live."),
    "plot": ("mover.cli.plot", "Figures for reports, as SVG or PNG, with the numbers of the pages."),
    "shard": ("mover.cli.shard", "Work as it is dispatched: what runs, waits, failed."),
    "scan": ("mover.cli.scan", "Walk tiers into the catalog, see what drifted."),
    "batch": ("mover.cli.batch", "Step 1: declare batches of image packs, follow them."),
    "quarantine": ("mover.cli.quarantine", "What waits for a person, by cause; decide about all of it at once."),
    "slide": ("mover.cli.slide", "The de-identified slides of the project."),
    "tag": ("mover.cli.tag", "Words on slides: put on, taken off, undone."),
    "records": ("mover.cli.records", "Step 2: declare the tables of a batch, read the ledger."),
    "cohort": ("mover.cli.cohort", "Step 3: save and count cohorts by expression."),
    "run": ("mover.cli.run", "Steps 3 to 5: request, wait, finish, clean."),
    "check": ("mover.cli.check", "Is a run root what was sealed? Names, sizes and times, in seconds."),
    "copy": ("mover.cli.copy", "Copy trees, lists or what a condition selects from tier to tier."),
    "move": ("mover.cli.move", "Copy, then release the sources: trash, hold, purge."),
    "transfer": ("mover.cli.transfer", "Follow and steer copies and moves."),
    "verify": ("mover.cli.verify", "Read a tier, a run or a list again, and compare with the catalog."),
    "verification": ("mover.cli.verification", "What was read again: progress, findings, reports."),
    "archive": ("mover.cli.archive", "Second copies, locks and damage of published slides."),
    "folder": ("mover.cli.folder", "Plain folders that policies protect: when, how far, now."),
    "snapshot": ("mover.cli.snapshot", "Step 4: what is protected, and its check."),
    "protect": ("mover.cli.protect", "Step 4: the terms that hold, what waits, and what takes two persons."),
    "restore": ("mover.cli.restore", "Bring a snapshot, or a path of it, into a new folder, or in place."),
    "restores": ("mover.cli.restores", "Restores on their way and done: follow, give up."),
    "versions": ("mover.cli.versions", "The versions of a path, over the snapshots that hold it."),
    "audit": ("mover.cli.audit", "Who did what; verify and export the chains."),
    "answers": ("mover.cli.answers", "What a compliance officer asks, answered from the catalog's rows."),
    "policy": ("mover.cli.policy", "The policies in force: read and change them, agree on changes; check files."),
    "vault": ("mover.cli.vault", "For custodians: reveal, export, erase, import, keys; dumps, drills, restores."),
    "db": ("mover.cli.db", "The database: its schema and backups, a newer PostgreSQL, another server."),
    "token": ("mover.cli.token", "Make, list and revoke API tokens."),
    "account": ("mover.cli.account", "Accounts of people: roles, passwords, an end."),
    "deid": ("mover.cli.deid", "De-identify a folder without catalog or daemon."),
}


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table: loading seventeen modules to print seventeen lines is what makes help slow."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from mover import __version__

        click.echo(f"mover {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", metavar="FILE",
              help="The daemon's mover.yaml (default: MOVER_CONFIG, ./mover.yaml, /etc/mover/mover.yaml).")  # fmt: skip
@click.option("--url", help="The daemon: http(s)://… or unix:///… (default: MOVER_URL or the config's socket).")
@click.option("--token-file", metavar="FILE", help="A file with an API token (default: MOVER_TOKEN_FILE).")
@click.option("--ca-file", metavar="FILE", help="Certificates to trust besides the system's.")
@click.option("--project", metavar="NAME", help="Another project than the daemon's, by its local socket.")
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print it.")
@click.pass_context
def command(
    ctx: click.Context, config: str | None, url: str | None, token_file: str | None, ca_file: str | None,
    project: str | None,
) -> None:  # fmt: skip
    """Bring the right, de-identified, verified slides to the training cluster, protect what comes out, clean up.

    Every command prints JSON with --json. What changes something can be looked at first with --plan.
    """
    from mover.cli.common import Where

    ctx.obj = Where(config=config, url=url, token_file=token_file, ca_file=ca_file, project=project)


def main() -> None:
    """Errors are printed once, here, as what, where, whether to try again and what to do."""
    from mover.errors import MoverError

    try:
        status = command.main(prog_name="mover", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped; what the daemon was asked to do goes on", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except MoverError as error:
        from mover.cli.output import print_error

        print_error(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_status)
    sys.exit(status if isinstance(status, int) else 0)
