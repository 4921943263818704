"""Where an object tier lives: its address, its authorities, and obstore's store over it.

`s3://bucket/prefix`, `az://container/prefix` (Azure Blob) or `gs://bucket/prefix` (Google). Plain HTTP is for loopback
only. The environment is not asked for proxies: one is used where the settings name it, never towards loopback.
"""

from __future__ import annotations

import ipaddress
import ssl
import threading
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote, urlsplit

from msgspec import Struct
from obstore.store import AzureStore, GCSStore, S3Store

from mover.errors import SettingsInvalid
from mover.settings import Addressing
from mover.tiers.credentials import Credentials, Keyring, file_stamp, read_azure, read_google

RESENDS = 3
CONNECT_TIMEOUT = timedelta(seconds=10)
IDLE_TIMEOUT = timedelta(seconds=60)
REQUEST_TIMEOUT = timedelta(hours=24)  # a stalled one ends by IDLE_TIMEOUT, a slow one may go on
RESEND_TIMEOUT = timedelta(seconds=60)
SCHEMES = ("s3", "az", "gs")
NOBODY = "http://127.0.0.1:9"  # an explicit proxy switches the environment's off, and its exclusions leave it unused

AnyStore = S3Store | AzureStore | GCSStore


class Place(Struct, frozen=True):
    """An object tier's address, judged. `endpoint` is "" for the provider's own."""

    tier: str
    scheme: str
    bucket: str
    prefix: str
    endpoint: str
    region: str
    addressing: Addressing
    ca_file: Path | None
    proxy: str | None

    @property
    def loopback(self) -> bool:
        return is_loopback(self.endpoint)

    @property
    def service(self) -> str:
        """The S3 service, without the bucket."""
        return self.endpoint.rstrip("/") or f"https://s3.{self.region}.amazonaws.com"

    @property
    def bucket_url(self) -> str:
        """The bucket's own URL, without a '/' at its end."""
        if self.addressing == "path":
            return f"{self.service}/{self.bucket}"
        scheme, _, rest = self.service.partition("://")
        return f"{scheme}://{self.bucket}.{rest}"

    def full_key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def path_of(self, key: str) -> str:
        """The key below `bucket_url`, as a signed request spells it (RFC 3986 unreserved bytes stay)."""
        return "/" + quote(self.full_key(key), safe="/~")

    def tls(self) -> ssl.SSLContext | None:
        """The system's authorities and our own; None for plain HTTP."""
        if urlsplit(self.service).scheme != "https":
            return None
        context = ssl.create_default_context()
        if self.ca_file is not None:
            context.load_verify_locations(cafile=self.ca_file)
        return context


