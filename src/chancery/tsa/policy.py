"""What a timestamping unit promises: under which policies, how exactly, in which order, under which name."""

from __future__ import annotations

import dataclasses
import datetime
import re

from chancery.asn1 import tsp
from chancery.errors import OperatorError

MAX_ACCURACY = datetime.timedelta(seconds=1)
_UNIT = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """
    One TSA policy (RFC 3161 2.4.1, reqPolicy).

    `hashes` are the digests (OIDs) that a message imprint may be made with under it; R24 leaves SHA-1 and MD5 out
    whatever is written here. `qualified`: its tokens say that they are qualified electronic timestamps
    (EN 319 422 9.1).
    """

    oid: str
    hashes: frozenset[str] = frozenset(tsp.IMPRINT_SIZES)
    qualified: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class AuthoritySettings:
    """
    What one timestamping unit promises.

    `policies` are the TSA policies served, the default first. `gen_time_digits` (1 to 6) is how many
    fraction digits genTime keeps; what is cut off counts against `accuracy` (R23: at most one second).
    `instance` (1 to 127) is the second octet of every serial number, another one for each process, and `lane`
    (0 to 255) tells the units of one process apart. With `ordering` the tokens of `unit`, whichever process made
    them, have strictly increasing genTimes, and say so.
    """

    instance: int
    policies: tuple[Policy, ...]
    accuracy: datetime.timedelta = MAX_ACCURACY
    gen_time_digits: int = 3
    include_tsa_name: bool = False
    include_signing_time: bool = False
    unit: str = "tsa"
    lane: int = 0
    ordering: bool = False

    @property
    def resolution(self) -> datetime.timedelta:
        """What genTime leaves off, at most."""
        return datetime.timedelta(microseconds=10 ** (6 - self.gen_time_digits))

    def check(self) -> None:
        """Raise OperatorError unless the promises can be kept."""
        if not 1 <= self.instance <= 127 or not 0 <= self.lane <= 255:
            raise OperatorError(f"instance {self.instance} is not in 1..127", "give each TSA process its own")
        if not _UNIT.fullmatch(self.unit):
            raise OperatorError(
                f"{self.unit!r} is no name of a timestamping unit", "use up to 32 of a-z, 0-9 and the hyphen"
            )
        if not self.policies:
            raise OperatorError("a timestamping unit without a policy", "set its policy OID")
        if len({policy.oid for policy in self.policies}) < len(self.policies):
            raise OperatorError("a policy stands twice", "name each policy once")
        for policy in self.policies:
            if not policy.hashes or not policy.hashes <= tsp.IMPRINT_SIZES.keys():
                raise OperatorError(
                    f"policy {policy.oid} allows no digest, or one that is not SHA-2 or SHA-3",
                    f"choose from {', '.join(tsp.DIGEST_OIDS)} (R24)",
                )
        if not 1 <= self.gen_time_digits <= 6:
            raise OperatorError("genTime takes 1 to 6 fraction digits", "choose a number in between")
        if not self.resolution < self.accuracy <= MAX_ACCURACY:
            raise OperatorError(
                f"an accuracy of {self.accuracy} is not between genTime's resolution {self.resolution} and 1 s",
                "declare an accuracy of at most 1 s (R23) that is larger than the resolution",
            )
