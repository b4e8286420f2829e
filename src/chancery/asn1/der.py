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


def header_of(tag: int, size: int) -> bytes:
    """Tag and length of a TLV whose content has `size` octets."""
    return bytes((tag,)) + length(size)


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


def header(data: bytes | memoryview, at: int, end: int) -> tuple[int, int, int]:
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


def content(value: bytes) -> bytes:
    """Content octets of one whole element. PKIError(BAD_DATA_FORMAT) when it is none, or something follows."""
    _, start, stop = header(value, 0, len(value))
    if stop != len(value):
        raise malformed("bytes follow the value")
    return value[start:]


def elements(value: bytes, tag: int = SEQUENCE) -> list[tuple[int, bytes]]:
    """
    Return the elements inside one whole constructed value with this tag: of each its tag octet, and it whole.

    PKIError(BAD_DATA_FORMAT) when it is something else, or something follows.
    """
    outer, at, end = header(value, 0, len(value))
    if outer != tag:
        raise malformed(f"tag {outer:#04x} where {tag:#04x} belongs")
    if end != len(value):
        raise malformed("more elements than the type has")
    found = []
    while at < end:
        # Most are short and have a small tag; `header` is asked about the others and about what is wrong.
        inner = value[at]
        stop = at + 2 + value[at + 1] if end - at > 1 else end + 1
        if stop > end or stop > at + 0x81 or inner & 0x1F == 0x1F:
            inner, _, stop = header(value, at, end)
        found.append((inner, value[at:stop]))
        at = stop
    return found


def check(data: bytes, *, max_size: int = MAX_SIZE, max_depth: int = MAX_DEPTH) -> None:
    """
    Accept exactly one canonical DER value of at most `max_size` octets and `max_depth` levels.

    Raises PKIError(BAD_DATA_FORMAT) with the first thing that is wrong. Values inside OCTET STRINGs
    and implicit primitive tags are opaque here; their own decoders gate them again.
    """
    if len(data) > max_size:
        raise malformed(f"{len(data)} octets where at most {max_size} are accepted")
    if _check_all(data, max_depth) != len(data):
        raise malformed("bytes follow the value")


def _check_all(data: bytes, max_depth: int) -> int:
    """
    Check the first value and all inside it, and return where it ends.

    A loop and no recursion: every request passes here, and each of its few dozen values counts.
    """
    size = len(data)
    # The constructed value around `at`: its tag, its end, where it began, and the element before in a SET.
    around, end, begun, previous = 0, size, 0, b""
    outer: list[tuple[int, int, int, bytes]] = []
    at = 0
    while True:
        begin = at
        if end - at < 2:
            raise malformed("a value ends in the middle of its header")
        tag, size = data[at], data[at + 1]
        at += 2
        if size >= 0x80 or tag & 0x1F == 0x1F:
            tag, at, stop = header(data, begin, end)
        elif (stop := at + size) > end:
            raise malformed("a value is shorter than its length says")
        if tag & 0x20:
            if tag < 0x40 and tag not in (SEQUENCE, SET):
                raise malformed("a constructed encoding of a primitive type")
            if stop > at:
                if len(outer) + 1 >= max_depth:
                    raise malformed("nested too deeply")
                outer.append((around, end, begun, previous))
                around, end, begun, previous = tag, stop, begin, b""
                continue
        elif tag < 0x20:
            _check_primitive(data, tag, at, stop)
        at = stop
        # An element is complete; it may be the last of the value around it, and that one of the next.
        while True:
            if around == SET:
                if data[begin:at] < previous:
                    raise malformed("a SET whose elements are not in order")
                previous = data[begin:at]
            if not outer:
                return at
            if at < end:
                break
            begin = begun
            around, end, begun, previous = outer.pop()


def _check_primitive(data: bytes, tag: int, start: int, stop: int) -> None:
    size = stop - start
    if tag in (OID, INTEGER, ENUMERATED):
        if size == 0:
            raise malformed("an empty OBJECT IDENTIFIER" if tag == OID else "an empty INTEGER")
        if tag != OID and size > 1:
            first, second = data[start], data[start + 1]
            if (first == 0 and second < 0x80) or (first == 0xFF and second >= 0x80):
                raise malformed("an INTEGER that is not minimal")
    elif tag == BIT_STRING:
        if size == 0:
            raise malformed("an empty BIT STRING")
        unused = data[start]
        if unused and (unused > 7 or size < 2 or data[stop - 1] & ((1 << unused) - 1)):
            raise malformed("a BIT STRING whose unused bits are not zero")
    elif tag == BOOLEAN:
        if size != 1 or data[start] not in (0, 0xFF):
            raise malformed("a BOOLEAN that is neither 00 nor FF")
    elif tag == NULL:
        if size:
            raise malformed("a NULL with content")
    elif tag in (SEQUENCE & 0x1F, SET & 0x1F):
        raise malformed("a primitive encoding of a constructed type")


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
