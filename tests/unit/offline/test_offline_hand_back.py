"""What the primary refuses of a hand-back: each line changed, linked and signed again by the standby's own key."""

from __future__ import annotations

import dataclasses
import datetime

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from cakit import issuing_certificate, key
from chancery.errors import ErrorType, PKIError
from chancery.offline import records
from chancery.offline.taking_back import read_event, verify_hand_back
from chancery.ports import Event, EventKind, RevocationReason
from fakes import START
from unit.offline.standbys import GOOD, HOURS, Site, bundle, changed, csr

LATE = START + datetime.timedelta(hours=HOURS, seconds=1)
SECOND = datetime.timedelta(seconds=1)
HOLD = RevocationReason.CERTIFICATE_HOLD
ISSUER = x509.load_der_x509_certificate(issuing_certificate())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    found = Site(tmp_path_factory.mktemp("standby"))
    with found.open() as standby:
        standby.issue("olga", csr(), "tls-server")
        standby.revoke("olga", GOOD, RevocationReason.SUPERSEDED)
    found.lines = found.records()
    return found


def line(kind, **changes):
    """Change the line of this kind; a change is a value, or makes one of the value before."""

    def change(lines):
        [at] = [at for at, one in enumerate(lines) if isinstance(one, kind)]
        told = {name: to(getattr(lines[at], name)) if callable(to) else to for name, to in changes.items()}
        return [*lines[:at], msgspec.structs.replace(lines[at], **told), *lines[at + 1 :]]

    return change


def first(**changes):
    """Change the first value of a tuple."""
    return lambda values: (dataclasses.replace(values[0], **changes), *values[1:])


def value(**changes):
    return lambda one: dataclasses.replace(one, **changes)


def both(*changes):
    def change(lines):
        for one in changes:
            lines = one(lines)
        return lines

    return change


def until(kind):
    """End the journal before the line of this kind."""
    return lambda lines: lines[: next(at for at, one in enumerate(lines) if isinstance(one, kind))]


def request(**changes):
    return line(records.RequestsReceived, requests=first(**changes))


def intent(**changes):
    return line(records.IntentsRecorded, intents=first(**changes))


def certificate(**changes):
    return line(records.CertificatesRecorded, certificates=first(**changes))


def crl(**changes):
    return line(records.CRLPublished, crl=value(**changes))


def revocation(**changes):
    return line(records.RevocationReceived, request=value(**changes))


def status(**changes):
    return line(records.RevocationSettled, status=value(**changes))


def recorded(lines):
    [found] = [one.certificates[0] for one in lines if isinstance(one, records.CertificatesRecorded)]
    return found


def certified(signer="issuing", *, profile=True):
    """Put a certificate of other octets in the place of the recorded one, and of what was intended."""

    def change(lines):
        old = x509.load_der_x509_certificate(recorded(lines).der)
        builder = x509.CertificateBuilder(
            old.issuer, old.subject, old.public_key(), old.serial_number, old.not_valid_before_utc,
            old.not_valid_after_utc, list(old.extensions) if profile else [],
        )  # fmt: skip
        made = builder.sign(key(signer), hashes.SHA256())
        der, tbs = made.public_bytes(Encoding.DER), made.tbs_certificate_bytes
        return both(certificate(der=der), intent(tbs=tbs))(lines)

    return change


def published(signer="issuing", *, days=7, lists=False):
    """Put another CRL in the place of the published one."""

    def change(lines):
        [old] = [one.crl for one in lines if isinstance(one, records.CRLPublished)]
        was = x509.load_der_x509_crl(old.der)
        until_ = old.this_update + datetime.timedelta(days=days)
        builder = x509.CertificateRevocationListBuilder(was.issuer, old.this_update, until_, list(was.extensions))
        if lists:
            serial = int.from_bytes(recorded(lines).serial)
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder(serial, old.this_update).build()
            )
        der = builder.sign(key(signer), hashes.SHA256()).public_bytes(Encoding.DER)
        return crl(der=der, next_update=until_)(lines)

    return change


def says(kind, events):
    return line(kind, events=events)


