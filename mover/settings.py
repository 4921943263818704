"""Settings: `mover.yaml`, read once into frozen values and passed on. The only reader of the environment.

Each value has a default and a sentence of why. Half a configuration is an error, never a guess. Relative paths are
relative to the file. No secret stands in the file: secrets stand in files of their own, readable by their owner.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from mover import policy as yaml_reader
from mover.errors import SettingsInvalid
from mover.model.policy import Name
from mover.model.tiers import TierKind, TierRole, Zone

Role = Literal["identified", "clean", "both"]
Addressing = Literal["path", "virtual"]
Count = Annotated[int, Meta(ge=1, le=1024)]
Fingerprint = Annotated[str, Meta(pattern=r"^[0-9a-f]{4}( ?[0-9a-f]{4}){9}$")]

LOOPBACK_NAMES = ("localhost", "ip6-localhost")
DEFAULT_CONFIG = "mover.yaml"
# where nothing else is said: those of this host, the clean daemon's first
HOST_CONFIG = Path("/etc/mover/mover.yaml")
HOST_IDENTIFIED = HOST_CONFIG.with_name("identified.yaml")
TIER_NAME = re.compile(r"[a-z][a-z0-9-]{1,40}")
SOCKET_PATH_LIMIT = 107  # sun_path has 108 bytes with its closing NUL


# --- what may stand in the file ----------------------------------------------------------------------------


class DatabaseFile(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing: the embedded PostgreSQL in the state directory. Otherwise both files, each holding one DSN."""

    embedded: bool = True
    dsn_file: str | None = None
    vault_dsn_file: str | None = None
    # a role that may read everything, for dumps (pg_read_all_data, bypassrls); of the embedded database its own
    dump_dsn_file: str | None = None
    # binaries of PostgreSQL to use instead of the wheel's
    bin_dir: str | None = None
    # recovery after a crash may replay gigabytes
    start_timeout_s: Annotated[int, Meta(ge=1, le=86_400)] = 600
    pool_size: Annotated[int, Meta(ge=2, le=100)] = 10


class TlsFile(Struct, frozen=True, forbid_unknown_fields=True):
    certificate: str
    key: str


class ListenFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A Unix socket for this machine; TCP for others, and beyond loopback only with TLS."""

    unix: str | None = None
    tcp: str | None = None
    tls: TlsFile | None = None


class StsFile(Struct, frozen=True, forbid_unknown_fields=True):
    """Short-lived keys by AWS STS: AssumeRoleWithWebIdentity with a `token_file`, AssumeRole with the long-lived
    keys in a `file`."""

    role: Annotated[str, Meta(pattern=r"^arn:[^\s]{1,2000}$")]
    token_file: str | None = None
    file: str | None = None
    # the region's own service when absent
    endpoint: str | None = None
    # some stores give an hour at most, and refuse what is longer
    duration_s: Annotated[int, Meta(ge=900, le=43_200)] = 3600


class CredentialsFile(Struct, frozen=True, forbid_unknown_fields=True):
    """Where an object tier's keys come from: exactly one. Each is read again when it changes, expires or is refused."""

    file: str | None = None
    # the name of a systemd credential (LoadCredential=); without systemd, a file of that name in the state directory
    systemd: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,100}$")] | None = None
    sts: StsFile | None = None


class TierFile(Struct, frozen=True, forbid_unknown_fields=True):
    kind: TierKind
    zone: Zone
    role: TierRole
    path: str | None = None
    url: str | None = None
    endpoint: str | None = None
    region: str = "us-east-1"
    # the bucket's name in the path, or in front of the endpoint's host
    addressing: Addressing = "path"
    # trusted beside the system's own authorities
    ca_file: str | None = None
    # HOST:PORT of an HTTP proxy; those of the environment are not asked
    proxy: str | None = None
    credentials: CredentialsFile | None = None
    # short for `credentials: {file: …}`
    credentials_file: str | None = None
    # nothing is ever written to it, not even an identity file (D11)
    read_only: bool = False
    # whether anything may be deleted on it: cleaned up, forgotten, purged. Our own unfinished files are not meant.
    # Unsaid it may, as before there was this word; `mover init` writes `false`
    deletes: bool | None = None
    # the same place as the cluster's nodes call it
    seen_as: str | None = None
    # what we may fill of it; the file system's own size when absent
    capacity_bytes: Annotated[int, Meta(ge=0)] | None = None
    # network file systems only. How long other clients' changes may show late: waited out before a seal; what the
    # mount says when absent (docs/nfs.md)
    attribute_cache_s: Annotated[float, Meta(ge=0, le=3600)] | None = None
    # a call and a probe that together got no answer for so long: the tier is hung, its callers are let go
    unanswered_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    # calls it answers at once, and so the threads that a hung one keeps
    calls_max: Count = 16


