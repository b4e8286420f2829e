"""
The timestamping authority (RFC 3161, R23-R26): what it accepts, what it records, what it signs.

The order is fixed by types: `accept` judges a request, `recording.Recorder.record` gives it its time and serial
and alone makes a `Recorded`, `sign` signs nothing else, and `grant` lets out only what it has verified.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from chancery.asn1 import authenticode, cms, der, oids, tsp
from chancery.asn1.signature import PublicKey, Signer, algorithm_for
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import TokenRecord
from chancery.tsa.policy import AuthoritySettings, Policy
from chancery.tsa.timekeeping import ClockGuard


class Credential:
    """
    What a token is signed with: a certificate with its chain, and the key behind it. Unchanging.

    `certificates` is the chain (DER), the authority's own certificate first. Raises OperatorError when the
    certificate may not sign timestamps at `at`, or the key is not the certificate's (R24, R25).
    """

    __slots__ = (
        "_countersigned", "_public_key", "_signed_data", "_signer", "_tst_info", "_with_signing_time", "algorithm",
        "certificates", "not_after", "not_before",
    )  # fmt: skip

    def __init__(
        self, settings: AuthoritySettings, signer: Signer, certificates: Sequence[bytes], at: datetime.datetime
    ) -> None:
        certificate = x509.load_der_x509_certificate(certificates[0])
        self._public_key = _check_certificate(certificate, signer)
        self._signer = signer
        self.algorithm = signer.algorithm.name
        self.certificates = tuple(certificates)
        self.not_before, self.not_after = validity(certificate)
        if not self.may_sign_at(at):
            raise OperatorError(
                f"the timestamping certificate may be used from {self.not_before} to {self.not_after} only",
                "issue a new timestamping certificate, or set the clock",
            )
        tsa = certificate.subject.public_bytes() if settings.include_tsa_name else None
        self._tst_info = tsp.TSTInfoTemplate(settings.accuracy, tsa, ordering=settings.ordering)
        self._signed_data = cms.SignedDataTemplate(oids.TST_INFO, certificates[0], signer.algorithm, certificates)
        self._countersigned = cms.SignedDataTemplate(cms.ID_DATA, certificates[0], signer.algorithm, certificates)
        self._with_signing_time = settings.include_signing_time

    def may_sign_at(self, at: datetime.datetime) -> bool:
        """Tell whether the certificate is valid and its key in use at this time (R25)."""
        return self.not_before <= at <= self.not_after

    @staticmethod
    def outlived() -> PKIError:
        """Return the refusal for a time at which it may not: the time source is well, the authority is not."""
        return PKIError(ErrorType.SYSTEM_FAILURE, "the authority's certificate cannot be used at this time")

    def sign(self, accepted: Accepted, record: TokenRecord) -> Signed:
        """Write what one token says and have it signed. Blocks; any thread. Raises what the signer raises."""
        request, template = accepted.request, self._signed_data
        if accepted.countersigns is not None:
            template, content = self._countersigned, accepted.countersigns
            attributes = template.signed_attributes(content, record.gen_time)
            return Signed(
                self,
                template,
                content,
                attributes,
                self._signer.sign(attributes),
                cert_req=True,
                countersigns=True,
            )
        content = self._tst_info.encode(
            record.policy,
            request.message_imprint,
            record.serial,
            record.gen_time,
            request.nonce,
            qualified=accepted.policy.qualified,
        )
        signing_time = record.gen_time if self._with_signing_time else None
        attributes = template.signed_attributes(content, signing_time)
        signature = self._signer.sign(attributes)
        return Signed(self, template, content, attributes, signature, cert_req=request.cert_req)

    def token(self, signed: Signed) -> bytes:
        """
        Put a TimeStampToken (DER) together and read it back under the certificate's key. Any thread.

        Raises PKIError(SYSTEM_FAILURE) when the token device gave back a signature that does not verify.
        """
        content = signed.content
        token = signed.template.content_info(
            content, signed.attributes, signed.signature, with_certificates=signed.cert_req
        )
        try:
            cms.verify(token, content, self._public_key, self._signer.algorithm)
        except InvalidSignature as error:
            raise PKIError(ErrorType.SYSTEM_FAILURE, "the token could not be signed") from error
        return token


@dataclasses.dataclass(frozen=True, slots=True)
class Signed:
    """The parts of a token whose signature nobody has checked yet: eContent, signedAttrs (DER), signature."""

    credential: Credential
    template: cms.SignedDataTemplate
    content: bytes
    attributes: bytes
    signature: bytes
    cert_req: bool
    countersigns: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Accepted:
    """
    A request that came at `at` and will be answered with a token, if its time can be had. Not yet recorded.

    `credential` was valid at that time, and signs it even if another has taken its place by then. `countersigns`
    is the signature that a request of Authenticode is for; then there was no other.
    """

    request: tsp.TimeStampReq
    policy: Policy
    client: str
    at: datetime.datetime
    credential: Credential
    countersigns: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Recorded:
    """Proof that `record` of what was accepted is in the store. Only `recording.Recorder.record` makes one."""

    accepted: Accepted
    record: TokenRecord


class Authority:
    """
    Judges requests and issues tokens under one credential at a time.

    For one thread, but `sign` and `grant` may run in any. OperatorError when the settings cannot be kept.
    """

    def __init__(self, settings: AuthoritySettings, credential: Credential, guard: ClockGuard) -> None:
        settings.check()
        self.settings = settings
        self._guard = guard
        self._credential: Credential | None = credential
        self._policies = {policy.oid: policy for policy in settings.policies}

    @property
    def credential(self) -> Credential | None:
        """What signs now; None while there is nothing good to sign with."""
        return self._credential

    def adopt(self, credential: Credential | None) -> None:
        """Sign with another certificate or key from now on, or with none. What is accepted keeps its own."""
        self._credential = credential

    def accept(self, data: bytes, client: str, policies: Sequence[str] | None = None) -> Accepted:
        """
        Judge a TimeStampReq (DER) from `client`.

        `policies` are those that the client may have, its default first; None: all that are served.

        Raises PKIError with the kind that RFC 3161 2.4.2 has for it; a certificate that may not sign now is
        SYSTEM_FAILURE.
        """
        request = tsp.decode_request(data)
        return self._accept(request, self._judge(request, policies), client)

    def accept_countersignature(self, data: bytes, client: str, policies: Sequence[str] | None = None) -> Accepted:
        """
        Judge a request of Authenticode (base64) as `accept` does; it is recorded as SHA-256 of the signature.

        The time is in whole seconds, in the signingTime; the policy is the client's default, and said nowhere.
        """
        signature = authenticode.decode_request(data)
        digest = hashlib.sha256(signature).digest()
        request = tsp.decode_request(tsp.encode_request(oids.SHA256, digest))
        return self._accept(request, self._judge(request, policies), client, signature)

    def _accept(
        self, request: tsp.TimeStampReq, policy: Policy, client: str, countersigns: bytes | None = None
    ) -> Accepted:
        now, credential = self._guard.now(), self._credential
        if credential is None or not credential.may_sign_at(now):
            raise Credential.outlived()
        return Accepted(request, policy, client, now, credential, countersigns)

    @staticmethod
    def sign(recorded: Recorded) -> Signed:
        """Sign a recorded request, once. Blocks; any thread. Raises what the signer raises."""
        accepted = recorded.accepted
        return accepted.credential.sign(accepted, recorded.record)

    @staticmethod
    def grant(signed: Signed) -> bytes:
        """Check what was signed and return the response. Any thread. Raises as `Credential.token`."""
        token = signed.credential.token(signed)
        return authenticode.encode_response(token) if signed.countersigns else tsp.granted(token)

    def _judge(self, request: tsp.TimeStampReq, policies: Sequence[str] | None) -> Policy:
        """Return the policy to stamp under, or raise what is wrong with the request, in RFC 3161's order."""
        if request.version != 1:
            raise PKIError(ErrorType.BAD_REQUEST, "only version 1 is supported")
        size = tsp.IMPRINT_SIZES.get(request.hash_oid)
        # RFC 5754 2: parameters absent or NULL are both to be accepted.
        if size is None or request.hash_parameters not in (b"", der.null()):
            raise PKIError(ErrorType.BAD_ALG, "the message imprint must be made with SHA-2 or SHA-3")
        if len(request.hashed_message) != size:
            raise PKIError(ErrorType.BAD_DATA_FORMAT, "the message imprint is not as long as its digest")
        policy = self._policy(request.req_policy, policies)
        if request.hash_oid not in policy.hashes:
            raise PKIError(ErrorType.BAD_ALG, "this policy does not allow the digest of the message imprint")
        if request.extensions:
            # RFC 3161 2.4.1: whether critical or not.
            raise PKIError(ErrorType.UNACCEPTED_EXTENSION, "no extension is supported")
        return policy

    def _policy(self, asked: str | None, policies: Sequence[str] | None) -> Policy:
        served = self._policies
        allowed = served.keys() if policies is None else [one for one in policies if one in served]
        if asked is not None and asked not in allowed:
            words = "for this client" if asked in served else "here"
            raise PKIError(ErrorType.UNACCEPTED_POLICY, f"this policy is not served {words}")
        if not allowed:
            raise PKIError(ErrorType.UNACCEPTED_POLICY, "no policy of this client is served here")
        return served[asked or next(iter(allowed))]


