"""The lints: each case file's exact findings, what compares with the issuer, and that no lint fails unseen."""

from __future__ import annotations

import base64
import datetime
import re
import sys
from pathlib import Path

import pytest
from cryptography import x509

import chancery.pkix.lint as lint_module
from cakit import PROFILES, issuing_certificate, issuing_issuer, key, make_csr, root_certificate
from chancery.asn1 import der
from chancery.asn1 import x509 as template
from chancery.ca.issuance import make_serial
from chancery.errors import ErrorType, PKIError
from chancery.pkix.lint import Severity, blocking, lint, lint_crl
from chancery.pkix.path import read_certificate
from chancery.pkix.profile import grant, requested
from chancery.pkix.usage import may_serve_tls
from fakes import START, FakeEntropy

ROOT = Path(__file__).parents[3]
CASES = ROOT / "tests" / "lint_cases"
SOURCES = [*(ROOT / "src" / "chancery" / "pkix").glob("*lints.py")]
SOURCES += [ROOT / "src" / "chancery" / "pkix" / f"{name}.py" for name in ("lint", "linting")]

sys.path.insert(0, str(CASES))
import generate_lint_cases as generate  # noqa: E402 - from the folder that was just made importable
import lint_case_crls as crls  # noqa: E402 - the same
import lint_case_parts as parts  # noqa: E402 - the same

NEEDS_ISSUER = {
    "aki_mismatch",
    "issuer_name_mismatch",
    "issuer_no_ca",
    "name_constraints",
    "outlives_issuer",
    "path_length_exceeded",
    "precedes_issuer",
}


def _case(path: Path) -> tuple[str, bytes, list[str]]:
    label, body, findings = re.fullmatch(
        r"-----BEGIN ([A-Z0-9 ]+)-----\n(.*?)-----END \1-----\n\n(.*)", path.read_text(), re.DOTALL
    ).groups()
    return label, base64.b64decode(body), findings.splitlines()


@pytest.mark.parametrize("path", sorted(CASES.glob("*.case")), ids=lambda path: path.stem)
def test_a_case_has_exactly_its_findings(path):
    label, data, findings = _case(path)
    assert findings == generate.findings_of(data, is_crl=label == "X509 CRL")
    if "clean" in path.stem:
        assert [] == findings


def test_the_cases_are_what_the_generator_makes():
    assert {path.name: path.read_text() for path in CASES.glob("*.case")} == generate.generate()


def test_every_finding_has_a_case():
    codes = {
        code
        for path in SOURCES
        for code in re.findall(r'(?:_error|_warning|_notice)\(\s*"(\w+)"|"(?:pkix|crl)\.(\w+)"', path.read_text())
        for code in code
        if code
    }
    shown = {
        code for path in CASES.glob("*.case") for code in re.findall(r" (?:pkix|crl|br)\.(\w+):", path.read_text())
    }
    assert len(codes) > 50
    assert NEEDS_ISSUER | {"lint_failed"} == codes - shown - {"unreadable", "public_key_unsupported"}


def test_every_lint_cites_its_clause():
    for rule in (*lint_module.lints.LINTS, *lint_module.crl_lints.LINTS):
        assert re.search(r"RFC \d+|BR \d|X\.520|R\d+|EN 319 \d+", rule.__doc__ or ""), rule.__name__


def _leaf(**changes):
    issuer = issuing_issuer()
    granted = grant(
        PROFILES["tls-server"], requested(make_csr(names=("dns:www.example.org",))), issuer.limits, START
    )
    fields = {
        "serial": make_serial(1, FakeEntropy()),
        "algorithm": issuer.algorithm.identifier,
        "issuer": issuer.subject,
        "not_before": granted.not_before,
        "not_after": granted.not_after,
        "subject": granted.subject,
        "spki": granted.spki,
        "extensions": [*granted.extensions, template.authority_key_identifier(issuer.key_identifier)],
        **changes,
    }
    tbs = template.tbs_certificate(**fields)
    return x509.load_der_x509_certificate(template.signed(tbs, issuer.algorithm.identifier, bytes(70)))


def _codes(certificate, issuer) -> list[str]:
    found = lint(certificate, issuer=x509.load_der_x509_certificate(issuer))
    return [one.code for one in found if one.severity > Severity.NOTICE]


