"""A key that was made elsewhere goes into a real token and behaves as one that was made there."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa

from cakit import key
from chancery.asn1.signature import KeySigner
from chancery.errors import OperatorError
from chancery.pkcs11 import open_token


@pytest.fixture
def written(scratch):
    """A token of one test: the shared one is only read."""
    with open_token(scratch.settings()) as opened:
        yield opened


@pytest.mark.parametrize("kind", ["rsa-2048", "ec-p256", "ec-p384", "ec-p521", "ed25519"])
def test_an_imported_key_signs_and_stays_in_the_token(written, kind):
    outside = key("imported", kind)
    label = f"imported {kind}"
    inside = KeySigner(written.import_key(label, outside))
    inside.algorithm.verify(outside.public_key(), inside.sign(b"data"), b"data")
    assert outside.public_key() == written.find_key(label).public_key()
    infos = {one.label: one for one in written.keys()}  # noqa: SIM118 - a token is no mapping
    assert (kind, False) == (infos[label].kind, infos[label].extractable)
    with pytest.raises(OperatorError, match="already has a key"):
        written.import_key(label, outside)


def test_a_key_of_another_type_is_refused(token):
    with pytest.raises(OperatorError, match="not imported"):
        token.import_key("dsa", dsa.generate_private_key(2048))
