"""Listening: the Unix socket for this machine, loopback TCP, and beyond loopback only with TLS.

An address that is taken, a path that is too long and half a TLS configuration are refused with what to do; a
socket left behind by a killed daemon is replaced, one that a living daemon answers on is not.

A certificate that is renewed is taken without a restart: whoever connects from then on is shown the new one, and what
is open goes on under the old.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
from pathlib import Path

from aiohttp import web
from cryptography import x509

from mover import metrics
from mover.api.limits import Limits
from mover.clock import SYSTEM, end_if_cancelled
from mover.errors import ConfigError, SettingsInvalid
from mover.log import get_logger
from mover.model import wire
from mover.settings import Listen, Tls, is_loopback

# sun_path of unix(7) holds 108 bytes, the last of them NUL
LONGEST_SOCKET_PATH = 107
SOCKET_MODE = 0o660
BACKLOG = 512
KEEPALIVE_S = 75.0
STOP_WITHIN_S = 10.0
HEADERS_AT_MOST = 64
# how soon a renewed certificate is shown
CERTIFICATE_S = 5.0

log = get_logger("listen")


class Server:
    """A served application; `urls` are for people and for the SDK, the local socket last."""

    def __init__(
        self, runner: web.AppRunner, urls: list[str], socket_path: Path | None, certificate: Certificate | None = None
    ) -> None:
        self._runner = runner
        self._socket_path = socket_path
        self._certificate = certificate
        self.urls = urls

    async def follow_certificate(self) -> None:
        """Until cancelled: a certificate that was renewed on disk is shown to whoever connects next."""
        while self._certificate is not None:
            end_if_cancelled()
            await asyncio.to_thread(self._certificate.follow)
            await SYSTEM.sleep(CERTIFICATE_S)
        await asyncio.Event().wait()

    async def take_certificate(self) -> wire.Reload:
        """Now: what was taken of the pair on disk, and why not."""
        if self._certificate is None:
            return wire.Reload(taken=[], restart=[], refused=[])
        took = await asyncio.to_thread(self._certificate.follow)
        problem = self._certificate.problem
        return wire.Reload(taken=["certificate"] if took else [], restart=[], refused=[problem] if problem else [])

    async def stop(self) -> None:
        """Takes no new connection, lets running requests end within STOP_WITHIN_S, then closes."""
        await self._runner.cleanup()
        if self._socket_path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._socket_path)


async def serve(app: web.Application, listen: Listen, *, limits: Limits | None = None) -> Server:
    """Raises SettingsInvalid before anything listens when the addresses cannot be had."""
    limits = limits or Limits()
    certificate = _certificate(listen)
    tls = None if certificate is None else certificate.context
    listeners = _open_listeners(listen)
    runner = web.AppRunner(
        app,
        access_log=None,  # our own line per request holds no path and no query
        logger=_quiet_logger(),
        keepalive_timeout=KEEPALIVE_S,
        max_line_size=limits.line_bytes,
        max_field_size=limits.header_bytes,
        max_headers=HEADERS_AT_MOST,
        auto_decompress=False,
        shutdown_timeout=STOP_WITHIN_S,
    )
    await runner.setup()
    urls = []
    for listener in listeners:
        local = listener.family == socket.AF_UNIX
        await web.SockSite(runner, listener, ssl_context=None if local else tls, backlog=BACKLOG).start()
        urls.append(_url(listener, tls))
    return Server(runner, urls, listen.unix, certificate)


def _open_listeners(listen: Listen) -> list[socket.socket]:
    """All or none."""
    opened: list[socket.socket] = []
    try:
        if listen.host is not None:
            opened.append(_tcp_socket(listen.host, listen.port or 0))
        if listen.unix is not None:
            opened.append(_unix_socket(os.path.abspath(listen.unix)))
    except ConfigError:
        for one in opened:
            one.close()
        raise
    if not opened:
        raise SettingsInvalid(
            "the daemon would listen nowhere", where="listen", hint="Name a `unix` socket or a `tcp` address."
        )
    return opened


def _tcp_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setblocking(False)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        hint = "Another program has this port; name another one, or 0 for any free one."
        if error.errno != errno.EADDRINUSE:
            hint = "Name an address of this machine; 127.0.0.1 always is one."
        raise SettingsInvalid(
            f"cannot listen on {host} port {port} ({os.strerror(error.errno or 0)})",
            where="listen",
            hint=hint,
        ) from error
    return listener


def check_socket_path(path: str) -> None:
    """Long checkout paths meet this limit first, so it is said before anything else is tried."""
    length = len(os.fsencode(path))
    if length > LONGEST_SOCKET_PATH:
        raise SettingsInvalid(
            f"the socket's path has {length} bytes, a socket's name ends at {LONGEST_SOCKET_PATH}",
            where="listen.unix",
            hint="Name a shorter path, such as /run/mover/mover.sock.",
        )


def _unix_socket(path: str) -> socket.socket:
    """Bound and narrowed to owner and group before it listens: until then nobody can connect."""
    check_socket_path(path)
    _remove_stale(path)
    Path(path).parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    try:
        listener.bind(path)
        os.chmod(path, SOCKET_MODE)
    except OSError as error:
        listener.close()
        raise SettingsInvalid(
            f"cannot make the local socket ({os.strerror(error.errno or 0)})", where="listen.unix",
            hint="Its folder must be writable by the daemon's user; something else may stand at its name.",
        ) from error  # fmt: skip
    return listener


def _remove_stale(path: str) -> None:
    """Only a socket nobody listens on is removed; a file of another kind is left for `bind` to stumble on."""
    if not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.settimeout(1.0)
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            raise SettingsInvalid(
                f"a socket stands there already ({os.strerror(error.errno or 0)})",
                where="listen.unix",
                hint="It may belong to another user; stop that daemon or name another path.",
            ) from error  # fmt: skip
    raise SettingsInvalid(
        "another daemon answers on this socket",
        where="listen.unix",
        hint="Stop it, or name another path.",
    )


class Certificate:
    """`context` is what listens; each handshake asks which certificate is the newest, so it is changed as a whole or
    not at all. Raises SettingsInvalid when it cannot be used at the start."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._mark = _mark(tls)
        self.problem = ""  # why the pair on disk is not shown
        self._newest, self._ends_at = _read(tls)
        self.context = self._newest
        self.context.sni_callback = self._choose  # called for clients that send no name, too
        self._measure()

    def follow(self) -> bool:
        """Blocking; whether there was a new one to take. One that cannot be used is said once; what was shown goes on
        to be shown, and the next change is tried: certificate and key are seldom written at once."""
        self._measure()
        mark = _mark(self._tls)
        if mark == self._mark:
            return False
        self._mark, self.problem = mark, ""
        try:
            self._newest, self._ends_at = _read(self._tls)
        except SettingsInvalid as error:
            log.warning("certificate not taken", code=error.code, what=error.what)
            self.problem = f"{error.what}. {error.advice}"
            return False
        self._measure()
        log.info("certificate taken")
        return True

    def _choose(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        connection.context = self._newest

    def _measure(self) -> None:
        metrics.CERTIFICATE_LEFT.set(self._ends_at - SYSTEM.now().timestamp())


def _mark(tls: Tls) -> tuple[tuple[int, int, int] | None, ...]:
    """Another one when a file was written, replaced or taken away."""
    return tuple(_stat(path) for path in (tls.certificate, tls.key))


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_size, seen.st_ino


def _read(tls: Tls) -> tuple[ssl.SSLContext, float]:
    """A context of these files, and when the certificate ends."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        shown = x509.load_pem_x509_certificates(tls.certificate.read_bytes())[0]
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SettingsInvalid(
            f"the certificate and key cannot be used ({type(error).__name__})", where="listen.tls",
            hint="Both must be PEM files that the daemon's user may read, and belong together.",
        ) from error  # fmt: skip
    return context, shown.not_valid_after_utc.timestamp()


def _certificate(listen: Listen) -> Certificate | None:
    if listen.tls is None:
        if listen.host is not None and not is_loopback(listen.host):
            raise SettingsInvalid(
                f"listening on {listen.host} needs TLS", where="listen.tcp",
                hint="Give `tls: {certificate, key}`, or listen on 127.0.0.1.",
            )  # fmt: skip
        return None
    return Certificate(listen.tls)


def _url(listener: socket.socket, tls: ssl.SSLContext | None) -> str:
    if listener.family == socket.AF_UNIX:
        return f"unix://{os.path.abspath(listener.getsockname())}"
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{shown}:{port}"


class _Mute(logging.Filter):
    """aiohttp's own complaints quote what a client sent; only the fact remains."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else "unknown"
        record.msg, record.args = f"http refused malformed input ({kind})", None
        record.exc_info, record.exc_text = None, None
        return True


def _quiet_logger() -> logging.Logger:
    logger = logging.getLogger("mover.api.http")
    if not any(isinstance(one, _Mute) for one in logger.filters):
        logger.addFilter(_Mute())
    return logger
