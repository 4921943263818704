"""Policies as people change them: read, planned, agreed on, written into the folder, and followed while we run."""

from mover.policies.follow import Following, Means
from mover.policies.room import Choices, Policies

__all__ = ["Choices", "Following", "Means", "Policies"]