def validity(certificate: x509.Certificate) -> tuple[datetime.datetime, datetime.datetime]:
    """Return from when to when a key may sign: the certificate's validity and its PrivateKeyUsagePeriod (R25)."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    try:
        period = certificate.extensions.get_extension_for_class(x509.PrivateKeyUsagePeriod).value
    except x509.ExtensionNotFound:
        return start, end
    if period.not_before is not None:
        start = max(start, period.not_before.replace(tzinfo=datetime.UTC))
    if period.not_after is not None:
        end = min(end, period.not_after.replace(tzinfo=datetime.UTC))
    return start, end


def _check_certificate(certificate: x509.Certificate, signer: Signer) -> PublicKey:
    """Return the certificate's key; raise OperatorError unless it is the signer's and made for timestamps."""
    public_key = certificate.public_key()
    if public_key != signer.public_key:
        raise OperatorError(
            "the timestamping certificate is for another key than the one in the token",
            "check the key label and the certificate that belongs to it",
        )
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        usage = None
    if usage is None or not usage.critical or list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise OperatorError(
            "the timestamping certificate must have extended key usage timeStamping alone, and critical",
            "issue it from a timestamping profile (RFC 3161 2.3)",
        )
    try:
        key_usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        key_usage = None
    if key_usage is not None and not (key_usage.digital_signature or key_usage.content_commitment):
        raise OperatorError(
            "the key usage of the timestamping certificate does not allow signatures",
            "issue it from a timestamping profile (digitalSignature)",
        )
    expected, found = algorithm_for(signer.public_key), signer.algorithm
    if found.hash and expected.hash and found.hash.digest_size < expected.hash.digest_size:
        raise OperatorError(
            f"{found.name} is weaker than the key it signs with", f"sign with {expected.name} (R24)"
        )
    return signer.public_key
