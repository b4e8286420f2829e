"""
The two bundles of continuity: the kit that a standby CA works by, and the hand-back of what it did.

Both are canonical JSON `{"signature", "signed"}` as in `offline.bundle`, signed over the octets of `signed`, which
says what it is (`format`). A kit names the head of the hand-back before it, a hand-back its kit: they are linked
both ways. Whoever reads one compares its fingerprint once; from then on its SHA-256 is pinned.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Annotated, Final, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key

from chancery.asn1.signature import PublicKey, Signer
from chancery.errors import ErrorType, PKIError
from chancery.offline.bundle import (
    DER,
    ProfileName,
    SHA256Hex,
    Strict,
    canonical,
    check_key,
    check_second,
    check_text,
    decode_canonical,
    malformed,
    sha256,
    spki,
    verify_part,
)
from chancery.pkix.profile import Profile, parse_profile
from chancery.ports import MAX_STATUSES, CertificateStatus, CRLRecord, IssuerRecord, RevocationReason, StatusState

KIT_FORMAT: Final = "chancery-kit/1"
BACK_FORMAT: Final = "chancery-hand-back/1"
MAX_KIT = 64 * 1024 * 1024
MAX_LINES = 200_000
MAX_CRL = 1024 * 1024
FIRST_INSTANCE, LAST_INSTANCE = 113, 127
"""The octets of standbys' serials; 112 is the offline root's."""
ISSUE = frozenset({"requestor", "officer"})
REVOKE = frozenset({"officer", "administrator"})
"""The roles of those who ask for certificates, and for revocations."""

IssuerName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
URL = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class KitProfile(Strict, frozen=True, kw_only=True):
    """A profile's text, which has this SHA-256."""

    name: ProfileName
    sha256: SHA256Hex
    source: Annotated[str, msgspec.Meta(max_length=64 * 1024)]


class KitOperator(Strict, frozen=True, kw_only=True):
    """Who may ask for certificates, and under which profiles (null: all)."""

    name: Text
    profiles: tuple[str, ...] | None
    roles: tuple[Literal["administrator", "officer", "requestor"], ...]


class KitStatus(Strict, frozen=True, kw_only=True):
    """A serial of before and its status."""

    invalidity_date: datetime.datetime | None
    kept_until: datetime.datetime | None
    not_after: datetime.datetime
    reason: int | None
    revoked_at: datetime.datetime | None
    serial: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2}){1,20}\Z")]
    state: Literal["good", "revoked", "unconfirmed"]


class Kit(Strict, frozen=True, kw_only=True):
    """
    What a standby needs, and all that it may do.

    `chain` goes from the issuer's certificate to the root (DER). Every CRLNumber of the standby is above
    `crl_number`. It works from `not_before` to `not_after`; its hand-back is signed by `standby_key`.
    """

    blocked: Annotated[tuple[SHA256Hex, ...], msgspec.Meta(max_length=MAX_STATUSES)]
    chain: Annotated[tuple[DER, ...], msgspec.Meta(min_length=1, max_length=8)]
    created_at: datetime.datetime
    crl: Annotated[bytes, msgspec.Meta(max_length=MAX_CRL)] | None
    crl_number: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    epoch: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    format: Literal["chancery-kit/1"]
    installation_key: DER
    instance: Annotated[int, msgspec.Meta(ge=FIRST_INSTANCE, le=LAST_INSTANCE)]
    issuer: IssuerName
    issuer_id: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    not_after: datetime.datetime
    not_before: datetime.datetime
    operators: Annotated[tuple[KitOperator, ...], msgspec.Meta(max_length=10_000)]
    previous: SHA256Hex | None
    profiles: Annotated[tuple[KitProfile, ...], msgspec.Meta(min_length=1, max_length=200)]
    service_keys: Annotated[tuple[SHA256Hex, ...], msgspec.Meta(max_length=1000)]
    standby_key: DER
    statuses: Annotated[tuple[KitStatus, ...], msgspec.Meta(max_length=MAX_STATUSES)]
    urls: tuple[URL | None, URL | None, URL | None]


class HandBack(Strict, frozen=True, kw_only=True):
    """Everything that a standby did by the kit with this SHA-256: the hash-linked lines of its journal."""

    created_at: datetime.datetime
    epoch: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    format: Literal["chancery-hand-back/1"]
    kit: SHA256Hex
    lines: Annotated[tuple[str, ...], msgspec.Meta(min_length=2, max_length=MAX_LINES)]


class _KitFile(Strict, frozen=True, kw_only=True):
    signature: bytes
    signed: Kit


class _BackFile(Strict, frozen=True, kw_only=True):
    signature: bytes
    signed: HandBack


@dataclasses.dataclass(frozen=True, slots=True)
class SignedKit:
    """A kit whose signature verifies under the key that it names."""

    kit: Kit
    data: bytes
    sha256: str
    standby_key: PublicKey


@dataclasses.dataclass(frozen=True, slots=True)
class SignedHandBack:
    """A hand-back whose signature verifies under the standby's key."""

    hand_back: HandBack
    data: bytes
    sha256: str


