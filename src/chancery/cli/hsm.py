"""`chancery hsm check`: what is wrong with a token, and what to do about it."""

from __future__ import annotations

import secrets  # noqa: TID251 - PINs are made here, in the composition root
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from chancery.cli import build, layout
from chancery.config import TokenSection, TSAConfig, WorkerConfig, load, token_labelled, token_sections
from chancery.errors import OperatorError
from chancery.pkcs11.check import HSMReport, check_token
from chancery.pkcs11.softhsm import find_softhsm_module, prepare_softhsm

app = typer.Typer(help="Hardware security modules and other PKCS#11 tokens.", no_args_is_help=True)


@app.callback()
def hsm() -> None:
    """Hardware security modules and other PKCS#11 tokens."""


@app.command()
def check(
    *,
    config: Annotated[
        Path | None, typer.Option(help="Configuration of a process: its token, and the keys it names.")
    ] = None,
    module: Annotated[Path | None, typer.Option(help="The PKCS#11 library, where no --config is given.")] = None,
    label: Annotated[str | None, typer.Option(help="The token's label; with --config, which of several.")] = None,
    pin_file: Annotated[Path | None, typer.Option(help="File with the PIN; without it you are asked.")] = None,
    softhsm_conf: Annotated[Path | None, typer.Option(help="SoftHSM's configuration file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """
    Check library, slot, token, PIN, mechanisms and keys, and let each key sign once. Changes nothing.

    Of a configuration with several tokens, each that --label does not leave out; as JSON, one line for each.

    The PIN is tried once, and not at all when one mistake more would lock the token. Exits with 1 on a problem.
    """
    tokens = _tokens(config, module, label, pin_file, softhsm_conf)
    # R25: a timestamping key may be gone when another has followed it.
    numbered = config is not None and isinstance(load(config), TSAConfig)
    reports = [
        check_token(build.token_settings(section), expected, numbered=numbered) for section, expected in tokens
    ]
    for report in reports:
        if json:
            typer.echo(msgspec.json.encode({"ok": report.ok, **msgspec.to_builtins(report)}))
        else:
            show(report, Console(soft_wrap=True, highlight=False))
    if not all(report.ok for report in reports):
        raise typer.Exit(1)


def _tokens(
    config: Path | None, module: Path | None, label: str | None, pin_file: Path | None, softhsm_conf: Path | None
) -> list[tuple[TokenSection, list[str]]]:
    """Return the tokens to check, each with the key labels that must be in it."""
    if config is None:
        if module is None or label is None:
            raise OperatorError("it is not said which token to check", "give --config, or --module and --label")
        section = TokenSection(
            module=module, label=label, pin_file=pin_file, pin_prompt=pin_file is None, softhsm_conf=softhsm_conf
        )
        return [(section, [])]
    if any(option is not None for option in (module, pin_file, softhsm_conf)):
        raise OperatorError("--config already says which token", "give --config, and --label at most")
    process = load(config)
    if not token_sections(process):
        raise OperatorError(f"{config} configures a process without a token", "give that of worker, ocsp or tsa")
    chosen = token_sections(process) if label is None else [token_labelled(process, label)]
    # Which of several tokens has a key is said in `journal.token`; the issuers' keys are named in the database.
    home = process.journal_token() if isinstance(process, WorkerConfig) else chosen[0].label
    return [(one, key_labels(process) if one.label == home else []) for one in chosen]


def key_labels(config: Any) -> list[str]:
    """Return every `key_label` in a configuration, whichever table it stands in."""
    found: list[str] = []
    if isinstance(config, msgspec.Struct):
        for name in config.__struct_fields__:
            value = getattr(config, name)
            found += [value] if name == "key_label" and isinstance(value, str) else key_labels(value)
    elif isinstance(config, list | tuple):
        for value in config:
            found += key_labels(value)
    return list(dict.fromkeys(found))


def show(report: HSMReport, console: Console) -> None:
    """Print a report for people."""
    if (library := report.library) is not None:
        console.print(f"library   {library.path}: {library.manufacturer} {library.description} {library.version}")
    if report.slot is not None:
        console.print(f"slot      {report.slot} (model {report.model}, serial {report.serial})")
    console.print(f"token     {report.label}", markup=False)
    console.print(f"PIN       {report.pin_state}; {'logged in' if report.logged_in else 'not logged in'}")
    if report.slot is not None:
        console.print(f"signs     {', '.join(report.signs) or 'nothing'}")
        console.print(f"generates {', '.join(report.generates) or 'nothing'}")
        console.print(f"offers    {' '.join(report.mechanisms)}")
    if report.logged_in:
        console.print(_keys(report) if report.keys else "keys      none")
    for problem in report.problems:
        console.print(f"WRONG     {problem.what}", markup=False, style="bold red")
        console.print(f"  next:   {problem.next_step}", markup=False)
    if report.ok:
        console.print("The token is in order.", style="green")


def _keys(report: HSMReport) -> Table:
    table = Table("key", "kind", "can leave the token", "signed and verified", box=None, pad_edge=False)
    for key in report.keys:
        table.add_row(key.label, key.kind, "yes" if key.extractable else "no", ", ".join(key.signs) or "nothing")
    return table


@app.command()
def prepare(
    *,
    directory: Annotated[Path, typer.Option(help="Where token and softhsm2.conf will be.", file_okay=False)],
    label: Annotated[str, typer.Option(help="The token's label.")],
    pin_file: Annotated[Path, typer.Option(help="File of the user PIN; made if it is missing.", dir_okay=False)],
    so_pin_file: Annotated[
        Path, typer.Option(help="File of the security officer's PIN; made if it is missing.", dir_okay=False)
    ],
    module: Annotated[Path | None, typer.Option(help="SoftHSM2's library, where it is not found.")] = None,
) -> None:
    """Make a SoftHSM2 token, as the account that will use it; run again, it checks label and PIN."""
    library = str(module) if module else find_softhsm_module()
    if library is None:
        raise OperatorError("SoftHSM2 is not installed", "install the package softhsm2, or say --module")
    for path in (pin_file, so_pin_file):
        if not path.exists():
            layout.write_private(path, secrets.token_hex(24).encode() + b"\n")
    pins = [build.read_secret(path, "PIN", "give another file") for path in (so_pin_file, pin_file)]
    conf = prepare_softhsm(directory, label, *pins, library=library)
    typer.echo(f"token `{label}` is in {directory}; SOFTHSM2_CONF={conf}")
