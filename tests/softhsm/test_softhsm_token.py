"""A real SoftHSM2 under load, with the wrong PIN, taken away and brought back, opened by many processes."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import threading
import time

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from softhsmkit import LIBRARY, PIN

from chancery.asn1.signature import KeySigner
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.pkcs11 import open_token
from chancery.pkcs11.module import Module

pytestmark = pytest.mark.softhsm
ECDSA = ec.ECDSA(hashes.SHA256())
# What a serving process does at its start: open, find, sign. Prints the signature; the PIN comes over stdin.
START = """
import sys
from chancery.asn1.signature import KeySigner
from chancery.pkcs11 import TokenSettings, open_token
module, label, conf, count = sys.argv[1:]
pin = sys.stdin.buffer.read()
with open_token(TokenSettings(module=module, label=label, pin=lambda: pin, softhsm_conf=conf)) as token:
    signer = KeySigner(token.find_key("key"))
    for _ in range(int(count)):
        print(signer.sign(b"start").hex())
"""


GENERATE = """
import sys
from chancery.pkcs11 import TokenSettings, open_token
module, label, conf = sys.argv[1:]
pin = sys.stdin.buffer.read()
with open_token(TokenSettings(module=module, label=label, pin=lambda: pin, softhsm_conf=conf)) as token:
    token.generate_key("key", "ec-p256")
