"""What `chancery up` prints at the end: addresses, and commands that work as printed."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from chancery.cli.layout import Layout
from chancery.cli.suite import Suite


def _show(path: Path) -> str:
    """Return a path as one would type it from here."""
    relative = os.path.relpath(path)
    return shlex.quote(relative if not relative.startswith("../..") else str(path))


def commands(layout: Layout, suite: Suite) -> list[str]:
    """Return shell commands that prove the installation with other people's programs, in order."""
    chancery = _show(Path(sys.executable).with_name("chancery"))
    # The command line finds the default installation's client file by itself.
    usual = layout.client == Path("var/admin/client.toml").absolute()
    client = "" if usual else f" --client {_show(layout.client)}"
    demo, pki = _show(layout.state / "demo"), _show(layout.pki)
    return [
        f"mkdir -p {demo}",
        (
            f"openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
            f" -keyout {demo}/www.key -out {demo}/www.csr"
            ' -subj "/CN=www.example.org" -addext "subjectAltName=DNS:www.example.org"'
        ),
        f"{chancery} request{client} --profile tls-server --csr {demo}/www.csr --out {demo}/www.pem",
        f"openssl verify -CAfile {pki}/root.pem -untrusted {pki}/issuing.pem {demo}/www.pem",
        (
            f"openssl ocsp -issuer {pki}/issuing.pem -cert {demo}/www.pem -url {suite.ocsp_url}/ocsp"
            f" -CAfile {pki}/chain.pem"
        ),
        f"openssl ts -query -data {demo}/www.pem -sha256 -cert -out {demo}/www.tsq",
        (
            f"curl -sS -H 'Content-Type: application/timestamp-query' --data-binary @{demo}/www.tsq"
            f" -o {demo}/www.tsr {suite.tsa_url}"
        ),
        # Not -untrusted: `openssl ts` takes that for a list, and parts it at spaces and commas.
        f"openssl ts -verify -queryfile {demo}/www.tsq -in {demo}/www.tsr -CAfile {pki}/chain.pem",
        (
            f"{chancery} revoke{client} --yes --reason superseded"
            f" $(openssl x509 -in {demo}/www.pem -noout -serial | cut -d= -f2)"
        ),
        (
            f"openssl ocsp -issuer {pki}/issuing.pem -cert {demo}/www.pem -url {suite.ocsp_url}/ocsp"
            f" -CAfile {pki}/chain.pem"
        ),
        (
            f"curl -sS -o {demo}/issuing.crl {suite.ocsp_url}/crl/issuing.crl"
            f" && openssl crl -in {demo}/issuing.crl -inform DER -noout -text -CAfile {pki}/chain.pem"
        ),
        f"{chancery} audit verify --config {_show(layout.config('auditor'))}",
    ]


def text(layout: Layout, suite: Suite) -> str:
    """Return the whole text."""
    admin = _show(layout.admin)
    lines = [
        "",
        f"CA                   {suite.ca_url}        (REST; description at /openapi.json)",
        f"OCSP and repository  {suite.ocsp_url}         (/ocsp, /crl/issuing.crl, /ca/issuing.cer)",
        f"Timestamps           {suite.tsa_url}",
        f"First administrator  {admin}/admin.pem, {admin}/admin.key; for a browser: {admin}/admin.p12",
        f"                     (its password is in {admin}/admin.p12.password)",
        "",
        "Try it:",
        *(f"  {command}" for command in commands(layout, suite)),
        "",
        "Roles apart: the first administrator is administrator, officer and requestor. Enrol other people with",
        "`chancery operator add` and give each one role.",
    ]
    return "\n".join(lines)
