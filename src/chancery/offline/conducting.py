"""
Holding a ceremony: looked through without a token, rehearsed under keys that are thrown away, then run.

All three follow the same acts through the same code. What a rehearsal signs is signed by keys that were made for
it, over a copy of the journal in a temporary directory; neither outlives it.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.asn1.signature import KeySigner, PrivateKey, algorithm_for
from chancery.ca.issuer import SelfIssuer
from chancery.errors import OperatorError, PKIError
from chancery.offline.bundle import RequestEntry, decode_request, decode_response, fingerprint, sha256, spki
from chancery.offline.ceremony import ROOT_ID, ROOT_PROFILE, Ceremony, OfflineCA, RootSettings, root
from chancery.offline.journal import FILE, Journal
from chancery.offline.operators import Operators, entitled
from chancery.offline.script import (
    Act,
    OperatorsAct,
    Plan,
    RenewalAct,
    RequestAct,
    RevocationAct,
    RootAct,
    names_bundle,
    title,
)
from chancery.offline.state import State
from chancery.offline.store import LocalStore
from chancery.pkix.name import name_text, parse_name
from chancery.pkix.profile import Profile
from chancery.ports import CRLRecord, RevocationReason, StatusState


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """What came of one act: words about it, the files (name and octets) that leave, and what was refused."""

    title: str
    results: tuple[tuple[str, str], ...]
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    refused: tuple[str, ...] = ()


class ThrowAwayToken:
    """A token in memory for rehearsals (`keys.Token`): its keys are gone with it. `make` makes a key of a kind."""

    @dataclasses.dataclass(frozen=True, slots=True)
    class _Label:
        label: str

    def __init__(self, make: Callable[[str], PrivateKey]) -> None:
        self._make = make
        self._keys: dict[str, PrivateKey] = {}

    def generate_key(self, label: str, kind: str) -> PrivateKey:
        """Make a key of this kind."""
        self._keys[label] = self._make(kind)
        return self._keys[label]

    def find_key(self, label: str) -> PrivateKey:
        """Return a key; OperatorError when there is none of this label."""
        if label not in self._keys:
            raise OperatorError(f"the rehearsal made no key {label}", "tell the authors: this is a defect")
        return self._keys[label]

    def keys(self) -> list[ThrowAwayToken._Label]:
        """Return the labels of all keys."""
        return [self._Label(label) for label in self._keys]


# Looking a script through


def check(
    plan: Plan, directory: Path, settings: RootSettings, profiles: Mapping[str, Profile], at: datetime.datetime
) -> list[str]:
    """
    Return what is wrong with a script, in words, as far as can be told without keys; empty when it is well.

    Raises OperatorError when the journal in `directory` cannot be read.
    """
    if not (directory / FILE).exists():
        return _wrong(plan, None, settings, profiles, at)
    with LocalStore(Journal(directory)) as store:
        return _wrong(plan, store.state, settings, profiles, at)


def _wrong(
    plan: Plan, state: State | None, settings: RootSettings, profiles: Mapping[str, Profile], at: datetime.datetime
) -> list[str]:
    script, found = plan.script, []
    if script.ca != settings.name:
        found.append(f"it is for the CA {script.ca}, and this one is {settings.name}")
    if at > script.not_after:
        found.append(f"its time ended on {script.not_after}")
    if state is not None and (held := state.ceremonies.get(script.name)) is not None:
        if held.sha256 != plan.sha256:
            found.append(f"another script was confirmed under the name {script.name}: it was changed since")
        elif held.ended:
            found.append(f"the ceremony {script.name} was held before")
        elif held.void:
            found.append(f"the ceremony {script.name} was confirmed by operators who were replaced since")
        else:
            # Begun, confirmed and not ended: what follows judged it when it was confirmed.
            return found
    try:
        entitled(script, None if state is None else state.operators)
    except OperatorError as error:
        found.append(error.what)
    if not any(isinstance(act, RootAct) for act in script.acts) and (
        state is None or ROOT_ID not in state.issuers
    ):
        found.append("the root is not made yet, and the script does not make it")
    for act in script.acts:
        found += [f"{title(act)}: {what}" for what in _act_wrong(act, plan, state, settings, profiles)]
    return found


def _act_wrong(
    act: Act, plan: Plan, state: State | None, settings: RootSettings, profiles: Mapping[str, Profile]
) -> list[str]:
    if isinstance(act, RequestAct):
        return _request_wrong(act, plan.bundles[act.bundle], profiles)
    if isinstance(act, RootAct):
        if state is not None and ROOT_ID in state.issuers:
            return ["the root was made before"]
        same = (parsed(act.subject), act.key_kind, act.instance) == (
            parsed(settings.subject),
            settings.key_kind,
            settings.instance,
        )
        return [] if same else ["the configuration says another subject, kind of key or instance"]
    if isinstance(act, RenewalAct):
        return [] if parsed(act.subject) == parsed(settings.subject) else ["the root has another subject"]
    if isinstance(act, RevocationAct):
        return _revocation_wrong(act, state)
    return []


def _request_wrong(act: RequestAct, data: bytes, profiles: Mapping[str, Profile]) -> list[str]:
    try:
        bundle = decode_request(data)
    except PKIError as error:
        return [error.detail]
    if not names_bundle(act, data):
        return [f"the bundle's fingerprint is {fingerprint(data)}, and the script has another"]
    found = [] if bundle.payload.crl == act.crl else ["the bundle and the script differ about a CRL"]
    entries = bundle.payload.certificates
    if len(entries) != len(act.certificates):
        return [
            *found,
            f"the bundle asks for {len(entries)} certificates, and the script has {len(act.certificates)}",
        ]
    for entry, wish in zip(entries, act.certificates, strict=True):
        asked = _asked(entry)
        expected = (parsed(wish.subject), wish.spki_sha256, wish.profile)
        if asked != expected:
            found.append(
                f"{entry.transaction_id} asks for {', '.join(asked)}; the script has {', '.join(expected)}"
            )
        if entry.profile not in profiles:
            found.append(f"there is no profile {entry.profile} here")
    return found


def _asked(entry: RequestEntry) -> tuple[str, str, str]:
    try:
        csr = x509.load_der_x509_csr(entry.csr)
        return name_text(csr.subject), hashlib.sha256(spki_of(csr)).hexdigest(), entry.profile
    except ValueError:
        return "(not a certification request)", "", entry.profile


def spki_of(csr: x509.CertificateSigningRequest) -> bytes:
    """SubjectPublicKeyInfo (DER) of a request. Raises ValueError for a key of a type that is not known."""
    return csr.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _revocation_wrong(act: RevocationAct, state: State | None) -> list[str]:
    key = (ROOT_ID, bytes.fromhex(act.serial))
    if state is None or key not in state.certificates or state.certificates[key].profile == ROOT_PROFILE:
        return ["the root has signed no certificate with this serial number"]
    found = (
        []
        if state.certificates[key].subject == parsed(act.subject)
        else [f"the certificate's subject is {state.certificates[key].subject}"]
    )
    return found + ["it is revoked already"] * (state.statuses[key].state is StatusState.REVOKED)


def parsed(subject: str) -> str:
    """Return the one way to write this name; text that is no name stands for itself, and equals none."""
    try:
        return name_text(parse_name(subject))
    except PKIError:
        return subject


# Rehearsing


def rehearse(plan: Plan, directory: Path, ceremony: Ceremony, make: Callable[[str], PrivateKey]) -> list[Done]:
    """
    Follow a script under throw-away keys over a copy of the journal; nothing of it is kept, nothing real signed.

    `ceremony.token` is not used. Raises as the run itself would, also when a lint or a profile refuses.
    """
    token = ThrowAwayToken(make)
    with tempfile.TemporaryDirectory(prefix="chancery-rehearsal-") as name:
        place = Path(name) / "offline"
        if (directory / FILE).exists():
            place.mkdir(mode=0o700)
            (place / FILE).write_bytes((directory / FILE).read_bytes())
        with OfflineCA.begin(place, dataclasses.replace(ceremony, token=token)) as ca:
            _throw_away_keys(ca.store, token, ceremony)
            ca.holding.permitted = plan.script.acts
            done = [_perform(ca, act, plan) for act in plan.script.acts if not isinstance(act, OperatorsAct)]
    if refused := [what for one in done for what in one.refused]:
        raise OperatorError(f"the rehearsal ended with a refusal: {'; '.join(refused)}", "correct the request")
    return done


def _throw_away_keys(store: LocalStore, token: ThrowAwayToken, ceremony: Ceremony) -> None:
    """Put throw-away keys in the place of the journal's, and a certificate for one in that of the root's."""
    state, settings = store.state, ceremony.settings
    for label, kind in state.planned_keys.items():
        if label in state.keys:
            state.keys[label] = spki(token.generate_key(label, kind).public_key())
    if ROOT_ID not in state.issuers:
        return
    record = root(store)
    old = x509.load_der_x509_certificate(record.certificate)
    key = token.find_key(settings.name)
    issuer = SelfIssuer(KeySigner(key, algorithm_for(key.public_key(), settings.signature)), old.subject)
    serial = old.serial_number.to_bytes(old.serial_number.bit_length() // 8 + 1, "big")
    linted = issuer.prepare(ceremony.profiles[ROOT_PROFILE], serial, old.not_valid_before_utc)
    state.issuers[ROOT_ID] = dataclasses.replace(record, certificate=issuer.issue(linted))


# Running


def hold(ca: OfflineCA, plan: Plan) -> list[Done]:
    """
    Do what a confirmed script says, act by act, and end the ceremony.

    Killed anywhere, it goes on when called again. Raises OperatorError for a script that is not confirmed, or
    not for now, and PKIError as the acts do.
    """
    ca.holding.enter(plan.sha256)
    done = [_perform(ca, act, plan) for act in plan.script.acts]
    ca.holding.leave(plan.sha256)
    return done


def _perform(ca: OfflineCA, act: Act, plan: Plan) -> Done:
    if isinstance(act, OperatorsAct):
        ca.holding.enrol(plan.sha256, act)
        return Done(title(act), tuple((name, sha256(key)) for name, key in enrolled(ca).keys.items()))
    if isinstance(act, RequestAct):
        return _answered(act, ca.sign(plan.bundles[act.bundle], act.fingerprint, requester=act.requester))
    if isinstance(act, RevocationAct):
        return _published(act, ca.revoke(bytes.fromhex(act.serial), _reason(act)))
    if isinstance(act, RootAct | RenewalAct):
        if isinstance(act, RootAct):
            ca.make_root()
        else:
            ca.renew(f"{plan.script.ca}:{plan.script.name}")
        certificate = root(ca.store).certificate
        until = x509.load_der_x509_certificate(certificate).not_valid_after_utc
        results = (("certificate", sha256(certificate)), ("until", f"{until:%Y-%m-%d %H:%M:%S}Z"))
        return Done(title(act), results, {f"{plan.script.ca}.cer": certificate})
    return _published(act, ca.publish_crl())


def enrolled(ca: OfflineCA) -> Operators:
    """Return who is enrolled. OperatorError when nobody is."""
    if (operators := ca.store.state.operators) is None:
        raise OperatorError("nobody is enrolled", 'enrol operators in a ceremony (kind = "operators")')
    return operators


def _answered(act: RequestAct, response: bytes) -> Done:
    results, files, refused = [("response", sha256(response))], {f"{act.bundle}.response": response}, []
    for wish, answer in zip(act.certificates, decode_response(response).payload.answers, strict=True):
        if answer.certificate is None:
            refused.append(f"{wish.subject}: {answer.detail}")
            continue
        certificate = x509.load_der_x509_certificate(answer.certificate)
        results.append(
            (wish.subject, f"{sha256(answer.certificate)}, until {certificate.not_valid_after_utc:%Y-%m-%d}")
        )
        files[f"{certificate.serial_number:x}.cer"] = answer.certificate
    return Done(title(act), tuple(results), files, tuple(refused))


def _published(act: Act, crl: CRLRecord) -> Done:
    results = (("CRL", f"{crl.number}, until {crl.next_update:%Y-%m-%d}"), ("SHA-256", sha256(crl.der)))
    return Done(title(act), results, {f"crl-{crl.number}.crl": crl.der})


def _reason(act: RevocationAct) -> RevocationReason:
    return RevocationReason[act.reason.upper().replace("-", "_")]
