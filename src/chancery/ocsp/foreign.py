"""
CRLs of CAs whose keys are elsewhere: what is believed of them before OCSP answers from them.

Read from a mapped file, a piece at a time: a CRL of a million entries is never in memory as values.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
from collections.abc import Iterator

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from chancery.asn1 import der, oids
from chancery.asn1.signature import algorithm_from_identifier, digest_of
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.pkix.crl_view import WINDOW, CRLView, Layout, view_ends
from chancery.pkix.view import EncodedTime, encoded_time, read_extensions
from chancery.ports import ForeignCRL, RevocationReason, RevokedEntry

SKEW = datetime.timedelta(minutes=5)
"""How far the clock of another CA may be ahead of ours."""
_UNDERSTOOD = frozenset({
    oids.AUTHORITY_KEY_IDENTIFIER, oids.CRL_NUMBER, oids.DELTA_CRL_INDICATOR, oids.ISSUING_DISTRIBUTION_POINT,
    oids.FRESHEST_CRL,
})  # fmt: skip
_URI = 0x86
_PADDING = frozenset({0, 0x1FF})
"""The first nine bits of an INTEGER that has an octet too many (X.690 8.3.2)."""
MAX_SERIAL = 64
"""Octets; RFC 5280 4.1.2.2 says 20, and CAs of long ago did not keep to it."""
_KNOWN = frozenset({oids.CRL_REASON, oids.INVALIDITY_DATE})
_Tail = tuple[datetime.datetime, RevocationReason, datetime.datetime | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Pinned:
    """A foreign CA's certificate and the distribution points (URLs) whose CRLs list all that it revokes."""

    certificate: x509.Certificate
    urls: tuple[str, ...]

    def check(self) -> None:
        """Raise OperatorError when this is no certificate of a CA that signs CRLs (RFC 5280 4.2.1.3, 4.2.1.9)."""
        extensions = self.certificate.extensions
        try:
            ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            ca = False
        try:
            signs = extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
        except x509.ExtensionNotFound:
            signs = True
        if not (ca and signs):
            raise OperatorError("it is no certificate of a CA that signs CRLs", "give the CA's own certificate")

    def no_cas_below(self) -> bool:
        """Tell whether this CA can issue no CA certificates."""
        constraints = self.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        return constraints.path_length == 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Scope:
    """IssuingDistributionPoint (RFC 5280 5.2.5): its URIs (empty: none), and whether only users or only CAs."""

    uris: tuple[str, ...] = ()
    users: bool = False
    authorities: bool = False


def _refuse(detail: str) -> PKIError:
    return PKIError(ErrorType.BAD_REQUEST, f"the CRL {detail}")


def verify(
    data: memoryview, pinned: Pinned, at: datetime.datetime, *, url: str | None = None
) -> tuple[str, ForeignCRL, Layout]:
    """
    Return which distribution point a CRL (DER) is from, what it says of itself, and where its entries are.

    `url` is where it was fetched. Its signature is verified before anything but its ends is read. Raises PKIError:
    BAD_DATA_FORMAT for what is no CRL, BAD_ALG for an algorithm that is not supported, BAD_REQUEST for one of
    another CA, with a wrong signature, out of date, without number or nextUpdate, indirect, about some reasons or
    attribute certificates only, or from a distribution point that is not among those of `pinned`.
    """
    view, layout = view_ends(data)
    if view.issuer_name != pinned.certificate.subject.public_bytes():
        raise _refuse("names another issuer")
    if view.version != 1 or view.inner_algorithm != view.outer_algorithm:
        raise _refuse("is not of version 2, or names two signature algorithms")
    _verify(data, layout, view.outer_algorithm, pinned.certificate)
    names = [one.oid for one in view.raw_extensions]
    if len(set(names)) < len(names):
        raise _refuse("has an extension twice")
    if any(one.critical and one.oid not in _UNDERSTOOD for one in view.raw_extensions):
        raise _refuse("has a critical extension that is not supported")
    crl = _self(data, view, at)
    idp = view.raw(oids.ISSUING_DISTRIBUTION_POINT)
    return _point(_Scope() if idp is None else _scope(idp.value), pinned, url), crl, layout


