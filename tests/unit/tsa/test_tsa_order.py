"""Order, serial numbers, policies and units: what stands in a token is what its unit promises (R23, R24)."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime

import pytest
from asn1crypto import tsp as other_tsp
from hypothesis import given, settings
from hypothesis import strategies as st

from chancery.asn1 import cms, tsp
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import EventKind
from chancery.tsa.policy import Policy
from chancery.tsa.recording import MAX_AHEAD, Recorder, Serials
from chancery.web.hot import Request
from fakes import START, FakeClock, FakeEntropy
from unit.tsa.kit import OTHER_POLICY, POLICY, SHA256, TSA, certificate, key, plan, request, service

MICROSECOND = datetime.timedelta(microseconds=1)
SHA512 = tsp.DIGEST_OIDS["sha512"]


def info(answer) -> tsp.TSTInfo:
    assert answer.error is None
    token = tsp.decode_response(answer.der).time_stamp_token
    return tsp.decode_tst_info(cms.decode(token).content)


def ordered(**changes) -> TSA:
    return TSA(**({"ordering": True, "gen_time_digits": 6} | changes))


def times(tsa: TSA) -> list[datetime.datetime]:
    return [token.gen_time for tokens, _ in tsa.store.batches for token in tokens]


def test_ordered_tokens_of_one_moment_have_times_one_after_the_other():
    tsa = ordered()
    answers = asyncio.run(tsa.respond_all([request()] * 20, max_batch=6))
    found = [info(answer) for answer in answers]
    assert {True} == {one.ordering for one in found}
    assert [START + n * MICROSECOND for n in range(20)] == sorted(one.gen_time for one in found)
    assert times(tsa) == sorted(times(tsa))
    # `ordering` is written when it is true alone (DER); another implementation reads it.
    token = tsp.decode_response(answers[0].der).time_stamp_token
    assert other_tsp.TSTInfo.load(cms.decode(token).content, strict=True)["ordering"].native is True
    assert not info(TSA().respond(request())).ordering


def test_ordered_tokens_of_several_processes_with_clocks_apart_do_not_go_back():
    one, two = ordered(), ordered(clock=FakeClock(START - datetime.timedelta(milliseconds=40)), instance=8)
    two.store = one.store
    for tsa in (one, two, two, one, two):
        assert tsa.respond(request()).error is None
        one.clock.advance(0.001)
        two.clock.advance(0.001)
    found = times(one)
    assert found == sorted(set(found))
    assert 5 == len(found)


def test_ordered_r23_a_clock_behind_the_last_token_gives_no_time():
    tsa = ordered()
    tsa.store.units["tsa"] = [True, START + MAX_AHEAD]
    assert ErrorType.TIME_NOT_AVAILABLE == tsa.respond(request()).error
    assert {} == tsa.store.tokens
    tsa.clock.advance(0.001)
    tsa.measure()
    assert START + MAX_AHEAD + MICROSECOND == info(tsa.respond(request())).gen_time


def test_ordered_r23_a_time_ahead_of_the_clock_stays_within_the_declared_accuracy():
    tsa = ordered(accuracy=datetime.timedelta(milliseconds=50), fit=False)
    tsa.source.uncertainty_s = 0.030
    tsa.measure()
    tsa.store.units["tsa"] = [True, START + datetime.timedelta(milliseconds=21)]
    assert ErrorType.TIME_NOT_AVAILABLE == tsa.respond(request()).error
    tsa.store.units["tsa"] = [True, START + datetime.timedelta(milliseconds=19)]
    assert START + datetime.timedelta(milliseconds=19) + MICROSECOND == info(tsa.respond(request())).gen_time


def test_ordered_times_of_few_digits_are_few_and_the_rest_of_a_batch_is_refused():
    tsa = ordered(gen_time_digits=2)
    answers = asyncio.run(tsa.respond_all([request()] * 15))
    granted = [answer for answer in answers if answer.error is None]
    # From the moment itself to a tenth of a second ahead of it, in hundredths.
    assert 11 == len(granted)
    assert [ErrorType.TIME_NOT_AVAILABLE] * 4 == [answer.error for answer in answers if answer.error]
    assert 11 == len(tsa.store.tokens)


def test_ordered_nothing_is_signed_when_the_store_fails():
    tsa = ordered()
    tsa.store.fault = "fail-after"
    assert ErrorType.SYSTEM_UNAVAIL == tsa.respond(request()).error


def test_without_ordering_no_time_is_earlier_than_the_one_before():
    tsa = TSA()
    assert START == info(tsa.respond(request())).gen_time
    recorder = tsa_recorder(tsa)

    async def scenario():
        await recorder.record([tsa.authority.accept(request(), "c")])
        tsa.clock.time -= datetime.timedelta(milliseconds=60)
        held = await recorder.record([tsa.authority.accept(request(), "c")])
        tsa.clock.time -= datetime.timedelta(milliseconds=200)
        refused = await recorder.record([tsa.authority.accept(request(), "c")])
        return held[0], refused[0]

    held, refused = asyncio.run(scenario())
    assert START == held.record.gen_time
    assert isinstance(refused, PKIError)
    assert ErrorType.TIME_NOT_AVAILABLE is refused.type
    assert sorted(tsa.store.tokens) == list(tsa.store.tokens)


def tsa_recorder(tsa: TSA) -> Recorder:
    return Recorder(tsa.settings, tsa.store, tsa.guard, tsa.entropy)


def test_r25_a_time_that_the_key_may_not_sign_at_is_refused():
    tsa = ordered(cert=certificate("p256", end=START))
    tsa.store.units["tsa"] = [True, START]
    assert ErrorType.SYSTEM_FAILURE == tsa.respond(request()).error
    assert {} == tsa.store.tokens


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 127), st.integers(0, 255))
def test_serials_grow_and_hold_instance_time_and_lane(steps, instance, lane):
    serials, at, found = Serials(instance, lane, FakeEntropy()), START, []
    for step in steps:
        at += step * MICROSECOND
        found.append((serials.draw(at), at))
    assert [one for one, _ in found] == sorted({one for one, _ in found})
    for serial, moment in found:
        octets = serial.to_bytes(17, "big")
        assert (1, instance, lane) == (octets[0], octets[1], octets[9])
        microseconds = int.from_bytes(octets[2:9], "big")
        assert moment == datetime.datetime.fromtimestamp(0, datetime.UTC) + microseconds * MICROSECOND


def test_r24_each_policy_has_its_digests():
    tsa = TSA(policies=(Policy(POLICY), Policy(OTHER_POLICY, frozenset({SHA512}))))
    assert ErrorType.BAD_ALG is tsa.respond(request(policy=OTHER_POLICY)).error
    answer = tsa.respond(request(policy=OTHER_POLICY, hash_oid=SHA512, digest=bytes(64)))
    assert (OTHER_POLICY, SHA512) == (info(answer).policy, info(answer).hash_oid)
    assert POLICY == info(tsa.respond(request())).policy


@pytest.mark.parametrize(
    ("allowed", "asked", "expected"),
    [
        (None, None, POLICY),
        (frozenset({OTHER_POLICY}), None, OTHER_POLICY),
        (frozenset({OTHER_POLICY}), OTHER_POLICY, OTHER_POLICY),
        (frozenset({OTHER_POLICY}), POLICY, ErrorType.UNACCEPTED_POLICY),
        (frozenset(), None, ErrorType.UNACCEPTED_POLICY),
        (frozenset({"1.2.3"}), "1.2.3", ErrorType.UNACCEPTED_POLICY),
    ],
)
def test_each_client_has_its_policies(allowed, asked, expected):
    tsa = TSA()
    try:
        found = tsa.authority.accept(request(policy=asked), "client", allowed).policy.oid
    except PKIError as error:
        found = error.type
    assert expected == found


def test_a_qualified_token_says_so_and_another_does_not():
    tsa = TSA(policies=(Policy(POLICY), Policy(OTHER_POLICY, qualified=True)), include_tsa_name=True)
    plain, qualified = tsa.respond(request()), tsa.respond(request(policy=OTHER_POLICY))
    assert (False, True) == (info(plain).qualified, info(qualified).qualified)
    token = tsp.decode_response(qualified.der).time_stamp_token
    other = other_tsp.TSTInfo.load(cms.decode(token).content, strict=True)
    # EN 319 422 9.1: qcStatements, once, not critical, with esi4-qtstStatement-1 alone.
    assert [("1.3.6.1.5.5.7.1.3", False)] == [
        (one["extn_id"].dotted, one["critical"].native) for one in other["extensions"]
    ]
    statements = bytes.fromhex("300b" + "3009" + "0607" + "0400" + "81975e" + "0101")
    assert statements == other["extensions"][0]["extn_value"].native
    assert other.dump(force=True) == cms.decode(token).content


@pytest.mark.parametrize(
    "policies",
    [
        (Policy(POLICY), Policy(POLICY)),
        (Policy(POLICY, frozenset()),),
        (Policy(POLICY, frozenset({SHA256, "1.3.14.3.2.26"})),),  # R24: SHA-1
        (Policy(POLICY, frozenset({"1.2.840.113549.2.5"})),),  # R24: MD5
    ],
)
def test_r24_policies_that_cannot_be_kept_do_not_start(policies):
    with pytest.raises(OperatorError):
        TSA(policies=policies)


THIRD = "1.3.6.1.4.1.99999.1.3"


def two_units():
    return [
        plan("p256", unit="general", gen_time_digits=6),
        plan("rsa", unit="special", policies=(Policy(THIRD),), lane=1, ordering=True, gen_time_digits=6),
    ]


def test_units_are_chosen_by_path_and_by_policy_and_sign_with_their_own_keys():
    units = two_units()
    made, certificates = service(units=units), {"p256": units[0].certificates[0], "rsa": units[1].certificates[0]}

    async def ask(target, policy=None):
        body = request(policy=policy)
        answer = made.handler(Request(b"POST", target, body, "c", b"application/timestamp-query"))
        answer = await answer if asyncio.iscoroutine(answer) else answer
        if isinstance(answer, bytes):
            response = tsp.decode_response(answer.partition(b"\r\n\r\n")[2])
            return response if response.time_stamp_token is None else cms.decode(response.time_stamp_token)
        return answer.status

    async def scenario():
        await made.start()
        try:
            return [
                await ask(b"/tsa"),
                await ask(b"/tsa/general"),
                await ask(b"/tsa/special"),
                await ask(b"/tsa", THIRD),
                await ask(b"/tsa/general", THIRD),
                await ask(b"/tsa/none"),
                await ask(b"/tsa", "1.2.3"),
            ], made.health()
        finally:
            await made.close()

    (first, general, special, third, refused, missing, unknown), health = asyncio.run(scenario())
    for signed, kind, policy in (
        (first, "p256", POLICY), (general, "p256", POLICY), (special, "rsa", THIRD), (third, "rsa", THIRD),
    ):  # fmt: skip
        cms.verify_signer(signed, certificates[kind], key(kind).public_key())
        assert policy == tsp.decode_tst_info(signed.content).policy
        assert (kind == "rsa") == tsp.decode_tst_info(signed.content).ordering
    assert {tsp.FailInfo.UNACCEPTED_POLICY} == refused.fail_info == unknown.fail_info
    assert 404 == missing
    assert ["general", "special"] == list(health["units"])
    assert health["ready"] is True
    started = [event.detail["unit"] for event in made._store.events if event.kind is EventKind.PROCESS_STARTED]
    assert ["general", "special"] == started


@pytest.mark.parametrize(
    "changes",
    [{"unit": "general"}, {"lane": 0}, {"accuracy": datetime.timedelta(milliseconds=500)}, {"unit": "No Name"}],
)
def test_units_that_do_not_go_together_do_not_start(changes):
    first, second = two_units()
    wrong = dataclasses.replace(second, settings=dataclasses.replace(second.settings, **changes))
    with pytest.raises(OperatorError):
        service(units=[first, wrong])


def test_a_key_is_of_one_unit_and_order_is_for_ever():
    for changes in ({"unit": "another"}, {"ordering": True, "unit": "tsa"}):
        made = service()

        async def scenario(made=made, changes=changes):
            await made.start()
            await made.close()
            again = service(store=made._store, units=[plan(**changes)])
            with pytest.raises(OperatorError):
                await again.start()
            await again.close()

        asyncio.run(scenario())
