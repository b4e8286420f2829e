"""
`chancery offline ceremony`: what will be signed is a script; operators confirm it; a transcript says what was.

The machine does not show the fingerprint to those who are to confirm it: each has it from their own copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from chancery.cli import build, layout
from chancery.cli.clock import SystemClock, SystemEntropy
from chancery.cli.offline_settings import offline_machine, root_settings, without_token
from chancery.cli.show import show_pairs
from chancery.config import OfflineConfig, load_checked
from chancery.errors import OperatorError
from chancery.offline import operators
from chancery.offline.bundle import fingerprint, sha256
from chancery.offline.ceremony import OfflineCA
from chancery.offline.conducting import Done, ThrowAwayToken, check, hold, rehearse
from chancery.offline.journal import Journal
from chancery.offline.media import read_file, write_file
from chancery.offline.operators import Confirmation
from chancery.offline.script import Plan, RootAct, load_script, title
from chancery.offline.store import LocalStore
from chancery.offline.transcript import as_pdf, transcript
from chancery.offline.words import same_fingerprint
from chancery.pkcs11.softtoken import generate_software_key

app = typer.Typer(no_args_is_help=True)
Config = Annotated[Path, typer.Option(help="The offline CA's configuration.")]
ScriptFile = Annotated[Path, typer.Argument(metavar="SCRIPT", help="The ceremony's script (TOML).")]
Directory = Annotated[Path, typer.Option(help="The directory to write to.")]
MAX_KEY = 16 * 1024


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="The operator's name, as scripts have it.")],
    out: Annotated[Path, typer.Option(help="The key file to make, on the operator's own medium.")],
) -> None:
    """Make an operator's key, encrypted under a passphrase that is asked; print its public half for a script."""
    if out.exists():
        raise OperatorError(f"{out} exists already", "name another file, or go on with that key")
    passphrase = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True)
    made = operators.make_key(name, passphrase, SystemEntropy())
    layout.write_private(out, made)
    typer.echo(operators.public_key(made)[1].decode(), nl=False)


@app.command(name="check")
def check_command(script: ScriptFile, config: Config) -> None:
    """Look a script through: bundles, fingerprints, subjects, keys, profiles, lints, operators. Needs no token."""
    plan, settings = load_script(script), without_token(config)
    _check(plan, settings)
    _rehearse(plan, settings)
    _show_plan(plan)
    show_pairs([("check", "well; nothing was signed")])


@app.command(name="rehearse")
def rehearse_command(script: ScriptFile, config: Config) -> None:
    """Do all that a script says under keys that are thrown away; the journal stays as it is. Needs no token."""
    plan, settings = load_script(script), without_token(config)
    _check(plan, settings)
    done = _rehearse(plan, settings)
    _show_plan(plan)
    _show_done(done, "would have: ")
    show_pairs([("rehearsed", "with throw-away keys; nothing of it is kept, and nothing real was signed")])


@app.command()
def run(
    script: ScriptFile,
    config: Config,
    out: Directory,
    operator: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE: who confirms, and the file of that operator's key.")
    ] = None,
) -> None:
    """
    Hold a ceremony: operators confirm its fingerprint, all is signed, and a transcript is written.

    Killed anywhere, it goes on when run again, and asks for no confirmation twice.
    """
    plan, settings = load_script(script), load_checked(config, OfflineConfig)
    begun = _check(plan, settings)
    confirmations = [] if begun else _confirmed(plan, settings, operator or [])
    if (again := load_script(script)) != plan:
        what = "the script" if again.data != plan.data else "a bundle"
        raise OperatorError(f"{what} was changed while it was confirmed", "find out by whom, and begin again")
    with _opened(settings, plan) as ca:
        if not begun:
            ca.holding.confirm(plan.data, confirmations)
        done = hold(ca, plan)
        _write(out, done)
    _write_transcript(settings, plan.script.name, out)
    _show_done(done, "")


@app.command(name="transcript")
def transcript_command(
    name: Annotated[str, typer.Argument(help="The ceremony's name.")], config: Config, out: Directory
) -> None:
    """Write the transcript of a ceremony that was held, as text and PDF. Needs no token."""
    _write_transcript(without_token(config), name, out)


