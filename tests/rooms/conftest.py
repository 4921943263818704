"""What a test of a room leaves in a repository is checked by stock restic."""

from __future__ import annotations

from tests.support.checked import damaged_on_purpose, every_repository_is_checked

__all__ = ["damaged_on_purpose", "every_repository_is_checked"]
