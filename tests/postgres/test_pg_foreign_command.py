"""`chancery ocsp foreign …` as people run it: a web server on loopback, the real database, the real program."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import subprocess
import threading

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

import foreignkit as kit
from chancery.cli import layout
from chancery.cli.clock import SystemClock
from chancery.cli.commands_foreign import foreign
from chancery.cli.foreign_crls import MEBIBYTE, Importer
from chancery.config import DatabaseSection, ForeignConfig
from chancery.postgres.foreign import PgForeignStore
from chancery.postgres.session import Session

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0) - kit.HOUR  # noqa: TID251 - the program's clock is real


@pytest.fixture
def web():
    """Files by path, served until the test ends; what is no bytes is a redirect."""
    files: dict[str, bytes | str] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = files.get(self.path)
            self.send_response(404 if found is None else 200 if isinstance(found, bytes) else 302)
            if isinstance(found, str):
                self.send_header("Location", found)
            self.end_headers()
            if isinstance(found, bytes):
                with contextlib.suppress(OSError):
                    self.wfile.write(found)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", files
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def run(database, tmp_path):
    """Run a command of the group; return exit code and what it said."""
    found = database.role("foreign")
    (tmp_path / "password").write_bytes(found.password())
    (tmp_path / "password").chmod(0o600)
    config = tmp_path / "foreign.toml"
    config.write_text(
        'process = "foreign"\nmax_mebibytes = 1\nseconds = 10\n[database]\n'
        f'host = "{found.host}"\nport = {found.port}\ndbname = "{found.database}"\n'
        f'user = "chancery_foreign"\npassword_file = "{tmp_path / "password"}"\n'
    )

    def run_(*words: str):
        words = (*words, "--config", str(config))
        if words[0] not in {"fetch", "import"}:
            done = CliRunner().invoke(foreign, words)
            return done.exit_code, done.output
        # These two give up privileges for good: only in a process of their own.
        ended = subprocess.run(
            [*layout.program(), "ocsp", "foreign", *words], capture_output=True, check=False, timeout=60, text=True
        )
        return ended.returncode, ended.stdout + ended.stderr

    return run_


def test_a_foreign_ca_from_its_first_crl_to_its_end(run, web, tmp_path):
    url, files = web
    point = f"{url}/ca.crl"
    (tmp_path / "ca.pem").write_bytes(kit.ca().public_bytes(Encoding.PEM))
    (tmp_path / "delegate.der").write_bytes(kit.delegate_of())
    (tmp_path / "stranger.der").write_bytes(kit.delegate_of("Stranger"))
    code, said = run("add", "partner", str(tmp_path / "ca.pem"), "--crl", point)
    assert (0, True) == (code, "CN=Partner" in said), said
    assert 1 == run("add", "partner", str(tmp_path / "ca.pem"), "--crl", point)[0]
    assert 1 == run("delegate", "partner", str(tmp_path / "stranger.der"))[0]
    assert 0 == run("delegate", "partner", str(tmp_path / "delegate.der"))[0]
    files["/delta.crl"] = kit.crl(kit.revoked(kit.HELD), number=6, base=5, this_update=NOW)
    files["/ca.crl"] = kit.crl(
        kit.revoked(kit.LISTED), number=5, this_update=NOW, point=kit.idp(point), freshest=f"{url}/delta.crl"
    )
    code, said = run("fetch")
    assert (0, 2) == (code, said.count("entries=1")), said
    code, said = run("list")
    assert ["partner", point, "5", "1"] == said.split("\t")[:4], said
    assert ["6", "current\n"] == said.split("\t")[6:], said
    older = tmp_path / "older.crl"
    older.write_bytes(kit.crl(number=4, this_update=NOW))
    code, said = run("import", "partner", str(older))
    assert (1, True) == (code, "as new as this one" in said), said
    assert 0 == run("end", "partner")[0]
    assert (0, "") == run("list")


def test_a_download_is_bounded_and_goes_where_it_was_told(database, web):
    url, files = web
    points = [f"{url}/{name}" for name in ("large", "moved", "noise", "none")]
    files |= {"/large": bytes(2 * MEBIBYTE), "/moved": f"{url}/noise", "/noise": b"\x30\x03abc"}
    session = Session(database.role("foreign"))
    store = PgForeignStore(session)
    event = kit.event()
    store.add("partner", kit.ca().public_bytes(Encoding.DER), [*points, "http://127.0.0.1:1/"], event.at, event)
    section = DatabaseSection(host="/nowhere", user="chancery_foreign")
    importer = Importer(store, SystemClock(), ForeignConfig(database=section, max_mebibytes=1, seconds=10))
    assert len(points) + 1 == importer.fetch_all()
    assert {None} == {one.number for one in store.points()}
    session.close()
