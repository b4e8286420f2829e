"""
Signing a certificate, in two steps that cannot be swapped or repeated.

`prepare` builds and lints; the caller records the result; `issue` signs what was linted.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from chancery.asn1 import x509 as template
from chancery.asn1.signature import (
    ML_DSA_SETS,
    KeySigner,
    PrivateKey,
    PublicKey,
    SignatureAlgorithm,
    Signer,
    digest_of,
    ml_dsa_kind,
)
from chancery.errors import ErrorType, PKIError
from chancery.pkix.granting import Granted, IssuerLimits, Requested, grant
from chancery.pkix.key import load_spki, spki_der
from chancery.pkix.lint import blocking, lint_der
from chancery.pkix.name import attributes_of, name_text, prepared
from chancery.pkix.path import limits as path_limits
from chancery.pkix.profile import Profile
from chancery.pkix.view import IssuerView, view_issuer
from chancery.ports import CRLShard, IssuerRecord

_FOR_EVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""RFC 5280 4.1.2.5: no well-defined end."""


@dataclasses.dataclass(frozen=True, slots=True)
class IssuerURLs:
    """
    What certificates of an issuer say of where to ask (AIA, CDP, freshestCRL); None leaves it out.

    With `shards` each certificate belongs to one of them, by its serial, and names that one's CRL. `deltas` tells
    whether there are delta CRLs: each stands beside its base (`delta_url`).
    """

    ocsp: str | None
    crl: str | None
    ca_issuers: str | None
    deltas: bool = False
    shards: tuple[CRLShard, ...] = ()

    def shard(self, serial: bytes) -> CRLShard | None:
        """Return the partition that a certificate with this serial belongs to (its last octets are random)."""
        return self.shards[int.from_bytes(serial[-4:]) % len(self.shards)] if self.shards else None

    def freshest(self, crl: str | None) -> str | None:
        """Return the URL of the delta CRL beside the CRL at `crl` (RFC 5280 4.2.1.15), or None without deltas."""
        return delta_url(crl) if self.deltas and crl else None


def shard_url(url: str, number: int) -> str:
    """Return where the CRL of a shard is, beside the issuer's complete CRL at `url`."""
    return f"{url.removesuffix('.crl')}/{number}.crl"


def delta_url(url: str) -> str:
    """Return where the delta CRL is whose base is at `url`."""
    return f"{url.removesuffix('.crl')}/delta.crl"


class TokenAwayError(PKIError):
    """SYSTEM_UNAVAIL, and it was the issuer's token that did not answer: other issuers' may."""


class LintedCertificate:
    """
    Proof that exactly these TBSCertificate bytes (`der`) passed the lints.

    Only `prepare` of an issuer makes one, and `issue` of the same issuer takes it once.
    """

    __slots__ = ("_issuer", "_right", "der", "not_after", "shard")

    def __init__(self, tbs: bytes, not_after: datetime.datetime, issuer: object, shard: int = 0) -> None:
        self.der = tbs
        self.not_after = not_after
        self.shard = shard
        self._issuer = issuer
        # One item, popped by whoever issues: atomic between threads.
        self._right = [tbs]

    def spend(self, issuer: object) -> bytes:
        """Return the bytes to sign, once, to the issuer that linted them; PKIError(SYSTEM_FAILURE) else."""
        try:
            if self._issuer is issuer:
                return self._right.pop()
        except IndexError:
            pass
        raise PKIError(ErrorType.SYSTEM_FAILURE, "linted certificate already used, or another issuer's")


@functools.lru_cache(maxsize=64)
def _throw_away_key(spki: bytes) -> PrivateKey:
    """Make a software key of the type of an issuer's (its SPKI), for lint copies only; once for each issuer."""
    public_key = load_spki(spki)
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return ec.generate_private_key(public_key.curve)
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return ed25519.Ed25519PrivateKey.generate()
    if (kind := ml_dsa_kind(public_key)) is not None:
        return ML_DSA_SETS[kind].private.generate()
    # The lints look at the form of the signature alone, so the smallest size serves.
    return rsa.generate_private_key(65537, 2048)


def _throw_away_signer(signer: Signer) -> KeySigner:
    # The same algorithm, so every TBS byte is the same as in the certificate signed for real.
    return KeySigner(_throw_away_key(spki_der(signer.public_key)), signer.algorithm)


