"""
Cached OCSP answers per second over HTTP, beside nginx serving the same octets from its memory.

The responder is the one that `chancery up` runs, with PostgreSQL and its key in SoftHSM2 behind it; it has
answered each request once before. Both servers have core 0 to themselves in turn, wrk and the rest of the suite
share core 1.
Requests come by POST and by GET; nginx cannot answer a POST from its memory, so its figure is for GET.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
import urllib.parse
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from bench import common

CERTIFICATES, ROUNDS, SECONDS, CONNECTIONS = 40, 4, 3, 64


def requests(issuer: x509.Certificate, certificates: list[x509.Certificate]) -> list[bytes]:
    """
    One OCSPRequest (DER) for each certificate, as most clients write it.

    Without those whose base64 ends in a slash: nginx takes such a path for a directory.
    """
    sha1 = SHA1()  # noqa: S303 - what clients send
    made = [
        ocsp.OCSPRequestBuilder().add_certificate(one, issuer, sha1).build().public_bytes(Encoding.DER)
        for one in certificates
    ]
    return [one for one in made if not base64.b64encode(one).endswith(b"/")]


def path(request: bytes) -> str:
    return "/ocsp/" + urllib.parse.quote(base64.b64encode(request).decode(), safe="")


def same_octets(url: str, bodies: list[bytes], folder: Path) -> str:
    """Put every answer into files for nginx, and return the lines of its configuration that serve them."""
    lines = []
    for number, body in enumerate(bodies):
        answer = httpx.get(url + path(body), trust_env=False)
        found = ocsp.load_der_ocsp_response(answer.content)
        if found.certificate_status is not ocsp.OCSPCertStatus.GOOD:
            raise SystemExit(f"answer {number} is not good")
        kept = {name: answer.headers[name] for name in ("ETag", "Last-Modified", "Expires", "Cache-Control")}
        file = folder / hashlib.sha256(path(body).encode()).hexdigest()
        file.write_bytes(answer.content)
        file.chmod(0o644)
        fields = "\n".join(f"add_header {name} '{value}';" for name, value in kept.items())
        # nginx matches decoded paths.
        decoded = urllib.parse.unquote(path(body))
        lines.append(
            f"location = '{decoded}' {{ etag off; if_modified_since off; expires off; {fields} alias {file}; }}"
        )
    types = "default_type application/ocsp-response; merge_slashes off;"
    cache = "open_file_cache max=1000 inactive=1h; open_file_cache_valid 1h; sendfile off;"
    return types + cache + "\n".join(lines)


def measure(ours: int, theirs: int, folder: Path, bodies: list[bytes]) -> str:
    """Interleave rounds of the three, and return the last line."""
    size = len(bodies[0])
    head = "POST /ocsp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/ocsp-request\r\n"
    posts, gets = folder / "post", folder / "get"
    posts.mkdir()
    gets.mkdir()
    post = common.script(posts, f"{head}Content-Length: {size}\r\n\r\n", bodies)
    # Percent-encoding makes paths of several lengths; a header of zeros evens them out for both servers.
    wires = [f"GET {path(body)} HTTP/1.1\r\nHost: localhost\r\n" for body in bodies]
    longest = max(map(len, wires))
    evened = [f"{wire}X: {'0' * (longest - len(wire))}\r\n\r\n".encode() for wire in wires]
    get = common.script(gets, "", evened)
    for port, lua in ((ours, post), (ours, get), (theirs, get)):
        common.load(port, lua, 1, CONNECTIONS)
    rounds: dict[str, list[common.Round]] = {"POST": [], "GET": [], "nginx": []}
    for number in range(ROUNDS):
        for name, port, lua in (("POST", ours, post), ("nginx", theirs, get), ("GET", ours, get)):
            rounds[name].append(common.load(port, lua, SECONDS, CONNECTIONS))
        words = ", ".join(f"{name} {found[-1].rate:,.0f}/s" for name, found in rounds.items())
        print(f"round {number + 1}: {words}", flush=True)
    return common.result(
        "ocsp-cached",
        common.median(rounds["GET"], "rate"),
        "answers/s",
        common.median(rounds["nginx"], "rate"),
        "nginx with one worker serving the same octets by GET on the same core",
        durable=True,
        post=round(common.median(rounds["POST"], "rate")),
        p50_ms=round(common.median(rounds["GET"], "p50_ms"), 2),
        p99_ms=round(common.median(rounds["GET"], "p99_ms"), 2),
    )


def main() -> None:
    """Bring everything up, measure, and print one JSON object as the last line."""
    common.need("wrk", "nginx")
    common.pin(common.LOAD_CORE)
    with common.suite() as running, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        issuer = x509.load_pem_x509_certificate((running.pki / "issuing.pem").read_bytes())
        bodies = requests(issuer, common.issue(running, CERTIFICATES))
        files = folder / "files"
        files.mkdir()
        server = same_octets(running.suite.ocsp_url, bodies, files)
        common.spread(running, "ocsp")
        with common.nginx(folder / "nginx", server) as theirs:
            last = measure(running.suite.ocsp_port, theirs, folder, bodies)
    print(last)


if __name__ == "__main__":
    main()
