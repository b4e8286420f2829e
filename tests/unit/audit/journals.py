"""A journal in memory that keeps the contract of `JournalStore`, and lets a test tamper with its rows."""

from __future__ import annotations

import datetime

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from chancery.asn1.signature import KeySigner
from chancery.audit.log import Sequencer
from chancery.ports import Event, EventKind, Leaf
from fakes import START, FakeClock, Faults

ORIGIN = "chancery.example/journal"
ED25519 = KeySigner(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
P256 = KeySigner(ec.derive_private_key(20261124, ec.SECP256R1()))
OTHER = KeySigner(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
SOON = START + datetime.timedelta(seconds=5)


def event(number, at=START):
    return Event(EventKind.CERTIFICATE_ISSUED, at, "worker", f"1:{number:04x}", {"request": number})


class MemoryJournal:
    """Rows by primary key, as in the database."""

    def __init__(self, faults=None):
        self.faults = faults or Faults()
        self.events = {}
        self.leaf_rows = {}
        self.checkpoint_rows = {}

    def write(self, *events):
        for one in events:
            self.events[max(self.events, default=0) + 1] = one.body()

    def unsequenced(self, limit):
        return self.faults.around(self.events_without_leaf)[:limit]

    def tree_size(self):
        return max(self.leaf_rows, default=-1) + 1

    def leaf_hashes(self, start, limit):
        found = []
        while start in self.leaf_rows and len(found) < limit:
            found.append(self.leaf_rows[start][1])
            start += 1
        return found

    def append(self, leaves, checkpoint):
        def act():
            assert leaves
            assert leaves[0][0] == self.tree_size()
            for index, event_id, digest in leaves:
                assert event_id in self.events
                assert index not in self.leaf_rows
                self.leaf_rows[index] = (event_id, digest)
            assert self.tree_size() == checkpoint.tree_size
            assert checkpoint.tree_size not in self.checkpoint_rows
            self.checkpoint_rows[checkpoint.tree_size] = checkpoint

        self.faults.around(act)

    def checkpoints(self, after=0, limit=None):
        return [self.checkpoint_rows[size] for size in sorted(self.checkpoint_rows) if size > after][:limit]

    def latest_checkpoint(self):
        return self.checkpoint_rows[max(self.checkpoint_rows)] if self.checkpoint_rows else None

    def leaves(self, start, limit):
        rows = [(index, *self.leaf_rows[index]) for index in sorted(self.leaf_rows) if index >= start][:limit]
        return [Leaf(index, event_id, self.events.get(event_id), digest) for index, event_id, digest in rows]

    def events_without_leaf(self):
        known = {event_id for event_id, _ in self.leaf_rows.values()}
        return [(event_id, body) for event_id, body in sorted(self.events.items()) if event_id not in known]

    def retirements(self):
        return [body for _, body in sorted(self.events.items()) if '"retention.dropped"' in body]


def journal(batches=(3, 1, 4), signer=ED25519):
    """A journal of honest history: so many events before each checkpoint."""
    store = MemoryJournal()
    sequencer = Sequencer(store, signer, ORIGIN, FakeClock())
    number = 0
    for size in batches:
        store.write(*(event(number + at) for at in range(size)))
        number += size
        assert size == sequencer.run_once()
    return store
