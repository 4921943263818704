"""What obstore cannot say to an S3 store: multipart uploads by their id, versions, locks. By aiobotocore.

One private event loop in a thread of its own serves all object tiers of the process. It carries questions and
answers only, a few hundred bytes each, and never a file's bytes: those go by presigned requests from the callers'
threads (`object_wire`). The callers block, like everything in this room; the daemon's own loop is not touched.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError
from msgspec import Struct

from mover.errors import EntryExists, EntryMissing, LimitExceeded, MoverError, TierUnavailable
from mover.model.tiers import LOCK_MODES, LockMode
from mover.tiers.credentials import Keyring, descriptions
from mover.tiers.object_errors import REFUSED, STALE_KEYS, of_answer
from mover.tiers.object_place import RESENDS, Place

CONNECTIONS_MAX = 16
CONNECT_TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 120  # a completion of ten thousand parts takes its time
CALL_TIMEOUT_S = 600
CLOSE_TIMEOUT_S = 5
LOOP_NAME = "object-control"
SMALL_READ_BYTES = 1 << 20
Result = TypeVar("Result")


class Upload(Struct, frozen=True):
    """A multipart upload that was neither completed nor aborted. `key` is the bucket's own."""

    key: str
    id: str
    begun_s: float


class Lock(Struct, frozen=True):
    """Until when the store keeps a version, and whether a special right may lift that (GOVERNANCE) or nobody
    (COMPLIANCE)."""

    mode: LockMode
    until: datetime


class Version(Struct, frozen=True):
    """One version of an object, or a marker that hides those before it. `key` is the bucket's own."""

    key: str
    id: str
    marker: bool
    latest: bool
    size_bytes: int = 0
    etag: str = ""


