"""R8: what a ceremony's script says is signed, by M of N, once, and nothing else; rehearsals leave nothing."""

from __future__ import annotations

import contextlib
import datetime

import msgspec
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st

from chancery.errors import OperatorError, PKIError
from chancery.offline import operators, records
from chancery.offline.bundle import decode_response, fingerprint
from chancery.offline.ceremony import ROOT_ID, OfflineCA, root
from chancery.offline.conducting import check, hold, rehearse
from chancery.offline.journal import Journal
from chancery.offline.script import parse_script
from chancery.offline.store import LocalStore
from chancery.offline.transcript import as_pdf, transcript
from chancery.offline.words import WORDS, same_fingerprint, words
from chancery.pkix.profile import shipped_profiles
from chancery.ports import RevocationReason
from fakes import Faults, Killed
from unit.offline import ceremonies, scripts
from unit.offline.ceremonies import Machine, relinked, request

PEOPLE = ("anna", "bela", "cleo")
FIRST = scripts.enrolment(*PEOPLE) + scripts.ROOT


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


def wrong(machine, plan):
    return check(plan, machine.directory, ceremonies.SETTINGS, shipped_profiles(), machine.clock.now())


def make(kind):
    assert "ec-p256" == kind
    return ec.generate_private_key(ec.SECP256R1())


def ceremony(machine, plan, *names, begin=OfflineCA.open):
    """Check, rehearse, confirm, hold."""
    assert [] == wrong(machine, plan)
    rehearse(plan, machine.directory, machine.ceremony(), make)
    with begin(machine.directory, machine.ceremony()) as ca:
        ca.holding.confirm(plan.data, scripts.confirmations(plan, machine.clock.now(), *names))
        return hold(ca, plan)


@pytest.fixture
def led(machine):
    """A machine whose root was made in a ceremony, by three operators of whom two have to confirm."""
    ceremony(machine, scripts.plan("first", FIRST), *PEOPLE, begin=OfflineCA.begin)
    return machine


def journal_of(machine):
    return (machine.directory / "journal.jsonl").read_bytes()


def signed(machine, data):
    plan = scripts.plan("issuing", scripts.answer(data), bundles={"a.request": data})
    [done] = ceremony(machine, plan, "anna", "cleo")
    return decode_response(done.files["a.request.response"])


# What is read aloud


def test_the_words_are_told_apart():
    def near(one, other):
        short, long = sorted((one, other), key=len)
        if len(short) == len(long):
            return 1 >= sum(a != b for a, b in zip(one, other, strict=True))
        return any(short == long[:at] + long[at + 1 :] for at in range(len(long)))

    assert (256, 256) == (len(WORDS), len({word[:4] for word in WORDS}))
    assert [] == [(a, b) for at, a in enumerate(WORDS) for b in WORDS[at + 1 :] if near(a, b)]


@settings(max_examples=50)
@given(st.binary(max_size=64), st.data())
def test_digits_and_words_name_the_same_octets_and_no_others(data, draw):
    said = words(data)
    assert same_fingerprint(said.upper().replace(" ", " - "), data)
    assert same_fingerprint(fingerprint(data).replace(" ", ""), data)
    assert not same_fingerprint(words(data + b"!"), data)
    assert not same_fingerprint(fingerprint(data + b"!"), data)
    assert not same_fingerprint("", data)
    # A word that was misheard, or left out, is noticed as such but once in 256 times; never is it accepted.
    parts = said.split()
    at = draw.draw(st.integers(0, 16))
    parts[at] = WORDS[(WORDS.index(parts[at]) + draw.draw(st.integers(1, 255))) % 256]
    with contextlib.suppress(ValueError):
        assert not same_fingerprint(" ".join(parts), data)
    with pytest.raises(ValueError, match="misheard"):
        same_fingerprint(" ".join(said.split()[1:]), data)
    with pytest.raises(ValueError, match="not a word"):
        same_fingerprint(said.replace(said.split()[0], "zzz"), data)


