"""Any external linter: a program that is given a certificate in a file."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from chancery.errors import ErrorType, OperatorError, PKIError

MAX_SAID = 300
"""Most characters of a linter's words that are repeated."""
MAX_READ = 1 << 20
"""Octets of a linter's output that are looked at; what goes beyond it is an answer that nobody can judge."""


class CommandLinter:
    """
    Runs a program for each certificate, with the path of a file (DER) as its last word.

    It has nothing against the certificate when it exits with 0 and prints nothing. Of a linter that always prints,
    `faults` (a regular expression over its output) says what it has against one. No shell is involved; the program
    gets an empty environment, no input, and `seconds` of time. Raises OperatorError when there is no such program.
    """

    def __init__(self, words: Sequence[str], *, seconds: float = 30.0, faults: str | None = None) -> None:
        if not words:
            raise OperatorError("a linter's command names no program", "give a command, such as a linter's")
        program = shutil.which(words[0])
        if program is None:
            raise OperatorError(f"{words[0]} cannot be run: no such program", "give the path of a program")
        try:
            self._faults = re.compile(faults) if faults is not None else None
        except re.error as error:
            raise OperatorError(
                f"`faults` of {words[0]} is no regular expression: {error}", "correct it"
            ) from None
        self._words = [program, *words[1:]]
        self._name = words[0]
        self._seconds = seconds

    def __call__(self, certificate: bytes) -> str | None:
        """Return what the linter has against this certificate (DER), or None; see `chancery.linters`."""
        with tempfile.TemporaryDirectory(prefix="chancery-linter-") as directory:
            file = Path(directory) / "certificate.der"
            file.write_bytes(certificate)
            code, said = self._run([*self._words, str(file)], Path(directory))
        if code == 0 and self._faults is not None:
            found = self._faults.search(said)
            return None if found is None else f"{self._name}: {found[0][:MAX_SAID]}"
        said = " ".join(said.split())
        if code == 0 and not said:
            return None
        return f"{self._name}: {said[:MAX_SAID] or f'exit code {code}'}"

    def _run(self, words: list[str], directory: Path) -> tuple[int, str]:
        # Into a file: a linter that prints without end must not fill this process's memory.
        with (directory / "said").open("w+b") as said:
            try:
                process = subprocess.Popen(  # noqa: S603 - the operator's own command, without a shell
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    cwd=directory,
                    env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                    start_new_session=True,
                )
            except OSError as error:
                raise self._silent(f"cannot be run: {error.strerror}") from None
            try:
                code = process.wait(self._seconds)
            except subprocess.TimeoutExpired:
                raise self._silent(f"did not answer within {self._seconds:.0f} s") from None
            finally:
                # Itself when it is late, and whatever it left behind.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            said.seek(0)
            text = said.read(MAX_READ + 1)
        if len(text) > MAX_READ:
            raise self._silent(f"printed more than {MAX_READ} octets")
        return code, text.decode(errors="replace")

    def _silent(self, why: str) -> PKIError:
        return PKIError(ErrorType.SYSTEM_UNAVAIL, f"the linter {self._name} {why}")
