"""A tier in an S3 bucket, by obstore's blocking calls from worker threads.

Keys are write-once. Small objects are put with If-None-Match; large ones stream as multipart uploads, whose
completion obstore cannot make conditional: there the name is asked for first, and the engine's attempt keys
(`<number>/<attempt>/<name>`) are never used twice, so a race cannot replace anything. An object counts only
once its sidecar, a small object, was put conditionally after the cold re-read (design D14).

One request of a large upload is re-sent by the transport a bounded number of times, because starting
gigabytes anew for one 503 would be foolish; operations are retried in `wrappers.RetryTier` only.
A lost answer says nothing: the object is read back and its digest decides (about half had landed).
"""

from __future__ import annotations

import configparser
import ipaddress
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import obstore
from blake3 import blake3
from obstore import exceptions as s3
from obstore.store import S3Store

from mover.errors import (
    ChangedWhileReading,
    EntryExists,
    EntryMissing,
    RequestInvalid,
    SettingsInvalid,
    ShortRead,
    StructureInvalid,
    TierDenied,
    TierError,
    TierUnavailable,
)
from mover.model.tiers import Entry, Fingerprint, TierKind, TierRole, Traits, Zone
from mover.randomness import random_bytes
from mover.tiers import beneath
from mover.tiers import identity as identities

SMALL_BYTES = 8 << 20
PART_BYTES = 16 << 20
PARTS_IN_FLIGHT = 4
RESENDS = 3
CONNECT_TIMEOUT = timedelta(seconds=10)
IDLE_TIMEOUT = timedelta(seconds=60)
REQUEST_TIMEOUT = timedelta(hours=24)  # a stalled one ends by IDLE_TIMEOUT, a slow one may go on
RESEND_TIMEOUT = timedelta(seconds=60)
CONTROL_PREFIX = ".mover/"
OBSTORE_ERRORS = (s3.BaseError, OSError, NotImplementedError)  # "not found" comes as FileNotFoundError


class Credentials(msgspec.Struct, frozen=True):
    access_key_id: str
    secret_access_key: str
    session_token: str = ""


