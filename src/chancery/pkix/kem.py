"""ML-KEM public keys (FIPS 203, RFC 9935): certified for key establishment, and unable to sign a request."""

from __future__ import annotations

import dataclasses

from chancery.asn1 import der, oids

_Q = 3329
_RANKS = {"ml-kem-512": 2, "ml-kem-768": 3, "ml-kem-1024": 4}


@dataclasses.dataclass(frozen=True, slots=True)
class MLKEMPublicKey:
    """
    An encapsulation key; `kind` as in `oids.ML_KEM`, `raw` its octets (FIPS 203 7.1).

    pyca knows no ML-KEM-512; a CA needs no more of these keys than their octets.
    """

    kind: str
    raw: bytes

    def __post_init__(self) -> None:
        """ValueError unless it passes the type check and the modulus check of FIPS 203 7.2."""
        vector = 384 * _RANKS[self.kind]
        if len(self.raw) != vector + 32:
            raise ValueError("an ML-KEM key of another length than its parameter set has")
        for at in range(0, vector, 3):
            one, two, three = self.raw[at : at + 3]
            if one | (two & 15) << 8 >= _Q or two >> 4 | three << 4 >= _Q:
                raise ValueError("an ML-KEM key with a coefficient that is not below 3329 (FIPS 203 7.2)")

    def spki(self) -> bytes:
        """SubjectPublicKeyInfo (RFC 9935 4): parameters absent."""
        algorithm = der.sequence(der.oid(oids.ML_KEM[self.kind]))
        return der.sequence(algorithm, der.bit_string(self.raw))


def sample_kem(kind: str) -> MLKEMPublicKey:
    """Return a key of this kind that nobody has or wants the private one of."""
    return MLKEMPublicKey(kind, bytes(384 * _RANKS[kind] + 32))


# What stands before the key, whose length is fixed.
_STARTS = {len(key.spki()): (key.spki()[: -len(key.raw)], key.kind) for key in map(sample_kem, _RANKS)}


def load_kem(spki: bytes) -> MLKEMPublicKey | None:
    """Return the ML-KEM key of a SubjectPublicKeyInfo (DER), None for another kind of key; ValueError as above."""
    start, kind = _STARTS.get(len(spki), (b"", ""))
    return MLKEMPublicKey(kind, spki[len(start) :]) if kind and spki.startswith(start) else None
