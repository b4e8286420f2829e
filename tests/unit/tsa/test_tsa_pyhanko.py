"""pyHanko: a PAdES-T signature on a PDF, its timestamp from here, validated by pyHanko."""

from __future__ import annotations

import asyncio
import base64
import io

import pytest
from asn1crypto import keys, x509
from cryptography.hazmat.primitives import serialization
from pyhanko.pdf_utils.generic import StreamObject
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.pdf_utils.writer import PageObject, PdfFileWriter
from pyhanko.sign import fields, signers
from pyhanko.sign.timestamps import HTTPTimeStamper
from pyhanko.sign.validation import async_validate_pdf_signature
from pyhanko.sign.validation.settings import KeyUsageConstraints
from pyhanko_certvalidator import ValidationContext
from pyhanko_certvalidator.registry import SimpleCertificateStore

from chancery.web.tspaccess import Access
from fakes import START, FakeClock
from unit.tsa.kit import FakeTimestampStore, as_der, certificate, key, root, service, serving
from unit.web.test_web_tsp_access import CLOSED, KEY, robot
from unit.web.tsaclientmemory import MemoryUsage


def pdf() -> io.BytesIO:
    writer = PdfFileWriter()
    contents = writer.add_object(StreamObject(stream_data=b"BT ET"))
    writer.insert_page(PageObject(contents=contents, media_box=(0, 0, 200, 200)))
    made = io.BytesIO()
    writer.write(made)
    return made


def loaded(one) -> x509.Certificate:
    return x509.Certificate.load(as_der(one))


def signer() -> signers.SimpleSigner:
    der = key("rsa").private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return signers.SimpleSigner(
        loaded(certificate("rsa", usage=None)), keys.PrivateKeyInfo.load(der), SimpleCertificateStore()
    )


def trusting(kind: str) -> ValidationContext:
    return ValidationContext(trust_roots=[loaded(root(kind))], moment=START, allow_fetching=False)


@pytest.mark.parametrize("kind", ["p256", "rsa", "p384"])
def test_a_pades_signature_with_a_timestamp_is_valid_in_pyhanko_s_eyes(kind):
    store = FakeTimestampStore()
    access = Access(CLOSED, MemoryUsage(robot()), FakeClock())

    async def sign_and_validate(port):
        # HTTP Basic, the API key as the password: what programs know that know no API keys.
        basic = base64.b64encode(b"anybody:" + KEY).decode()
        headers = {"Authorization": f"Basic {basic}"}
        stamper = HTTPTimeStamper(f"http://127.0.0.1:{port}/tsa", headers=headers)
        meta = signers.PdfSignatureMetadata(
            field_name="Signature", md_algorithm="sha256", subfilter=fields.SigSeedSubFilter.PADES
        )
        signed = await signers.async_sign_pdf(
            IncrementalPdfFileWriter(pdf()), meta, signer=signer(), timestamper=stamper
        )
        embedded = PdfFileReader(signed).embedded_signatures[0]
        return await async_validate_pdf_signature(
            embedded,
            signer_validation_context=trusting("rsa"),
            ts_validation_context=trusting(kind),
            key_usage_settings=KeyUsageConstraints(key_usage={"digital_signature"}),
        )

    with serving(service(kind, store=store, access=access)) as port:
        status = asyncio.run(sign_and_validate(port))
    assert status.bottom_line
    assert (True, True, START) == (
        status.timestamp_validity.valid,
        status.timestamp_validity.trusted,
        status.timestamp_validity.timestamp,
    )
    assert {"robot@127.0.0.1"} == {one.client for one in store.tokens.values()}
