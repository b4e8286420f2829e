"""
The auditor of the journal: recomputes the Merkle tree from the events as they now stand (R29, R30).

An edited, deleted or reordered event no longer gives the root that was signed; a truncated journal no
longer reaches the newest checkpoint, or, when that was cut off too, the one that was remembered outside.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
from collections.abc import Iterator, Sequence

from chancery.asn1.signature import PublicKey
from chancery.audit.merkle import CompactRange, leaf_hash
from chancery.audit.note import TreeHead, open_checkpoint
from chancery.errors import PKIError
from chancery.ports import Checkpoint, JournalStore, Leaf

PAGE = 4096
GRACE = datetime.timedelta(minutes=1)
"""How long an event may wait for its leaf: the sequencer looks twice a second."""
MAX_FINDINGS = 100


class Kind(enum.Enum):
    """What is wrong; the value is the word in reports."""

    EDITED = "edited"
    DELETED = "deleted"
    GAP = "missing-leaf"
    REPLACED = "replaced"
    TRUNCATED = "truncated"
    ROLLED_BACK = "rolled-back"
    BAD_CHECKPOINT = "bad-checkpoint"
    NOT_SIGNED = "not-signed"
    NOT_SEQUENCED = "not-sequenced"


_NEXT = {
    Kind.EDITED: "compare the event with the last backup that verifies; somebody wrote with the owner's rights",
    Kind.DELETED: "restore the event from the last backup that verifies; somebody wrote with the owner's rights",
    Kind.GAP: "restore the leaf from the last backup that verifies; somebody wrote with the owner's rights",
    Kind.REPLACED: "find the last checkpoint before it that verifies, and compare what follows with a backup",
    Kind.TRUNCATED: "restore the rows that were cut off from the last backup that verifies",
    Kind.ROLLED_BACK: "find out who restored or rewrote the database, and what happened after the remembered time",
    Kind.BAD_CHECKPOINT: "see whether origin and public key are the journal's; if they are, the row was forged",
    Kind.NOT_SIGNED: "see whether the worker runs; leaves and their checkpoint are written together",
    Kind.NOT_SEQUENCED: "see whether the worker runs; if it does, somebody removed leaves",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, and where. `next_step` says what an auditor does about it."""

    kind: Kind
    what: str

    @property
    def next_step(self) -> str:
        return _NEXT[self.kind]

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.what}"


@dataclasses.dataclass(frozen=True, slots=True)
class Audit:
    """
    The outcome: what the newest checkpoint covers, and every finding (the first `MAX_FINDINGS`; `omitted` more).

    `retired` events were dropped by retention, as the journal itself says; their leaves are part of the tree.

    `head` and `note` are those of the newest checkpoint; None when there is none, or anything is wrong.
    """

    head: TreeHead | None
    note: str | None
    checkpoints: int
    waiting: int
    retired: int
    findings: tuple[Finding, ...]
    omitted: int


class _Findings:
    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.omitted = 0

    def add(self, kind: Kind, what: str) -> None:
        if len(self.kept) < MAX_FINDINGS:
            self.kept.append(Finding(kind, what))
        else:
            self.omitted += 1


def verify(
    store: JournalStore,
    origin: str,
    key: PublicKey,
    at: datetime.datetime,
    *,
    remembered: Sequence[TreeHead] = (),
    grace: datetime.timedelta = GRACE,
) -> Audit:
    """
    Check the whole journal against the checkpoints signed by `key` under `origin`; changes nothing.

    Events younger than `grace` at `at` may still wait for their leaf. `remembered` are checkpoints that
    were seen before and kept elsewhere. Raises PKIError(SYSTEM_UNAVAIL) when the database is away.
    """
    found = _Findings()
    # In this order: whatever is committed meanwhile can only make the newest checkpoint larger.
    size, latest = store.tree_size(), store.latest_checkpoint()
    covered = latest.tree_size if latest else 0
    if covered < size:
        found.add(Kind.NOT_SIGNED, f"leaves {covered} to {size - 1} are under no checkpoint")
    walk = _Walk(store, origin, key, remembered, found)
    walk.through(max(covered, size))
    if covered > walk.seen:
        found.add(
            Kind.TRUNCATED, f"the newest checkpoint covers {covered} events, and {walk.seen} leaves are there"
        )
    for seen in remembered:
        if covered < seen.size:
            found.add(
                Kind.ROLLED_BACK,
                f"a checkpoint of {seen.size} events was remembered, and the newest one covers {covered}",
            )
    waiting = _waiting(store, at - grace, found)
    head, note = walk.last if not found.kept else (None, None)
    return Audit(head, note, walk.checkpoints, waiting, walk.retired, tuple(found.kept), found.omitted)


