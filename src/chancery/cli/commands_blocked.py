"""`chancery key block` and `chancery key blocked`: keys reported compromised, from a client's side (R5)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from chancery.cli.api_client import USAGE, Client, fail
from chancery.cli.show import JSONOption, read, show_json, show_pairs, show_rows
from chancery.errors import PKIError
from chancery.pkix.key import public_key_of, spki_der

_PAGE = 500


def block(
    client: Client,
    file: Annotated[
        Path | None, typer.Argument(help="What has the key: certificate, request, public key or private key.")
    ] = None,
    *,
    spki: Annotated[str | None, typer.Option(help="Or SHA-256 of the public key (SPKI), in hexadecimal.")] = None,
    reason: Annotated[str, typer.Option(help="How it is known; kept with the key.")] = "reported compromised",
    revoke: Annotated[bool, typer.Option("--revoke", help="Revoke every good certificate with it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    json: JSONOption = False,
) -> None:
    """Block a key for good, having shown every certificate with it. A private key stays on this machine."""
    if (file is None) == (spki is None):
        raise typer.BadParameter("give either a file or --spki")
    key = hexadecimal(spki) if file is None else key_of(file)
    body: dict[str, Any] = {"spki_sha256": key, "reason": reason, "revoke": revoke}
    found = client.ask("POST", "/blocked-keys", again=True, json={**body, "dry_run": True}).json()
    if not json:
        _show(found)
    if not yes:
        _confirm(found, revoke=revoke)
    done = client.ask("POST", "/blocked-keys", again=True, json=body).json()
    if json:
        show_json(done)
        return
    pairs = [
        ("blocked", key),
        ("since", done["blocked_at"]),
        ("by", done["blocked_by"]),
        ("reason", done["reason"]),
    ]
    if revoke:
        pairs.append(("revoking", str(done.get("revoking", 0))))
    show_pairs(pairs)


def key_of(file: Path) -> str:
    """Return SHA-256 of the SubjectPublicKeyInfo of the key in a file; ends the program when there is none."""
    data = read(file)
    try:
        public = _private(data).public_key() if b"PRIVATE KEY-----" in data else public_key_of(data)
        return hashlib.sha256(spki_der(public)).hexdigest()
    except PKIError as error:
        fail(f"{file}: {error.detail}", "name a certificate, a request or a key in PEM or DER", USAGE)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        fail(f"{file}: a private key that cannot be read", "give its public key instead", USAGE)


def _private(data: bytes) -> Any:
    return load_pem_private_key(data, None)


def hexadecimal(text: str | None) -> str:
    """Return a SHA-256 in hexadecimal as it is compared; typer.BadParameter for anything else."""
    bare = (text or "").replace(":", "").strip().lower()
    if len(bare) != 64 or set(bare) - set("0123456789abcdef"):
        raise typer.BadParameter("--spki is 64 hexadecimal digits")
    return bare


def _show(found: dict[str, Any]) -> None:
    columns = ("serial", "state", "not_after", "profile", "issuer", "subject")
    rows = [[one[column] for column in columns] for one in found.get("certificates", [])]
    if rows:
        show_rows([column.replace("_", " ") for column in columns], rows)
    if found.get("more"):
        show_pairs([("more", f"chancery list --spki {found['spki_sha256']}")])


def _confirm(found: dict[str, Any], *, revoke: bool) -> None:
    certificates = found.get("certificates", [])
    count = f"{'more than ' if found.get('more') else ''}{len(certificates)}"
    what = f"Block the key {found['spki_sha256'][:16]}…"
    if revoke:
        what += " and revoke every good certificate with it"
    try:
        agreed = typer.confirm(f"{count} certificates have it. {what}? It cannot be undone.", err=True)
    except typer.Abort:
        fail("there is nobody to ask", "say --yes", USAGE)
    if not agreed:
        fail("nothing was blocked", "say --revoke to have its certificates revoked as well", USAGE)


def blocked(
    client: Client,
    *,
    spki: Annotated[str | None, typer.Option(help="Only this key (SHA-256 of its SPKI, hexadecimal).")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    json: JSONOption = False,
) -> None:
    """List blocked keys, in the order of their hashes."""
    wanted = None if spki is None else hexadecimal(spki)
    found: list[dict[str, Any]] = []
    after = None
    while len(found) < limit:
        page = client.get("/blocked-keys", key=wanted, after=after, limit=min(_PAGE, limit - len(found)))
        found += page["keys"]
        if (after := page.get("next")) is None:
            break
    if json:
        show_json(found)
        return
    columns = ("spki_sha256", "blocked_at", "blocked_by", "reason")
    show_rows(("key", "blocked at", "by", "reason"), [[one[column] for column in columns] for one in found])
