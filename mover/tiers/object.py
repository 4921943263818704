"""A tier in a bucket: S3, Azure Blob, and Google (untested: no emulator works with obstore). Blocking calls.

Small objects, listings and streams go by obstore. Large objects of S3 go in parts that survive a kill
(`object_parts`), by presigned requests from threads (`object_wire`); questions that obstore cannot put, by
aiobotocore on a private loop (`object_control`). What a store really does is tried at registration (`object_probe`).

Keys are write-once. Small objects are put with If-None-Match; a multipart completion carries it where the probe found
it honoured. Elsewhere the name is asked for first, and the engine's attempt keys (`<number>/<attempt>/<name>`) are
never used twice, so a race cannot replace anything. A slide counts only once its sidecar, a small object, was put
conditionally after the cold re-read (design D14).

One request is re-sent by the transport a bounded number of times, because starting gigabytes anew for one 503 would
be foolish; operations are retried in `wrappers.RetryTier` only. A lost answer says nothing: the store is asked what
it has, and the bytes decide (about half had landed).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import obstore
from blake3 import blake3
from msgspec import Struct
from obstore import exceptions as s3

from mover.clock import pause
from mover.errors import (
    EntryExists,
    EntryMissing,
    LimitExceeded,
    RequestInvalid,
    SettingsInvalid,
    ShortRead,
    StructureInvalid,
    TierDenied,
    TierError,
    TierUnavailable,
)
from mover.log import get_logger
from mover.model.tiers import Entry, Fingerprint, TierKind, TierRole, Traits, Zone
from mover.settings import Addressing, Sts, Tier
from mover.tiers import beneath
from mover.tiers import identity as identities
from mover.tiers.credentials import (
    Credentials,
    FileSource,
    Keyring,
    Source,
    StsSource,
    check_credentials,
    read_credentials,
)
from mover.tiers.object_errors import OBSTORE_ERRORS, STALE_KEYS, of_obstore
from mover.tiers.object_place import Connection, Place, place
from mover.tiers.port import refuse_kept

if TYPE_CHECKING:
    from mover.tiers.object_control import Control
    from mover.tiers.object_parts import PartedUpload, Uploads
    from mover.tiers.object_wire import Wire

__all__ = [
    "Credentials",
    "ObjectAttempt",
    "ObjectTier",
    "OpenObject",
    "PartedAttempt",
    "check_credentials",
    "read_credentials",
]

SMALL_BYTES = 8 << 20
PARTED_FROM_BYTES = 32 << 20  # attempts below go in one piece of work, and are not worth a journal
PART_BYTES = 16 << 20
PARTS_IN_FLIGHT = 4
BEGINNING_BYTES = 256 << 10  # read with the opening
RANGE_BYTES = 8 << 20
RANGES_AHEAD = 4
# what every object has, and what copying programs hang on it: times and digests
EVERYBODYS_ATTRIBUTES = frozenset(
    "content-type content-encoding content-language cache-control mtime ctime atime md5chksum s3fs-mtime".split()
)
KEYS_HELD_S = 0.15  # obstore asks for keys at most ten times a second
LEVEL_PAGES = 64
CONTROL_PREFIX = ".mover/"
Result = TypeVar("Result")
logger = get_logger("tiers")


class Level(Struct, frozen=True):
    """What stands directly below a prefix: the prefixes of the next level, and the objects."""

    prefixes: tuple[str, ...]
    entries: tuple[Entry, ...]


_Names = list[str]  # `list` is the port's verb inside the tier
_Entries = list[Entry]


class ObjectTier:
    """The port over `s3://bucket/prefix`, `az://container/prefix` or `gs://bucket/prefix`."""

    kind: TierKind = "object"

    def __init__(
        self,
        name: str,
        zone: Zone,
        *,
        url: str,
        endpoint: str = "",
        region: str = "us-east-1",
        credentials_file: Path | str | None = None,
        sts: Sts | None = None,
        addressing: Addressing = "path",
        ca_file: Path | None = None,
        proxy: str | None = None,
        role: TierRole = "archive",
        read_only: bool = False,
        identity: str | None = None,
        deletes: bool = True,
    ) -> None:
        self.name, self.zone, self.role, self.read_only, self.deletes = name, zone, role, read_only, deletes
        self._identity = identity
        self._proved = False
        self._lock = threading.Lock()
        self.where = place(
            url,
            tier=name,
            endpoint=endpoint,
            region=region,
            addressing=addressing,
            ca_file=ca_file,
            proxy=proxy,
        )
        self._connection = _connect(self.where, Path(credentials_file) if credentials_file else None, sts)

    @classmethod
    def of(cls, tier: Tier, *, identity: str | None = None) -> ObjectTier:
        """As the settings say."""
        assert tier.url is not None  # the settings say so
        return cls(
            tier.name, tier.zone, url=tier.url, endpoint=tier.endpoint, region=tier.region,
            credentials_file=tier.credentials_file, sts=tier.sts, addressing=tier.addressing, ca_file=tier.ca_file,
            proxy=tier.proxy, role=tier.role, read_only=tier.read_only, identity=identity, deletes=tier.deletes,
        )  # fmt: skip

    # S3's own, each made when first asked for: botocore takes a third of a second to load.

    @cached_property
    def wire(self) -> Wire | None:
        if self._connection.keys is None:
            return None
        from mover.tiers.object_wire import Wire

        return Wire(self.where, self._connection.keys)

    @cached_property
    def control(self) -> Control | None:
        if self._connection.keys is None:
            return None
        from mover.tiers.object_control import Control

        return Control(self.where, self._connection.keys)

    @cached_property
    def _uploads(self) -> Uploads | None:
        if self.control is None or self.wire is None:
            return None
        from mover.tiers.object_parts import Uploads

        return Uploads(
            self.where, self.control, self.wire, traits=lambda: self.traits, head=self._head, remove=self._delete
        )

    # --- identity and traits ----------------------------------------------------------------------

    def check_identity(self) -> None:
        if self.read_only:
            return self._check_pin()
        try:
            found = identities.decode(self._get_all(identities.IDENTITY_KEY), tier=self.name)
        except EntryMissing:
            raise TierUnavailable("the bucket carries no tier identity", where=self.name) from None
        identities.compare(found, name=self.name, zone=self.zone, identity=self._identity)
        self._refuse_unfit()
        self._proved = True
        return None

    def establish(self) -> str:
        """Register: probe, then write the identity or accept the same one; its identity text. Nothing is written to
        a read-only bucket: its address is its identity, and it must let itself be listed."""
        if self.where.scheme == "gs":
            logger.warning("tier kind untested", tier=self.name, kind="gs")
        if self.read_only:
            self._check_pin()
            return self._pin()
        self._refuse_unfit()
        made = identities.new_identity(self.name, self.zone)
        try:
            self.put_small(identities.IDENTITY_KEY, identities.encode(made))
        except EntryExists:
            found = identities.decode(self._get_all(identities.IDENTITY_KEY), tier=self.name)
            return identities.same_or_conflict(found, name=self.name, zone=self.zone)
        return f"id:{made.id}"

    def _pin(self) -> str:
        where = self.where
        service = where.service if where.scheme == "s3" else where.endpoint
        return f"pin:{where.scheme} {service} {where.bucket}/{where.prefix}"

    def _check_pin(self) -> None:
        if self._identity not in (None, self._pin()):
            raise TierUnavailable("another bucket than the one that was registered", where=self.name)
        self._call(
            "listing failed", lambda: next(iter(obstore.list(self._connection.store, chunk_size=1)), None)
        )

    @cached_property
    def traits(self) -> Traits:
        return self.probe()

    def probe(self) -> Traits:
        """What this store really does. A read-only one is asked nothing that writes."""
        if self.read_only:
            return Traits()
        from mover.tiers import object_probe  # brings botocore, which takes a third of a second to load

        return object_probe.probe(self, self.where, self.control, folder=CONTROL_PREFIX)

    def _refuse_unfit(self) -> None:
        if self.role == "archive" and not self.traits.conditional_put:
            raise TierDenied(
                "the store accepts a second conditional put of one key, so it cannot be an archive",
                where=self.name,
                hint="Use a store that honours If-None-Match on PUT.",
            )

    def _prove_once(self) -> None:
        if self.read_only:
            raise TierDenied("the tier may only be read", where=self.name)
        if not self._proved:
            with self._lock:
                if not self._proved:
                    self.check_identity()

    # --- reading ----------------------------------------------------------------------------------

    def stat(self, key: str) -> Entry:
        return Entry(key, "file", self._head(_checked(key)))

    def _head(self, key: str) -> Fingerprint:
        return _fingerprint(self._call("stat failed", lambda: obstore.head(self._connection.store, key)))

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        if length is None and offset == 0:
            return self._get_all(_checked(key))
        with self.open(key) as source:
            wanted = source.size_bytes - offset if length is None else length
            if offset < 0 or wanted < 0 or offset + wanted > source.size_bytes:
                raise ShortRead("the object does not hold the bytes asked for", where=self.name)
            return source.read(offset, wanted)

    def _get_all(self, key: str) -> bytes:
        return self._call("reading failed", lambda: bytes(obstore.get(self._connection.store, key).bytes()))

    def get_range(self, key: str, offset: int, length: int, etag: str = "") -> bytes:
        """Of the object that was opened and of no later one (If-Match)."""
        if length == 0:
            return b""
        options = {"range": (offset, offset + length), **({"if_match": etag} if etag else {})}
        data = self._call(
            "reading failed",
            lambda: bytes(obstore.get(self._connection.store, key, options=options).bytes()),  # type: ignore[arg-type]
        )
        if len(data) != length:
            raise ShortRead("the store sent fewer bytes than asked for", where=self.name)
        return data

    def attributes(self, key: str) -> tuple[str, ...]:
        """Names of what somebody hung on the object, and a file name told to browsers; what every object has, and the
        times that copying programs keep, are nobody's."""
        result = self._call("reading failed", lambda: obstore.get(self._connection.store, key, options={"head": True}))
        return tuple(sorted(name for name in map(str, result.attributes) if name.lower() not in EVERYBODYS_ATTRIBUTES))

    def read_into(self, key: str, offset: int, view: memoryview, etag: str) -> None:
        """Fill the view, by the shortest way there is."""
        if self.wire is not None:
            self.wire.read_into(key, offset, view, etag=etag)
        else:
            view[:] = self.get_range(key, offset, len(view), etag)

    def stream(self, key: str, *, cold: bool = False, step_bytes: int = 8 << 20) -> Iterator[bytes]:
        """Every GET is cold: no cache of ours stands between."""
        came = 0
        checked = _checked(key)
        result = self._call("reading failed", lambda: obstore.get(self._connection.store, checked))
        size = result.meta["size"]
        with self._translating("reading failed"):
            for chunk in result.stream(min_chunk_size=step_bytes):
                came += len(chunk)
                yield bytes(chunk)
        if came != size:
            raise ShortRead(f"{came} of {size} bytes came", where=self.name)

    def views(self, key: str) -> Iterator[memoryview]:
        """The content in order, several ranges ahead; a view is valid until the next one is asked for. At most
        RANGES_AHEAD + 1 ranges are in memory."""
        with self.open(key) as source, ThreadPoolExecutor(RANGES_AHEAD, thread_name_prefix="range") as pool:
            free = deque(
                memoryview(bytearray(min(RANGE_BYTES, source.size_bytes))) for _ in range(RANGES_AHEAD + 1)
            )
            coming: deque[tuple[Future[None], memoryview, int]] = deque()
            at = 0
            while at < source.size_bytes or coming:
                while free and at < source.size_bytes:
                    view, count = free.popleft(), min(RANGE_BYTES, source.size_bytes - at)
                    coming.append((pool.submit(source.read_into, at, view[:count]), view, count))
                    at += count
                future, view, count = coming.popleft()
                future.result()
                yield view[:count]
                free.append(view)

    @contextmanager
    def open(self, key: str) -> Iterator[OpenObject]:
        """One request: an object's first bytes say as well what a HEAD would, and are all of a small one."""
        checked = _checked(key)
        yield OpenObject(self, checked, *self._beginning(checked))

    def _beginning(self, key: str) -> tuple[Fingerprint, bytes]:
        try:
            result = obstore.get(self._connection.store, key, options={"range": (0, BEGINNING_BYTES)})
            return _fingerprint(result.meta), bytes(result.bytes())
        except OBSTORE_ERRORS:  # it is empty (416), or whatever the plain question then says
            return self._head(key), b""

    # --- listing ----------------------------------------------------------------------------------

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
        """In the order of the keys' bytes on S3, so that a broken-off listing goes on `after` its last key. The tier's
        own folder is listed only to who names it."""
        if prefix:
            _checked(prefix)
        hidden = "\0" if f"{prefix}/".startswith(CONTROL_PREFIX) else CONTROL_PREFIX
        with self._translating("listing failed"):
            pages = obstore.list(self._connection.store, prefix=prefix or None, offset=after or None)
            for page in pages:
                for meta in page:
                    # Azurite gives keys from before the offset as well
                    if meta["path"] > after and not meta["path"].startswith(hidden):
                        yield Entry(meta["path"], "file", _fingerprint(meta))

    def level(self, prefix: str = "") -> Level:
        """Directly below the prefix, by the store's own delimiter: for finding the shards of a parallel listing from
        the top. What is below a returned prefix is listed with `list(that prefix)`. LimitExceeded when more than
        LEVEL_PAGES thousand stand there: then it is no level to shard by."""
        if prefix:
            _checked(prefix)
        names, entries = self._level(prefix) if self.control is None else self._level_by_pages(prefix)
        ours = CONTROL_PREFIX.rstrip("/")
        return Level(
            tuple(sorted(name for name in names if name != ours)),
            tuple(entry for entry in entries if not entry.key.startswith(CONTROL_PREFIX)),
        )

    def _level_by_pages(self, prefix: str) -> tuple[_Names, _Entries]:
        assert self.control is not None
        names: _Names = []
        entries: _Entries = []
        cut = len(self.where.full_key(""))
        below = self.where.full_key(f"{prefix}/" if prefix else "")
        for page in self.control.level(below, pages=LEVEL_PAGES):
            names += [one["Prefix"][cut:].rstrip("/") for one in page.get("CommonPrefixes", ())]
            for one in page.get("Contents", ()):
                mtime_ns = int(one["LastModified"].timestamp() * 1_000_000) * 1000
                entries.append(Entry(one["Key"][cut:], "file", Fingerprint(one["Size"], mtime_ns, one["ETag"])))
        return names, entries

    def _level(self, prefix: str) -> tuple[_Names, _Entries]:
        found = self._call(
            "listing failed", lambda: obstore.list_with_delimiter(self._connection.store, prefix=prefix or None)
        )
        names = [name.rstrip("/") for name in found["common_prefixes"]]
        if len(names) + len(found["objects"]) > LEVEL_PAGES * 1000:
            raise LimitExceeded("too much stands directly below this prefix to be held", where=self.name)
        return names, [Entry(meta["path"], "file", _fingerprint(meta)) for meta in found["objects"]]

    def prefixes(self, prefix: str = "") -> _Names:
        """The next level's prefixes, without '/' at their ends: each can be listed by its own thread."""
        return [*self.level(prefix).prefixes]

    # --- writing ----------------------------------------------------------------------------------

    def put(self, key: str, chunks: Iterable[bytes], *, size_bytes: int | None = None) -> None:
        self._prove_once()
        self._put_metered(_checked(key), _Metered(chunks, size_bytes, tier=self.name))

    def attempt(self, key: str, *, size_bytes: int, resume: str = "") -> ObjectAttempt:
        """A `PartedAttempt` (it has `put_part`) where the store and the size are fit for it."""
        self._prove_once()
        checked = _checked(key)
        if size_bytes >= PARTED_FROM_BYTES and self._uploads is not None and self.traits.multipart:
            from mover.tiers.object_parts import PartedUpload

            return PartedAttempt(
                self, checked, size_bytes, PartedUpload(self._uploads, checked, resume=resume)
            )
        return ObjectAttempt(self, checked, size_bytes)

    def remove(self, key: str) -> None:
        refuse_kept(self)
        self.tidy(key)

    def tidy(self, key: str) -> None:
        """S3 deletes what is not there without a word, so the object is asked for first."""
        self._prove_once()
        self._head(_checked(key))
        self._delete(key)

    def _delete(self, key: str) -> None:
        self._call("removing failed", lambda: obstore.delete(self._connection.store, key))

    delete = _delete  # for the probe

    def sweep_temporaries(self, prefix: str = "", *, older_than_s: float, now_s: float) -> int:
        """Abort uploads that killed attempts left below the tier's own prefix. A source's are its writers'. Azure
        drops blocks that no list names after a week by itself."""
        if self.role == "source" or self._uploads is None:
            return 0
        self._prove_once()
        return self._uploads.sweep(prefix, idle_since_s=now_s - older_than_s)

    def _put_own(self, key: str, chunks: Iterable[bytes], *, size_bytes: int) -> None:
        """Under a key that nobody else uses: where a small object stands already, the transport sent it twice
        because an answer was lost, and its bytes decide."""
        metered = _Metered(chunks, size_bytes, tier=self.name)
        try:
            self._put_metered(key, metered)
        except EntryExists:
            if not (metered.ended and self._landed(key, metered)):
                raise

    def _put_metered(self, key: str, metered: _Metered) -> None:
        coming = iter(metered)
        held: list[bytes] = []
        for chunk in coming:
            held.append(chunk)
            if metered.size_bytes > SMALL_BYTES:
                return self._put_large(key, chain(held, coming), metered)
        self.put_small(key, b"".join(held))
        return None

    def put_small(self, key: str, data: bytes) -> str:
        """One request. The version's id where the bucket keeps versions, or ""."""
        put = self._call(
            "writing failed", lambda: obstore.put(self._connection.store, key, data, mode="create")
        )
        return put.get("version") or ""

    def _put_large(self, key: str, chunks: Iterator[bytes], metered: _Metered) -> None:
        self._refuse_taken(key)
        if self._uploads is None or not self.traits.multipart:
            return self._put_by_obstore(key, chunks, metered)
        from mover.tiers.object_parts import PartedUpload, put_in_parts

        upload = PartedUpload(self._uploads, key)
        try:
            put_in_parts(upload, chunks)
        except BaseException:
            upload.abandon()
            raise
        if upload.unproved and not self._landed(key, metered):
            raise EntryExists("the name is taken", where=self.name)
        return None

    def _refuse_taken(self, key: str) -> None:
        with suppress(EntryMissing):
            self._head(key)
            raise EntryExists("the name is taken", where=self.name)

    def _put_by_obstore(self, key: str, chunks: Iterator[bytes], metered: _Metered) -> None:
        """Azure's block lists, Google's multipart: not conditional there, not resumable."""
        try:
            obstore.put(
                self._connection.store,
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
                raise of_obstore(error, "writing failed", tier=self.name) from None
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

    def _call(self, what: str, ask: Callable[[], Result]) -> Result:
        """One question by obstore; asked again once when new keys have come since they were refused."""
        held = self._connection.held()
        try:
            return ask()
        except OBSTORE_ERRORS as error:
            if not (_refused(error) and self._connection.renew(held)):
                raise of_obstore(error, what, tier=self.name) from None
        pause(KEYS_HELD_S)
        with self._translating(what):
            return ask()

    @contextmanager
    def _translating(self, what: str) -> Iterator[None]:
        try:
            yield
        except OBSTORE_ERRORS as error:
            raise of_obstore(error, what, tier=self.name) from None


class OpenObject:
    """An object opened once: later reads are of the same version or fail."""

    def __init__(self, tier: ObjectTier, key: str, fingerprint: Fingerprint, beginning: bytes = b"") -> None:
        self._tier, self._key, self._fingerprint, self._beginning = tier, key, fingerprint, beginning
        self.zone: Zone = tier.zone

    @property
    def size_bytes(self) -> int:
        return self._fingerprint.size_bytes

    def fingerprint(self) -> Fingerprint:
        """Of the version that every read is bound to by its etag: another one cannot have been read, so the store is
        asked again only where it gives no etags."""
        return self._fingerprint if self._fingerprint.mark else self._tier._head(self._key)

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise StructureInvalid(
                f"read of {length} bytes at {offset} leaves the {self.size_bytes} bytes there are"
            )
        if offset + length <= len(self._beginning):
            return self._beginning[offset : offset + length]
        return self._tier.get_range(self._key, offset, length, self._fingerprint.mark)

    def attributes(self) -> tuple[str, ...]:
        return self._tier.attributes(self._key)

    def read_into(self, offset: int, view: memoryview) -> None:
        """As `read`, into the caller's buffer: from any thread, several at once."""
        if offset < 0 or offset + len(view) > self.size_bytes:
            raise StructureInvalid(
                f"read of {len(view)} bytes at {offset} leaves the {self.size_bytes} there are"
            )
        if offset + len(view) <= len(self._beginning):
            view[:] = self._beginning[offset : offset + len(view)]
        elif len(view):
            self._tier.read_into(self._key, offset, view, self._fingerprint.mark)


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
        if self._size >= 2 * RANGE_BYTES:
            yield from self._tier.views(self._key)
        else:
            yield from self._tier.stream(self._key, cold=True)

    def publish(self) -> None:
        """The object is there whole; it counts once the caller's sidecar vouches for it."""

    def stand(self) -> None:
        """What was put whole is not removed by `abandon`: it stands under its final name, where whoever took the
        work over after a lost lease may have found it, read it and vouched for it."""
        self._written = False

    def abandon(self) -> None:
        if self._written:
            with suppress(TierError):  # an object without a sidecar is swept later
                self._tier.tidy(self._key)
            self._written = False


class PartedAttempt(ObjectAttempt):
    """As well in parts that survive a kill: `tiers.staging.MultipartAttempt`."""

    def __init__(self, tier: ObjectTier, key: str, size_bytes: int, upload: PartedUpload) -> None:
        super().__init__(tier, key, size_bytes)
        self._upload = upload

    @property
    def part_bytes(self) -> int:
        from mover.tiers.object_parts import part_bytes

        return part_bytes(self._size)

    @property
    def unproved(self) -> bool:
        """After `complete`: something stands under the key that may be ours, and only its bytes can tell."""
        return self._upload.unproved

    def begin(self) -> str:
        return self._upload.begin()

    def put_part(self, number: int, data: bytes | memoryview) -> str:
        return self._upload.put_part(number, data)

    def parts(self) -> dict[int, tuple[str, int]]:
        return self._upload.parts()

    def complete(self, parts: Sequence[tuple[int, str]], *, if_none_match: bool = True) -> None:
        self._upload.complete(parts, if_none_match=if_none_match)

    def stand(self) -> None:
        super().stand()
        self._upload.stand()

    def abandon(self) -> None:
        self._upload.abandon()
        super().abandon()


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


def _refused(error: Exception) -> bool:
    """An expired token is a 400 whose code only the text holds."""
    denied = isinstance(error, s3.PermissionDeniedError | s3.UnauthenticatedError)
    return denied or any(code in str(error) for code in STALE_KEYS)


def _connect(where: Place, file: Path | None, sts: Sts | None) -> Connection:
    if where.scheme != "s3":
        if file is None:
            raise SettingsInvalid("the tier's keys stand in a file", where=where.tier)
        return Connection(where, None, file)
    if (file is None) == (sts is None):
        raise SettingsInvalid("an S3 tier's keys come from a file or from STS", where=where.tier)
    if file is not None:
        read_credentials(file)  # half a file is said now, not at the first request
    source: Source = (
        FileSource(file)
        if file is not None
        else StsSource(sts, region=where.region, ca_file=where.ca_file, proxy=where.proxy, tier=where.tier)  # type: ignore[arg-type]
    )
    return Connection(where, Keyring(source), file)
