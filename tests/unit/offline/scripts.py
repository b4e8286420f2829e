"""Operators and ceremony scripts, for the tests of ceremonies: keys are made once, scrypt is slow by design."""

from __future__ import annotations

import functools
import hashlib

from cryptography import x509

from chancery.offline import operators
from chancery.offline.bundle import decode_request, fingerprint, sha256
from chancery.offline.conducting import spki_of
from chancery.offline.script import Plan, parse_script
from chancery.pkix.name import name_text
from fakes import FakeEntropy
from unit.offline import ceremonies

PASSPHRASE = "correct horse battery"


@functools.cache
def key_file(name):
    return operators.make_key(name, PASSPHRASE, FakeEntropy(sum(name.encode())))


@functools.cache
def operator(name):
    return operators.open_key(key_file(name), PASSPHRASE)


def enrolment(*names, required=2):
    people = "".join(
        f'[[acts.people]]\nname = "{name}"\nkey = """\n{operators.public_key(key_file(name))[1].decode()}"""\n'
        for name in names
    )
    return f'[[acts]]\nkind = "operators"\nrequired = {required}\n{people}'


ROOT = f"""[[acts]]
kind = "root"
subject = "{ceremonies.SETTINGS.subject}"
key_kind = "ec-p256"
instance = 112
"""
CRL = '[[acts]]\nkind = "crl"\n'
RENEWAL = f'[[acts]]\nkind = "renewal"\nsubject = "{ceremonies.SETTINGS.subject}"\n'


def answer(data, file="a.request", *, said=None):
    text = (
        f'[[acts]]\nkind = "request"\nbundle = "{file}"\nfingerprint = "{said or fingerprint(data)}"\ncrl = true\n'
    )
    for entry in decode_request(data).payload.certificates:
        csr = x509.load_der_x509_csr(entry.csr)
        text += (
            f'[[acts.certificates]]\nsubject = "{name_text(csr.subject)}"\nprofile = "{entry.profile}"\n'
            f'spki_sha256 = "{hashlib.sha256(spki_of(csr)).hexdigest()}"\n'
        )
    return text


def revocation(serial, subject="CN=Example Issuing CA,O=Example", reason="superseded"):
    return (
        f'[[acts]]\nkind = "revocation"\nserial = "{serial.hex()}"\nsubject = "{subject}"\nreason = "{reason}"\n'
    )


def script(name, *acts, begin="2026-11-01T00:00:00Z", end="2027-11-01T00:00:00Z", ca="root", **keys):
    further = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return (
        f'ceremony = "chancery-ceremony/1"\nname = "{name}"\nca = "{ca}"\nnot_before = {begin}\n'
        f"not_after = {end}\n{further}{''.join(acts)}"
    ).encode()


def plan(name, *acts, bundles=None, **keys):
    data = script(name, *acts, **keys)
    return Plan(parse_script(data), data, sha256(data), bundles or {})


def confirmations(plan, at, *names):
    return [operator(name).confirm(plan.script.ca, plan.sha256, at) for name in names]
