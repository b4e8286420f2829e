"""
The checker itself: each row of `PLANTS` is a world that is wrong in one thing, and what the checker says of it.

It says that and nothing else, and nothing of a world that is right. `JOURNAL` is the same for the journal, whose
checker is the product's own `audit verify`.
"""

from __future__ import annotations

import copy
import dataclasses

import pytest
from crash_plants import HOLD, Plant, played, rewritten, without
from cryptography import x509

from chancery.audit.merkle import leaf_hash
from chancery.audit.verify import Kind, verify
from chancery.ca.installing import act_event
from chancery.ports import Act, CRLScope, EventKind, IssuerAct, RequestState, RevocationReason, StatusState
from checks import problems
from crlchecks import REMOVED, lines_of
from fakes import START
from historykit import DAY
from unit.audit.journals import ED25519, ORIGIN

GOOD, REVOKED = StatusState.GOOD, StatusState.REVOKED
FINAL = RevocationReason.CESSATION_OF_OPERATION
KEY = RevocationReason.KEY_COMPROMISE
URL = "http://pki.example.org/crl/issuing/2.crl"
STRAY = b"\x30\x03\xa0\x01\x02"


@pytest.fixture(scope="module")
def history():
    return played()


def _reused_serial(plant) -> None:
    first = plant.account.intents[0]
    plant.change(intents=[*plant.account.intents, dataclasses.replace(first, request_id=99)])


def _deactivated_issuer(plant) -> None:
    event = act_event(IssuerAct("issuing", Act.DEACTIVATE, START, "olga", "so"))
    plant.before_last_intent(event, [plant.subject(n) for n in range(6)])


def _deactivated_profile(plant) -> None:
    event = dataclasses.replace(plant.event(EventKind.PROFILE_DEACTIVATED), subject="profile:tls-client")
    plant.before_last_intent(event, [plant.subject(n) for n in range(6)])


def _blocked_before(plant) -> None:
    plant.before_last_intent(plant.event(EventKind.KEY_BLOCKED), [plant.subject(6)])


def _other_bytes(plant) -> None:
    one, other = plant.person(4), plant.person(5)
    others = [dataclasses.replace(o, der=other.der) if o is one else o for o in plant.account.certificates]
    plant.change(certificates=others)


def _request(plant, state) -> None:
    plant.change(requests={**plant.account.requests, 1: state})


def _order(plant) -> None:
    crls = list(plant.account.crls)
    full = [n for n, one in enumerate(crls) if one.issuer_id == 2 and one.scope.shard == 1 and one.scope.delta]
    crls[full[-1]], crls[full[-2]] = crls[full[-2]], crls[full[-1]]
    plant.change(crls=crls)


def _full(plant, shard: int = 2):
    return plant.crl(lambda one: one.scope == CRLScope(shard))


def _point(url: str, *, critical: bool = True):
    place = [x509.UniformResourceIdentifier(url)]
    return {
        x509.IssuingDistributionPoint: (
            x509.IssuingDistributionPoint(place, None, *[False] * 2, None, *[False] * 2),
            critical,
        )
    }


def _long(plant) -> None:
    record = _full(plant)
    plant.forge(record, next_update=record.this_update + 11 * DAY)


def _foreign(plant) -> None:
    """A shard's delta lists what is on another shard."""
    strange = lines_of(plant.delta(KEY))
    plant.forge(plant.delta(FINAL), lambda lines: {**lines, **strange})


def _number(plant) -> None:
    plant.change(crl_numbers={**plant.account.crl_numbers, 2: plant.account.crl_numbers[2] + 1})


