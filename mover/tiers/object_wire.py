"""The bytes of S3 objects by presigned requests from threads: parts up, ranges down, no event loop between.

Python's own HTTP client, because its socket calls give up the GIL and take and fill our buffers as they are: a part
is sent from a view of a mapped file, a range is received into the buffer it is written from. Measured on SeaweedFS:
0.35 CPU seconds per GB up and 0.60 down (written to a file), against 0.53 and 0.65 to 0.93 with obstore.

Every request here may be sent again: a part replaces itself, a range reads the version that was opened. So this
module re-sends a bounded number of times, for busy stores and broken connections, and continues a range where it
was cut. What is left of an error after that is raised in our words. A presigned URL is a key: it is never shown.
"""

from __future__ import annotations

import base64
import http.client
import ssl
import threading
import zlib
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import urlencode, urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from msgspec import Struct

from mover import metrics
from mover.clock import pause
from mover.errors import ShortRead, TierUnavailable
from mover.tiers.credentials import Credentials, Keyring
from mover.tiers.object_errors import AGAIN, REFUSED, SPOILED, STALE_KEYS, error_code, of_answer
from mover.tiers.object_place import CONNECT_TIMEOUT, IDLE_TIMEOUT, RESENDS, Place

IDLE_CONNECTIONS = 32
SEND_BYTES = 1 << 20  # one sendall: the socket's timeout is for each of them, not for the whole part
ANSWER_BYTES_MAX = 1 << 20
SIGNED_FOR_S = 3600
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
BROKEN = (OSError, http.client.HTTPException)


class Answer(Struct, frozen=True):
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes = b""
    filled: int = 0


