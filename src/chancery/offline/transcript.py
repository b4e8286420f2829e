"""
The transcript of a ceremony, from the journal alone: the same journal gives the same octets, as text and as PDF.

It holds what was confirmed and by whom (signatures included), the hash of everything that was signed, and where
the journal stood before and after, so that it can be kept, countersigned by hand, and compared years later.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Sequence

from chancery.errors import OperatorError
from chancery.offline import records
from chancery.offline.bundle import decode_response, fingerprint, sha256
from chancery.offline.journal import heads
from chancery.offline.pdf import pdf
from chancery.offline.records import Record
from chancery.offline.script import title
from chancery.offline.state import Held
from chancery.offline.store import LocalStore
from chancery.offline.words import words
from chancery.ports import CertificateRecord


def transcript(store: LocalStore, name: str) -> str:
    """
    Return the text, from a store that was opened after the ceremony.

    OperatorError for a ceremony that its journal does not hold, or that has not ended.
    """
    held = store.state.ceremonies.get(name)
    if held is None or not held.ended:
        known = ", ".join(one for one, held in store.state.ceremonies.items() if held.ended) or "none"
        raise OperatorError(f"no ceremony {name} was held here", f"give one of: {known}")
    lines = store.journal.records
    first = next(at for at, line in enumerate(lines) if _confirms(line, held.sha256))
    last = next(
        at
        for at, line in enumerate(lines)
        if isinstance(line, records.CeremonyEnded) and line.ceremony == held.sha256
    )
    found = heads(lines[: last + 1])
    ended = lines[last]
    assert isinstance(ended, records.CeremonyEnded)
    text = [f"TRANSCRIPT OF THE CEREMONY {name} OF THE OFFLINE CA {held.script.ca}", ""]
    text += _script(held) + _confirmed(held)
    text += ["What the script says", ""]
    text += [f"  {number}. {title(act)}" for number, act in enumerate(held.script.acts, 1)]
    text += ["", "What was signed and recorded, by line of the journal", ""]
    for at in range(first, last + 1):
        text += [f"  line {at + 1}: {_kind(lines[at])}", *(f"    {one}" for one in _said(lines[at]))]
    text += ["", "The journal", ""]
    text += [
        f"  before  {first} lines, head {found[first - 1]}",
        f"  after   {last + 1} lines, head {found[last]}",
    ]
    text += [f"  ended   {_time(ended.at)}", "", "Signed by hand", ""]
    text += [line for one in held.confirmations for line in (f"  {one.operator}  {'_' * 50}", "")]
    text += ["The script, as it was confirmed", ""]
    return "\n".join(text + [f"  | {_clean(line)}" for line in held.data.decode().splitlines()]) + "\n"


def as_pdf(text: str, held: Held) -> bytes:
    """Return a transcript as PDF; each page names the ceremony and its script."""
    return pdf(text, f"ceremony {held.script.name}  script SHA-256 {held.sha256}")


def _script(held: Held) -> list[str]:
    return [
        "The script",
        "",
        f"  SHA-256      {held.sha256}",
        f"  fingerprint  {fingerprint(held.data)}",
        f"  in words     {words(held.data)}",
        f"  for          {_time(held.script.not_before)} to {_time(held.script.not_after)}",
        "",
    ]


def _confirmed(held: Held) -> list[str]:
    text = ["Confirmed by", ""]
    for one in held.confirmations:
        text.append(f"  {one.operator} at {_time(one.at)}")
        text.append(f"    Ed25519 signature {base64.b64encode(one.signature).decode()}")
    return [*text, ""]


def _confirms(line: Record, digest: str) -> bool:
    return isinstance(line, records.CeremonyConfirmed) and sha256(line.script) == digest


def _kind(line: Record) -> str:
    return str(type(line).__struct_config__.tag)


def _said(line: Record) -> Sequence[str]:
    """Say what a line holds that was signed, made or decided; others are there by their kind alone."""
    if isinstance(line, records.OperatorsEnrolled):
        keys = sorted(line.operators.keys.items())
        return [f"{line.operators.required} of:", *(f"{name}  key SHA-256 {sha256(key)}" for name, key in keys)]
    if isinstance(line, records.KeyGenerated):
        return [f"key {line.label}  SHA-256 {sha256(line.spki)}"]
    if isinstance(line, records.CertificatesRecorded):
        return [one for certificate in line.certificates for one in _certificate(certificate)]
    if isinstance(line, records.RevocationSettled) and line.status is not None:
        reason = line.status.reason.name if line.status.reason is not None else "none"
        return [f"serial {line.status.serial.hex().upper()}  reason {reason}"]
    if isinstance(line, records.CRLPublished):
        return [f"CRL {line.crl.number}, until {_time(line.crl.next_update)}", f"SHA-256 {sha256(line.crl.der)}"]
    if isinstance(line, records.BundleAnswered):
        number = decode_response(line.response).header.number
        return [
            f"request {line.request}",
            f"response {number}  SHA-256 {sha256(line.response)}",
            f"fingerprint {fingerprint(line.response)}",
            f"in words {words(line.response)}",
        ]
    return []


def _certificate(one: CertificateRecord) -> list[str]:
    return [
        f"certificate {_clean(one.subject)}",
        f"  serial {one.serial.hex().upper()}  profile {one.profile}",
        f"  {_time(one.not_before)} to {_time(one.not_after)}",
        f"  SHA-256 {sha256(one.der)}",
        f"  key SHA-256 {one.spki_sha256.hex()}",
    ]


def _time(at: datetime.datetime) -> str:
    return f"{at.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"


def _clean(text: str) -> str:
    return "".join(character if character.isprintable() else f"\\u{{{ord(character):x}}}" for character in text)