INTENT, ISSUED, MARKED = EventKind.INTENT_RECORDED, EventKind.CERTIFICATE_ISSUED, EventKind.INTENT_UNCONFIRMED
# What is wrong, how it came to be, and the words of each finding, which are all that there are.
PLANTS = {
    "a signature that was never intended": (
        lambda plant: plant.signed[2].append(STRAY),
        ["a signature that no intent names"],
    ),
    "a certificate signed twice": (
        lambda plant: plant.signed[2].append(plant.account.intents[0].tbs),
        ["a TBSCertificate was signed twice"],
    ),
    "more CRLs signed than numbered": (
        lambda plant: plant.signed[2].extend([b"\x30\x03\x02\x01\x01"] * 9),
        ["more than numbers reserved"],
    ),
    "a serial used twice (R1)": (_reused_serial, ["a serial was used 2 times"]),
    "an intent without its event": (lambda plant: plant.without_event(INTENT), ["an intent with 0 events"]),
    "a certificate without its event": (lambda plant: plant.without_event(ISSUED), ["0 events name this"]),
    "an unconfirmed intent without its event": (
        lambda plant: plant.without_event(MARKED),
        ["0 events of an unconf"],
    ),
    "a revocation without its event": (
        lambda plant: plant.without_event(EventKind.CERTIFICATE_REVOKED),
        ["0 revocation events"],
    ),
    "a suspension without its event": (
        lambda plant: plant.without_event(EventKind.CERTIFICATE_SUSPENDED),
        ["0 suspension events"],
    ),
    "a reinstatement without its event": (
        lambda plant: plant.without_event(EventKind.CERTIFICATE_REINSTATED),
        ["0 reinstatement events"],
    ),
    "a refusal without its event": (
        lambda plant: plant.without_event(EventKind.REQUEST_REFUSED),
        ["refused with 0 refusals"],
    ),
    "a certificate that is another one": (
        _other_bytes,
        ["not its intent's", "stored under another serial", "1 events name this"],
    ),
    "a certificate of another key": (lambda plant: plant.resigned(4, "second"), ["not signed by its issuer"]),
    "a request that is done twice over": (
        lambda plant: _request(plant, RequestState.WAITING),
        ["waiting with 1 certificates"],
    ),
    "a revocation taken back": (
        lambda plant: plant.again(1, state=GOOD, reason=None, revoked_at=None),
        ["the status went", "0 reinstatement events"],
    ),
    "revoked twice": (lambda plant: plant.again(4), ["the status went", "1 revocation events"]),
    "a status that nothing made": (
        lambda plant: plant.change(
            statuses=[
                dataclasses.replace(one, revoked_at=START) if one.reason is KEY else one
                for one in plant.account.statuses
            ]
        ),
        ["not what its last change made it"],
    ),
    "revoked, and the day of the suspension lost": (
        lambda plant: plant.status(1, revoked_at=START + 9 * DAY),
        ["revoked for good since", "revoked at another time"],
    ),
    "a certificate for TLS suspended (R15)": (
        lambda plant: plant.status(6, reason=HOLD),
        ["may serve TLS", "1 revocation events", "0 suspension events", "for another reason"],
    ),
    "issued by a deactivated issuer": (_deactivated_issuer, ["an intent of issuer:issuing after its deact"]),
    "issued under a deactivated profile": (_deactivated_profile, ["an intent of profile:tls-client after its"]),
    "a compromised key that is not blocked (R5)": (
        lambda plant: plant.change(blocked=[]),
        ["its key is not blocked", "0 keys are blocked, 1 events say so"],
    ),
    "a certificate for a blocked key (R5)": (_blocked_before, ["a key that was blocked before"]),
    "a CRL without an entry": (
        lambda plant: plant.forge(_full(plant), without(FINAL)),
        ["it does not list", "the shards differ"],
    ),
    "a complete CRL without an entry": (
        lambda plant: plant.forge(_full(plant, 0), without(FINAL)),
        ["it does not list", "the shards differ"],
    ),
    "a CRL with another reason": (
        lambda plant: plant.forge(_full(plant), rewritten(FINAL, reason=4)),
        ["for another reason"],
    ),
    "a CRL with another day": (
        lambda plant: plant.forge(_full(plant), rewritten(FINAL, at=START)),
        ["at another time"],
    ),
    "a CRL with a reasonCode of 0 (R15)": (
        lambda plant: plant.forge(_full(plant), rewritten(0, reason=-1)),
        ["has a reasonCode of 0"],
    ),
    "a delta without an entry": (
        lambda plant: plant.forge(plant.delta(FINAL), without(FINAL)),
        # An earlier delta of this base lists it, but the two are not read together.
        ["with its base, it does not list"],
    ),
    "a delta without a removal": (
        lambda plant: plant.forge(plant.delta(REMOVED), without(REMOVED)),
        ["it does not remove"],
    ),
    "a delta that removes what is revoked": (
        lambda plant: plant.forge(plant.delta(FINAL), rewritten(FINAL, reason=REMOVED)),
        ["which is revoked", "it does not list"],
    ),
    "a delta that lists what is released": (
        lambda plant: plant.forge(plant.delta(REMOVED), rewritten(REMOVED, reason=int(HOLD))),
        ["which is not revoked"],
    ),
    "a shard that lists another's (R15)": (_foreign, ["which is not revoked"]),
    "a delta of a base that is not the newest": (
        lambda plant: plant.forge(
            plant.delta(FINAL), extensions={x509.DeltaCRLIndicator: (x509.DeltaCRLIndicator(1), True)}, base=1
        ),
        ["is not the newest of its scope"],
    ),
    "a delta that hides what it is (RFC 5280 5.2.4)": (
        lambda plant: plant.forge(
            plant.delta(FINAL),
            extensions={x509.DeltaCRLIndicator: (x509.DeltaCRLIndicator(plant.delta(FINAL).base), False)},
        ),
        ["deltaCRLIndicator is not critical"],
    ),
    "a shard that does not insist on its place (R15)": (
        lambda plant: plant.forge(_full(plant), extensions=_point(URL, critical=False)),
        ["issuingDistributionPoint is not critical"],
    ),
    "a CRL that is valid for too long (R15)": (_long, ["valid for more than 10 days"]),
    "a CRL of another key": (
        lambda plant: plant.forge(_full(plant), label="second"),
        ["not signed by its issuer"],
    ),
    "a CRL published after a newer one (R15)": (_order, ["published after CRL", "is not the newest of its scope"]),
    "a CRL number without its intent": (_number, ["CRL numbers and CRL intents differ"]),
    "a CRL without its event": (
        lambda plant: plant.without_event(EventKind.CRL_PUBLISHED),
        ["crl:issuing 1: not stored and journalled"],
    ),
    "an event without its CRL": (
        lambda plant: plant.change(crls=plant.account.crls[:-1]),
        ["not stored and journalled once each"],
    ),
}


