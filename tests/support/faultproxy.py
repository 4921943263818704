"""A proxy in front of a real store that does to chosen requests what networks and busy stores do.

    with FaultProxy(weed.endpoint) as proxy:
        tier = object_tier(weed, endpoint=proxy.endpoint)
        proxy.faults.append(Fault("cut_answer", method="GET", at=1000))

It speaks HTTP/1.1, hands headers on as they are (so signatures stay good), and holds one body in memory at a time.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal[
    "status",  # answered with `status` and an S3 error of `code`, and nothing reaches the store
    "cut_request",  # the store gets `at` bytes of the body, the caller a broken connection
    "cut_answer",  # the caller gets `at` bytes of the body, then a broken connection
    "flip_request",  # the byte at `at` of the body arrives wrong
    "flip_answer",  # the byte at `at` of the answer arrives wrong
    "stall",  # nothing comes for `seconds`, then the connection breaks
    "lose_answer",  # the store does it, the caller gets a broken connection
    "throttle",  # the answer comes at `rate_bytes_s`
    "error_body",  # the store does nothing; the caller gets 200 and an error as its body
]
PIECE = 64 << 10
ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>scripted</Message></Error>'


@dataclass
class Fault:
    """Befalls the first `times` requests (0: all) of this method whose path and query match."""

    kind: Kind
    method: str = ""
    match: str = ""
    times: int = 1
    at: int = 0
    status: int = 503
    code: str = "SlowDown"
    seconds: float = 0.0
    rate_bytes_s: int = 0
    befell: int = field(default=0, init=False)

    def meets(self, method: str, target: str) -> bool:
        wanted = self.method in ("", method) and re.search(self.match, target) is not None
        return wanted and (self.times == 0 or self.befell < self.times)


class FaultProxy:
    def __init__(self, upstream: str, *, certificate: Path | None = None) -> None:
        """`certificate`: a PEM file with key and certificate, for TLS towards the caller."""
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str]] = []  # method, path and query of everything that came
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy, self._server.upstream = self, urlsplit(upstream).netloc
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.endpoint = f"http{'s' if certificate else ''}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def fault_of(self, method: str, target: str) -> Fault | None:
        with self._lock:
            self.seen.append((method, target))
            for fault in self.faults:
                if fault.meets(method, target):
                    fault.befell += 1
                    return fault
        return None

    def count(self, method: str, match: str = "") -> int:
        return sum(1 for seen, target in self.seen if seen == method and re.search(match, target))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    proxy: FaultProxy
    upstream: str


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _any(self) -> None:
        fault = self.server.proxy.fault_of(self.command, self.path)
        kind = fault.kind if fault else ""
        if fault and kind == "status" and fault.status >= 500:
            self.close_connection = True  # a busy store does not wait for the body
            return self._answer(fault.status, ERROR.format(code=fault.code).encode())
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if fault and kind == "status":
            return self._answer(fault.status, ERROR.format(code=fault.code).encode())
        if fault and kind == "error_body":
            return self._answer(200, ERROR.format(code=fault.code).encode())
        if fault and kind == "stall":
            self.server.proxy.stopped.wait(fault.seconds)
            return self._break()
        if fault and kind == "cut_request":
            self._upstream(body[: fault.at], cut=True)
            return self._break()
        if fault and kind == "flip_request":
            body = _flipped(body, fault.at)
        status, headers, answer = self._upstream(body)
        if fault and kind == "lose_answer":
            return self._break()
        if fault and kind == "flip_answer":
            answer = _flipped(answer, fault.at)
        return self._pass_on(status, headers, answer, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any

    def _upstream(self, body: bytes, *, cut: bool = False) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            if cut:
                return 0, [], b""
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _pass_on(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: Fault | None) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("content-length", length)
        self.end_headers()
        if self.command != "HEAD":
            self._body(body, fault)

    def _body(self, body: bytes, fault: Fault | None) -> None:
        if fault and fault.kind == "cut_answer":
            self.wfile.write(body[: fault.at])
            return self._break()
        pace = PIECE / fault.rate_bytes_s if fault and fault.kind == "throttle" else 0.0
        for at in range(0, len(body), PIECE):
            self.wfile.write(body[at : at + PIECE])
            if pace and self.server.proxy.stopped.wait(pace):
                return None
        return None

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response_only(status)
        self.send_header("content-type", "application/xml")
        self.send_header("content-length", str(len(body)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _break(self) -> None:
        """Not a word more: the caller sees a broken connection."""
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # the caller went away, which is its good right

    def log_message(self, format: str, *args: object) -> None:
        return


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if at < len(data) else data
