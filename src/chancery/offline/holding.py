"""
R8: what a confirmed ceremony permits, and that nothing else is signed once there are operators or a ceremony.

The journal decides: what may be signed is what the script says that stands there with its confirmations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from chancery.errors import OperatorError
from chancery.offline.operators import Confirmation, enrolled_by
from chancery.offline.script import Act, OperatorsAct
from chancery.offline.store import LocalStore
from chancery.ports import Clock, Event, EventDetail, EventKind


class Holding:
    """The ceremony that is being held at one offline CA, if any. For one process and one thread."""

    def __init__(self, store: LocalStore, clock: Clock, actor: str, name: str) -> None:
        self._store = store
        self._clock = clock
        self._actor = actor
        self._name = name
        self.permitted: tuple[Act, ...] = ()
        """What may be signed; see `enter`."""

    def confirm(self, script: bytes, confirmations: Sequence[Confirmation]) -> None:
        """
        Record that these operators confirmed a script, before anything is signed (R8).

        Raises PKIError(NOT_AUTHORIZED) when they are not enough, or not distinct, or a signature does not verify.
        """
        detail: EventDetail = {
            "operators": [one.operator for one in confirmations],
            "script": hashlib.sha256(script).hexdigest(),
        }
        self._store.confirm_ceremony(script, confirmations, [self.event(EventKind.CEREMONY_CONFIRMED, detail)])

    def enter(self, digest: str) -> None:
        """Take up the confirmed ceremony with this script (SHA-256): what it says may be signed until `leave`."""
        held, now = self._store.state.open_ceremony(digest), self._clock.now()
        if held is None:
            raise OperatorError(
                "no ceremony with this script is confirmed", "hold it: chancery offline ceremony run"
            )
        if not held.script.not_before <= now <= held.script.not_after:
            raise OperatorError(
                f"the ceremony is for {held.script.not_before} to {held.script.not_after}, and now is {now}",
                "set the clock of this machine, or write a new script",
            )
        self.permitted = held.script.acts

    def enrol(self, digest: str, act: OperatorsAct) -> None:
        """Put the operators of an act of the ceremony that is being held in charge. Idempotent."""
        self.permit(lambda one: one == act)
        operators = enrolled_by(act)
        if operators == self._store.state.operators:
            return
        detail: EventDetail = {
            "ceremony": digest,
            "operators": sorted(operators.keys),
            "required": operators.required,
        }
        self._store.enrol_operators(digest, operators, [self.event(EventKind.OPERATOR_ENROLLED, detail)])

    def leave(self, digest: str) -> None:
        """End the ceremony with this script (SHA-256): all that it says was done, and it permits nothing more."""
        event = self.event(EventKind.CEREMONY_ENDED, {"script": digest})
        self._store.end_ceremony(digest, self._clock.now(), [event])
        self.permitted = ()

    def permit(self, wanted: Callable[[Act], bool]) -> None:
        """
        Refuse what the ceremony that is held does not say.

        Without one, everything once there are operators, or a ceremony was confirmed that has not ended: a root
        that it began is finished in it alone.
        """
        state = self._store.state
        if self.permitted:
            if not any(wanted(act) for act in self.permitted):
                raise OperatorError("the ceremony does not say that this is signed", "write a script that says it")
        elif (name := state.unfinished_ceremony()) is not None:
            raise OperatorError(
                f"{self._name} signs in a ceremony only: {name} is confirmed and has not ended (R8)",
                "go on with it: `chancery offline ceremony run SCRIPT`",
            )
        elif state.operators is not None:
            raise OperatorError(
                f"{self._name} signs in a ceremony only: {state.operators.required} of its"
                " operators have to confirm (R8)",
                "write a script, and `chancery offline ceremony run SCRIPT`",
            )

    def event(self, kind: EventKind, detail: EventDetail) -> Event:
        """Return an event of now about this CA."""
        return Event(kind, self._clock.now(), self._actor, f"issuer:{self._name}", detail)
