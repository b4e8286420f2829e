"""An installation's worker without its process: configuration, token, the real database; and an openssl root."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import typer
from typer.testing import CliRunner

import pg
from chancery.cli import commands_management
from chancery.errors import OperatorError, PKIError
from chancery.pkcs11.softtoken import SoftToken
from chancery.postgres.issuers import PgIssuerStore
from chancery.postgres.session import Session

PIN = b"1234-5678"
SUB_CA = """
[ca]
basicConstraints = critical, CA:TRUE, pathlen:{length}
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
{more}
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""


def openssl(*words: object, cwd: Path | None = None, check: bool = True) -> str:
    """Run openssl and return what it said; an AssertionError when it failed."""
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, cwd=cwd, check=False)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert not check or done.returncode == 0, said
    return said


class OpenSSLCA:
    """Somebody else's CA: a key and a self-signed certificate in a directory, made by openssl."""

    def __init__(self, path: Path, name: str) -> None:
        path.mkdir()
        self.path, self.name = path, name
        self.certificate, self.key = path / "ca.pem", path / "ca.key"
        self.subject = f"/O=Others/CN={name}"
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", self.key)
        self._extensions()
        words = ("-subj", self.subject, "-days", 3000, "-config", path / "x.cnf", "-extensions", "root")
        openssl("req", "-new", "-x509", "-key", self.key, *words, "-out", self.certificate)

    def _extensions(self, length: int = 1, more: str = "") -> None:
        text = "[req]\ndistinguished_name = dn\n[dn]\n" + SUB_CA.format(length=length, more=more)
        (self.path / "x.cnf").write_text(text)

    def sign(
        self, csr: Path, out: str, *, days: int = 1000, length: int = 1, more: str = "", section="ca"
    ) -> Path:
        """Certify a CA's request."""
        self._extensions(length, more)
        made = self.path / out
        words = ("-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-days", days, "-out", made)
        openssl("x509", "-req", "-in", csr, *words, "-extfile", self.path / "x.cnf", "-extensions", section)
        return made


@dataclasses.dataclass
class Office:
    """A worker's configuration over a database; `ca` runs `chancery ca …` with it."""

    path: Path
    role: object
    extra: str = ""
    deployment: str = "laptop"

    def __post_init__(self) -> None:
        (self.path / "tokens").mkdir()
        for name, text in (("pin", PIN), ("password", pg.password("chancery_worker"))):
            (self.path / name).write_bytes(text)
            (self.path / name).chmod(0o600)
        self.token_section = f'soft_directory = "{self.path}/tokens"'
        self.write()
        self.session = Session(self.role)
        self.store = PgIssuerStore(self.session)

    def write(self) -> None:
        (self.path / "worker.toml").write_text(
            f"""
process = "worker"
deployment = "{self.deployment}"
instance = 1
issuers = ["issuing"]
default_issuer = "issuing"
{self.extra}
[database]
host = "{self.role.host}"
port = {self.role.port}
dbname = "{self.role.database}"
user = "chancery_worker"
password_file = "{self.path}/password"
[token]
label = "issuing"
{self.token_section}
pin_file = "{self.path}/pin"
[urls]
ocsp = "http://localhost:8080/ocsp"
crl = "http://localhost:8080/crl/{{issuer}}.crl"
ca_issuers = "http://localhost:8080/ca/{{issuer}}.cer"
[journal]
origin = "localhost/journal"
"""
        )

    @property
    def config(self) -> Path:
        return self.path / "worker.toml"

    def token(self) -> SoftToken:
        return SoftToken(self.path / "tokens", "issuing", lambda: PIN)

    def ca(self, command: str, *words: object, answer: str = ""):
        app = typer.Typer()
        commands_management.register(app)
        given = ["ca", command, *map(str, words), "--config", str(self.config)]
        result = CliRunner().invoke(app, given, input=answer)
        assert isinstance(result.exception, SystemExit | OperatorError | PKIError | None), result.exception
        return result

    def request(self, name: str, *words: object) -> Path:
        out = self.path / f"{name}.csr"
        result = self.ca("request", name, "--out", out, *words)
        assert 0 == result.exit_code, result.exception
        return out

    def install(self, name: str, file: Path, *words: object):
        return self.ca("install", name, file, "--yes", *words)

    def records(self):
        return {one.name: one for one in self.store.issuers()}
