"""Which of a worker's tokens are away, when each is tried again, and which requests wait for it meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from chancery.ca.issuance import Issuing
from chancery.ca.issuer import Issuer
from chancery.ports import Scope

PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the next attempt after one failure, two, …"""
Reach = Callable[[str], bool]
"""
Tells, without waiting, whether the token of this label answers; starts to find out where it is not known.
Never raises.
"""


class TokenWatch:
    """
    The tokens of a worker by label, each with its issuers.

    A token that failed is tried with one request after a pause that grows; `reach`, where given, is asked first,
    and is believed alone where no request waits. Not for several threads.
    """

    def __init__(self, issuing: Issuing, reach: Reach | None) -> None:
        self._reach = reach
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self.change(issuing)

    def change(self, issuing: Issuing) -> None:
        """Take these issuers in place of those of before; what is known of their tokens stays."""
        self._issuing = issuing
        self._token_of = {name: one.record.token_label or "" for name, one in issuing.issuers.items()}
        for label in self._failures.keys() - self._token_of.values():
            self.back(label)

    def groups(self) -> Mapping[str, Mapping[int, Issuer]]:
        """Return the issuers (by issuer_id) of each token."""
        found: dict[str, dict[int, Issuer]] = {label: {} for label in self._token_of.values()}
        for name, issuer in self._issuing.issuers.items():
            found[self._token_of[name]][issuer.record.issuer_id] = issuer
        return found

    @property
    def away(self) -> list[str]:
        """Labels of the tokens that failed and have not signed since."""
        return sorted(self._failures)

    @property
    def all_away(self) -> bool:
        return bool(self._failures) and len(self._failures) == len(set(self._token_of.values()))

    def waits(self, label: str) -> bool:
        """Tell whether nothing is to be asked of this token now. With no other left, the worker itself waits."""
        return (
            label in self._failures
            and not self.all_away
            and self._issuing.clock.monotonic() < self._not_before[label]
        )

    def failed(self, issuers: Iterable[str]) -> list[str]:
        """Note that the tokens of these issuers failed; return the labels of those that had not before."""
        labels = {self._token_of[name] for name in issuers}
        fresh = labels - self._failures.keys()
        for label in labels:
            self.failed_token(label)
        return sorted(fresh)

    def failed_token(self, label: str) -> None:
        """Note that the token of this label failed, perhaps again."""
        failures = self._failures.get(label, 0)
        self._failures[label] = failures + 1
        pause = PAUSES[min(failures, len(PAUSES) - 1)]
        self._not_before[label] = self._issuing.clock.monotonic() + pause

    def back(self, label: str) -> None:
        """Note that this token signs again."""
        del self._failures[label], self._not_before[label]

    def due(self) -> list[str]:
        """
        Return the tokens that failed and are to be tried now.

        One that `reach` says does not answer is not: it has failed once more.
        """
        found = []
        for label in self.away:
            if self.waits(label):
                continue
            if self._reach is None or self._reach(label):
                found.append(label)
            else:
                self.failed_token(label)
        return found

    @property
    def believes(self) -> bool:
        """Whether what `due` returns has been found to answer, not only to have had its pause."""
        return self._reach is not None

    def healthy(self) -> Scope | None:
        """Return which requests need none of the tokens that are away; None: all of them."""
        return self._scope(self._failures.keys(), inside=False) if self._failures else None

    def only(self, label: str) -> Scope | None:
        """Return which requests need the token of this label; None, where it is the only one: all of them."""
        if len(set(self._token_of.values())) == 1:
            return None
        return self._scope([label], inside=True)

    def _scope(self, labels: Iterable[str], *, inside: bool) -> Scope:
        wanted = set(labels)
        issuers = {name for name, label in self._token_of.items() if label in wanted}
        issuing = self._issuing
        profiles = [
            name
            for name, profile in issuing.profiles.items()
            if (profile.default_issuer or issuing.default_issuer) in issuers
        ]
        return Scope(tuple(sorted(issuers)), tuple(sorted(profiles)), inside=inside)
