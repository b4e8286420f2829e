"""
The same as `issuance_rest_p256`, with an issuer whose RSA-2048 key is in SoftHSM2: there the token is the limit.

The limit is what the key signs by itself with four callers, which is as fast as this machine makes RSA signatures.
"""

from __future__ import annotations

from bench import common
from bench.issuance import Rounds, run_rounds


def result(found: Rounds) -> str:
    """Return the last line."""
    return common.result(
        "issuance-rest-rsa2048",
        found.best["rate"],
        "certificates/s",
        found.token,
        "RSA-2048 signatures/s of the same key in the same token, the suite idle",
        durable=True,
        **found.more(),
    )


if __name__ == "__main__":
    print(result(run_rounds(issuing_key="rsa-2048")))
