"""
PKCS#10 requests (RFC 2986) for keys that cannot sign, by a statement of possession (RFC 9883).

    PrivateKeyPossessionStatement ::= SEQUENCE { signer IssuerAndSerialNumber, cert Certificate OPTIONAL }

The request is signed by another key of the same subject, whose certificate the statement names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chancery.asn1 import der, oids
from chancery.asn1.cms import issuer_and_serial
from chancery.asn1.x509 import subject_alt_name


def statement_signer(attributes: der.Reader) -> bytes | None:
    """
    Return the certificate (DER) in the statement of possession among a request's attributes; None: no statement.

    `attributes` stands at the [0] of a CertificationRequestInfo. The certificate has to be there, although the
    type allows to leave it out. Raises PKIError(BAD_DATA_FORMAT) for one that is malformed, stands twice, or has
    another certificate in it than it names.
    """
    found: bytes | None = None
    inner = attributes.enter(0xA0)
    while inner:
        attribute = inner.enter()
        if attribute.oid() != oids.STATEMENT_OF_POSSESSION:
            continue
        if found is not None:
            raise der.malformed("more than one statement of possession (RFC 9883)")
        values = attribute.enter(der.SET)
        attribute.done()
        found = _certificate(values.enter())
        values.done()
    return found


def _certificate(statement: der.Reader) -> bytes:
    signer = statement.enter()
    named = (signer.raw(der.SEQUENCE), signer.raw(der.INTEGER))
    signer.done()
    if not statement:
        raise der.malformed("a statement of possession without the certificate of its signer (RFC 9883)")
    certificate = statement.raw(der.SEQUENCE)
    statement.done()
    if issuer_and_serial(certificate) != named:
        raise der.malformed("a statement of possession with another certificate than it names (RFC 9883)")
    return certificate


def statement_request(
    *,
    subject: bytes,
    spki: bytes,
    names: Sequence[str],
    certificate: bytes,
    algorithm: bytes,
    sign: Callable[[bytes], bytes],
) -> bytes:
    """
    Return a CertificationRequest (DER) for a key that cannot sign, with a statement of possession.

    `subject`, `spki` and `certificate`, the signer's, are DER, as is `algorithm`, its AlgorithmIdentifier; `names`
    are canonical text names. `sign` is given the CertificationRequestInfo.
    """
    issuer, serial = issuer_and_serial(certificate)
    statement = der.sequence(der.sequence(issuer, serial), certificate)
    attributes = [_attribute(oids.STATEMENT_OF_POSSESSION, statement)]
    if names:
        wanted = der.sequence(subject_alt_name(names, critical=False))
        attributes.append(_attribute(oids.EXTENSION_REQUEST, wanted))
    # DER: the elements of a SET OF stand in the order of their encodings (X.690 11.6).
    info = der.sequence(der.integer(0), subject, spki, der.tlv(0xA0, *sorted(attributes)))
    return der.sequence(info, algorithm, der.bit_string(sign(info)))


def _attribute(oid: str, value: bytes) -> bytes:
    return der.sequence(der.oid(oid), der.tlv(der.SET, value))