def encode_kit(signer: Signer, kit: Kit) -> bytes:
    """Sign a kit, and read it as the standby will; PKIError as `decode_kit` for what the standby would refuse."""
    data = canonical(_KitFile(signature=signer.sign(canonical(kit)), signed=kit))
    decode_kit(data)
    return data


def decode_kit(data: bytes) -> SignedKit:
    """
    Decode a kit strictly and verify its signature under the key it names: people have to compare its fingerprint.

    Raises PKIError: BAD_DATA_FORMAT, BAD_ALG or NOT_AUTHORIZED as `bundle.decode_request` does.
    """
    file = decode_canonical(data, _KitFile, MAX_KIT)
    kit = file.signed
    _check_times(kit)
    check_text(*(one.name for one in kit.operators))
    verify_part(kit.installation_key, file.signature, canonical(kit))
    try:
        standby = check_key(load_der_public_key(kit.standby_key))
        for one in kit.chain:
            x509.load_der_x509_certificate(one)
    except ValueError:
        raise malformed("a key or a certificate that cannot be read") from None
    if any(sha256(one.source.encode()) != one.sha256 for one in kit.profiles):
        raise malformed("a profile is not the one whose hash stands beside it")
    return SignedKit(kit, data, sha256(data), standby)


def encode_hand_back(signer: Signer, hand_back: HandBack) -> bytes:
    """Sign a hand-back, and read it as the primary will."""
    data = canonical(_BackFile(signature=signer.sign(canonical(hand_back)), signed=hand_back))
    decode_hand_back(data, signer.public_key)
    return data


def peek_epoch(data: bytes) -> int:
    """Return the epoch that a hand-back claims, of which nothing is verified yet: by it the kit is found."""
    return decode_canonical(data, _BackFile, MAX_KIT).signed.epoch


def decode_hand_back(data: bytes, standby_key: PublicKey) -> SignedHandBack:
    """Decode a hand-back strictly and verify it under the key that its kit pins. Raises as `decode_kit` does."""
    file = decode_canonical(data, _BackFile, MAX_KIT)
    check_second(file.signed.created_at)
    verify_part(spki(standby_key), file.signature, canonical(file.signed))
    return SignedHandBack(file.signed, data, sha256(data))


def issuer_of(kit: Kit) -> IssuerRecord:
    """Return the issuer of a kit; whose token has its key, the standby knows."""
    return IssuerRecord(kit.issuer_id, kit.issuer, kit.chain[0], None, None, None)


def profiles_of(kit: Kit) -> dict[str, Profile]:
    """Return the profiles of a kit by name; OperatorError for a text that is none."""
    return {one.name: parse_profile(one.source) for one in kit.profiles}


def check_operator(kit: Kit, name: str, roles: frozenset[str], profile: str | None = None) -> None:
    """Refuse (NOT_AUTHORIZED) an operator to whom the kit gives none of these roles, or not the profile."""
    found = next((one for one in kit.operators if one.name == name), None)
    if found is None or not roles & set(found.roles):
        raise PKIError(ErrorType.NOT_AUTHORIZED, f"the kit gives {name} no right to this")
    if profile is not None and found.profiles is not None and profile not in found.profiles:
        raise PKIError(ErrorType.NOT_AUTHORIZED, f"{name} has no right to the profile {profile}")


def statuses_of(kit: Kit) -> list[CertificateStatus]:
    """Return the statuses of before."""
    return [
        CertificateStatus(
            kit.issuer_id,
            bytes.fromhex(one.serial),
            StatusState(one.state),
            one.not_after,
            one.revoked_at,
            None if one.reason is None else RevocationReason(one.reason),
            one.invalidity_date,
            kept_until=one.kept_until,
        )
        for one in kit.statuses
    ]


def kit_status(status: CertificateStatus) -> KitStatus:
    """Return a status as a kit says it."""
    return KitStatus(
        invalidity_date=_utc(status.invalidity_date),
        kept_until=_utc(status.kept_until),
        not_after=status.not_after.astimezone(datetime.UTC),
        reason=None if status.reason is None else int(status.reason),
        revoked_at=_utc(status.revoked_at),
        serial=status.serial.hex(),
        state=status.state.value,
    )


def last_crl(kit: Kit) -> CRLRecord | None:
    """Return the issuer's last CRL, if it has one that was small enough to carry."""
    if kit.crl is None:
        return None
    crl = x509.load_der_x509_crl(kit.crl)
    until, since = crl.next_update_utc, crl.last_update_utc
    assert until is not None
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    return CRLRecord(kit.issuer_id, number, since, until, since, kit.crl)


def _utc(at: datetime.datetime | None) -> datetime.datetime | None:
    return None if at is None else at.astimezone(datetime.UTC)


def _check_times(kit: Kit) -> None:
    for at in (kit.created_at, kit.not_before, kit.not_after):
        check_second(at)
    if not kit.not_before < kit.not_after:
        raise malformed("a kit that ends before it begins")
