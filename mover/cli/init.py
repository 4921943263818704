"""`mover init`: a site from four places.

Order matters. Everything is looked at first, without writing. Then identities are written and each place is tried,
then secrets, then the server is told its logins, then policies; mover.yaml comes last, so that a half-finished init has
no mover.yaml and can simply be run again: what it made already is kept as it is, and no secret is ever made twice.
Where mover.yaml stands, nothing is ever made: a second vault key would lose every name of the first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from mover.cli import newfile
from mover.cli.common import with_output
from mover.cli.newsite import DEFAULTS, OF_BUCKETS, QUESTIONS, Answers

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.cli.probes import Finding
    from mover.errors import MoverError
    from mover.settings import Settings, Tier


class Site(Struct, frozen=True):
    """What is about to be written: one daemon's settings, or those of two."""

    answers: Answers
    folder: Path
    texts: dict[Path, str]
    settings: tuple[Settings, ...]  # in the order of the texts; the last has the state that init writes into

    @property
    def clean(self) -> Settings:
        return self.settings[-1]

    @property
    def tiers(self) -> dict[str, Tier]:
        """Of all daemons, with the bucket's keys where they are now."""
        import msgspec

        found = {name: tier for one in self.settings for name, tier in one.tiers.items()}
        given = Path(self.answers.credentials_file).expanduser().absolute()
        return {
            name: tier if tier.path is not None else msgspec.structs.replace(tier, credentials_file=given)
            for name, tier in found.items()
        }

    @property
    def shared(self) -> list[Path]:
        """Folders that both daemons write to, each as its own user."""
        zones = [{tier.path for tier in one.tiers.values() if not tier.read_only} for one in self.settings]
        return sorted(path for path in set.intersection(*zones) if path is not None) if len(zones) > 1 else []


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
@click.option("--database", metavar="DSN", help=QUESTIONS["database"] + ".")
@click.option("--admin", metavar="DSN", help="Of that server: a superuser, who makes roles and database now. Not kept; "
              "its password stands in a passfile.")  # fmt: skip
@click.option("--state", help=QUESTIONS["state"] + ".")
@click.option("--site", help=QUESTIONS["site"] + ".")
@click.option("--project", help=QUESTIONS["project"] + ".")
@click.option("--tcp", help="Also listen on this address, such as 127.0.0.1:8620.")
@click.option("--config", "folder", type=click.Path(file_okay=False, path_type=Path), default=".", show_default=True,
              metavar="DIR", help="The folder for settings and policies/.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Ask nothing.")
@click.option("--plan", is_flag=True, help="Look and show what would be written; write nothing.")
@with_output
def command(
    *, out: Output, from_file: Path | None, folder: Path, admin: str | None, yes: bool, plan: bool, **given: str | None
) -> int:
    """Ask for your tiers, try them, write settings, policies and secrets: of one daemon, or of two for two zones.

    Nothing that exists is overwritten, nothing is written to the source, and nothing is started. Called again it
    changes nothing, and says what differs.
    """
    said = {name: value for name, value in given.items() if value is not None}
    if (folder / "mover.yaml").exists() and from_file is None and not said:
        raise _standing(folder.absolute() / "mover.yaml")
    answers = _answers(from_file, said, ask=not yes)
    site = _site(answers, folder.absolute())
    if _all_stand(out, site):
        return 0
    findings = _look(site, admin)
    _report(out, findings)
    if any(finding.verdict == "bad" for finding in findings):
        out.note("\nNothing was written. Mend what is marked [red]bad[/] and run init again.")
        return 1
    if plan:
        _show_plan(out, site, findings, admin)
        return 0
    if not yes and sys.stdin.isatty() and not click.confirm("\nWrite this site?", default=True):
        return 1
    _apply(out, site, admin)
    return 0