@pytest.mark.parametrize("what", PLANTS)
def test_the_checker_names_what_is_wrong_and_nothing_else(history, what):
    issuers = history.certificates
    plant = Plant(history)
    assert [] == problems(plant.account, plant.signed, issuers)
    spoil, said = PLANTS[what]
    spoil(plant)
    found = problems(plant.account, plant.signed, issuers)
    unsaid = [one for one in found if not any(words in one for words in said)]
    unheard = [words for words in said if not any(words in one for one in found)]
    assert ([], []) == (unsaid, unheard), found


def _swap(journal) -> None:
    journal.events[5], journal.events[6] = journal.events[6], journal.events[5]


def _reorder(journal) -> None:
    journal.leaf_rows[5], journal.leaf_rows[6] = journal.leaf_rows[6], journal.leaf_rows[5]


def _edit(journal) -> None:
    journal.events[5] = journal.events[5].replace("worker-1", "worker-2")


def _edit_with_leaf(journal) -> None:
    _edit(journal)
    journal.leaf_rows[4] = (5, leaf_hash(journal.events[5].encode()))


def _delete_with_leaf(journal) -> None:
    del journal.events[journal.leaf_rows.pop(5)[0]]


def _truncate(journal) -> None:
    """To the state of an earlier checkpoint, which was right then."""
    size = min(journal.checkpoint_rows)
    journal.leaf_rows = {index: row for index, row in journal.leaf_rows.items() if index < size}
    journal.events = {number: body for number, body in journal.events.items() if number <= size}
    journal.checkpoint_rows = {size: journal.checkpoint_rows[size]}


JOURNAL = {
    "an event edited": (_edit, {Kind.EDITED}),
    "an event edited, and its leaf": (_edit_with_leaf, {Kind.REPLACED, Kind.ROLLED_BACK}),
    "two events in each other's place": (_swap, {Kind.EDITED}),
    "two leaves in each other's place": (_reorder, {Kind.REPLACED, Kind.ROLLED_BACK}),
    "an event deleted": (lambda journal: journal.events.pop(5), {Kind.DELETED}),
    "an event deleted with its leaf": (_delete_with_leaf, {Kind.GAP}),
    "the last event deleted with its leaf": (
        lambda journal: journal.events.pop(journal.leaf_rows.popitem()[1][0]),
        {Kind.TRUNCATED},
    ),
    "the journal cut off where it was once": (_truncate, {Kind.ROLLED_BACK}),
}


@pytest.mark.parametrize("what", JOURNAL)
def test_the_journal_shows_what_was_done_to_it(history, what):
    journal = copy.deepcopy(history.journal)
    at = history.ca.clock.now()
    assert () == verify(journal, ORIGIN, ED25519.public_key, at, remembered=history.heads).findings
    spoil, kinds = JOURNAL[what]
    spoil(journal)
    audit = verify(journal, ORIGIN, ED25519.public_key, at, remembered=history.heads)
    assert kinds == {one.kind for one in audit.findings}
