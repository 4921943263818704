"""Keys of object stores: from a file, or by STS for an hour; changed without a restart.

A file is looked at before its keys are used (one `stat`), and read again when it is another one; keys that expire
are renewed before they do; keys that a store refuses are fetched anew once. While new keys cannot be had, the old
ones go on for as long as they are valid: a file may be read in the middle of being written.

No key and no token ever stands in an error, a log line or a repr.
"""

from __future__ import annotations

import configparser
import threading
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from mover.clock import SYSTEM, Clock
from mover.errors import MoverError, SettingsInvalid, TierDenied, TierUnavailable
from mover.settings import Sts

RENEW_BEFORE = timedelta(minutes=5)
CHECK_EVERY = timedelta(seconds=30)  # how long a library may go on with what it was given
AGAIN_AFTER_S = 1.0  # between tries while the old keys still hold
TOKEN_BYTES_MAX = 64 << 10
TOKEN_CHARS_MIN = 4  # STS takes none shorter
STS_TIMEOUT_S = 10


class Secret(Struct, frozen=True):
    """Whatever is in it, its repr is not."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class Credentials(Secret, frozen=True):
    access_key_id: str
    secret_access_key: str
    session_token: str = ""
    expires_at: datetime | None = None


class AzureKey(Secret, frozen=True, forbid_unknown_fields=True):
    """A storage account's key, or a shared access signature for the container."""

    account_name: str
    account_key: str = ""
    sas_token: str = ""


class GoogleKey(Secret, frozen=True):
    """The whole file that Google gives for a service account."""

    text: str


AnyKey = Credentials | AzureKey | GoogleKey


def read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        if path.stat().st_mode & 0o007:
            raise SettingsInvalid("the credentials file is open to everybody", hint="chmod 600 it.")
    except (OSError, UnicodeDecodeError):
        raise SettingsInvalid(
            "the credentials file of a tier cannot be read", where=str(path),
            hint="It is the daemon's user's, 0600. `credentials: {systemd: NAME}` without systemd: put a copy there.",
        ) from None  # fmt: skip
    return text


def read_credentials(path: Path) -> Credentials:
    """An AWS shared credentials file ([default]), or JSON with the same three names."""
    text = read_text(path)
    try:
        if text.lstrip().startswith("{"):
            return msgspec.json.decode(text, type=Credentials)
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(text)
        section = parser["default"]
        return Credentials(
            section["aws_access_key_id"],
            section["aws_secret_access_key"],
            section.get("aws_session_token", ""),
        )
    except (msgspec.DecodeError, configparser.Error, KeyError):
        raise SettingsInvalid(
            "the credentials file of a tier is not understood",
            hint="Write [default] with aws_access_key_id and aws_secret_access_key.",
        ) from None


def read_azure(path: Path) -> AzureKey:
    try:
        key = msgspec.json.decode(read_text(path), type=AzureKey)
    except msgspec.DecodeError:
        key = AzureKey("")
    if not key.account_name or bool(key.account_key) == bool(key.sas_token):
        raise SettingsInvalid(
            "the credentials file of an Azure tier is not understood",
            hint='Write {"account_name": …, "account_key": …} or {"account_name": …, "sas_token": …}.',
        )
    return key


def read_google(path: Path) -> GoogleKey:
    text = read_text(path)
    try:
        found = msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError:
        found = {}
    if not {"client_email", "private_key"} <= found.keys():
        raise SettingsInvalid(
            "the credentials file of a Google tier is not understood",
            hint="Give the JSON file of a service account.",
        )
    return GoogleKey(text)


READERS = {"s3": read_credentials, "az": read_azure, "gs": read_google}


def check_credentials(scheme: str, path: Path) -> None:
    """Raise SettingsInvalid unless the file holds keys for such a store."""
    READERS.get(scheme, read_credentials)(path)


# --- sources ------------------------------------------------------------------------------------------------


class Source(Protocol):
    def load(self) -> Credentials: ...

    def stamp(self) -> object:
        """Changes when what `load` would give may have changed."""


class FileSource:
    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Credentials:
        return read_credentials(self._path)

    def stamp(self) -> object:
        return file_stamp(self._path)