class WorkersFile(Struct, frozen=True, forbid_unknown_fields=True):
    # shards in work at once on this node; each reads and writes with a few threads
    shards: Count = 4
    # parsing children of the sandbox
    parsers: Count = 2
    # of slides on object tiers, what may lie in the state directory while somebody looks at them
    viewing_bytes: Annotated[int, Meta(ge=1 << 30)] = 32 << 30


class RetentionFile(Struct, frozen=True, forbid_unknown_fields=True):
    """How long rows of work stand that ended, and those of the audit before two people may let them go; the log is the
    journal's."""

    work_days: Annotated[int, Meta(ge=7, le=3650)] = 90
    # somebody may ask why
    failed_work_days: Annotated[int, Meta(ge=7, le=3650)] = 400
    # records of the audit leave for a pack on other tiers only when two people say so, and only when older than this;
    # none: never. Six is what HIPAA asks for, and what the database holds
    audit_years: Annotated[int, Meta(ge=6, le=100)] | None = None


MailAddress = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.+_-]+@[A-Za-z0-9.-]+$", max_length=254)]


class LineageFile(Struct, frozen=True, forbid_unknown_fields=True):
    """Runs' begins and ends as OpenLineage events, posted to this URL."""

    url: Annotated[str, Meta(pattern=r"^https?://[^\s@]+$")]
    namespace: str = "mover"
    token_file: str | None = None
    ca_file: str | None = None


class WebhookFile(Struct, frozen=True, forbid_unknown_fields=True, tag="webhook", tag_field="kind"):
    """Alarms as CloudEvents 1.0 (JSON), posted to this URL; the token goes along as a bearer's."""

    url: Annotated[str, Meta(pattern=r"^https?://[^\s@]+$")]
    token_file: str | None = None
    ca_file: str | None = None


class MailFile(Struct, frozen=True, forbid_unknown_fields=True, tag="mail", tag_field="kind"):
    """Alarms as mail, through the site's own server."""

    to: Annotated[list[MailAddress], Meta(min_length=1, max_length=20)]
    sender: MailAddress
    host: str
    port: Annotated[int, Meta(ge=1, le=65535)] = 25
    # `none` only where the server is this machine's own
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: str | None = None
    password_file: str | None = None
    ca_file: str | None = None


class OidcRoleFile(Struct, frozen=True, forbid_unknown_fields=True):
    """Who has `value` in `claim` has `role` in `project`; of one project the first rule that fits counts."""

    claim: str
    value: str
    project: Name
    role: Literal["viewer", "operator", "admin", "custodian"]


class OidcFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The site's identity provider (OpenID Connect). Its word gives a session; without a role rule that fits, none."""

    issuer: Annotated[str, Meta(pattern=r"^https?://[^\s@?#]+$")]
    client_id: str
    roles: list[OidcRoleFile]
    # the client's secret: systemd's credential `oidc-client-secret` first, then this file
    client_secret_file: str | None = None
    # what the button says
    label: Annotated[str, Meta(min_length=1, max_length=60)] = "Single sign-on"
    scopes: tuple[str, ...] = ("openid", "profile")
    # the claim that names a person in records: letters, digits, '@', '.', '_' and '-'
    name_claim: str = "preferred_username"
    # trusted instead of the system's own authorities
    ca_file: str | None = None


class AccessFile(Struct, frozen=True, forbid_unknown_fields=True):
    """People in a browser."""

    # how browsers name this daemon, where that is not its own address: needed by an identity provider and by a proxy
    public_url: Annotated[str, Meta(pattern=r"^https?://[^\s/@?#]+$")] | None = None
    # addresses of reverse proxies whose X-Forwarded-For is believed: else all people behind one are slowed together
    proxies: list[str] = []
    # a session that nobody used, and any session, ends; a ward's computer stands in a corridor
    idle_s: Annotated[int, Meta(ge=60, le=86_400)] = 1800
    session_s: Annotated[int, Meta(ge=300, le=604_800)] = 43_200
    oidc: OidcFile | None = None


