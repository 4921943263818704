"""What a person would have to ask many rooms for: what needs somebody, how full and how fast tiers are, what works."""

from mover.oversight.alarms import TURN_S as ALARMS_S
from mover.oversight.alarms import Alarms
from mover.oversight.changes import Changes
from mover.oversight.levels import TURN_S
from mover.oversight.room import Oversight

__all__ = ["ALARMS_S", "TURN_S", "Alarms", "Changes", "Oversight"]
