"""What `mover doctor` says of the policies of a site: understood, of tiers that are there, and the names kept safe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mover.cli.probes import Finding, bad, good, warn

if TYPE_CHECKING:
    from mover.policy import Loaded, PolicyBook
    from mover.settings import Settings

# by kind of policy: what the identified daemon has itself, and what the clean one may lack
_IDENTIFIED = {"images": ("from", "to"), "records": ("from",), "dump": ("to",)}
_CLEAN_LACKS = {"images": ("from",), "records": ("from",), "budget": ("tier",)}


def policy_files(settings: Settings) -> Iterator[Finding]:
    from mover.errors import ConfigError
    from mover.policy import load_policies
    from mover.tiers.zones import check_site

    try:
        book = load_policies(settings.policies)
        policies = book.all()
    except ConfigError as error:
        yield from _mistakes(error)
        return
    other = _other_tiers(settings)
    findings = [finding for one in policies for finding in _unknown(one, settings, other)]
    if not findings:
        try:
            check_site(settings, book)  # what a start would refuse
        except ConfigError as error:
            findings += _mistakes(error)
    yield from findings
    if not findings:
        kinds = ", ".join(sorted({loaded.kind for loaded in policies}))
        yield good("policies", f"{len(policies)} in {settings.policies} ({kinds})")
    if settings.role != "clean":
        yield _dumped(settings, book)


def _mistakes(error: object) -> list[Finding]:
    from mover.errors import ConfigError

    assert isinstance(error, ConfigError)
    told = error.details or [{"where": error.where, "what": error.what}]
    return [bad("policies", f"{one['where']}: {one['what']}", error.advice) for one in told]


def _other_tiers(settings: Settings) -> frozenset[str] | None:
    """Of the other daemon's settings beside these; None where they stand elsewhere, or are not ours to read."""
    from mover.errors import ConfigError
    from mover.settings import load

    names = {"clean": "identified.yaml", "identified": "mover.yaml"}
    file = settings.file.parent / names.get(settings.role, "")
    try:
        return frozenset(load(file).tiers) if file.is_file() else None
    except (ConfigError, OSError):
        return None


def _unknown(one: Loaded, settings: Settings, other: frozenset[str] | None) -> Iterator[Finding]:
    """Each side follows its own part of a policy; a name that neither side has is a mistake wherever it stands."""
    from mover.tiers.zones import tiers_named

    for key, name in tiers_named(one.policy):
        if name in settings.tiers:
            continue
        if not _own(one.kind, key, settings) and (other is None or name in other):
            continue
        known = ", ".join(sorted(settings.tiers))
        add = f"mover --config {settings.file} tier add {name} --role ROLE --path FOLDER"
        yield bad("policies", f"{one.file}: {key}: there is no tier {name} (there are {known})",
                  f"Name another there, or declare it: {add}")  # fmt: skip


def _own(kind: str, key: str, settings: Settings) -> bool:
    if settings.role == "identified":
        return key in _IDENTIFIED.get(kind, ())
    return settings.role == "both" or key not in _CLEAN_LACKS.get(kind, ())


def _dumped(settings: Settings, book: PolicyBook) -> Finding:
    """Names that stand in one database on one machine are lost with it; dumps that nobody can seal are a promise that
    every night breaks, and hold back every slide."""
    from mover.protect.dumps import dump_policies

    example = settings.policies / "examples" / "dump.yaml"
    # policies are the clean daemon's to write, keys the other's
    writer = settings.file.with_name("mover.yaml") if settings.role == "identified" else settings.file
    mover, keys = f"mover --config {settings.file}", "vault keys new --a /media/one/key-a --b /media/two/key-b"
    if not dump_policies(book):
        shown = example if example.exists() else "FILE"
        store = f'policy set dump {shown} --reason "the names must survive this machine"'
        return warn("dumps", "no policy dumps the names: they stand on this database alone",
                    f"{mover} {keys} && mover --config {writer} {store}")  # fmt: skip
    if not settings.vault_public.exists():
        return bad("dumps", "a policy dumps the names, and there are no keys to seal a dump for", f"{mover} {keys}")
    if not settings.database.embedded and settings.database.dump_dsn is None:
        return bad("dumps", "a policy dumps the names, and no login may read everything",
                   f"Name one in {settings.file}: `dump_dsn_file` in `database` (docs/first-hour.md).")  # fmt: skip
    return good("dumps", "a policy dumps the names, sealed for two key files")