def renamed(bodies):
    return tuple(body.replace('"offline:issuing"', '"mallory"') for body in bodies)


def blocks(key_, **detail):
    event = Event(EventKind.KEY_BLOCKED, START, "offline:issuing", f"key:{key_}", detail)
    return lambda bodies: (*bodies, event.body())


def earlier(bodies):
    events = map(read_event, bodies)
    return tuple(dataclasses.replace(event, at=event.at - SECOND).body() for event in events)


PLANNED = records.KeyPlanned(label="x", key_kind="ec-p256", events=())
REFUSED = {
    "a root's line": (lambda lines: [*lines, PLANNED], "none that a standby writes"),
    "a line that contradicts": (lambda lines: [*lines, lines[0]], "begins with its opening, once"),
    "another instance": (line(records.Opened, instance=114), "does not begin with this kit"),
    "another kit adopted": (line(records.KitAdopted, kit="0" * 64), "another kit was adopted"),
    "no kit adopted": (lambda lines: lines[:1] + lines[2:6], "does not begin with this kit"),
    "an open intent": (until(records.CertificatesRecorded), "neither certificate nor mark"),
    "a revocation that waits": (until(records.RevocationSettled), "not settled"),
    "another protocol": (request(protocol="rest"), "none of a standby"),
    "another issuer": (request(issuer="other"), "none of a standby"),
    "another epoch's name": (request(transaction_id="standby-2-x"), "not named as this epoch's"),
    "a stranger's request": (request(requestor="mallory"), "gives mallory no right"),
    "a profile without right": (request(requestor="rita"), "rita has no right to the profile tls-server"),
    "a late request": (request(received_at=LATE), "outside the kit's window"),
    "an early request": (request(received_at=START - SECOND), "outside the kit's window"),
    "another shard": (intent(shard=1), "of another issuer"),
    "an unknown profile": (intent(profile="other"), "another text of the profile"),
    "another text": (intent(profile_sha256=bytes(32)), "another text of the profile"),
    "another version": (intent(profile_version=99), "another text of the profile"),
    "a late intent": (intent(recorded_at=LATE), "outside the kit's window"),
    "another day's serial": (
        intent(not_after=START + datetime.timedelta(days=3)),
        "the day and the octet 113 of this standby",
    ),
    "another octet": (
        lambda lines: _serial(lines, lambda old: old[:2] + bytes([1]) + old[3:]),
        "the day and the octet 113",
    ),
    "a short serial": (lambda lines: _serial(lines, lambda old: old[:-1]), "the day and the octet 113"),
    "signed by another": (certified("root"), "not signed by issuing"),
    "what lints": (certified(profile=False), "pkix.aki_missing"),
    "what was not intended": (intent(tbs=b"0"), "not what was intended"),
    "another moment": (intent(recorded_at=START + SECOND * 3600), "not what its profile grants"),
    "another subject beside it": (certificate(subject="CN=other"), "not what stands beside it"),
    "another end beside it": (certificate(not_after=LATE), "not what stands beside it"),
    "another profile beside it": (certificate(profile="tls-client"), "another serial number or profile"),
    "a late certificate": (certificate(issued_at=LATE), "outside the kit's window"),
    "a stranger's revocation": (revocation(requestor="mallory"), "gives mallory no right"),
    "a revocation without right": (revocation(requestor="rita"), "gives rita no right"),
    "a late revocation": (revocation(received_at=LATE), "outside the kit's window"),
    "a suspension": (both(revocation(reason=HOLD), status(reason=HOLD)), "none of this issuer, or without"),
    "no event": (line(records.RevocationSettled, events=()), "none of this issuer, or without"),
    "another reason": (status(reason=RevocationReason.KEY_COMPROMISE), "goes forwards only"),
    "back from revoked": (
        lambda lines: [
            *lines,
            *(_second(one) for one in lines if isinstance(one, records.RevocationReceived)),
            *(_second(one) for one in lines if isinstance(one, records.RevocationSettled)),
        ],
        "goes forwards only",
    ),
    "a day before": (status(revoked_at=START - SECOND), "of another moment than its event"),
    "settled before it was asked for": (
        both(says(records.RevocationSettled, earlier), status(revoked_at=START - SECOND)),
        "settled before it was asked for",
    ),
    "an invalidity date": (
        both(revocation(invalidity_date=START), status(invalidity_date=START)),
        "an invalidity date",
    ),
    "a status that no CRL lists for long": (status(kept_until=START), "makes of its status what it is not"),
    "a status that ends otherwise": (status(not_after=LATE), "makes of its status what it is not"),
    "a status that was suspended": (status(released_at=START), "makes of its status what it is not"),
    "a status with a date of its own": (status(invalidity_date=START), "makes of its status what it is not"),
    "a time without a zone": (request(received_at=START.replace(tzinfo=None)), "of no time"),
    "an end without a zone": (certificate(issued_at=START.replace(tzinfo=None)), "outside the kit's window"),
    "a CRL of another": (published("root"), "cannot be read, or is not signed"),
    "what is no CRL": (crl(der=b"0"), "cannot be read, or is not signed"),
    "another number": (crl(number=1), "says something else"),
    "another time": (crl(this_update=START - SECOND), "says something else"),
    "a tail": (crl(tail=b"0"), "says something else"),
    "a CRL for too long": (published(days=11), "more than 10 days"),
    "a late CRL": (crl(covers=LATE), "outside the kit's window"),
    "a CRL with what is good": (published(lists=True), "which is not revoked"),
    "a number again": (line(records.CRLNumbered, number=7), "CRLNumber is not above"),
    "a stranger's event": (says(records.CertificatesRecorded, renamed), "writes no certificate.issued event"),
    "no receipt": (says(records.RequestsReceived, ()), "not received as it is journalled"),
    "a key that is none": (says(records.RevocationSettled, blocks("zz")), "blocks no key"),
    "a key of nobody here": (
        says(records.RevocationSettled, blocks("ab" * 32, reason="x", requestor="olga")),
        "is of nothing that was compromised",
    ),
}


