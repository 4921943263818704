"""What `mover init` writes, as text: the answers it takes, and the settings of one daemon or of two."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

QUESTIONS = {
    "source": "Folder with the image packs and tables of pathology (read only)",
    "bucket": "Bucket for the de-identified slides (s3://name or s3://name/prefix), or a folder",
    "endpoint": "S3 endpoint (empty for AWS)",
    "credentials_file": "File with the bucket's credentials",
    "flash": "Folder on the cluster's flash storage",
    "protect": "Folder for the snapshot repository",
    "database": "PostgreSQL for two daemons (host=… dbname=…; empty: one daemon with a database of its own)",
    "state": "Folder for the daemon's own state",
    "site": "A short name of this site",
    "project": "A short name of the first project",
}
OF_BUCKETS = ("endpoint", "credentials_file")
STATE = "/var/lib/mover"  # which tmpfiles.d makes, with a folder of sockets in /run
DEFAULTS = {"endpoint": "", "database": "", "state": STATE, "site": "site", "project": "main"}
KEYS_OF_BUCKET = "archive-keys"  # the name of the credential, and its file in credentials/


class Answers(Struct, frozen=True, forbid_unknown_fields=True):
    """What `--from-file` may hold, too."""

    source: str
    bucket: str
    flash: str
    protect: str
    credentials_file: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    # of a server, without user and password: those are made
    database: str = DEFAULTS["database"]
    state: str = DEFAULTS["state"]
    site: str = DEFAULTS["site"]
    project: str = DEFAULTS["project"]
    # where the cluster's nodes see the flash, if elsewhere
    flash_seen_as: str = ""
    # TCP besides the local socket, such as 127.0.0.1:8620
    tcp: str = ""

    @property
    def two(self) -> bool:
        """Two daemons for two zones (D20): they share a server's database."""
        return bool(self.database)

    @property
    def in_folder(self) -> bool:
        return is_folder(self.bucket)


def is_folder(bucket: str) -> bool:
    return "://" not in bucket


def texts(answers: Answers, folder: Path) -> dict[Path, str]:
    """The settings, each with a sentence of why at each choice; mover.yaml last, as it is written last."""
    clean = folder / "mover.yaml"
    if not answers.two:
        return {clean: _one(answers, clean)}
    return {folder / "identified.yaml": _identified(answers), clean: _clean(answers, clean)}


def state_of_identified(answers: Answers) -> str:
    return answers.state.rstrip("/") + "-identified"


# --- one daemon ------------------------------------------------------------------------------------------------


def _one(answers: Answers, file: Path) -> str:
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
  unix: {_quoted(str(Path(answers.state).expanduser().absolute() / "mover.sock"))}{_tcp(answers)}

{_DELETES}
tiers:
{_intake(answers)}{_archive(answers)}{_flash(answers)}{_protect(answers)}"""


# --- two daemons -----------------------------------------------------------------------------------------------


def _clean(answers: Answers, file: Path) -> str:
    return f"""\
# Written by `mover init`, with identified.yaml beside it: what is not said there. `mover doctor` checks both.
# Settings of mover.service, which never sees a name. Relative paths are relative to {file.parent}.
version: 1
site: {answers.site}
project: {answers.project}
role: clean
state_dir: {_path(answers.state)}

# One PostgreSQL for both daemons; this one may not open the vault.
database:
  embedded: false
  dsn_file: dsn
  vault_dsn_file: dsn
policies: policies

# The local socket knows root and the daemon's user without a token. Beyond loopback TCP needs `tls:`.
listen:
  unix: {_quoted(_socket(answers.state))}{_tcp(answers)}

{_DELETES}
tiers:
{_archive(answers)}{_flash(answers)}{_protect(answers)}"""


def _identified(answers: Answers) -> str:
    state = state_of_identified(answers)
    return f"""\
# Written by `mover init`. Settings of mover-identified.service, which alone sees names; mover.yaml has the rest.
version: 1
site: {answers.site}
project: {answers.project}
role: identified
state_dir: {_path(state)}

# The vault has a login of its own; dumps are made by one that may read everything. Their folder is hidden from the
# other daemon.
database:
  embedded: false
  dsn_file: identified/dsn
  vault_dsn_file: identified/vault-dsn
  dump_dsn_file: identified/dump-dsn
policies: policies
listen:
  unix: {_quoted(_socket(state))}

# Slides go to the archive, sealed dumps of the names to archive and protect.
tiers:
{_intake(answers)}{_archive(answers)}{_protect(answers)}"""


# --- parts -----------------------------------------------------------------------------------------------------

_DELETES = """\
# `deletes: false`: nothing is deleted there, whatever policies say; plans show what would be. Switch it on, tier by
# tier, when you have read such plans: runs leave the flash and snapshots are forgotten only then."""


def _intake(answers: Answers) -> str:
    return f"""\
  # What pathology hands over. Never written to; the only tier with names in it.
  intake:
    kind: posix
    zone: identified
    role: source
    path: {_path(answers.source)}
    read_only: true
"""


def _archive(answers: Answers) -> str:
    if answers.in_folder:
        return _folder("archive", "archive", answers.bucket, "De-identified slides, write-once.")
    endpoint = f"\n    endpoint: {_quoted(answers.endpoint)}" if answers.endpoint else ""
    keys = (
        f"credentials: {{systemd: {KEYS_OF_BUCKET}}}"
        if answers.two
        else f"credentials_file: {_path(answers.credentials_file)}"
    )
    return f"""\
  # De-identified slides, write-once.
  archive:
    kind: object
    zone: deidentified
    role: archive
    url: {_quoted(answers.bucket)}{endpoint}
    region: {_quoted(answers.region)}
    {keys}
    deletes: false
"""


def _flash(answers: Answers) -> str:
    why = "Run roots for training. `seen_as` is the same folder as the cluster's nodes call it."
    return _folder("flash", "flash", answers.flash, why, seen_as=answers.flash_seen_as)


def _protect(answers: Answers) -> str:
    return _folder("protect", "protect", answers.protect, "The snapshot repository, readable with stock restic.")


def _folder(name: str, role: str, path: str, why: str, *, seen_as: str = "") -> str:
    seen = f"\n    seen_as: {_quoted(seen_as)}" if seen_as else ""
    return f"""\
  # {why}
  {name}:
    kind: posix
    zone: deidentified
    role: {role}
    path: {_path(path)}{seen}
    deletes: false
"""


def _tcp(answers: Answers) -> str:
    return f"\n  tcp: {_quoted(answers.tcp)}" if answers.tcp else ""


def _socket(state: str) -> str:
    """Where the units look for it; of a state elsewhere, there."""
    shipped = {STATE: "/run/mover", STATE + "-identified": "/run/mover-identified"}
    folder = shipped.get(state.rstrip("/"), str(Path(state).expanduser().absolute()))
    return f"{folder}/mover.sock"


def _quoted(text: str) -> str:
    """JSON strings are YAML strings."""
    import msgspec

    return msgspec.json.encode(text).decode()


def _path(text: str) -> str:
    return _quoted(str(Path(text).expanduser().absolute()))
