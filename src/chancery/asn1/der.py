"""
Canonical DER (X.690): small encoders, and the gate that every foreign byte passes first.

Encoders return one complete TLV as `bytes`. The gate (`check`) accepts exactly what a DER encoder
could have written: one value, definite minimal lengths, minimal integers, no trailing bytes.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterable

from chancery.errors import ErrorType, PKIError

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
ENUMERATED, UTF8_STRING, PRINTABLE_STRING, IA5_STRING = 0x0A, 0x0C, 0x13, 0x16
UTC_TIME, GENERALIZED_TIME, BMP_STRING = 0x17, 0x18, 0x1E
SEQUENCE, SET = 0x30, 0x31

MAX_SIZE = 64 * 1024
MAX_DEPTH = 32
MAX_OID = 128


def length(size: int) -> bytes:
    """Encode a definite length in the fewest octets (X.690 10.1)."""
    if size < 0x80:
        return bytes((size,))
    if size < 0x100:
        return bytes((0x81, size))
    if size < 0x10000:
        return bytes((0x82, size >> 8, size & 0xFF))
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(octets),)) + octets


def tlv(tag: int, *content: bytes) -> bytes:
    """One TLV with a single-octet tag around the joined content."""
    body = content[0] if len(content) == 1 else b"".join(content)
    return bytes((tag,)) + length(len(body)) + body


def sequence(*content: bytes) -> bytes:
    return tlv(SEQUENCE, *content)


def set_of(values: Iterable[bytes]) -> bytes:
    """SET OF, its elements in ascending order of their encodings (X.690 11.6)."""
    return tlv(SET, *sorted(values)) if values else b"\x31\x00"


def explicit(number: int, *content: bytes) -> bytes:
    """[number] EXPLICIT."""
    return tlv(0xA0 | number, *content)


def implicit(number: int, content: bytes, *, constructed: bool = False) -> bytes:
    """[number] IMPLICIT around content octets (without their own tag and length)."""
    return tlv((0xA0 if constructed else 0x80) | number, content)


def boolean(value: bool) -> bytes:  # noqa: FBT001 - the value itself, not a switch
    return b"\x01\x01\xff" if value else b"\x01\x01\x00"


def integer(value: int) -> bytes:
    return tlv(INTEGER, integer_octets(value))


def integer_octets(value: int) -> bytes:
    """Content octets of an INTEGER: minimal two's complement, big-endian (X.690 8.3)."""
    size = (value.bit_length() if value >= 0 else (~value).bit_length()) // 8 + 1
    return value.to_bytes(size, "big", signed=True)


def enumerated(value: int) -> bytes:
    return tlv(ENUMERATED, integer_octets(value))


def null() -> bytes:
    return b"\x05\x00"


def octet_string(value: bytes) -> bytes:
    return tlv(OCTET_STRING, value)


def bit_string(value: bytes, unused: int = 0) -> bytes:
    return tlv(BIT_STRING, bytes((unused,)) + value)


