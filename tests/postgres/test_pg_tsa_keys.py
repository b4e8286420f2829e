"""R25: `chancery tsa-key` on a token and a database: a fresh key, and the end of an old one, journalled."""

from __future__ import annotations

import asyncio
import datetime

import pytest
import typer
from cryptography import x509
from typer.testing import CliRunner

from chancery.cli import build, commands_tsa_key, tsakeys
from chancery.cli.clock import SystemClock
from chancery.config import load
from chancery.errors import OperatorError
from chancery.ports import Event, EventKind
from chancery.postgres.session import AsyncPool, connect
from chancery.postgres.timestamps import PgTimestampStore

APP = typer.Typer(pretty_exceptions_enable=False)
APP.callback()(lambda: None)
commands_tsa_key.register(APP)


class Place:
    def __init__(self, directory, database) -> None:
        self.database = database
        role = database.role("tsa")
        (directory / "keys").mkdir(mode=0o700)
        for name, content in {"pin": b"a long enough pin", "password": role.password()}.items():
            (directory / name).write_bytes(content)
            (directory / name).chmod(0o600)
        self.path = directory / "tsa.toml"
        self.path.write_text(f"""
process = "tsa"
deployment = "laptop"
instance = 1
time_source = "kernel"
[[units]]
key_label = "tsa"
policies = ["1.2.3"]
[listen]
port = 8081
[database]
host = "{role.host}"
port = {role.port}
dbname = "{role.database}"
user = "{role.user}"
password_file = "{directory}/password"
[token]
soft_directory = "{directory}/keys"
label = "tsa"
pin_file = "{directory}/pin"
""")

    def run(self, *words):
        return CliRunner(env={"COLUMNS": "200"}).invoke(APP, ["tsa-key", *words, "--config", str(self.path)])

    def sign_with(self, digest: str, ago: datetime.timedelta) -> None:
        """Do what the serving process does when it takes a key over."""
        event = Event(EventKind.TSA_KEY, SystemClock().now() - ago, "tsa", "tsa-unit:tsa", {"act": "registered"})

        async def act():
            async with AsyncPool(self.database.role("tsa")) as pool:
                await PgTimestampStore(pool).register("tsa", bytes.fromhex(digest), ordering=False, event=event)

        asyncio.run(act())

    def journal(self) -> list[tuple[str, str]]:
        query = """SELECT body::json -> 'detail' ->> 'act', body::json -> 'detail' ->> 'label'
            FROM chancery.journal_event WHERE kind = 'tsa.key' ORDER BY event_id"""
        with connect(self.database.superuser) as superuser:
            return superuser.execute(query).fetchall()

    def labels(self) -> list[str]:
        config = load(self.path)
        token = build.token(config.token)
        try:
            return [info.label for info in token.keys()]  # noqa: SIM118 - a token is no mapping
        finally:
            token.close()


@pytest.fixture
def place(tmp_path, database, recwarn):
    yield Place(tmp_path, database)
    # The software token warns whenever it is opened.
    assert {"InsecureWarning"} >= {one.category.__name__ for one in recwarn.list}


def made(done) -> str:
    """SHA-256 of the key of a request."""
    assert 0 == done.exit_code, done.output
    csr = x509.load_pem_x509_csr(done.stdout.encode())
    assert csr.is_signature_valid
    return done.stderr.split()[1]


def test_r25_a_key_is_followed_by_a_fresh_one_and_destroyed_by_a_journalled_act(place):
    first = made(place.run("new", "--subject", "CN=Unit"))
    place.sign_with(first, datetime.timedelta(days=400))
    refused = place.run("destroy", "tsa", "--yes")
    assert "no newer key of the unit tsa signs yet" in str(refused.exception)
    second = made(place.run("new", "--subject", "CN=Unit", "--kind", "ec-p384"))
    # There, and certified or not: nothing has been signed with it.
    assert "no newer key" in str(place.run("destroy", "tsa", "--yes").exception)
    place.sign_with(second, datetime.timedelta(minutes=1))
    assert "try again in 5 minutes" in str(place.run("destroy", "tsa", "--yes").exception)
    assert ["tsa", "tsa-2"] == place.labels()
    listed = place.run("list").stdout
    assert [second, first] == [word for word in listed.split() if len(word) == 64]


def test_r25_the_old_key_goes_and_is_said_to_be_going_before(place):
    first, second = (made(place.run("new", "--subject", "CN=Unit")) for _ in range(2))
    place.sign_with(first, datetime.timedelta(days=400))
    place.sign_with(second, datetime.timedelta(minutes=6))
    would = place.run("destroy", "tsa")
    assert f"would destroy tsa {first}" in would.stdout
    assert ["tsa", "tsa-2"] == place.labels()
    assert f"destroyed tsa {first}" in place.run("destroy", "tsa", "--yes").stdout
    assert ["tsa-2"] == place.labels()
    acts = [("generated", "tsa"), ("generated", "tsa-2"), ("registered", None), ("registered", None)]
    assert [*acts, ("destroying", "tsa"), ("destroyed", "tsa")] == place.journal()
    assert "has no key tsa" in str(place.run("destroy", "tsa", "--yes").exception)
    assert "no newer key" in str(place.run("destroy", "tsa-2", "--yes").exception)
    # A number is not given twice, though its key is gone.
    made(place.run("new", "--subject", "CN=Unit"))
    assert ["tsa-2", "tsa-3"] == place.labels()


def test_units_and_labels_that_are_not_there_are_named(place):
    refused = place.run("list", "--unit", "other")
    assert "has the units tsa" in str(refused.exception)
    config = load(place.path)
    token = build.token(config.token)
    with pytest.raises(OperatorError, match="holds no key labelled tsa"):
        tsakeys.signers(token, config.units[0])
    token.close()


def test_a_fresh_key_may_be_of_another_kind(place):
    text = place.path.read_text().replace('key_label = "tsa"', 'key_label = "tsa"\nsignature = "rsassaPss-sha256"')
    place.path.write_text(text)
    for kind in ("rsa-2048", "ec-p256"):
        made(place.run("new", "--subject", "CN=Unit", "--kind", kind))
    config = load(place.path)
    token = build.token(config.token)
    found = [one.algorithm.name for one in tsakeys.signers(token, config.units[0])]
    token.close()
    assert ["ecdsa-with-SHA256", "rsassaPss-sha256"] == found


@pytest.mark.parametrize(
    ("label", "number"),
    [
        ("tsa", 1),
        ("tsa-2", 2),
        ("tsa-10", 10),
        ("tsa-1", None),
        ("tsa-02", None),
        ("tsa-x", None),
        ("other", None),
    ],
)
def test_the_row_of_a_unit_s_keys(label, number):
    assert number == tsakeys.number_of(label, "tsa")


def test_the_newest_of_a_row_is_first():
    assert ["tsa-10", "tsa-2", "tsa"] == tsakeys.family(
        ["tsa-2", "tsa", "other", "tsa-10", "tsa-qualified"], "tsa"
    )
    assert "tsa-3" == tsakeys.following("tsa-2", "tsa")