class _Signing:
    """What both kinds of issuer share: a signer, the key its signatures must verify under, and the two steps."""

    def __init__(self, signer: Signer, public_key: PublicKey) -> None:
        self.signer = signer
        self._public_key = public_key

    @functools.cached_property
    def _lint_signature(self) -> bytes:
        # Made when first needed, and once: the lints see the form of a signature, never what it is over, and a
        # copy whose signature verifies under nothing can be taken for nothing else.
        return _throw_away_signer(self.signer).sign(b"lint")

    @property
    def algorithm(self) -> SignatureAlgorithm:
        return self.signer.algorithm

    def _lint(
        self, tbs: bytes, not_after: datetime.datetime, issuer: IssuerView | None, shard: int = 0
    ) -> LintedCertificate:
        identifier = self.algorithm.identifier
        copy = template.signed(tbs, identifier, self._lint_signature)
        try:
            certificate = x509.load_der_x509_certificate(copy)
        except (ValueError, x509.InvalidVersion):
            raise PKIError(ErrorType.BAD_CERT_TEMPLATE, "the certificate would not be readable") from None
        if found := blocking(lint_der(copy, certificate, issuer)):
            raise PKIError(ErrorType.BAD_CERT_TEMPLATE, "; ".join(map(str, found)))
        return LintedCertificate(tbs, not_after, self, shard)

    def lint_copy(self, linted: LintedCertificate) -> bytes:
        """Return the Certificate (DER) that the lints looked at: its signature is the throw-away key's."""
        return template.signed(linted.der, self.algorithm.identifier, self._lint_signature)

    def issue(self, linted: LintedCertificate) -> bytes:
        """
        Sign what was linted, once, check what the token gave back, and return the Certificate (DER).

        The caller has already recorded `linted.der`: from here on the certificate must be assumed to exist
        (docs/issuance.md). Raises PKIError: SYSTEM_UNAVAIL when the token did not answer, SYSTEM_FAILURE when
        it answered wrongly or `linted` was used before.
        """
        tbs = linted.spend(self)
        certificate = self.sign(tbs)
        try:
            same = x509.load_der_x509_certificate(certificate).tbs_certificate_bytes == linted.der
        except ValueError:
            same = False
        if not same:
            raise PKIError(ErrorType.SYSTEM_FAILURE, "signed bytes differ from linted bytes")
        return certificate

    def sign(self, tbs: bytes) -> bytes:
        """
        Sign a recorded TBSCertificate or TBSCertList and return the whole structure (DER), verified.

        Raises PKIError(SYSTEM_FAILURE) when the token's signature does not verify under the issuer's key, and
        TokenAwayError when the token does not answer.
        """
        try:
            signature = self.signer.sign(tbs)
        except PKIError as error:
            if error.type is ErrorType.SYSTEM_UNAVAIL:
                raise TokenAwayError(error.type, error.detail) from error
            raise
        try:
            self.algorithm.verify(self._public_key, signature, tbs)
        except InvalidSignature:
            raise PKIError(ErrorType.SYSTEM_FAILURE, "the token returned a bad signature") from None
        return template.signed(tbs, self.algorithm.identifier, signature)

    def sign_parts(self, parts: Iterable[bytes]) -> bytes:
        """
        Sign what these parts are when joined, however large, and return the signature octets, verified.

        An algorithm without a hash of its own (Ed25519, ML-DSA) needs the whole at once. Raises as `sign`.
        """
        digest = digest_of(self.algorithm, parts)
        try:
            if digest is not None:
                signature = self.signer.sign_digest(digest)
                self.algorithm.verify_digest(self._public_key, signature, digest)
            else:
                whole = b"".join(parts)
                signature = self.signer.sign(whole)
                self.algorithm.verify(self._public_key, signature, whole)
        except InvalidSignature:
            raise PKIError(ErrorType.SYSTEM_FAILURE, "the token returned a bad signature") from None
        return signature


