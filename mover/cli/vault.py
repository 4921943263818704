"""`mover vault`: what only custodians do.

Reveal and export ask the daemon for originals as they are sealed for the two key files, and open them here: neither
the key files nor an original passes through the daemon. Keys and re-keys work on the vault's database itself, on the
machine of the identified zone.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mover.cli import dumping
from mover.cli.common import plan_option, with_client, with_output
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.common import Where
    from mover.cli.output import Output
    from mover.deid.vaultkeys import RevealKey
    from mover.model import wire
    from mover.sdk import SyncClient
    from mover.settings import Settings

PAGE = 1000
PROBLEMS_SHOWN = 1000
COLUMNS = ("patient", "pseudonym", "offset_days", "file", "number")

FILE = click.Path(dir_okay=False, path_type=Path)
purpose_option = click.option("--purpose", required=True, help="Why; it stands in the audit record. No names in it.")
key_a_option = click.option("--key-a", type=FILE, help="The first of the two sealed key files.")
key_b_option = click.option("--key-b", type=FILE, help="The second.")


@click.group("vault", cls=WholeLines)
def command() -> None:
    """For custodians: reveal, export, erase, import, keys; dumps, drills, restores.

    The vault ties originals to numbers; every look into it is recorded. What asks the daemon needs a token of the role
    custodian (mover token make --role custodian): to any other the vault does not exist, and says not-found. Dumps and
    drills are an operator's or an admin's."""


@command.command("status")
@with_client
def status(*, mover: SyncClient, out: Output) -> None:
    """Of which generation the key is, and for which pair of key files originals are sealed."""
    seen = mover.vault.status()
    out.facts(
        seen,
        [("site", seen.site), ("generation", seen.generation), ("re-keying", "yes" if seen.rekeying else "no"),
         ("pair", seen.pair or "none: mover vault keys new")],
    )  # fmt: skip


@command.command("reveal")
@click.argument("names", nargs=-1, required=True, metavar="NUMBER|SUBJECT...")
@purpose_option
@key_a_option
@key_b_option
@with_client
def reveal(
    *, mover: SyncClient, out: Output, names: tuple[str, ...], purpose: str, key_a: Path | None, key_b: Path | None
) -> int:
    """The originals of slide numbers (file names) and subjects (patient ids).

    Needs both key files, each kept by another person. Without them, or with wrong ones, the refusal is recorded.
    """
    from mover.model import wire

    key = _joined(key_a, key_b, "reveal")
    asked = list(dict.fromkeys(names))
    body = wire.VaultRevealRequest(names=asked, purpose=purpose, signature=_signed(key, "reveal", purpose, asked))
    copies = mover.vault.reveal(body)
    key = _held(key)
    opened = {copy.name: _originals(key, copies.site, copy) for copy in copies.copies}
    rows = [(name, original) for name, originals in opened.items() for original in originals]
    out.table(opened, "name original", rows, empty="nothing was opened")
    left_out = {"not known in this project": copies.unknown, "sealed before there was a pair": copies.unsealed}
    for text, left in left_out.items():
        if left:
            out.note(f"{text}: {len(left)}")
    return 0 if len(opened) == len(asked) else 1


@command.command("export")
@click.option("--uids", type=FILE, help="Original UID and new UID, as CSV of two columns.")
@click.option("--patients", type=FILE, help="Original patient id and new patient id, as CSV of two columns.")
@click.option("--project", help="Refuse unless the token is of this project; the maps are the project's.")
@purpose_option
@key_a_option
@key_b_option
@with_client
def export(
    *, mover: SyncClient, out: Output, uids: Path | None, patients: Path | None, project: str | None, purpose: str,
    key_a: Path | None, key_b: Path | None,
) -> None:  # fmt: skip
    """The UID and patient maps as MIDI-B takes them, under the guard of reveal; 0600, never overwritten."""
    from mover.errors import Denied

    wanted = {what: path for what, path in (("uids", uids), ("patients", patients)) if path is not None}
    if not wanted:
        raise click.UsageError("name --uids FILE, --patients FILE or both")
    if project is not None and (ours := mover.status().project) != project:
        raise Denied(f"this token is of project {ours}", hint="Use a token of the project whose maps you want.")
    key = _joined(key_a, key_b, "export")
    counts: dict[str, int] = {}
    skipped = 0
    for what, path in wanted.items():
        counts[what], left = _export(mover, key, what, path, purpose)
        skipped += left
    out.facts({"rows": counts, "skipped": skipped}, [*counts.items(), ("of other projects, or nobody's", skipped)])


@command.command("erase")
@click.argument("subject")
@purpose_option
@plan_option
@with_client
def erase(*, mover: SyncClient, out: Output, subject: str, purpose: str, plan: bool) -> None:
    """Destroy what ties SUBJECT to its patient: for ever, also in restored backups.

    Its published slides are withdrawn from every selection; their bytes stay until a person removes them. Backups of
    the database hold sealed rows until they are gone, or `mover vault rekey` has made their key useless.
    """
    from mover.model import wire

    told = mover.vault.erase(wire.VaultEraseRequest(subject=subject, purpose=purpose), plan=plan)
    rows = ", ".join(f"{kind} {count}" for kind, count in told.rows.items()) or "none left"
    out.facts(
        told,
        [("subject", told.subject), ("would go" if told.planned else "gone", rows),
         ("slides withdrawn", " ".join(told.withdrawn) or "none"),
         ("in other projects", " ".join(told.other_projects) or "none"),
         ("held by runs", " ".join(told.runs) or "none")],
    )  # fmt: skip


@command.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--columns", required=True, metavar="NAME=COLUMN,...",
              help="patient=MRN,pseudonym=PSN,offset_days=SHIFT or file=NAME,number=NO.")  # fmt: skip
@click.option("--delimiter", default=",", show_default=True, help="One character.")
@purpose_option
@plan_option
@with_client
def import_rows(
    *, mover: SyncClient, out: Output, file: Path, columns: str, delimiter: str, purpose: str, plan: bool
) -> int:
    """Take over an honest broker's crosswalk (CSV with a header, UTF-8): patients to pseudonyms, or files to numbers.

    Nothing that stands is overwritten: lines that contradict it, or each other, are listed by number and left out.
    """
    from mover.model import wire

    taken = same = refused = 0
    problems: list[wire.VaultImportProblem] = []
    for rows in _import_pages(file, _columns(columns), delimiter):
        told = mover.vault.import_rows(wire.VaultImportRequest(rows=rows, purpose=purpose), plan=plan)
        taken, same, refused = taken + told.taken, same + told.same, refused + len(told.problems)
        problems += told.problems[: PROBLEMS_SHOWN - len(problems)]
    facts = {"planned": plan, "taken": taken, "same": same, "refused": refused, "problems": problems}
    out.facts(facts, [("would be taken" if plan else "taken", taken), ("there already", same), ("refused", refused)])
    if problems and not out.as_json:
        out.table(problems, "line> reason shape", [(p.line, p.code, p.shape) for p in problems], empty="")
    return 1 if refused else 0


@command.command("rekey")
@click.option("--old", type=FILE, help="The key file in use. [default: of mover.yaml]")
@click.option("--new", type=FILE, help="The new one; made if it is not there. [default: OLD.next]")
@with_output
@click.pass_context
def rekey(ctx: click.Context, *, out: Output, old: Path | None, new: Path | None) -> None:
    """Seal and find every row by a new key, beside a running daemon. Killed, it goes on with the same command.

    A daemon that finds the new file beside its own, as KEY.next, works on; both keys open meanwhile. One that is handed
    its key by systemd waits with names from the first row on, until its unit is restarted after the end.
    """
    from mover.cli.handed import handed, unit_of
    from mover.console import open_upkeep
    from mover.deid.vaultkeys import VaultKey, next_path, write_new
    from mover.owner import acting

    settings, actor = _identified(ctx.obj), _actor()
    before = old or settings.vault_key
    after = new or next_path(before)
    unit = unit_of(settings).removesuffix(".service") if "vault.key" in handed(settings) else ""
    if unit:
        _check_hidden(settings, before, after)
        out.note("systemd handed the daemon its key at its start: names wait from now on, until it is restarted.")
    key = VaultKey.load(before)
    if not after.exists():
        with acting(after.parent):
            write_new(after, key.successor().to_file())
    following = VaultKey.load(after)
    _check_following(key, following, before, after)

    async def work() -> int:
        async with open_upkeep(settings, actor=actor) as upkeep:
            return int((await upkeep.rekey(following)).rows)

    rows = by_whom_it_is(settings, work) if following.holds_before() else 0
    with acting(after.parent):
        installed = _install(following, before, after, settings)
    pairs = [("generation", following.generation), ("rows opened by the new key", rows), ("key", installed)]
    out.facts({"generation": following.generation, "rows": rows, "key": str(installed), "restart": unit or None}, pairs)
    out.note("Back up the new key file apart from the database. The old one opens only backups from before: destroy "
             "it, and they are closed for ever.")  # fmt: skip
    if unit:
        out.note(f"Now: systemctl restart {unit}")


for _made in (dumping.dump, dumping.dumps, dumping.reread, dumping.drill, dumping.restore):
    command.add_command(_made)


@command.group("keys", cls=WholeLines)
def keys() -> None:
    """The two sealed key files: only together they reveal."""


@keys.command("new")
@click.option("--a", "a", type=FILE, required=True, help="The first file; must not exist.")
@click.option("--b", "b", type=FILE, required=True, help="The second.")
@with_output
@click.pass_context
def keys_new(ctx: click.Context, *, out: Output, a: Path, b: Path) -> None:
    """Make the pair, and seal for it what the everyday key could open so far."""
    from mover.deid.vaultkeys import PublicKey, encode_file, new_pair, write_new
    from mover.errors import Conflict
    from mover.owner import acting

    settings = _identified(ctx.obj)
    if settings.vault_public.exists():
        hint = "`mover vault keys rotate` replaces it; `mover vault keys adopt` goes on after a kill."
        raise Conflict("this site has a pair already", where=str(settings.vault_public), hint=hint)
    pair = new_pair(a, b)
    with acting(settings.vault_public.parent):
        write_new(settings.vault_public, encode_file(pair.public))
    rows = _adopt(settings, PublicKey(pair.public))
    _advise(out, pair, a, b, rows)


@keys.command("adopt")
@with_output
@click.pass_context
def keys_adopt(ctx: click.Context, *, out: Output) -> None:
    """Seal for the pair what the everyday key can still open: after `keys new` was killed."""
    from mover.deid.vaultkeys import PublicKey
    from mover.errors import SettingsInvalid

    settings = _identified(ctx.obj)
    public = PublicKey.load(settings.vault_public)
    if public is None:
        raise SettingsInvalid("this site has no pair of key files", hint="`mover vault keys new` makes it.")
    rows = _adopt(settings, public)
    out.facts({"pair": public.pair.hex(), "rows": rows}, [("pair", public.pair.hex()), ("rows", rows)])


@keys.command("rotate")
@key_a_option
@key_b_option
@click.option("--new-a", type=FILE, required=True, help="The new first file; made if it is not there.")
@click.option("--new-b", type=FILE, required=True, help="The new second.")
@with_output
@click.pass_context
def keys_rotate(
    ctx: click.Context, *, out: Output, key_a: Path | None, key_b: Path | None, new_a: Path, new_b: Path
) -> None:
    """Seal every original for a new pair. Killed, or beside a running daemon, the same command does what is left."""
    from mover.console import open_upkeep
    from mover.deid.vaultkeys import PublicKey, RevealKey, encode_file, new_pair, write_over
    from mover.owner import acting

    settings = _identified(ctx.obj)
    if key_a is None or key_b is None:
        raise click.UsageError("rotating needs both files of the pair in use: --key-a and --key-b")
    old = RevealKey.join(key_a, key_b)
    there = new_a.exists() and new_b.exists()
    pair = RevealKey.join(new_a, new_b) if there else new_pair(new_a, new_b)
    with acting(settings.vault_public.parent):
        write_over(settings.vault_public, encode_file(pair.public))
    actor = _actor()

    async def work() -> int:
        async with open_upkeep(settings, actor=actor) as upkeep:
            return int((await upkeep.rotate(old, PublicKey(pair.public))).changed)

    _advise(out, pair, new_a, new_b, by_whom_it_is(settings, work))


# --- reveal and export ------------------------------------------------------------------------------------


def _joined(a: Path | None, b: Path | None, action: str) -> RevealKey | None:
    """None when a file is missing or the two do not fit: the daemon then refuses, and keeps the record of it."""
    from mover.deid.vaultkeys import RevealKey
    from mover.errors import Denied

    try:
        return RevealKey.join(a, b) if a is not None and b is not None else None
    except Denied as error:
        click.echo(f"{action}: {error.what}", err=True)
        return None


def _held(key: RevealKey | None) -> RevealKey:
    """The daemon refuses before this; no answer is taken without both."""
    from mover.errors import Denied

    if key is None:
        raise Denied("both key files of the pair in use are needed")
    return key


def _signed(key: RevealKey | None, action: str, purpose: str, what: list[str]) -> str:
    from mover.deid.vaultkeys import ask_bytes

    return key.sign(ask_bytes(action, purpose, what)).hex() if key is not None else ""


def _originals(key: RevealKey, site: str, copy: wire.VaultCopy) -> list[str]:
    """A number's file names; a subject's patient id; a UID's original."""
    from mover.deid.vault import copy_place
    from mover.model.names import decode_names, name_text, shown_name

    body = key.open(copy.copy, place=copy_place(copy.kind, site, copy.name))
    return [shown_name(n) for n in decode_names(body)] if copy.kind == "number" else [shown_name(name_text(body))]