def _pieces(data: memoryview, start: int, stop: int) -> Iterator[bytes]:
    return (bytes(data[at : min(at + WINDOW, stop)]) for at in range(start, stop, WINDOW))


def _verify(data: memoryview, layout: Layout, identifier: bytes, certificate: x509.Certificate) -> None:
    algorithm, key = algorithm_from_identifier(identifier), certificate.public_key()
    after = der.Reader(bytes(data[layout.end :]))
    after.raw(der.SEQUENCE)
    signature = after.take(der.BIT_STRING)[1:]
    digest = digest_of(algorithm, _pieces(data, layout.tbs, layout.end))
    try:
        if digest is None:
            algorithm.verify(key, signature, bytes(data[layout.tbs : layout.end]))  # type: ignore[arg-type]  # other kinds: no fit
        else:
            algorithm.verify_digest(key, signature, digest)  # type: ignore[arg-type]  # same
    except (InvalidSignature, ValueError):
        raise _refuse("is not signed by the pinned key") from None


def _self(data: memoryview, view: CRLView, at: datetime.datetime) -> ForeignCRL:
    """What a CRL says of itself: numbers and times."""
    number, base, freshest = map(view.raw, (oids.CRL_NUMBER, oids.DELTA_CRL_INDICATOR, oids.FRESHEST_CRL))
    if number is None or view.next_update is None:
        raise _refuse("has no number or no nextUpdate")
    this_update, next_update = moment(view.this_update), moment(view.next_update)
    if this_update > at + SKEW:
        raise _refuse(f"is of the future: {this_update:%Y-%m-%d %H:%M:%S} UTC")
    if next_update <= max(at, this_update):
        raise _refuse(f"ended at {next_update:%Y-%m-%d %H:%M:%S} UTC")
    running = hashlib.sha256()
    for piece in _pieces(data, 0, len(data)):
        running.update(piece)
    return ForeignCRL(
        _number(number.value),
        None if base is None else _number(base.value),
        this_update,
        next_update,
        running.digest(),
        None if freshest is None else next(iter(_freshest(freshest.value)), None),
    )


def _number(value: bytes) -> int:
    """CRLNumber and BaseCRLNumber: at most 20 octets (RFC 5280 5.2.3)."""
    reader = der.Reader(value)
    octets = reader.take(der.INTEGER)
    reader.done()
    if not 1 <= len(octets) <= 20 or octets[0] & 0x80:
        raise _refuse("has a number that is negative or too long")
    return int.from_bytes(octets, "big")


def _freshest(value: bytes) -> Iterator[str]:
    """Give the http URIs of FreshestCRL ::= CRLDistributionPoints (RFC 5280 5.2.6)."""
    der.check(value)
    for _, point in der.elements(value):
        fields = der.Reader(point).enter()
        if fields.peek() == 0xA0:
            yield from (one for one in _uris(fields.take(0xA0)) if one.startswith(("http://", "https://")))


def _uris(name: bytes) -> tuple[str, ...]:
    """Return the URIs of a DistributionPointName's fullName."""
    tag, start, _ = der.header(name, 0, len(name))
    if tag != 0xA0:
        return ()
    found, reader = [], der.Reader(name, start)
    while reader:
        one = reader.raw()
        if one[0] == _URI:
            found.append(der.content(one).decode("ascii", "replace"))
    return tuple(found)


def _scope(value: bytes) -> _Scope:
    der.check(value)
    fields = dict(der.elements(value))
    if set(fields) & {0x83, 0x84, 0x85}:
        raise _refuse("is indirect, or about some reasons or attribute certificates only")
    if set(fields) - {0xA0, 0x81, 0x82}:
        raise der.malformed("not an IssuingDistributionPoint")
    uris: tuple[str, ...] = ()
    if 0xA0 in fields and not (uris := _uris(der.content(fields[0xA0]))):
        raise _refuse("names its distribution point by no URI")
    return _Scope(uris, users=0x81 in fields, authorities=0x82 in fields)