def read_credentials(path: Path) -> Credentials:
    """An AWS shared credentials file ([default]), or JSON with the same three names."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.stat().st_mode & 0o007:
            raise SettingsInvalid("the credentials file is open to everybody", hint="chmod 600 it.")
    except (OSError, UnicodeDecodeError):
        raise SettingsInvalid("the credentials file of a tier cannot be read") from None
    try:
        if text.lstrip().startswith("{"):
            return msgspec.json.decode(text, type=Credentials)
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(text)
        section = parser["default"]
        return Credentials(
            section["aws_access_key_id"], section["aws_secret_access_key"], section.get("aws_session_token", "")
        )
    except (msgspec.DecodeError, configparser.Error, KeyError):
        raise SettingsInvalid(
            "the credentials file of a tier is not understood",
            hint="Write [default] with aws_access_key_id and aws_secret_access_key.",
        ) from None


class ObjectTier:
    """The port over `s3://bucket/prefix`. Plain HTTP is for loopback only."""

    kind: TierKind = "object"

    def __init__(
        self,
        name: str,
        zone: Zone,
        *,
        url: str,
        endpoint: str = "",
        region: str = "us-east-1",
        credentials_file: Path | str,
        role: TierRole = "archive",
        identity: str | None = None,
    ) -> None:
        self.name, self.zone, self.role, self.read_only = name, zone, role, False
        self._identity = identity
        self._proved = False
        self._lock = threading.Lock()
        self._store = _connect(url, endpoint, region, read_credentials(Path(credentials_file)), tier=name)

    # --- identity and traits ----------------------------------------------------------------------

    def check_identity(self) -> None:
        try:
            found = identities.decode(self._get_all(identities.IDENTITY_KEY), tier=self.name)
        except EntryMissing:
            raise TierUnavailable("the bucket carries no tier identity", where=self.name) from None
        identities.compare(found, name=self.name, zone=self.zone, identity=self._identity)
        self._refuse_unfit()
        self._proved = True

    def establish(self) -> str:
        """Register: probe, then write the identity or accept the same one; its identity text."""
        self._refuse_unfit()
        made = identities.new_identity(self.name, self.zone)
        try:
            self._put_small(identities.IDENTITY_KEY, identities.encode(made))
        except EntryExists:
            found = identities.decode(self._get_all(identities.IDENTITY_KEY), tier=self.name)
            return identities.same_or_conflict(found, name=self.name, zone=self.zone)
        return f"id:{made.id}"

    @cached_property
    def traits(self) -> Traits:
        return self.probe()

    def probe(self) -> Traits:
        """What this store really does, tried on a scratch object: "S3-compatible" promises nothing."""
        key = f"{CONTROL_PREFIX}probe-{random_bytes(8).hex()}"
        self._put_small(key, b"0123456789")
        try:
            return Traits(conditional_put=self._refuses_second(key), range_read=self._reads_range(key), hard_link=False)
        finally:
            with suppress(*OBSTORE_ERRORS):  # a bucket under object lock keeps the ten bytes
                obstore.delete(self._store, key)

    def _refuses_second(self, key: str) -> bool:
        try:
            self._put_small(key, b"again")
        except EntryExists:
            return True
        return False

    def _reads_range(self, key: str) -> bool:
        try:
            return bytes(obstore.get_range(self._store, key, start=2, end=5)) == b"234"
        except OBSTORE_ERRORS:
            return False

    def _refuse_unfit(self) -> None:
        if self.role == "archive" and not self.traits.conditional_put:
            raise TierDenied(
                "the store accepts a second conditional put of one key, so it cannot be an archive",
                where=self.name,
                hint="Use a store that honours If-None-Match on PUT.",
            )

    def _prove_once(self) -> None:
        if not self._proved:
            with self._lock:
                if not self._proved:
                    self.check_identity()

    # --- reading ----------------------------------------------------------------------------------

    def stat(self, key: str) -> Entry:
        return Entry(key, "file", self._head(_checked(key)))

    def _head(self, key: str) -> Fingerprint:
        with self._translating("stat failed"):
            return _fingerprint(obstore.head(self._store, key))

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        if length is None and offset == 0:
            return self._get_all(_checked(key))
        with self.open(key) as source:
            wanted = source.size_bytes - offset if length is None else length
            if offset < 0 or wanted < 0 or offset + wanted > source.size_bytes:
                raise ShortRead("the object does not hold the bytes asked for", where=self.name)
            return source.read(offset, wanted)

    def _get_all(self, key: str) -> bytes:
        with self._translating("reading failed"):
            return bytes(obstore.get(self._store, key).bytes())

    def _get_range(self, key: str, offset: int, length: int, etag: str) -> bytes:
        """Of the object that was opened and of no later one (If-Match)."""
        if length == 0:
            return b""
        with self._translating("reading failed"):
            options = {"range": (offset, offset + length), **({"if_match": etag} if etag else {})}
            data = bytes(obstore.get(self._store, key, options=options).bytes())  # type: ignore[arg-type]
        if len(data) != length:
            raise ShortRead("the store sent fewer bytes than asked for", where=self.name)
        return data

    def stream(self, key: str, *, cold: bool = False, step_bytes: int = 8 << 20) -> Iterator[bytes]:
        """Every GET is cold: no cache of ours stands between."""
        came = 0
        with self._translating("reading failed"):
            result = obstore.get(self._store, _checked(key))
            size = result.meta["size"]
            for chunk in result.stream(min_chunk_size=step_bytes):
                came += len(chunk)
                yield bytes(chunk)
        if came != size:
            raise ShortRead(f"{came} of {size} bytes came", where=self.name)

    @contextmanager
    def open(self, key: str) -> Iterator[OpenObject]:
        checked = _checked(key)
        yield OpenObject(self, checked, self._head(checked))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        if prefix:
            _checked(prefix)
        with self._translating("listing failed"):
            for page in obstore.list(self._store, prefix=prefix or None):
                for meta in page:
                    if not meta["path"].startswith(CONTROL_PREFIX):
                        yield Entry(meta["path"], "file", _fingerprint(meta))

    # --- writing ----------------------------------------------------------------------------------

    def put(self, key: str, chunks: Iterable[bytes], *, size_bytes: int | None = None) -> None:
        self._prove_once()
        self._put(_checked(key), chunks, size_bytes=size_bytes)

    def attempt(self, key: str, *, size_bytes: int, resume: str = "") -> ObjectAttempt:
        self._prove_once()
        return ObjectAttempt(self, _checked(key), size_bytes)

    def remove(self, key: str) -> None:
        """S3 deletes what is not there without a word, so the object is asked for first."""
        self._prove_once()
        self._head(_checked(key))
        with self._translating("removing failed"):
            obstore.delete(self._store, key)

    def sweep_temporaries(self, prefix: str = "", *, older_than_s: float, now_s: float) -> int:
        """There are none under names. Parts of broken-off uploads end by the bucket's lifecycle rule
        (AbortIncompleteMultipartUpload): obstore cannot list them."""
        return 0

    def _put_own(self, key: str, chunks: Iterable[bytes], *, size_bytes: int) -> None:
        """Under a key that nobody else uses: where a small object stands already, the transport sent it twice
        because an answer was lost, and its bytes decide."""
        metered = _Metered(chunks, size_bytes, tier=self.name)
        try:
            self._put_metered(key, metered)
        except EntryExists:
            if not (metered.ended and self._landed(key, metered)):
                raise

    def _put(self, key: str, chunks: Iterable[bytes], *, size_bytes: int | None) -> None:
        self._put_metered(key, _Metered(chunks, size_bytes, tier=self.name))

    def _put_metered(self, key: str, metered: _Metered) -> None:
        coming = iter(metered)
        held: list[bytes] = []
        for chunk in coming:
            held.append(chunk)
            if metered.size_bytes > SMALL_BYTES:
                return self._put_large(key, chain(held, coming), metered)
        return self._put_small(key, b"".join(held))

    def _put_small(self, key: str, data: bytes) -> None:
        with self._translating("writing failed"):
            obstore.put(self._store, key, data, mode="create")

    def _put_large(self, key: str, chunks: Iterator[bytes], metered: _Metered) -> None:
        with suppress(EntryMissing):
            self._head(key)
            raise EntryExists("the name is taken", where=self.name)
        try:
            obstore.put(
                self._store,
                key,
                chunks,
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_IN_FLIGHT,
            )
        except OBSTORE_ERRORS as error:
            if metered.failure is not None:
                raise metered.failure from None
            if not (metered.ended and self._landed(key, metered)):
                raise _translated(error, "writing failed", tier=self.name) from None
        if metered.failure is not None:
            raise metered.failure

    def _landed(self, key: str, metered: _Metered) -> bool:
        """Whether an upload whose answer was lost is there, whole: bytes decide, not its absence of errors."""
        hasher, size = blake3(), 0
        try:
            for chunk in self.stream(key):
                hasher.update(chunk)
                size += len(chunk)
        except (TierError, ShortRead):
            return False
        return (size, hasher.hexdigest()) == (metered.size_bytes, metered.hexdigest())

    @contextmanager
    def _translating(self, what: str) -> Iterator[None]:
        try:
            yield
        except OBSTORE_ERRORS as error:
            raise _translated(error, what, tier=self.name) from None


class OpenObject:
    """An object opened once: later reads are of the same version or fail."""

    def __init__(self, tier: ObjectTier, key: str, fingerprint: Fingerprint) -> None:
        self._tier, self._key, self._fingerprint = tier, key, fingerprint
        self.zone: Zone = tier.zone

    @property
    def size_bytes(self) -> int:
        return self._fingerprint.size_bytes

    def fingerprint(self) -> Fingerprint:
        return self._tier._head(self._key)

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise StructureInvalid(f"read of {length} bytes at {offset} leaves the {self.size_bytes} bytes there are")
        return self._tier._get_range(self._key, offset, length, self._fingerprint.mark)


class ObjectAttempt:
    """One upload under a key that is never used again. Publishing is the caller's sidecar."""

    def __init__(self, tier: ObjectTier, key: str, size_bytes: int) -> None:
        self._tier, self._key, self._size = tier, key, size_bytes
        self._written = False

    def write(self, chunks: Iterable[bytes]) -> None:
        self._tier._put_own(self._key, chunks, size_bytes=self._size)
        self._written = True

    def seal(self) -> None:
        """A completed PUT is the store's promise of durability; there is nothing to sync."""

    def stream_cold(self) -> Iterator[bytes | memoryview]:
        yield from self._tier.stream(self._key, cold=True)

    def publish(self) -> None:
        """The object is there whole; it counts once the caller's sidecar vouches for it."""

    def abandon(self) -> None:
        if self._written:
            with suppress(TierError):  # an object without a sidecar is swept later
                self._tier.remove(self._key)
            self._written = False