def _check(plan: Plan, settings: OfflineConfig) -> bool:
    """Raise OperatorError with all that is wrong; else return whether it is confirmed and has not ended."""
    found = check(
        plan,
        settings.directory,
        root_settings(settings),
        build.profiles(settings.profiles),
        SystemClock().now(),
    )
    if found:
        raise OperatorError(
            f"the script is not right: {'; '.join(found)}", "correct it, or find out who changed it"
        )
    try:
        with LocalStore(Journal(settings.directory)) as store:
            return store.state.open_ceremony(plan.sha256) is not None
    except OperatorError:
        # There is no journal: this ceremony makes it.
        return False


def _rehearse(plan: Plan, settings: OfflineConfig) -> list[Done]:
    token = ThrowAwayToken(generate_software_key)
    return rehearse(plan, settings.directory, offline_machine(settings, token), generate_software_key)


def _confirmed(plan: Plan, settings: OfflineConfig, given: list[str]) -> list[Confirmation]:
    """Ask each operator for the fingerprint and the passphrase of the key that confirms it."""
    now = SystemClock().now()
    if not plan.script.not_before <= now <= plan.script.not_after:
        raise OperatorError(f"the ceremony begins at {plan.script.not_before}, and now is {now}", "wait")
    names = [one.partition("=")[0] for one in given]
    if len(set(names)) != len(names):
        raise OperatorError("the same person is to confirm twice", "name distinct operators")
    _rehearse(plan, settings)
    for act in plan.script.acts:
        typer.echo(f"will be done: {title(act)}")
    confirmations = []
    for one in given:
        name, _, file = one.partition("=")
        unlocked = _asked(plan, name, read_file(Path(file), MAX_KEY))
        confirmations.append(unlocked.confirm(plan.script.ca, plan.sha256, SystemClock().now()))
    return confirmations


def _asked(plan: Plan, name: str, data: bytes) -> operators.OperatorKey:
    said = typer.prompt(f"{name}: the fingerprint, as your own copy has it (words or digits)")
    try:
        same = same_fingerprint(said, plan.data)
    except ValueError as error:
        raise OperatorError(f"the fingerprint of {name}: {error}", "begin again") from None
    if not same:
        raise OperatorError(
            f"{name} has the fingerprint of another script", "find out why before anything is signed"
        )
    unlocked = operators.open_key(data, typer.prompt(f"{name}: passphrase", hide_input=True))
    if unlocked.name != name:
        raise OperatorError(f"the key file is of {unlocked.name}, not of {name}", "give each operator's own file")
    return unlocked


@contextlib.contextmanager
def _opened(settings: OfflineConfig, plan: Plan) -> Iterator[OfflineCA]:
    makes_root = any(isinstance(act, RootAct) for act in plan.script.acts)
    token = build.token(settings.token)
    try:
        machine = offline_machine(settings, token)
        begin = OfflineCA.begin if makes_root else OfflineCA.open
        with begin(settings.directory, machine) as ca:
            yield ca
    finally:
        token.close()


def _write(out: Path, done: list[Done]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for one in done:
        for name, data in one.files.items():
            write_file(out / name, data)


def _write_transcript(settings: OfflineConfig, name: str, out: Path) -> None:
    """Write it as the journal has it when it is read again, which is what anybody else will see."""
    with LocalStore(Journal(settings.directory)) as store:
        text, held = transcript(store, name), store.state.ceremonies.get(name)
    assert held is not None
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / f"{name}.txt", text.encode())
    write_file(out / f"{name}.pdf", as_pdf(text, held))
    show_pairs([("transcript", out / f"{name}.txt"), ("SHA-256", sha256(text.encode()))])


def _show_plan(plan: Plan) -> None:
    script = plan.script
    show_pairs(
        [
            ("ceremony", script.name),
            ("from", script.not_before),
            ("to", script.not_after),
            (
                "operators",
                f"{script.required} at least, {', '.join(script.operators) or 'nobody'} among them",
            ),
            *((f"act {number}", title(act)) for number, act in enumerate(script.acts, 1)),
            ("fingerprint", fingerprint(plan.data)),
            ("in words", plan.words),
        ]
    )


def _show_done(done: list[Done], prefix: str) -> None:
    for one in done:
        show_pairs([(f"{prefix}{one.title}", ""), *((f"  {name}", value) for name, value in one.results)])
    if refused := [what for one in done for what in one.refused]:
        raise OperatorError(f"refused: {'; '.join(refused)}", "read the transcript, and write another script")
