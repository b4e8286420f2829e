"""`chancery db`, as an operator runs it."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from chancery.cli.db import app
from chancery.postgres.migrate import migrations
from chancery.postgres.roles import create_database
from chancery.postgres.session import connect
from pg import Database, password


@pytest.fixture
def config(server, tmp_path):
    """The owner's configuration of a database that nothing has been done to."""
    secret = tmp_path / "password"
    secret.write_bytes(password("chancery_owner"))
    secret.chmod(0o600)
    host = Database(server.embedded, "chancery_command").role("owner").host
    file = tmp_path / "owner.toml"
    file.write_text(
        f'process = "owner"\n[database]\nhost = "{host}"\ndbname = "chancery_command"\n'
        f'user = "chancery_owner"\npassword_file = "{secret}"\n'
    )
    with connect(server.superuser) as superuser:
        create_database(superuser, "chancery_command")
        yield str(file)
        superuser.execute("DROP DATABASE chancery_command WITH (FORCE)")


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    return done.exit_code, done.output


def test_migrate_and_status(config):
    every = [str(one) for one in migrations()]
    assert (1, "".join(f"pending {one}\n" for one in every)) == run("status", "--config", config)
    assert (0, "".join(f"applied {one}\n" for one in every)) == run("migrate", "--config", config)
    assert (0, "the schema is up to date\n") == run("migrate", "--config", config)
    assert (0, "the schema is up to date\n") == run("status", "--config", config)
