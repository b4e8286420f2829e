"""The worker's tokens: opened at the start, or, of several, when one that was away then can be reached."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import structlog

from chancery.asn1.signature import PublicKey, SignatureAlgorithm, Signer, algorithm_for
from chancery.cli import build
from chancery.config import TokenSection
from chancery.errors import ErrorType, HarmfulToRepeatError, OperatorError, PKIError
from chancery.pkcs11 import Token
from chancery.pkcs11.softtoken import SoftToken

log = structlog.get_logger()
Open = Callable[[TokenSection], Token | SoftToken]


class LateSigner:
    """A `Signer` of a key whose token may not be open yet: until then it raises PKIError(SYSTEM_UNAVAIL)."""

    def __init__(self, public_key: PublicKey, signature: str | None) -> None:
        self.public_key = public_key
        self.algorithm: SignatureAlgorithm = algorithm_for(public_key, signature)
        self.found: Signer | None = None

    def sign(self, data: bytes) -> bytes:
        """Sign as `Signer.sign`."""
        if self.found is None:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token is away")
        return self.found.sign(data)

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign as `Signer.sign_digest`."""
        if self.found is None:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token is away")
        return self.found.sign_digest(digest)


class WorkerTokens:
    """
    Tokens by label. With one, a token that cannot be opened is an OperatorError at the start; of several, it is
    reported, and opened by the first `reach` that finds it there.

    A refused PIN is an OperatorError at the start all the same, and is never tried again.
    """

    def __init__(self, sections: Mapping[str, TokenSection], opener: Open = build.token) -> None:
        self._sections = sections
        self._open = opener
        self._tokens: dict[str, Token | SoftToken] = {}
        self._keys: dict[str, dict[str, LateSigner | None]] = {label: {} for label in sections}
        self._refused: set[str] = set()
        self._answers: dict[str, bool | None] = {}
        self._lock = threading.Lock()
        for label, section in sections.items():
            try:
                self._tokens[label] = opener(section)
            except HarmfulToRepeatError:
                self.close()
                raise
            except OperatorError as error:
                if len(sections) == 1:
                    raise
                log.warning("token away", token=label, error=error.what, next=error.next_step)

    def signer(self, label: str, key_label: str, public_key: PublicKey, signature: str | None = None) -> Signer:
        """Return the signer of a key, `public_key` as in its issuer's certificate; OperatorError as `build`."""
        if (token := self._tokens.get(label)) is not None:
            self._keys[label].setdefault(key_label, None)
            return build.signer(token, key_label, signature)
        late = LateSigner(public_key, signature)
        self._keys[label][key_label] = late
        return late

    def opened(self, label: str) -> Token | SoftToken:
        """Return the token of this label; OperatorError while it is away."""
        if (token := self._tokens.get(label)) is None:
            raise OperatorError(
                f"the token `{label}` is away", "see with `chancery hsm check` what is wrong with it"
            )
        return token

    def reach(self, label: str) -> bool:
        """
        Tell whether the token answered when it was last asked, once for each answer; see `ca.tokens.Reach`.

        Asking takes seconds where a token hangs, so that a thread of its own does it.
        """
        with self._lock:
            answer = self._answers.pop(label, False)
            if answer:
                return True
            if answer is None:  # under way
                self._answers[label] = None
                return False
            self._answers[label] = None
        threading.Thread(target=self._ask, args=(label,), name=f"reach {label}", daemon=True).start()
        return False

    def _ask(self, label: str) -> None:
        try:
            if label in self._refused:
                return
            token = self._tokens.get(label) or self._open(self._sections[label])
            self._tokens[label] = token
            for key_label, late in list(self._keys[label].items()):
                _find(token, key_label, late)
        except HarmfulToRepeatError as error:
            self._refused.add(label)
            log.warning("token refused", token=label, error=error.what, next=error.next_step)
        except (OperatorError, PKIError) as error:
            log.info("token still away", token=label, error=str(error))
        else:
            with self._lock:
                self._answers[label] = True
        finally:
            with self._lock:
                if self._answers.get(label) is None:
                    self._answers.pop(label, None)

    def close(self) -> None:
        """Close every token that is open."""
        for token in self._tokens.values():
            token.close()


def _find(token: Token | SoftToken, key_label: str, late: LateSigner | None) -> None:
    """Find the key again, and hand it to a signer that waits for it; OperatorError for another key."""
    found = build.signer(token, key_label, None if late is None else late.algorithm.name)
    if late is None or late.found is not None:
        return
    if found.public_key != late.public_key:
        raise OperatorError(
            f"the key labelled `{key_label}` is not the one of its issuer's certificate",
            "give the worker the token that the issuer was made with",
        )
    late.found = found