def _answers(from_file: Path | None, given: dict[str, str], *, ask: bool) -> Answers:
    import msgspec

    from mover.cli.newsite import is_folder
    from mover.errors import SettingsInvalid
    from mover.policy import read, refuse

    said: dict[str, str] = {}
    if from_file is not None:
        document = read(from_file, error=SettingsInvalid)
        found = document.value if isinstance(document.value, dict) else {}
        known = Answers.__struct_fields__
        wrong: dict[tuple[Any, ...], str] = {
            (name, "#key"): f"`{name}` is not known here" for name in found if name not in known
        }
        wrong |= {(name,): f"`{name}` is no text: write it in quotes" for name, value in found.items()
                  if not isinstance(value, str | None)}  # fmt: skip
        refuse([document.mistake(path, what) for path, what in wrong.items()], SettingsInvalid)
        said = {name: value for name, value in found.items() if value is not None}  # empty: not answered
    said |= given
    missing = [name for name in QUESTIONS if name not in said]
    for name in missing if ask and sys.stdin.isatty() else ():
        if not (name in OF_BUCKETS and is_folder(said["bucket"])):
            said[name] = click.prompt(
                QUESTIONS[name], default=DEFAULTS.get(name), show_default=bool(DEFAULTS.get(name))
            )
    unneeded = OF_BUCKETS if is_folder(said.get("bucket", "s3://")) else ()
    needed = [f"--{name.replace('_', '-')}" for name in missing if name not in (*DEFAULTS, *unneeded, *said)]
    if needed:
        raise click.UsageError(f"still needed: {', '.join(needed)}")
    return msgspec.convert(said, Answers)


# --- what would stand there ------------------------------------------------------------------------------------


def _site(answers: Answers, folder: Path) -> Site:
    from mover.cli.newsite import texts

    written = texts(answers, folder)
    return Site(answers, folder, written, tuple(_parsed(text, file) for file, text in written.items()))


def _parsed(text: str, file: Path) -> Settings:
    """Through the one reader of settings, so that init writes nothing the daemon would refuse."""
    import tempfile

    import msgspec

    from mover.cli.logins import FILES
    from mover.errors import SettingsInvalid
    from mover.settings import load

    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "mover.yaml"
        draft.write_text(text, "utf-8")
        for name, _, _ in FILES:
            (draft.parent / name).parent.mkdir(exist_ok=True)
            (draft.parent / name).write_text("host=/\n")
            (draft.parent / name).chmod(0o600)
        try:
            settings = load(draft)
        except SettingsInvalid as error:
            raise _of_answers(error, text) from error
    return msgspec.structs.replace(settings, file=file, policies=file.parent / "policies")


def _of_answers(error: MoverError, text: str) -> MoverError:
    """By the line that would have been written: nothing of it stands anywhere yet."""
    from mover.errors import SettingsInvalid

    lines = text.splitlines()
    told = error.details or [{"where": error.where, "what": error.what}]
    numbers = [int(word) if (word := str(one["where"]).split(":")[-2:][0]).isdigit() else 0 for one in told]
    details = [
        {"where": f"the line `{lines[number - 1].strip()}`" if 0 < number <= len(lines) else "the answers",
         "what": one["what"]}
        for number, one in zip(numbers, told, strict=True)
    ]  # fmt: skip
    return SettingsInvalid(
        error.what, where=str(details[0]["where"]), details=details, hint="Mend the answer that would become this line."
    )


def _all_stand(out: Output, site: Site) -> bool:
    """Whether these answers were written already. Conflict where something else stands there, shown as a diff."""
    import difflib

    there = [path for path in site.texts if path.exists()]
    for path in there:
        before, now = path.read_text("utf-8"), site.texts[path]
        if before != now:
            lines = difflib.unified_diff(before.splitlines(), now.splitlines(), str(path), "these answers", lineterm="")
            for line in lines if not out.as_json else ():
                click.echo(line)
            raise _standing(path)
    if len(there) < len(site.texts):
        return False
    files = [str(path) for path in there]
    out.show({"settings": files, "changed": False}, lambda: click.echo(
        f"{' and '.join(files)} stand as these answers say; nothing was changed. Next: {_mover(site.clean)} doctor"
    ))  # fmt: skip
    return True


def _standing(file: Path) -> Exception:
    from mover.errors import Conflict

    return Conflict(f"there is a {file.name} already; it was left as it is", where=str(file),
                    hint="Edit it and run `mover doctor`, or name another folder with --config.")  # fmt: skip


def _mover(settings: Settings) -> str:
    """How this site's commands begin: nothing needs to be said of the settings that are found without."""
    from mover.settings import HOST_CONFIG

    return "mover" if settings.file == HOST_CONFIG else f"mover --config {settings.file}"


