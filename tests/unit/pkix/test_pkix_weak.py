"""
R5: RSA keys that anybody can factor or knows already.

The weak moduli are made here from what was published: for ROCA Nemec et al., CCS 2017, 2.1 and table 1 (p = k M +
65537^a mod M, M the product of the first 39, 71, 126 or 225 primes); for close primes CVE-2022-26320.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from cakit import key
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.pkix.key import KINDS, check_key
from chancery.pkix.trial import sample_key
from chancery.pkix.weak import KnownKeys, check_modulus, has_close_primes, is_roca, modulus_digest, read_list

PRIMES = [n for n in range(2, 1430) if all(n % d for d in range(2, math.isqrt(n) + 1))]
# Bits of the modulus -> how many of the first primes M is the product of.
TABLE = {512: 39, 1024: 71, 2048: 126, 3072: 126, 4096: 225}


def is_prime(n: int) -> bool:
    """Miller and Rabin with fixed bases: good enough for numbers that nobody chose to deceive it."""
    if any(n % p == 0 for p in PRIMES):
        return n in PRIMES
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in PRIMES[:12]:
        x = pow(base, odd, n)
        if x in {1, n - 1}:
            continue
        if not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
            return False
    return True


def next_prime(n: int) -> int:
    return next(one for one in itertools.count(n | 1, 2) if is_prime(one))


def roca_modulus(bits: int, seed: int) -> int:
    """
    A modulus as the vulnerable library made them; both highest bits of each prime are set.

    Above 2048 bits the factors have the structure and need not be prime: finding such takes half a minute.
    """
    source = random.Random(seed)
    product = math.prod(PRIMES[: TABLE[bits]])

    def prime() -> int:
        low, high = (3 << (bits // 2 - 2)) // product, (1 << (bits // 2)) // product
        while True:
            a, k = source.randrange(product), source.randrange(low, high)
            found = k * product + pow(65537, a, product)
            if found.bit_length() == bits // 2 and (bits > 2048 or is_prime(found)):
                return found

    return prime() * prime()


@pytest.mark.parametrize("bits", TABLE)
def test_r5_roca_moduli_of_every_size_are_found(bits):
    for seed in range(2):
        assert is_roca(roca_modulus(bits, seed))


def test_the_tables_are_those_of_the_paper():
    """The sizes of M in table 1, and how many powers of 65537 there are modulo the smallest."""
    sizes = [math.log2(math.prod(PRIMES[:n])) for n in (39, 71, 126, 225)]
    assert [219.19, 474.92, 970.96, 1962.19] == [round(size, 2) for size in sizes]
    order = math.lcm(*(next(n for n in itertools.count(1) if pow(65537, n, p) == 1) for p in PRIMES[1:39]))
    numbers = math.prod(p - 1 for p in PRIMES[1:39])
    assert 154 == math.floor(math.log2(numbers / order))


def test_r5_logarithms_that_exist_for_each_prime_but_do_not_agree_are_no_roca():
    """Modulo each prime a power of 65537, of an odd exponent here and an even one there."""
    modulus, product = 0, math.prod(PRIMES[:39])
    for n, prime in enumerate(PRIMES[:39]):
        residue = pow(65537, 1 + n % 2, prime)
        rest = product // prime
        modulus += residue * rest * pow(rest, -1, prime)
    modulus %= product
    assert all(any(pow(65537, n, p) == modulus % p for n in range(p)) for p in PRIMES[:39])
    assert not is_roca(modulus)
    assert is_roca(pow(65537, 12345, product))


@given(st.integers(0, 2**64), st.integers(0, 2**512))
def test_every_power_of_65537_modulo_m_is_found(exponent, above):
    product = math.prod(PRIMES[:39])
    assert is_roca(above * product + pow(65537, exponent, product))


@given(st.integers(0, 2**64))
def test_r5_no_modulus_at_random_is_taken_for_a_weak_one(seed):
    # Drawn evenly: numbers next to a power of two, which hypothesis likes, may well have close factors.
    n = random.Random(seed).getrandbits(2048) | 1 << 2047
    assert not is_roca(n)
    assert not has_close_primes(n | 1)


def test_r5_honest_keys_pass():
    for modulus in (key(f"honest {n}", "rsa-2048").public_key().public_numbers().n for n in range(3)):
        check_modulus(modulus)


def test_r5_primes_next_to_each_other_are_found():
    prime = next_prime((1 << 1023) + (1 << 1022) + 12345)
    assert has_close_primes(prime * next_prime(prime + 2))
    assert has_close_primes(prime * prime)


def close_pair(rounds: int) -> int:
    """An odd product of two numbers that Fermat's method separates in exactly so many rounds."""
    # a^2 - n = b^2 with a = ceil(sqrt(n)) + rounds - 1: choose b so that the root lies that far below a.
    a = (1 << 1023) + (1 << 1020)
    b = math.isqrt(2 * a * rounds - a)
    b += (a + b + 1) % 2
    n = (a - b) * (a + b)
    assert rounds == a - math.isqrt(n)
    assert 1 == n % 2
    return n