class Control:
    """Blocking calls about one bucket; keys are full keys, the prefix included."""

    def __init__(self, where: Place, keys: Keyring) -> None:
        self._where, self._keys = where, keys
        self._opened: list[Any] = []
        self._opening: asyncio.Lock | None = None
        weakref.finalize(self, _close, self._opened)  # when nobody asks any more, and at the end of the process

    # --- uploads --------------------------------------------------------------------------------------------

    def create(self, key: str) -> str:
        answer = self._ask("opening an upload failed", lambda c: c.create_multipart_upload(**self._of(key)))
        return str(answer["UploadId"])

    def parts(self, key: str, upload: str) -> dict[int, tuple[str, int]] | None:
        """number -> (etag, size); None when the store knows no such upload (any more). SeaweedFS lists a part that
        was sent twice twice, in no order: where the two differ, none counts, and it is sent once more."""
        found: dict[int, tuple[str, int]] = {}
        unclear: set[int] = set()
        try:
            for part in self._parts(key, upload):
                number, told = int(part["PartNumber"]), (str(part["ETag"]), int(part["Size"]))
                if found.setdefault(number, told) != told:
                    unclear.add(number)
        except EntryMissing:
            return None
        return {number: told for number, told in found.items() if number not in unclear}

    def grew_s(self, one: Upload) -> float:
        """When the upload last got a part, or was begun."""
        try:
            return max([one.begun_s, *(_seconds(part.get("LastModified")) for part in self._parts(one.key, one.id))])
        except EntryMissing:
            return one.begun_s

    def _parts(self, key: str, upload: str) -> Iterator[dict[str, Any]]:
        after = 0
        while True:
            asked = {**self._of(key), "UploadId": upload, "PartNumberMarker": after}
            page = self._ask("listing parts failed", partial(_list_parts, asked))
            yield from page.get("Parts", ())
            if not page.get("IsTruncated"):
                return
            after = _forward(int(page["NextPartNumberMarker"]), after, tier=self._where.tier)

    def complete(
        self, key: str, upload: str, parts: Sequence[tuple[int, str]], *, if_none_match: bool
    ) -> str:
        """The object's etag. EntryExists; EntryMissing when there is no such upload (any more); TierUnavailable when
        no answer came: then it may have happened."""
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in parts]
        asked = {**self._of(key), "UploadId": upload, "MultipartUpload": {"Parts": listed}}
        if if_none_match:
            asked["IfNoneMatch"] = "*"
        answer = self._ask("completing an upload failed", lambda c: c.complete_multipart_upload(**asked))
        return str(answer.get("ETag", ""))

    def abort(self, key: str, upload: str) -> None:
        """Harmless when it is gone."""
        try:
            self._ask(
                "ending an upload failed",
                lambda c: c.abort_multipart_upload(**self._of(key), UploadId=upload),
            )
        except EntryMissing:
            return

    def uploads(self, prefix: str) -> Iterator[Upload]:
        marker: dict[str, str] = {}
        while True:
            asked = {"Bucket": self._where.bucket, "Prefix": prefix, **marker}
            page = self._ask(
                "listing uploads failed", partial(_list_uploads, asked)
            )
            for one in page.get("Uploads", ()):
                yield Upload(str(one["Key"]), str(one["UploadId"]), _seconds(one.get("Initiated")))
            if not page.get("IsTruncated"):
                return
            ahead = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
            marker = _forward(ahead, marker, tier=self._where.tier)

    def level(self, prefix: str, *, pages: int) -> Iterator[dict[str, Any]]:
        """Raw pages of what stands directly below `prefix` (with its '/'). LimitExceeded after so many."""
        token: dict[str, str] = {}
        for _ in range(pages):
            asked = {"Bucket": self._where.bucket, "Prefix": prefix, "Delimiter": "/", **token}
            page = self._ask("listing failed", partial(_list_objects, asked))
            yield page
            if not page.get("IsTruncated"):
                return
            token = _forward({"ContinuationToken": page["NextContinuationToken"]}, token, tier=self._where.tier)
        raise LimitExceeded("too much stands directly below this prefix to be held", where=self._where.tier)

    # --- the bucket -----------------------------------------------------------------------------------------

    def keeps_versions(self) -> bool:
        answer = self._ask(
            "asking for versions failed", lambda c: c.get_bucket_versioning(Bucket=self._where.bucket)
        )
        return bool(answer.get("Status") == "Enabled")

    def locks_objects(self) -> bool:
        """Whether the bucket has a default retention that every new object inherits."""
        return self.default_mode() is not None

    def default_mode(self) -> LockMode | None:
        """How every new object of the bucket is locked; None where it is not."""
        asked = "asking for object lock failed"
        answer = self._ask(asked, lambda c: c.get_object_lock_configuration(Bucket=self._where.bucket))
        lock = answer.get("ObjectLockConfiguration", {})
        mode = lock.get("Rule", {}).get("DefaultRetention", {}).get("Mode")
        return mode if lock.get("ObjectLockEnabled") == "Enabled" and mode in LOCK_MODES else None

    def delete_version(self, key: str, version: str, *, bypass: bool = False) -> None:
        """`bypass` asks for the special right that lifts a GOVERNANCE lock: only a probe does."""
        more = {"BypassGovernanceRetention": True} if bypass else {}
        asked = {**self._of(key), "VersionId": version, **more}
        self._ask("removing a version failed", lambda c: c.delete_object(**asked))

    # --- locks ----------------------------------------------------------------------------------------------

    def locked(self, key: str, version: str = "") -> tuple[str, Lock | None]:
        """The version (the current one, when none is named) and its lock. EntryMissing."""
        asked = {**self._of(key), **({"VersionId": version} if version else {})}
        answer = self._ask("asking for a lock failed", lambda c: c.head_object(**asked))
        mode, until = answer.get("ObjectLockMode"), answer.get("ObjectLockRetainUntilDate")
        lock = Lock(mode, until.astimezone(UTC)) if mode in LOCK_MODES and until is not None else None
        return str(answer.get("VersionId", "")), lock

    def retain(self, key: str, version: str, lock: Lock, *, bypass: bool = False) -> None:
        """TierDenied where the store holds on to a stricter lock. `bypass`: only a probe asks so."""
        asked = {
            **self._of(key), "VersionId": version, "Retention": {"Mode": lock.mode, "RetainUntilDate": lock.until},
            **({"BypassGovernanceRetention": True} if bypass else {}),
        }  # fmt: skip
        self._ask("locking failed", lambda c: c.put_object_retention(**asked))

    def put_locked(self, key: str, data: bytes, lock: Lock) -> str:
        """A small object, whatever stands at the name: for probes. The id of its version."""
        asked = {
            **self._of(key), "Body": data, "ObjectLockMode": lock.mode, "ObjectLockRetainUntilDate": lock.until,
        }  # fmt: skip
        answer = self._ask("writing failed", lambda c: c.put_object(**asked))
        return str(answer.get("VersionId", ""))

    def read_version(self, key: str, version: str) -> bytes:
        """A small one."""
        asked = {**self._of(key), "VersionId": version}
        return bytes(self._ask("reading a version failed", partial(_get_object, asked)))

    def version_sha256(self, key: str, version: str) -> str:
        """Hex. The one call that carries a file's bytes on the private loop: of an object that was tampered with."""
        asked = {**self._of(key), "VersionId": version}
        return self._ask("reading a version failed", partial(_digest_object, asked))

    def copy_on_top(self, key: str, version: str) -> str:
        """The store makes an older version the current one, by a copy; the id of the copy."""
        source = {"Bucket": self._where.bucket, "Key": key, "VersionId": version}
        answer = self._ask("copying failed", lambda c: c.copy_object(**self._of(key), CopySource=source))
        return str(answer.get("VersionId", ""))

    def versions(self, prefix: str) -> Iterator[Version]:
        """Of every key below the prefix, newest first within a key."""
        marker: dict[str, str] = {}
        while True:
            asked = {"Bucket": self._where.bucket, "Prefix": prefix, **marker}
            page = self._ask("listing versions failed", partial(_list_versions, asked))
            found = [(one, False) for one in page.get("Versions", ())]
            found += [(one, True) for one in page.get("DeleteMarkers", ())]
            for one, is_marker in found:
                yield Version(
                    str(one["Key"]), str(one["VersionId"]), is_marker, bool(one.get("IsLatest")),
                    int(one.get("Size", 0)), str(one.get("ETag", "")),
                )  # fmt: skip
            if not page.get("IsTruncated"):
                return
            ahead = {"KeyMarker": str(page["NextKeyMarker"]), "VersionIdMarker": str(page["NextVersionIdMarker"])}
            marker = _forward(ahead, marker, tier=self._where.tier)

    def put_part(self, key: str, upload: str, data: bytes, *, crc32: str) -> str:
        """For the probe: a tiny first part with a checksum that may be wrong. Real parts go by `object_wire`."""
        asked = {**self._of(key), "UploadId": upload, "PartNumber": 1, "Body": data, "ChecksumCRC32": crc32}
        return str(self._ask("writing a part failed", lambda c: c.upload_part(**asked))["ETag"])

    # --- how ------------------------------------------------------------------------------------------------

    def _of(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._where.bucket, "Key": key}

    def _ask(self, what: str, call: Callable[[Any], Awaitable[Result]]) -> Result:
        keys = self._keys.current()
        try:
            return _run(self._called(call), tier=self._where.tier)
        except ClientError as error:
            status, code = _told(error)
            if not ((status in REFUSED or code in STALE_KEYS) and self._keys.renew(keys)):
                raise self._translated(error, what) from None
        except (BotoCoreError, OSError) as error:
            raise self._translated(error, what) from None
        try:
            return _run(self._called(call), tier=self._where.tier)
        except (ClientError, BotoCoreError, OSError) as error:
            raise self._translated(error, what) from None

    def _translated(self, error: Exception, what: str) -> MoverError:
        if not isinstance(error, ClientError):
            return TierUnavailable(
                f"{what}: the store answered with an error or not at all", where=self._where.tier
            )
        status, code = _told(error)
        if status == 412 or code in ("PreconditionFailed", "ConditionalRequestConflict"):
            return EntryExists("the name is taken", where=self._where.tier)
        if code in ("NoSuchUpload", "ObjectLockConfigurationNotFoundError"):
            status = 404
        return of_answer(status, code, what, tier=self._where.tier)

    async def _called(self, call: Callable[[Any], Awaitable[Result]]) -> Result:
        # between the two lines nothing else runs on the loop
        self._opening = self._opening or asyncio.Lock()
        async with self._opening:
            if not self._opened:
                self._opened.append(await self._open())
        return await call(self._opened[0])

    async def _open(self) -> Any:
        where = self._where
        session = AioSession()
        for name in ("config_file", "credentials_file"):
            session.set_config_variable(name, "/dev/null")  # only the settings say who we are
        session.register_component("credential_provider", _Provider(self._keys))
        session.register_component("data_loader", descriptions())
        made = session.create_client(
            "s3",
            region_name=where.region,
            endpoint_url=where.endpoint or None,
            verify=str(where.ca_file) if where.ca_file else True,
            config=_config(where),
        )
        return await made.__aenter__()


