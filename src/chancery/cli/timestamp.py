"""`chancery timestamp` and `chancery verify-timestamp`: proof that a file existed, asked for and checked."""

from __future__ import annotations

import enum
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import httpx
import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from rich.console import Console
from rich.progress import Progress, TaskID

from chancery.asn1 import tsp
from chancery.cli.api_client import clean
from chancery.cli.clock import SystemEntropy
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import Entropy
from chancery.tsa import verification

URL = "http://localhost:8081/tsa"
_CHUNK = 1 << 20
_TIMEOUT_S = 30.0


class Hash(enum.StrEnum):
    """The digests that can be asked for; R24 leaves SHA-1 out."""

    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"
    SHA3_256 = "sha3_256"
    SHA3_384 = "sha3_384"
    SHA3_512 = "sha3_512"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("timestamp")(timestamp)
    app.command("verify-timestamp")(verify_timestamp)


def timestamp(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="The files to stamp.")],
    *,
    url: Annotated[str, typer.Option(help="The timestamping authority.")] = URL,
    hash_: Annotated[Hash, typer.Option("--hash", help="The digest that is stamped.")] = Hash.SHA256,
    out: Annotated[
        Path | None, typer.Option(help="A directory for the .tsr files; without it each stands beside its file.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="CA certificates (PEM) that the token must lead to.")] = None,
) -> None:
    """Have each FILE timestamped, check the token, and write it to FILE.tsr. Nothing but the digest is sent."""
    console = Console(soft_wrap=True, highlight=False)
    anchors = read_certificates(ca) if ca is not None else ()
    if out is not None and not out.is_dir():
        raise OperatorError(f"{out} is not a directory", "make it, or leave --out away")
    total = sum(_size(file) for file in files)
    with (
        httpx.Client(timeout=_TIMEOUT_S) as client,
        _progress() as progress,
    ):
        task = progress.add_task("stamping", total=total)
        for file in files:
            digests = _digests(file, [hash_.value], progress, task)
            oid = tsp.DIGEST_OIDS[hash_.value]
            response, found = stamp(client, url, oid, digests[oid], entropy=SystemEntropy(), anchors=anchors)
            target = (out or file.parent) / f"{file.name}.tsr"
            _write(target, response)
            console.print(f"{target}: {_words(found.info)}", markup=False)


def verify_timestamp(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file that was stamped.")],
    tsr: Annotated[Path, typer.Argument(metavar="TSR", help="The response that came for it.")],
    *,
    ca: Annotated[Path, typer.Option(help="CA certificates (PEM) that are trusted.")],
    certificates: Annotated[
        Path | None, typer.Option(help="More certificates (PEM), for a token that carries none.")
    ] = None,
) -> None:
    """Check that TSR is a timestamp of FILE, made under a certificate that leads to the CA. No network is used."""
    token = verification.granted_token(_read(tsr))
    with _progress() as progress:
        digests = _digests(file, list(tsp.DIGEST_OIDS), progress, progress.add_task("reading", total=_size(file)))
    found = verification.verify(
        token,
        digests=digests,
        anchors=read_certificates(ca),
        certificates=read_certificates(certificates) if certificates is not None else (),
    )
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{file} existed at {_words(found.info)}", markup=False)
    for certificate in found.path:
        subject = x509.load_der_x509_certificate(certificate).subject.rfc4514_string()
        console.print(f"    {clean(subject)}", markup=False)
    console.print("revocation of these certificates was not looked up", markup=False)


def stamp(
    client: httpx.Client,
    url: str,
    hash_oid: str,
    digest: bytes,
    *,
    entropy: Entropy,
    anchors: Sequence[bytes] = (),
) -> tuple[bytes, verification.Timestamp]:
    """
    Ask for one timestamp and return the TimeStampResp (DER) with what its token says, checked against the request.

    Raises PKIError with the authority's word when it refuses, or saying what is wrong with its answer, and
    OperatorError when there is no timestamping authority at `url`.
    """
    nonce = int.from_bytes(entropy.draw(8), "big")
    query = tsp.encode_request(hash_oid, digest, nonce=nonce)
    response = _post(client, url, query)
    token = verification.granted_token(response)
    return response, verification.verify(token, digests={hash_oid: digest}, anchors=anchors, query=query)


def _post(client: httpx.Client, url: str, query: bytes) -> bytes:
    """Send a request and return the body of the answer, read up to its limit."""
    next_step = "check --url, and `chancery status` where the authority runs"
    headers = {"Content-Type": "application/timestamp-query"}
    body = bytearray()
    try:
        with client.stream("POST", url, content=query, headers=headers) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > tsp.MAX_RESPONSE:
                    raise PKIError(ErrorType.BAD_DATA_FORMAT, f"{url} answers with more than a timestamp")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OperatorError(f"{url} cannot be reached: {error}", next_step) from error
    if response.headers.get("content-type", "").split(";")[0].strip() != "application/timestamp-reply":
        raise OperatorError(
            f"{url} answers {response.status_code}, and not as a timestamping authority", next_step
        )
    return bytes(body)


def read_certificates(path: Path) -> list[bytes]:
    """Return the certificates (DER) of a PEM file. Raises OperatorError when it holds none."""
    try:
        return [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(_read(path))]
    except ValueError as error:
        raise OperatorError(
            f"{path} holds no certificates in PEM", "give the file of the CA certificate"
        ) from error


def _progress() -> Progress:
    """A bar on the terminal; where there is none, nothing."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def _digests(file: Path, names: Sequence[str], progress: Progress, task: TaskID) -> dict[str, bytes]:
    """Read a file once, in pieces, and return its digests by OID."""
    made = {tsp.DIGEST_OIDS[name]: hashlib.new(name) for name in names}
    try:
        with file.open("rb") as source:
            while piece := source.read(_CHUNK):
                for digest in made.values():
                    digest.update(piece)
                progress.advance(task, len(piece))
    except OSError as error:
        raise OperatorError(f"{file} cannot be read: {error.strerror}", "give a readable file") from error
    return {oid: digest.digest() for oid, digest in made.items()}


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise OperatorError(f"{file} cannot be read: {error.strerror}", "give a readable file") from error


def _read(path: Path) -> bytes:
    """Read a small file: at most what a response may be."""
    try:
        with path.open("rb") as source:
            return source.read(tsp.MAX_RESPONSE + 1)
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}", "give a readable file") from error


def _write(target: Path, data: bytes) -> None:
    """Write a file whole or not at all; one that stands there is replaced."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        beside.replace(target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OperatorError(f"{target} cannot be written: {error.strerror}", "choose another --out") from error


def _words(info: tsp.TSTInfo) -> str:
    accuracy = f" ± {info.accuracy.total_seconds():g} s" if info.accuracy is not None else ""
    digits = f"{info.serial:X}"
    # Whole octets, as every other command shows a serial.
    serial = digits.zfill(len(digits) + len(digits) % 2)
    return f"{info.gen_time.isoformat()}{accuracy}, serial {serial}, policy {info.policy}"
