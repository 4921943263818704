"""What a person would have to ask many rooms for: what needs somebody, how full and how fast tiers are, what works."""

from mover.oversight.levels import TURN_S
from mover.oversight.room import Oversight

__all__ = ["TURN_S", "Oversight"]
