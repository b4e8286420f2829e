"""What the processes of one machine say of themselves."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import types

from chancery.cli import health


@contextlib.contextmanager
def responder(body: bytes):
    """A server that answers every request so; gives a suite whose OCSP responder it is."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert "/health" == self.path
            self.send_response(503)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield types.SimpleNamespace(ocsp_url=f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            serving.join()


def test_the_status_tells_of_delegates_that_end_or_are_missing():
    said = {
        "delegates": {"issuing": "the certificate of its key is not valid now"},
        "waiting": {"second": "no certificate for its key"},
        "ending": {"issuing": "2026-12-01T00:00:00+00:00"},
        "cached": 3,
    }
    with responder(json.dumps(said).encode()) as suite:
        assert [
            "OCSP: no answers for issuing: the certificate of its key is not valid now",
            "OCSP: no delegate for second yet: no certificate for its key",
            "OCSP: the delegate of issuing ends 2026-12-01T00:00:00+00:00 and has no successor",
        ] == health.warnings(suite)
    with responder(b'{"delegates": "ok", "waiting": {}, "ending": {}}') as suite:
        assert [] == health.warnings(suite)
    for nonsense in (b"no JSON", b"[]", b'"x"'):
        with responder(nonsense) as suite:
            assert [] == health.warnings(suite)
    assert [] == health.warnings(suite)