class _Metered:
    """Chunks on their way up: counted, digested, and their own failure kept, because obstore reports an
    exception of the iterator as one of its own."""

    def __init__(self, chunks: Iterable[bytes], size_bytes: int | None, *, tier: str) -> None:
        self._chunks, self._announced, self._tier = chunks, size_bytes, tier
        self._hasher = blake3()
        self.size_bytes = 0
        self.ended = False
        self.failure: BaseException | None = None

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._chunks:
                self._hasher.update(chunk)
                self.size_bytes += len(chunk)
                yield chunk
            if self._announced not in (None, self.size_bytes):
                raise ShortRead(
                    f"{self.size_bytes} bytes came where {self._announced} were announced", where=self._tier
                )
            self.ended = True
        except GeneratorExit:
            raise
        except BaseException as error:
            self.failure = error
            raise


def _checked(key: str) -> str:
    beneath.key_parts(key)
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestInvalid("an object key that is not UTF-8") from None
    return key


def _fingerprint(meta: obstore.ObjectMeta) -> Fingerprint:
    mtime_ns = int(meta["last_modified"].timestamp() * 1_000_000) * 1000
    return Fingerprint(meta["size"], mtime_ns, meta.get("e_tag") or "")


def _translated(error: Exception, what: str, *, tier: str) -> Exception:
    """One table for obstore's errors. Its messages hold keys and URLs, so only our words go on."""
    match error:
        case s3.NotFoundError() | FileNotFoundError():
            return EntryMissing(f"{what}: no such object", where=tier)
        case s3.AlreadyExistsError():
            return EntryExists("the name is taken", where=tier)
        case s3.PreconditionError():
            return ChangedWhileReading("the object is no longer the one that was opened", where=tier)
        case s3.PermissionDeniedError() | s3.UnauthenticatedError():
            return TierDenied(f"{what}: the store refused the credentials", where=tier)
        case s3.InvalidPathError():
            return RequestInvalid("a key that the store does not take", where=tier)
    return TierUnavailable(f"{what}: the store answered with an error or not at all", where=tier)


