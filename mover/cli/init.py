"""`mover init`: a site from four places.

Order matters. Everything is looked at first, without writing. Then identities are written and each place is tried,
then secrets, then policies; mover.yaml comes last, so that a half-finished init has no mover.yaml and can simply be
run again: what it made already is kept as it is, and no secret is ever made twice.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from mover.cli.common import with_output

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.cli.probes import Finding
    from mover.settings import Settings

QUESTIONS = {
    "source": "Folder with the image packs and tables of pathology (read only)",
    "bucket": "Bucket for the de-identified slides (s3://name or s3://name/prefix)",
    "endpoint": "S3 endpoint (empty for AWS)",
    "credentials_file": "File with the bucket's credentials",
    "flash": "Folder on the cluster's flash storage",
    "protect": "Folder for the snapshot repository",
    "state": "Folder for the daemon's own state",
    "site": "A short name of this site",
    "project": "A short name of the first project",
}
DEFAULTS = {"endpoint": "", "state": "/var/lib/mover", "site": "site", "project": "main"}


class Answers(Struct, frozen=True, forbid_unknown_fields=True):
    """What `--from-file` may hold, too."""

    source: str
    bucket: str
    credentials_file: str
    flash: str
    protect: str
    endpoint: str = ""
    region: str = "us-east-1"
    state: str = DEFAULTS["state"]
    site: str = DEFAULTS["site"]
    project: str = DEFAULTS["project"]
    # where the cluster's nodes see the flash, if elsewhere
    flash_seen_as: str = ""
    # TCP besides the local socket, such as 127.0.0.1:8620
    tcp: str = ""


@click.command("init")
@click.option("--from-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Answers as YAML.")
@click.option("--source", help=QUESTIONS["source"] + ".")
@click.option("--bucket", help=QUESTIONS["bucket"] + ".")
@click.option("--endpoint", help=QUESTIONS["endpoint"] + ".")
@click.option("--region", help="The bucket's region.")
@click.option("--credentials-file", help=QUESTIONS["credentials_file"] + ".")
@click.option("--flash", help=QUESTIONS["flash"] + ".")
@click.option("--flash-seen-as", help="The same folder as the cluster's nodes call it.")
@click.option("--protect", help=QUESTIONS["protect"] + ".")
@click.option("--state", help=QUESTIONS["state"] + ".")
@click.option("--site", help=QUESTIONS["site"] + ".")
@click.option("--project", help=QUESTIONS["project"] + ".")
@click.option("--tcp", help="Also listen on this address, such as 127.0.0.1:8620.")
@click.option("--config", "folder", type=click.Path(file_okay=False, path_type=Path), default=".", show_default=True,
              metavar="DIR", help="The folder for mover.yaml and policies/.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Ask nothing.")
@click.option("--plan", is_flag=True, help="Look and show what would be written; write nothing.")
@with_output
def command(*, out: Output, from_file: Path | None, folder: Path, yes: bool, plan: bool, **given: str | None) -> int:
    """Ask for your tiers, try them, write mover.yaml, policies and secrets.

    Nothing that exists is overwritten, nothing is written to the source, and nothing is started.
    """
    from mover.errors import Conflict

    file = folder.absolute() / "mover.yaml"
    if file.exists():
        raise Conflict("there is a mover.yaml already; it was left as it is", where=str(file),
                       hint="Edit it and run `mover doctor`, or name another folder with --config.")  # fmt: skip
    answers = _answers(from_file, {name: value for name, value in given.items() if value is not None}, ask=not yes)
    text = _settings_text(answers, file)
    settings = _parsed(text, file)
    findings = _look(settings)
    _report(out, findings)
    if any(finding.verdict == "bad" for finding in findings):
        out.note("\nNothing was written. Mend what is marked [red]bad[/] and run init again.")
        return 1
    if plan:
        _show_plan(out, settings, findings, text)
        return 0
    if not yes and sys.stdin.isatty() and not click.confirm("\nWrite this site?", default=True):
        return 1
    _apply(out, settings, text)
    return 0


def _answers(from_file: Path | None, given: dict[str, str], *, ask: bool) -> Answers:
    import msgspec

    from mover.errors import SettingsInvalid
    from mover.policy import read, refuse

    said: dict[str, str] = {}
    if from_file is not None:
        document = read(from_file, error=SettingsInvalid)
        if isinstance(document.value, dict):
            said = {str(name): str(value) for name, value in document.value.items()}
        unknown = set(said) - set(Answers.__struct_fields__)
        refuse([document.mistake((name, "#key"), f"`{name}` is not known here") for name in sorted(unknown)],
               SettingsInvalid)  # fmt: skip
    said |= given
    missing = [name for name in QUESTIONS if name not in said]
    if ask and sys.stdin.isatty():
        for name in missing:
            said[name] = click.prompt(
                QUESTIONS[name], default=DEFAULTS.get(name), show_default=bool(DEFAULTS.get(name))
            )
    needed = [f"--{name.replace('_', '-')}" for name in missing if name not in DEFAULTS and name not in said]
    if needed:
        raise click.UsageError(f"still needed: {', '.join(needed)}")
    return msgspec.convert(said, Answers)


def _settings_text(answers: Answers, file: Path) -> str:
    """YAML with a sentence of why at each choice."""
    tcp = f"\n  tcp: {_quoted(answers.tcp)}" if answers.tcp else ""
    return f"""\
