"""
The epochs of one standby's machine: each kit has a journal of its own, in `epoch-N`, and they follow each other.

A kit is worked by only when everything before it was handed back and it was made afterwards, and no later one was
worked by: nothing that was signed is missing from what a kit tells, and no kit comes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from chancery.errors import OperatorError
from chancery.offline import records
from chancery.offline.journal import FILE, Journal, heads
from chancery.offline.kit import SignedKit

_PREFIX = "epoch-"


def directory_of(directory: Path, kit: SignedKit) -> Path:
    """Return where a kit's journal is: each epoch has one of its own."""
    return directory / f"{_PREFIX}{kit.kit.epoch}"


def adopted(directory: Path, kit: SignedKit) -> bool:
    """
    Return whether a kit of this epoch is worked by here already: then a person compared it, and no other is taken.

    OperatorError for a journal that another process has open, or that is not what was written.
    """
    place = directory_of(directory, kit)
    if not (place / FILE).exists():
        return False
    with Journal(place) as journal:
        return _adopted(journal)


def check_epoch(directory: Path, kit: SignedKit) -> None:
    """
    Refuse a kit that is not the next one here; call it with this kit's own journal open, so locked.

    OperatorError when a later kit was worked by, an earlier one was not handed back, or this one does not name the
    head of what was handed back last. A machine that has handed back nothing has nothing to compare.
    """
    mine, seen = kit.kit.epoch, dict(_begun(directory, kit.kit.epoch))
    newest = max(seen, default=0)
    if newest > mine:
        raise OperatorError(
            f"the kit of epoch {newest} was worked by here, so that of epoch {mine} is not any more",
            "give the newest kit",
        )
    for epoch in sorted(seen):
        if not isinstance(seen[epoch][-1], records.HandedBack):
            raise OperatorError(
                f"epoch {epoch} was not handed back",
                "hand it back by its own kit, have it imported at the primary, and prepare a new kit there",
            )
    # The last line is the hand-back's; what it handed back ends before it.
    if seen and heads(seen[newest])[-2] != kit.kit.previous:
        raise OperatorError(
            f"the kit of epoch {mine} does not follow what was handed back here last, of epoch {newest}",
            "have that imported at the primary, and prepare a new kit there",
        )


def _begun(directory: Path, but: int) -> Iterator[tuple[int, Sequence[records.Record]]]:
    """Give the other epochs whose kit was adopted, with their lines: before that, nothing is signed."""
    for place in directory.glob(f"{_PREFIX}*"):
        number = place.name.removeprefix(_PREFIX)
        if not number.isdecimal() or int(number) == but or not (place / FILE).exists():
            continue
        with Journal(place) as journal:
            if _adopted(journal):
                yield int(number), journal.records


def _adopted(journal: Journal) -> bool:
    return any(isinstance(one, records.KitAdopted) for one in journal.records)
