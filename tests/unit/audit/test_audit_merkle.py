"""The Merkle tree against the reference vectors of Certificate Transparency (RFC 6962 2.1)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chancery.audit.merkle import (
    CompactRange,
    consistency_holds,
    consistency_proof,
    inclusion_holds,
    inclusion_proof,
    leaf_hash,
    root_of,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "audit" / "rfc6962.json").read_text())
LEAVES = [leaf_hash(bytes.fromhex(leaf)) for leaf in VECTORS["leaves"]]
ROOTS = [bytes.fromhex(root) for root in VECTORS["roots"]]


def unhex(proof):
    return [bytes.fromhex(one) for one in proof]


def test_the_roots_are_those_of_the_reference():
    tree = CompactRange()
    assert ROOTS[0] == tree.root()
    for size, leaf in enumerate(LEAVES, 1):
        tree.append(leaf)
        assert (size, ROOTS[size]) == (tree.size, tree.root())
        assert ROOTS[size] == root_of(LEAVES[:size])


@pytest.mark.parametrize(("index", "size", "proof"), VECTORS["inclusion"])
def test_the_inclusion_proofs_are_those_of_the_reference(index, size, proof):
    assert unhex(proof) == inclusion_proof(LEAVES, index, size)
    assert inclusion_holds(LEAVES[index], index, size, unhex(proof), ROOTS[size])


@pytest.mark.parametrize(("old", "new", "proof"), VECTORS["consistency"])
def test_the_consistency_proofs_are_those_of_the_reference(old, new, proof):
    assert unhex(proof) == consistency_proof(LEAVES, old, new)
    assert consistency_holds(old, ROOTS[old], new, ROOTS[new], unhex(proof))


def test_no_proof_of_what_is_not_there():
    with pytest.raises(IndexError):
        inclusion_proof(LEAVES, 8, 8)
    with pytest.raises(ValueError, match="not larger"):
        consistency_proof(LEAVES, 9, 8)
    assert not inclusion_holds(LEAVES[0], 8, 8, [], ROOTS[8])
    assert not inclusion_holds(LEAVES[0], 0, 8, [], ROOTS[8])
    assert not inclusion_holds(LEAVES[0], 0, 1, [LEAVES[1]], ROOTS[1])
    assert not consistency_holds(0, ROOTS[0], 8, ROOTS[8], [])
    assert not consistency_holds(8, ROOTS[7], 8, ROOTS[8], [])
    assert not consistency_holds(6, ROOTS[6], 8, ROOTS[8], [])
    assert not consistency_holds(4, ROOTS[4], 5, ROOTS[5], [LEAVES[4], LEAVES[5]])


def test_a_large_tree_is_the_same_a_page_or_a_leaf_at_a_time():
    leaves = [leaf_hash(b"%d" % number) for number in range(3 * 4096 + 5)]
    for size in (4095, 4096, 4097, 8192, len(leaves)):
        tree = CompactRange()
        for leaf in leaves[:size]:
            tree.append(leaf)
        paged = CompactRange()
        paged.extend(leaves[:7])
        paged.extend(iter(leaves[7:size]))
        assert (size, tree.root(), tree.root()) == (paged.size, paged.root(), root_of(leaves[:size]))


def test_proofs_in_a_large_tree_hold_and_read_it_once():
    size = 3 * 4096 + 5
    leaves = [leaf_hash(b"%d" % number) for number in range(size)]
    root = root_of(leaves)
    for index in (0, 4095, 4096, 9000, size - 1):
        proof = inclusion_proof(iter(leaves), index, size)
        assert inclusion_holds(leaves[index], index, size, proof, root)
    for old in (1, 4096, 5000, 8192, size):
        proof = consistency_proof(iter(leaves), old, size)
        assert consistency_holds(old, root_of(leaves[:old]), size, root, proof)
    for ask in (lambda: inclusion_proof(leaves[:-1], 0, size), lambda: consistency_proof(leaves[:-1], 5, size)):
        with pytest.raises(ValueError, match="fewer leaves"):
            ask()