def _close(opened: list[Any]) -> None:
    """On the private loop, waited for by nobody but the end of the process."""
    if opened and not _LOOP.running().is_closed():
        closing = asyncio.run_coroutine_threadsafe(opened.pop().__aexit__(None, None, None), _LOOP.running())
        with suppress(TimeoutError, OSError):
            if threading.current_thread().name != LOOP_NAME:
                closing.result(CLOSE_TIMEOUT_S)


class _Keys(AioCredentials):
    """The tier's keyring, as botocore asks for keys before each signature."""

    def __init__(self, keys: Keyring) -> None:
        super().__init__("", "")
        self._keys = keys

    async def get_frozen_credentials(self) -> Any:
        from botocore.credentials import ReadOnlyCredentials

        found = await asyncio.to_thread(self._keys.current)
        return ReadOnlyCredentials(found.access_key_id, found.secret_access_key, found.session_token or None)


class _Provider:
    def __init__(self, keys: Keyring) -> None:
        self._keys = keys

    async def load_credentials(self) -> _Keys:
        return _Keys(self._keys)


async def _list_objects(asked: dict[str, Any], client: Any) -> Any:
    return await client.list_objects_v2(**asked)


async def _list_parts(asked: dict[str, Any], client: Any) -> Any:
    return await client.list_parts(**asked)


