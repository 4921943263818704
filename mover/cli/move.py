"""`mover move`: see `copy`."""

from __future__ import annotations

from mover.cli.copy import move as command

__all__ = ["command"]