class SettingsFile(Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    site: Name
    project: Name
    node: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] | None = None
    # two processes for two zones; one with both is for demos and tests (D20)
    role: Role = "both"
    state_dir: str = "state"
    database: DatabaseFile = DatabaseFile()
    listen: ListenFile = ListenFile()
    tiers: dict[Name, TierFile] = {}
    # policies of one's own; the ones that ship with the software when absent
    policies: str | None = None
    # where the executables stand that a clean policy may name as hooks: root's, and written by nobody else (D22)
    hooks_dir: str = "/etc/mover/hooks.d"
    vault_key: str | None = None
    # the daemon's part of the two sealed key files (`mover vault keys new`): it seals for them and opens nothing
    vault_public: str | None = None
    # what was erased: keep it where no restore of the database reaches, and back it up at once
    vault_tombstones: str | None = None
    # both key files, where restores of dumps are drilled by themselves: only on a machine kept for that. Without them
    # a scheduled drill reads both copies and cannot open them
    drill_key_a: str | None = None
    drill_key_b: str | None = None
    # signs the certificates of batches; without one none are issued
    certificate_key: str | None = None
    # signs where the audit chains end; made at the first start where there is none
    audit_key: str | None = None
    # fingerprints of keys that signed before that one: after a restore of the catalog, no other key is believed
    audit_keys_before: Annotated[list[Fingerprint], Meta(max_length=100)] = []
    repository_password_file: str | None = None
    workers: WorkersFile = WorkersFile()
    retention: RetentionFile = RetentionFile()
    lineage: LineageFile | None = None
    # who alarm policies tell, by name
    receivers: dict[Name, WebhookFile | MailFile] = {}
    access: AccessFile = AccessFile()
    log_level: Literal["debug", "info", "warning", "error"] = "info"


# --- what the rest of the house gets ------------------------------------------------------------------------


class Database(Struct, frozen=True):
    """`dsn` and `vault_dsn` are None when the database is embedded."""

    embedded: bool
    dsn: str | None
    vault_dsn: str | None
    bin_dir: Path | None
    start_timeout_s: int
    pool_size: int
    dump_dsn: str | None = None
    # where each stands: read again at each new connection
    dsn_file: Path | None = None
    vault_dsn_file: Path | None = None
    dump_dsn_file: Path | None = None


class Tls(Struct, frozen=True):
    certificate: Path
    key: Path


class Listen(Struct, frozen=True):
    unix: Path | None
    host: str | None
    port: int | None
    tls: Tls | None


class Sts(Struct, frozen=True):
    role: str
    token_file: Path | None
    file: Path | None
    endpoint: str | None
    duration_s: int


class Tier(Struct, frozen=True):
    """`path` is there for posix tiers, `url` and either `credentials_file` or `sts` for object tiers."""

    name: str
    kind: TierKind
    zone: Zone
    role: TierRole
    path: Path | None
    url: str | None
    endpoint: str
    region: str
    credentials_file: Path | None
    read_only: bool
    seen_as: str | None
    capacity_bytes: int | None
    addressing: Addressing = "path"
    ca_file: Path | None = None
    proxy: str | None = None
    sts: Sts | None = None
    attribute_cache_s: float | None = None
    unanswered_s: float = 30.0
    calls_max: int = 16
    deletes: bool = True
    # whether the file says so, or nobody asked
    deletes_said: bool = True
    # the name of its systemd credential
    credential: str | None = None


class Lineage(Struct, frozen=True):
    url: str
    namespace: str
    token_file: Path | None
    ca_file: Path | None


class Webhook(Struct, frozen=True):
    url: str
    token_file: Path | None
    ca_file: Path | None


class Mail(Struct, frozen=True):
    to: tuple[str, ...]
    sender: str
    host: str
    port: int
    tls: Literal["starttls", "tls", "none"]
    user: str | None
    password_file: Path | None
    ca_file: Path | None


class Oidc(Struct, frozen=True):
    issuer: str
    client_id: str
    client_secret_file: Path
    roles: tuple[OidcRoleFile, ...]
    label: str
    scopes: tuple[str, ...]
    name_claim: str
    ca_file: Path | None