# Scripts


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "ceremony"),
        (b"\xff", "utf-8"),
        (scripts.script("a", scripts.CRL, colour='"red"'), "colour"),
        (scripts.script("a", '[[acts]]\nkind = "party"\n'), "party"),
        (scripts.script("a", scripts.CRL, begin="2027-12-01T00:00:00Z"), "ends before"),
        (scripts.script("a", scripts.CRL, begin="2026-11-01T00:00:00"), "time zone"),
        (scripts.script("a", scripts.CRL, required=1), "required"),
        (scripts.script("../a", scripts.CRL), "name"),
        (scripts.script("a", scripts.answer(request(), "../a")), "bundle"),
        (scripts.script("a", scripts.RENEWAL.replace("CN=", "CN=\\u001b")), "printed"),
        (scripts.script("a", scripts.enrolment("anna", "anna")), "twice"),
        (scripts.script("a", scripts.enrolment("anna", "bela", required=3)), "3 operators"),
        (scripts.script("a", scripts.enrolment("anna", "bela"), scripts.enrolment("anna", "cleo")), "twice"),
        (scripts.script("a", scripts.enrolment("anna", "bela").replace("PUBLIC", "SECRET")), "Ed25519"),
    ],
)
def test_what_is_no_script_is_refused_in_words(text, says):
    with pytest.raises(OperatorError) as refused:
        parse_script(text)
    assert says in refused.value.what


def test_a_bundle_that_is_not_as_the_script_says_is_found(led):
    data = request()
    other = request(ceremonies.entry(csr=ceremonies.csr(name="Another CA")))
    good = scripts.answer(data)

    def said(text, bundle=data):
        return wrong(led, scripts.plan("issuing", text, bundles={"a.request": bundle}))

    assert [] == said(good)
    assert [] == said(scripts.answer(data, said=words(data)))
    assert "fingerprint" in said(good, other)[0]
    assert "not a bundle" in said(good, b"{}")[0]
    assert "another subject, key" not in said(good.replace("Example Issuing", "Another"))[0]
    assert "CN=Example Issuing CA" in said(good.replace("Example Issuing", "Another"))[0]
    assert "tls-server" in said(good.replace("sub-ca", "tls-server"))[0]
    assert "a CRL" in said(good.replace("crl = true", "crl = false"))[0]
    assert "asks for 1 certificates" in said(good.partition("[[acts.certificates]]")[0])[0]


def test_scripts_that_do_not_fit_the_ca_are_found(led):
    def said(*acts, **keys):
        return " ".join(wrong(led, scripts.plan("second", *acts, **keys)))

    assert "made before" in said(scripts.ROOT)
    assert "another subject" in said(scripts.RENEWAL.replace("Example Root", "Other"))
    assert "no certificate" in said(scripts.revocation(b"\x70" * 17))
    assert "time ended" in said(scripts.CRL, end="2026-11-02T00:00:00Z")
    assert "dora is not enrolled" in said(scripts.CRL, operators='["dora"]')
    assert "4 operators are required" in said(scripts.CRL, required=4)
    assert "held before" in " ".join(wrong(led, scripts.plan("first", FIRST)))
    assert "changed since" in " ".join(wrong(led, scripts.plan("first", scripts.CRL)))


def test_before_anybody_is_enrolled_a_script_enrols(machine):
    assert "nobody is enrolled" in " ".join(wrong(machine, scripts.plan("first", scripts.ROOT)))
    assert "not made yet" in " ".join(wrong(machine, scripts.plan("first", scripts.enrolment(*PEOPLE))))


# Rehearsing


def test_a_rehearsal_signs_nothing_real_and_leaves_the_journal_alone(led):
    data = request()
    plan = scripts.plan("all", scripts.answer(data), scripts.RENEWAL, scripts.CRL, bundles={"a.request": data})
    before, count = journal_of(led), len(led.token.signed)
    [answered, renewed, crl] = rehearse(plan, led.directory, led.ceremony(), make)
    assert (before, count) == (journal_of(led), len(led.token.signed))
    [certificate] = [
        x509.load_der_x509_certificate(der) for name, der in answered.files.items() if name.endswith(".cer")
    ]
    with led.open() as ca:
        real = x509.load_der_x509_certificate(root(ca.store).certificate)
    assert certificate.issuer == real.subject
    with pytest.raises(InvalidSignature):
        certificate.verify_directly_issued_by(real)
    assert "CRL" == crl.results[0][0]
    assert "certificate" == renewed.results[0][0]


