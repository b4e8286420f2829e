"""The client side: where the CA is, and the mutual TLS connection to it, with retries where they are harmless."""

from __future__ import annotations

import contextlib
import functools
import getpass
import inspect
import os
import ssl
import sys
import time
import typing
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import msgspec
import typer
from rich.console import Console

from chancery.config import Section, decode
from chancery.errors import OperatorError

REFUSED, USAGE, UNAVAILABLE = 1, 2, 3
ANSWER_SECONDS = 75.0
SERVER_WAIT = 20.0
"""Seconds that one request lets the server wait for the worker; then it is asked again."""
POLL_SECONDS = 0.2
# Between tries when the CA is away or says 503.
PAUSES = (0.2, 0.5, 1.0, 2.0)
DEFAULT_FILE = Path("var/admin/client.toml")
URL = Annotated[str, msgspec.Meta(pattern=r"^https://[^\s/]+/?\Z")]


class ClientConfig(Section, frozen=True, kw_only=True):
    """
    `client.toml`: the CA's address, and PEM files; a relative path starts at the file's own directory.

    `ca` holds what the server's certificate chains to; without it the system's trust store is asked.
    """

    url: URL
    certificate: str
    key: str
    ca: str | None = None


def find_config(given: Path | None) -> Path:
    """Return the client configuration that applies; OperatorError when there is none."""
    if given is not None:
        return given
    if named := os.environ.get("CHANCERY_CLIENT"):
        return Path(named)
    if DEFAULT_FILE.is_file():
        return DEFAULT_FILE
    raise OperatorError(
        f"no client configuration: {DEFAULT_FILE} does not exist here",
        "name one with --client or CHANCERY_CLIENT, or give --url, --cert, --key and --ca",
    )


def read_config(
    file: Path | None,
    url: str | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    ca: Path | None = None,
) -> ClientConfig:
    """
    Return the configuration: the options where they are given, the file for the rest; paths are absolute.

    No file is read when url, cert and key are all given. Raises OperatorError.
    """
    options: dict[str, str] = {} if url is None else {"url": url}
    for name, path in (("certificate", cert), ("key", key), ("ca", ca)):
        if path is not None:
            options[name] = str(path.absolute())
    if not {"url", "certificate", "key"} <= set(options):
        place = find_config(file)
        found: ClientConfig = decode(place, ClientConfig)
        base = place.absolute().parent
        files = {"certificate": str(base / found.certificate), "key": str(base / found.key)}
        if found.ca is not None:
            files["ca"] = str(base / found.ca)
        options = {"url": found.url, **files, **options}
    try:
        return msgspec.convert(options, ClientConfig)
    except msgspec.ValidationError as error:
        raise OperatorError(f"--url: {error}", "give it as https://host:port") from None


class Client:
    """
    A connection to the management interface. Every method ends the program with a clear line on failure.

    `base` and `context` are the address of the API and the TLS context, for one that speaks HTTP by itself.
    """

    def __init__(self, config: ClientConfig) -> None:
        self._url = config.url
        self.base = httpx.URL(config.url.rstrip("/") + "/api/v1")
        self.context = _context(config)
        self._http = httpx.Client(
            base_url=self.base,
            verify=self.context,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=10.0),
            trust_env=False,
            headers={"user-agent": "chancery"},
        )

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, path: str, *, again: bool | None = None, **options: Any) -> httpx.Response:
        """
        Return a successful answer; a problem ends the program with code 1, no answer or a 503 with code 3.

        `again` (the default for GET): asked twice it does no more than once, so a lost connection and a 503 are
        tried again a few times.
        """
        again = method == "GET" if again is None else again
        for pause in (*(PAUSES if again else ()), None):
            try:
                answer = self._http.request(method, path, **options)
            except httpx.HTTPError as error:
                if pause is None or _tls_error(error) is not None:
                    self.unreachable(error)
            else:
                if answer.status_code != 503 or pause is None:
                    break
            time.sleep(pause)
        if not answer.is_success:
            fail_with_problem(answer)
        return answer

    def unreachable(self, error: Exception) -> NoReturn:
        """End the program because of what was raised in place of an answer."""
        fail(f"{self._url} cannot be reached: {_why(error)}", _next_step(error), UNAVAILABLE)

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


def _context(config: ClientConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ca)
    except (OSError, ssl.SSLError) as error:
        raise OperatorError(
            f"the CA file {config.ca} cannot be used: {error}",
            "name the PEM file of the CA with --ca or in client.toml",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.certificate, config.key, password=lambda: _password(config.key))
    except (OSError, ssl.SSLError, ValueError) as error:
        raise OperatorError(
            f"certificate {config.certificate} and key {config.key} cannot be used: {error}",
            "name the PEM files of your certificate and its key",
        ) from error
    return context


