"""R25: a unit's key is in use for its period, a fresh one takes over as tokens are made, and the journal knows."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime

import pytest

from chancery.asn1 import cms, tsp
from chancery.asn1.signature import KeySigner
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import EventKind
from chancery.web.hot import Request
from fakes import START, FakeClock
from unit.tsa.kit import YEAR, FakeTimestampStore, as_der, certificate, key, plan, request, root, service

DAY = datetime.timedelta(days=1)
PERIOD = (START.replace(tzinfo=None) - DAY, START.replace(tzinfo=None) + 30 * DAY)


class Place:
    """A token whose keys come and go, and a CA that certifies them. Kinds stand for labels."""

    def __init__(self) -> None:
        self.kinds = ["p256"]
        self.certificates = {"p256": as_der(certificate("p256", period=PERIOD))}
        self.clock = FakeClock()
        self.store = FakeTimestampStore()
        self.away = None

    def signers(self):
        if self.away is not None:
            raise self.away
        return [KeySigner(key(kind)) for kind in reversed(self.kinds)]

    async def chains(self, public_key):
        return [
            (found, as_der(root(kind)))
            for kind, found in self.certificates.items()
            if key(kind).public_key() == public_key
        ]

    def run(self, scenario):
        finder = dataclasses.make_dataclass("Finder", [])()
        finder.chains = self.chains
        made = service(
            units=[plan(certificates=(), finder=finder, signers=self.signers)], clock=self.clock, store=self.store
        )

        async def ask():
            body = request()
            answer = await made.handler(Request(b"POST", b"/tsa", body, "c", b"application/timestamp-query"))
            response = tsp.decode_response(answer.partition(b"\r\n\r\n")[2])
            if response.time_stamp_token is None:
                return response.fail_info
            signed = cms.decode(response.time_stamp_token)
            for kind, found in self.certificates.items():
                if found in signed.certificates:
                    cms.verify_signer(signed, found, key(kind).public_key())
                    return kind
            raise AssertionError("an unknown signer")

        async def act():
            await made.start()
            try:
                return await scenario(made, ask)
            finally:
                await made.close()

        return asyncio.run(act()), made


def test_r25_a_fresh_key_takes_over_once_it_has_a_certificate_and_the_old_one_signs_no_more():
    place = Place()

    async def scenario(made, ask):
        found = [await ask()]
        place.kinds.append("p384")
        await made.refresh()
        found.append(await ask())
        place.certificates["p384"] = as_der(certificate("p384"))
        await made.refresh()
        found.append(await ask())
        place.kinds.remove("p256")  # destroyed
        await made.refresh()
        return [*found, await ask()]

    found, made = place.run(scenario)
    assert ["p256", "p256", "p384", "p384"] == found
    assert 2 == len(place.store.keys)
    changes = [event for event in place.store.events if event.kind is EventKind.TSA_CERTIFICATE]
    assert [made.units[0].certificate_sha256()] == [event.detail["sha256"] for event in changes]


def test_r25_after_its_usage_period_a_key_signs_nothing_and_a_fresh_one_goes_on():
    place = Place()

    async def scenario(made, ask):
        place.clock.advance(31 * 86400)
        await made.measure()
        await made.refresh()
        found = [await ask()]
        place.kinds.append("p384")
        place.certificates["p384"] = as_der(certificate("p384"))
        await made.refresh()
        return [*found, await ask()]

    found, made = place.run(scenario)
    assert [{tsp.FailInfo.SYSTEM_FAILURE}, "p384"] == found
    assert made.units[0].is_valid()


def test_r25_a_start_takes_the_newest_key_that_may_sign():
    place = Place()
    place.kinds += ["p384", "p521"]
    place.certificates["p384"] = as_der(certificate("p384"))
    place.certificates["p521"] = as_der(certificate("p521", end=START - DAY, start=START - YEAR))

    async def scenario(_, ask):
        return await ask()

    assert "p384" == place.run(scenario)[0]


@pytest.mark.parametrize(
    "error", [PKIError(ErrorType.SYSTEM_UNAVAIL, "away"), OperatorError("the token is away", "put it back")]
)
def test_a_token_that_does_not_answer_changes_nothing(error):
    place = Place()

    async def scenario(made, ask):
        place.away = error
        await made.refresh()
        return await ask()

    found, made = place.run(scenario)
    assert "p256" == found
    assert "tsa.certificate_unknown" in [event for event, _ in made.reports]


def test_r25_a_key_of_another_unit_is_not_taken_over():
    place = Place()

    async def scenario(made, ask):
        place.kinds.append("p384")
        place.certificates["p384"] = as_der(certificate("p384"))
        spki = key("p384").public_key()
        other = service(store=place.store, units=[plan("p384", unit="other")])
        await other.start()
        await other.close()
        await made.refresh()
        assert spki == key("p384").public_key()
        return await ask()

    found, made = place.run(scenario)
    assert "p256" == found
    assert "tsa.certificate_refused" in [event for event, _ in made.reports]
