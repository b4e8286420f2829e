"""pkilint as a second opinion in this process (R9)."""

from __future__ import annotations

import sys

import pytest

from cakit import CA, make_csr, root_certificate
from chancery.cli import build
from chancery.config import LinterSection
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.linters import PkilintLinter
from chancery.linters.pkilint import findings


def certificate() -> bytes:
    ca = CA()
    ca.ask(make_csr(names=("dns:www.example.org",)))
    ca.work()
    [record] = ca.store.certificates.values()
    return record.der


def test_it_has_nothing_against_what_the_ca_issues():
    assert PkilintLinter()(certificate()) is None


def test_the_baseline_requirements_want_more_than_a_private_ca_has():
    assert "pkilint: cabf." in PkilintLinter("tls-br")(certificate())


def test_en_319_412_wants_more_than_a_tls_server_has():
    assert "etsi." in (PkilintLinter("etsi")(certificate()) or "")


def test_what_an_installation_explains_is_left_out():
    linter = PkilintLinter("tls-br")
    codes = linter(certificate()).removeprefix("pkilint: ").partition(" and ")[0].split(", ")
    assert codes[0] not in (PkilintLinter("tls-br", codes[:1])(certificate()) or "")


def test_many_findings_are_counted():
    found = sorted(findings("etsi", root_certificate()))
    assert f"pkilint: {', '.join(found[:5])} and {len(found) - 5} more" == PkilintLinter("etsi")(
        root_certificate()
    )
    assert len(found) > 5


def test_what_it_cannot_read_it_gave_no_answer_about():
    with pytest.raises(PKIError, match="pkilint failed") as caught:
        PkilintLinter()(b"\x30\x00")
    assert ErrorType.SYSTEM_UNAVAIL is caught.value.type


def test_where_it_is_not_installed_the_operator_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pkilint", None)
    with pytest.raises(OperatorError, match="not installed"):
        PkilintLinter()


def test_linters_come_from_the_configuration():
    found = build.linters({"a": LinterSection(pkilint="rfc5280"), "b": LinterSection(command=("true",))})
    assert {"a", "b"} == set(found)
    assert found["a"](certificate()) is None
    assert found["b"](certificate()) is None
