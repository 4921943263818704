"""Who is at the other end of the connection, as the kernel tells it."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct

from aiohttp import web
from msgspec import Struct

_UCRED = struct.Struct("3i")


class PeerCredentials(Struct, frozen=True):
    pid: int
    uid: int
    gid: int


def peer_credentials(request: web.Request) -> PeerCredentials | None:
    """Of a Unix socket's peer at the time of its connect (SO_PEERCRED, unix(7)); None on TCP."""
    connection = _unix_socket(request)
    if connection is None:
        return None
    with connection:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return PeerCredentials(pid=pid, uid=uid, gid=gid)


def is_local(request: web.Request) -> bool:
    """Loopback or a Unix socket."""
    connection = _unix_socket(request)
    if connection is not None:
        connection.close()
        return True
    try:
        return ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        return False


def _unix_socket(request: web.Request) -> socket.socket | None:
    """A duplicate of our own end: event loops hand out wrappers that may refuse getsockopt."""
    transport = request.transport
    wrapped = transport.get_extra_info("socket") if transport is not None else None
    if wrapped is None or wrapped.family != socket.AF_UNIX:
        return None
    return socket.socket(fileno=os.dup(wrapped.fileno()))
