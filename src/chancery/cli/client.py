"""The client side: where the CA is, the mutual TLS connection to it, and how its answers are shown."""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import msgspec
import typer
from rich.console import Console
from rich.table import Table

from chancery.config import Section, decode
from chancery.errors import OperatorError

PROBLEM, UNREACHABLE = 1, 3
ANSWER_SECONDS = 75.0
POLL_SECONDS = 0.2
ClientConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--client-config",
        help="Where the CA is, and the certificate to ask with. Default: $CHANCERY_CLIENT, ./var/client.toml,"
        " ~/.config/chancery/client.toml.",
    ),
]
JSONOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
IssuerOption = Annotated[str | None, typer.Option(help="The issuer's name.")]
URL = Annotated[str, msgspec.Meta(pattern=r"^https://[^\s/]+/?$")]


class ClientConfig(Section, frozen=True, kw_only=True):
    """`client.toml`: the CA's address, and PEM files; a relative path starts at the file's own directory."""

    url: URL
    ca_file: str
    certificate: str
    key: str


def find_config(given: Path | None) -> Path:
    """Return the client configuration that applies; OperatorError when there is none."""
    if given is not None:
        return given
    if named := os.environ.get("CHANCERY_CLIENT"):
        return Path(named)
    places = [Path("var/client.toml"), Path.home() / ".config" / "chancery" / "client.toml"]
    for place in places:
        if place.is_file():
            return place
    raise OperatorError(
        f"no client configuration: neither {places[0]} nor {places[1]} exists",
        "name one with --client-config or CHANCERY_CLIENT; `chancery up` writes one into its state directory",
    )


class Client:
    """A connection to the management interface. Every method ends the program with a clear line on failure."""

    def __init__(self, config: ClientConfig, base: Path) -> None:
        self._url = config.url
        self._http = httpx.Client(
            base_url=config.url.rstrip("/") + "/api/v1",
            verify=_context(config, base),
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=10.0),
            trust_env=False,
            headers={"user-agent": "chancery"},
        )

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return a successful answer; a problem ends the program with code 1, no answer with code 3."""
        try:
            answer = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            fail(f"{self._url} cannot be reached: {_why(error)}", _next_step(error), UNREACHABLE)
        if not answer.is_success:
            _fail_with_problem(answer)
        return answer

    def get(self, path: str, **parameters: str | int | None) -> Any:
        """Return the JSON of a GET; parameters that are None are left out."""
        given = {key: value for key, value in parameters.items() if value is not None}
        return self.ask("GET", path, params=given).json()

    def wait(self, look: Callable[[], Any], seconds: float) -> Any:
        """Call `look` until it returns something, or None after `seconds`."""
        deadline = time.monotonic() + seconds
        with Console(stderr=True).status("waiting for the CA"):
            while True:
                if (found := look()) is not None or time.monotonic() > deadline:
                    return found
                time.sleep(POLL_SECONDS)


def _context(config: ClientConfig, base: Path) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(base / config.ca_file))
    except OSError as error:
        raise OperatorError(
            f"ca_file {config.ca_file} cannot be used: {error}", "name the PEM file of the CA in client.toml"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(base / config.certificate, base / config.key)
    except OSError as error:
        raise OperatorError(
            f"certificate {config.certificate} and key {config.key} cannot be used: {error}",
            "name the PEM files of your certificate and its key in client.toml",
        ) from error
    return context


@contextlib.contextmanager
def connected(client_config: Path | None) -> Generator[Client, None, None]:
    """Give a client made from the configuration that applies."""
    try:
        file = find_config(client_config)
        client = Client(decode(file, ClientConfig), file.absolute().parent)
    except OperatorError as error:
        fail(error.what, error.next_step, PROBLEM)
    try:
        yield client
    finally:
        client.close()


def fail(what: str, next_step: str, code: int = PROBLEM) -> NoReturn:
    """Say on standard error what is wrong and what to do next, and end with this code."""
    sys.stderr.write(f"chancery: {clean(what)}\nnext: {clean(next_step)}\n")
    raise typer.Exit(code)


_NEXT_STEPS = {
    401: "ask an administrator to enrol your certificate (`chancery operator add`)",
    403: "ask somebody with that role; `chancery whoami` shows yours",
    404: "look it up with `chancery list`, `chancery ca list` or `chancery profile list`",
    409: "look at what is there with `chancery list` or `chancery show`",
    422: "compare the request with `chancery profile show`",
    503: "try again; the same --transaction-id gives the same certificate",
}


def _fail_with_problem(answer: httpx.Response) -> NoReturn:
    try:
        problem = answer.json()
        words = str(problem.get("detail") or problem.get("title"))
        kind = str(problem.get("type", "")).rsplit(":", 1)[-1]
        what = f"{words} ({kind})" if kind and kind != "blank" else words
    except (ValueError, AttributeError):
        what = f"the server answered {answer.status_code}"
    default = "look at the server's log" if answer.status_code >= 500 else "correct the request"
    fail(what, _NEXT_STEPS.get(answer.status_code, default), PROBLEM)


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def _next_step(error: Exception) -> str:
    text = _why(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "check ca_file in client.toml: the server's certificate does not chain to it"
    if "SSL" in text or "alert" in text.lower():
        return "check certificate and key in client.toml: the server refused the TLS connection"
    return "check url in client.toml, and that the CA runs (`chancery processes`)"


def clean(value: object) -> str:
    """Text without control characters: what a requestor wrote does not command a terminal."""
    return "".join(one if one.isprintable() else "\ufffd" for one in str(value))


def show_json(value: object) -> None:
    """Print JSON, indented."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def show_rows(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: drawn on a terminal, else tab-separated lines without a heading."""
    text = [[clean("" if cell is None else cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        sys.stdout.write("".join("\t".join(row) + "\n" for row in text))
        return
    table = Table(*columns, box=None, pad_edge=False)
    for row in text:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)


def show_pairs(pairs: Sequence[tuple[str, object]]) -> None:
    """Print name and value a line, without those that have none."""
    known = [(name, value) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    sys.stdout.write("".join(f"{name:<{width}}  {clean(value)}\n" for name, value in known))


def write(path: Path | None, content: bytes) -> None:
    """Write to a file, or to standard output; ends the program when the file cannot be written."""
    if path is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        path.write_bytes(content)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}", "name another file with --out", PROBLEM)


def read(path: Path) -> bytes:
    """Read a file; ends the program when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}", "name a readable file", PROBLEM)


def serial_of(text: str) -> str:
    """Upper-case hexadecimal of a serial as people paste it: with colons, 0x or serial= around."""
    bare = text.strip().removeprefix("serial=").replace(":", "").replace(" ", "").upper().removeprefix("0X")
    if not bare or len(bare) > 42 or set(bare) - set("0123456789ABCDEF"):
        raise typer.BadParameter(f"{text!r} is not a serial number in hexadecimal")
    return bare


SerialArgument = Annotated[str, typer.Argument(help="Serial number in hexadecimal.", callback=serial_of)]