def test_a_rehearsal_finds_what_profile_and_lints_refuse(led):
    data = request(ceremonies.entry(names=("dns:ca.example",)))
    plan = scripts.plan("issuing", scripts.answer(data), bundles={"a.request": data})
    before = journal_of(led)
    with pytest.raises(OperatorError, match="refusal"):
        rehearse(plan, led.directory, led.ceremony(), make)
    assert before == journal_of(led)


def test_the_making_of_a_root_is_rehearsed_where_nothing_is(machine):
    [done] = rehearse(scripts.plan("first", FIRST), machine.directory, machine.ceremony(), make)
    assert "root.cer" in done.files
    assert not machine.directory.exists()


# Confirming


def refusal(machine, plan, given, kind=PKIError):
    before = journal_of(machine)
    with machine.open() as ca, pytest.raises(kind) as refused:
        ca.holding.confirm(plan.data, given)
    assert before == journal_of(machine)
    return str(refused.value)


def test_fewer_than_m_the_same_person_twice_and_strangers_are_refused(led):
    plan, now = scripts.plan("second", scripts.CRL), led.clock.now()
    [anna, bela] = scripts.confirmations(plan, now, "anna", "bela")
    [dora] = scripts.confirmations(plan, now, "dora")
    assert "1 operators confirmed, and 2 have to" in refusal(led, plan, [anna])
    assert "twice" in refusal(led, plan, [anna, anna])
    assert "dora is not enrolled" in refusal(led, plan, [anna, dora])
    as_bela = operators.Confirmation(operator="bela", at=anna.at, signature=anna.signature)
    assert "not for this script" in refusal(led, plan, [anna, as_bela])
    other = scripts.confirmations(scripts.plan("other", scripts.CRL), now, "bela")
    assert "not for this script" in refusal(led, plan, [anna, *other])
    wanted = scripts.plan("second", scripts.CRL, operators='["cleo"]')
    assert "cleo did not confirm" in refusal(led, wanted, scripts.confirmations(wanted, now, "anna", "bela"))
    three = scripts.plan("second", scripts.CRL, required=3)
    assert "3 have to" in refusal(led, three, scripts.confirmations(three, now, "anna", "bela"))
    late = now + datetime.timedelta(days=4000)
    assert "outside" in refusal(led, plan, scripts.confirmations(plan, late, "anna", "bela"))
    with led.open() as ca:
        ca.holding.confirm(plan.data, [anna, bela])
        hold(ca, plan)


def test_a_script_is_held_once_and_not_under_another_text(led):
    plan = scripts.plan("second", scripts.CRL)
    ceremony(led, plan, "anna", "bela")
    changed = scripts.plan("second", scripts.CRL, scripts.CRL)
    for one in (plan, changed):
        given = scripts.confirmations(one, led.clock.now(), "anna", "bela")
        assert "used before" in refusal(led, one, given)
        with led.open() as ca, pytest.raises(OperatorError, match="no ceremony with this script"):
            hold(ca, one)


def test_a_confirmed_ceremony_has_its_time(led):
    plan = scripts.plan("second", scripts.CRL)
    with led.open() as ca:
        ca.holding.confirm(plan.data, scripts.confirmations(plan, led.clock.now(), "anna", "bela"))
        led.clock.advance(400 * 86400)
        with pytest.raises(OperatorError, match="the ceremony is for"):
            hold(ca, plan)


def test_a_journal_whose_confirmation_was_changed_is_refused(led):
    ceremony(led, scripts.plan("second", scripts.CRL), "anna", "bela")
    with Journal(led.directory) as journal:
        lines = list(journal.records)
    [*_, at] = [at for at, one in enumerate(lines) if isinstance(one, records.CeremonyConfirmed)]
    rewritten = b"\n".join(relinked(lines)) + b"\n"
    assert journal_of(led) == rewritten
    swapped = [msgspec.structs.replace(one, signature=bytes(64)) for one in lines[at].confirmations]
    lines[at] = msgspec.structs.replace(lines[at], confirmations=tuple(swapped))
    (led.directory / "journal.jsonl").write_bytes(b"\n".join(relinked(lines)) + b"\n")
    # Every link is right; the line is refused for what it says.
    with Journal(led.directory) as journal:
        assert lines == list(journal.records)
        with pytest.raises(OperatorError, match=rf"line {at + 1}: .*not for this script"):
            LocalStore(journal)


