"""The legal transitions of a run, as a table; docs/runs.md draws the same table and a test compares."""

from __future__ import annotations

from mover.errors import IllegalTransition

RUN: dict[str, tuple[str, ...]] = {
    "requested": ("admitted", "refused", "cancelled"),
    "admitted": ("staging", "cancelled", "failed"),
    "staging": ("sealed", "cancelled", "failed"),
    "sealed": ("ready", "cancelled", "failed"),
    # a lapsed lease goes the same way as a finish: to protection, never to deletion
    "ready": ("finishing",),
    "finishing": ("protecting", "ready"),
    # back to ready when protection was not whole: nothing is cleaned, the scientist may finish again
    "protecting": ("protected", "ready"),
    "protected": ("cleaning",),
    # back when the root could not be removed: the reason is on it, and cleaning is asked for again
    "cleaning": ("cleaned", "protected", "failed"),
    # a run that never became ready has nothing to protect; its partial root is removed
    "cancelled": ("cleaning",),
    "failed": ("cleaning",),
    "refused": (),
    "cleaned": (),
}

FINAL = frozenset({"refused", "cleaned", "cancelled", "failed"})

def check_transition(before: str, after: str, *, subject: str) -> None:
    """Raise IllegalTransition unless the table allows the step."""
    if after not in RUN.get(before, ()):
        allowed = ", ".join(RUN.get(before, ())) or "nothing"
        raise IllegalTransition(
            f"a run that is {before} cannot become {after}",
            where=subject,
            hint=f"From {before} it may become: {allowed}.",
        )
