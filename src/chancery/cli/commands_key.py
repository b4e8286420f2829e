"""`chancery key`: make a key in a process's token and print a request for its certificate; block a key."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from chancery.asn1.csr import statement_request
from chancery.asn1.signature import KeySigner, PrivateKey, algorithm_for
from chancery.asn1.x509 import subject_fields
from chancery.cli import build
from chancery.cli.api_client import with_client
from chancery.cli.commands_blocked import block, blocked
from chancery.config import load, problems, token_labelled
from chancery.errors import OperatorError
from chancery.offline.media import read_file
from chancery.pkix.kem import MLKEMPublicKey
from chancery.pkix.key import key_of, public_key_of, spki_der
from chancery.pkix.name import canonical_names, general_names, parse_name


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    keys = typer.Typer(help="Keys: make one in a token, block one that was compromised.", no_args_is_help=True)
    keys.command("make")(make)
    keys.command("statement")(statement)
    keys.command("block")(with_client(block))
    keys.command("blocked")(with_client(blocked))
    app.add_typer(keys, name="key")


def make(
    *,
    config: Annotated[Path, typer.Option(help="The configuration of the process whose token it is.")],
    label: Annotated[str, typer.Option(help="The key's label.")],
    kind: Annotated[
        str, typer.Option(help="What to make if there is none: ec-p256, rsa-3072, ed25519, ml-dsa-65 …")
    ] = "ec-p256",
    subject: Annotated[str | None, typer.Option(help="Print a request for this subject (RFC 4514).")] = None,
    name: Annotated[list[str] | None, typer.Option(help="subjectAltName of the request: dns:…, ip:…")] = None,
    token: Annotated[str | None, typer.Option(help="The token's label, where CONFIG has several.")] = None,
) -> None:
    """Find or make a key in the token of CONFIG; print its public key, or with --subject a PKCS#10 request."""
    found = load(config)
    section = token_labelled(found, token)
    if wrong := problems(found):
        raise OperatorError(f"{config}: {'; '.join(wrong)}", f"run chancery check-config {config}")
    opened = build.token(section)
    try:
        labels = {info.label for info in opened.keys()}  # noqa: SIM118 - a token is no mapping
        one: PrivateKey = opened.find_key(label) if label in labels else opened.generate_key(label, kind)
        if subject is None:
            pem = one.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        else:
            pem = request(one, subject, name or []).public_bytes(Encoding.PEM)
    finally:
        opened.close()
    typer.echo(pem.decode("ascii"), nl=False)


def statement(
    *,
    key: Annotated[Path, typer.Option(help="The public key that cannot sign (PEM or DER): ML-KEM.")],
    signer: Annotated[Path, typer.Option(help="Certificate of the same subject's signature key (PEM or DER).")],
    signer_key: Annotated[Path, typer.Option(help="That signature key (PEM, not encrypted).")],
    name: Annotated[list[str] | None, typer.Option(help="subjectAltName to ask for: dns:…, email:…")] = None,
) -> None:
    """Print a request (PEM) for a key that cannot sign: its possession is stated by another key (RFC 9883)."""
    try:
        certificate = x509.load_der_x509_certificate(_der(read_file(signer)))
        private = load_pem_private_key(read_file(signer_key), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise OperatorError(
            f"{signer} or {signer_key} cannot be read: {error}", "give PEM, not encrypted"
        ) from None
    public = public_key_of(read_file(key))
    if not isinstance(public, MLKEMPublicKey) or not isinstance(private, PrivateKey):
        raise OperatorError(
            f"{key} is no ML-KEM key, or {signer_key} does not sign", "a key that signs needs no statement"
        )
    if spki_der(private.public_key()) != spki_der(key_of(certificate)):
        raise OperatorError(f"{signer_key} is not the key of {signer}", "give the two that belong together")
    by = KeySigner(private)
    encoded = certificate.public_bytes(Encoding.DER)
    request = statement_request(
        subject=subject_fields(encoded)[0],
        spki=public.spki(),
        names=canonical_names(name or ()),
        certificate=encoded,
        algorithm=by.algorithm.identifier,
        sign=by.sign,
    )
    typer.echo(x509.load_der_x509_csr(request).public_bytes(Encoding.PEM).decode("ascii"), nl=False)


def _der(data: bytes) -> bytes:
    """Return the DER of a certificate in PEM or DER; ValueError when it is neither."""
    if data.lstrip().startswith(b"-----"):
        return x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
    return data


def request(
    one: PrivateKey, subject: str, names: list[str], again: bytes | None = None
) -> x509.CertificateSigningRequest:
    """
    Return a PKCS#10 request signed by this key, for an RFC 4514 subject and `dns:…`, `ip:…` names.

    `again` is a certificate (DER) of this key whose subject key identifier the new one has to have, too.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(parse_name(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(general_names(names)), critical=False)
    for extension in x509.load_der_x509_certificate(again).extensions if again is not None else ():
        if isinstance(extension.value, x509.SubjectKeyIdentifier):
            builder = builder.add_extension(extension.value, critical=False)
    return builder.sign(one, algorithm_for(one.public_key()).hash)


def host_name(host: str) -> str:
    """Return a host as a general name: `ip:…` for an address, else `dns:…`."""
    try:
        return f"ip:{ipaddress.ip_address(host)}"
    except ValueError:
        return f"dns:{host}"
