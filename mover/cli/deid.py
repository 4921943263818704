"""`mover deid`: de-identify a folder without catalog or daemon; certificates of it; a survey before anything moves."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mover.cli.watching import Watching, WholeLines, refuse, some

if TYPE_CHECKING:
    from mover.deid.certificate import Checked
    from mover.deid.oneshot import OneShotReport
    from mover.deid.oneshot.shot import Options

RUN = "run"
LEFT_OVER_SHOWN = 20
# subcommand -> module and the name of its click command there
ELSEWHERE: dict[str, tuple[str, str]] = {
    "survey": ("mover.cli.deid_survey", "command"),
    "adopt": ("mover.cli.adopt", "command"),
    "export": ("mover.cli.deid_export", "command"),
}

_WHAT_TO_SIGN = (
    "Name a batch by its whole id (mover batch list) and --to; or a certificate, --sign-key and --to; or --new-key."
)
_FILE = click.Path(path_type=Path, dir_okay=False)
_EXISTING = click.Path(path_type=Path, dir_okay=False, exists=True)


class FolderOrCommand(WholeLines):
    """`mover deid FOLDER --to …` is the usual call; a word that is a subcommand's name is that subcommand."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.list_commands(ctx), "--help", "-h"):
            args = [RUN, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        there = [name for name, (module, _) in ELSEWHERE.items() if importlib.util.find_spec(module)]
        return sorted([*super().list_commands(ctx), *there])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in self.list_commands(ctx):
            module, attribute = ELSEWHERE[cmd_name]
            found = getattr(importlib.import_module(module), attribute)
        return found


@click.group("deid", cls=FolderOrCommand, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """De-identify a folder without catalog or daemon.

    \b
    mover deid SOURCE_DIR --to OUT --crosswalk FILE [--profile FILE]
    mover deid run --help     all options of that call

    Slides, DICOM objects and tables of one folder are taken together: a patient, case, block or slide has one
    pseudonym in all of them, and what a table knows of a patient is searched for in that patient's images.
    """


@command.command(RUN)
@click.argument("source_dir", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--to", "out_dir", type=click.Path(path_type=Path), help="Folder for the clean files.")
@click.option("--crosswalk", type=click.Path(path_type=Path),
              help="File that ties names to numbers; written 0600, outside the output folder.")  # fmt: skip
@click.option("--profile", "profile_path", type=_EXISTING,
              help="A policy of kind deid: options, and the columns of tables (default: the narrowest).")  # fmt: skip
@click.option("--map", "map_path", type=click.Path(path_type=Path), help="Also write source,output as CSV (0600).")
@click.option("--thumbnails", is_flag=True, help="Render a small JPEG beside each slide.")
@click.option("--certificate", "certificate_path", type=_FILE, help="Write a signed certificate; needs --sign-key.")
@click.option("--sign-key", type=_EXISTING, help="Private key: mover deid certify --new-key FILE.")
@click.option("--role", default="operator of the one-shot command", show_default=True,
              help="Who certifies, as the certificate will say. A role, not a name of a patient.")  # fmt: skip
@click.option("--plan", "plan_only", is_flag=True,
              help="Look, judge and prove, but write nothing; needs neither --to nor --crosswalk.")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="With --plan: every decision of every file, after the counts.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
def run(
    source_dir: Path, out_dir: Path | None, crosswalk: Path | None, verbose: bool, as_json: bool, **given: Any
) -> None:
    """De-identify everything below SOURCE_DIR.

    A slide becomes TO/<number>/<number>.<format>, a DICOM series TO/<number>/<number>-0001.dcm and so on, a table
    TO/tables/<rule>-<number>.csv. What is not understood is listed in the crosswalk as quarantined and never written;
    what a rule leaves out (label pictures, sidecars) is listed as dropped. Exit status: 0 when nothing waits for a
    person, 1 when some files are quarantined.
    """
    import msgspec

    from mover.errors import MoverError

    if not given["plan_only"] and (out_dir is None or crosswalk is None):
        raise click.UsageError("--to and --crosswalk are needed for all but --plan")
    try:
        report = _shoot(source_dir, out_dir, crosswalk, given)
    except MoverError as error:
        refuse(error, as_json=as_json)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        _print(report, crosswalk, plan_only=given["plan_only"])
        _print_plan(report, verbose=verbose)
    sys.exit(1 if report.quarantined or not report.files else 0)


def _shoot(source_dir: Path, out_dir: Path | None, crosswalk: Path | None, given: dict[str, Any]) -> OneShotReport:
    from mover.deid.oneshot import deidentify_folder

    options = _options(given)
    with Watching("planning" if options.plan_only else "de-identifying") as progress:
        return deidentify_folder(source_dir, out_dir, crosswalk, options=options, progress=progress)


def _options(given: dict[str, Any]) -> Options:
    from mover.deid.oneshot.shot import Options, Signing
    from mover.errors import RequestInvalid
    from mover.policy import load_profile
    from mover.signing import load_key

    certificate, key_path = given["certificate_path"], given["sign_key"]
    if (certificate is None) != (key_path is None):
        raise RequestInvalid(
            "a certificate needs a path and a key", hint="Give both --certificate and --sign-key, or neither."
        )
    signing = Signing(certificate, load_key(key_path), given["role"]) if certificate else None
    loaded = load_profile(given["profile_path"]) if given["profile_path"] else None
    common = {name: given[name] for name in ("map_path", "plan_only", "thumbnails")}
    if loaded is None:
        return Options(signing=signing, **common)
    return Options(profile=loaded.policy, profile_text_blake3=loaded.digest, signing=signing, **common)  # type: ignore[arg-type]


# --- words for somebody tired --------------------------------------------------------------------------


def _print(report: OneShotReport, crosswalk: Path | None, *, plan_only: bool) -> None:
    from mover.cli.output import say

    if not report.files:
        click.echo("the folder holds no file: is what should be there mounted?", err=True)
    done = "would be de-identified" if plan_only else "de-identified"
    counts = f"{report.deidentified} {done}, {report.quarantined} quarantined, {report.dropped} dropped"
    click.echo(f"{some(report.files, 'file')}: {counts}")
    for kind, states in sorted(report.by_kind.items()):
        told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        click.echo(f"  {kind:6} {told}")
    for family, count in sorted(report.families.items()):
        click.echo(f"  {count:6} {family}")
    _print_reasons(report)
    if report.ambiguous_names:
        names = some(report.ambiguous_names, "slide name")
        click.echo(f"{names} of several files each: no table's row was tied to such a one")
    if report.cells_to_review:
        click.echo(f"{some(report.cells_to_review, 'cell')} of tables did not leave: worth a look")
    for one in report.anonymity:
        lost = f", {some(one.suppressed, 'row')} lost theirs" if one.suppressed else ""
        say(f"table {one.table}: k = {one.smallest} over {', '.join(one.columns)}{lost}")
    if report.left_over:
        lie = "lie" if len(report.left_over) > 1 else "lies"
        click.echo(f"{some(len(report.left_over), 'output')} of an earlier run still {lie} in the output folder, and "
                   "by this profile would not: remove what nobody may have")  # fmt: skip
        for name in report.left_over[:LEFT_OVER_SHOWN]:
            say(f"         {name}")
    if report.certificate:
        click.echo(f"certificate signed with key {report.certificate}")
    if not plan_only:
        click.echo(f"crosswalk: {crosswalk} (keep it secret); its `files` say of each file what became of it and why")


def _print_reasons(report: OneShotReport) -> None:
    from mover.cli.output import say

    for title, reasons in (("quarantined", report.reasons), ("dropped", report.dropped_reasons)):
        if not reasons:
            continue
        click.echo(f"{title}:")
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
            click.echo(f"  {count:6} {reason}")
            for words, times in sorted(report.details.get(reason, {}).items(), key=lambda item: -item[1])[:5]:
                say(f"         {times:6} × {words}")


def _print_plan(report: OneShotReport, *, verbose: bool) -> None:
    if report.planned and not verbose:
        click.echo("nothing was written; every decision: -v, or --json")
        return
    for planned in report.planned:
        click.echo(f"file {planned.position}: {planned.status} {planned.reason or planned.family or ''}".rstrip())
        for decision in planned.decisions:
            times = f" x{decision.times}" if decision.times > 1 else ""
            shape = f" [{decision.shape}]" if decision.shape else ""
            click.echo(f"    {decision.action:7} {decision.code} {decision.place}{shape}{times}: {decision.reason}")


# --- certificates --------------------------------------------------------------------------------------


@command.command("certify")
@click.argument("certificate", required=False, metavar="[CERTIFICATE | BATCH]")
@click.option("--new-key", type=_FILE, help="Make a signing key in this file (0600) and print its fingerprint.")
@click.option("--sign-key", type=_EXISTING, help="Sign with this key.")
@click.option("--looked-at", type=click.IntRange(0), help="How many outputs a person looked at.")
@click.option("--not-clean", type=click.IntRange(0), default=0, show_default=True, help="How many of them were not.")
@click.option("--by", default="", help="Who looked, as the certificate will say.")
@click.option("--number", help="Only the slide, series or table of this number.")
@click.option("--to", "target", type=_FILE, help="Where the new certificate goes.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
@click.pass_context
def certify(ctx: click.Context, certificate: str | None, new_key: Path | None, **given: Any) -> None:
    """Make a signing key; get the certificate of a batch, which the daemon signs with its own; or sign a certificate
    anew: with what a human check found, or for one number alone.

    \b
    mover deid certify --new-key site.key
    mover deid certify batch-7ZK… --to batch.json
    mover deid certify batch.json --looked-at 300 --sign-key site.key --to checked.json
    mover deid certify batch.json --number 7ZK… --sign-key site.key --to one.json
    """
    from mover.errors import MoverError, RequestInvalid
    from mover.model.ids import is_id
    from mover.signing import new_key as make_key

    try:
        if new_key is not None:
            _told({"key": str(new_key), "fingerprint": make_key(new_key)}, given["as_json"])
            if not given["as_json"]:
                click.echo("Tell the fingerprint to whoever checks your certificates, on another way than theirs.")
            return
        if certificate is not None and is_id(certificate, "batch"):
            _fetch(ctx, certificate, given)
            return
        if certificate is None or given["sign_key"] is None or given["target"] is None:
            raise RequestInvalid("what is to be signed, and where does it go?", hint=_WHAT_TO_SIGN)
        if not Path(certificate).is_file():
            raise RequestInvalid("there is no such certificate, and a batch's id looks otherwise", hint=_WHAT_TO_SIGN)
        _sign_again(Path(certificate), given)
    except MoverError as error:
        refuse(error, as_json=given["as_json"])


def _fetch(ctx: click.Context, batch: str, given: dict[str, Any]) -> None:
    """As the daemon signed it; checked before it is kept, because what is filed away is looked at years later."""
    from mover.deid.certificate import verify
    from mover.deid.durable import write_private
    from mover.errors import DigestMismatch, RequestInvalid

    if given["target"] is None or any(given[name] for name in ("sign_key", "looked_at", "number")):
        raise RequestInvalid("the certificate of a batch is signed by its daemon", hint="Name the batch and --to.")
    with ctx.obj.connect() as mover:
        data = mover.batches.certificate(batch).encode()
    checked = verify(data)
    if checked.problems:
        raise DigestMismatch("the certificate does not check out: " + checked.problems[0])
    write_private(given["target"], data)
    _told({"certificate": str(given["target"]), "fingerprint": checked.fingerprint}, given["as_json"])


def _sign_again(path: Path, given: dict[str, Any]) -> None:
    """Only what checks out is signed again, and the older certificate is named by its digest."""
    import msgspec
    from blake3 import blake3

    from mover.deid.certificate import encode, for_one, human_check, sign, verify
    from mover.deid.durable import write_private
    from mover.errors import DigestMismatch
    from mover.signing import grouped, load_key, public_fingerprint

    key = load_key(given["sign_key"])
    data = path.read_bytes()
    checked = verify(data)
    if checked.problems or checked.certificate is None:
        raise DigestMismatch("the certificate does not check out, so it is not signed again: " + checked.problems[0])
    made = checked.certificate
    custody = msgspec.structs.replace(made.custody, previous=grouped(blake3(data).hexdigest()))
    made = msgspec.structs.replace(made, custody=custody)
    if given["looked_at"] is not None:
        check = human_check(given["looked_at"], given["not_clean"], by=given["by"])
        made = msgspec.structs.replace(made, human_check=check)
    if given["number"]:
        made = for_one(made, given["number"])
    write_private(given["target"], encode(sign(made, key)))
    told = {"certificate": str(given["target"]), "fingerprint": public_fingerprint(key)}
    if given["looked_at"]:
        told["not clean at most (95 %)"] = f"{made.human_check.upper_bound_95:.2%}"
    _told(told, given["as_json"])


def _told(facts: dict[str, str], as_json: bool) -> None:
    import msgspec

    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(facts), indent=2).decode())
        return
    for name, value in facts.items():
        click.echo(f"{name}: {value}")


@command.command("verify-certificate")
@click.argument("certificate", type=_EXISTING)
@click.option("--files", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="The output folder: every certified file is hashed again.")  # fmt: skip
@click.option("--alone", is_flag=True, help="A file in the folder that the certificate does not know is a problem.")
@click.option("--fingerprint", multiple=True, help="A key you trust; another one is a problem. May be repeated.")
@click.option("--html", "printed", type=_FILE, help="Write certificate and check as a page to print; no scripts.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def verify_certificate(
    certificate: Path, folder: Path | None, alone: bool, fingerprint: tuple[str, ...], printed: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Check a certificate: form, every part, signature and, with --files, the outputs. Exit status 5 on any problem."""
    import msgspec

    from mover.deid.certificate import verify
    from mover.errors import IntegrityError

    signed = certificate.read_bytes()
    checked = verify(signed, folder=folder, trusted=fingerprint)
    if alone and checked.strangers:
        more = f"{some(checked.strangers, 'file')} in the folder, and none in this certificate"
        checked = msgspec.structs.replace(checked, problems=(*checked.problems, more))
    if printed is not None:
        _print_page(printed, checked, signed, as_json=as_json)
    if as_json:
        told = msgspec.structs.replace(checked, certificate=None)
        click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
    else:
        _print_checked(checked, folder is not None)
    sys.exit(IntegrityError.exit_status if checked.problems else 0)


def _print_page(target: Path, checked: Checked, signed: bytes, *, as_json: bool) -> None:
    from mover.deid.durable import write_private
    from mover.deid.printed import page
    from mover.errors import MoverError

    try:
        write_private(target, page(checked, signed), replace=False)
    except MoverError as error:
        refuse(error, as_json=as_json)


def _print_checked(checked: Checked, with_files: bool) -> None:
    if checked.problems:
        click.echo(f"NOT VALID: {some(len(checked.problems), 'problem')}")
        for problem in checked.problems:
            click.echo(f"  {problem}")
    else:
        click.echo("valid: every part is as it was signed")
    if checked.fingerprint:
        trust = "which you trust" if checked.trusted else "compare it with the one you were told"
        click.echo(f"key {checked.fingerprint} ({trust})")
    if checked.certificate is not None:
        made = checked.certificate
        click.echo(f"made {made.made_at} by {made.tool.name} {made.tool.version}, profile {made.profile.name}, "
                   f"basis claimed: {made.profile.basis}")  # fmt: skip
        files, numbers = some(made.inventory.files, "file"), some(checked.numbers, "number")
        click.echo(f"{made.inventory.published} of {files} published, {numbers}")
    if with_files:
        others = f"; {some(checked.strangers, 'other file')} in the folder" if checked.strangers else ""
        click.echo(f"{some(checked.files_checked, 'output')} hashed again{others}")
        if not checked.files_checked:
            click.echo("none of its outputs lies there: is this the folder that --to named?")
    else:
        click.echo("outputs were not hashed: give --files FOLDER")