def _look(site: Site, admin: str | None) -> list[Finding]:
    from mover.api.serve import check_socket_path
    from mover.cli import probes
    from mover.errors import MoverError
    from mover.tiers.object import check_credentials

    tiers = list(site.tiers.values())
    findings = _look_at_states(site)
    for tier in tiers:
        with probes.as_its_user(_seer(site, tier)) as who:
            findings += probes.look_at_place(tier, who=who)
    with probes.as_its_user(site.clean):
        findings += probes.overlapping(tiers) + probes.shared_devices(tiers)
    if site.clean.policies.exists():
        findings.append(probes.warn("policies", "there are some already", "They are kept as they are; read them."))
    try:
        for one in site.settings:
            check_socket_path(str(one.listen.unix))
        for tier in tiers:
            if tier.credentials_file is not None:
                check_credentials((tier.url or "").partition(":")[0], tier.credentials_file)
    except MoverError as error:
        findings.append(probes.bad("settings", error.what, error.advice))
    if site.answers.two:
        findings.append(_look_at_server(site, admin))
    elif admin is not None:
        findings.append(probes.bad("database", "--admin without `database`", "Name the server: --database DSN."))
    return findings


def _look_at_states(site: Site) -> list[Finding]:
    """Whose a state folder is says who its daemon runs as: what init makes is theirs."""
    from mover.cli.probes import name_of_unit, warn
    from mover.owner import foreign

    found = []
    for one in site.settings if os.geteuid() == 0 else ():
        if foreign(one.state_dir) is None:
            what = f"{one.state_dir} {'is' if one.state_dir.is_dir() else 'would be'} root's, and so the daemon"
            user = name_of_unit(one.role)
            found.append(warn("state", what, f"install -d -m 700 -o {user} -g {user} {one.state_dir}"))
    return found


def _seer(site: Site, tier: Tier) -> Settings:
    """Of two daemons the one that works there."""
    return next(one for one in reversed(site.settings) if tier.name in one.tiers)


def _look_at_server(site: Site, admin: str | None) -> Finding:
    from mover.cli import logins, probes
    from mover.cli.db import check_open
    from mover.errors import MoverError

    try:
        place = logins.place_of(site.answers.database)
        if admin is None:
            return probes.good("database", f"its server is not asked; {logins.SCRIPT} is what psql tells it")
        check_open(admin)
        logins.refuse_others(admin, site.folder)
        return probes.good("database", logins.look(admin, place))
    except MoverError as error:
        return probes.bad("database", error.what, error.advice)


def _report(out: Output, findings: list[Finding]) -> None:
    if out.as_json:
        return
    from mover.cli.probes import print_finding

    for finding in findings:
        print_finding(out, finding)


def _writes(site: Site, admin: str | None) -> list[tuple[str, str]]:
    """In the order of writing."""
    identities = [
        (f"{tier.path or tier.url}/.mover/tier.json", f"says which tier this {'folder' if tier.path else 'bucket'} is")
        for tier in site.tiers.values()
        if not tier.read_only
    ]
    keys = _keys(site)
    return [
        *identities,
        (str(keys["vault"]), "the vault's key, 0600; losing it loses every name for ever"),
        (str(keys["certificate"]), "the key that signs certificates of batches, 0600"),
        (str(keys["audit"]), "the key that signs checkpoints and packs of the audit, 0600"),
        (str(keys["repository"]), "the repository's password, 0600"),
        (str(site.clean.state_dir / "admin-token"), "an admin's API token, 0600"),
        *_writes_of_two(site, admin),
        (str(site.clean.policies), "one policy for each step"),
        *[(str(path), f"the settings of the {one.role} daemon" if site.answers.two else "the settings")
          for path, one in zip(site.texts, site.settings, strict=True)],
    ]  # fmt: skip


def _writes_of_two(site: Site, admin: str | None) -> list[tuple[str, str]]:
    from mover.cli import logins
    from mover.cli.newsite import KEYS_OF_BUCKET

    if not site.answers.two:
        return []
    found = [
        (str(site.folder / name), f"login {role} of the {'identified' if names else 'clean'} daemon, 0600 and its own")
        for name, role, names in logins.FILES
    ]
    if not site.answers.in_folder:
        found.append((str(site.folder / "credentials" / KEYS_OF_BUCKET), "a copy of the bucket's keys, for systemd"))
    if admin is None:
        return [*found, (str(site.folder / logins.SCRIPT), "roles and database, for psql at the server")]
    return [*found, (f"database {logins.place_of(site.answers.database)['dbname']}", "at the server, with its roles")]


