"""The Merkle tree of RFC 9162 section 2.1 (RFC 6962): hashes, a compact range that grows, and proofs."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

_PAGE = 4096  # a power of two
_SHA256 = hashlib.sha256
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data) (RFC 9162 2.1.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right) (RFC 9162 2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class CompactRange:
    """
    The roots of the perfect subtrees of a tree, largest first: enough to append and to tell the root.

    Holds one hash per set bit of `size`.
    """

    __slots__ = ("_peaks", "size")

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        """Raises ValueError for other than one hash per set bit of `size`."""
        self.size = size
        self._peaks = list(peaks)
        if len(self._peaks) != size.bit_count() or any(len(peak) != len(EMPTY_ROOT) for peak in self._peaks):
            raise ValueError("not the roots of a tree's perfect subtrees")

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """The roots of the perfect subtrees, largest first."""
        return tuple(self._peaks)

    def append(self, leaf: bytes) -> None:
        """Add the next leaf, given as its hash."""
        node, size = leaf, self.size
        while size & 1:
            node = node_hash(self._peaks.pop(), node)
            size >>= 1
        self._peaks.append(node)
        self.size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add many leaves, given as their hashes; a page at a time, level by level, where that is whole."""
        source = iter(leaves)
        while page := list(itertools.islice(source, _PAGE - self.size % _PAGE)):
            if len(page) < _PAGE:
                for leaf in page:
                    self.append(leaf)
                continue
            while len(page) > 1:
                page = [_SHA256(b"\x01" + left + right).digest() for left, right in _pairs(page)]
            node, pages = page[0], self.size // _PAGE
            while pages & 1:
                node, pages = node_hash(self._peaks.pop(), node), pages >> 1
            self._peaks.append(node)
            self.size += _PAGE

    def root(self) -> bytes:
        """Return MTH of the leaves so far (RFC 9162 2.1.1); SHA-256 of nothing for the empty tree."""
        if not self._peaks:
            return EMPTY_ROOT
        node = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            node = node_hash(peak, node)
        return node

    def copy(self) -> CompactRange:
        """Return an independent copy."""
        return CompactRange(self.size, self._peaks)


def _pairs(nodes: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(nodes[::2], nodes[1::2], strict=True)


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Return MTH of these leaf hashes."""
    tree = CompactRange()
    tree.extend(leaves)
    return tree.root()


def _split(size: int) -> int:
    """Return the largest power of two below `size`, which is at least 2."""
    return 1 << (size - 1).bit_length() - 1


def _roots(leaves: Iterable[bytes], ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return MTH of each of these ranges, which do not overlap, in their order; one pass over the leaf hashes."""
    found: dict[tuple[int, int], bytes] = {}
    source, position = iter(leaves), 0
    for start, end in sorted(ranges):
        tree = CompactRange()
        tree.extend(itertools.islice(source, start - position, end - position))
        if tree.size != end - start:
            raise ValueError("there are fewer leaves than the tree has")
        found[start, end], position = tree.root(), end
    return [found[one] for one in ranges]


def inclusion_proof(leaves: Iterable[bytes], index: int, size: int) -> list[bytes]:
    """
    PATH(index, leaves) of RFC 9162 2.1.3.1 in the tree of the first `size` leaf hashes: siblings upwards.

    One pass over them, with a page of them and one hash for each level in memory. Raises IndexError when the tree
    has no such leaf, ValueError for fewer leaves than that.
    """
    if not 0 <= index < size:
        raise IndexError("no such leaf")
    ranges: list[tuple[int, int]] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return _roots(leaves, ranges[::-1])


def inclusion_holds(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Tell whether `proof` shows the leaf hash at `index` of the tree of `size` and `root` (RFC 9162 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    fn, sn, node = index, size - 1, leaf
    for sibling in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            node = node_hash(sibling, node)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            node = node_hash(node, sibling)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and node == root


def consistency_proof(leaves: Iterable[bytes], old_size: int, size: int) -> list[bytes]:
    """
    PROOF(old_size, leaves) of RFC 9162 2.1.4.1 in the tree of the first `size`; empty when the sizes are equal.

    One pass, as `inclusion_proof`. Raises ValueError unless 0 < old_size <= size and there are so many leaves.
    """
    if not 0 < old_size <= size:
        raise ValueError("the older tree is not empty and not larger")
    ranges: list[tuple[int, int]] = []
    start, end = 0, size
    while old_size < end:
        middle = start + _split(end - start)
        if old_size <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    if start:
        # The older tree is not one of the perfect subtrees on the left edge: its last part is told, too.
        ranges.append((start, end))
    return _roots(leaves, ranges[::-1])


def consistency_holds(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Tell whether `proof` shows that the newer tree continues the older one (RFC 9162 2.1.4.2)."""
    if not 0 < old_size <= new_size:
        return False
    if old_size == new_size:
        return not proof and old_root == new_root
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    if not path:
        return False
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    old_node = new_node = path[0]
    for sibling in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            old_node, new_node = node_hash(sibling, old_node), node_hash(sibling, new_node)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            new_node = node_hash(new_node, sibling)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and old_node == old_root and new_node == new_root