class StsSource:
    """AssumeRoleWithWebIdentity (a token that the platform renews in its file) or AssumeRole (long-lived keys)."""

    def __init__(self, sts: Sts, *, region: str, ca_file: Path | None, proxy: str | None, tier: str) -> None:
        self._sts, self._region, self._ca_file, self._tier = sts, region, ca_file, tier
        self._proxies = {scheme: f"http://{proxy}" for scheme in ("http", "https")} if proxy else {}

    def stamp(self) -> object:
        path = self._sts.token_file or self._sts.file
        assert path is not None  # the settings say so
        return file_stamp(path)

    def load(self) -> Credentials:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return self._ask()
        except ClientError:
            raise TierDenied(
                "STS gave no keys for the tier's role",
                where=self._tier,
                hint="Check the role's trust and the token.",
            ) from None
        except BotoCoreError:
            raise TierUnavailable("STS did not answer", where=self._tier) from None

    def _ask(self) -> Credentials:
        sts = self._sts
        wanted = {"RoleArn": sts.role, "RoleSessionName": "mover", "DurationSeconds": sts.duration_s}
        if sts.token_file is not None:
            token = _read_token(sts.token_file)
            answer = self._client(None).assume_role_with_web_identity(**wanted, WebIdentityToken=token)
        else:
            assert sts.file is not None
            answer = self._client(read_credentials(sts.file)).assume_role(**wanted)
        found = answer["Credentials"]
        return Credentials(
            found["AccessKeyId"],
            found["SecretAccessKey"],
            found["SessionToken"],
            found["Expiration"].astimezone(UTC),
        )

    def _client(self, keys: Credentials | None):  # type: ignore[no-untyped-def]  # botocore makes its classes
        """Plain botocore: one small call an hour, made from whatever thread needs the keys."""
        from botocore import UNSIGNED
        from botocore.config import Config

        return quiet_session().create_client(
            "sts",
            region_name=self._region,
            endpoint_url=self._sts.endpoint,
            aws_access_key_id=keys.access_key_id if keys else None,
            aws_secret_access_key=keys.secret_access_key if keys else None,
            aws_session_token=(keys.session_token or None) if keys else None,
            verify=str(self._ca_file) if self._ca_file else True,
            config=Config(
                connect_timeout=STS_TIMEOUT_S,
                read_timeout=STS_TIMEOUT_S,
                proxies=self._proxies,
                retries={"total_max_attempts": 2, "mode": "standard"},
                signature_version=None if keys else UNSIGNED,
            ),
        )


def quiet_session():  # type: ignore[no-untyped-def]
    """Without the files of whoever started us: only what the settings say counts."""
    from botocore.session import get_session

    session = get_session()
    for name in ("config_file", "credentials_file"):
        session.set_config_variable(name, "/dev/null")
    session.register_component("data_loader", descriptions())
    return session


@cache
def descriptions():  # type: ignore[no-untyped-def]
    """The description of S3 is a megabyte of JSON: parsed once for all tiers."""
    from botocore.loaders import create_loader

    return create_loader()


def _read_token(path: Path) -> str:
    try:
        with open(path, encoding="ascii") as file:
            token = file.read(TOKEN_BYTES_MAX).strip()
    except (OSError, UnicodeDecodeError):
        raise SettingsInvalid("the token file of a tier's credentials cannot be read") from None
    if len(token) < TOKEN_CHARS_MIN:
        raise SettingsInvalid("the token file of a tier's credentials is empty")
    return token


def file_stamp(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


# --- what the tiers ask -------------------------------------------------------------------------------------


class Keyring:
    """The keys of one tier, from any thread, always the newest that could be had."""

    def __init__(self, source: Source, *, clock: Clock = SYSTEM) -> None:
        self._source, self._clock = source, clock
        self._lock = threading.Lock()
        self._held: Credentials | None = None
        self._stamp: object = None
        self._not_before_s = 0.0
        self._changed_s = 0.0

    def current(self) -> Credentials:
        stamp = self._source.stamp()
        with self._lock:
            held = self._held
            if held is not None and stamp == self._stamp and not self._ends_within(held, RENEW_BEFORE):
                return held
            if held is not None and self._clock.monotonic_s() < self._not_before_s and not self._ended(held):
                return held
            return self._load(stamp)

    def renew(self, refused: Credentials) -> bool:
        """The store refused these. Whether there are others now."""
        stamp = self._source.stamp()
        with self._lock:
            return self._held != refused or self._load(stamp) != refused

    def changed_lately(self) -> bool:
        """A library that holds keys for a moment may just have used the ones before."""
        return self._clock.monotonic_s() - self._changed_s < AGAIN_AFTER_S

    def _load(self, stamp: object) -> Credentials:
        self._not_before_s = self._clock.monotonic_s() + AGAIN_AFTER_S
        try:
            found = self._source.load()
        except MoverError:
            if self._held is None or self._ended(self._held):
                raise
            return self._held
        if not self._ends_within(found, RENEW_BEFORE):
            self._not_before_s = 0.0
        if found != self._held:
            self._changed_s = self._clock.monotonic_s()
        self._held, self._stamp = found, stamp
        return found

    def _ended(self, held: Credentials) -> bool:
        return self._ends_within(held, timedelta(0))

    def _ends_within(self, held: Credentials, margin: timedelta) -> bool:
        return held.expires_at is not None and held.expires_at - margin <= self._clock.now()

    def for_obstore(self) -> dict[str, object]:
        """What obstore asks for; it asks again when this lapses, at most ten times a second."""
        keys, lapses = self.current(), self._clock.now() + CHECK_EVERY
        return {
            "access_key_id": keys.access_key_id,
            "secret_access_key": keys.secret_access_key,
            "token": keys.session_token or None,
            "expires_at": min(lapses, keys.expires_at) if keys.expires_at else lapses,
        }