def named_bits(bits: Iterable[int]) -> bytes:
    """A BIT STRING with named bits, trailing zero bits removed (X.690 11.2.2)."""
    chosen = set(bits)
    if not chosen:
        return b"\x03\x01\x00"
    top = max(chosen)
    octets = bytearray(top // 8 + 1)
    for bit in chosen:
        octets[bit // 8] |= 0x80 >> (bit % 8)
    return bit_string(bytes(octets), 7 - top % 8)


@functools.lru_cache(maxsize=1024)
def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER from its dotted form; ValueError when it is not one."""
    arcs = [int(part) for part in dotted.split(".")]
    if len(arcs) < 2 or arcs[0] > 2 or (arcs[0] < 2 and arcs[1] > 39) or min(arcs) < 0:
        raise ValueError(f"not an object identifier: {dotted}")
    out = bytearray()
    for arc in [arcs[0] * 40 + arcs[1], *arcs[2:]]:
        chunk = [arc & 0x7F]
        while arc := arc >> 7:
            chunk.append(0x80 | (arc & 0x7F))
        out += bytes(reversed(chunk))
    return tlv(OID, bytes(out))


@functools.lru_cache(maxsize=1024)
def decode_oid(content: bytes) -> str:
    """Dotted form of the content octets of an OBJECT IDENTIFIER."""
    if not content or content[-1] & 0x80:
        raise malformed("an object identifier ends in the middle")
    if len(content) > MAX_OID:
        raise malformed(f"an object identifier of more than {MAX_OID} octets")
    arcs: list[int] = []
    value = 0
    for octet in content:
        if value == 0 and octet == 0x80:
            raise malformed("an object identifier has a padded arc")
        value = value << 7 | (octet & 0x7F)
        if not octet & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, [first, arcs[0] - 40 * first, *arcs[1:]]))


def utf8_string(value: str) -> bytes:
    return tlv(UTF8_STRING, value.encode())


def printable_string(value: str) -> bytes:
    return tlv(PRINTABLE_STRING, value.encode("ascii"))


def utc(moment: datetime.datetime) -> datetime.datetime:
    """Return the moment in UTC; a naive one is refused, because nobody can know what it means."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment.astimezone(datetime.UTC)


def generalized_time(moment: datetime.datetime, *, microseconds: bool = False) -> bytes:
    """GeneralizedTime in UTC; whole seconds, or with a fraction without trailing zeros (X.690 11.7)."""
    moment = utc(moment)
    text = f"{moment.year:04d}{moment:%m%d%H%M%S}"
    if microseconds and moment.microsecond:
        text += f".{moment.microsecond:06d}".rstrip("0")
    return tlv(GENERALIZED_TIME, text.encode("ascii") + b"Z")


def time(moment: datetime.datetime) -> bytes:
    """Time of RFC 5280 4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050, whole seconds."""
    moment = utc(moment)
    if 1950 <= moment.year < 2050:
        return tlv(UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode("ascii"))
    return generalized_time(moment)


def malformed(detail: str) -> PKIError:
    """Build the error for bytes that are not what they should be."""
    return PKIError(ErrorType.BAD_DATA_FORMAT, detail)


def header(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """
    Read tag and length of the TLV at `at`, which must lie wholly before `end`.

    Returns (first tag octet, content start, content end). Multi-octet tags are refused: no structure
    of the protocols served here uses one.
    """
    if end - at < 2:
        raise malformed("a value ends in the middle of its header")
    tag, size = data[at], data[at + 1]
    at += 2
    if tag & 0x1F == 0x1F:
        raise malformed("a tag number above 30")
    if size >= 0x80:
        count = size & 0x7F
        if count == 0 or count > 4:
            raise malformed("an indefinite or absurd length")
        if end - at < count:
            raise malformed("a value ends in the middle of its length")
        size = int.from_bytes(data[at : at + count], "big")
        if size < 0x80 or size >> 8 * (count - 1) == 0:
            raise malformed("a length that is not minimal")
        at += count
    if size > end - at:
        raise malformed("a value is shorter than its length says")
    return tag, at, at + size


def check(data: bytes, *, max_size: int = MAX_SIZE, max_depth: int = MAX_DEPTH) -> None:
    """
    Accept exactly one canonical DER value of at most `max_size` octets and `max_depth` levels.

    Raises PKIError(BAD_DATA_FORMAT) with the first thing that is wrong. Values inside OCTET STRINGs
    and implicit primitive tags are opaque here; their own decoders gate them again.
    """
    if len(data) > max_size:
        raise malformed(f"{len(data)} octets where at most {max_size} are accepted")
    if _check_value(data, 0, len(data), max_depth) != len(data):
        raise malformed("bytes follow the value")


def _check_value(data: bytes, at: int, end: int, depth: int) -> int:
    if depth == 0:
        raise malformed("nested too deeply")
    tag, start, stop = header(data, at, end)
    if tag & 0x20:
        inner, previous = start, b""
        while inner < stop:
            following = _check_value(data, inner, stop, depth - 1)
            if tag == SET:
                if data[inner:following] < previous:
                    raise malformed("a SET whose elements are not in order")
                previous = data[inner:following]
            inner = following
        if tag not in (SEQUENCE, SET) and tag < 0x40:
            raise malformed("a constructed encoding of a primitive type")
    elif tag in (SEQUENCE & 0x1F, SET & 0x1F):
        raise malformed("a primitive encoding of a constructed type")
    else:
        _check_primitive(tag, data[start : min(stop, start + 2)], stop - start)
        if tag == BIT_STRING and stop > start and data[start]:
            unused = data[start]
            if unused > 7 or stop - start < 2 or data[stop - 1] & ((1 << unused) - 1):
                raise malformed("a BIT STRING whose unused bits are not zero")
    return stop


def _check_primitive(tag: int, head: bytes, size: int) -> None:
    if tag in (INTEGER, ENUMERATED):
        if size == 0:
            raise malformed("an empty INTEGER")
        if size > 1 and ((head[0] == 0 and head[1] < 0x80) or (head[0] == 0xFF and head[1] >= 0x80)):
            raise malformed("an INTEGER that is not minimal")
    elif tag == BOOLEAN:
        if size != 1 or head[0] not in (0, 0xFF):
            raise malformed("a BOOLEAN that is neither 00 nor FF")
    elif tag == NULL:
        if size:
            raise malformed("a NULL with content")
    elif tag == BIT_STRING:
        if size == 0:
            raise malformed("an empty BIT STRING")
    elif tag == OID and size == 0:
        raise malformed("an empty OBJECT IDENTIFIER")


class Reader:
    """
    Walks the elements of one constructed value, in order.

    Every method raises PKIError(BAD_DATA_FORMAT) when the bytes are not what was asked for.
    """

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = start
        self._end = len(data) if end is None else end

    def __bool__(self) -> bool:
        """Tell whether elements remain."""
        return self._at < self._end

    def peek(self) -> int | None:
        """Tag octet of the next element, or None at the end."""
        return self._data[self._at] if self._at < self._end else None

    def take(self, tag: int) -> bytes:
        """Content octets of the next element, which must carry this tag."""
        found, start, stop = header(self._data, self._at, self._end)
        if found != tag:
            raise malformed(f"tag {found:#04x} where {tag:#04x} belongs")
        self._at = stop
        return self._data[start:stop]

    def enter(self, tag: int = SEQUENCE) -> Reader:
        """Return a reader of the elements inside the next element, which must carry this tag."""
        found, start, stop = header(self._data, self._at, self._end)
        if found != tag:
            raise malformed(f"tag {found:#04x} where {tag:#04x} belongs")
        self._at = stop
        return Reader(self._data, start, stop)

    def raw(self, tag: int | None = None) -> bytes:
        """Return the next element whole: tag, length and content."""
        found, _, stop = header(self._data, self._at, self._end)
        if tag is not None and found != tag:
            raise malformed(f"tag {found:#04x} where {tag:#04x} belongs")
        begin, self._at = self._at, stop
        return self._data[begin:stop]

    def integer(self) -> int:
        return int.from_bytes(self.take(INTEGER), "big", signed=True)

    def oid(self) -> str:
        return decode_oid(self.take(OID))

    def done(self) -> None:
        """Refuse anything that is left."""
        if self:
            raise malformed("more elements than the type has")
