"""The pages people look at: one HTML shell, and modules that ask the API like any other client."""

from mover.web.serve import mount

__all__ = ["mount"]
