"""Mover: the right, de-identified, verified slides in the right place at the right time."""

__version__ = "0.1.0"
