"""Foreign CAs' CRLs on their way in: downloaded within bounds, verified, streamed into the database."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import httpx
import structlog
from cryptography import x509

from chancery.config import ForeignConfig
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ocsp.foreign import Pinned, entries, verify
from chancery.ports import Clock, Event, EventKind, ForeignCRL, ForeignPoint, ForeignStore

MEBIBYTE = 1024 * 1024
_CHUNK = 64 * 1024

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True)
class Imported:
    """A CRL that was taken: its distribution point and number; how many entries, 0 when it was here already."""

    url: str
    number: int
    entries: int


class Importer:
    """Verifies CRLs under the pinned certificates and stores what is new; what is refused is journalled."""

    def __init__(self, store: ForeignStore, clock: Clock, settings: ForeignConfig) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._refused: set[tuple[str, str]] = set()

    def take(self, name: str, file: Path, url: str | None = None) -> Imported:
        """
        Import a file's CRL of the foreign CA of this name, of one of its distribution points if it says of which.

        OperatorError says why not: it cannot be read, is too large, or is not to be believed.
        """
        points = [one for one in self._store.points() if one.issuer == name]
        if not points or (url is not None and url not in {one.url for one in points}):
            raise OperatorError(
                f"there is no foreign CA {name} with this CRL URL", "`chancery ocsp foreign list` names them"
            )
        with tempfile.TemporaryFile() as own:
            self._copy(file, own)
            try:
                return self._import(self._pinned(name, points), points, own, url)
            except PKIError as error:
                if error.type is ErrorType.SYSTEM_UNAVAIL:
                    raise
                self._refuse(name, url or str(file), error)
                raise OperatorError(
                    f"{file}: {error.detail}", "get the CA's newest CRL, and the certificate that signs it"
                ) from error

    def _copy(self, file: Path, own: IO[bytes]) -> None:
        """Copy what is imported: whoever can write the file must not change it once its signature was verified."""
        limit = self._settings.max_mebibytes * MEBIBYTE
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                own.write(chunk)
                if own.tell() > limit:
                    raise OperatorError(
                        f"{file} has more than {limit} octets", "raise max_mebibytes if that is meant"
                    )
        own.flush()

    def fetch_all(self) -> int:
        """Fetch every distribution point's CRL, and its delta; return how many could not be had or believed."""
        failed = 0
        points = self._store.points()
        client = httpx.Client(
            timeout=self._settings.seconds, trust_env=False, proxy=self._settings.proxy, follow_redirects=False
        )
        with client:
            for point in points:
                mine = [one for one in points if one.issuer == point.issuer]
                failed += not self._fetch(client, mine, point.url, point.url)
                current = next((one for one in self._store.points() if one.point_id == point.point_id), point)
                if current.freshest is not None:
                    failed += not self._fetch(client, mine, point.url, current.freshest)
        return failed

    def _fetch(self, client: httpx.Client, points: list[ForeignPoint], url: str, source: str) -> bool:
        name = points[0].issuer
        try:
            with tempfile.TemporaryFile() as file:
                self._download(client, source, file)
                done = self._import(self._pinned(name, points), points, file, url)
        except PKIError as error:
            if error.type is ErrorType.SYSTEM_UNAVAIL:
                raise
            self._refuse(name, source, error)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            problem = str(error) or type(error).__name__
            log.error("foreign.not-fetched", issuer=name, url=source, problem=problem)  # noqa: TRY400 - one line says it
        else:
            log.info("foreign.crl", issuer=name, url=source, number=done.number, entries=done.entries)
            return True
        return False

    def _download(self, client: httpx.Client, url: str, file: IO[bytes]) -> None:
        """Write what is at a URL into a file; PKIError(BAD_REQUEST) when it is too large or takes too long."""
        deadline = self._clock.monotonic() + self._settings.seconds
        size = 0
        with client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
            if answer.status_code != httpx.codes.OK:
                raise httpx.HTTPError(f"{url} answers {answer.status_code}")
            for chunk in answer.iter_raw(_CHUNK):
                size += len(chunk)
                if size > self._settings.max_mebibytes * MEBIBYTE:
                    raise PKIError(ErrorType.BAD_REQUEST, "the CRL is larger than max_mebibytes")
                if self._clock.monotonic() > deadline:
                    raise PKIError(
                        ErrorType.BAD_REQUEST, f"the CRL did not come within {self._settings.seconds} s"
                    )
                file.write(chunk)
        file.flush()

    def _pinned(self, name: str, points: list[ForeignPoint]) -> Pinned:
        record = next(one.record for one in self._store.issuers() if one.record.name == name)
        return Pinned(x509.load_der_x509_certificate(record.certificate), tuple(one.url for one in points))

    def _import(self, pinned: Pinned, points: list[ForeignPoint], file: IO[bytes], url: str | None) -> Imported:
        at = self._clock.now()
        with _mapped(file) as data:
            where, crl, layout = verify(data, pinned, at, url=url)
            point = next(one for one in points if one.url == where)
            if crl.sha256 in {point.sha256, point.delta_sha256}:
                return Imported(where, crl.number, 0)
            count = self._store.add_crl(
                point.point_id,
                crl,
                entries(data, layout, delta=crl.base is not None),
                at,
                lambda count: self._event(point, crl, count),
            )
        return Imported(where, crl.number, count)

    def _event(self, point: ForeignPoint, crl: ForeignCRL, count: int) -> Event:
        detail = {
            "url": point.url,
            "number": str(crl.number),
            "base": None if crl.base is None else str(crl.base),
            "sha256": crl.sha256.hex(),
            "this_update": crl.this_update.isoformat(),
            "next_update": crl.next_update.isoformat(),
            "entries": count,
        }
        return Event(EventKind.FOREIGN_CRL, self._clock.now(), _actor(), f"foreign:{point.issuer}", detail)

    def _refuse(self, name: str, source: str, error: PKIError) -> None:
        """Journal that a CRL was not believed, once for each reason."""
        log.error("foreign.crl-refused", issuer=name, source=source, problem=error.detail)
        if (source, error.detail) in self._refused:
            return
        detail = {"source": source[:1000], "problem": error.detail}
        event = Event(EventKind.FOREIGN_REFUSED, self._clock.now(), _actor(), f"foreign:{name}", detail)
        self._store.refused(event)
        self._refused.add((source, error.detail))


def _actor() -> str:
    return f"os:{getpass.getuser()}"


@contextlib.contextmanager
def _mapped(file: IO[bytes]) -> Iterator[memoryview]:
    """Map a file into memory; PKIError(BAD_DATA_FORMAT) for an empty one."""
    try:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "an empty file is no CRL") from None
    with mapped, memoryview(mapped) as data:
        yield data