# Written by `mover init`. `mover --config {file} doctor` checks it. Relative paths are relative to this file.
version: 1
site: {answers.site}
project: {answers.project}

# One daemon for both zones. With patients' data on a production site run two: `role: identified` under its own user,
# the only one that may read the intake tier, and `role: clean` for everything else.
role: both

# The embedded database, the vault's key and the local socket live here. Back up the key apart from the database.
state_dir: {_path(answers.state)}
policies: policies

# The local socket knows root and the daemon's user without a token. Beyond loopback TCP needs `tls:`.
listen:
  unix: {_quoted(str(Path(answers.state).expanduser().absolute() / "mover.sock"))}{tcp}

{_tiers_text(answers)}"""


def _tiers_text(answers: Answers) -> str:
    endpoint = f"\n    endpoint: {_quoted(answers.endpoint)}" if answers.endpoint else ""
    seen_as = f"\n    seen_as: {_quoted(answers.flash_seen_as)}" if answers.flash_seen_as else ""
    return f"""\
tiers:
  # What pathology hands over. Never written to; the only tier with names in it.
  intake:
    kind: posix
    zone: identified
    role: source
    path: {_path(answers.source)}
    read_only: true
  # `deletes: false`: nothing is deleted there, whatever policies say; plans show what would be. Switch it on, tier by
  # tier, when you have read such plans: runs leave the flash and snapshots are forgotten only then.
  # De-identified slides, write-once.
  archive:
    kind: object
    zone: deidentified
    role: archive
    url: {_quoted(answers.bucket)}{endpoint}
    region: {_quoted(answers.region)}
    credentials_file: {_path(answers.credentials_file)}
    deletes: false
  # Run roots for training. `seen_as` is the same folder as the cluster's nodes call it.
  flash:
    kind: posix
    zone: deidentified
    role: flash
    path: {_path(answers.flash)}{seen_as}
    deletes: false
  # The snapshot repository, readable with stock restic.
  protect:
    kind: posix
    zone: deidentified
    role: protect
    path: {_path(answers.protect)}
    deletes: false