"""


def start_process(prepared, *, label=None, count=1):
    process = subprocess.Popen(
        [sys.executable, "-c", START, LIBRARY, label or prepared.label, str(prepared.conf), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(PIN)
    process.stdin.close()
    process.stdin = None
    return process


def wait_until_it_signs(signer, tries=200):
    for _ in range(tries):
        try:
            return signer.sign(b"again")
        except PKIError as error:
            if error.type is not ErrorType.SYSTEM_UNAVAIL:
                raise
            time.sleep(0.05)
    raise AssertionError("the token did not come back")


@pytest.mark.parametrize("kind", ["ec-p256", "ed25519"])
def test_eight_threads_share_the_sessions_and_no_signature_is_wrong(shared, kind):
    with open_token(shared.settings(max_sessions=4)) as token:
        signer = KeySigner(token.find_key(kind))

        def sign(thread):
            return [(b"%d-%d" % (thread, i), signer.sign(b"%d-%d" % (thread, i))) for i in range(500)]

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            made = [pair for pairs in pool.map(sign, range(8)) for pair in pairs]
        for message, signature in made:
            signer.algorithm.verify(signer.public_key, signature, message)
        assert 4000 == len({signature for _, signature in made})


def test_other_threads_run_while_the_token_works(token):
    """The switch interval is so long that the counter moves only when the signing call lets go of the GIL."""
    signer = KeySigner(token.find_key("rsa-4096"))
    counted, stop, counting = [0], threading.Event(), threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            counting.set()
            time.sleep(0)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=count)
    thread.start()
    try:
        assert counting.wait(30)
        sys.setswitchinterval(1000)
        before = counted[0]
        for _ in range(5):
            signer.sign(b"long")
        during = counted[0] - before
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    assert during > 0


def test_a_wrong_pin_names_token_and_slot_and_is_tried_once(shared):
    asked = []

    def wrong():
        asked.append(1)
        return b"not-the-pin"

    with pytest.raises(OperatorError, match=r"PIN of token `shared` \(slot \d+\) is wrong") as refused:
        open_token(shared.settings(pin=wrong))
    assert "right PIN" in refused.value.next_step
    assert 1 == len(asked)
    with open_token(shared.settings()) as token:
        assert token.description.pin_flags.name is not None


def test_the_callers_pin_buffer_is_wiped(shared):
    pin = bytearray(PIN)
    open_token(shared.settings(pin=lambda: pin)).close()
    assert bytearray(len(PIN)) == pin


def test_an_unknown_token_label_names_those_seen(shared):
    with pytest.raises(OperatorError, match=r"no token is labelled `nothing`; tokens seen: `shared` \(slot \d+\)"):
        open_token(shared.settings(label="nothing"))


def test_a_token_taken_away_is_unavailable_and_works_again_when_brought_back(scratch):
    with open_token(scratch.settings()) as token:
        token.generate_key("key", "ec-p256")
        signer = KeySigner(token.find_key("key"))
        signer.sign(b"before")
        (scratch.directory / "tokens").rename(scratch.directory / "elsewhere")
        for _ in range(3):
            with pytest.raises(PKIError) as away:
                signer.sign(b"away")
            assert ErrorType.SYSTEM_UNAVAIL == away.value.type
        (scratch.directory / "elsewhere").rename(scratch.directory / "tokens")
        signer.algorithm.verify(signer.public_key, wait_until_it_signs(signer), b"again")
        listed = token.keys()
        assert ["key"] == [info.label for info in listed]


def test_threads_that_sign_while_it_goes_and_comes_all_recover(scratch):
    with open_token(scratch.settings(max_sessions=3)) as token:
        token.generate_key("key", "ec-p256")
        signer = KeySigner(token.find_key("key"))
        stop, wrong, refused = threading.Event(), [], []

        def sign():
            while not stop.is_set():
                try:
                    signature = signer.sign(b"message")
                    signer.algorithm.verify(signer.public_key, signature, b"message")
                except PKIError as error:
                    refused.append(error.type)
                    time.sleep(0.01)
                except BaseException as error:
                    wrong.append(error)
                    raise

        threads = [threading.Thread(target=sign) for _ in range(6)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                (scratch.directory / "tokens").rename(scratch.directory / "elsewhere")
                while not refused:
                    time.sleep(0.01)
                (scratch.directory / "elsewhere").rename(scratch.directory / "tokens")
                wait_until_it_signs(signer)
                refused.clear()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert [] == wrong
        assert {ErrorType.SYSTEM_UNAVAIL} >= set(refused)
        wait_until_it_signs(signer)


def test_a_token_that_comes_back_with_another_key_does_not_sign(scratch, prepare):
    """Another key under the same label is not taken for the one that was found."""
    other = prepare("scratch")
    with open_token(other.settings()) as token:
        token.generate_key("key", "ec-p256")
    with open_token(scratch.settings()) as token:
        signer = KeySigner(token.generate_key("key", "ec-p256"))
        (scratch.directory / "tokens").rename(scratch.directory / "elsewhere")
        with pytest.raises(PKIError):
            signer.sign(b"away")
        (other.directory / "tokens").rename(scratch.directory / "tokens")
        time.sleep(0.3)
        for _ in range(3):
            with pytest.raises(PKIError) as refused:
                signer.sign(b"swapped")
            assert ErrorType.SYSTEM_UNAVAIL == refused.value.type
            time.sleep(0.3)


def test_twenty_processes_start_at_once_while_another_signs(scratch):
    with open_token(scratch.settings()) as token:
        key = token.generate_key("key", "ec-p256")
        processes = [start_process(scratch) for _ in range(20)]
        signed = 0
        while any(process.poll() is None for process in processes):
            key.public_key().verify(key.sign(b"m", ECDSA), b"m", ECDSA)
            signed += 1
        outcomes = [process.communicate(timeout=60) for process in processes]
        assert [b""] * 20 == [errors for _, errors in outcomes]
        for output, _ in outcomes:
            key.public_key().verify(bytes.fromhex(output.decode().strip()), b"start", ECDSA)
        assert signed > 0


def test_a_key_that_another_process_generates_is_found_without_a_restart(scratch):
    with open_token(scratch.settings()) as token:
        with pytest.raises(OperatorError, match="no key labelled `key`"):
            token.find_key("key")
        done = subprocess.run(
            [sys.executable, "-c", GENERATE, LIBRARY, scratch.label, str(scratch.conf)],
            input=PIN,
            capture_output=True,
            check=False,
        )
        assert (0, b"") == (done.returncode, done.stderr)
        key = token.find_key("key")
        key.public_key().verify(key.sign(b"m", ECDSA), b"m", ECDSA)


def test_another_roles_token_is_out_of_reach(scratch, prepare):
    """Neither its label through this role's configuration, nor its configuration with this role's PIN."""
    other = prepare("other")
    with pytest.raises(OperatorError, match="no token is labelled `other`; tokens seen: `scratch`"):
        open_token(scratch.settings(label="other"))
    with pytest.raises(OperatorError, match="PIN of token `other`"):
        open_token(other.settings(pin=lambda: b"pin-of-scratch"))


def test_two_configurations_at_once_are_refused(scratch, prepare):
    other = prepare("other")
    with open_token(scratch.settings()), pytest.raises(OperatorError, match="one process has one"):
        open_token(other.settings())
    open_token(other.settings()).close()


def test_two_tokens_of_one_process_live_side_by_side(scratch):
    """Two openings of the same token, as two parts of one program may do; closing one leaves the other."""
    first, second = open_token(scratch.settings()), open_token(scratch.settings())
    key = first.generate_key("key", "ec-p256")
    same = second.find_key("key")
    first.close()
    key.public_key().verify(same.sign(b"m", ECDSA), b"m", ECDSA)
    with pytest.raises(PKIError, match="closed"):
        key.sign(b"m", ECDSA)
    second.close()
    first.close()


def test_a_restart_for_one_token_makes_the_other_log_in_again(scratch):
    first, second = open_token(scratch.settings()), open_token(scratch.settings())
    key, same = first.generate_key("key", "ec-p256"), second.find_key("key")
    same.sign(b"m", ECDSA)
    first.module.restart()
    for which in (same, key, same):
        which.public_key().verify(which.sign(b"m", ECDSA), b"m", ECDSA)
    first.close()
    second.close()


def test_a_forked_child_cannot_use_the_parents_token_and_can_open_its_own(scratch):
    with open_token(scratch.settings()) as token:
        key = token.generate_key("key", "ec-p256")
        key.sign(b"m", ECDSA)
        child = os.fork()
        if child == 0:
            os._exit(_in_child(scratch, key))
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        key.public_key().verify(key.sign(b"m", ECDSA), b"m", ECDSA)


def _in_child(scratch, key) -> int:
    try:
        key.sign(b"m", ECDSA)
    except PKIError:
        with open_token(scratch.settings()) as token:
            token.find_key("key").sign(b"m", ECDSA)
        return 0
    return 1


def test_the_library_says_what_it_is(token):
    info = token.module.info()
    assert (LIBRARY, "SoftHSM") == (info.path, info.manufacturer)
    assert Module.load(LIBRARY, softhsm_conf=os.environ["SOFTHSM2_CONF"]) is token.module
