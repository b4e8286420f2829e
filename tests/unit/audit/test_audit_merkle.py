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
    assert unhex(proof) == inclusion_proof(LEAVES[:size], index)
    assert inclusion_holds(LEAVES[index], index, size, unhex(proof), ROOTS[size])


@pytest.mark.parametrize(("old", "new", "proof"), VECTORS["consistency"])
def test_the_consistency_proofs_are_those_of_the_reference(old, new, proof):
    assert unhex(proof) == consistency_proof(LEAVES[:new], old)
    assert consistency_holds(old, ROOTS[old], new, ROOTS[new], unhex(proof))


def test_no_proof_of_what_is_not_there():
    with pytest.raises(IndexError):
        inclusion_proof(LEAVES, 8)
    with pytest.raises(ValueError, match="not larger"):
        consistency_proof(LEAVES, 9)
    assert not inclusion_holds(LEAVES[0], 8, 8, [], ROOTS[8])
    assert not inclusion_holds(LEAVES[0], 0, 8, [], ROOTS[8])
    assert not inclusion_holds(LEAVES[0], 0, 1, [LEAVES[1]], ROOTS[1])
    assert not consistency_holds(0, ROOTS[0], 8, ROOTS[8], [])
    assert not consistency_holds(8, ROOTS[7], 8, ROOTS[8], [])
    assert not consistency_holds(6, ROOTS[6], 8, ROOTS[8], [])
    assert not consistency_holds(4, ROOTS[4], 5, ROOTS[5], [LEAVES[4], LEAVES[5]])
