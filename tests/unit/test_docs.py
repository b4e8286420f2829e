"""Documentation that can be wrong is tested: commands, configuration keys, errors, examples, make targets."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import shlex
import tomllib
from pathlib import Path

import click
import msgspec
import pytest
import typer

from chancery import config
from chancery.cli import main
from chancery.errors import ErrorType
from chancery.ports import Role
from chancery.ra.requestor import PERMISSIONS, Operation
from chancery.web import failures

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
README = (ROOT / "README.md").read_text()
PROCESSES = [
    config.WorkerConfig,
    config.CAConfig,
    config.OCSPConfig,
    config.TSAConfig,
    config.ForeignConfig,
    config.AuditorConfig,
    config.OfflineConfig,
    config.OwnerConfig,
]


@functools.cache
def program() -> click.Command:
    """The whole command line, made once: every module of it is imported."""
    return typer.main.get_command(main.command_line(None))


def command(words: list[str]):
    """The click command that these words name, or None."""
    found = program()
    for word in words:
        if not hasattr(found, "commands"):
            break
        if word not in found.commands:
            return None
        found = found.commands[word]
    return found


def spoken_commands() -> list[str]:
    texts = [README, *(path.read_text() for path in (ROOT / "docs").rglob("*.md"))]
    blocks = [block for text in texts for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)]
    lines = [line for block in blocks for line in block.splitlines()]
    inline = [span for text in texts for span in re.findall(r"`(chancery [^`]+)`", text)]
    return [line.strip() for line in lines if line.strip().startswith("chancery ")] + inline


@pytest.mark.parametrize("line", sorted(set(spoken_commands())))
def test_every_command_that_is_written_down_exists_with_its_options(line):
    words = shlex.split(line.split("$(")[0].split("|")[0].rstrip("… "), comments=True)[1:]
    found = command([word for word in words if not word.startswith("-")])
    assert found is not None, line
    parameters = getattr(found, "params", [])
    known = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.split("=")[0] for word in words if word.startswith("--")} - known <= {"--help"}, line


def _keys(struct, prefix: str = "") -> list[str]:
    found: list[str] = []
    for field in msgspec.structs.fields(struct):
        found.append(prefix + field.encode_name)
        for inner in getattr(field.type, "__args__", (field.type,)):
            for one in (inner, *getattr(inner, "__args__", ())):
                if isinstance(one, type) and issubclass(one, msgspec.Struct):
                    found += _keys(one, f"{prefix}{field.encode_name}.")
    return found


@pytest.mark.parametrize("process", PROCESSES, ids=lambda one: one.__name__)
def test_every_configuration_key_is_explained(process):
    missing = [key for key in _keys(process) if f"`{key.rsplit('.', 1)[-1]}`" not in OPERATIONS]
    assert [] == missing


@pytest.mark.parametrize("type_", ErrorType)
def test_every_error_is_explained_with_the_word_of_each_protocol(type_):
    row = next(line for line in OPERATIONS.splitlines() if line.startswith(f"| `{type_.value}` |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert [str(failures.REST[type_][0]), failures.OCSP[type_], failures.TSP[type_]] == cells[1:4]


@pytest.mark.parametrize("operation", Operation)
def test_what_each_role_may_is_written_as_it_is_checked(operation):
    reach = PERMISSIONS[operation]
    cells = " | ".join(reach[role].value if role in reach else "" for role in Role)
    assert f"| {operation.value} | {cells} |".replace("|  |", "| |").replace("|  |", "| |") in OPERATIONS


def test_the_layers_are_written_as_they_are_enforced():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one["type"] == "layers")
    written = re.search(r"^cli  >.*$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert written is not None
    enforced = "  >  ".join(layers).replace("chancery.", "").replace(" | ", ", ")
    assert enforced == written[0]


def test_every_check_that_a_house_rule_names_exists():
    for path in re.findall(r"`(tests/[\w/.]+)`", (ROOT / "CONTRIBUTING.md").read_text()):
        assert (ROOT / path).exists(), path


def test_every_make_target_is_in_the_help_and_the_readme_s_two_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert {"up", "down", "status", "test", "check", "bench"} <= targets
    assert {"make up", "make test"} <= set(re.findall(r"make \w+", README))
    for target in ("up", "down", "status", "test", "check", "bench"):
        assert f"make {target}" in makefile


def test_links_lead_somewhere():
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path}: {target}"


def test_the_program_has_help_for_every_command():
    def walk(one: click.Command, name: str) -> None:
        assert one.help or getattr(one, "callback", None) is None, name
        for word, inner in getattr(one, "commands", {}).items():
            walk(inner, f"{name} {word}")

    walk(program(), "chancery")


def test_the_version_is_the_package_s(capsys):
    with pytest.raises(SystemExit) as ended:
        main.command_line("--version")(["--version"])
    assert 0 == ended.value.code
    assert importlib.metadata.version("chancery") == capsys.readouterr().out.strip()