def _export(mover: SyncClient, key: RevealKey | None, what: str, path: Path, purpose: str) -> tuple[int, int]:
    """Rows written and left out. The file gets its name when it is whole."""
    import os

    from mover.model import wire

    head = {"uids": ["id_old", "id_new"], "patients": ["id_old", "id_new"]}[what]
    signature = _signed(key, "export", purpose, [what])
    written = skipped = 0
    after: str | None = ""
    side = _private(path)
    try:
        with open(side, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(head)
            while after is not None:
                body = wire.VaultExportRequest(
                    what=what, purpose=purpose, signature=signature, after=after, limit=PAGE  # type: ignore[arg-type]
                )  # fmt: skip
                page = mover.vault.export(body)
                held = _held(key)
                table.writerows((_originals(held, page.site, copy)[0], copy.name) for copy in page.copies)
                written, skipped, after = written + len(page.copies), skipped + page.skipped, page.next
                skipped += len(page.unsealed)
            file.flush()
            os.fsync(file.fileno())
        _name(side, path)
    finally:
        side.unlink(missing_ok=True)
    return written, skipped


def _private(path: Path) -> Path:
    import os

    from mover.errors import SettingsInvalid

    side = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        os.close(os.open(side, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise SettingsInvalid(
            "the file cannot be written here", where=str(path), hint="Name a folder that is yours to write in."
        ) from error
    return side


def _name(side: Path, path: Path) -> None:
    import os

    from mover.errors import EntryExists

    try:
        os.link(side, path)
    except FileExistsError as error:
        words = "there is a file of that name; it was left as it is"
        raise EntryExists(words, where=str(path), hint="Name another file.") from error


# --- import -----------------------------------------------------------------------------------------------


def _columns(text: str) -> dict[str, str]:
    pairs = dict(part.partition("=")[::2] for part in text.split(","))
    kinds = set(pairs)
    if not kinds <= set(COLUMNS) or not all(pairs.values()):
        raise click.UsageError(f"--columns takes NAME=COLUMN of {', '.join(COLUMNS)}")
    if kinds - {"offset_days"} != {"patient", "pseudonym"} and kinds != {"file", "number"}:
        raise click.UsageError("--columns needs patient and pseudonym (and offset_days), or file and number")
    return pairs


def _import_pages(file: Path, columns: dict[str, str], delimiter: str) -> Iterator[list[wire.VaultImportRow]]:
    """Pages of lines, strictly: a cell that cannot be read stops with its line, never with its value."""
    from mover.errors import RequestInvalid

    if len(delimiter) != 1:
        raise click.UsageError("--delimiter is one character")
    page: list[wire.VaultImportRow] = []
    try:
        with open(file, encoding="utf-8-sig", errors="strict", newline="") as opened:
            reader = csv.DictReader(opened, delimiter=delimiter, strict=True)
            missing = [name for name, column in columns.items() if column not in (reader.fieldnames or [])]
            if missing:
                raise click.UsageError(f"the file has no column for {', '.join(missing)}")
            for row in reader:
                page.append(_import_row(reader.line_num, row, columns))
                if len(page) == PAGE:
                    yield page
                    page = []
    except (csv.Error, UnicodeDecodeError):
        hint = "Save it as CSV UTF-8, and name --delimiter."
        raise RequestInvalid("the file is no CSV in UTF-8", hint=hint) from None
    if page:
        yield page


def _import_row(line: int, row: dict[str, Any], columns: dict[str, str]) -> wire.VaultImportRow:
    from mover.errors import RequestInvalid
    from mover.model import wire

    found = {name: (row[column] or "").strip() for name, column in columns.items()}
    days = found.pop("offset_days", "")
    digits = days.removeprefix("-").removeprefix("+")
    if days and not (digits.isascii() and digits.isdigit() and len(digits) <= 5):
        raise RequestInvalid("an offset is no whole number of days", where=f"line {line}")
    return wire.VaultImportRow(line=line, offset_days=int(days) if days else None, **found)


# --- keys -------------------------------------------------------------------------------------------------


def _identified(where: Where) -> Settings:
    """The settings of this machine; the vault's key is read by the identified process's user alone, or where systemd
    hands it over, by root."""
    from mover.cli.handed import handed, with_sources
    from mover.errors import Denied

    settings = where.settings()
    if settings.role == "clean":
        raise Denied("this process serves the deidentified zone and has no vault",
                     hint="Run it where mover-identified.service runs.")  # fmt: skip
    return with_sources(settings, handed(settings))


def _actor() -> str:
    import os

    return f"uid:{os.getuid()}"


def _adopt(settings: Settings, public: Any) -> int:
    from mover.console import open_upkeep
    from mover.deid.vaultkeys import VaultKey

    key, actor = VaultKey.newest(settings.vault_key), _actor()

    async def work() -> int:
        async with open_upkeep(settings, actor=actor) as upkeep:
            return int((await upkeep.adopt(key, public)).changed)

    return by_whom_it_is(settings, work)


def by_whom_it_is(settings: Settings, work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """The key files are root's here, and the embedded database is the daemon's user's."""
    import asyncio

    from mover.owner import as_owner

    return int(as_owner(settings, lambda: str(asyncio.run(work()))))


def _advise(out: Output, pair: RevealKey, a: Path, b: Path, rows: int) -> None:
    out.facts({"pair": pair.pair.hex(), "a": str(a), "b": str(b), "rows": rows},
              [("pair", pair.pair.hex()), ("first", a), ("second", b), ("rows sealed for it", rows)])  # fmt: skip
    out.note("Give each file to another person, on a medium of its own, in a safe of its own, and keep a second copy "
             "of each likewise; then remove both from this machine. One alone opens nothing, and neither can be made "
             "again.")  # fmt: skip


def _check_following(key: Any, following: Any, before: Path, after: Path) -> None:
    from mover.errors import SettingsInvalid

    if not following.follows(key):
        raise SettingsInvalid("the new key file does not follow the old one", where=str(after),
                              hint=f"Name a file that does not exist; it is made from {before}.")  # fmt: skip


def _check_hidden(settings: Settings, *files: Path) -> None:
    """Beside the settings the other daemon's unit hides files by their names: not the next key, nor what is renamed
    over one."""
    from mover.cli.handed import KEYS
    from mover.cli.logins import APART
    from mover.errors import Conflict

    home = settings.file.parent
    if settings.role == "identified" and home in {file.parent for file in files}:
        there = " ".join(str(path) for name in KEYS for path in sorted(home.glob(f"{name}*")))
        steps = f"mv {there} {home / APART}/ && mover units write && systemctl restart mover-identified; then again."
        raise Conflict("mover.service would see the new key in this folder", where=str(home), hint=steps)


def _install(following: Any, before: Path, after: Path, settings: Settings) -> Path:
    """The new key without the secret before it; in the old one's place where the daemon looks for it beside."""
    import os

    from mover.deid.vaultkeys import next_path, write_over

    write_over(after, following.retired().to_file())
    if before != settings.vault_key or after != next_path(before) or not os.access(before.parent, os.W_OK):
        return after
    kept = before.with_name(f"{before.name}.generation-{following.generation - 1}")
    if not kept.exists():
        os.link(before, kept)
    os.replace(after, before)
    return before
