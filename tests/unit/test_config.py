"""Configuration is strict: what is wrong is named, with the key and what was expected."""

from __future__ import annotations

import pytest

from chancery.config import AuditorConfig, TSAConfig, load, load_checked, problems, token_labelled, token_sections
from chancery.errors import OperatorError

TSA = """
process = "tsa"
deployment = "laptop"
instance = 1
time_source = "trust-system-clock"
[[units]]
key_label = "tsa"
policies = ["1.3.6.1.4.1.99999.1"]
[listen]
port = 8081
[database]
host = "/run/postgresql"
user = "chancery_tsa"
[token]
module = "/usr/lib/softhsm/libsofthsm2.so"
label = "tsa"
pin_file = "/nowhere/pin"
"""


def _file(tmp_path, text):
    path = tmp_path / "x.toml"
    path.write_text(text)
    return path


def test_a_good_file_is_decoded(tmp_path):
    config = load(_file(tmp_path, TSA))
    assert isinstance(config, TSAConfig)
    assert (8081, "127.0.0.1", 1_000_000) == (config.listen.port, config.listen.host, config.accuracy_us)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("port = 8081", "port = 70000"), "key `listen.port`: Expected `int` <= 65535"),
        (("port = 8081", 'port = "8081"'), "key `listen.port`: Expected `int`, got `str`"),
        (("port = 8081", "prot = 8081"), "prot"),
        (('key_label = "tsa"\n', ""), "missing required field `key_label`"),
        (('policies = ["1.3.6.1.4.1.99999.1"]', 'policies = ["policy"]'), "key `units[0].policies[0]`"),
        (('policies = ["1.3.6.1.4.1.99999.1"]', 'policies = ["1.3.6\\n"]'), "key `units[0].policies[0]`"),
        (('policies = ["1.3.6.1.4.1.99999.1"]', "policies = []"), "key `units[0].policies`"),
        (
            ('policies = ["1.3.6.1.4.1.99999.1"]', 'policies = [{oid = "1.2.3", hashes = ["sha1"]}]'),
            "sha1",  # R24
        ),
        (
            ('process = "tsa"', 'process = "tsb"'),
            "key `process`: Invalid value 'tsb': expected one of auditor, ca,",
        ),
        (('process = "tsa"', ""), "missing required field `process`: expected one of auditor, ca,"),
        (
            ('time_source = "trust-system-clock"', 'time_source = "sun"'),
            "'sun': expected one of chrony, kernel, ntp, trust-system-clock",
        ),
        (('pin_file = "/nowhere/pin"', ""), "exactly one of pin_file, pin_credential and pin_prompt"),
        (('pin_file = "/nowhere/pin"', 'pin_file = "pin"'), "key `token.pin_file`: `pin` is not an absolute path"),
        (("[listen]", "[listen"), "the file"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(tmp_path, change, message):
    with pytest.raises(OperatorError, match="chancery check-config") as caught:
        load(_file(tmp_path, TSA.replace(*change)))
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OperatorError, match=r"gone\.toml cannot be read"):
        load(tmp_path / "gone.toml")


def test_another_process_s_file_is_refused(tmp_path):
    with pytest.raises(OperatorError, match='give one with process = "auditor"'):
        load_checked(_file(tmp_path, TSA), AuditorConfig)


def test_problems_name_missing_and_open_files(tmp_path):
    pin = tmp_path / "pin"
    pin.write_text("1234")
    pin.chmod(0o644)
    module = tmp_path / "module.so"
    text = TSA.replace("/nowhere/pin", str(pin)).replace("/usr/lib/softhsm/libsofthsm2.so", str(module))
    found = problems(load(_file(tmp_path, text)))
    assert [
        f"token.module: {module}: No such file or directory",
        f"token.pin_file: {pin} can be read by others (mode 0644); run chmod 600 on it",
    ] == found


