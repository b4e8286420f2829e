"""The DER gate accepts exactly what a plain recursive reading of X.690 accepts, whatever the bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cakit import make_csr, root_certificate
from chancery.asn1 import der
from chancery.errors import PKIError

DEPTH = 6


def oracle(data: bytes, depth: int) -> bool:
    """One canonical value and nothing after it, said as the standard says it: value by value, from outside in."""
    try:
        return _value(data, 0, len(data), depth) == len(data)
    except PKIError:
        return False


def _value(data: bytes, at: int, end: int, depth: int) -> int:
    if depth == 0:
        raise der.malformed("nested too deeply")
    tag, start, stop = der.header(data, at, end)
    content = data[start:stop]
    if tag & 0x20:
        if tag < 0x40 and tag not in (der.SEQUENCE, der.SET):
            raise der.malformed("a constructed encoding of a primitive type")
        elements, inner = [], start
        while inner < stop:
            following = _value(data, inner, stop, depth - 1)
            elements.append(data[inner:following])
            inner = following
        if tag == der.SET and elements != sorted(elements):
            raise der.malformed("a SET whose elements are not in order")
    elif not _primitive(tag, content):
        raise der.malformed("not canonical")
    return stop


def _primitive(tag: int, content: bytes) -> bool:
    if tag in (der.INTEGER, der.ENUMERATED):
        return content != b"" and content == der.integer_octets(int.from_bytes(content, "big", signed=True))
    if tag == der.BOOLEAN:
        return content in (b"\x00", b"\xff")
    if tag == der.NULL:
        return content == b""
    if tag == der.BIT_STRING:
        if content in {b"", *(bytes((unused,)) for unused in range(1, 256))}:
            return False
        return content[0] < 8 and not content[-1] & ((1 << content[0]) - 1) if len(content) > 1 else True
    return tag not in (0x10, 0x11) and (tag != der.OID or content != b"")


def accepted(data: bytes, depth: int = DEPTH) -> bool:
    try:
        der.check(data, max_depth=depth)
    except PKIError:
        return False
    return True


def _constructed(children: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    tags = st.sampled_from([der.SEQUENCE, der.SET, 0xA0, 0xA3, 0x24, 0x33, 0x61])
    many = st.lists(children, max_size=4)
    any_order = st.builds(lambda tag, found: der.tlv(tag, *found), tags, many)
    return st.one_of(many.map(der.set_of), any_order)


PRIMITIVES = st.builds(
    der.tlv,
    st.sampled_from([1, 2, 3, 4, 5, 6, 10, 12, 16, 17, 19, 23, 31, 0x80, 0x82, 0x9F]),
    st.one_of(
        st.binary(max_size=4), st.sampled_from([b"", b"\x00", b"\xff", b"\x00\x80", b"\xff\x7f", bytes(130)])
    ),
)
VALUES = st.recursive(PRIMITIVES, _constructed, max_leaves=12)


@settings(max_examples=400, deadline=None)
@given(VALUES)
def test_what_is_built_is_judged_alike(data):
    assert oracle(data, DEPTH) == accepted(data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([make_csr(names=("dns:a.example", "ip:10.0.0.1")), root_certificate()]), st.data())
def test_what_is_damaged_is_judged_alike(whole, drawn):
    data = bytearray(whole)
    for _ in range(drawn.draw(st.integers(0, 2))):
        data[drawn.draw(st.integers(0, len(data) - 1))] = drawn.draw(st.integers(0, 255))
    data = bytes(data[: drawn.draw(st.sampled_from([len(data), len(data), len(data) - 1]))])
    assert oracle(data, der.MAX_DEPTH) == accepted(data, der.MAX_DEPTH)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=12))
def test_what_is_anything_is_judged_alike(data):
    assert oracle(data, DEPTH) == accepted(data)


@pytest.mark.parametrize("inner", [b"", b"\x05\x00", b"\x30\x00"])
def test_the_depth_is_counted_alike(inner):
    data = inner
    for depth in range(1, 9):
        data = der.sequence(data)
        for limit in range(1, 9):
            assert oracle(data, limit) == accepted(data, limit), (depth, limit)


def _one_by_one(data: bytes) -> list[tuple[int, bytes]]:
    outer = der.Reader(data)
    inner, found = outer.enter(), []
    outer.done()
    while inner:
        found.append((inner.peek(), inner.raw()))
    return found


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(VALUES, max_size=5).map(lambda found: der.sequence(*found)), VALUES), st.data())
def test_elements_are_what_a_reader_gives_one_by_one(data, drawn):
    if data and drawn.draw(st.booleans()):
        changed = bytearray(data)
        changed[drawn.draw(st.integers(0, len(data) - 1))] = drawn.draw(st.integers(0, 255))
        data = bytes(changed)
    try:
        expected = _one_by_one(data)
    except PKIError:
        with pytest.raises(PKIError):
            der.elements(data)
    else:
        assert expected == der.elements(data)
