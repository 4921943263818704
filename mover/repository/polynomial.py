"""The chunker polynomial of a repository.

restic cuts with Rabin fingerprints over a random irreducible polynomial of degree 53 that every `config`
must carry. We cut with FastCDC, but write an honest polynomial, so that stock restic can back up into a
repository of ours; and we seed FastCDC's table with it, for the same reason restic draws it at random: cut
points must not tell which known file lies in a repository.
"""

from __future__ import annotations

from mover.randomness import random_bytes

DEGREE = 53


def new_polynomial() -> int:
    """One candidate in about 53 is irreducible."""
    while True:
        bits = int.from_bytes(random_bytes(8), "big") & ((1 << DEGREE) - 1)
        candidate = 1 << DEGREE | bits | 1
        if irreducible(candidate):
            return candidate


def irreducible(polynomial: int) -> bool:
    """Rabin's test over GF(2). 53 is prime, so the only proper divisor to look at is 1: the polynomial is
    irreducible exactly when it divides x^(2^53) - x and shares no factor with x^2 - x."""
    if polynomial.bit_length() != DEGREE + 1:
        return False
    power = 0b10
    for _ in range(DEGREE):
        power = _square_mod(power, polynomial)
    return power == 0b10 and _gcd(polynomial, 0b110) == 1


def _square_mod(value: int, modulus: int) -> int:
    squared = int("0".join(f"{value:b}"), 2)
    return _mod(squared, modulus)


def _mod(value: int, modulus: int) -> int:
    size = modulus.bit_length()
    while (length := value.bit_length()) >= size:
        value ^= modulus << (length - size)
    return value


def _gcd(one: int, other: int) -> int:
    while other:
        one, other = other, _mod(one, other)
    return one
