"""What is kept, for how long, and that nothing overtaken is ever kept."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st

from chancery.ocsp.cache import Cache, Changes

ONE, TWO, THREE = (1, b"one"), (1, b"two"), (2, b"one")


def make(max_entries: int = 10, max_bytes: int = 100_000) -> tuple[Changes, Cache[bytes, str]]:
    changes = Changes()
    return changes, Cache(changes, max_entries=max_entries, max_bytes=max_bytes)


def put(
    cache: Cache[bytes, str], key: bytes, *subjects, read_at: int = 0, until: float = 10.0, size: int = 10
) -> bool:
    return cache.put(key, key.decode(), size=size, until=until, subjects=subjects or (ONE,), read_at=read_at)


def test_an_entry_is_given_until_its_time_is_over():
    _, cache = make()
    assert put(cache, b"a")
    assert ("a", "a", None) == (cache.get(b"a", 0), cache.get(b"a", 9.999), cache.get(b"a", 10))
    assert cache.get(b"b", 0) is None


def test_dropping_a_status_drops_all_that_speaks_of_it_and_nothing_else():
    _, cache = make()
    put(cache, b"a", ONE)
    put(cache, b"b", ONE, TWO)
    put(cache, b"c", TWO)
    put(cache, b"d", THREE)
    cache.drop(ONE)
    assert [None, None, "c", "d"] == [cache.get(key, 0) for key in (b"a", b"b", b"c", b"d")]
    cache.drop(TWO)
    cache.drop(TWO)
    assert 1 == len(cache)
    cache.clear()
    assert (0, 0) == (len(cache), cache.bytes)


def test_the_least_recently_used_goes_first():
    _, cache = make(max_entries=3)
    for key in (b"a", b"b", b"c"):
        put(cache, key)
    cache.get(b"a", 0)
    put(cache, b"d")
    assert ["a", None, "c", "d"] == [cache.get(key, 0) for key in (b"a", b"b", b"c", b"d")]


def test_the_octets_are_bounded_and_what_is_larger_than_all_is_not_kept():
    _, cache = make(max_bytes=2000)
    for number in range(10):
        put(cache, b"%d" % number, size=500)
        assert cache.bytes <= 2000
    assert "9" == cache.get(b"9", 0)
    assert not put(cache, b"9", size=5000)
    assert cache.get(b"9", 0) is None


def test_what_was_read_before_a_change_is_not_kept_after_it():
    changes, cache = make()
    before = changes.now
    changes.note(ONE)
    assert not put(cache, b"a", ONE, read_at=before)
    assert put(cache, b"b", TWO, read_at=before)
    assert put(cache, b"c", ONE, read_at=changes.now)
    changes.note_all()
    assert not put(cache, b"d", TWO, read_at=before)


def test_changes_too_old_to_be_remembered_count_as_changes():
    changes = Changes(remembered=2)
    changes.note(ONE)
    moment = changes.now
    assert not changes.since(moment, [TWO])
    for number in range(3):
        changes.note((9, b"%d" % number))
    assert changes.since(moment, [TWO])
    assert not changes.since(changes.now, [TWO])


@hypothesis.given(
    st.lists(st.tuples(st.sampled_from("prdnac"), st.integers(0, 3), st.integers(0, 3)), max_size=60),
    st.integers(1, 4),
)
@hypothesis.settings(max_examples=200, deadline=None)
def test_nothing_overtaken_is_ever_given_and_the_books_balance(steps, remembered):
    """A model: versions of statuses; what the cache gives must be the version that stands now."""
    changes = Changes(remembered)
    cache: Cache[bytes, int] = Cache(changes, max_entries=3, max_bytes=10_000)
    versions = dict.fromkeys(range(4), 0)
    reads: dict[int, tuple[int, int]] = {}
    for step, number, key in steps:
        subject = (1, bytes([number]))
        if step == "r":
            reads[number] = (versions[number], changes.now)
        elif step == "p" and number in reads:
            value, read_at = reads[number]
            cache.put(bytes([number, key]), value, size=10, until=1.0, subjects=(subject,), read_at=read_at)
        elif step == "n":
            versions[number] += 1
            changes.note(subject)
            cache.drop(subject)
        elif step == "a":
            versions = {one: version + 1 for one, version in versions.items()}
            changes.note_all()
            cache.clear()
        else:
            found = cache.get(bytes([number, key]), 0.0)
            assert found is None or versions[number] == found
        assert len(cache) <= 3
        assert sum(entry.size for entry in cache._entries.values()) == cache.bytes
        assert {key for keys in cache._keys.values() for key in keys} == set(cache._entries)