"""


def _quoted(text: str) -> str:
    """JSON strings are YAML strings."""
    import msgspec

    return msgspec.json.encode(text).decode()


def _path(text: str) -> str:
    return _quoted(str(Path(text).expanduser().absolute()))


def _parsed(text: str, file: Path) -> Settings:
    """Through the one reader of settings, so that init writes nothing the daemon would refuse."""
    import tempfile

    import msgspec

    from mover.settings import load

    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "mover.yaml"
        draft.write_text(text, "utf-8")
        settings = load(draft)
    return msgspec.structs.replace(settings, file=file, policies=file.parent / "policies")


def _look(settings: Settings) -> list[Finding]:
    from mover.api.serve import check_socket_path
    from mover.cli import probes
    from mover.errors import MoverError
    from mover.tiers.object import check_credentials

    tiers = list(settings.tiers.values())
    findings = [finding for tier in tiers for finding in probes.look_at_place(tier)]
    findings += probes.overlapping(tiers) + probes.shared_devices(tiers)
    if settings.policies.exists():
        findings.append(probes.warn("policies", "there are some already", "They are kept as they are; read them."))
    try:
        check_socket_path(str(settings.listen.unix))
        for tier in tiers:
            if tier.credentials_file is not None:
                check_credentials((tier.url or "").partition(":")[0], tier.credentials_file)
    except MoverError as error:
        findings.append(probes.bad("settings", error.what, error.advice))
    return findings


def _report(out: Output, findings: list[Finding]) -> None:
    if out.as_json:
        return
    from mover.cli.probes import print_finding

    for finding in findings:
        print_finding(out, finding)


def _writes(settings: Settings) -> list[tuple[str, str]]:
    written = [
        (str(tier.path / ".mover" / "tier.json"), "says which tier this folder is")
        for tier in settings.tiers.values()
        if tier.path is not None and not tier.read_only
    ]
    return [
        *written,
        *[
            (f"{tier.url}/.mover/tier.json", "says which tier this bucket is")
            for tier in settings.tiers.values()
            if tier.url
        ],
        (str(settings.vault_key), "the vault's key, 0600; losing it loses every name for ever"),
        (str(settings.certificate_key), "the key that signs certificates of batches, 0600"),
        (str(settings.audit_key), "the key that signs checkpoints and packs of the audit, 0600"),
        (str(settings.repository_password_file), "the repository's password, 0600"),
        (str(settings.state_dir / "admin-token"), "an admin's API token, 0600"),
        (str(settings.policies), "one policy for each step"),
        (str(settings.file), "the settings"),
    ]


def _show_plan(out: Output, settings: Settings, findings: list[Finding], text: str) -> None:
    writes = _writes(settings)
    if out.as_json:
        plan = [{"action": "write", "subject": path, "reason": why} for path, why in writes]
        out.json({"findings": findings, "plan": plan, "settings": text})
        return
    out.note("\nwould be written:")
    for path, why in writes:
        out.note(f"  {path}: {why}")
    click.echo("\n" + text, nl=False)


def _apply(out: Output, settings: Settings, text: str) -> None:
    from mover.access import ADMIN_TOKEN_FILE, PREFIX
    from mover.deid.vault import VaultKey
    from mover.policy import default_folder
    from mover.randomness import new_secret
    from mover.signing import new_key

    tried = _establish(out, settings)
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not settings.vault_key.exists():
        VaultKey.create(settings.vault_key)
    for key in (settings.certificate_key, settings.audit_key):
        if not key.exists():
            new_key(key)
    _write_secret(settings.repository_password_file, new_secret() + "\n")
    _write_secret(settings.state_dir / ADMIN_TOKEN_FILE, PREFIX + new_secret() + "\n")
    settings.file.parent.mkdir(parents=True, exist_ok=True)
    # copied aside and renamed: a kill leaves no half folder that looks whole
    if not settings.policies.exists():
        aside = settings.policies.with_name("policies.partial")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(default_folder(), aside)
        aside.rename(settings.policies)
    _hand_over(settings)
    with open(settings.file, "x", encoding="utf-8") as file:
        file.write(text)
    out.show({"settings": str(settings.file), "tiers": tried}, lambda: _next_steps(settings))


def _hand_over(settings: Settings) -> None:
    """What root made here belongs to the daemon's user, who owns the state folder: as root's, the daemon could neither
    read its keys nor work below `.mover`. The settings stay root's."""
    owner = settings.state_dir.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    marks = [tier.path / ".mover" for tier in settings.tiers.values() if tier.path is not None and not tier.read_only]
    identities = [mark / "tier.json" for mark in marks]
    policies = [settings.policies, *settings.policies.rglob("*")]
    for path in (*settings.state_dir.iterdir(), *marks, *identities, *policies):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _establish(out: Output, settings: Settings) -> dict[str, str]:
    """Identities, and every place tried for real."""
    from mover.cli import probes
    from mover.tiers import identity
    from mover.tiers.object import ObjectTier

    found = {}
    for tier in settings.tiers.values():
        made = probes.make_tier(tier)
        if isinstance(made, ObjectTier):
            made.establish()
        elif not tier.read_only:
            assert tier.path is not None
            identity.establish(tier.path, name=tier.name, zone=tier.zone)
        made.check_identity()
        found[tier.name] = probes.describe(made)
        out.note(f"[green] good[/]  tier {tier.name}: {found[tier.name]}")
    return found


def _write_secret(path: Path, text: str) -> None:
    """0600 from its first byte, durable, and never over another one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _next_steps(settings: Settings) -> None:
    config = settings.file
    click.echo(f"""
written: {config}
The daemon runs as the user that owns {settings.state_dir}. What to do next:

  mover --config {config} doctor          check everything once more
  mover --config {config} daemon          run it; as a service: mover units write, systemctl enable --now mover
  mover --config {config} token make slurm --role operator --uid UID --gid GID
  mover --config {config} batch ready FOLDER --expected N --wait

Nothing is deleted on any tier until its `deletes:` in {config} says true.
Keep a copy of {settings.vault_key} in a safe: without it no name can ever be found again.""")
