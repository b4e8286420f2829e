"""`chancery timestamp` and `chancery verify-timestamp`: proof that a file existed, asked for and checked."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import enum
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import httpx
import typer
from cryptography import x509
from rich.console import Console

from chancery.asn1 import tsp
from chancery.cli.api_client import clean
from chancery.cli.audit import FOUND
from chancery.cli.clock import SystemEntropy
from chancery.cli.show import JSONOption, show_json
from chancery.cli.stamping import (
    STDIN,
    Wish,
    connect,
    digests_of,
    fetch_crls,
    progress_bar,
    read_certificates,
    read_crls,
    read_small,
    serial_text,
    size_of,
    stamp,
    words,
    write_whole,
)
from chancery.errors import OperatorError, PKIError
from chancery.tsa import verification
from chancery.tsa.revocation import Checked, check_revocation

URL = "http://localhost:8081/tsa"
TSR = ".tsr"


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


@dataclasses.dataclass(frozen=True, slots=True)
class _Order:
    """What one run asks for, and where its answers go."""

    client: httpx.Client
    url: str
    wish: Wish
    anchors: Sequence[bytes]
    out: Path | None
    skip: bool

    def target(self, file: Path) -> Path:
        """Return where the response for a file goes."""
        if file == STDIN:
            return (self.out or Path()) / f"stdin{TSR}"
        return (self.out or file.parent) / f"{file.name}{TSR}"


def timestamp(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE…", help="The files to stamp; - is standard input.")
    ] = None,
    *,
    files_from: Annotated[Path | None, typer.Option(help="A file that names more of them, one a line.")] = None,
    url: Annotated[str, typer.Option(help="The timestamping authority.")] = URL,
    hash_: Annotated[Hash, typer.Option("--hash", help="The digest that is stamped.")] = Hash.SHA256,
    policy: Annotated[str | None, typer.Option(help="The TSA policy (OID) to ask for; else its default.")] = None,
    certificates: Annotated[
        bool, typer.Option(help="Have the authority's certificates put into the token, or not.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="A directory for the .tsr files; without it each stands beside its file.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="CA certificates (PEM) that the token must lead to.")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="How many at a time.")] = 4,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave files alone whose .tsr is there and right; to go on.")
    ] = False,
    key_file: Annotated[Path | None, typer.Option(help="A file with your API key.")] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="Your TLS certificate (PEM), to be known by.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM), unless it is in the same file.")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="CA certificates (PEM) of the authority's web server.")
    ] = None,
) -> None:
    """
    Have each FILE timestamped, check the token, and write it to FILE.tsr. Nothing but the digest is sent.

    Of several files, one that fails does not stop the others; the exit code is then 1, --skip-existing goes on.
    """
    every = [*(files or []), *(_listed(files_from) if files_from is not None else [])]
    if not every:
        raise typer.BadParameter("name at least one file")
    if out is not None and not out.is_dir():
        raise OperatorError(f"{out} is not a directory", "make it, or leave --out away")
    anchors = read_certificates(ca) if ca is not None else ()
    wish = Wish(hash_.value, policy, certificates)
    with connect(
        key_file=key_file, certificate=tls_certificate, certificate_key=tls_key, tls_ca=tls_ca, connections=jobs
    ) as client:
        failed = _stamp_all(every, _Order(client, url, wish, anchors, out, skip_existing), jobs)
    if failed:
        raise typer.Exit(1)


def _listed(path: Path) -> list[Path]:
    try:
        text = sys.stdin.read() if path == STDIN else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path} cannot be read: {error}", "give a text file with a name a line") from error
    return [Path(line) for line in text.splitlines() if line]


def _stamp_all(files: Sequence[Path], order: _Order, jobs: int) -> int:
    """Stamp every file, `jobs` at a time, and tell of each in order; return how many failed. A lone one raises."""
    console, failed = Console(soft_wrap=True, highlight=False), 0
    with progress_bar() as progress, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        task = progress.add_task(
            "stamping", total=sum(size_of(file) for file in files if len(files) == 1 or file.exists())
        )

        def advance(octets: int) -> None:
            progress.advance(task, octets)

        try:
            for file, done in _in_order(pool, files, lambda file: _stamp_one(file, order, advance), 4 * jobs):
                try:
                    console.print(done.result(), markup=False)
                except (PKIError, OperatorError) as error:
                    if len(files) == 1:
                        raise
                    failed += 1
                    why = error.detail if isinstance(error, PKIError) else error.what
                    Console(stderr=True, soft_wrap=True, highlight=False).print(f"{file}: {why}", markup=False)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        console.print(f"{len(files) - failed} of {len(files)} files are stamped", markup=False)
    return failed


def _in_order(
    pool: concurrent.futures.Executor, files: Sequence[Path], act: Callable[[Path], str], ahead: int
) -> Iterator[tuple[Path, concurrent.futures.Future[str]]]:
    """Give each file with its future, in order; no more than `ahead` are begun before they are looked at."""
    begun: list[tuple[Path, concurrent.futures.Future[str]]] = []
    for file in files:
        begun.append((file, pool.submit(act, file)))
        if len(begun) >= ahead:
            yield begun.pop(0)
    yield from begun


def _stamp_one(file: Path, order: _Order, advance: Callable[[int], None]) -> str:
    target = order.target(file)
    digest = digests_of(file, [order.wish.hash_name], advance)[order.wish.oid]
    if order.skip and _is_there(target, order.wish, digest):
        return f"{target}: is there and right"
    response, found = stamp(
        order.client,
        order.url,
        order.wish,
        digest,
        entropy=SystemEntropy(),
        anchors=order.anchors,
        pool=order.anchors,
    )
    write_whole(target, response)
    token = verification.granted_token(response)
    return f"{target}: {words(found.info if found is not None else verification.info_of(token))}"


def _is_there(target: Path, wish: Wish, digest: bytes) -> bool:
    """Tell whether a response for this digest is there already."""
    if not target.exists():
        return False
    try:
        info = verification.info_of(verification.granted_token(read_small(target, tsp.MAX_RESPONSE)))
    except PKIError:
        return False
    return (info.hash_oid, info.hashed_message) == (wish.oid, digest)


def verify_timestamp(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE… [TSR]",
            help="Files that were stamped, each checked against FILE.tsr, or the .tsr file named right after it.",
        ),
    ],
    *,
    ca: Annotated[Path, typer.Option(help="CA certificates (PEM) that are trusted.")],
    certificates: Annotated[
        Path | None, typer.Option(help="More certificates (PEM), for a token that carries none.")
    ] = None,
    crl: Annotated[
        list[Path] | None, typer.Option(help="A CRL (PEM or DER) to check against; may be given again.")
    ] = None,
    get_crls: Annotated[
        bool,
        typer.Option("--fetch-crls", help="Fetch the CRLs that the certificates name. Else no network is used."),
    ] = False,
    as_json: JSONOption = False,
) -> None:
    """
    Check that each FILE was timestamped under a certificate that leads to the CA, and that it was valid then.

    With CRLs also that it was not revoked (RFC 3161 4). Exit code 0: all are proved; 3: one is not, and why is
    said; 1: something could not be read.
    """
    anchors = read_certificates(ca)
    pool = read_certificates(certificates) if certificates is not None else []
    crls = read_crls(crl or [])
    shown = []
    for file, tsr in _pairs(files):
        response = read_small(tsr, tsp.MAX_RESPONSE)
        digests = _read(file)
        try:
            token = verification.granted_token(response)
            found = verification.verify(token, digests=digests, anchors=anchors, certificates=pool)
            lists = crls + (fetch_crls(found.path) if get_crls else [])
            revocation = check_revocation(found.path, lists, found.info.gen_time) if crl or get_crls else None
        except PKIError as error:
            shown.append({"file": str(file), "good": False, "what": error.detail})
        else:
            shown.append({"file": str(file), "good": True, **_told(found, revocation)})
        if not as_json:
            _say(shown[-1])
    if as_json:
        show_json(shown)
    if not all(one["good"] for one in shown):
        raise typer.Exit(FOUND)


def _read(file: Path) -> dict[str, bytes]:
    """Return every digest of a file by OID, with a bar while it is read."""
    with progress_bar() as progress:
        task = progress.add_task("reading", total=size_of(file))
        return digests_of(file, list(tsp.DIGEST_OIDS), lambda octets: progress.advance(task, octets))


def _pairs(files: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pair each file with its response: the .tsr that is named right after it, else FILE.tsr."""
    found: list[tuple[Path, Path]] = []
    waiting = list(files)
    while waiting:
        file = waiting.pop(0)
        named = waiting and waiting[0].suffix == TSR
        found.append((file, waiting.pop(0) if named else file.with_name(f"{file.name}{TSR}")))
    return found


def _told(found: verification.Timestamp, revocation: Sequence[Checked] | None) -> dict[str, object]:
    info = found.info
    subjects = [x509.load_der_x509_certificate(one).subject.rfc4514_string() for one in found.path]
    return {
        "time": info.gen_time.isoformat(),
        "accuracy_s": None if info.accuracy is None else info.accuracy.total_seconds(),
        "serial": serial_text(info.serial),
        "policy": info.policy,
        "path": subjects,
        "words": words(info),
        "revocation": None if revocation is None else [one.this_update.isoformat() for one in revocation],
    }


def _say(told: dict[str, object]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    if not told["good"]:
        console.print(f"{told['file']} is NOT proved: {clean(str(told['what']))}", markup=False)
        return
    console.print(f"{told['file']} existed at {told['words']}", markup=False)
    path, revocation = told["path"], told["revocation"]
    assert isinstance(path, list)
    for subject in path:
        console.print(f"    {clean(subject)}", markup=False)
    if isinstance(revocation, list):
        console.print(
            f"not revoked, by CRLs of {', '.join(revocation) or 'nobody: the CA signed it'}", markup=False
        )
    else:
        console.print("revocation of these certificates was not looked up (--crl, --fetch-crls)", markup=False)