class People(Struct, frozen=True):
    """`oidc` is there only with a `public_url`: the provider sends browsers back there."""

    public_url: str | None = None
    proxies: frozenset[str] = frozenset()
    idle_s: int = 1800
    session_s: int = 43_200
    oidc: Oidc | None = None


class Settings(Struct, frozen=True):
    file: Path
    site: str
    project: str
    node: str
    role: Role
    state_dir: Path
    database: Database
    listen: Listen
    tiers: dict[str, Tier]
    policies: Path
    hooks_dir: Path
    vault_key: Path
    vault_public: Path
    vault_tombstones: Path
    certificate_key: Path
    audit_key: Path
    repository_password_file: Path
    workers: WorkersFile
    log_level: str
    audit_keys_before: tuple[str, ...] = ()
    retention: RetentionFile = RetentionFile()
    drill_keys: tuple[Path, Path] | None = None
    lineage: Lineage | None = None
    access: People = People()
    receivers: dict[str, Webhook | Mail] = {}

    def tiers_of(self, *, role: TierRole) -> list[Tier]:
        return [tier for tier in self.tiers.values() if tier.role == role]


class Environment(Struct, frozen=True):
    """What the surroundings say. Values that are secrets never come this way, only the folder that holds them."""

    config: Path
    credentials_dir: Path | None
    journal: bool  # stderr is connected to the journal
    notify_socket: str | None
    watchdog_s: float | None
    runtime_dir: Path | None
    token_file: Path | None
    url: str | None


def read_environment(variables: dict[str, str] | None = None) -> Environment:
    """The only place that reads environment variables."""
    found = dict(os.environ) if variables is None else variables
    watchdog = found.get("WATCHDOG_USEC", "")
    return Environment(
        config=Path(found["MOVER_CONFIG"]) if found.get("MOVER_CONFIG") else _found_config(),
        credentials_dir=_path(found.get("CREDENTIALS_DIRECTORY")),
        journal=bool(found.get("JOURNAL_STREAM")),
        notify_socket=found.get("NOTIFY_SOCKET") or None,
        watchdog_s=int(watchdog) / 1e6 if watchdog.isdigit() and int(watchdog) else None,
        runtime_dir=_path(found.get("XDG_RUNTIME_DIR")),
        token_file=_path(found.get("MOVER_TOKEN_FILE")),
        url=found.get("MOVER_URL") or None,
    )


def _found_config() -> Path:
    """A folder's own settings before those of the host: who works in a demo means the demo. Root meets folders of
    others, and settings name programs that are run: those count for root only where nobody else can write them."""
    here = Path(DEFAULT_CONFIG)
    found = (path for path in (here, HOST_CONFIG, HOST_IDENTIFIED) if os.path.exists(path))
    return next((path for path in found if path is not here or _trusted(here)), HOST_CONFIG if here.exists() else here)


def _trusted(path: Path) -> bool:
    if os.geteuid() != 0:
        return True
    file, folder = path.stat(), path.absolute().parent.stat()
    # in a sticky folder nobody replaces what is root's
    replaceable = folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX
    return file.st_uid == folder.st_uid == 0 and not file.st_mode & 0o022 and not replaceable


def load(
    path: Path, *, environment: Environment | None = None, draft: tuple[str, Path] | None = None
) -> Settings:
    """The settings of a file, and of the tiers beside it. Every mistake is in the error's `details` as
    file:line:column. `draft`: one tier more, of this name and file."""
    written = yaml_reader.read_as(path, SettingsFile, then=_more, error=SettingsInvalid)
    files = [*_beside(path), *([draft] if draft else [])]
    for name, file in files:
        written = _with_tier(written, name, file)
    return _resolve(written, path.absolute(), environment or read_environment())


def tiers_folder(path: Path) -> Path:
    """Where tiers stand that were added later, one to a file: `mover.d/NAME.yaml` beside `mover.yaml`."""
    return path.absolute().with_suffix(".d")


