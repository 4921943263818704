"""Policies held against what their tiers were found able to do, once the tiers are registered."""

from __future__ import annotations

from collections.abc import Mapping

from mover import policy as reader
from mover.decide.fitness import missing
from mover.errors import PolicyInvalid
from mover.model.tiers import Traits
from mover.policy import PolicyBook


def check_traits(policies: PolicyBook, traits: Mapping[str, Traits]) -> None:
    """PolicyInvalid with every policy that asks of a tier what it cannot do, by file:line:column. A tier whose probe
    says otherwise is mended (a bucket's lock or versions switched on) and the daemon started again."""
    mistakes = [
        reader.parse(one.text, file=one.file).mistake((key,), what)
        for one in policies.all()
        for key, what in missing(one.policy, traits)
    ]
    reader.refuse(mistakes, PolicyInvalid)