class _Walk:
    """One pass over leaves and checkpoints together, each read in pages."""

    def __init__(
        self,
        store: JournalStore,
        origin: str,
        key: PublicKey,
        remembered: Sequence[TreeHead],
        found: _Findings,
    ) -> None:
        self._store, self._origin, self._key = store, origin, key
        self._remembered: dict[int, list[bytes]] = {}
        for head in remembered:
            self._remembered.setdefault(head.size, []).append(head.root)
        self._found = found
        self._tree = CompactRange()
        self._retired = _retired(store.retirements())
        self.retired = 0
        self._whole = True
        self._good = 0
        self._differs = False
        self.seen = 0
        self.checkpoints = 0
        self.last: tuple[TreeHead, str] | tuple[None, None] = (None, None)

    def through(self, size: int) -> None:
        """Check the first `size` leaves and every checkpoint of at most so many."""
        heads = _checkpoints(self._store, size)
        following = next(heads, None)
        for leaf in _leaves(self._store, size):
            self._leaf(leaf)
            while following is not None and following.tree_size <= self._tree.size:
                self._checkpoint(following)
                following = next(heads, None)
        while following is not None:
            self._checkpoint(following)
            following = next(heads, None)

    def _leaf(self, leaf: Leaf) -> None:
        if leaf.index != self.seen:
            what = (
                f"leaf {self.seen}" if leaf.index == self.seen + 1 else f"leaves {self.seen} to {leaf.index - 1}"
            )
            self._found.add(Kind.GAP, f"{what} of the tree: gone")
            self._whole = False
        self.seen = leaf.index + 1
        where = f"event {leaf.event_id} (leaf {leaf.index})"
        if leaf.body is None and any(leaf.event_id in gone for gone in self._retired):
            self.retired += 1
        elif leaf.body is None:
            self._found.add(Kind.DELETED, f"{where} is gone")
        elif leaf_hash(leaf.body.encode()) != leaf.hash:
            self._found.add(Kind.EDITED, f"{where} is not what was recorded{_claims(leaf.body)}")
        # After a change found above, the recorded hash goes on: what follows is judged by itself.
        self._tree.append(leaf.hash)
        if self._whole and any(root != self._tree.root() for root in self._remembered.get(self._tree.size, ())):
            self._found.add(
                Kind.ROLLED_BACK,
                f"the first {self._tree.size} events are not those of the remembered checkpoint:"
                " history was rewritten",
            )

    def _checkpoint(self, checkpoint: Checkpoint) -> None:
        self.checkpoints += 1
        where = f"checkpoint {checkpoint.tree_size}"
        try:
            head = open_checkpoint(checkpoint.note, self._origin, self._key)
        except PKIError as error:
            self._found.add(Kind.BAD_CHECKPOINT, f"{where}: {error.detail}")
            return
        if head != TreeHead(self._origin, checkpoint.tree_size, checkpoint.root):
            self._found.add(Kind.BAD_CHECKPOINT, f"{where}: the row says something else than its signed text")
        # A smaller tree was reported as cut off or full of holes; its root means nothing.
        if not self._whole or head.size != self._tree.size:
            return
        if head.root == self._tree.root():
            self._good, self.last = head.size, (head, checkpoint.note)
        elif not self._differs:
            # Every later root differs, too: the first one says where.
            self._differs = True
            self._found.add(
                Kind.REPLACED,
                f"{where}: the leaves from {self._good} to {head.size - 1} are not those that were signed:"
                " edited, reordered or replaced together with their hashes",
            )


def _retired(bodies: Sequence[str]) -> list[range]:
    """Return the event ids that retention said it dropped."""
    found = []
    for body in bodies:
        try:
            detail = json.loads(body)["detail"]
            found.append(range(int(detail["at_least"] or 0), int(detail["below"])))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return found


def _claims(body: str) -> str:
    try:
        value = json.loads(body)
        return f"; it now says {value['kind']!s:.60} of {value['subject']!s:.80}"
    except (ValueError, TypeError, KeyError, RecursionError):
        return "; it is no event any more"


def _leaves(store: JournalStore, size: int) -> Iterator[Leaf]:
    start = 0
    while start < size:
        page = [leaf for leaf in store.leaves(start, PAGE) if leaf.index < size]
        if not page:
            return
        yield from page
        start = page[-1].index + 1


def _checkpoints(store: JournalStore, size: int) -> Iterator[Checkpoint]:
    after = 0
    while page := store.checkpoints(after, PAGE):
        for checkpoint in page:
            if checkpoint.tree_size > size:
                return
            yield checkpoint
        after = page[-1].tree_size


def _waiting(store: JournalStore, before: datetime.datetime, found: _Findings) -> int:
    """Count events without a leaf, and report those that have waited too long."""
    waiting = store.events_without_leaf()
    for event_id, body in waiting:
        if (written := _time(body)) is None or written < before:
            when = written.isoformat(timespec="seconds") if written else "at no time"
            found.add(Kind.NOT_SEQUENCED, f"event {event_id}, written {when}, has no leaf{_claims(body)}")
    return len(waiting)


def _time(body: str) -> datetime.datetime | None:
    try:
        time = datetime.datetime.fromisoformat(json.loads(body)["at"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return time if time.tzinfo else None
