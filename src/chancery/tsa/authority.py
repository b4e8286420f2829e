"""
The timestamping authority (RFC 3161, R23-R26): what it accepts, what it records, what it signs.

The order is fixed by types: `accept` judges a request and draws its serial and time, `Recorder.record`
alone makes a `Recorded`, `sign` signs nothing else, and `grant` lets out only what it has verified.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from chancery.asn1 import cms, der, oids, tsp
from chancery.asn1.signature import PublicKey, Signer, algorithm_for
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import Entropy, Event, EventDetail, EventKind, TimestampStore, TokenRecord
from chancery.tsa.timekeeping import ClockGuard

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_DRAW = 8  # random octets of a serial number
MAX_ACCURACY = datetime.timedelta(seconds=1)


@dataclasses.dataclass(frozen=True, slots=True)
class AuthoritySettings:
    """
    What one authority promises.

    `policies` are the TSA policy OIDs served, the default first. `gen_time_digits` (1 to 6) is how many
    fraction digits genTime keeps; what is cut off counts against `accuracy` (R23: at most one second).
    `instance` (1 to 127) is the first octet of every serial number, another one for each process.
    """

    instance: int
    policies: tuple[str, ...]
    accuracy: datetime.timedelta = MAX_ACCURACY
    gen_time_digits: int = 3
    include_tsa_name: bool = False
    include_signing_time: bool = False

    @property
    def resolution(self) -> datetime.timedelta:
        """What genTime leaves off, at most."""
        return datetime.timedelta(microseconds=10 ** (6 - self.gen_time_digits))

    def check(self) -> None:
        """Raise OperatorError unless the promises can be kept."""
        if not 1 <= self.instance <= 127:
            raise OperatorError(f"instance {self.instance} is not in 1..127", "give each TSA process its own")
        if not self.policies:
            raise OperatorError("a timestamping authority without a policy", "set its policy OID")
        if not 1 <= self.gen_time_digits <= 6:
            raise OperatorError("genTime takes 1 to 6 fraction digits", "choose a number in between")
        if not self.resolution < self.accuracy <= MAX_ACCURACY:
            raise OperatorError(
                f"an accuracy of {self.accuracy} is not between genTime's resolution {self.resolution} and 1 s",
                "declare an accuracy of at most 1 s (R23) that is larger than the resolution",
            )


class Credential:
    """
    What a token is signed with: a certificate with its chain, and the key behind it. Unchanging.

    `certificates` is the chain (DER), the authority's own certificate first. Raises OperatorError when the
    certificate may not sign timestamps at `at`, or the key is not the certificate's (R24, R25).
    """

    __slots__ = (
        "_public_key", "_signed_data", "_signer", "_tst_info", "_with_signing_time", "certificates", "not_after",
        "not_before",
    )  # fmt: skip

    def __init__(
        self, settings: AuthoritySettings, signer: Signer, certificates: Sequence[bytes], at: datetime.datetime
    ) -> None:
        certificate = x509.load_der_x509_certificate(certificates[0])
        self._public_key = _check_certificate(certificate, signer)
        self._signer = signer
        self.certificates = tuple(certificates)
        self.not_before, self.not_after = validity(certificate)
        if not self.not_before <= at <= self.not_after:
            raise OperatorError(
                f"the timestamping certificate may be used from {self.not_before} to {self.not_after} only",
                "issue a new timestamping certificate, or set the clock",
            )
        tsa = certificate.subject.public_bytes() if settings.include_tsa_name else None
        self._tst_info = tsp.TSTInfoTemplate(settings.accuracy, tsa)
        self._signed_data = cms.SignedDataTemplate(oids.TST_INFO, certificates[0], signer.algorithm, certificates)
        self._with_signing_time = settings.include_signing_time

    def sign(self, request: tsp.TimeStampReq, record: TokenRecord) -> Signed:
        """Write what one token says and have it signed. Blocks; any thread. Raises what the signer raises."""
        content = self._tst_info.encode(
            record.policy, request.message_imprint, record.serial, record.gen_time, request.nonce
        )
        signing_time = record.gen_time if self._with_signing_time else None
        attributes = self._signed_data.signed_attributes(content, signing_time)
        return Signed(self, content, attributes, self._signer.sign(attributes), cert_req=request.cert_req)

    def token(self, signed: Signed) -> bytes:
        """
        Put a TimeStampToken (DER) together and read it back under the certificate's key. Any thread.

        Raises PKIError(SYSTEM_FAILURE) when the token device gave back a signature that does not verify.
        """
        content = signed.content
        token = self._signed_data.content_info(
            content, signed.attributes, signed.signature, with_certificates=signed.cert_req
        )
        try:
            cms.verify(token, content, self._public_key, self._signer.algorithm)
        except InvalidSignature as error:
            raise PKIError(ErrorType.SYSTEM_FAILURE, "the token could not be signed") from error
        return token


@dataclasses.dataclass(frozen=True, slots=True)
class Signed:
    """The parts of a token whose signature nobody has checked yet: TSTInfo, signedAttrs (DER), signature."""

    credential: Credential
    content: bytes
    attributes: bytes
    signature: bytes
    cert_req: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Accepted:
    """
    A request that will be answered with a token, with the serial and time it will carry. Not yet recorded.

    `credential` was valid at that time, and signs it even if another has taken its place by then.
    """

    request: tsp.TimeStampReq
    record: TokenRecord
    credential: Credential


@dataclasses.dataclass(frozen=True, slots=True)
class Recorded:
    """Proof that an `Accepted` is in the store. Only `Recorder.record` makes one."""

    accepted: Accepted


def rows_digest(tokens: Sequence[TokenRecord]) -> str:
    """
    SHA-256 (hex) over token rows in serial order, as the journal holds it.

    Each row is the line `serial|genTime|hash OID|imprint in hex|policy|client` with genTime in UTC to the
    microsecond, ended by a line feed.
    """
    digest = hashlib.sha256()
    for token in sorted(tokens, key=lambda token: token.serial):
        moment = token.gen_time.astimezone(datetime.UTC).isoformat(timespec="microseconds")
        fields = (str(token.serial), moment, token.hash_oid, token.imprint.hex(), token.policy, token.client)
        digest.update(("|".join(fields) + "\n").encode())
    return digest.hexdigest()


def tokens_event(tokens: Sequence[TokenRecord], at: datetime.datetime, actor: str) -> Event:
    """Return the one event that covers a batch: how many, from which to which serial, SHA-256 over the rows."""
    serials = [token.serial for token in tokens]
    detail: EventDetail = {
        "count": len(tokens),
        "first": str(min(serials)),
        "last": str(max(serials)),
        "sha256": rows_digest(tokens),
    }
    return Event(EventKind.TOKENS_RECORDED, at, actor, "tokens", detail)


class Recorder:
    """Records batches of accepted requests, each with its event, before anything is signed."""

    def __init__(self, store: TimestampStore, actor: str) -> None:
        self._store = store
        self._actor = actor

    async def record(self, batch: Sequence[Accepted]) -> list[Recorded]:
        """
        Store one batch in one transaction; durable on return.

        Raises what the store raises; then nothing of the batch may be signed.
        """
        tokens = [accepted.record for accepted in batch]
        at = max(token.gen_time for token in tokens)
        await self._store.record(tokens, [tokens_event(tokens, at, self._actor)])
        return [Recorded(accepted) for accepted in batch]


class Authority:
    """
    Judges requests and issues tokens under one certificate at a time.

    Arguments and errors as for `Credential`. For one thread, but `sign` and `grant` may run in any.
    """

    def __init__(
        self,
        settings: AuthoritySettings,
        *,
        signer: Signer,
        certificates: Sequence[bytes],
        guard: ClockGuard,
        entropy: Entropy,
        at: datetime.datetime,
    ) -> None:
        settings.check()
        self.settings = settings
        self._signer = signer
        self._guard = guard
        self._entropy = entropy
        self._credential: Credential | None = Credential(settings, signer, certificates, at)
        self._cut = settings.resolution // _MICROSECOND
        self._last_tick = 0
        self._drawn = b""

    @property
    def credential(self) -> Credential | None:
        """What signs now; None after `withdraw`."""
        return self._credential

    def renew(self, certificates: Sequence[bytes], at: datetime.datetime) -> None:
        """Sign under another certificate of this key from now on. OperatorError, and no change, as at start."""
        self._credential = Credential(self.settings, self._signer, certificates, at)

    def withdraw(self) -> None:
        """Sign nothing more that is not accepted already, because the certificate is no longer good."""
        self._credential = None

    def accept(self, data: bytes, client: str, policies: Sequence[str] | None = None) -> Accepted:
        """
        Judge a TimeStampReq (DER) from `client`, and give it a serial and a time.

        `policies` are those that the client may have, its default first; None: all that are served.

        Raises PKIError with the kind that RFC 3161 2.4.2 has for it. A certificate that may not sign at
        genTime is SYSTEM_FAILURE: the time source is well, the authority is not.
        """
        request = tsp.decode_request(data)
        policy = self._judge(request, policies)
        now = self._guard.now()
        gen_time = now - datetime.timedelta(microseconds=now.microsecond % self._cut)
        credential = self._credential
        if credential is None or not (credential.not_before <= gen_time and now <= credential.not_after):
            raise PKIError(ErrorType.SYSTEM_FAILURE, "the authority's certificate cannot be used at this time")
        record = TokenRecord(self._serial(now), gen_time, request.hash_oid, request.hashed_message, policy, client)
        return Accepted(request, record, credential)

    @staticmethod
    def sign(recorded: Recorded) -> Signed:
        """Sign a recorded request, once. Blocks; any thread. Raises what the signer raises."""
        accepted = recorded.accepted
        return accepted.credential.sign(accepted.request, accepted.record)

    @staticmethod
    def grant(signed: Signed) -> bytes:
        """Check what was signed and return the TimeStampResp (DER). Any thread. Raises as `Credential.token`."""
        return tsp.granted(signed.credential.token(signed))

    def _judge(self, request: tsp.TimeStampReq, policies: Sequence[str] | None) -> str:
        """Return the policy to stamp under, or raise what is wrong with the request, in RFC 3161's order."""
        if request.version != 1:
            raise PKIError(ErrorType.BAD_REQUEST, "only version 1 is supported")
        size = tsp.IMPRINT_SIZES.get(request.hash_oid)
        # RFC 5754 2: parameters absent or NULL are both to be accepted.
        if size is None or request.hash_parameters not in (b"", der.null()):
            raise PKIError(ErrorType.BAD_ALG, "the message imprint must be made with SHA-2 or SHA-3")
        if len(request.hashed_message) != size:
            raise PKIError(ErrorType.BAD_DATA_FORMAT, "the message imprint is not as long as its digest")
        served = self.settings.policies
        allowed = served if policies is None else tuple(one for one in policies if one in served)
        if request.req_policy is not None and request.req_policy not in allowed:
            words = "for this client" if request.req_policy in served else "here"
            raise PKIError(ErrorType.UNACCEPTED_POLICY, f"this policy is not served {words}")
        if not allowed:
            raise PKIError(ErrorType.UNACCEPTED_POLICY, "no policy of this client is served here")
        if request.extensions:
            # RFC 3161 2.4.1: whether critical or not.
            raise PKIError(ErrorType.UNACCEPTED_EXTENSION, "no extension is supported")
        return request.req_policy or allowed[0]

    def _serial(self, now: datetime.datetime) -> int:
        """
        One instance octet, 7 octets of microseconds since 1970, 8 random octets: 127 bits, never twice.

        The middle part only grows, so the tokens of one batch are neighbours in serial order. The store
        refuses a repetition, should the clock and the random octets ever repeat together.
        """
        self._last_tick = max(self._last_tick + 1, (now - _EPOCH) // _MICROSECOND)
        if len(self._drawn) < _DRAW:
            # Many at a time: a system call for each token would cost as much as its signature.
            self._drawn = self._entropy.draw(_DRAW * 256)
        draw, self._drawn = self._drawn[:_DRAW], self._drawn[_DRAW:]
        return self.settings.instance << 120 | self._last_tick << 64 | int.from_bytes(draw, "big")


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