def _keys(site: Site) -> dict[str, Path]:
    """Of one daemon they are its own. Of two they are root's, and systemd hands them over (LoadCredential=), but for
    the audit's, which its daemon may renew. What the clean daemon may not see stands in a folder that is hidden from it
    as a folder: what is put beside a key, or renamed over it, is hidden as well."""
    from mover.cli.logins import APART

    clean, folder = site.clean, site.folder
    if not site.answers.two:
        return {
            "vault": clean.vault_key, "certificate": clean.certificate_key, "audit": clean.audit_key,
            "repository": clean.repository_password_file,
        }  # fmt: skip
    return {
        "vault": folder / APART / "vault.key", "certificate": folder / APART / "certificate.key",
        "audit": clean.state_dir / "audit.key", "repository": folder / "credentials" / "repository-password",
    }  # fmt: skip


def _show_plan(out: Output, site: Site, findings: list[Finding], admin: str | None) -> None:
    writes = _writes(site, admin)
    if out.as_json:
        plan = [{"action": "write", "subject": path, "reason": why} for path, why in writes]
        settings = {str(path): text for path, text in site.texts.items()}
        out.json({"findings": findings, "plan": plan, "settings": settings})
        return
    out.note("\nwould be written:")
    for subject, why in writes:
        out.note(f"  {subject}: {why}")
    for path, text in site.texts.items():
        click.echo(f"\n{path}:\n{text}", nl=False)


# --- writing ---------------------------------------------------------------------------------------------------


def _apply(out: Output, site: Site, admin: str | None) -> None:
    tried = _establish(out, site)
    for settings in site.settings:
        newfile.folder(settings.state_dir, mode=0o700)
    newfile.folder(site.folder)
    _make_secrets(site)
    if site.answers.two:
        _make_logins(site, admin)
    _make_policies(site)
    _hand_over(site)
    for path, text in site.texts.items():
        if not path.exists():
            newfile.place(path, text)
    out.show(
        {"settings": [str(path) for path in site.texts], "tiers": tried, "next": _next(site, admin)},
        lambda: _tell_next(site, admin),
    )


def _make_secrets(site: Site) -> None:
    from mover.access import ADMIN_TOKEN_FILE, PREFIX
    from mover.cli.newsite import KEYS_OF_BUCKET
    from mover.deid.vault import VaultKey
    from mover.randomness import new_secret
    from mover.signing import new_key

    keys = _keys(site)
    if site.answers.two:
        newfile.folder(keys["repository"].parent, mode=0o700)
        newfile.folder(keys["vault"].parent, mode=0o700)
    with _owning(site, keys["vault"]):
        if not keys["vault"].exists():
            VaultKey.create(keys["vault"])
    for name in ("certificate", "audit"):
        with _owning(site, keys[name]):
            if not keys[name].exists():
                new_key(keys[name])
    _write_secret(site, keys["repository"], new_secret() + "\n")
    _write_secret(site, site.clean.state_dir / ADMIN_TOKEN_FILE, PREFIX + new_secret() + "\n")
    if site.answers.two and not site.answers.in_folder:
        given = Path(site.answers.credentials_file).expanduser()
        _write_secret(site, site.folder / "credentials" / KEYS_OF_BUCKET, given.read_text("utf-8"))


@contextlib.contextmanager
def _owning(site: Site, path: Path) -> Iterator[None]:
    """What is made in the state is made as its owner; all else is root's."""
    from mover.owner import acting

    with acting(site.clean.state_dir) if path.parent == site.clean.state_dir else contextlib.nullcontext():
        yield


def _make_logins(site: Site, admin: str | None) -> None:
    """Files first: a login whose password nobody has would need another."""
    from mover.catalog.postgres import write_private
    from mover.cli import logins

    place = logins.place_of(site.answers.database)
    if admin is not None:
        logins.refuse_others(admin, site.folder)
    secrets = logins.write_files(site.folder, place)
    if admin is None:
        write_private(site.folder / logins.SCRIPT, logins.script(place, secrets))
    else:
        logins.tell(admin, place, secrets)


def _make_policies(site: Site) -> None:
    """Copied aside, given to the daemon's user, and renamed: a kill leaves no half folder that looks whole, and below a
    folder of somebody else root changes nothing by its path."""
    from mover.owner import foreign
    from mover.policy import default_folder

    folder = site.clean.policies
    if folder.exists():
        return
    aside = folder.with_name("policies.partial")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(default_folder(), aside)
    if (owner := foreign(site.clean.state_dir)) is not None:
        for path in (*sorted(aside.rglob("*"), reverse=True), aside):  # a folder after all that is in it
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    aside.rename(folder)