@pytest.mark.parametrize(
    ("host", "sslmode", "refused"),
    [
        ("db.example.org", "require", True),
        ("192.0.2.7", "verify-ca", True),
        ("db.example.org", "verify-full", False),
        ("localhost", "prefer", False),
        ("/run/postgresql", "prefer", False),
    ],
)
def test_production_verifies_a_database_on_another_host(tmp_path, host, sslmode, refused):
    text = TSA.replace('"laptop"', '"production"').replace('"/run/postgresql"', f'"{host}"\nsslmode = "{sslmode}"')
    found = [one for one in problems(load(_file(tmp_path, text))) if one.startswith("database.sslmode")]
    words = f"database.sslmode: production needs `verify-full` for {host}, another host"
    assert ([words] if refused else []) == found


def test_production_refuses_an_unwatched_clock(tmp_path):
    found = problems(load(_file(tmp_path, TSA.replace('"laptop"', '"production"'))))
    assert "time_source: production needs `kernel`, `chrony` or `ntp`, not `trust-system-clock`" in found


def test_production_refuses_the_software_token(tmp_path):
    soft = TSA.replace('module = "/usr/lib/softhsm/libsofthsm2.so"', f'soft_directory = "{tmp_path}"')
    words = "token.soft_directory: production needs a PKCS#11 module, not the software token"
    assert words not in problems(load(_file(tmp_path, soft)))
    assert words in problems(load(_file(tmp_path, soft.replace('"laptop"', '"production"'))))


WORKER = """
process = "worker"
deployment = "laptop"
instance = 1
issuers = ["a", "b"]
default_issuer = "a"
[database]
host = "/run/postgresql"
user = "chancery_worker"
[token]
module = "/usr/lib/softhsm/libsofthsm2.so"
label = "one"
pin_prompt = true
[tokens.more]
module = "/opt/vendor.so"
label = "two"
pin_prompt = true
[signatures]
b = "rsassaPss-sha256"
[urls]
[journal]
origin = "log"
"""


def test_a_worker_has_several_tokens_and_each_is_found_by_its_label(tmp_path):
    config = load(_file(tmp_path, WORKER))
    assert ["one", "two"] == [one.label for one in token_sections(config)]
    assert "one" == config.journal_token()
    assert ("one", "two") == (token_labelled(config, None).label, token_labelled(config, "two").label)
    with pytest.raises(OperatorError, match="the tokens one, two"):
        token_labelled(config, "three")
    moved = load(_file(tmp_path, WORKER.replace('origin = "log"', 'origin = "log"\ntoken = "more"')))
    assert "two" == moved.journal_token()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('label = "two"', 'label = "one"'), "each with a label of its own"),
        (("[token]\n", "[tokens.first]\n"), "journal.token says which"),
        (('origin = "log"', 'origin = "log"\ntoken = "none"'), "journal.token is none of `tokens`"),
        (('b = "rsassaPss-sha256"', 'c = "rsassaPss-sha256"'), "signatures.c is for none of `issuers`"),
        (("rsassaPss-sha256", "rsassaPss-sha1"), "rsassaPss-sha1"),
    ],
)
def test_tokens_and_signatures_that_fit_nothing_stop_the_start(tmp_path, change, message):
    with pytest.raises(OperatorError, match=message):
        load(_file(tmp_path, WORKER.replace(*change)))


def test_production_refuses_a_software_token_among_several(tmp_path):
    soft = WORKER.replace('module = "/opt/vendor.so"', f'soft_directory = "{tmp_path}"')
    words = "tokens.more.soft_directory: production needs a PKCS#11 module, not the software token"
    assert words in problems(load(_file(tmp_path, soft.replace('"laptop"', '"production"'))))
    missing = [one for one in problems(load(_file(tmp_path, WORKER))) if one.startswith("tokens.more.module")]
    assert ["tokens.more.module: /opt/vendor.so: No such file or directory"] == missing
