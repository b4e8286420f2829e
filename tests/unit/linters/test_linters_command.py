"""An external program as a second opinion (R9)."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest

from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.linters import CommandLinter

CERTIFICATE = b"\x30\x03\x02\x01\x05"


def script(folder, text: str):
    path = folder / "linter"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(stat.S_IRWXU)
    return str(path)


def test_silence_and_zero_mean_nothing_against_it(tmp_path):
    assert CommandLinter([script(tmp_path, 'test "$(wc -c <"$2")" = 5'), "-x"])(CERTIFICATE) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [("echo too   short; exit 0", "too short"), ("echo bad >&2; exit 2", "bad"), ("exit 7", "exit code 7")],
)
def test_words_or_another_code_are_against_it(tmp_path, text, said):
    program = script(tmp_path, text)
    assert f"{program}: {said}" == CommandLinter([program])(CERTIFICATE)


def test_of_a_program_that_always_prints_faults_tell(tmp_path):
    program = script(tmp_path, 'echo \'{"a":{"result":"pass"},"b":{"result":"error"}}\'')
    assert f'{program}: "result":"error"' == CommandLinter([program], faults='"result":"(error|fatal)"')(
        CERTIFICATE
    )
    assert CommandLinter([program], faults='"result":"fatal"')(CERTIFICATE) is None


def test_what_it_says_is_cut(tmp_path):
    program = script(tmp_path, "yes | head -c 2000")
    assert 300 + len(program) + 2 == len(CommandLinter([program])(CERTIFICATE))


def test_a_program_that_prints_without_end_gave_no_answer(tmp_path):
    program = script(tmp_path, "head -c 2000000 /dev/zero")
    with pytest.raises(PKIError, match="printed more than") as caught:
        CommandLinter([program])(CERTIFICATE)
    assert ErrorType.SYSTEM_UNAVAIL is caught.value.type


def test_a_program_that_is_late_is_ended_with_what_it_started(tmp_path):
    told = tmp_path / "pid"
    program = script(tmp_path, f"sleep 60 & echo $! >{told}; wait")
    with pytest.raises(PKIError, match="did not answer within"):
        CommandLinter([program], seconds=0.5)(CERTIFICATE)
    child = int(told.read_text())
    while _runs(child):
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_gets_neither_environment_nor_input_nor_the_folder_of_the_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("CHANCERY_SECRET", "x")
    program = script(tmp_path, 'test -z "$CHANCERY_SECRET" && test -z "$(cat)" && test "$PWD" != "$OLD"; pwd')
    said = CommandLinter([program])(CERTIFICATE)
    assert "chancery-linter-" in said
    assert not Path(said.partition(": ")[2]).exists()


def test_a_program_that_is_not_there_is_told_at_once():
    with pytest.raises(OperatorError, match="no such program"):
        CommandLinter(["no-such-linter"])
    with pytest.raises(OperatorError, match="names no program"):
        CommandLinter([])
    with pytest.raises(OperatorError, match="no regular expression"):
        CommandLinter(["sh"], faults="(")


def test_a_program_that_vanished_gave_no_answer(tmp_path):
    program = script(tmp_path, "exit 0")
    linter = CommandLinter([program])
    Path(program).unlink()
    with pytest.raises(PKIError, match="cannot be run"):
        linter(CERTIFICATE)