def _hand_over(site: Site) -> None:
    """The settings stay root's, and so does what systemd hands over; a login is its daemon's. Secrets that an init made
    as root, before they were made as the state's owner, are theirs now."""
    from mover.access import ADMIN_TOKEN_FILE
    from mover.cli import logins
    from mover.owner import foreign

    if (owner := foreign(site.clean.state_dir)) is None:
        return
    for path in {*_keys(site).values(), site.clean.state_dir / ADMIN_TOKEN_FILE}:
        if path.parent == site.clean.state_dir:
            newfile.give(path, owner)
    if site.answers.two:
        logins.own(site.folder, clean=owner, identified=site.settings[0].state_dir.stat())


def _establish(out: Output, site: Site) -> dict[str, str]:
    """Identities, and every place tried for real, by who will work there."""
    from mover.cli import probes
    from mover.tiers.object import ObjectTier

    found = {}
    for tier in site.tiers.values():
        with probes.as_its_user(_seer(site, tier)) if tier.path is not None else contextlib.nullcontext():
            made = probes.make_tier(tier)
            if isinstance(made, ObjectTier):
                made.establish()
            elif not tier.read_only:
                _mark(site, tier)
            made.check_identity()
            found[tier.name] = probes.describe(made)
        out.note(f"[green] good[/]  tier {tier.name}: {found[tier.name]}")
    return found


def _mark(site: Site, tier: Tier) -> None:
    """What two daemons write to belongs to the clean one's group, which the other's user is in."""
    from mover.tiers import identity

    assert tier.path is not None
    identity.establish(tier.path, name=tier.name, zone=tier.zone)
    if tier.path in site.shared and os.geteuid() != 0:
        newfile.own_mode(tier.path / ".mover", 0o2770, group=os.getegid())


def _write_secret(site: Site, path: Path, text: str) -> None:
    """Never over another one."""
    with _owning(site, path), contextlib.suppress(FileExistsError):
        newfile.place(path, text, mode=newfile.SECRET)


# --- what comes next -------------------------------------------------------------------------------------------


def _next(site: Site, admin: str | None) -> list[tuple[str, str]]:
    """Commands in their order, each with why."""
    mover, file = _mover(site.clean), site.clean.file
    if not site.answers.two:
        return [
            (f"{mover} doctor", "check everything once more"),
            ("mover units write", "systemd is told which folders the service may see"),
            ("systemctl enable --now mover", f"run it; by hand: mover daemon --config {file}"),
            (f"{mover} status", "the one command to remember"),
            (f"{mover} batch ready FOLDER --expected N --wait", "the first batch"),
        ]
    return [
        *_next_of_server(site, admin),
        ("mover units write", "systemd is told which folders each service may see, and hands over keys"),
        (f"{mover} doctor", "check the clean side once more"),
        (f"mover --config {site.settings[0].file} doctor", "and the side that sees names"),
        ("systemctl enable --now mover-identified mover", "run both"),
        (f"{mover} status", "the one command to remember"),
        (f"mover --config {site.settings[0].file} batch ready FOLDER --expected N --wait", "the first batch"),
    ]


def _next_of_server(site: Site, admin: str | None) -> list[tuple[str, str]]:
    import shlex

    from mover.cli import logins

    place = logins.place_of(site.answers.database)
    said, file = shlex.quote(logins.admin_dsn(place, dbname="postgres")), site.folder / logins.SCRIPT
    # by its socket a server asks who one is here, and the script is for root's eyes
    psql = f"sudo -u postgres psql {said} < {file}" if place["host"].startswith("/") else f"psql {said} -f {file}"
    script = [(psql, "a superuser of the server makes roles and database")]
    owner = admin and logins.at_database(admin, place["dbname"]) or logins.admin_dsn(place, dbname=place["dbname"])
    # its settings have the login that dumps, which every later migration asks for
    migrate = (f"{_mover(site.settings[0])} db migrate --admin {shlex.quote(owner)}", "tables, by the same superuser")
    return [*(script if admin is None else []), migrate]


def _tell_next(site: Site, admin: str | None) -> None:
    steps = _next(site, admin)
    click.echo(f"\nwritten: {', '.join(str(path) for path in site.texts)}")
    for one in site.settings:
        which = f"{one.role} daemon" if site.answers.two else "daemon"
        click.echo(f"The {which} runs as the user that owns {one.state_dir}.")
    click.echo("\nWhat to do next, in this order:\n")
    for number, (command, why) in enumerate(steps, start=1):
        click.echo(f"  {number}. {why}:\n       {command}")
    click.echo(f"""
Nothing is deleted on any tier until its `deletes:` in {site.clean.file} says true.
Keep a copy of {_keys(site)["vault"]} in a safe: without it no name can ever be found again.""")