def place(
    url: str,
    *,
    tier: str,
    endpoint: str = "",
    region: str = "us-east-1",
    addressing: Addressing = "path",
    ca_file: Path | None = None,
    proxy: str | None = None,
) -> Place:
    """SettingsInvalid unless such a place can be spoken to safely."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise SettingsInvalid(
            "an object tier's url is s3://bucket, az://container or gs://bucket, with or without /prefix",
            where=tier,
        )
    if endpoint and not is_loopback(endpoint) and urlsplit(endpoint).scheme != "https":
        raise SettingsInvalid(
            "a plain-text endpoint beyond this machine", where=tier, hint="Use an https:// endpoint."
        )
    if ca_file is not None:
        _read_authorities(ca_file, tier=tier)
    made = Place(
        tier, parts.scheme, parts.netloc, parts.path.strip("/"), endpoint, region, addressing, ca_file, proxy
    )
    if addressing == "virtual" and _is_address(urlsplit(made.service).hostname or ""):
        raise SettingsInvalid(
            "a bucket's name cannot stand in front of an address", where=tier, hint="Use `addressing: path`."
        )
    return made


def is_loopback(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    if _is_address(host):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")  # RFC 6761


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _read_authorities(ca_file: Path, *, tier: str) -> str:
    try:
        text = ca_file.read_text("ascii")
        ssl.create_default_context().load_verify_locations(cadata=text)
    except (OSError, ValueError):  # an SSLError is an OSError
        raise SettingsInvalid(
            "the tier's `ca_file` holds no certificate that can be read",
            where=tier,
            hint="Give it in PEM form.",
        ) from None
    return text


# --- obstore ------------------------------------------------------------------------------------------------


def open_store(where: Place, keys: Keyring | None, file: Path | None) -> AnyStore:
    """`keys` for S3; `file` for Azure and Google, whose keys are read anew when the caller makes a new store."""
    common: dict[str, object] = {
        "prefix": where.prefix or None,
        "client_options": _client_options(where),
        "retry_config": {"max_retries": RESENDS, "retry_timeout": RESEND_TIMEOUT},
    }
    if where.scheme == "s3":
        assert keys is not None
        return _s3(where, keys, common)
    assert file is not None
    return _azure(where, file, common) if where.scheme == "az" else _google(where, file, common)


def _client_options(where: Place) -> dict[str, object]:
    options: dict[str, object] = {
        "allow_http": where.loopback,
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": IDLE_TIMEOUT,
        "timeout": REQUEST_TIMEOUT,
    }
    host = urlsplit(where.endpoint).hostname or ""
    if where.proxy and not where.loopback:
        options["proxy_url"] = f"http://{where.proxy}"
    else:
        options |= {"proxy_url": NOBODY, "proxy_excludes": host if where.loopback else "*"}
    if where.ca_file is not None:
        options["root_certificate"] = _read_authorities(where.ca_file, tier=where.tier)
    return options


def _s3(where: Place, keys: Keyring, common: dict[str, object]) -> S3Store:
    # Bodies are not signed: TLS (or loopback) guards them on their way, and what decides is the BLAKE3 of the cold
    # re-read. A SHA-256 of every byte took two thirds of the upload's processor time here.
    virtual = where.addressing == "virtual"
    config: dict[str, object] = {"unsigned_payload": True, "virtual_hosted_style_request": virtual}
    if where.endpoint:
        config["endpoint"] = where.bucket_url if virtual else where.service
    return S3Store(
        where.bucket,
        config=config,  # type: ignore[arg-type]
        region=where.region,
        credential_provider=keys.for_obstore,  # type: ignore[arg-type]
        **common,  # type: ignore[arg-type]
    )


def _azure(where: Place, file: Path, common: dict[str, object]) -> AzureStore:
    key = read_azure(file)
    secret = {"account_key": key.account_key} if key.account_key else {"sas_key": key.sas_token}
    config: dict[str, object] = {"account_name": key.account_name, **secret}
    if where.endpoint:
        config["endpoint"] = where.endpoint
    return AzureStore(where.bucket, config=config, **common)  # type: ignore[arg-type]


def _google(where: Place, file: Path, common: dict[str, object]) -> GCSStore:
    """The keys are given outright: without them the library asks the cloud's metadata address."""
    return GCSStore(where.bucket, config={"service_account_key": read_google(file).text}, **common)  # type: ignore[arg-type]


class Connection:
    """One tier's store, always with the newest keys: S3 asks its keyring, the others are made anew."""

    def __init__(self, where: Place, keys: Keyring | None, file: Path | None) -> None:
        self.where, self.keys, self._file = where, keys, file
        self._lock = threading.Lock()
        self._stamp = file_stamp(file) if file is not None else None
        self._store = open_store(where, keys, file)

    @property
    def store(self) -> AnyStore:
        if self.keys is None and self._file is not None and file_stamp(self._file) != self._stamp:
            with self._lock:
                self._stamp = file_stamp(self._file)
                self._store = open_store(self.where, None, self._file)
        return self._store

    def held(self) -> Credentials | None:
        return self.keys.current() if self.keys is not None else None

    def renew(self, refused: Credentials | None) -> bool:
        """The store refused these. Whether asking again may help."""
        keys = self.keys
        return refused is not None and keys is not None and (keys.renew(refused) or keys.changed_lately())
