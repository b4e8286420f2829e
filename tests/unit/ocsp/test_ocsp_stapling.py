"""A TLS server that staples: nginx fetches the answer by GET, openssl sees it in the handshake."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from test_ocsp_interop import Now, running

import ocspkit
from ocspkit import GOOD, REVOKED

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.key;
        ssl_stapling on;
        ssl_stapling_verify on;
        ssl_trusted_certificate {folder}/trusted.pem;
        ssl_stapling_responder http://127.0.0.1:{responder}/ocsp;
    }}
}}
"""
TRIES = 100


def server_files(folder: Path, responder, serial: bytes) -> None:
    """Certificate, key and what the stapled answer is verified by."""
    start = Now().now() - ocspkit.DAY
    leaf = ocspkit.certificate("Server", "Issuing", int.from_bytes(serial, "big"), start=start)
    trusted = [x509.load_der_x509_certificate(one.certificate) for one in responder.reader.records]
    chain = [x509.load_der_x509_certificate(leaf), trusted[1]]
    key = ocspkit.key("Server").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.key").write_bytes(key)
    for name, certificates in (("server.pem", chain), ("trusted.pem", trusted)):
        (folder / name).write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in certificates))


@contextlib.contextmanager
def nginx(folder: Path, responder, serial: bytes):
    """Run nginx with a certificate of this serial; give its port."""
    server_files(folder, responder, serial)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, responder=responder.port))
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    assert program, "scripts/prepare test installs nginx"
    process = subprocess.Popen([program, "-c", folder / "nginx.conf", "-e", folder / "error.log"])
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


def handshake(port: int, folder: Path) -> str:
    command = [
        "openssl",
        "s_client",
        "-connect",
        f"127.0.0.1:{port}",
        "-status",
        "-CAfile",
        folder / "trusted.pem",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=20
    )
    return done.stdout


def stapled(port: int, folder: Path) -> str:
    """Shake hands until nginx has fetched an answer: it does so in the background, after the first client."""
    for _ in range(TRIES):
        said = handshake(port, folder)
        if "OCSP Response Status" in said:
            return said
        time.sleep(0.1)
    return said + (folder / "error.log").read_text()


@pytest.fixture(scope="module")
def responder():
    with running() as server:
        yield server


def test_nginx_staples_and_openssl_believes_it(responder, tmp_path):
    with nginx(tmp_path, responder, GOOD) as port:
        said = stapled(port, tmp_path)
    assert "OCSP Response Status: successful (0x0)" in said
    assert "Cert Status: good" in said
    assert "Verify return code: 0 (ok)" in said
    assert responder.service.health()["hits"] + responder.service.health()["signed"] > 0


def test_nginx_hears_of_a_revocation_and_staples_no_such_answer(responder, tmp_path):
    with nginx(tmp_path, responder, REVOKED) as port:
        for _ in range(TRIES):
            assert "OCSP Response Status" not in handshake(port, tmp_path)
            if 'certificate status "revoked"' in (said := (tmp_path / "error.log").read_text()):
                break
            time.sleep(0.1)
    assert 'certificate status "revoked" in the OCSP response' in said
