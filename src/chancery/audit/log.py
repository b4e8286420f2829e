"""
The sequencer: gives committed events their place in the Merkle tree and signs what the tree then is.

Events are written by many processes, each in its effect's transaction; one sequencer turns them into
leaves. Leaves and the checkpoint that covers them become durable together, so no checkpoint is ever
inconsistent with one that was signed before (C2SP tlog-checkpoint).
"""

from __future__ import annotations

from chancery.asn1.signature import Signer
from chancery.audit.memory import CheckpointFile
from chancery.audit.merkle import CompactRange, leaf_hash
from chancery.audit.note import TreeHead, check_name, key_id, open_checkpoint, sign_checkpoint
from chancery.errors import ErrorType, PKIError
from chancery.ports import Checkpoint, Clock, JournalStore

BATCH = 4096
PAGE = 16384
KEEP = 65536
"""After how many leaves the tree is kept again: at most so many, and those of a batch, are read at a start."""


class Sequencer:
    """
    Appends leaves and checkpoints to one log. One at a time: the store holds the lock.

    `signer` signs checkpoints under `origin`, the log's name. `remember`, when given, keeps the newest
    checkpoint outside the database: then the sequencer notices a database that was rolled back, too, and begins
    with the tree that was kept there. `chancery audit verify` reads every leaf.
    """

    def __init__(
        self,
        store: JournalStore,
        signer: Signer,
        origin: str,
        clock: Clock,
        *,
        remember: CheckpointFile | None = None,
    ) -> None:
        """Raises PKIError: BAD_REQUEST for an origin that no log may have, BAD_ALG for another kind of key."""
        check_name(origin)
        key_id(origin, signer.public_key)
        self._store = store
        self._signer = signer
        self._origin = origin
        self._clock = clock
        self._remember = remember
        self._tree: CompactRange | None = None
        self._kept = 0

    def run_once(self) -> int:
        """
        Append at most `BATCH` waiting events and one checkpoint over all leaves; return how many events.

        Called at least every second while events arrive, so that no event waits longer to be signed for.
        Raises PKIError: SYSTEM_UNAVAIL when database or token are away (the next call reads everything
        anew), SYSTEM_FAILURE when the stored tree is not the one that was signed: nothing is signed then,
        until `chancery audit verify` has said what happened.
        """
        # Until the append is known to have taken effect, nothing is assumed about the stored tree.
        tree, self._tree = self._tree or self._load(), None
        waiting = self._store.unsequenced(BATCH)
        if waiting:
            tree = tree.copy()
            leaves = []
            for event_id, body in waiting:
                digest = leaf_hash(body.encode())
                leaves.append((tree.size, event_id, digest))
                tree.append(digest)
            note = sign_checkpoint(TreeHead(self._origin, tree.size, tree.root()), self._signer)
            self._store.append(leaves, Checkpoint(tree.size, tree.root(), note, self._clock.now()))
            if self._remember is not None:
                self._remember.write(note)
                self._keep(self._remember, tree, note)
        self._tree = tree
        return len(waiting)

    def _load(self) -> CompactRange:
        """Rebuild the tree from the leaf hashes since it was kept; refuse one that is not what was signed."""
        size, latest = self._store.tree_size(), self._store.latest_checkpoint()
        remembered = None
        if self._remember is not None:
            remembered = self._remember.read(self._origin, self._signer.public_key)
        tree = self._begun(size, remembered)
        while tree.size < size:
            page = self._store.leaf_hashes(tree.size, min(PAGE, size - tree.size))
            if not page:
                raise _broken(f"leaf {tree.size} is missing")
            for digest in page:
                tree.append(digest)
                if remembered is not None and tree.size == remembered.size and tree.root() != remembered.root:
                    raise _broken(f"it does not continue the remembered checkpoint of {remembered.size} events")
        self._check(tree, latest, remembered)
        if self._remember is not None and latest is not None:
            self._keep(self._remember, tree, latest.note)
        return tree

    def _begun(self, size: int, remembered: TreeHead | None) -> CompactRange:
        """Return the kept tree if it is one of the remembered checkpoint's past, and nothing was lost since."""
        if self._remember is not None and remembered is not None:
            kept = self._remember.read_tree(self._origin, self._signer.public_key)
            # The remembered one is compared on the way.
            same = kept is not None and (kept.size, kept.root()) == (remembered.size, remembered.root)
            if kept is not None and (same or kept.size < remembered.size) and remembered.size <= size:
                self._kept = kept.size
                return kept
        return CompactRange()

    def _keep(self, remember: CheckpointFile, tree: CompactRange, note: str) -> None:
        if tree.size - self._kept >= KEEP:
            remember.write_tree(tree, note)
            self._kept = tree.size

    def _check(self, tree: CompactRange, latest: Checkpoint | None, remembered: TreeHead | None) -> None:
        if (latest.tree_size if latest else 0) != tree.size:
            raise _broken("its leaves and its newest checkpoint differ in number")
        if latest is not None:
            try:
                head = open_checkpoint(latest.note, self._origin, self._signer.public_key)
            except PKIError as error:
                raise _broken(f"its newest checkpoint: {error.detail}") from error
            if head != TreeHead(self._origin, tree.size, tree.root()):
                raise _broken("its leaves are not those of its newest checkpoint")
        if remembered is not None and tree.size < remembered.size:
            raise _broken(f"it holds {tree.size} events, and {remembered.size} are remembered")


def _broken(what: str) -> PKIError:
    return PKIError(ErrorType.SYSTEM_FAILURE, f"the journal was changed: {what}; run `chancery audit verify`")
