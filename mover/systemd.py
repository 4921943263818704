"""Tell systemd how we are (sd_notify(3)): ready, status, watchdog, stopping. Silent when nobody listens."""

from __future__ import annotations

import os
import socket

STATUS_LIMIT = 200


class Notifier:
    """`address` is NOTIFY_SOCKET, from `settings.read_environment`; `@…` names an abstract socket."""

    def __init__(self, address: str | None) -> None:
        self._address = "\0" + address[1:] if address and address.startswith("@") else address

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

    def reload_begin(self, monotonic_us: int) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us}", "")

    def extend_start(self, more_s: float) -> None:
        """A long recovery of the database is not a failed start."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(more_s * 1e6)}", "")

    def _send(self, words: str, status: str) -> None:
        if not self._address:
            return
        lines = [words] if words else []
        if status:
            lines.append("STATUS=" + " ".join(status.split())[:STATUS_LIMIT])
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            try:
                channel.sendto(os.fsencode("\n".join(lines)), self._address)
            except OSError:
                pass  # the service manager went away; our work does not depend on it