def _beside(path: Path) -> list[tuple[str, Path]]:
    """Whoever may write a tier may name any folder as one: so a file counts only of who may write the settings."""
    folder = tiers_folder(path)
    try:
        if not folder.is_dir():
            return []
        owners = {0, path.stat().st_uid}
        found = sorted(file for file in folder.iterdir() if file.suffix == ".yaml")
        seen = [(one, one.stat()) for one in (folder, *found)]
    except OSError as error:  # one that is taken away at this moment, as well
        raise SettingsInvalid("the tiers beside the settings cannot be read", where=str(folder)) from error
    for one, status in seen:
        if status.st_uid not in owners or status.st_mode & 0o022:
            raise SettingsInvalid(
                "others than the owner of the settings may write it", where=str(one),
                hint=f"chown --reference={path} {one}; chmod go-w {one}",
            )  # fmt: skip
    return [(file.stem, file) for file in found]


def _with_tier(written: SettingsFile, name: str, file: Path) -> SettingsFile:
    """Relative paths in it are relative to the settings, as in the settings."""
    tier = yaml_reader.read_as(file, TierFile, then=_about_tier, error=SettingsInvalid)
    why = ""
    if name in written.tiers:
        why = "a tier of this name stands in the settings already"
    elif not TIER_NAME.fullmatch(name):
        why = "a tier's name is 2 to 41 small letters, digits and '-', a letter first"
    elif written.role == "clean" and tier.zone == "identified":
        why = "a clean daemon may not be given an identified tier (D20)"
    if why:
        raise SettingsInvalid(why, where=str(file), hint="Give it another name, or add it to the other settings.")
    return msgspec.structs.replace(written, tiers={**written.tiers, name: tier})


# --- what types cannot say ----------------------------------------------------------------------------------


def _more(written: SettingsFile) -> Iterator[tuple[tuple[str | int, ...], str]]:
    yield from _about_database(written.database)
    yield from _about_listen(written.listen)
    for name, tier in written.tiers.items():
        yield from ((("tiers", name, *path), what) for path, what in _about_tier(tier))
    yield from _about_access(written.access)
    if (written.drill_key_a is None) != (written.drill_key_b is None):
        yield ("drill_key_a",), "`drill_key_a` and `drill_key_b` come together or not at all"
    if written.role == "clean" and any(tier.zone == "identified" for tier in written.tiers.values()):
        yield ("role",), "a clean daemon may not be given an identified tier (D20)"


def _about_database(database: DatabaseFile) -> Iterator[tuple[tuple[str, ...], str]]:
    files = [database.dsn_file, database.vault_dsn_file]
    if database.embedded and (any(files) or database.dump_dsn_file):
        yield ("database",), "either `embedded: true` or a `dsn_file` and a `vault_dsn_file`, not both"
    if not database.embedded and not all(files):
        yield ("database",), "without the embedded database both `dsn_file` and `vault_dsn_file` are needed"


def _about_listen(listen: ListenFile) -> Iterator[tuple[tuple[str, ...], str]]:
    if listen.tls and not listen.tcp:
        yield ("listen", "tls"), "TLS is given, but no `tcp` address it would protect"
    if not listen.tcp:
        return
    address = _host_and_port(listen.tcp)
    if address is None:
        yield ("listen", "tcp"), "an address is HOST:PORT, such as 127.0.0.1:8620 or [::1]:8620"
    elif not is_loopback(address[0]) and listen.tls is None:
        yield ("listen", "tcp"), "beyond loopback TLS is required: give `tls: {certificate, key}`"


def _about_access(access: AccessFile) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, url in (("public_url", access.public_url), ("oidc", access.oidc.issuer if access.oidc else None)):
        if url and url.startswith("http:") and not is_loopback(urlsplit(url).hostname or ""):
            yield ("access", name), "beyond loopback it is https"
    if access.oidc and not access.public_url:
        yield ("access", "oidc"), "an identity provider needs `public_url`, to which it sends browsers back"


def _about_tier(tier: TierFile) -> Iterator[tuple[tuple[str, ...], str]]:
    if tier.kind == "posix":
        if not tier.path:
            yield (), "a posix tier has a `path`"
        for name in ("url", "endpoint", "credentials_file", "credentials", "ca_file", "proxy"):
            if getattr(tier, name):
                yield (name,), f"a posix tier has no `{name}`"
    else:
        if not tier.url:
            yield (), "an object tier has a `url`"
        yield from _about_credentials(tier)
        if tier.proxy and _host_and_port(tier.proxy) is None:
            yield ("proxy",), "a proxy is HOST:PORT"
        for name in ("path", "seen_as"):
            if getattr(tier, name):
                yield (name,), f"an object tier has no `{name}`"
    if tier.zone == "identified" and tier.role != "source":
        yield ("zone",), "only a source may be identified: what leaves it is de-identified"
    if tier.read_only and tier.role != "source":
        yield ("read_only",), f"a tier of role {tier.role} is written to"
    if tier.role == "flash" and tier.kind == "object":
        yield ("kind",), "a flash tier is a file system"


