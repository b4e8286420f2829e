"""An offline machine in memory and on disk: its token counts every signature, and fails or dies when told."""

from __future__ import annotations

import collections
import dataclasses

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from chancery.asn1.signature import KeySigner
from chancery.ca.issuer import IssuerURLs
from chancery.errors import OperatorError
from chancery.offline import importing, records
from chancery.offline.bundle import RequestEntry, canonical, sha256
from chancery.offline.ceremony import ROOT_ID, Ceremony, OfflineCA, RootSettings, bundle_label
from chancery.offline.journal import START, Journal, _Line
from chancery.offline.store import LocalStore
from chancery.pkix.profile import shipped_profiles
from chancery.ports import StatusState
from fakes import FakeClock, FakeEntropy, Faults

SETTINGS = RootSettings(
    name="root",
    subject="CN=Example Root CA,O=Example",
    instance=112,
    key_kind="ec-p256",
    urls=IssuerURLs(
        ocsp=None, crl="http://localhost:8080/crl/root.crl", ca_issuers="http://localhost:8080/ca/root.cer"
    ),
    token_label="offline",
)
ISSUING_KEY = ec.derive_private_key(7_000_001, ec.SECP256R1())
REQUESTER = KeySigner(ec.derive_private_key(7_000_002, ec.SECP256R1()))
OTHER_REQUESTER = KeySigner(ec.derive_private_key(7_000_003, ec.SECP256R1()))


class TokenKey(ec.EllipticCurvePrivateKey):
    """A key that stays in its token."""

    def __init__(self, token, label, key):
        self._token, self._label, self._key = token, label, key

    def sign(self, data, signature_algorithm):
        def act():
            self._token.signed.append((self._label, data))
            return self._key.sign(data + b"!" if self._token.lies else data, signature_algorithm)

        return self._token.faults.around(act)

    def public_key(self):
        return self._key.public_key()

    @property
    def curve(self):
        return self._key.curve

    @property
    def key_size(self):
        return self._key.key_size

    def exchange(self, algorithm, peer_public_key):
        raise NotImplementedError

    def private_numbers(self):
        raise NotImplementedError

    def private_bytes(self, encoding, format, encryption_algorithm):  # noqa: A002 - pyca's name
        raise NotImplementedError

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


@dataclasses.dataclass(frozen=True)
class Listed:
    label: str


class MemoryToken:
    """A token: outlives whoever used it."""

    def __init__(self):
        self.faults = Faults()
        self.lies = False
        self.made = {}
        self.signed = []
        self.generated = []

    def generate_key(self, label, kind):
        def act():
            assert "ec-p256" == kind
            if label in self.made:
                raise OperatorError("taken", "choose another")
            self.made[label] = ec.generate_private_key(ec.SECP256R1())
            self.generated.append(label)
            return TokenKey(self, label, self.made[label])

        return self.faults.around(act)

    def find_key(self, label):
        if label not in self.made:
            raise OperatorError("absent", "make it")
        return TokenKey(self, label, self.made[label])

    def keys(self):
        return [Listed(label) for label in self.made]


class Machine:
    """Directory, token and clock of one offline CA; `faults` hit the journal's appends."""

    def __init__(self, directory, monkeypatch):
        self.directory = directory / "offline"
        self.token = MemoryToken()
        self.clock = FakeClock()
        self.entropy = FakeEntropy(1)
        self.faults = Faults()
        real = Journal.append

        def append(journal, record):
            try:
                return self.faults.around(lambda: real(journal, record))
            except BaseException:
                # As after a disk failure: nothing is built on a line of which nobody knows.
                journal._broken = True
                raise

        monkeypatch.setattr(Journal, "append", append)

    def ceremony(self, **changes):
        settings = dataclasses.replace(SETTINGS, **changes)
        return Ceremony(self.token, settings, shipped_profiles(), self.clock, self.entropy)

    def init(self, **changes):
        return OfflineCA.init(self.directory, self.ceremony(**changes))

    def open(self, **changes):
        return OfflineCA.open(self.directory, self.ceremony(**changes))

    def account(self):
        """Every key and signature of the token has its line; nothing was signed twice; numbers go up."""
        with LocalStore(Journal(self.directory)) as store:
            lines, state = store.journal.records, store.state
            planned = [line.label for line in lines if isinstance(line, records.KeyPlanned)]
            assert sorted(self.token.made) == sorted(planned)
            assert 1 == sum(isinstance(line, records.IssuerAdded) for line in lines)
            tbs = [i.tbs for line in lines if isinstance(line, records.IntentsRecorded) for i in line.intents]
            numbers = [line.number for line in lines if isinstance(line, records.CRLNumbered)]
            asked = {line.bundle for line in lines if isinstance(line, records.RequestsReceived)}
            assert numbers == sorted(set(numbers))
            crls = 0
            for label, data in self.token.signed:
                if label == bundle_label("root"):
                    assert any(bundle is not None and _sha(bundle) in data for bundle in asked)
                elif data not in tbs:
                    crls += 1
            assert crls <= len(numbers)
            # A response that was not recorded never left; its bytes may be signed again. The root's never are.
            roots_own = [data for label, data in self.token.signed if label == "root"]
            assert 1 == max(collections.Counter(roots_own).values())
            for key, stored in state.intents.items():
                assert stored.settled
                unconfirmed = StatusState.UNCONFIRMED is state.statuses[key].state
                assert unconfirmed != (key in state.certificates)
            roots = [c for c in state.certificates.values() if c.profile == "root-ca"]
            assert 1 == len(roots)
            assert roots[0].der == state.issuers[ROOT_ID].certificate
        return state


def _sha(data):
    return sha256(data).encode()


def relinked(lines):
    """A journal's lines (octets) of these records, each linked to the one before: no link shows a change."""
    head, found = START, []
    for number, record in enumerate(lines, 1):
        found.append(canonical(_Line(number=number, previous=head, record=record)))
        head = sha256(found[-1])
    return found


def csr(key=ISSUING_KEY, name="Example Issuing CA"):
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    signer = KeySigner(key)
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, signer.algorithm.hash).public_bytes(Encoding.DER)


def entry(**changes):
    values = {
        "csr": csr(),
        "names": (),
        "profile": "sub-ca",
        "reason": "the issuing CA",
        "transaction_id": "issuing-1",
    }
    return RequestEntry(**(values | changes))


def request(*entries, link=importing.FIRST, signer=REQUESTER, at=None, crl=True):
    return importing.make_request(signer, entries or (entry(),), link, at or FakeClock().now(), crl=crl)