@settings(max_examples=40)
@given(st.integers(1, 300))
def test_r5_exactly_100_rounds_are_tried(rounds):
    modulus = close_pair(rounds)
    assert (rounds <= 100) is has_close_primes(modulus)
    assert has_close_primes(modulus, rounds)
    assert not has_close_primes(modulus, rounds - 1)


def _refusal(public_key) -> str:
    with pytest.raises(PKIError) as caught:
        check_key(public_key, KINDS)
    assert ErrorType.BAD_CERT_TEMPLATE is caught.value.type
    return caught.value.detail


def test_r5_the_key_check_of_every_channel_refuses_both_in_words():
    roca = rsa.RSAPublicNumbers(65537, roca_modulus(2048, 1)).public_key()
    assert "ROCA" in _refusal(roca)
    prime = next_prime((1 << 1023) + (1 << 1022) + 99)
    close = rsa.RSAPublicNumbers(65537, prime * next_prime(prime + 2)).public_key()
    assert "Fermat" in _refusal(close)


def test_a_key_s_digest_is_what_openssl_and_sha1sum_say(tmp_path):
    public = key("listed", "rsa-2048").public_key()
    pem = tmp_path / "key.pem"
    pem.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    done = subprocess.run(
        ["openssl", "rsa", "-pubin", "-noout", "-modulus", "-in", pem], capture_output=True, check=True
    )
    assert done.stdout.startswith(b"Modulus=")
    assert hashlib.sha1(done.stdout).hexdigest()[20:] == modulus_digest(public.public_numbers().n).hex()


def test_r5_a_key_of_a_debian_list_is_refused_and_no_other():
    listed, other = (key(name, "rsa-2048").public_key() for name in ("listed", "other"))
    digest = modulus_digest(listed.public_numbers().n).hex()
    text = f"# openssl-blacklist\n#\n00005890bc78bcbee3ca\n{digest}\nffff0000000000000000\n{digest}\n"
    known = KnownKeys(read_list(text))
    assert 3 == len(known)
    with pytest.raises(PKIError) as caught:
        known.check(listed)
    assert ErrorType.BAD_CERT_TEMPLATE is caught.value.type
    assert "list of known weak keys" in caught.value.detail
    known.check(other)
    known.check(sample_key("ec-p256"))
    KnownKeys([]).check(listed)


@given(st.sets(st.binary(min_size=10, max_size=10), max_size=40), st.integers(1, 2**2048))
def test_what_is_on_the_list_is_found_and_nothing_else(digests, modulus):
    assert (modulus_digest(modulus) in digests) is (modulus in KnownKeys(digests))
    assert modulus in KnownKeys([*digests, modulus_digest(modulus)])


@pytest.mark.parametrize("line", ["5890bc78bcbee3ca", "00005890BC78BCBEE3CA", "x" * 20, "00005890bc78bcbee3ca 1"])
def test_another_line_is_named_and_refused(line):
    with pytest.raises(OperatorError, match="line 2 "):
        read_list(f"# list\n{line}\n")