def _about_credentials(tier: TierFile) -> Iterator[tuple[tuple[str, ...], str]]:
    given = tier.credentials
    if (given is None) == (tier.credentials_file is None):
        yield (), "an object tier has either `credentials` or a `credentials_file`"
    if given is None:
        return
    if [given.file, given.systemd, given.sts].count(None) != 2:
        yield ("credentials",), "exactly one of `file`, `systemd` and `sts`"
    if given.sts and (given.sts.token_file is None) == (given.sts.file is None):
        yield ("credentials", "sts"), "either a `token_file` or a `file` with keys"
    if given.sts and not (tier.url or "").startswith("s3:"):
        yield ("credentials", "sts"), "STS gives keys for s3:// only"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK_NAMES


def _host_and_port(text: str) -> tuple[str, int] | None:
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or not port.isdigit() or int(port) > 65535 or (":" in bare) != host.startswith("["):
        return None
    return bare, int(port)


# --- from words to paths ------------------------------------------------------------------------------------


def _resolve(written: SettingsFile, file: Path, environment: Environment) -> Settings:
    folder = file.parent
    state = folder / written.state_dir
    return Settings(
        file=file,
        site=written.site,
        project=written.project,
        node=written.node or socket.gethostname().partition(".")[0],
        role=written.role,
        state_dir=state,
        database=_database(written.database, folder),
        listen=_listen(written.listen, folder, state),
        tiers={name: _tier(name, tier, folder, state, environment) for name, tier in written.tiers.items()},
        policies=folder / written.policies if written.policies else yaml_reader.default_folder(),
        hooks_dir=folder / written.hooks_dir,
        vault_key=_secret_path("vault.key", written.vault_key, folder, state, environment),
        audit_key=_secret_path("audit.key", written.audit_key, folder, state, environment),
        audit_keys_before=tuple(written.audit_keys_before),
        certificate_key=_secret_path("certificate.key", written.certificate_key, folder, state, environment),
        vault_public=folder / written.vault_public if written.vault_public else state / "vault.public",
        vault_tombstones=folder / written.vault_tombstones if written.vault_tombstones else state / "vault.tombstones",
        repository_password_file=_secret_path(
            "repository-password", written.repository_password_file, folder, state, environment
        ),
        workers=written.workers,
        retention=written.retention,
        log_level=written.log_level,
        drill_keys=(folder / written.drill_key_a, folder / written.drill_key_b)
        if written.drill_key_a and written.drill_key_b
        else None,
        receivers={name: _receiver(one, folder) for name, one in written.receivers.items()},
        lineage=_lineage(written.lineage, folder) if written.lineage else None,
        access=_people(written.access, folder, state, environment),
    )


def _people(written: AccessFile, folder: Path, state: Path, environment: Environment) -> People:
    return People(
        public_url=written.public_url, proxies=frozenset(written.proxies), idle_s=written.idle_s,
        session_s=written.session_s,
        oidc=_oidc(written.oidc, folder, state, environment) if written.oidc else None,
    )  # fmt: skip


def _oidc(written: OidcFile, folder: Path, state: Path, environment: Environment) -> Oidc:
    return Oidc(
        issuer=written.issuer,
        client_id=written.client_id,
        client_secret_file=_secret_path("oidc-client-secret", written.client_secret_file, folder, state, environment),
        roles=tuple(written.roles),
        label=written.label,
        scopes=written.scopes,
        name_claim=written.name_claim,
        ca_file=_authority(written.ca_file, written.issuer, folder, where="access.oidc.ca_file"),
    )


def _authority(name: str | None, url: str, folder: Path, *, where: str) -> Path | None:
    """Somebody who names an authority believes that the other side is asked who it is; http:// asks nobody."""
    if name and url.startswith("http://"):
        raise SettingsInvalid(
            "an authority is named for an address that shows no certificate", where=where,
            hint="Write https://, or take `ca_file` away.",
        )  # fmt: skip
    return folder / name if name else None


