"""
SignedData (RFC 5652 5) written as DER: one signer with signed attributes, or certificates alone.

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

import datetime
import hashlib
import hmac
from collections.abc import Iterable, Sequence

from cryptography.exceptions import InvalidSignature

from chancery.asn1 import der
from chancery.asn1.signature import PublicKey, Scheme, SignatureAlgorithm

ID_DATA = "1.2.840.113549.1.7.1"
ID_SIGNED_DATA = "1.2.840.113549.1.7.2"
# RFC 5652 11.1 to 11.3
ID_CONTENT_TYPE = "1.2.840.113549.1.9.3"
ID_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
ID_SIGNING_TIME = "1.2.840.113549.1.9.5"
# RFC 5035 3
ID_AA_SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47"
_RSA_ENCRYPTION = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.null())
# RFC 5754 2: the parameters of SHA-2 are absent.
_DIGESTS = {
    "sha256": der.sequence(der.oid("2.16.840.1.101.3.4.2.1")),
    "sha384": der.sequence(der.oid("2.16.840.1.101.3.4.2.2")),
    "sha512": der.sequence(der.oid("2.16.840.1.101.3.4.2.3")),
}


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
        self._content_type_attribute = _attribute(ID_CONTENT_TYPE, der.oid(content_type))
        self._certificate_attribute = _attribute(ID_AA_SIGNING_CERTIFICATE_V2, signing_certificate_v2(certificate))
        self._content_oid = der.oid(content_type)
        self._signed_data_oid = der.oid(ID_SIGNED_DATA)
        # RFC 5652 5.1: version 3, because the content is not id-data.
        self._head = der.integer(3) + der.tlv(der.SET, digest)
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
            _attribute(ID_MESSAGE_DIGEST, digest),
        ]
        if signing_time is not None:
            attributes.append(_attribute(ID_SIGNING_TIME, der.time(signing_time)))
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
    return der.sequence(der.oid(ID_SIGNED_DATA), der.explicit(0, signed_data))


def verify(content_info: bytes, content: bytes, public_key: PublicKey, algorithm: SignatureAlgorithm) -> None:
    """
    Read a ContentInfo (DER) of one signer back and check that it carries `content` under this key.

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
    reader, wanted = der.Reader(attributes).enter(der.SET), der.oid(ID_MESSAGE_DIGEST)
    while reader:
        attribute = reader.enter()
        if attribute.raw(der.OID) == wanted:
            return attribute.enter(der.SET).take(der.OCTET_STRING)
    raise der.malformed("no messageDigest")
