"""pkilint as a second opinion: findings above notice, by code, for certificates, CRLs and OCSP responses."""

from __future__ import annotations

import csv
import functools
from pathlib import Path

from pkilint import loader, pkix
from pkilint.pkix import crl, extension, name, ocsp
from pkilint.validation import ValidationFindingSeverity

from chancery.linters import pkilint as linter


@functools.cache
def _crl():
    return crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            crl.create_issuer_validator_container([]),
            crl.create_validity_validator_container([]),
            crl.create_extensions_validator_container([]),
        ],
    )


@functools.cache
def _ocsp():
    return ocsp.create_pkix_ocsp_response_validator_container(
        [
            ocsp.create_response_decoder(),
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [],
    )


def findings(kind: str, der: bytes) -> set[str]:
    """Codes of the findings above notice; `kind` is certificate, crl or ocsp."""
    if kind == "certificate":
        return linter.findings("rfc5280", der)
    load, validators = {
        "crl": (loader.RFC5280CertificateListDocumentLoader, _crl),
        "ocsp": (loader.RFC6960OCSPResponseDocumentLoader, _ocsp),
    }[kind]
    document = load().load_document(der, kind)
    return {
        found.finding.code
        for result in validators().validate(document.root)
        for found in result.finding_descriptions
        # Less is graver.
        if found.finding.severity < ValidationFindingSeverity.NOTICE
    }


def explained(path: Path) -> dict[str, set[str]]:
    """The findings that a file beside the test explains: kind, code, explanation."""
    known: dict[str, set[str]] = {"certificate": set(), "crl": set(), "ocsp": set()}
    with path.open(newline="") as file:
        for kind, code, why in csv.reader(line for line in file if line.strip() and not line.startswith("#")):
            assert why.strip()
            known[kind].add(code)
    return known
