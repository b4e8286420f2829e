"""Signed notes and checkpoints, against notes that other implementations signed."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from chancery.asn1.signature import KeySigner
from chancery.audit.note import TreeHead, check_name, key_id, open_checkpoint, open_note, sign, sign_checkpoint
from chancery.errors import ErrorType, PKIError
from unit.audit import journals

NOTES = json.loads((Path(__file__).parents[2] / "vectors" / "audit" / "notes.json").read_text())
HEAD = TreeHead(journals.ORIGIN, 42, bytes(range(32)))


def verifier(text):
    """Take a verifier key of the note tools apart: name, key id, public key."""
    name, identifier, material = text.split("+", 2)
    raw = base64.b64decode(material)
    key = ed25519.Ed25519PublicKey.from_public_bytes(raw[1:]) if raw[0] == 1 else load_der_public_key(raw[1:])
    return name, bytes.fromhex(identifier), key


def refusal(call, *args):
    with pytest.raises(PKIError) as caught:
        call(*args)
    return caught.value.type


@pytest.mark.parametrize("which", ["PeterNeumann", "rekor", "pixel6"])
def test_notes_of_other_implementations_open_under_their_keys(which):
    name, identifier, key = verifier(NOTES[which]["key"])
    note = NOTES[which]["note"]
    assert identifier == key_id(name, key)
    assert note.rpartition("\n\n")[0] + "\n" == open_note(note, name, key)
    assert ErrorType.NOT_AUTHORIZED is refusal(
        open_note, note.replace("t", "T", 1).replace("E", "e", 1), name, key
    )
    assert ErrorType.NOT_AUTHORIZED is refusal(open_note, note, f"{name}.example", key)
    assert ErrorType.NOT_AUTHORIZED is refusal(open_note, note, name, journals.OTHER.public_key)


def test_the_note_of_another_implementation_is_made_byte_for_byte():
    vector = NOTES["PeterNeumann"]
    private = base64.b64decode(vector["private"].split("+", 4)[4])
    signer = KeySigner(ed25519.Ed25519PrivateKey.from_private_bytes(private[1:]))
    assert vector["note"] == sign(vector["note"].rpartition("\n\n")[0] + "\n", "PeterNeumann", signer)


def test_text_may_hold_empty_lines_and_signatures_of_unknown_keys_are_ignored():
    note = NOTES["salvatore"]["note"]
    assert ErrorType.NOT_AUTHORIZED is refusal(open_note, note, journals.ORIGIN, journals.ED25519.public_key)
    text = note.rpartition("\n\n")[0] + "\n"
    mine = sign(text, journals.ORIGIN, journals.ED25519).rpartition("\n\n")[2]
    assert text == open_note(note + mine, journals.ORIGIN, journals.ED25519.public_key)


@pytest.mark.parametrize("signer", [journals.ED25519, journals.P256], ids=["ed25519", "p256"])
def test_a_checkpoint_says_what_was_put_in(signer):
    note = sign_checkpoint(HEAD, signer)
    assert HEAD == open_checkpoint(note, journals.ORIGIN, signer.public_key)
    assert f"{journals.ORIGIN}\n42\n{base64.b64encode(HEAD.root).decode()}\n\n\u2014 {journals.ORIGIN} " in note


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)])
def test_checkpoints_are_signed_with_ed25519_or_p256_only(key):
    assert ErrorType.BAD_ALG is refusal(sign_checkpoint, HEAD, KeySigner(key))


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\nb", "x" * 201])
def test_a_log_has_a_name_that_fits_a_signature_line(name):
    assert ErrorType.BAD_REQUEST is refusal(check_name, name)


@pytest.mark.parametrize("text", ["no newline", "tab\t\n", "bell\x07\n", ""])
def test_text_that_no_note_may_have_is_not_signed(text):
    assert ErrorType.BAD_REQUEST is refusal(sign, text, journals.ORIGIN, journals.ED25519)


class LyingSigner(KeySigner):
    def sign(self, data):
        return super().sign(data + b"!")


def test_a_wrong_signature_of_the_token_never_leaves():
    assert ErrorType.SYSTEM_FAILURE is refusal(sign_checkpoint, HEAD, LyingSigner(journals.ED25519.key))


def signed(text):
    return sign(text, journals.ORIGIN, journals.ED25519)


ROOT = base64.b64encode(bytes(32)).decode()
GOOD = sign_checkpoint(HEAD, journals.ED25519)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        "text\n",
        GOOD[:-1],
        GOOD + "\n",
        GOOD.replace("\n\n", "\n"),
        GOOD.replace("\u2014", "-"),
        GOOD.replace("\u2014 ", "\u2014  "),
        GOOD[:-2] + "\n",
        GOOD.replace(" 42", "\t42") + "\r\n",
        "x" * 70_000,
        GOOD + f"{GOOD.splitlines()[-1]}\n" * 70,
        GOOD.rsplit(" ", 1)[0] + " AAAA\n",
        GOOD.rsplit(" ", 1)[0] + " !!!!\n",
        signed(f"{journals.ORIGIN}\n042\n{ROOT}\n"),
        signed(f"{journals.ORIGIN}\n-1\n{ROOT}\n"),
        signed(f"{journals.ORIGIN}\n\u0664\u0662\n{ROOT}\n"),
        signed(f"{journals.ORIGIN}\n{2**63}\n{ROOT}\n"),
        signed(f"{journals.ORIGIN}\n1\nAAAA\n"),
        signed(f"{journals.ORIGIN}\n1\n{ROOT[:-2]}B=\n"),
        signed(f"{journals.ORIGIN}\n1\n"),
        signed(f"{journals.ORIGIN}\n1\n{ROOT}\n\nextension\n"),
    ],
)
def test_what_is_no_checkpoint_is_refused(note):
    assert ErrorType.BAD_DATA_FORMAT is refusal(
        open_checkpoint, note, journals.ORIGIN, journals.ED25519.public_key
    )


def test_the_checkpoint_of_another_log_is_refused():
    note = signed(f"other.example\n1\n{ROOT}\n")
    assert ErrorType.NOT_AUTHORIZED is refusal(open_checkpoint, note, journals.ORIGIN, journals.ED25519.public_key)


def test_an_extension_line_is_passed_over():
    note = signed(f"{journals.ORIGIN}\n1\n{ROOT}\nextension\n")
    expected = TreeHead(journals.ORIGIN, 1, bytes(32))
    assert expected == open_checkpoint(note, journals.ORIGIN, journals.ED25519.public_key)
