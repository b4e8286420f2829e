"""Merkle proofs over random trees: every true one holds, no changed one does (RFC 6962 2.1)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chancery.audit.merkle import (
    CompactRange,
    consistency_holds,
    consistency_proof,
    inclusion_holds,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
)

trees = st.lists(st.binary(max_size=8), min_size=1, max_size=70).map(lambda data: [leaf_hash(one) for one in data])


def defined(leaves):
    """MTH exactly as RFC 6962 2.1 defines it."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(defined(leaves[:split]), defined(leaves[split:]))


def flipped(data, at):
    at %= len(data) * 8
    return data[: at // 8] + bytes((data[at // 8] ^ 1 << at % 8,)) + data[at // 8 + 1 :]


@given(trees)
@settings(max_examples=80, deadline=None)
def test_the_root_that_grows_is_the_root_as_defined(leaves):
    tree = CompactRange()
    for size, leaf in enumerate(leaves, 1):
        tree.append(leaf)
        copy = tree.copy()
        copy.append(leaf)
        assert (size, defined(leaves[:size])) == (tree.size, tree.root())


@given(trees, st.data())
@settings(max_examples=150, deadline=None)
def test_an_inclusion_proof_holds_for_its_leaf_and_place_only(leaves, data):
    size, root = len(leaves), root_of(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(iter(leaves), index, size)
    assert inclusion_holds(leaves[index], index, size, proof, root)
    bit = data.draw(st.integers(0, 255))
    assert not inclusion_holds(flipped(leaves[index], bit), index, size, proof, root)
    assert not inclusion_holds(leaves[index], index, size, proof, flipped(root, bit))
    assert not inclusion_holds(leaves[index], index, size, [*proof, root], root)
    for at in range(len(proof)):
        changed = [*proof[:at], flipped(proof[at], bit), *proof[at + 1 :]]
        assert not inclusion_holds(leaves[index], index, size, changed, root)
        assert not inclusion_holds(leaves[index], index, size, proof[:at] + proof[at + 1 :], root)


@given(trees, st.data())
@settings(max_examples=150, deadline=None)
def test_a_consistency_proof_holds_between_its_two_trees_only(leaves, data):
    old, new = data.draw(st.integers(1, len(leaves))), len(leaves)
    old_root, new_root = root_of(leaves[:old]), root_of(leaves)
    proof = consistency_proof(iter(leaves), old, len(leaves))
    assert consistency_holds(old, old_root, new, new_root, proof)
    bit = data.draw(st.integers(0, 255))
    assert not consistency_holds(old, flipped(old_root, bit), new, new_root, proof)
    assert not consistency_holds(old, old_root, new, flipped(new_root, bit), proof)
    assert not consistency_holds(old, old_root, new, new_root, [*proof, new_root])
    for at in range(len(proof)):
        changed = [*proof[:at], flipped(proof[at], bit), *proof[at + 1 :]]
        assert not consistency_holds(old, old_root, new, new_root, changed)
