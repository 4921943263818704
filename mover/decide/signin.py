"""How fast somebody may try to sign in: by address, by name and address, and by name alone.

Nobody is locked out for good. Whoever fails in one name from one place waits there, up to a minute. What fails in the
name of one account from everywhere slows new places down and refuses none; a place from where this account signed in
before is not slowed by it. What fails from one address in whatever names slows everybody there, for seconds: a whole
hospital may stand behind one. So an attacker holds back himself, and others for seconds.
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


def refused_for_s(failures: Failures, now_s: float) -> float:
    """How long until the next try in a name from a place is heard; 0 is now. Each failure beyond the free ones doubles
    it."""
    wait_s = _doubled(failures.now(now_s) - FREE, WAIT_MAX_S)
    return max(0.0, wait_s - (now_s - failures.at_s))


def slowed_by_s(name: Failures, address: Failures, now_s: float, *, known_place: bool) -> float:
    """How long a try stands still before it is judged."""
    by_address = _doubled(address.now(now_s) - FREE_OF_ADDRESS, SLOW_MAX_S)
    by_name = 0.0 if known_place else _doubled(name.now(now_s) - FREE_OF_NAME, SLOW_MAX_S)
    return max(by_address, by_name)


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