def test_a_certificate_is_compared_with_its_issuers():
    issuing, root = issuing_certificate(), root_certificate()
    assert [] == _codes(_leaf(), issuing)
    assert ["pkix.aki_mismatch", "pkix.issuer_name_mismatch"] == _codes(_leaf(), root)
    late = x509.load_der_x509_certificate(issuing).not_valid_after_utc.replace(year=2049)
    found = _codes(_leaf(not_after=late), issuing)
    assert ["pkix.server_validity_too_long", "pkix.outlives_issuer"] == found


def test_a_certificate_below_no_ca_or_below_the_path_length_is_found():
    issuer = issuing_issuer()
    csr = make_csr("CN=leaf", (), key("leaf"))
    granted = grant(PROFILES["tls-client"], requested(csr), issuer.limits, START)
    leaf = issuer.issue(issuer.prepare(granted, make_serial(1, FakeEntropy())))
    assert "pkix.issuer_no_ca" in _codes(_leaf(), leaf)
    below = _leaf(
        extensions=[
            template.basic_constraints(ca=True, path_length=None),
            template.key_usage((5, 6)),
            template.subject_key_identifier(bytes(20)),
            template.authority_key_identifier(issuer.key_identifier),
        ]
    )
    assert ["pkix.path_length_exceeded"] == _codes(below, issuing_certificate())


@pytest.mark.parametrize(
    ("base", "finds"),
    [
        (b"\x82\x0bexample.org", []),
        (b"\x82\x0bexample.net", ["pkix.name_constraints"]),
        (b"\xa4\x0f\x30\x0d\x31\x0b\x30\x09\x06\x03\x55\x04\x0a\x0c\x02XY", ["pkix.name_constraints"]),
    ],
)
def test_a_certificate_is_held_to_the_name_constraints_of_its_issuer(base, finds):
    above = x509.load_der_x509_certificate(parts.cert(**parts.CA, extra=[parts.constraints(base)]))
    found = lint(x509.load_der_x509_certificate(parts.cert()), issuer=above)
    wanted = {"pkix.name_constraints", "pkix.lint_failed"}
    assert finds == [one.code for one in found if one.code in wanted]


def test_a_certificate_that_is_older_than_its_issuers_is_found():
    early = _leaf(not_before=START - datetime.timedelta(seconds=1))
    assert ["pkix.precedes_issuer"] == _codes(early, issuing_certificate())


@pytest.mark.parametrize("case", ["name_constraints_of_one_host", "tls_feature_empty"])
def test_what_pyca_did_not_foresee_is_unreadable_everywhere(case):
    """It raises TypeError there, as if the caller were wrong."""
    _, data, _ = _case(CASES / f"{case}.case")
    assert may_serve_tls(data)
    with pytest.raises(PKIError, match="cannot be read") as caught:
        read_certificate(data)
    assert ErrorType.BAD_DATA_FORMAT is caught.value.type


def test_a_name_that_pyca_does_not_read_is_refused_at_the_gate():
    _, data, _ = _case(CASES / "organisation_not_utf8.case")
    with pytest.raises(PKIError, match="cannot be read"):
        read_certificate(data)


def test_a_crl_is_compared_with_its_issuers():
    _, data, _ = _case(CASES / "crl_clean.case")
    found = lint_crl(data, issuer=x509.load_der_x509_certificate(issuing_certificate()))
    assert ["crl.issuer_name_mismatch", "crl.aki_mismatch"] == [one.code for one in found]


def test_an_entry_of_a_crl_has_three_fields():
    four = der.sequence(der.tlv(2, b"\x02" * 17), der.time(START), der.sequence(), der.null())
    assert {"pkix.lint_failed"} == {one.code for one in lint_crl(crls.crl(entries=(four,)))}


def test_a_lint_that_throws_is_a_fatal_finding(monkeypatch):
    def broken(_):
        raise KeyError("odd")

    monkeypatch.setattr(lint_module.lints, "LINTS", (broken,))
    [found] = lint(_leaf())
    assert (Severity.FATAL, "pkix.lint_failed", True) == (found.severity, found.code, found.blocks)
    assert "broken" in found.detail


def test_r9_errors_and_worse_block():
    _, data, _ = _case(CASES / "validity_of_server_201_days.case")
    assert [] == blocking(lint(x509.load_der_x509_certificate(data)))
    _, data, _ = _case(CASES / "san_empty.case")
    assert ["pkix.san_empty"] == [one.code for one in blocking(lint(x509.load_der_x509_certificate(data)))]