# Holding


def test_with_operators_nothing_is_signed_outside_a_ceremony(led):
    data = request()
    answered = signed(led, data)
    serial = x509.load_der_x509_certificate(answered.payload.answers[0].certificate).serial_number
    octets = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    second = request(
        ceremonies.entry(transaction_id="issuing-2"), link=ceremonies.importing.following(data, answered.data)
    )
    before, count = journal_of(led), len(led.token.signed)
    with led.open() as ca:
        for act in (
            lambda: ca.sign(second, fingerprint(second)),
            lambda: ca.revoke(octets, RevocationReason.SUPERSEDED),
            ca.publish_crl,
            ca.make_root,
            lambda: ca.renew("again"),
        ):
            with pytest.raises(OperatorError, match="ceremony only"):
                act()
    with pytest.raises(OperatorError, match="ceremony only"):
        led.init()
    assert (before, count) == (journal_of(led), len(led.token.signed))


def test_a_ceremony_signs_what_its_script_says_and_nothing_else(led):
    data = request()
    plan = scripts.plan("second", scripts.CRL)
    with led.open() as ca:
        ca.holding.confirm(plan.data, scripts.confirmations(plan, led.clock.now(), "anna", "bela"))
        ca.holding.enter(plan.sha256)
        with pytest.raises(OperatorError, match="does not say"):
            ca.sign(data, fingerprint(data))
        with pytest.raises(OperatorError, match="does not say"):
            ca.renew("again")
        hold(ca, plan)
        with pytest.raises(OperatorError, match="ceremony only"):
            ca.publish_crl()


@pytest.mark.parametrize(("mode", "begin"), [("fail-before", 1), ("kill-after", 2)])
def test_a_ceremony_that_died_anywhere_goes_on_without_new_confirmations(tmp_path, monkeypatch, mode, begin):
    data = request()
    acts = (FIRST, scripts.answer(data), scripts.CRL, scripts.RENEWAL)
    plan = scripts.plan("all", *acts, bundles={"a.request": data})
    for nth in range(begin, 60, 2):
        with monkeypatch.context() as patch:
            machine = Machine(tmp_path / str(nth), patch)
            with OfflineCA.begin(machine.directory, machine.ceremony()) as ca:
                ca.holding.confirm(plan.data, scripts.confirmations(plan, machine.clock.now(), *PEOPLE))
                machine.faults = Faults(nth, mode)
                with contextlib.suppress(PKIError, Killed):
                    hold(ca, plan)
            died = machine.faults.calls >= nth
            machine.faults = Faults()
            with LocalStore(Journal(machine.directory)) as store:
                ended = store.state.ceremonies["all"].ended
            if not ended:
                assert [] == wrong(machine, plan)
                with OfflineCA.begin(machine.directory, machine.ceremony()) as ca:
                    hold(ca, plan)
            with LocalStore(Journal(machine.directory)) as store:
                assert store.state.ceremonies["all"].ended
                assert 1 == len(store.state.responses)
                roots = [one for one in store.state.certificates.values() if one.profile == "root-ca"]
                assert (2, roots[-1].der) == (len(roots), root(store).certificate)
            if not died:
                return
    pytest.fail("it never ended")


@pytest.mark.parametrize("acts", [FIRST, scripts.ROOT + scripts.enrolment(*PEOPLE)])
def test_a_root_that_a_ceremony_began_is_not_finished_outside_of_it(machine, acts):
    plan = scripts.plan("first", acts)
    with OfflineCA.begin(machine.directory, machine.ceremony()) as ca:
        ca.holding.confirm(plan.data, scripts.confirmations(plan, machine.clock.now(), *PEOPLE))
        # The second line from here on is the first key's.
        machine.faults = Faults(2)
        with pytest.raises(PKIError):
            hold(ca, plan)
    before, made = journal_of(machine), list(machine.token.generated)
    with pytest.raises(OperatorError, match="ceremony only"):
        machine.init()
    assert (made, before) == (machine.token.generated, journal_of(machine))
    with OfflineCA.begin(machine.directory, machine.ceremony()) as ca:
        hold(ca, plan)


