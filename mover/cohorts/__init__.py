"""Step 3: save, freeze and export selections of slides."""

from mover.cohorts.cohorts import Cohorts

__all__ = ["Cohorts"]
