"""
Timestamps of Authenticode from before RFC 3161: a PKCS#7 whose signer countersigns a signature (PKCS#9 5.6).

```
TimeStampRequest ::= SEQUENCE {
    countersignatureType OBJECT IDENTIFIER, -- 1.3.6.1.4.1.311.3.2.1
    attributes Attributes OPTIONAL,
    content ContentInfo } -- id-data, the octets of the signature
```

It has no policy, no nonce and no word for a refusal; both ways it travels as base64.
"""

from __future__ import annotations

import base64
import binascii

from chancery.asn1 import der, oids
from chancery.asn1.cms import ID_DATA

MAX_SIGNATURE = 5120


def decode_request(data: bytes) -> bytes:
    """
    Return the signature (octets) that a TimeStampRequest (base64) wants to have countersigned.

    Raises PKIError(BAD_DATA_FORMAT) when it is none, has attributes, or no signature is that long.
    """
    try:
        encoded = base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error:
        raise der.malformed("a request that is not in base64") from None
    der.check(encoded, max_size=MAX_SIGNATURE + 128)
    reader = der.Reader(encoded).enter()
    if reader.oid() != oids.SPC_TIME_STAMP_REQUEST:
        raise der.malformed("a request of another type")
    content = reader.enter()
    reader.done()
    if content.oid() != ID_DATA:
        raise der.malformed("a request over something else than data")
    wrapped = content.enter(0xA0)
    content.done()
    signature = wrapped.take(der.OCTET_STRING)
    wrapped.done()
    if not 0 < len(signature) <= MAX_SIGNATURE:
        raise der.malformed("a signature that is empty or too long")
    return signature


def encode_response(content_info: bytes) -> bytes:
    """Return a ContentInfo (DER) as it is sent."""
    return base64.encodebytes(content_info)