def _receiver(written: WebhookFile | MailFile, folder: Path) -> Webhook | Mail:
    def beside(name: str | None) -> Path | None:
        return folder / name if name else None

    if isinstance(written, WebhookFile):
        trusted = _authority(written.ca_file, written.url, folder, where="receivers: ca_file")
        return Webhook(written.url, beside(written.token_file), trusted)
    return Mail(
        to=tuple(written.to), sender=written.sender, host=written.host, port=written.port, tls=written.tls,
        user=written.user, password_file=beside(written.password_file), ca_file=beside(written.ca_file),
    )  # fmt: skip


def _lineage(written: LineageFile, folder: Path) -> Lineage:
    token_file = folder / written.token_file if written.token_file else None
    trusted = _authority(written.ca_file, written.url, folder, where="lineage.ca_file")
    return Lineage(url=written.url, namespace=written.namespace, token_file=token_file, ca_file=trusted)


def _secret_path(name: str, given: str | None, folder: Path, state: Path, environment: Environment) -> Path:
    """systemd's credential of that name first, then the file the settings name, then one in the state directory."""
    if environment.credentials_dir and (environment.credentials_dir / name).exists():
        return environment.credentials_dir / name
    return folder / given if given else state / name


def _database(written: DatabaseFile, folder: Path) -> Database:
    files = (written.dsn_file, written.vault_dsn_file, written.dump_dsn_file)
    own, vault, dump = (folder / name if name else None for name in files)
    return Database(
        embedded=written.embedded,
        dsn=read_dsn(own) if own else None,
        vault_dsn=read_dsn(vault) if vault else None,
        bin_dir=folder / written.bin_dir if written.bin_dir else None,
        start_timeout_s=written.start_timeout_s,
        pool_size=written.pool_size,
        dump_dsn=read_dsn(dump) if dump else None,
        dsn_file=own,
        vault_dsn_file=vault,
        dump_dsn_file=dump,
    )


def read_dsn(path: Path) -> str:
    try:
        text = path.read_text("utf-8").strip()
        if path.stat().st_mode & 0o077:
            raise SettingsInvalid(
                "the file with the DSN can be read by others", where=str(path), hint=f"chmod 600 {path}"
            )
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(
            "the file with the DSN cannot be read", where=str(path),
            hint="Be root or the daemon's user; or name the daemon by --url, with a --token-file.",
        ) from error  # fmt: skip
    if not text:
        raise SettingsInvalid("the file with the DSN is empty", where=str(path))
    return text


def _listen(written: ListenFile, folder: Path, state: Path) -> Listen:
    address = _host_and_port(written.tcp) if written.tcp else None
    unix = folder / written.unix if written.unix else None if address else state / "mover.sock"
    if unix and len(os.fsencode(unix)) > SOCKET_PATH_LIMIT:
        raise SettingsInvalid(
            f"the path of the Unix socket is longer than {SOCKET_PATH_LIMIT} bytes",
            where=str(unix),
            hint="Give `listen: {unix: …}` a shorter path, or `listen: {tcp: 127.0.0.1:8620}`.",
        )
    return Listen(
        unix=unix,
        host=address[0] if address else None,
        port=address[1] if address else None,
        tls=Tls(folder / written.tls.certificate, folder / written.tls.key) if written.tls else None,
    )


def _tier(name: str, written: TierFile, folder: Path, state: Path, environment: Environment) -> Tier:
    values: dict[str, Any] = msgspec.structs.asdict(written)
    given = values.pop("credentials") or CredentialsFile(file=written.credentials_file)
    keys = folder / given.file if given.file else None
    if given.systemd:
        keys = _secret_path(given.systemd, None, folder, state, environment)
    return Tier(
        **{
            **values,
            "name": name,
            "path": folder / written.path if written.path else None,
            "endpoint": written.endpoint or "",
            "credentials_file": keys,
            "ca_file": folder / written.ca_file if written.ca_file else None,
            "sts": _sts(given.sts, folder) if given.sts else None,
            "credential": given.systemd,
            "deletes": written.deletes is not False,
            "deletes_said": written.deletes is not None,
        }
    )


def _sts(written: StsFile, folder: Path) -> Sts:
    return Sts(
        role=written.role,
        token_file=folder / written.token_file if written.token_file else None,
        file=folder / written.file if written.file else None,
        endpoint=written.endpoint,
        duration_s=written.duration_s,
    )


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
