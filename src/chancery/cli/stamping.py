"""Asking a timestamping authority: requests over HTTP, files read in pieces, answers checked and kept."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import ssl
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from rich.console import Console
from rich.progress import Progress

from chancery.asn1 import tsp
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import Entropy
from chancery.tsa import verification

TRIES = 4
MAX_PAUSE_S = 30.0
STDIN = Path("-")
MAX_CRL = 64 * 1024 * 1024
_CHUNK = 1 << 20
_TIMEOUT_S = 30.0
_BUSY = frozenset({429, 503})


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for: a digest by hashlib's name, a policy OID, whether the token carries its certificates."""

    hash_name: str = "sha256"
    policy: str | None = None
    cert_req: bool = True

    @property
    def oid(self) -> str:
        return tsp.DIGEST_OIDS[self.hash_name]


def connect(
    *,
    key_file: Path | None = None,
    certificate: Path | None = None,
    certificate_key: Path | None = None,
    tls_ca: Path | None = None,
    connections: int = 1,
) -> httpx.Client:
    """
    Return a client for the authority, with an API key or a TLS certificate where they are given (PEM files).

    OperatorError for a file that cannot be used.
    """
    headers = {"User-Agent": "chancery"}
    if key_file is not None:
        try:
            headers["Authorization"] = f"Bearer {key_file.read_text(encoding='ascii').strip()}"
        except (OSError, ValueError) as error:
            raise OperatorError(
                f"{key_file} cannot be read: {error}", "give the file with your API key"
            ) from error
    try:
        context = ssl.create_default_context(cafile=tls_ca)
        if certificate is not None:
            context.load_cert_chain(certificate, certificate_key or certificate)
    except (OSError, ssl.SSLError) as error:
        raise OperatorError(
            f"a TLS file cannot be used: {error}", "give certificate, key and CA in PEM"
        ) from error
    limits = httpx.Limits(max_connections=connections)
    return httpx.Client(timeout=_TIMEOUT_S, verify=context, headers=headers, limits=limits)


def stamp(
    client: httpx.Client,
    url: str,
    wish: Wish,
    digest: bytes,
    *,
    entropy: Entropy,
    anchors: Sequence[bytes] = (),
    pool: Sequence[bytes] = (),
    pause: Callable[[float], None] = time.sleep,
) -> tuple[bytes, verification.Timestamp | None]:
    """
    Ask for one timestamp; return the TimeStampResp (DER) and what its token says, checked against the request.

    None instead when the token carries no certificate, as wished, and none in `pool` (DER) is the signer's.
    A busy authority (HTTP 429, 503) is asked again after the time that it names. Raises PKIError with the
    authority's word when it refuses, or saying what is wrong with its answer, and OperatorError when there is no
    timestamping authority at `url`.
    """
    nonce = int.from_bytes(entropy.draw(8), "big")
    query = tsp.encode_request(wish.oid, digest, req_policy=wish.policy, nonce=nonce, cert_req=wish.cert_req)
    response = _post(client, url, query, pause)
    token = verification.granted_token(response)
    try:
        found = verification.verify(
            token, digests={wish.oid: digest}, anchors=anchors, query=query, certificates=pool
        )
    except PKIError as error:
        if error.type is not ErrorType.ADD_INFO_NOT_AVAILABLE or wish.cert_req:
            raise
        return response, None
    return response, found


def _post(client: httpx.Client, url: str, query: bytes, pause: Callable[[float], None]) -> bytes:
    """Send a request, again while the authority is busy, and return the body of the last answer."""
    for left in reversed(range(TRIES)):
        status, after, body = _ask(client, url, query)
        # A quota that ends tomorrow is not waited for.
        if status not in _BUSY or not left or after > MAX_PAUSE_S:
            break
        pause(after)
    return body


def _ask(client: httpx.Client, url: str, query: bytes) -> tuple[int, float, bytes]:
    """Send a request once; return status, seconds to wait, and the body, read up to its limit."""
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
    after = response.headers.get("retry-after", "1")
    return response.status_code, float(after) if after.isdecimal() else 1.0, bytes(body)