class Issuer(_Signing):
    """
    A CA certificate and the key, usually in a token, that signs under it.

    Raises PKIError(SYSTEM_FAILURE) when key and certificate differ, or the certificate is not a CA's with a
    subject key identifier and the right to sign certificates. The key that signatures are verified under is
    the certificate's, never the token's. `above` are the CA certificates above it, nearest first: what they
    constrain is constrained here, too (RFC 5280 6.1). `names` are its name and theirs (`pkix.name.prepared`).
    """

    def __init__(
        self,
        record: IssuerRecord,
        signer: Signer,
        urls: IssuerURLs,
        above: tuple[x509.Certificate, ...] = (),
    ) -> None:
        certificate = x509.load_der_x509_certificate(record.certificate)
        subject, spki = template.subject_fields(record.certificate)
        if spki_der(signer.public_key) != spki:
            raise PKIError(ErrorType.SYSTEM_FAILURE, f"{record.name}: issuer key and certificate differ")
        super().__init__(signer, signer.public_key)
        self.record = record
        self.certificate = certificate
        self._view = view_issuer(certificate)
        self.urls = urls
        self.subject = subject
        self.key_identifier = _ca_key_identifier(record.name, certificate)
        self.names = frozenset(prepared(name_text(one.subject)) for one in (certificate, *above))
        limits = path_limits((certificate, *above))
        self.limits = dataclasses.replace(limits, algorithm=signer.algorithm.name)

    def prepare(self, granted: Granted, serial: bytes) -> LintedCertificate:
        """
        Build the TBSCertificate, and lint a copy with a signature of the throw-away key (R9).

        `serial` is the content of the INTEGER, reserved for this certificate alone. Raises
        PKIError(BAD_CERT_TEMPLATE) with every finding that blocks, in words for the requestor.
        """
        if prepared(granted.subject_text) in self.names:
            # A self-issued certificate is not counted in a path length nor held to name constraints, and who has
            # a CA's name may be believed to sign its CRLs (RFC 5280 6.3.3 f).
            detail = "the subject is the issuer's own name, or that of a CA above it (RFC 5280 6.1)"
            raise PKIError(ErrorType.BAD_CERT_TEMPLATE, detail)
        urls = self.urls
        extensions = [*granted.extensions, template.authority_key_identifier(self.key_identifier)]
        ocsp, ca_issuers = urls.ocsp if granted.ocsp else None, urls.ca_issuers if granted.ca_issuers else None
        if ocsp or ca_issuers:
            extensions.append(template.authority_info_access(ocsp, ca_issuers))
        # A certificate that names no CRL is on the complete one.
        shard = urls.shard(serial) if granted.crl else None
        if granted.crl and (crl := shard.url if shard else urls.crl):
            extensions.append(template.crl_distribution_points(crl))
            if granted.freshest and (delta := urls.freshest(crl)):
                extensions.append(template.freshest_crl(delta))
        tbs = template.tbs_certificate(
            serial=serial,
            algorithm=self.algorithm.identifier,
            issuer=self.subject,
            not_before=granted.not_before,
            not_after=granted.not_after,
            subject=granted.subject,
            spki=granted.spki,
            extensions=extensions,
        )
        return self._lint(tbs, granted.not_after, self._view, shard.number if shard else 0)


def issuer_key(record: IssuerRecord) -> PublicKey:
    """Return the public key of an issuer's certificate; PKIError(SYSTEM_FAILURE) for one that cannot sign."""
    key = x509.load_der_x509_certificate(record.certificate).public_key()
    if not isinstance(key, PublicKey):
        raise PKIError(ErrorType.SYSTEM_FAILURE, f"{record.name}: a CA key of a type that does not sign")
    return key


def _ca_key_identifier(name: str, certificate: x509.Certificate) -> bytes:
    try:
        extensions = certificate.extensions
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        ski = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise PKIError(ErrorType.SYSTEM_FAILURE, f"{name}: not a CA certificate (RFC 5280 4.2): {error}") from None
    if not basic.ca or not usage.key_cert_sign or not usage.crl_sign:
        raise PKIError(ErrorType.SYSTEM_FAILURE, f"{name}: the certificate may not sign certificates and CRLs")
    return ski.digest


class SelfIssuer(_Signing):
    """Makes a self-signed root in the same two steps. Ceremonies alone use it (R8)."""

    def __init__(self, signer: Signer, subject: x509.Name) -> None:
        super().__init__(signer, signer.public_key)
        self._subject = attributes_of(subject)

    def prepare(self, profile: Profile, serial: bytes, at: datetime.datetime) -> LintedCertificate:
        """
        Build and lint a root's TBSCertificate under a ceremony profile of a CA, valid from `at`.

        Raises PKIError(BAD_CERT_TEMPLATE) for another profile, or whatever it does not grant.
        """
        if not profile.ceremony or not profile.extensions.ca:
            raise PKIError(ErrorType.BAD_CERT_TEMPLATE, f"{profile.name} is not a ceremony profile of a CA (R8)")
        asked = Requested(self.signer.public_key, self._subject)
        granted = grant(profile, asked, IssuerLimits(_FOR_EVER, None, algorithm=self.algorithm.name), at)
        tbs = template.tbs_certificate(
            serial=serial,
            algorithm=self.algorithm.identifier,
            issuer=granted.subject,
            not_before=granted.not_before,
            not_after=granted.not_after,
            subject=granted.subject,
            spki=granted.spki,
            extensions=granted.extensions,
        )
        return self._lint(tbs, granted.not_after, None)
