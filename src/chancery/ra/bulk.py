"""Many requests of one operator at once: the checks of `enrolment.enrol` for each, one transaction for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from chancery.errors import PKIError
from chancery.ports import Operator, RequestOutcome, Submission
from chancery.ra.enrolment import (
    FINAL,
    NO_REFUSAL,
    Application,
    RegistrationAuthority,
    check,
    check_active,
    refused_at_gate,
)

_CHECKS_AT_ONCE = 4
"""Some 150 microseconds each; then whatever else waits for the event loop has its turn."""
Settled = tuple[int, RequestOutcome | PKIError]
"""A position among what was asked, and how it ended: as `enrol` returns or raises it."""


async def check_many(
    ra: RegistrationAuthority, operator: Operator, applications: Sequence[Application]
) -> list[Submission | PKIError]:
    """
    Put each application to the gate: what is to be stored of it, or why it is refused, in their order.

    Raises PKIError(SYSTEM_UNAVAIL) when it cannot be known which profiles are active.
    """
    switches = await ra.directory.profile_switches()
    found: list[Submission | PKIError] = []
    for position, application in enumerate(applications):
        if position % _CHECKS_AT_ONCE == 0:
            await asyncio.sleep(0)
        try:
            submission = check(ra, operator, application)
            check_active(switches, application.profile)
            found.append(submission)
        except PKIError as error:
            found.append(error)
    return found


async def settle_many(
    ra: RegistrationAuthority,
    operator: Operator,
    protocol: str,
    checked: Sequence[Submission | PKIError],
    wait_seconds: float,
) -> AsyncIterator[list[Settled]]:
    """
    Store what `check_many` lets through, in one transaction, and give how each ended, some at a time.

    In the end each position was given once: after `wait_seconds` those that are not settled, as they stand.
    Refusals at the gate are journalled. Raises PKIError(SYSTEM_UNAVAIL) when the rest cannot be known.
    """
    fit = [(position, one) for position, one in enumerate(checked) if isinstance(one, Submission)]
    settled: list[Settled] = [(position, one) for position, one in enumerate(checked) if isinstance(one, PKIError)]
    waiting: dict[int, list[int]] = {}
    results = await ra.queue.submit_many([one for _, one in fit]) if fit else []
    for (position, _), result in zip(fit, results, strict=True):
        if isinstance(result, PKIError) or result.state in FINAL or wait_seconds <= 0:
            settled.append((position, result))
        else:
            # The same twice is one request.
            waiting.setdefault(result.request_id, []).append(position)
    refused = [one for _, one in settled if isinstance(one, PKIError) and one.type not in NO_REFUSAL]
    if refused:
        await ra.directory.record([refused_at_gate(ra, operator, protocol, one) for one in refused])
    if settled:
        yield settled
    if waiting:
        async for outcomes in ra.queue.settled(waiting, wait_seconds):
            yield [(position, outcome) for outcome in outcomes for position in waiting[outcome.request_id]]
