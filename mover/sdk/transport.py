"""One request to a daemon and its answer, or the daemon's own error rebuilt from its problem+json.

A broken connection says nothing about whether a request was carried out. So only requests that may be
repeated are (reads, and writes the daemon knows again by their key or their content), and only so many times.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, TypeVar, overload
from urllib.parse import urlsplit

import aiohttp
import msgspec
from msgspec import Struct

from mover.authority import believing, refusal
from mover.errors import MoverError, RequestError, ServiceUnreachable, SettingsInvalid, by_code
from mover.model import wire

T = TypeVar("T")

ATTEMPTS = 4
FIRST_PAUSE_S = 0.2
REQUEST_TIMEOUT_S = 60.0
CONNECTIONS = 16
STREAM_STEP_BYTES = 256 << 10
# what a proxy says while the daemon behind it starts again
GATEWAY = frozenset({502, 503, 504})


class Ask(Struct, frozen=True):
    """One request. `repeatable`: asked twice it does no more than asked once. `timeout_s` None waits as long
    as the connection lives (restoring and checking take what they take)."""

    method: str
    path: str
    query: dict[str, Any] = {}
    body: Any = None
    key: str = ""
    repeatable: bool = False
    timeout_s: float | None = REQUEST_TIMEOUT_S
    # for how long nothing may be heard on an open connection; and, of a stream, the event to go on after
    silence_s: float | None = None
    last_event: int = 0


class Transport:
    """`url` is http(s)://host:port or unix:///path/of/socket. `acts_for`: the uid in whose name a scheduler's token
    asks for runs. `project`: where it is not the token's, which only the local socket may say."""

    def __init__(
        self, url: str, *, token: str | None = None, ca_file: str | None = None, acts_for: int | None = None,
        project: str | None = None,
    ) -> None:  # fmt: skip
        self._url = urlsplit(url)
        self._shown = url
        self._token = token
        self._ca_file = ca_file
        self._acts_for = acts_for
        self._project = project
        self._session: aiohttp.ClientSession | None = None
        _refuse_open_secrets(url, token)
        if ca_file is not None and self._url.scheme == "http":
            raise SettingsInvalid("an authority is named for an address without TLS", where="url", hint="Use https://.")

    async def __aenter__(self) -> Transport:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @overload
    async def send(self, ask: Ask, answer: type[T]) -> T: ...
    @overload
    async def send(self, ask: Ask, answer: Any) -> Any: ...
    async def send(self, ask: Ask, answer: Any) -> Any:
        """The answer as `answer` (bytes and str come as they are), or the daemon's error, or
        ServiceUnreachable when it could not be asked."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._once(ask, answer)
            except aiohttp.ClientConnectorCertificateError as error:
                raise self._unreachable(ask, error) from error  # asked again, it shows the same
            except aiohttp.ClientConnectorError as error:
                # never sent: may always be tried again
                failure: Exception = error
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
                failure = error
                if not ask.repeatable:
                    break
            if attempt < ATTEMPTS:
                await asyncio.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
        raise self._unreachable(ask, failure) from failure

    async def _once(self, ask: Ask, answer: Any) -> Any:
        async with self._request(ask) as response:
            raw = await response.read()
            if response.status >= 300:
                raise rebuild(raw, status=response.status, media_type=response.content_type)
        if answer is bytes:
            return raw
        return raw.decode() if answer is str else msgspec.json.decode(raw, type=answer)

    async def stream(self, ask: Ask) -> AsyncIterator[bytes]:
        """A long answer piece by piece. Never repeated: the caller may have used the first pieces already."""
        try:
            async with self._request(ask) as response:
                if response.status >= 300:
                    raw = await response.read()
                    raise rebuild(raw, status=response.status, media_type=response.content_type)
                async for piece in response.content.iter_chunked(STREAM_STEP_BYTES):
                    yield piece
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
            raise self._unreachable(ask, error) from error

    def _request(self, ask: Ask) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._open().request(
            ask.method,
            self._base() + ask.path,
            params=_parameters(ask.query),
            data=None if ask.body is None else msgspec.json.encode(ask.body),
            headers=self._headers(ask),
            timeout=aiohttp.ClientTimeout(total=ask.timeout_s, sock_connect=10, sock_read=ask.silence_s),
            allow_redirects=False,
        )

    def _open(self) -> aiohttp.ClientSession:
        """Made on first use, inside the loop that will use it."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=self._connector(), trust_env=False)
        return self._session

    def _connector(self) -> aiohttp.BaseConnector:
        if self._url.scheme == "unix":
            return aiohttp.UnixConnector(path=self._url.path, limit=CONNECTIONS)
        if self._url.scheme == "https":
            return aiohttp.TCPConnector(limit=CONNECTIONS, ssl=believing(self._ca_file, where="--ca-file"))
        return aiohttp.TCPConnector(limit=CONNECTIONS)

    def _base(self) -> str:
        return "http://localhost" if self._url.scheme == "unix" else self._shown.rstrip("/")

    def _headers(self, ask: Ask) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if ask.body is not None:
            headers["Content-Type"] = "application/json"
        if ask.key:
            headers["Idempotency-Key"] = ask.key
        if ask.last_event:
            headers["Last-Event-ID"] = str(ask.last_event)
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if self._acts_for is not None:
            headers["Mover-Acts-For"] = str(self._acts_for)
        if self._project is not None:
            headers["Mover-Project"] = self._project
        return headers

    def _unreachable(self, ask: Ask, error: Exception) -> ServiceUnreachable:
        fate = "was not sent" if isinstance(error, aiohttp.ClientConnectorError) else "may have been carried out"
        refused = refusal(error)
        if refused is not None:
            what, hint = f"the daemon is not believed: {refused.what}; {ask.method} {fate}", refused.hint
            return ServiceUnreachable(what, where=self._shown, hint=f"{hint} It is named by --ca-file.")
        return ServiceUnreachable(
            f"no answer from the daemon ({type(error).__name__}); {ask.method} {fate}", where=self._shown
        )


def rebuild(raw: bytes, *, status: int, media_type: str) -> MoverError:
    """The error the daemon raised, as the class its code names."""
    if media_type != "application/problem+json":
        if status in GATEWAY:
            return ServiceUnreachable(f"a proxy answers {status} in the daemon's place")
        return RequestError(
            f"the answer {status} does not come from a mover daemon",
            hint="Check the URL; a proxy may have answered.",
        )
    problem = msgspec.json.decode(raw, type=wire.Problem)
    error = by_code(problem.code)(problem.detail, where=problem.where, hint=problem.hint, details=problem.details)
    if problem.request:
        error.add_note(f"request {problem.request}")
    return error


def _refuse_open_secrets(url: str, token: str | None) -> None:
    """A URL is understood whole or refused; a token never crosses a network in the clear."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "unix") or (parts.scheme == "unix" and not parts.path):
        raise SettingsInvalid(
            "a daemon's URL is http://, https:// or unix:///path",
            where="url",
            hint="Mend --url or MOVER_URL.",
        )
    if parts.username or parts.password:
        raise SettingsInvalid("a URL holds no secrets here", where="url", hint="Use a token file.")
    if token and parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise SettingsInvalid("a token is not sent over http beyond this machine", where="url", hint="Use https://.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parameters(query: dict[str, Any]) -> dict[str, str]:
    """Absent values are left out; truth is written as the API reads it."""
    said = {name: value for name, value in query.items() if value is not None and value is not False}
    return {name: "true" if value is True else str(value) for name, value in said.items()}
