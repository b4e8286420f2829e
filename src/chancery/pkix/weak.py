"""
RSA keys that anybody can factor or knows already (R5; CA/Browser Forum BR 6.1.1.3): ROCA, close primes, lists.

Measured on honest RSA-2048 keys: 20 us for ROCA and close primes together, 10 us to look into 200000 listed keys.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import math
import re
from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric import rsa

from chancery.errors import ErrorType, OperatorError, PKIError

KEY_COMPROMISED = "this key was reported compromised, and is never certified again (R5)"
FERMAT_ROUNDS = 100
_GENERATOR = 65537
# The first 39 primes without 2; every size of the vulnerable keys uses at least these (Nemec et al., table 1).
_ROCA_PRIMES = tuple(q for q in range(3, 168) if all(q % d for d in range(2, q)))
_ROCA_PRODUCT = math.prod(_ROCA_PRIMES)
_SIEVE = 55440  # 2^4 3^2 5 7 11: one number in 48 is a square modulo all of them
_SQUARES = frozenset(n * n % _SIEVE for n in range(_SIEVE))
_DIGEST = 10
_LINE = re.compile(r"[0-9a-f]{20}")


def is_roca(modulus: int) -> bool:
    """
    Tell whether a modulus has the structure of CVE-2017-15361.

    The primes are k M + (65537^a mod M) for a product M of the first primes, so the modulus is a power of 65537
    modulo M (Nemec et al., "The Return of Coppersmith's Attack", CCS 2017, 2.1). The logarithm is looked for
    modulo each prime, and the logarithms have to agree. It exists for one honest modulus in 2^154.
    """
    residue = modulus % _ROCA_PRODUCT
    exponent, period = 0, 1
    for prime, logarithms in _logarithms():
        found = logarithms.get(residue % prime)
        if found is None:
            return False
        order = len(logarithms)
        common = math.gcd(period, order)
        if (found - exponent) % common:
            return False
        # The Chinese remainder theorem for moduli that share a factor.
        rest = order // common
        exponent += period * ((found - exponent) // common * pow(period // common, -1, rest) % rest)
        period *= rest
    return True


@functools.lru_cache(maxsize=1)
def _logarithms() -> tuple[tuple[int, dict[int, int]], ...]:
    """For each prime the logarithms to the base 65537; those first that fewest numbers have."""
    tables = []
    for prime in _ROCA_PRIMES:
        powers: dict[int, int] = {}
        value = 1
        while value not in powers:
            powers[value] = len(powers)
            value = value * _GENERATOR % prime
        tables.append((prime, powers))
    return tuple(sorted(tables, key=lambda one: len(one[1]) / one[0]))


def has_close_primes(modulus: int, rounds: int = FERMAT_ROUNDS) -> bool:
    """
    Tell whether Fermat's method factors an odd modulus within so many rounds (BR 6.1.1.3, CVE-2022-26320).

    A round tries the next a from the root upwards: if a^2 - n is b^2, n is (a - b)(a + b).
    """
    start = math.isqrt(modulus)
    if start * start == modulus:
        return True
    start += 1
    # Small numbers rule nearly every round out: a^2 - n modulo the sieve, and how much the next one adds.
    residue, step = (start * start - modulus) % _SIEVE, (2 * start + 1) % _SIEVE
    for n in range(rounds):
        if residue in _SQUARES:
            square = (start + n) ** 2 - modulus
            if math.isqrt(square) ** 2 == square:
                return True
        residue = (residue + step) % _SIEVE
        step += 2
    return False


def check_modulus(modulus: int) -> None:
    """Raise PKIError(BAD_CERT_TEMPLATE) for an odd RSA modulus that ROCA or close primes betray (R5)."""
    if is_roca(modulus):
        raise PKIError(
            ErrorType.BAD_CERT_TEMPLATE,
            "an RSA key of a generator that makes weak ones (ROCA, CVE-2017-15361; R5)",
        )
    if has_close_primes(modulus):
        raise PKIError(
            ErrorType.BAD_CERT_TEMPLATE,
            f"an RSA modulus that {FERMAT_ROUNDS} rounds of Fermat's method factor (R5)",
        )


def modulus_digest(modulus: int) -> bytes:
    """Return the last 80 bits of SHA-1 over what `openssl rsa -modulus` prints: how the lists name a key."""
    return hashlib.sha1(b"Modulus=%X\n" % modulus, usedforsecurity=False).digest()[-_DIGEST:]


def read_list(text: str) -> list[bytes]:
    """
    Return the digests of a list in the format of Debian's openssl-blacklist (openssl-vulnkey(1)).

    A line is 20 lower-case hexadecimal digits; comments start with #. Raises OperatorError naming another line.
    """
    digests = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        if not _LINE.fullmatch(line):
            raise OperatorError(
                f"line {number} is not 20 lower-case hexadecimal digits",
                "give lists in the format of openssl-blacklist",
            )
        digests.append(bytes.fromhex(line))
    return digests


class KnownKeys:
    """RSA keys that are known to all, such as those of CVE-2008-0166 (Debian): ten octets in memory for each."""

    def __init__(self, digests: Iterable[bytes]) -> None:
        self._packed = b"".join(sorted(set(digests)))

    def __len__(self) -> int:
        return len(self._packed) // _DIGEST

    def __contains__(self, modulus: int) -> bool:
        wanted = modulus_digest(modulus)
        place = bisect.bisect_left(range(len(self)), wanted, key=self._at)
        return place < len(self) and self._at(place) == wanted

    def _at(self, place: int) -> bytes:
        return self._packed[place * _DIGEST : (place + 1) * _DIGEST]

    def check(self, public_key: object) -> None:
        """Raise PKIError(BAD_CERT_TEMPLATE) for an RSA key on the lists (R5); they have no other kind."""
        if isinstance(public_key, rsa.RSAPublicKey) and public_key.public_numbers().n in self:
            raise PKIError(ErrorType.BAD_CERT_TEMPLATE, "an RSA key on a list of known weak keys (R5)")