async def _list_versions(asked: dict[str, Any], client: Any) -> Any:
    return await client.list_object_versions(**asked)


async def _get_object(asked: dict[str, Any], client: Any) -> bytes:
    answer = await client.get_object(**asked)
    async with answer["Body"] as body:
        return bytes(await body.read(SMALL_READ_BYTES))


async def _list_uploads(asked: dict[str, Any], client: Any) -> Any:
    return await client.list_multipart_uploads(**asked)


async def _digest_object(asked: dict[str, Any], client: Any) -> str:
    answer, hasher = await client.get_object(**asked), sha256()
    async with answer["Body"] as body:
        while chunk := await body.read(SMALL_READ_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def _config(where: Place) -> AioConfig:
    proxy = where.proxy if not where.loopback else None
    return AioConfig(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=ANSWER_TIMEOUT_S,
        max_pool_connections=CONNECTIONS_MAX,
        retries={"total_max_attempts": RESENDS + 1, "mode": "standard"},
        proxies={scheme: f"http://{proxy}" for scheme in ("http", "https")} if proxy else {},
        signature_version="s3v4",
        s3={"addressing_style": where.addressing},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _told(error: ClientError) -> tuple[int, str]:
    answer: dict[str, Any] = dict(error.response)
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)), str(
        answer["Error"].get("Code", "")
    )


def _forward(ahead: Any, before: Any, *, tier: str) -> Any:
    """A listing that does not go on would never end."""
    if ahead == before:
        raise TierUnavailable("the store's listing does not go on", where=tier)
    return ahead


def _seconds(told: datetime | None) -> float:
    return told.timestamp() if told is not None else 0.0


# --- the private loop ---------------------------------------------------------------------------------------


class _Loop:
    """Begun at the first question of the process, in a daemon thread; never in a process that never asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: asyncio.AbstractEventLoop | None = None

    def running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._running is None:
                self._running = asyncio.new_event_loop()
                threading.Thread(target=self._running.run_forever, name=LOOP_NAME, daemon=True).start()
            return self._running


_LOOP = _Loop()


def _run(asked: Coroutine[Any, Any, Result], *, tier: str) -> Result:
    future = asyncio.run_coroutine_threadsafe(asked, _LOOP.running())
    try:
        return future.result(CALL_TIMEOUT_S)
    except TimeoutError:
        future.cancel()
        raise TierUnavailable("the store did not answer in time", where=tier) from None