def _connect(url: str, endpoint: str, region: str, credentials: Credentials, *, tier: str) -> S3Store:
    place = urlsplit(url)
    if place.scheme != "s3" or not place.netloc:
        raise SettingsInvalid("an object tier's url is s3://bucket or s3://bucket/prefix", where=tier)
    loopback = _is_loopback(endpoint)
    if endpoint and not loopback and urlsplit(endpoint).scheme != "https":
        raise SettingsInvalid("a plain-text endpoint beyond this machine", where=tier, hint="Use an https:// endpoint.")
    options: dict[str, object] = {
        "allow_http": loopback,
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": IDLE_TIMEOUT,
        "timeout": REQUEST_TIMEOUT,
    }
    if loopback:
        # An explicit proxy switches the environment's off, and the exclusion leaves it unused.
        options |= {"proxy_url": "http://127.0.0.1:9", "proxy_excludes": urlsplit(endpoint).hostname or ""}
    # Bodies are not signed: TLS (or loopback) guards them on their way, and what decides is the BLAKE3 of the cold
    # re-read. A SHA-256 of every byte took two thirds of the upload's processor time here.
    config = {"endpoint": endpoint, "session_token": credentials.session_token, "unsigned_payload": True}
    return S3Store(
        place.netloc,
        prefix=place.path.strip("/") or None,
        config={name: value for name, value in config.items() if value},  # type: ignore[arg-type]
        access_key_id=credentials.access_key_id,
        secret_access_key=credentials.secret_access_key,
        region=region,
        virtual_hosted_style_request=False,
        client_options=options,  # type: ignore[arg-type]
        retry_config={"max_retries": RESENDS, "retry_timeout": RESEND_TIMEOUT},
    )


def _is_loopback(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
