"""What a person would have to ask many rooms for: what needs somebody, how full and how fast tiers are, what works."""

from mover.oversight.alarms import TURN_S as ALARMS_S
from mover.oversight.alarms import Alarms
from mover.oversight.answers import Answers
from mover.oversight.changes import Changes
from mover.oversight.cold import looked_at
from mover.oversight.levels import TURN_S
from mover.oversight.room import Oversight
from mover.oversight.standing import last, moving
from mover.oversight.tags import Tags

__all__ = ["ALARMS_S", "TURN_S", "Alarms", "Answers", "Changes", "Oversight", "Tags", "last", "looked_at", "moving"]
