"""The auditor's own look at a certificate whose key cannot sign: who stated its possession (RFC 9883)."""

from __future__ import annotations

import dataclasses

import pytest

import cakit
import kemkit
from chancery.audit.certificates import Known, judge
from chancery.audit.findings import Kind
from chancery.audit.standing import grounds
from chancery.pkix.profile import parse_profile
from chancery.ports.auditing import AuditedRequest, AuditedSerial
from fakes import START
from unit.audit.auditworld import issuer_row

PROFILE = parse_profile(kemkit.PROFILE)
ABOUT = {Kind.WRONG_REQUEST, Kind.NOT_GRANTED, Kind.UNREADABLE, Kind.WRONG_COLUMN, Kind.BAD_CHAIN, Kind.NOT_JUDGED}


def _row(kind: str = "ml-kem-512", csr: bytes | None = None) -> AuditedSerial:
    ca = cakit.CA(profiles={**cakit.PROFILES, "kem": PROFILE})
    ca.ask(cakit.make_csr("CN=Alice,O=Example", kemkit.NAMES, cakit.key("kem signer")), "tls-client")
    ca.work()
    [first] = ca.store.certificates.values()
    request = ca.ask(kemkit.ask(kind, certificate=first.der), "kem")
    ca.work()
    key = next(key for key, one in ca.store.certificates.items() if one.request_id == request)
    asked = ca.store.requests[request]
    worker, intent = ca.store.intents[key]
    return AuditedSerial(
        issuer_id=key[0],
        serial=key[1],
        certificate_id=request,
        certificate=ca.store.certificates[key],
        request=AuditedRequest(asked if csr is None else dataclasses.replace(asked, csr=csr), "done"),
        intent=intent,
        worker=worker,
        status=None,
        entries=(),
        revocations=(),
        blocked_at=None,
    )


def _findings(row: AuditedSerial) -> list[Kind]:
    records = [cakit.root_issuer().record, cakit.issuing_record()]
    known = Known(grounds([issuer_row(one) for one in records]), {PROFILE.sha256: PROFILE})
    return [one.kind for one in judge(row, known) if one.kind in ABOUT]


@pytest.mark.parametrize("kind", ["ml-kem-512", "ml-kem-768", "ml-kem-1024"])
def test_a_key_whose_possession_was_stated_has_a_right_to_exist(kind):
    assert [] == _findings(_row(kind))


def test_a_statement_by_a_stranger_is_found():
    forged = kemkit.ask("ml-kem-512", sign=cakit.KeySigner(cakit.key("stranger")).sign)
    assert [Kind.WRONG_REQUEST] == _findings(_row(csr=forged))


def test_a_statement_under_another_ca_s_certificate_is_found():
    foreign = cakit.root_certificate()
    assert [Kind.WRONG_REQUEST] == _findings(_row(csr=kemkit.ask("ml-kem-512", certificate=foreign)))


def test_a_request_for_another_key_is_found():
    other = kemkit.ask("ml-kem-768")
    row = _row(csr=other)
    assert START <= row.intent.recorded_at
    assert [Kind.WRONG_REQUEST] == _findings(row)
