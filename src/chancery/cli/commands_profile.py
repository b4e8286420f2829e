"""`chancery profile`: profiles in files and at a CA: check, show, compare, copy, list, switch off and on."""

from __future__ import annotations

import re
import urllib.parse
from pathlib import Path
from typing import Annotated

import typer

from chancery.cli.api_client import USAGE, Client, Connect, fail, with_client, with_connection
from chancery.cli.show import JSONOption, read, show_json, show_pairs, show_rows, write
from chancery.errors import OperatorError
from chancery.pkix.describe import describe, differences, requestable
from chancery.pkix.granting import Profile
from chancery.pkix.profile import parse_profile

Which = Annotated[
    str, typer.Argument(help="A file (*.toml), or a profile's name at the CA, with @VERSION for a recorded one.")
]
NameArgument = Annotated[str, typer.Argument(help="The profile's name.")]
ReasonOption = Annotated[str, typer.Option(help="Why; kept in the journal and told to requestors.")]
_NAME_LINE = re.compile(r'(?m)^name\s*=\s*("[^"\n]*"|\'[^\'\n]*\')')
_VERSION_LINE = re.compile(r"(?m)^version\s*=\s*\d+")


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    profile = typer.Typer(help="Certificate profiles.", no_args_is_help=True)
    profile.command("list")(with_client(list_profiles))
    profile.command("show")(with_connection(show))
    profile.command("lint")(lint)
    profile.command("diff")(with_connection(diff))
    profile.command("clone")(with_connection(clone))
    profile.command("deactivate")(with_client(deactivate))
    profile.command("activate")(with_client(activate))
    app.add_typer(profile, name="profile")


def _place(name: str) -> str:
    return f"/profiles/{urllib.parse.quote(name, safe='')}"


def _is_file(which: str) -> bool:
    return which.endswith(".toml") or "/" in which


def _parse(path: Path) -> Profile:
    try:
        return parse_profile(read(path).decode())
    except UnicodeDecodeError:
        raise OperatorError(f"{path} is not a text in UTF-8", "name a profile's TOML file") from None
    except OperatorError as error:
        raise OperatorError(f"{path}: {error.what}", error.next_step) from None


def _source(connect: Connect, which: str) -> str:
    """Text of a profile in a file or at the CA."""
    if _is_file(which):
        return _parse(Path(which)).source
    name, _, version = which.partition("@")
    if version and not version.isdecimal():
        raise typer.BadParameter(f"{which!r}: after the @ stands a version, a number")
    with connect() as client:
        found = client.get(_place(name), version=int(version) if version else None)
    return str(found["source"])


def list_profiles(client: Client, *, json: JSONOption = False) -> None:
    """List profiles: those you may request, and those of ceremonies."""
    found = client.get("/profiles")["profiles"]
    if json:
        show_json(found)
        return
    rows = [(one["name"], one["version"], _where(one), one["description"]) for one in found]
    show_rows(("name", "version", "where", "description"), rows)


def _where(one: dict[str, object]) -> str:
    return "deactivated" if not one.get("active", True) else "" if one["online"] else "ceremony"


def show(
    connect: Connect,
    profile: Which,
    *,
    source: Annotated[bool, typer.Option("--source", help="Print its TOML text alone.")] = False,
    json: JSONOption = False,
) -> None:
    """Show a profile in words: what its certificates hold, and what a requestor may say."""
    found: dict[str, object] = {}
    if not _is_file(profile) and "@" not in profile:
        with connect() as client:
            found = client.get(_place(profile))
    text = str(found.get("source") or _source(connect, profile))
    if json and found:
        show_json(found)
        return
    if source:
        write(None, text.encode())
        return
    parsed = parse_profile(text)
    pairs = describe(parsed)
    if json:
        show_json({"profile": dict(pairs), "requestor": dict(requestable(parsed)), "source": text})
        return
    if isinstance(versions := found.get("versions"), list):
        pairs.append(("recorded versions", ", ".join(str(one["version"]) for one in versions)))
    switched = found.get("switched")
    if isinstance(switched, dict):
        state = "active again" if found.get("active", True) else "DEACTIVATED"
        pairs.insert(
            0, ("state", f"{state} since {switched['at']} by {switched['operator']}: {switched['reason']}")
        )
    show_pairs(pairs)
    write(None, b"\nA requestor may say\n")
    show_pairs([(f"  {what}", words) for what, words in requestable(parsed)])


