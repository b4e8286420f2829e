"""The installation's side: a response is verified as a whole, and taken in by steps that may be repeated."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.asn1.signature import KeySigner
from chancery.errors import ErrorType, PKIError
from chancery.offline import importing
from chancery.offline.bundle import (
    Answer,
    ResponsePayload,
    decode_request,
    decode_response,
    encode_response,
    fingerprint,
    sha256,
)
from chancery.offline.ceremony import OfflineCA
from chancery.offline.importing import Place, import_response, verify_response
from chancery.pkix.profile import parse_profile, shipped_profiles
from chancery.ports import EventKind, IssuerRecord
from fakes import START, Faults, Killed
from unit.offline import ceremonies
from unit.offline.ceremonies import entry, request

PLACES = {"issuing-1": Place("issuing", "issuing-token", "issuing-key")}


class MemoryIssuers:
    """`ports.IssuerStore` in memory; each method is a transaction that may fail before or after its effect."""

    def __init__(self):
        self.faults = Faults()
        self.rows = {}
        self.crls = []
        self.events = []

    def issuers(self):
        return list(self.rows.values())

    def add_issuer(self, issuer, at, events, acts=(), takeover=None):
        return self.faults.around(lambda: self._add(issuer, events))

    def _add(self, issuer, events):
        by_name = {row.name: row for row in self.rows.values()}
        if (known := by_name.get(issuer.name)) is not None:
            if known.certificate != issuer.certificate:
                raise PKIError(ErrorType.BAD_REQUEST, "the name is another certificate's")
            return known.issuer_id
        parent = None
        if issuer.parent is not None:
            parent = by_name[issuer.parent].issuer_id
        issuer_id = len(self.rows) + 1
        self.rows[issuer_id] = IssuerRecord(
            issuer_id, issuer.name, issuer.certificate, parent, issuer.token_label, issuer.key_label
        )
        self.events += events
        return issuer_id

    def import_crl(self, crl, events):
        def act():
            if self.crls and self.crls[-1].der == crl.der:
                return
            assert crl.issuer_id in self.rows
            if self.crls and crl.number <= self.crls[-1].number:
                raise PKIError(ErrorType.BAD_REQUEST, "the number is not above the current one")
            self.crls.append(crl)
            self.events += events

        self.faults.around(act)

    def add_profile(self, name, version, sha256, source, at):
        raise NotImplementedError

    def kinds(self):
        return [event.kind for event in self.events]


@dataclasses.dataclass
class Exchange:
    machine: ceremonies.Machine
    ca: OfflineCA
    request: bytes
    response: bytes
    bundle_key: ec.EllipticCurvePublicKey

    def verify(self, response=None, **options):
        values = {
            "request": self.request,
            "response": response or self.response,
            "pinned": self.bundle_key,
            "profiles": shipped_profiles(),
            "at": START,
        }
        return verify_response(**(values | options))

    def again(self, link=importing.FIRST, **changes):
        """The response, signed by the right key, with its payload changed."""
        payload = decode_response(self.response).payload
        values = {name: getattr(payload, name) for name in payload.__struct_fields__}
        header = decode_response(self.response).header
        link = importing.Link(header.number, header.previous, header.answers)
        signer = KeySigner(self.machine.token.made["root-bundles"])
        return encode_response(signer, link, ResponsePayload(**(values | changes)), START)

    def answer(self, **changes):
        [answer] = decode_response(self.response).payload.answers
        values = {name: getattr(answer, name) for name in answer.__struct_fields__}
        return self.again(answers=(Answer(**(values | changes)),))


@pytest.fixture
def exchange(tmp_path, monkeypatch):
    machine = ceremonies.Machine(tmp_path, monkeypatch)
    with machine.init() as ca:
        data = request()
        response = ca.sign(data, fingerprint(data))
        yield Exchange(machine, ca, data, response, machine.token.made["root-bundles"].public_key())


def refusal(call, *args, **options):
    with pytest.raises(PKIError) as caught:
        call(*args, **options)
    return caught.value


def take_in(exchange, store, response=None, **options):
    return import_response(exchange.verify(response), "root", PLACES, store, at=START, actor="import", **options)


def test_root_crl_and_issuing_ca_come_in(exchange):
    store = MemoryIssuers()
    done = take_in(exchange, store)
    assert (1, {"issuing": 2}, ()) == (done.root_id, done.issuers, done.refused)
    root, issuing = store.issuers()
    assert ("root", None, None, None) == (root.name, root.parent_id, root.token_label, root.key_label)
    assert ("issuing", 1, "issuing-token", "issuing-key") == (
        issuing.name,
        issuing.parent_id,
        issuing.token_label,
        issuing.key_label,
    )
    assert [(1, 2)] == [(crl.issuer_id, crl.number) for crl in store.crls]
    # R27: each in its effect's transaction, and the bundle with the last of them.
    assert [
        EventKind.CA_IMPORTED,
        EventKind.CRL_PUBLISHED,
        EventKind.CA_IMPORTED,
        EventKind.BUNDLE_IMPORTED,
    ] == store.kinds()


@pytest.mark.parametrize("mode", ["fail-before", "fail-after", "kill-before", "kill-after"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_killed_anywhere_and_repeated_the_import_is_whole(exchange, at, mode):
    whole = MemoryIssuers()
    take_in(exchange, whole)
    store = MemoryIssuers()
    store.faults = Faults(at, mode)
    with pytest.raises((PKIError, Killed)):
        take_in(exchange, store)
    for _ in range(2):
        take_in(exchange, store)
        assert (whole.rows, whole.crls, whole.events) == (store.rows, store.crls, store.events)


def test_a_bundle_that_brings_a_crl_alone_is_journalled_with_it(exchange):
    store = MemoryIssuers()
    take_in(exchange, store)
    data = importing.make_request(
        ceremonies.REQUESTER, [], importing.following(exchange.request, exchange.response), START, crl=True
    )
    response = exchange.ca.sign(data, fingerprint(data))
    verified = exchange.verify(response, request=data)
    done = import_response(verified, "root", {}, store, at=START, actor="import")
    assert (1, {}) == (done.root_id, done.issuers)
    assert [EventKind.CRL_PUBLISHED, EventKind.BUNDLE_IMPORTED] == store.kinds()[4:]
    assert [2, 3] == [crl.number for crl in store.crls]
    # The older bundle again: its CRL is no longer the newest, and goes in no more.
    assert ErrorType.BAD_REQUEST is refusal(take_in, exchange, store).type


def test_a_bundle_that_brings_nothing_is_journalled_with_the_root(tmp_path, monkeypatch):
    machine = ceremonies.Machine(tmp_path, monkeypatch)
    data = request(entry(profile="tls-server"), crl=False)
    with machine.init() as ca:
        response = ca.sign(data, fingerprint(data))
    key = machine.token.made["root-bundles"].public_key()
    verified = verify_response(data, response, key, shipped_profiles(), START)
    store = MemoryIssuers()
    done = import_response(verified, "root", PLACES, store, at=START, actor="import")
    assert ["issuing-1"] == [answer.transaction_id for answer in done.refused]
    assert [EventKind.CA_IMPORTED, EventKind.BUNDLE_IMPORTED] == store.kinds()


def test_a_certificate_without_a_place_is_not_taken_in(exchange):
    store = MemoryIssuers()
    error = refusal(import_response, exchange.verify(), "root", {}, store, at=START, actor="import")
    assert ("issuing-1" in error.detail, {}) == (True, store.rows)


def test_a_name_that_is_another_s_is_refused(exchange, tmp_path, monkeypatch):
    store = MemoryIssuers()
    other = ceremonies.Machine(tmp_path / "other", monkeypatch)
    (tmp_path / "other").mkdir()
    with other.init() as ca:
        data = request()
        response = ca.sign(data, fingerprint(data))
    key = other.token.made["root-bundles"].public_key()
    verified = verify_response(data, response, key, shipped_profiles(), START)
    take_in(exchange, store)
    error = refusal(import_response, verified, "root", PLACES, store, at=START, actor="import")
    assert ErrorType.BAD_REQUEST is error.type


def test_another_key_than_the_pinned_one_is_refused(exchange):
    other = ceremonies.OTHER_REQUESTER.public_key
    assert ErrorType.NOT_AUTHORIZED is refusal(exchange.verify, pinned=other).type


def test_the_answer_to_another_request_is_refused(exchange):
    other = request(entry(reason="another"))
    assert "another request" in refusal(exchange.verify, request=other).detail
    assert "another request" in refusal(importing.following, other, exchange.response).detail


def test_answers_that_were_not_asked_for_are_refused(exchange):
    assert "does not answer" in refusal(exchange.verify, exchange.answer(transaction_id="other")).detail
    assert "does not answer" in refusal(exchange.verify, exchange.again(answers=())).detail


def test_a_certificate_for_another_key_is_refused(exchange):
    key = ec.derive_private_key(99, ec.SECP256R1())
    data = request(
        entry(transaction_id="2", csr=ceremonies.csr(key)),
        link=importing.following(exchange.request, exchange.response),
    )
    [answer] = decode_response(exchange.ca.sign(data, fingerprint(data))).payload.answers
    response = exchange.answer(certificate=answer.certificate)
    assert "another key" in refusal(exchange.verify, response).detail


def test_a_certificate_under_another_text_of_the_profile_is_refused(exchange):
    shipped = dict(shipped_profiles())
    shipped["sub-ca"] = parse_profile(shipped["sub-ca"].source + "\n# another text\n")
    assert "another text" in refusal(exchange.verify, profiles=shipped).detail
    assert "another text" in refusal(exchange.verify, profiles={}).detail
    for profile in (None, "ab" * 32):
        assert "another text" in refusal(exchange.verify, exchange.answer(profile=profile)).detail


def test_a_certificate_that_is_not_valid_now_is_refused(exchange):
    for days in (-2, 20 * 366):
        error = refusal(exchange.verify, at=START + datetime.timedelta(days=days))
        assert "not valid now" in error.detail


def foreign_root(tmp_path, monkeypatch):
    (tmp_path / "foreign").mkdir()
    machine = ceremonies.Machine(tmp_path / "foreign", monkeypatch)
    data = request()
    with machine.init() as ca:
        return decode_response(ca.sign(data, fingerprint(data))).payload


def test_what_another_root_signed_is_refused(exchange, tmp_path, monkeypatch):
    other = foreign_root(tmp_path, monkeypatch)
    foreign = other.answers[0].certificate
    assert "not signed by the root" in refusal(exchange.verify, exchange.answer(certificate=foreign)).detail
    assert "not signed by the root" in refusal(exchange.verify, exchange.again(crls=other.crls)).detail
    assert "not signed by the root" in refusal(exchange.verify, exchange.again(chain=other.chain)).detail


def test_a_certificate_that_a_lint_forbids_is_refused(exchange):
    """R9, here as well: everything else about it is what was asked for."""
    payload = decode_response(exchange.response).payload
    issued = x509.load_der_x509_certificate(payload.answers[0].certificate)
    builder = x509.CertificateBuilder(
        issued.issuer,
        issued.subject,
        issued.public_key(),
        issued.serial_number,
        issued.not_valid_before_utc,
        issued.not_valid_after_utc,
    )
    signer = KeySigner(exchange.machine.token.made["root"])
    for left_out in (None, x509.SubjectKeyIdentifier):
        changed = builder
        for extension in issued.extensions:
            if left_out is None or not isinstance(extension.value, left_out):
                changed = changed.add_extension(extension.value, extension.critical)
        made = changed.sign(signer.key, signer.algorithm.hash).public_bytes(Encoding.DER)
        if left_out is None:
            assert exchange.verify(exchange.answer(certificate=made)).certificates
        else:
            detail = refusal(exchange.verify, exchange.answer(certificate=made)).detail
            assert "the certificate for issuing-1: pkix.ski_missing" in detail


def test_a_chain_that_is_not_one_root_is_refused(exchange):
    payload = decode_response(exchange.response).payload
    [issuing] = [answer.certificate for answer in payload.answers]
    assert "one certificate" in refusal(exchange.verify, exchange.again(chain=(*payload.chain, issuing))).detail
    assert "not signed by" in refusal(exchange.verify, exchange.again(chain=(issuing,))).detail


def test_a_crl_that_was_asked_for_is_there(exchange):
    assert "no CRL" in refusal(exchange.verify, exchange.again(crls=())).detail


@pytest.mark.parametrize("data", [b"\x30\x00", b"xx", b"\x30\x03\x02\x01\x00"])
def test_what_is_no_certificate_or_crl_is_refused(exchange, data):
    kinds = {ErrorType.BAD_DATA_FORMAT, ErrorType.BAD_REQUEST}
    assert refusal(exchange.verify, exchange.answer(certificate=data)).type in kinds
    assert refusal(exchange.verify, exchange.again(chain=(data,))).type in kinds
    assert refusal(exchange.verify, exchange.again(crls=(data,))).type in kinds


def test_a_response_from_the_future_is_refused(exchange):
    at = START - datetime.timedelta(minutes=10)
    with pytest.raises(PKIError, match="the root's certificate is not valid now: see whether the clocks"):
        exchange.verify(at=at)


def root_crl(exchange, *, name=None, this_update=START, days=30):
    """A CRL that the root's key signed."""
    root = x509.load_der_x509_certificate(decode_response(exchange.response).payload.chain[0])
    identifier = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name or root.subject)
        .last_update(this_update)
        .next_update(this_update + datetime.timedelta(days=days))
        .add_extension(x509.CRLNumber(9), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    signer = KeySigner(exchange.machine.token.made["root"])
    return builder.sign(signer.key, signer.algorithm.hash).public_bytes(Encoding.DER)


def test_a_crl_from_the_future_of_another_name_or_for_too_long_is_refused(exchange):
    [crl] = exchange.verify(exchange.again(crls=(root_crl(exchange),))).crls
    assert 9 == crl.number
    for wrong, words in (
        ({"this_update": START + datetime.timedelta(minutes=10)}, "from the future"),
        ({"name": x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Other")])}, "names another issuer"),
        ({"days": 400}, "next_update"),
    ):
        assert words in refusal(exchange.verify, exchange.again(crls=(root_crl(exchange, **wrong),))).detail


def test_every_bit_of_a_certificate_and_crl_counts(exchange):
    payload = decode_response(exchange.response).payload
    for data, put in (
        (payload.answers[0].certificate, lambda changed: exchange.answer(certificate=changed)),
        (payload.crls[0], lambda changed: exchange.again(crls=(changed,))),
        (payload.chain[0], lambda changed: exchange.again(chain=(changed,))),
    ):
        for at in range(0, len(data), 7):
            changed = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
            refusal(exchange.verify, put(changed))


def test_nothing_is_asked_without_a_proof_of_possession():
    csr = bytearray(ceremonies.csr())
    csr[-3] ^= 1
    for broken in (bytes(csr), b"\x30\x00"):
        assert refusal(request, entry(csr=broken)).type in {ErrorType.BAD_POP, ErrorType.BAD_DATA_FORMAT}


def test_the_link_of_the_next_request_names_both_bundles(exchange):
    link = importing.following(exchange.request, exchange.response)
    assert (2, sha256(exchange.request), sha256(exchange.response)) == (link.number, link.previous, link.answers)
    assert decode_request(request(link=link)).header.number == 2
