"""Patterns of profiles: as Python's engine says of the same text, and never slow."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chancery.pkix.pattern import MAX_STATES, Pattern

ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "[a-c0-9]", r"\d", r"\w", r"\.", "-"])
TEXTS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["?", "*", "+", "{2}", "{1,3}", "{0,}"])).map(
            lambda o: f"(?:{o[0]}){o[1]}"
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.lists(st.text("abc019.-_", max_size=7), min_size=1, max_size=8))
def test_a_pattern_means_what_python_says(text, values):
    pattern, python = Pattern(text), re.compile(text, re.ASCII | re.DOTALL)
    for value in values:
        assert (python.fullmatch(value) is not None) == pattern.matches(value)
    for long in (False, True):
        example = pattern.example(lambda one: chr(one).isprintable(), 20, long=long)
        assert example is None or (pattern.matches(example) and len(example) <= 20)


def test_no_pattern_is_catastrophic():
    # Python's engine would try 2^200 ways: that this ends is the test.
    assert not Pattern("(a+)+b").matches("a" * 200)
    assert not Pattern("(a|a)*(a|a)*c").matches("a" * 200)
    assert not Pattern("(.*)*(.*)*(.*)*x").matches("a" * 1000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1 to 256"),
        ("a" * 257, "1 to 256"),
        ("^a$", "whole value"),
        ("a**", "repetition of a repetition"),
        ("(a", "not closed"),
        ("a)", "out of place"),
        ("[z-a]", "up to another"),
        ("[]", "empty class"),
        ("[a", "ends in the middle"),
        (r"\b", "not known"),
        (r"(a)\1", "not known"),
        ("(?=a)", "out of place"),
        ("{3}", "out of place"),
        ("a{3", "{m}"),
        ("a{300}", "at most 256"),
        ("a{3,2}", "at most 256"),
        ("(" * 33 + "a" + ")" * 33, "nested"),
        ("((a{200}){200})", f"more than {MAX_STATES}"),
        ("((((){256}){256}){256}){256}", "repeats too much"),
    ],
)
def test_what_is_no_pattern_is_refused_in_words(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Pattern(text)