def _password(key: str) -> str:
    """Ask for the password of an encrypted key on the terminal; OpenSSL calls this only for such a key."""
    if not sys.stdin.isatty():
        raise ValueError("the key is encrypted and there is no terminal to ask for its password")
    return getpass.getpass(f"password of {key}: ")


@contextlib.contextmanager
def connected(config: Callable[[], ClientConfig]) -> Generator[Client, None, None]:
    """Give a client made from this configuration; one that cannot be used ends the program with code 2."""
    try:
        client = Client(config())
    except OperatorError as error:
        fail(error.what, error.next_step, USAGE)
    try:
        yield client
    finally:
        client.close()


_OPTIONS: dict[str, Any] = {
    "client": Annotated[
        Path | None,
        typer.Option(
            help="Where the CA is and whom to ask as (TOML). Default: $CHANCERY_CLIENT, ./var/admin/client.toml."
        ),
    ],
    "url": Annotated[str | None, typer.Option(help="The CA's address, https://host:port.")],
    "cert": Annotated[Path | None, typer.Option(help="Your certificate (PEM).")],
    "key": Annotated[Path | None, typer.Option(help="Its private key (PEM).")],
    "ca": Annotated[Path | None, typer.Option(help="What the server's certificate chains to (PEM).")],
}


Connect = Callable[[], contextlib.AbstractContextManager[Client]]
"""Gives a client to use in a `with`, where one is needed."""


def with_client(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command for typer: options that say where the CA is stand for its first parameter, a Client."""

    def connecting(connect: Connect, **given: Any) -> None:
        with connect() as client:
            command(client, **given)

    return _with_place(command, connecting)


def with_connection(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command for typer, as `with_client`; its first parameter is a `Connect` to use or not."""
    return _with_place(command, command)


def _with_place(command: Callable[..., None], act: Callable[..., None]) -> Callable[..., None]:
    hints = typing.get_type_hints(command, include_extras=True)
    _, *own = inspect.signature(command).parameters.values()
    shown = [one.replace(annotation=hints[one.name]) for one in own]
    shown += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        place = {name: given.pop(name) for name in _OPTIONS}
        file = place.pop("client")
        act(lambda: connected(lambda: read_config(file, **place)), **given)

    # Typer would read the signature of the command itself through it.
    del run.__wrapped__
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # - as PEP 362 has it
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run


def fail(what: str, next_step: str, code: int = REFUSED) -> NoReturn:
    """Say on standard error what is wrong and what to do next, and end with this code."""
    sys.stderr.write(f"chancery: {clean(what)}\nnext: {clean(next_step)}\n")
    raise typer.Exit(code)


_NEXT_STEPS = {
    401: "ask an administrator to enrol your certificate (`chancery operator add`)",
    403: "ask somebody who may; `chancery whoami` shows your roles",
    404: "look it up with the `list` of its kind: `chancery list`, or that of `ca`, `profile` or `operator`",
    409: "look at what is there with `chancery list` or `chancery show`",
    422: "compare the request with `chancery profile show`, or choose another of `chancery profile list`",
    503: "try again; the same --transaction-id gives the same certificate",
}


def fail_with_problem(answer: httpx.Response) -> NoReturn:
    """End the program with what a problem says."""
    try:
        problem = answer.json()
        words = str(problem.get("detail") or problem.get("title"))
        kind = str(problem.get("type", "")).rsplit(":", 1)[-1]
        what = f"{words} ({kind})" if kind and kind != "blank" else words
    except (ValueError, AttributeError):
        what = f"the server answered {answer.status_code}"
    default = "look at the server's log" if answer.status_code >= 500 else "correct the request"
    code = UNAVAILABLE if answer.status_code >= 500 else REFUSED
    fail(what, _NEXT_STEPS.get(answer.status_code, default), code)


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Return the TLS error below an error of httpx, if there is one."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def _next_step(error: Exception) -> str:
    if isinstance(_tls_error(error), ssl.SSLCertVerificationError):
        return "check the CA file: the server's certificate does not chain to it"
    # A server that does not accept a client certificate ends the connection, with or without an alert.
    if _tls_error(error) is not None or isinstance(
        error, (httpx.RemoteProtocolError, httpx.ReadError, ConnectionError)
    ):
        return "check your certificate: one of another CA, or one that has expired, is not let in"
    return "check the url, and that the CA runs (`chancery status`)"


def clean(value: object) -> str:
    """Text without control characters: what a requestor wrote does not command a terminal."""
    return "".join(one if one.isprintable() else "\ufffd" for one in str(value))