def lint(
    files: Annotated[list[Path], typer.Argument(help="Profiles (*.toml).")],
    *,
    json: JSONOption = False,
) -> None:
    """Check profiles: strict, and able to yield certificates that pass the lints, for each kind of key."""
    rows, wrong = [], 0
    for path in files:
        try:
            profile = _parse(path)
            rows.append((str(path), profile.name, str(profile.version), "good"))
        except OperatorError as error:
            wrong += 1
            rows.append((str(path), "-", "-", f"{error.what}; {error.next_step}"))
    if json:
        show_json([dict(zip(("file", "name", "version", "result"), row, strict=True)) for row in rows])
    else:
        show_rows(("file", "name", "version", "result"), rows)
    if wrong:
        raise typer.Exit(1)


def diff(connect: Connect, old: Which, new: Which, *, json: JSONOption = False) -> None:
    """Compare two profiles by what they mean; comments, order and defaults that are written out do not count."""
    found = differences(parse_profile(_source(connect, old)), parse_profile(_source(connect, new)))
    if json:
        show_json([{"key": key, "old": before, "new": after} for key, before, after in found])
    elif found:
        show_rows(("key", "old", "new"), found)
    else:
        show_pairs([("difference", "none")])


def clone(
    connect: Connect,
    profile: Which,
    name: Annotated[str, typer.Argument(help="The name of the copy.")],
    *,
    out: Annotated[Path | None, typer.Option(help="Where to write it; NAME.toml if not given.")] = None,
) -> None:
    """Copy a profile under a new name, as version 1, its comments kept."""
    text = _source(connect, profile)
    text = _NAME_LINE.sub(f'name = "{name}"', text, count=1)
    text = _VERSION_LINE.sub("version = 1", text, count=1)
    copy = parse_profile(text)
    if (copy.name, copy.version) != (name, 1):
        fail("the text has its name or version in an unusual place", "copy it by hand and correct both")
    path = out or Path(f"{name}.toml")
    if path.exists():
        fail(f"{path} exists already", "name another file with --out", USAGE)
    write(path, text.encode())
    show_pairs([("written to", str(path)), ("name", copy.name), ("version", "1")])


def deactivate(
    client: Client,
    name: NameArgument,
    *,
    reason: ReasonOption,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    json: JSONOption = False,
) -> None:
    """Deactivate a profile: nothing more is issued under it. What was issued stays as it is."""
    if not yes:
        try:
            agreed = typer.confirm(f"Deactivate the profile {name}? Every request under it is refused.", err=True)
        except typer.Abort:
            fail("there is nobody to ask", "say --yes", USAGE)
        if not agreed:
            fail("nothing was changed", "look at it with `chancery profile show`", USAGE)
    _switch(client, name, "deactivation", reason, json=json)


def activate(client: Client, name: NameArgument, *, reason: ReasonOption, json: JSONOption = False) -> None:
    """Activate a deactivated profile again."""
    _switch(client, name, "activation", reason, json=json)


def _switch(client: Client, name: str, act: str, reason: str, *, json: bool) -> None:
    done = client.ask("POST", f"{_place(name)}/{act}", json={"reason": reason}).json()
    if json:
        show_json(done)
    else:
        state = "active" if done.get("active") else "deactivated"
        show_pairs([("profile", name), ("state", state), ("since", done["at"]), ("by", done["operator"])])
