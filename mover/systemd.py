"""Tell systemd how we are (sd_notify(3)): ready, status, watchdog, stopping. Silent when nobody listens."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mover.clock import SYSTEM, end_if_cancelled

STATUS_LIMIT = 200
EXTEND_S = 120.0
PATIENCE_S = 5.0


class Notifier:
    """`address` is NOTIFY_SOCKET, from `settings.read_environment`; `@…` names an abstract socket."""

    def __init__(self, address: str | None) -> None:
        self._address = "\0" + address[1:] if address and address.startswith("@") else address

    @property
    def is_heard(self) -> bool:
        """Somebody started us who watches, and starts us again."""
        return self._address is not None

    def ready(self, status: str = "") -> None:
        """After the listeners are open: whatever is ordered after us may connect now."""
        self._send("READY=1", status)

    def status(self, text: str) -> None:
        """One line for `systemctl status`; no identifiers."""
        self._send("", text)

    def watchdog(self) -> None:
        """At least twice per WATCHDOG_USEC, and only by the loop that would notice a hang."""
        self._send("WATCHDOG=1", "")

    def stopping(self, status: str = "") -> None:
        self._send("STOPPING=1", status)

    @asynccontextmanager
    async def extended_start(self, status: str) -> AsyncIterator[None]:
        """Nothing done within is a failed start, however long it takes: a recovery of the database, its backup before
        a migration, waiting for its server."""
        self.status(status)
        extending = asyncio.create_task(self._extend(), name="longer start")
        try:
            yield
        finally:
            extending.cancel()

    async def _extend(self) -> None:
        while True:
            end_if_cancelled()
            self.extend_start(EXTEND_S)
            await SYSTEM.sleep(EXTEND_S / 2)

    def extend_start(self, more_s: float) -> None:
        self._send(f"EXTEND_TIMEOUT_USEC={int(more_s * 1e6)}", "")

    def _send(self, words: str, status: str) -> None:
        if not self._address:
            return
        lines = [words] if words else []
        if status:
            lines.append("STATUS=" + " ".join(status.split())[:STATUS_LIMIT])
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            # a manager that reads nothing for longer must not stop the loop that tells it
            channel.settimeout(PATIENCE_S)
            try:
                channel.sendto(os.fsencode("\n".join(lines)), self._address)
            except OSError:
                pass  # the service manager went away; our work does not depend on it


UNHEARD = Notifier(None)