def test_the_root_is_renewed_under_its_name_and_key(led):
    with led.open() as ca:
        before = x509.load_der_x509_certificate(root(ca.store).certificate)
    led.clock.advance(86400)
    ceremony(led, scripts.plan("renewal", scripts.RENEWAL), "bela", "cleo")
    answered = signed(led, request())
    with led.open() as ca:
        after = x509.load_der_x509_certificate(root(ca.store).certificate)
        crl = x509.load_der_x509_crl(ca.store.latest_crl(ROOT_ID).der)
    assert (before.subject, before.public_key()) == (after.subject, after.public_key())
    assert before.not_valid_after_utc < after.not_valid_after_utc
    certificate = x509.load_der_x509_certificate(answered.payload.answers[0].certificate)
    for one in (before, after):
        certificate.verify_directly_issued_by(one)
        assert crl.is_signature_valid(one.public_key())


def test_the_root_signs_its_ocsp_delegate_in_a_ceremony(led):
    data = request(ceremonies.entry(profile="ocsp-signing", csr=ceremonies.csr(name="Root OCSP")))
    [answer] = signed(led, data).payload.answers
    certificate = x509.load_der_x509_certificate(answer.certificate)
    assert certificate.extensions.get_extension_for_class(x509.OCSPNoCheck)


def test_a_revocation_is_in_the_next_crl(led):
    certificate = x509.load_der_x509_certificate(signed(led, request()).payload.answers[0].certificate)
    serial = certificate.serial_number.to_bytes(certificate.serial_number.bit_length() // 8 + 1, "big")
    [done] = ceremony(led, scripts.plan("revoke", scripts.revocation(serial)), "anna", "bela")
    [der] = done.files.values()
    assert [certificate.serial_number] == [one.serial_number for one in x509.load_der_x509_crl(der)]
    again = scripts.plan("again", scripts.revocation(serial, subject="CN=Other"))
    assert ["subject is", "revoked already"] == [
        words
        for words, said in zip(("subject is", "revoked already"), wrong(led, again), strict=True)
        if words in said
    ]


def test_operators_are_changed_by_those_before_them_and_every_new_one(led):
    plan = scripts.plan("change", scripts.enrolment("anna", "bela", "dora", required=3))
    now = led.clock.now()
    assert "dora did not confirm" in refusal(led, plan, scripts.confirmations(plan, now, "anna", "bela"))
    assert "1 operators" in refusal(led, plan, scripts.confirmations(plan, now, "anna", "dora"))
    ceremony(led, plan, "anna", "cleo", "dora")
    last = scripts.plan("last", scripts.CRL)
    assert "cleo is not enrolled" in refusal(led, last, scripts.confirmations(last, now, "anna", "bela", "cleo"))
    ceremony(led, last, "anna", "bela", "dora")


def test_what_was_confirmed_before_the_operators_changed_is_void(led):
    plan = scripts.plan("second", scripts.CRL)
    with led.open() as ca:
        ca.holding.confirm(plan.data, scripts.confirmations(plan, led.clock.now(), "anna", "bela"))
    ceremony(led, scripts.plan("change", scripts.enrolment("bela", "cleo", "dora")), "bela", "cleo", "dora")
    assert "replaced since" in " ".join(wrong(led, plan))
    with led.open() as ca, pytest.raises(OperatorError, match="no ceremony with this script"):
        hold(ca, plan)


# Transcripts


def test_a_transcript_is_the_same_for_the_same_journal_and_names_all_that_was_signed(led):
    answered = signed(led, request())
    with LocalStore(Journal(led.directory)) as store:
        text, held = transcript(store, "issuing"), store.state.ceremonies["issuing"]
        head = store.journal.head
    ceremony(led, scripts.plan("later", scripts.CRL), "anna", "bela")
    with LocalStore(Journal(led.directory)) as store:
        assert text == transcript(store, "issuing")
        with pytest.raises(OperatorError, match="no ceremony other"):
            transcript(store, "other")
    assert as_pdf(text, held) == as_pdf(text, held)
    for what in (
        head,
        held.sha256,
        words(held.data),
        answered.sha256,
        words(answered.data),
        "anna",
        "cleo",
        "CN=Example Issuing CA,O=Example",
        *(
            x509.load_der_x509_certificate(one.certificate).fingerprint(SHA256()).hex()
            for one in answered.payload.answers
        ),
    ):
        assert what in text
    assert "bela" not in text
