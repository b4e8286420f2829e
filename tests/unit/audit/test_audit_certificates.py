"""R1, R9, R27, R29: what gives a certificate no right to exist is found, by the rule that it breaks."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json

import pytest

import cakit
from chancery.asn1 import der, extensions, oids
from chancery.asn1 import x509 as template
from chancery.asn1.signature import KeySigner
from chancery.audit import findings
from chancery.audit.auditor import audit
from chancery.audit.findings import Kind
from chancery.errors import ErrorType, PKIError
from chancery.pkix.profile import parse_profile
from chancery.ports.auditing import Scope
from unit.audit.auditworld import honest

SECOND = datetime.timedelta(seconds=1)


@pytest.fixture
def world():
    return honest()


def found(world, **options):
    return [one.kind for one in audit(world, world.at, **options).findings]


def extension(oid: str, value: bytes, *, critical: bool = False):
    """Replace or add this extension among those that are granted."""

    def change(granted):
        made = template.extension(oid, value, critical=critical)
        kept = [one for one in granted.extensions if der.Reader(one).enter().oid() != oid]
        return dataclasses.replace(granted, extensions=(*kept, made))

    return change


def test_what_the_ca_made_has_a_right_to_exist(world):
    report = audit(world, world.at)
    assert ((), 0, {}) == (report.findings, report.omitted, dict(report.counts))
    assert (2, 3, 5, 1, 3, 1) == (
        report.issuers,
        report.profiles,
        report.certificates,
        report.unfinished,
        report.crls,
        report.operators,
    )


def test_the_test_s_own_way_to_make_a_certificate_anew_is_clean(world):
    world.reissue(4)
    assert [] == found(world)


def unreadable(world):
    world.store_certificate(1, b"\x30\x03\x02\x01\x01")


def no_intent(world):
    world.put(world.serial(1), intent=None, worker=None)


def another_tbs(world):
    tbs = bytearray(world.serial(1).intent.tbs)
    tbs[-1] ^= 1
    world.store_certificate(1, world.serial(1).certificate.der, bytes(tbs))


def another_request_in_the_intent(world):
    world.edit(1, "intent", request_id=2)


def a_broken_signature(world):
    data = bytearray(world.serial(4).certificate.der)
    data[-1] ^= 1
    world.store_certificate(4, bytes(data))


def another_key_s_signature(world):
    tbs = world.serial(4).intent.tbs
    signer = KeySigner(cakit.key("somebody"))
    world.store_certificate(4, template.signed(tbs, signer.algorithm.identifier, signer.sign(tbs)))


def no_issuer(world):
    row = world.issuer_rows[1]
    world.issuer_rows[1] = dataclasses.replace(
        row, record=dataclasses.replace(row.record, certificate=b"\x30\x00")
    )


def another_issuer_s_key_identifier(world):
    world.reissue(4, aki=template.authority_key_identifier(bytes(20)))


def a_serial_of_another_instance(world):
    world.reissue(4, serial=b"\x02" + bytes(range(16)))


def a_short_serial(world):
    world.reissue(4, serial=bytes(range(1, 9)))


def another_serial_in_the_row(world):
    world._rename(world.serial(4), b"\x01" + bytes(range(16)))


def another_key_in_the_row(world):
    world.edit(4, "certificate", spki_sha256=bytes(32))


def another_time_in_the_row(world):
    world.edit(4, "certificate", not_before=world.serial(4).certificate.not_before + SECOND)


def another_subject_in_the_row(world):
    world.edit(4, "certificate", subject="CN=Mallory")


def another_profile_in_the_row(world):
    world.edit(4, "certificate", profile="tls-client")


CERTIFICATE = [
    (unreadable, [Kind.UNREADABLE]),
    (no_intent, [Kind.NO_INTENT]),
    (another_tbs, [Kind.NOT_INTENDED]),
    (another_request_in_the_intent, [Kind.WRONG_COLUMN]),
    (a_broken_signature, [Kind.BAD_CHAIN]),
    (another_key_s_signature, [Kind.BAD_CHAIN]),
    (another_issuer_s_key_identifier, [Kind.BAD_CHAIN, Kind.LINT]),
    (a_serial_of_another_instance, [Kind.BAD_SERIAL]),
    (a_short_serial, [Kind.BAD_SERIAL]),
    (another_serial_in_the_row, [Kind.WRONG_COLUMN]),
    (another_key_in_the_row, [Kind.WRONG_COLUMN]),
    (another_time_in_the_row, [Kind.WRONG_COLUMN]),
    (another_subject_in_the_row, [Kind.WRONG_COLUMN, Kind.JOURNAL_DIFFERS]),
    (another_profile_in_the_row, [Kind.WRONG_COLUMN, Kind.WRONG_REQUEST]),
]


def no_request(world):
    world.put(world.serial(4), request=None)


def another_csr(csr: bytes):
    def plant(world):
        world.edit(4, "request", csr=csr)
        world.event_of("request.received", 4)["detail"]["csr_sha256"] = hashlib.sha256(csr).hexdigest()

    return plant


def _unsigned() -> bytes:
    data = bytearray(cakit.make_csr("CN=Olga", ("email:olga@example.org",)))
    data[-1] ^= 1
    return bytes(data)


def another_csr_alone(world):
    world.edit(4, "request", csr=cakit.make_csr("CN=Olga", ("email:olga@example.org",), cakit.key("other")))


def names_that_nobody_asked_for(world):
    names = ("email:mallory@example.org",)

    def change(granted):
        made = extension(oids.SUBJECT_ALT_NAME, der.sequence(template.general_name(names[0])))
        return dataclasses.replace(made(granted), names=names)

    world.reissue(4, change)
    world.edit(4, "certificate", names=names)
    world.event_of("certificate.issued", 4)["detail"]["names"] = list(names)


def another_issuer_asked_for(world):
    world.edit(4, "request", issuer="root")
    world.event_of("request.received", 4)["detail"]["issuer"] = "root"


def a_request_that_waits(world):
    world.edit(4, "request", state="waiting")


REQUEST = [
    (no_request, [Kind.WRONG_REQUEST]),
    (another_csr(b"\x30\x00"), [Kind.WRONG_REQUEST]),
    (another_csr(_unsigned()), [Kind.WRONG_REQUEST]),
    (
        another_csr(cakit.make_csr("CN=Olga", ("email:olga@example.org",), cakit.key("other"))),
        [Kind.WRONG_REQUEST],
    ),
    (another_csr_alone, [Kind.WRONG_REQUEST, Kind.JOURNAL_DIFFERS]),
    (another_csr(cakit.make_csr("CN=Mallory", ("email:olga@example.org",))), [Kind.NOT_GRANTED]),
    (another_csr(cakit.make_csr("UID=x", ("email:olga@example.org",))), [Kind.NOT_GRANTED]),
    (names_that_nobody_asked_for, [Kind.WRONG_REQUEST]),
    (another_issuer_asked_for, [Kind.WRONG_REQUEST]),
    (a_request_that_waits, [Kind.WRONG_REQUEST]),
]


def no_profile(world):
    world.profile_rows = [one for one in world.profile_rows if one.name != "smime"]
    world.drop(world.events[world.find("profile.loaded", "profile:smime")[0]])


def another_version_of_the_profile(world):
    world.edit(4, "intent", profile_version=3)
    world.event_of("certificate.intent", 4)["detail"]["profile_version"] = 3


def longer(world):
    world.reissue(4, lambda granted: dataclasses.replace(granted, not_after=granted.not_after + SECOND))


def of_another_time(world):
    at = world.serial(4).intent.recorded_at + SECOND
    world.edit(4, "intent", recorded_at=at)
    world.event_of("certificate.intent", 4)["at"] = at.isoformat()


def another_subject(world):
    world.reissue(
        4, lambda granted: dataclasses.replace(granted, subject=template.name(((oids.ATTRIBUTES["CN"], "M"),)))
    )
    world.edit(4, "certificate", subject="CN=M")
    world.event_of("certificate.issued", 4)["detail"]["subject"] = "CN=M"


def more_key_usage(world):
    value = der.Reader(template.key_usage((0, 1, 4))).enter()
    value.oid()
    value.take(der.BOOLEAN)
    world.reissue(4, extension(oids.KEY_USAGE, value.take(der.OCTET_STRING), critical=True))


def more_extended_key_usage(world):
    usages = (oids.EXTENDED_KEY_USAGES["emailProtection"], oids.EXTENDED_KEY_USAGES["codeSigning"])
    world.reissue(4, extension(oids.EXTENDED_KEY_USAGE, der.sequence(*map(der.oid, usages))))


def an_extension_more(world):
    world.reissue(4, more=[extensions.certificate_policies([("1.2.3", None, None)], critical=False)])


def a_critical_key_identifier(world):
    identifier = world.ca.issuer.key_identifier
    value = der.sequence(der.implicit(0, identifier))
    world.reissue(4, aki=template.extension(oids.AUTHORITY_KEY_IDENTIFIER, value, critical=True))


PROFILE = [
    (no_profile, [Kind.WRONG_PROFILE]),
    (another_version_of_the_profile, [Kind.WRONG_PROFILE]),
    (longer, [Kind.NOT_GRANTED]),
    (of_another_time, [Kind.NOT_GRANTED]),
    (another_subject, [Kind.NOT_GRANTED]),
    (more_key_usage, [Kind.NOT_GRANTED]),
    (more_extended_key_usage, [Kind.NOT_GRANTED]),
    (an_extension_more, [Kind.NOT_GRANTED]),
    (a_critical_key_identifier, [Kind.LINT]),
]


def a_blocked_key(world):
    row = world.serial(4)
    world.put(row, blocked_at=row.intent.recorded_at - datetime.timedelta(hours=1))


def a_key_blocked_later(world):
    row = world.serial(3)
    world.put(row, blocked_at=row.intent.recorded_at + SECOND)
    a_blocked_key(world)


KEY = [(a_blocked_key, [Kind.BLOCKED_KEY]), (a_key_blocked_later, [Kind.BLOCKED_KEY])]


def lose(kind: str):
    return lambda world: world.drop(world.event_of(kind, 4))


def repeat(kind: str):
    return lambda world: world.twice(world.event_of(kind, 4))


def another(kind: str, **detail):
    return lambda world: world.event_of(kind, 4)["detail"].update(detail)


def another_moment(kind: str):
    def plant(world):
        event = world.event_of(kind, 4)
        event["at"] = (datetime.datetime.fromisoformat(event["at"]) + SECOND).isoformat()

    return plant


def no_event_any_more(world):
    world.event_of("certificate.issued", 4)["detail"] = None


def swapped(first: str, second: str):
    return lambda world: world.swap(world.event_of(first, 4), world.event_of(second, 4))


def received_later(world):
    at = world.serial(4).request.request.received_at + datetime.timedelta(hours=1)
    world.edit(4, "request", received_at=at)


JOURNAL = [
    (lose("request.received"), [Kind.NOT_JOURNALLED]),
    (lose("certificate.intent"), [Kind.NOT_JOURNALLED]),
    (lose("certificate.issued"), [Kind.NOT_JOURNALLED]),
    (no_event_any_more, [Kind.NOT_JOURNALLED]),
    (repeat("request.received"), [Kind.JOURNALLED_TWICE]),
    (repeat("certificate.intent"), [Kind.JOURNALLED_TWICE]),
    (repeat("certificate.issued"), [Kind.JOURNALLED_TWICE]),
    (another("request.received", csr_sha256="00"), [Kind.JOURNAL_DIFFERS]),
    (another("certificate.intent", tbs_sha256="00"), [Kind.JOURNAL_DIFFERS]),
    (another("certificate.intent", profile_sha256="00"), [Kind.JOURNAL_DIFFERS]),
    (another("certificate.issued", certificate_sha256="00"), [Kind.JOURNAL_DIFFERS]),
    (another("certificate.issued", requestor="mallory"), [Kind.JOURNAL_DIFFERS]),
    (another("certificate.issued", issuer="root"), [Kind.JOURNAL_DIFFERS]),
    (another_moment("certificate.issued"), [Kind.JOURNAL_DIFFERS]),
    (another_moment("certificate.intent"), [Kind.JOURNAL_DIFFERS]),
    (received_later, [Kind.JOURNAL_DIFFERS]),
    (swapped("certificate.intent", "certificate.issued"), [Kind.WRONG_ORDER]),
    (swapped("request.received", "certificate.intent"), [Kind.WRONG_ORDER]),
]
PLANTS = [*CERTIFICATE, *REQUEST, *PROFILE, *KEY, *JOURNAL]


@pytest.mark.parametrize(("plant", "expected"), PLANTS)
def test_one_edit_is_one_finding_about_that_certificate(world, plant, expected):
    plant(world)
    report = audit(world, world.at)
    assert expected == [one.kind for one in report.findings], list(map(str, report.findings))
    assert 1 == len({one.subject for one in report.findings})
    assert all(one.what and one.next_step for one in report.findings)


def test_an_issuer_that_cannot_be_read_is_behind_nothing(world):
    no_issuer(world)
    kinds = found(world)
    assert [Kind.WRONG_ISSUER, *[Kind.BAD_CHAIN] * 5] == kinds


def test_another_valid_signature_over_the_same_bytes_is_told_by_the_journal(world):
    row = world.serial(4)
    world.edit(4, "certificate", der=world.ca.issuer.sign(row.intent.tbs))
    assert [Kind.JOURNAL_DIFFERS] == found(world)


def test_a_second_opinion_is_asked_for_every_certificate(world):
    asked = []

    def opinion(data):
        asked.append(data)
        return "too short for us" if len(asked) == 2 else None

    [finding] = audit(world, world.at, second_opinion=opinion).findings
    row = world.serial(2)
    assert (Kind.SECOND_OPINION, f"2:{row.serial.hex()}", "too short for us") == (
        finding.kind,
        finding.subject,
        finding.what,
    )
    assert [world.serial(number).certificate.der for number in range(1, 6)] == asked


def test_a_second_opinion_that_gives_no_answer_is_a_finding(world):
    def opinion(_):
        raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the linter did not answer")

    assert ["the linter did not answer"] * 5 == [
        one.what for one in audit(world, world.at, second_opinion=opinion).findings
    ]


def test_the_linters_of_its_profile_are_asked_about_a_certificate():
    source = f'{cakit.PROFILES["smime"].source}\n[second_opinions]\nby_auditor = ["here", "missing"]\n'
    world = honest({**cakit.PROFILES, "smime": parse_profile(source)})
    findings = audit(world, world.at, opinions={"here": lambda _: "here: no"}).findings
    lacking = "smime wants the linter missing, which the auditor's configuration lacks"
    assert [(Kind.SECOND_OPINION, lacking), (Kind.SECOND_OPINION, "here: no")] == [
        (one.kind, one.what) for one in findings
    ]


def test_a_rule_that_throws_is_a_finding_and_the_others_still_speak(world):
    world.edit(4, "request", names=(7,))
    world.drop(world.event_of("certificate.issued", 4))
    kinds = found(world)
    assert Kind.NOT_JUDGED in kinds
    assert Kind.NOT_JOURNALLED in kinds


def test_the_scope_leaves_out_what_is_older_or_another_issuer_s(world):
    no_request(world)
    late = world.serial(5).certificate.issued_at
    assert [] == found(world, scope=Scope(since=late))
    assert [] == found(world, scope=Scope(issuer_id=1))
    assert [Kind.WRONG_REQUEST] == found(world, scope=Scope(issuer_id=2))
    assert 1 == audit(world, world.at, Scope(since=late)).certificates


def test_progress_hears_of_every_certificate(world):
    heard = []
    audit(world, world.at, progress=heard.append)
    assert [2, 2, 1] == heard


def test_the_first_findings_are_kept_and_all_are_counted(world, monkeypatch):
    monkeypatch.setattr(findings, "MAX_FINDINGS", 2)
    for number in range(1, 6):
        world.edit(number, "certificate", spki_sha256=bytes(32))
    report = audit(world, world.at)
    assert (2, 3, {Kind.WRONG_COLUMN: 5}) == (len(report.findings), report.omitted, dict(report.counts))


def test_the_same_store_gives_the_same_findings_in_the_same_order(world):
    for plant, _ in (PLANTS[4], PLANTS[10]):
        plant(world)
    assert json.dumps(list(map(str, audit(world, world.at).findings))) == json.dumps(
        list(map(str, audit(world, world.at).findings))
    )
