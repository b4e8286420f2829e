"""
SignedData (RFC 5652 5), written and read as DER: one signer with signed attributes, or certificates alone.

```
ContentInfo ::= SEQUENCE { contentType OBJECT IDENTIFIER, content [0] EXPLICIT ANY }
SignedData ::= SEQUENCE {
    version CMSVersion,
    digestAlgorithms SET OF DigestAlgorithmIdentifier,
    encapContentInfo SEQUENCE { eContentType OBJECT IDENTIFIER, eContent [0] EXPLICIT OCTET STRING OPTIONAL },
    certificates [0] IMPLICIT CertificateSet OPTIONAL,
    crls [1] IMPLICIT RevocationInfoChoices OPTIONAL,
    signerInfos SET OF SignerInfo }
SignerInfo ::= SEQUENCE {
    version CMSVersion,
    sid CHOICE { issuerAndSerialNumber IssuerAndSerialNumber, … },
    digestAlgorithm DigestAlgorithmIdentifier,
    signedAttrs [0] IMPLICIT SET SIZE (1..MAX) OF Attribute OPTIONAL,
    signatureAlgorithm SignatureAlgorithmIdentifier,
    signature OCTET STRING,
    unsignedAttrs [1] IMPLICIT SET SIZE (1..MAX) OF Attribute OPTIONAL }
```
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence

from cryptography.exceptions import InvalidSignature

from chancery.asn1 import der, oids
from chancery.asn1.signature import (
    ALGORITHMS,
    PublicKey,
    Scheme,
    SignatureAlgorithm,
    algorithm_from_identifier,
)
from chancery.errors import ErrorType, PKIError

ID_DATA = "1.2.840.113549.1.7.1"
# RFC 8017 C
_RSA_ENCRYPTION = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.null())
# RFC 5754 2: the parameters of SHA-2 are absent when written; NULL is to be accepted as well.
_DIGEST_OIDS = {"sha256": oids.SHA256, "sha384": oids.SHA384, "sha512": oids.SHA512}
_DIGESTS = {name: der.sequence(der.oid(oid)) for name, oid in _DIGEST_OIDS.items()}
_DIGEST_NAMES = {oid: name for name, oid in _DIGEST_OIDS.items()}
MAX_CONTENT_INFO = 256 * 1024


def digest_name(algorithm: SignatureAlgorithm) -> str:
    """
    Return hashlib's name of the message digest that goes with a signature algorithm.

    Ed25519 takes SHA-512 (RFC 8419 3.1).
    """
    return algorithm.hash.name if algorithm.hash else "sha512"


def signature_identifier(algorithm: SignatureAlgorithm) -> bytes:
    """
    Return the SignerInfo.signatureAlgorithm.

    RSASSA-PKCS1-v1_5 is written rsaEncryption, the one form that every verifier must know (RFC 5754 3.2); all
    others stand as in certificates.
    """
    return _RSA_ENCRYPTION if algorithm.scheme is Scheme.RSA_PKCS1 else algorithm.identifier


def issuer_and_serial(certificate: bytes) -> tuple[bytes, bytes]:
    """
    Return the issuer Name and the serialNumber INTEGER of a Certificate (DER), each a whole TLV.

    Raises PKIError(BAD_DATA_FORMAT) when it is not one.
    """
    tbs = der.Reader(certificate).enter().enter()
    if tbs.peek() == 0xA0:
        tbs.raw()
    serial = tbs.raw(der.INTEGER)
    tbs.raw(der.SEQUENCE)
    return tbs.raw(der.SEQUENCE), serial


def signing_certificate_v2(certificate: bytes) -> bytes:
    """
    Return the value of SigningCertificateV2 that names this Certificate (DER) by SHA-256 (RFC 5035 4, RFC 5816).

    ```
    SigningCertificateV2 ::= SEQUENCE { certs SEQUENCE OF ESSCertIDv2, policies … OPTIONAL }
    ESSCertIDv2 ::= SEQUENCE {
        hashAlgorithm AlgorithmIdentifier DEFAULT {algorithm id-sha256},
        certHash OCTET STRING,
        issuerSerial SEQUENCE { issuer GeneralNames, serialNumber CertificateSerialNumber } OPTIONAL }
    ```
    """
    issuer, serial = issuer_and_serial(certificate)
    issuer_serial = der.sequence(der.sequence(der.explicit(4, issuer)), serial)
    cert_hash = der.octet_string(hashlib.sha256(certificate).digest())
    return der.sequence(der.sequence(der.sequence(cert_hash, issuer_serial)))


def _attribute(attribute_type: str, value: bytes) -> bytes:
    return der.sequence(der.oid(attribute_type), der.tlv(der.SET, value))


class SignedDataTemplate:
    """
    Everything of a SignedData with one signer that does not change from one content to the next.

    `certificate` is the signer's (DER); `certificates` are embedded when asked for. The caller signs what
    `signed_attributes` returns and hands the signature to `content_info`.
    """

    def __init__(
        self,
        content_type: str,
        certificate: bytes,
        algorithm: SignatureAlgorithm,
        certificates: Sequence[bytes] = (),
    ) -> None:
        self._digest = digest_name(algorithm)
        digest = _DIGESTS[self._digest]
        self._content_type_attribute = _attribute(oids.CONTENT_TYPE, der.oid(content_type))
        self._certificate_attribute = _attribute(oids.SIGNING_CERTIFICATE_V2, signing_certificate_v2(certificate))
        self._content_oid = der.oid(content_type)
        self._signed_data_oid = der.oid(oids.SIGNED_DATA)
        # RFC 5652 5.1: version 3, unless the content is id-data.
        self._head = der.integer(1 if content_type == ID_DATA else 3) + der.tlv(der.SET, digest)
        self._certificates = der.tlv(0xA0, *sorted(certificates)) if certificates else b""
        # RFC 5652 5.3: version 1, because the signer is named by issuer and serial.
        self._signer = der.integer(1) + der.sequence(*issuer_and_serial(certificate)) + digest
        self._signature_identifier = signature_identifier(algorithm)

    def signed_attributes(self, content: bytes, signing_time: datetime.datetime | None = None) -> bytes:
        """Return the SET OF Attribute (DER) over `content` (the eContent octets); this is what gets signed."""
        digest = der.octet_string(hashlib.new(self._digest, content).digest())
        attributes = [
            self._content_type_attribute,
            self._certificate_attribute,
            _attribute(oids.MESSAGE_DIGEST, digest),
        ]
        if signing_time is not None:
            attributes.append(_attribute(oids.SIGNING_TIME, der.time(signing_time)))
        return der.set_of(attributes)

    def content_info(
        self, content: bytes, signed_attributes: bytes, signature: bytes, *, with_certificates: bool
    ) -> bytes:
        """Return the ContentInfo (DER) of `content`, its signed attributes and the signature over them."""
        signer_info = der.sequence(
            self._signer,
            # RFC 5652 5.4: signed with the tag of SET OF, sent with [0] IMPLICIT.
            b"\xa0",
            signed_attributes[1:],
            self._signature_identifier,
            der.octet_string(signature),
        )
        signed_data = der.sequence(
            self._head,
            der.sequence(self._content_oid, der.explicit(0, der.octet_string(content))),
            self._certificates if with_certificates else b"",
            der.tlv(der.SET, signer_info),
        )
        return der.sequence(self._signed_data_oid, der.explicit(0, signed_data))


def certs_only(certificates: Iterable[bytes]) -> bytes:
    """
    Return the ContentInfo (DER) that carries these Certificates (DER) and nothing else.

    A degenerate SignedData (RFC 5652 5.2), as in .p7c files (RFC 8551 3.2.2).
    """
    signed_data = der.sequence(
        der.integer(1),
        der.tlv(der.SET, b""),
        der.sequence(der.oid(ID_DATA)),
        der.tlv(0xA0, *sorted(certificates)),
        der.tlv(der.SET, b""),
    )
    return der.sequence(der.oid(oids.SIGNED_DATA), der.explicit(0, signed_data))


def verify(content_info: bytes, content: bytes, public_key: PublicKey, algorithm: SignatureAlgorithm) -> None:
    """
    Read a ContentInfo (DER) of one signer back and check that it carries `content` under this key.

    For what this suite has just signed: `decode` and `verify_signer` judge what others did.

    Raises InvalidSignature when the eContent, its messageDigest or the signature is another, and
    PKIError(BAD_DATA_FORMAT) when the structure is another.
    """
    outer = der.Reader(content_info).enter()
    outer.take(der.OID)
    signed_data = outer.enter(0xA0).enter()
    signed_data.take(der.INTEGER)
    signed_data.take(der.SET)
    encapsulated = signed_data.enter()
    encapsulated.take(der.OID)
    if encapsulated.enter(0xA0).take(der.OCTET_STRING) != content:
        raise InvalidSignature("another content")
    if signed_data.peek() == 0xA0:
        signed_data.raw()
    signer_info = signed_data.enter(der.SET).enter()
    signer_info.take(der.INTEGER)
    signer_info.raw(der.SEQUENCE)
    signer_info.raw(der.SEQUENCE)
    attributes = b"\x31" + signer_info.raw(0xA0)[1:]
    signer_info.raw(der.SEQUENCE)
    digest = hashlib.new(digest_name(algorithm), content).digest()
    if not hmac.compare_digest(_message_digest(attributes), digest):
        raise InvalidSignature("another messageDigest")
    algorithm.verify(public_key, signer_info.take(der.OCTET_STRING), attributes)


def _message_digest(attributes: bytes) -> bytes:
    reader, wanted = der.Reader(attributes).enter(der.SET), der.oid(oids.MESSAGE_DIGEST)
    while reader:
        attribute = reader.enter()
        if attribute.raw(der.OID) == wanted:
            return attribute.enter(der.SET).take(der.OCTET_STRING)
    raise der.malformed("no messageDigest")


@dataclasses.dataclass(frozen=True, slots=True)
class SignedData:
    """
    A SignedData with exactly one signer and signed attributes, as read; nothing of it is verified.

    `issuer` and `serial` name the signer's certificate (each a whole TLV); `signed_attributes` is the SET OF
    that the signature is over, `attributes` the one value of each attribute by OID; `certificates` are DER.
    """

    content_type: str
    content: bytes
    certificates: tuple[bytes, ...]
    issuer: bytes
    serial: bytes
    digest: str
    signed_attributes: bytes
    attributes: Mapping[str, bytes]
    signature_identifier: bytes
    signature: bytes

    def signature_algorithm(self) -> SignatureAlgorithm:
        """Return the algorithm of the signature; PKIError(BAD_ALG) when this suite does not know it."""
        # RFC 5754 3.2: rsaEncryption takes its digest from digestAlgorithm
        if self.signature_identifier == _RSA_ENCRYPTION:
            return ALGORITHMS[f"{self.digest}WithRSAEncryption"]
        return algorithm_from_identifier(self.signature_identifier)


def _algorithm(identifier: bytes) -> tuple[str, bytes]:
    reader = der.Reader(identifier).enter()
    oid, parameters = reader.oid(), reader.raw() if reader else b""
    reader.done()
    return oid, parameters


def _digest_from(identifier: bytes) -> str:
    oid, parameters = _algorithm(identifier)
    name = _DIGEST_NAMES.get(oid)
    if name is None or parameters not in (b"", der.null()):
        raise PKIError(ErrorType.BAD_ALG, "a digest algorithm that is not supported")
    return name


def decode(content_info: bytes) -> SignedData:
    """
    Read a ContentInfo (DER) that is a SignedData with one signer, its signed attributes and its content.

    Raises PKIError(BAD_DATA_FORMAT) when it is anything else or not canonical, BAD_ALG for an unknown digest.
    """
    der.check(content_info, max_size=MAX_CONTENT_INFO)
    outer = der.Reader(content_info).enter()
    if outer.oid() != oids.SIGNED_DATA:
        raise der.malformed("not a SignedData")
    wrapped = outer.enter(0xA0)
    outer.done()
    body = wrapped.enter()
    wrapped.done()
    if body.integer() not in (1, 3, 4, 5):
        raise der.malformed("a SignedData of an unknown version")
    body.raw(der.SET)
    encapsulated = body.enter()
    content_type = encapsulated.oid()
    content = encapsulated.enter(0xA0).take(der.OCTET_STRING)
    encapsulated.done()
    certificates = _certificates(body.enter(0xA0)) if body.peek() == 0xA0 else ()
    if body.peek() == 0xA1:  # crls
        body.raw()
    signers = body.enter(der.SET)
    body.done()
    signer = signers.enter()
    signers.done()
    return _signed_data(content_type, content, certificates, signer)


def _certificates(reader: der.Reader) -> tuple[bytes, ...]:
    found = []
    while reader:
        found.append(reader.raw(der.SEQUENCE))
    return tuple(found)


def _signed_data(
    content_type: str, content: bytes, certificates: tuple[bytes, ...], signer: der.Reader
) -> SignedData:
    if signer.integer() != 1:
        raise der.malformed("a signer that is not named by issuer and serial number")
    sid = signer.enter()
    issuer, serial = sid.raw(der.SEQUENCE), sid.raw(der.INTEGER)
    sid.done()
    digest = _digest_from(signer.raw(der.SEQUENCE))
    signed_attributes = b"\x31" + signer.raw(0xA0)[1:]
    # RFC 5652 5.3: signedAttrs is DER, and the gate knows the order of a SET by its own tag only.
    der.check(signed_attributes, max_size=MAX_CONTENT_INFO)
    identifier = signer.raw(der.SEQUENCE)
    signature = signer.take(der.OCTET_STRING)
    if signer.peek() == 0xA1:  # unsignedAttrs
        signer.raw()
    signer.done()
    return SignedData(
        content_type,
        content,
        certificates,
        issuer,
        serial,
        digest,
        signed_attributes,
        _attributes(signed_attributes),
        identifier,
        signature,
    )


def _attributes(signed_attributes: bytes) -> Mapping[str, bytes]:
    """Return the one value (TLV) of each attribute; RFC 5652 11 allows one instance with one value each."""
    reader, found = der.Reader(signed_attributes).enter(der.SET), dict[str, bytes]()
    while reader:
        attribute = reader.enter()
        name, values = attribute.oid(), attribute.enter(der.SET)
        attribute.done()
        if name in found:
            raise der.malformed("a signed attribute that stands twice")
        found[name] = values.raw()
        values.done()
    return found


def verify_signer(signed: SignedData, certificate: bytes, public_key: PublicKey) -> None:
    """
    Check a SignedData under its signer's Certificate (DER) and key (RFC 5652 5.4, RFC 5816 2.2).

    The signer must be named by this issuer and serial number, contentType and messageDigest must be those of
    the content, and signingCertificateV2 must name this certificate first. Raises InvalidSignature when one of
    them is another or the signature does not verify, PKIError(BAD_ALG) or (BAD_DATA_FORMAT) as `decode`.
    """
    if (signed.issuer, signed.serial) != issuer_and_serial(certificate):
        raise InvalidSignature("another signer")
    attributes = signed.attributes
    if attributes.get(oids.CONTENT_TYPE) != der.oid(signed.content_type):
        raise InvalidSignature("another contentType")
    digest = der.octet_string(hashlib.new(signed.digest, signed.content).digest())
    if not hmac.compare_digest(attributes.get(oids.MESSAGE_DIGEST, b""), digest):
        raise InvalidSignature("another messageDigest")
    signing_certificate = attributes.get(oids.SIGNING_CERTIFICATE_V2)
    if signing_certificate is None:
        raise InvalidSignature("no signingCertificateV2 attribute")
    _check_cert_id(der.Reader(signing_certificate).enter().enter().enter(), certificate)
    algorithm = signed.signature_algorithm()
    if algorithm.hash and digest_name(algorithm) != signed.digest:
        raise InvalidSignature("a signature over another digest than the message's")
    algorithm.verify(public_key, signed.signature, signed.signed_attributes)


def _check_cert_id(reader: der.Reader, certificate: bytes) -> None:
    """Refuse an ESSCertIDv2 that names another certificate; issuerSerial is compared when it is there."""
    digest = _digest_from(reader.raw(der.SEQUENCE)) if reader.peek() == der.SEQUENCE else "sha256"
    if not hmac.compare_digest(reader.take(der.OCTET_STRING), hashlib.new(digest, certificate).digest()):
        raise InvalidSignature("signingCertificateV2 names another certificate")
    if reader:
        issuer, serial = issuer_and_serial(certificate)
        if reader.raw(der.SEQUENCE) != der.sequence(der.sequence(der.explicit(4, issuer)), serial):
            raise InvalidSignature("signingCertificateV2 names another issuer or serial number")
    reader.done()