def _serial(lines, new):
    serial = new(recorded(lines).serial)
    return both(certificate(serial=serial), intent(serial=serial))(lines)


def _second(one):
    if isinstance(one, records.RevocationReceived):
        return msgspec.structs.replace(one, request=dataclasses.replace(one.request, revocation_id=2))
    return msgspec.structs.replace(one, revocation_id=2)


def refusal(kit, lines):
    with pytest.raises(PKIError) as refused:
        verify_hand_back(bundle(kit, lines), kit, START)
    return refused.value


def test_what_was_done_is_taken(site):
    taken = verify_hand_back(bundle(site.kit, site.lines), site.kit, START)
    assert (1, 1, 1) == (len(taken.certificates), len(taken.revocations), len(taken.crls))


@pytest.mark.parametrize("what", REFUSED)
def test_a_change_is_refused_in_words(site, what):
    change, words = REFUSED[what]
    refused = refusal(site.kit, change(site.lines))
    assert words in refused.detail
    assert ErrorType.BAD_REQUEST is refused.type


def test_an_event_that_cannot_be_read_is_refused(site):
    refused = refusal(site.kit, says(records.CertificatesRecorded, ("{}",))(site.lines))
    assert (ErrorType.BAD_DATA_FORMAT, "an event that cannot be read") == (refused.type, refused.detail)


def test_a_certificate_for_a_blocked_key_is_refused(site):
    kit = changed(site.kit, blocked=(recorded(site.lines).spki_sha256.hex(),))
    refused = refusal(kit, line(records.KitAdopted, kit=kit.sha256)(site.lines))
    assert "for a key that is blocked" in refused.detail
    assert ErrorType.BAD_REQUEST is refused.type


@pytest.mark.parametrize("field", ["kit", "epoch"])
def test_a_hand_back_by_another_kit_is_refused(site, field):
    other = changed(site.kit, epoch=2) if field == "epoch" else changed(site.kit, crl_number=8)
    with pytest.raises(PKIError, match="by another kit"):
        verify_hand_back(bundle(other, site.lines), site.kit, START)
