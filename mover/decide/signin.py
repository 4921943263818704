"""How fast somebody may try to sign in: by address, by name and address, and by name alone.

Nobody is locked out for good. Whoever fails from one place waits there, up to a minute. What fails in the name of one
account from everywhere slows new places down and refuses none; a place from where this account signed in before is
not slowed at all. So an attacker with many addresses holds back himself, and for seconds somebody on a new computer.
"""

from __future__ import annotations

from msgspec import Struct

# failures that cost nothing: people mistype
FREE = 5
WAIT_MAX_S = 60.0
SLOW_MAX_S = 8.0
# one failure is forgiven for each
FORGIVEN_S = 60.0
# a hospital's people stand behind one address
FREE_OF_ADDRESS = 50
FREE_OF_NAME = 10


class Failures(Struct, frozen=True):
    """How many there were, and when the last one was."""

    count: float = 0.0
    at_s: float = 0.0

    def now(self, now_s: float) -> float:
        return max(0.0, self.count - max(0.0, now_s - self.at_s) / FORGIVEN_S)

    def one_more(self, now_s: float) -> Failures:
        return Failures(self.now(now_s) + 1, now_s)


def refused_for_s(failures: Failures, now_s: float, *, free: int = FREE) -> float:
    """How long until the next try is heard; 0 is now. Each failure beyond the free ones doubles it."""
    wait_s = _doubled(failures.now(now_s) - free, WAIT_MAX_S)
    return max(0.0, wait_s - (now_s - failures.at_s))


def slowed_by_s(failures: Failures, now_s: float, *, known_place: bool) -> float:
    """How long a try in a name that much is failed in stands still before it is judged."""
    return 0.0 if known_place else _doubled(failures.now(now_s) - FREE_OF_NAME, SLOW_MAX_S)


def why_not_password(name: str, password: str) -> str:
    """Length is what counts (NIST SP 800-63B, 5.1.1); beyond it only what is no secret at all is refused."""
    if len(set(password)) < 5:
        return "a password of so few different letters is none"
    return "the password holds the name" if name.lower() in password.lower() else ""


def worth_a_record(count: int) -> bool:
    """Refusals are counted, not written one by one: a record at 5, 50, 500 … says enough and fills nothing."""
    return count in (5, 50, 500, 5_000, 50_000, 500_000)


def _doubled(beyond: float, most_s: float) -> float:
    return 0.0 if beyond < 0 else min(most_s, 2.0 ** min(beyond, 20.0))