def fetch_crls(path: Sequence[bytes]) -> list[bytes]:
    """
    Fetch the CRLs (DER) that the certificates of a path name, over http.

    OperatorError when one cannot be had; a certificate that names none is passed over.
    """
    urls: dict[str, None] = {}
    for data in path:
        try:
            points = x509.load_der_x509_certificate(data).extensions.get_extension_for_class(
                x509.CRLDistributionPoints
            )
        except x509.ExtensionNotFound:
            continue
        names = [name.value for point in points.value for name in point.full_name or ()]
        urls |= dict.fromkeys(str(one) for one in names if str(one).startswith("http://"))
    with httpx.Client(timeout=_TIMEOUT_S) as client:
        return [_fetch(client, url) for url in urls]


def _fetch(client: httpx.Client, url: str) -> bytes:
    body = bytearray()
    try:
        with client.stream("GET", url) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_CRL:
                    raise PKIError(ErrorType.BAD_DATA_FORMAT, f"{url} gives more than a CRL")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OperatorError(
            f"the CRL at {url} cannot be had: {error}", "fetch it elsewhere, and give it with --crl"
        ) from error
    return bytes(body)


def read_crls(paths: Sequence[Path]) -> list[bytes]:
    """Return the CRLs (DER) of files in PEM or DER. OperatorError for a file that holds none."""
    found = []
    for path in paths:
        data = read_small(path, MAX_CRL)
        try:
            crl = x509.load_pem_x509_crl(data) if data.startswith(b"-----") else x509.load_der_x509_crl(data)
        except ValueError as error:
            raise OperatorError(f"{path} is no CRL", "give a CRL in PEM or DER") from error
        found.append(crl.public_bytes(Encoding.DER))
    return found


def read_certificates(path: Path) -> list[bytes]:
    """Return the certificates (DER) of a PEM file. Raises OperatorError when it holds none."""
    try:
        found = x509.load_pem_x509_certificates(read_small(path, tsp.MAX_RESPONSE))
    except ValueError as error:
        raise OperatorError(
            f"{path} holds no certificates in PEM", "give the file of the CA certificate"
        ) from error
    return [one.public_bytes(Encoding.DER) for one in found]


def progress_bar() -> Progress:
    """A bar on the terminal; where there is none, nothing."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def digests_of(
    file: Path, names: Sequence[str], advance: Callable[[int], None] = lambda _: None
) -> dict[str, bytes]:
    """Read a file (or, for `-`, standard input) once, in pieces, and return its digests by OID."""
    made = {tsp.DIGEST_OIDS[name]: hashlib.new(name) for name in names}
    try:
        if file == STDIN:
            _feed(sys.stdin.buffer, made.values(), advance)
        else:
            with file.open("rb") as source:
                _feed(source, made.values(), advance)
    except OSError as error:
        raise OperatorError(f"{file} cannot be read: {error.strerror}", "give a readable file") from error
    return {oid: digest.digest() for oid, digest in made.items()}


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


def _feed(source: BinaryIO, digests: Collection[_Digest], advance: Callable[[int], None]) -> None:
    while piece := source.read(_CHUNK):
        for digest in digests:
            digest.update(piece)
        advance(len(piece))


def size_of(file: Path) -> int:
    """Return the size of a file in octets, 0 for standard input. OperatorError."""
    if file == STDIN:
        return 0
    try:
        return file.stat().st_size
    except OSError as error:
        raise OperatorError(f"{file} cannot be read: {error.strerror}", "give a readable file") from error


def read_small(path: Path, limit: int) -> bytes:
    """Return the first `limit` octets of a file and one more, which says that it is too large. OperatorError."""
    try:
        with path.open("rb") as source:
            return source.read(limit + 1)
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}", "give a readable file") from error


def write_whole(target: Path, data: bytes) -> None:
    """Write a file whole or not at all; one that stands there is replaced."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        beside.replace(target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OperatorError(f"{target} cannot be written: {error.strerror}", "choose another --out") from error


def serial_text(serial: int) -> str:
    """Return a serial in whole octets, as every command shows it."""
    digits = f"{serial:X}"
    return digits.zfill(len(digits) + len(digits) % 2)


def words(info: tsp.TSTInfo) -> str:
    """Say in one line what a token says."""
    accuracy = f" ± {info.accuracy.total_seconds():g} s" if info.accuracy is not None else ""
    return f"{info.gen_time.isoformat()}{accuracy}, serial {serial_text(info.serial)}, policy {info.policy}"