class Wire:
    """Connections to one bucket. Any thread may call; each call has a connection of its own while it lasts."""

    def __init__(self, where: Place, keys: Keyring, *, sleep: Callable[[float], None] = pause) -> None:
        self._where, self._keys, self._sleep = where, keys, sleep
        base = urlsplit(where.bucket_url)
        self._origin = f"{base.scheme}://{base.netloc}"
        self._base_path = base.path
        self._tls = where.tls()
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []

    def put_part(self, key: str, upload: str, number: int, data: memoryview, *, checksum: bool) -> str:
        """The etag. `checksum`: the store rejects a body that does not match its CRC-32 (tried by the probe)."""
        headers = {"x-amz-checksum-crc32": crc32_text(data)} if checksum else {}
        query = {"partNumber": str(number), "uploadId": upload}
        answer = self.ask("PUT", key, query=query, headers=headers, body=data, what="writing a part failed")
        etag = answer.headers.get("etag", "")
        if not etag:
            raise TierUnavailable("the store gave no etag for a part", where=self._where.tier)
        return etag

    def read_into(self, key: str, offset: int, view: memoryview, *, etag: str) -> None:
        """Fill the view with the bytes at `offset` of the version with this etag. ChangedWhileReading, ShortRead."""
        at, tries = 0, 0
        while at < len(view):
            got = self._read_some(key, offset + at, view[at:], etag=etag)
            at, tries = at + got, 0 if got else tries + 1
            if tries > RESENDS:
                raise ShortRead("the store sent fewer bytes than asked for", where=self._where.tier)

    def _read_some(self, key: str, at: int, view: memoryview, *, etag: str) -> int:
        headers = {"range": f"bytes={at}-{at + len(view) - 1}", **({"if-match": etag} if etag else {})}
        answer = self.ask("GET", key, headers=headers, into=view, what="reading failed")
        if answer.status != HTTPStatus.PARTIAL_CONTENT and not _is_that_range(answer, at, len(view)):
            raise TierUnavailable("the store does not read ranges", where=self._where.tier)
        return answer.filled

    def ask(
        self,
        method: str,
        key: str,
        *,
        what: str,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: memoryview | None = None,
        into: memoryview | None = None,
    ) -> Answer:
        """A success, after resending what may be sent again; or an error of ours."""
        renewed = False
        for tries in range(RESENDS + 1):
            keys = self._keys.current()
            target = self._signed(method, key, query or {}, headers or {}, keys)
            answer = self._once(method, target, headers or {}, body, into)
            if answer is not None and answer.status < 300:
                return answer
            code = error_code(answer.body) if answer is not None else ""
            if answer is not None and not (answer.status in AGAIN or code in SPOILED):
                refused = answer.status in REFUSED or code in STALE_KEYS
                if renewed or not refused or not self._keys.renew(keys):
                    break
                renewed = True
                continue
            if tries < RESENDS:
                metrics.TIER_ERRORS.labels(self._where.tier, TierUnavailable.code).inc()
                self._sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**tries))
        if answer is None:
            raise TierUnavailable(f"{what}: the connection to the store broke", where=self._where.tier)
        raise of_answer(answer.status, code, what, tier=self._where.tier)

    def _signed(
        self, method: str, key: str, query: dict[str, str], headers: dict[str, str], keys: Credentials
    ) -> str:
        """Path and query of a presigned URL: AWS Signature Version 4, the payload unsigned. Headers that are sent
        are signed, which stores demand of `x-amz-*`."""
        url = self._origin + self._base_path + self._where.path_of(key)
        request = AWSRequest(method, f"{url}?{urlencode(query)}" if query else url, headers=headers)
        holder = ReadOnlyCredentials(keys.access_key_id, keys.secret_access_key, keys.session_token or None)
        S3SigV4QueryAuth(holder, "s3", self._where.region, expires=SIGNED_FOR_S).add_auth(request)
        return request.url.removeprefix(self._origin)

    # --- one try --------------------------------------------------------------------------------------------

    def _once(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: memoryview | None,
        into: memoryview | None,
    ) -> Answer | None:
        """None when the connection broke. An idle one that the store had closed meanwhile counts as none."""
        while True:
            connection, fresh = self._take()
            try:
                _send(connection, method, target, headers, body)
                answer, keep = _receive(connection, into)
            except BROKEN as error:
                connection.close()
                if fresh or isinstance(error, TimeoutError):
                    return None
                continue
            if keep:
                self._give(connection)
            else:
                connection.close()
            return answer

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            if self._idle:
                return self._idle.pop(), False
        return self._connection(), True

    def _connection(self) -> http.client.HTTPConnection:
        netloc = urlsplit(self._origin).netloc
        proxy = self._where.proxy if not self._where.loopback else None
        first = proxy or netloc
        made = (
            http.client.HTTPSConnection(first, timeout=CONNECT_TIMEOUT.total_seconds(), context=self._tls)
            if self._tls
            else http.client.HTTPConnection(first, timeout=CONNECT_TIMEOUT.total_seconds())
        )
        if proxy:
            made.set_tunnel(netloc)
        return made

    def _give(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def crc32_text(data: bytes | memoryview) -> str:
    """As `x-amz-checksum-crc32` wants it: base64 of four big-endian bytes."""
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: dict[str, str],
    body: memoryview | None,
) -> None:
    connection.putrequest(method, target, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("content-length", str(body.nbytes))
    connection.endheaders()
    assert connection.sock is not None
    connection.sock.settimeout(IDLE_TIMEOUT.total_seconds())
    if body is None:
        return
    flat = body.cast("B")
    try:
        for at in range(0, len(flat), SEND_BYTES):
            connection.sock.sendall(flat[at : at + SEND_BYTES])
    except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
        return  # a store that refuses early closes early: its answer may be waiting; if not, receiving fails


def _receive(connection: http.client.HTTPConnection, into: memoryview | None) -> tuple[Answer, bool]:
    """The answer, and whether the connection may serve again. A success's body goes into `into`, as far as it came."""
    with connection.getresponse() as response:
        headers = {name.lower(): value for name, value in response.getheaders()}
        if into is None or response.status >= 300:
            body = response.read(ANSWER_BYTES_MAX)
            return Answer(response.status, headers, body), not response.will_close and response.isclosed()
        filled = _fill(response, into)
        whole = response.length == 0 and not response.will_close
        return Answer(response.status, headers, b"", filled), whole


def _fill(response: http.client.HTTPResponse, into: memoryview) -> int:
    at = 0
    while at < len(into):
        try:
            count = response.readinto(into[at:])
        except BROKEN:
            break
        if not count:
            break
        at += count
    return at


def _is_that_range(answer: Answer, at: int, length: int) -> bool:
    """A plain 200 for the whole object, or one that says by Content-Range which bytes it gives (`rclone serve s3`)."""
    told = answer.headers.get("content-range", "")
    if told:
        return told.startswith(f"bytes {at}-{at + length - 1}/")
    return at == 0 and answer.headers.get("content-length") == str(length)
