"""
Signing a certificate, in two steps that cannot be swapped or repeated.

`Issuer.prepare` builds and lints; the caller records the result; `Issuer.issue` signs what was linted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature

from chancery.asn1.signature import KeySigner, PrivateKey, PublicKey, Scheme, SignatureAlgorithm, Signer
from chancery.asn1.x509 import signed, split_signed
from chancery.errors import ErrorType, PKIError
from chancery.pkix.lint import Finding
from chancery.pkix.profile import Granted

Lint = Callable[[bytes], list[Finding]]


@dataclasses.dataclass(slots=True)
class LintedCertificate:
    """
    Proof that exactly these TBSCertificate bytes passed the lints.

    Only `Issuer.prepare` makes one, and `Issuer.issue` takes it once.
    """

    tbs: bytes
    _issuer: Issuer
    _unused: bool = True


class Issuer:
    """
    An issuer name and the key, usually in a token, that signs under it.

    `public_key` is taken from the CA certificate, never from the token, so that a token which answers
    with another key is found out at the first signature. `throw_away` is a software key of the same
    type; its signature stands on the copy that is linted.
    """

    def __init__(
        self,
        *,
        name: bytes,
        public_key: PublicKey,
        signer: Signer,
        throw_away: PrivateKey,
        lint: Lint,
    ) -> None:
        if signer.public_key != public_key:
            raise PKIError(ErrorType.SYSTEM_FAILURE, "issuer key and certificate differ")
        self.name = name
        self.algorithm: SignatureAlgorithm = signer.algorithm
        self._public_key = public_key
        self._signer = signer
        self._lint = lint
        # Same algorithm, so every TBS byte is the same as in the certificate signed for real.
        self._lint_signer = KeySigner(throw_away, signer.algorithm)

    def prepare(self, granted: Granted, serial: bytes) -> LintedCertificate:
        """
        Build the TBSCertificate, sign a copy with the throw-away key, lint it (R9).

        Raises PKIError(BAD_CERT_TEMPLATE) with every finding that blocks, in words for the requestor.
        """
        tbs = granted.tbs(serial, self.name, self.algorithm)
        findings = self._lint(signed(tbs, self.algorithm, self._lint_signer.sign(tbs)))
        if blocking := [finding for finding in findings if finding.blocks]:
            raise PKIError(ErrorType.BAD_CERT_TEMPLATE, "; ".join(map(str, blocking)))
        return LintedCertificate(tbs, self)

    def issue(self, linted: LintedCertificate) -> bytes:
        """
        Sign what was linted, once, check what the token gave back, and return the Certificate (DER).

        The caller has already recorded `linted.tbs`: from here on the certificate must be assumed to
        exist (docs/issuance.md). Raises PKIError: SYSTEM_UNAVAIL when the token did not answer,
        SYSTEM_FAILURE when it answered wrongly or the token of linting was used before.
        """
        if linted._issuer is not self or not linted._unused:  # noqa: SLF001 - the two halves of one lock
            raise PKIError(ErrorType.SYSTEM_FAILURE, "linted certificate already used")
        linted._unused = False  # noqa: SLF001 - same
        certificate = signed(linted.tbs, self.algorithm, self._signer.sign(linted.tbs))
        self.check(certificate, linted.tbs)
        return certificate

    def check(self, certificate: bytes, tbs: bytes) -> None:
        """Raise PKIError(SYSTEM_FAILURE) unless these are the linted bytes under this issuer's signature."""
        signed_tbs, identifier, signature = split_signed(certificate)
        if signed_tbs != tbs or identifier != self.algorithm.identifier:
            raise PKIError(ErrorType.SYSTEM_FAILURE, "signed bytes differ from linted bytes")
        self.verify(signature, tbs)

    def sign(self, tbs: bytes) -> bytes:
        """Sign a TBSCertList and verify the signature before returning the CertificateList (DER)."""
        signature = self._signer.sign(tbs)
        self.verify(signature, tbs)
        return signed(tbs, self.algorithm, signature)

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raise PKIError(SYSTEM_FAILURE) unless the CA certificate's key made this signature over `data`."""
        try:
            self.algorithm.verify(self._public_key, signature, data)
        except InvalidSignature as error:
            raise PKIError(ErrorType.SYSTEM_FAILURE, "the token returned a bad signature") from error


def throw_away_key(algorithm: SignatureAlgorithm, public_key: PublicKey) -> PrivateKey:
    """Make a software key of the type of `public_key`, for lint copies only."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415 - set-up only

    if algorithm.scheme is Scheme.ECDSA and isinstance(public_key, ec.EllipticCurvePublicKey):
        return ec.generate_private_key(public_key.curve)
    if algorithm.scheme is Scheme.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    # The signature on a lint copy is only looked at for its form, so the smallest size serves.
    return rsa.generate_private_key(65537, 2048)