def _point(scope: _Scope, pinned: Pinned, url: str | None) -> str:
    """RFC 5280 6.3.3 (b)(2): the distribution point that this CRL is of."""
    one_of_several = len(pinned.urls) > 1
    if (scope.users and not (one_of_several or pinned.no_cas_below())) or (
        scope.authorities and not one_of_several
    ):
        raise _refuse("is about a part of the certificates; add the CA with the distribution points of all parts")
    asked = pinned.urls if url is None else (url,)
    fit = [one for one in asked if one in pinned.urls and (not scope.uris or one in scope.uris)]
    if len(fit) != 1:
        raise _refuse("is of another distribution point" if scope.uris else "does not say of which point it is")
    return fit[0]


def entries(data: memoryview, layout: Layout, *, delta: bool) -> Iterator[RevokedEntry]:
    """
    Give the entries of a CRL (DER) as they stand.

    PKIError(BAD_DATA_FORMAT) for what is none, for a critical extension that is not known, for certificateIssuer,
    from which on the serials would be another CA's (RFC 5280 5.3.3), and for removeFromCRL but in a `delta`
    (5.3.1): what is listed must not come out as good.
    """
    at = layout.start
    while at < layout.stop:
        window = bytes(data[at : min(at + WINDOW, layout.stop)])
        last, taken = at + len(window) == layout.stop, 0
        while taken < len(window):
            if not last and len(window) - taken < WINDOW // 2:
                # The next window begins with a whole entry: none is longer than half of one.
                break
            entry, taken = _entry(window, taken)
            if entry.reason is RevocationReason.REMOVE_FROM_CRL and not delta:
                raise der.malformed("removeFromCRL in a CRL that is no delta")
            yield entry
        at += taken


def _entry(data: bytes, at: int) -> tuple[RevokedEntry, int]:
    """Return the entry that begins here, and where the next one begins."""
    tag, start, following = der.header(data, at, len(data))
    inner, begin, stop = der.header(data, start, following)
    if (tag, inner) != (der.SEQUENCE, der.INTEGER):
        raise der.malformed("an entry of a CRL is another value")
    if not 1 <= stop - begin <= MAX_SERIAL:
        raise der.malformed(f"a serial of {stop - begin} octets")
    if stop - begin > 1 and (data[begin] << 1 | data[begin + 1] >> 7) in _PADDING:
        # No request names it like this: it would never be found.
        raise der.malformed("a serial that is not minimal")
    revoked_at, reason, invalidity = _tail(data[stop:following])
    return RevokedEntry(data[begin:stop], revoked_at, reason, invalidity), following


@functools.lru_cache(maxsize=65536)
def _tail(tail: bytes) -> _Tail:
    """Read what follows the serial: many entries have the same."""
    der.check(der.sequence(tail))
    reader = der.Reader(tail)
    revoked_at = moment(encoded_time(reader))
    listed = tuple(read_extensions(reader.enter()) if reader else ())
    found = {one.oid: one for one in listed}
    reader.done()
    if len(found) < len(listed):
        raise der.malformed("an entry of a CRL with an extension twice")
    if oids.CERTIFICATE_ISSUER in found or any(one.critical and one.oid not in _KNOWN for one in found.values()):
        raise der.malformed("an entry of a CRL with a critical extension that is not supported")
    reason, invalidity = found.get(oids.CRL_REASON), found.get(oids.INVALIDITY_DATE)
    try:
        code = RevocationReason(0 if reason is None else _single(der.Reader(reason.value)))
    except ValueError:
        raise der.malformed("a reasonCode that is none") from None
    return revoked_at, code, None if invalidity is None else moment(encoded_time(der.Reader(invalidity.value)))


def _single(reader: der.Reader) -> int:
    """Return the one octet of an ENUMERATED; ValueError when it has more or fewer."""
    [code] = reader.take(der.ENUMERATED)
    reader.done()
    return code


def moment(time: EncodedTime) -> datetime.datetime:
    """
    Return a Time's moment; a GeneralizedTime before 2050, too, as some CAs write it against RFC 5280 4.1.2.5.

    PKIError(BAD_DATA_FORMAT) when it is in no calendar.
    """
    if time.at is not None:
        return time.at
    if time.tag != der.GENERALIZED_TIME or len(time.text) != 15:
        raise der.malformed("a time of a CRL that is none")
    try:
        return datetime.datetime.strptime(time.text, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.UTC)
    except ValueError:
        raise der.malformed("a time of a CRL that is none") from None
