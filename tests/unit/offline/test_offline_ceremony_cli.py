"""`chancery offline ceremony` as people run it: a software token, files, passphrases and fingerprints typed in."""

from __future__ import annotations

import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from chancery.cli import offline as commands
from chancery.offline.bundle import decode_response, fingerprint, spki
from chancery.offline.words import words
from unit.offline import ceremonies, scripts
from unit.offline.test_offline_cli import Place, run

pytestmark = pytest.mark.filterwarnings("ignore::chancery.errors.InsecureWarning")
PEOPLE = ("anna", "bela")


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    for name in (*PEOPLE, "cleo"):
        (tmp_path / f"{name}.key").write_bytes(scripts.key_file(name))
    return place


def write(place, name, *acts, **keys):
    path = place.path / f"{name}.toml"
    path.write_bytes(scripts.script(name, *acts, begin="2020-01-01T00:00:00Z", end="2120-01-01T00:00:00Z", **keys))
    return path


def ceremony(place, command, *given, answer=""):
    config = () if command == "key" else ("--config", place.path / "offline.toml")
    return run(commands.app, "ceremony", command, *config, *given, answer=answer)


def hold(place, path, *names, said=None, passphrase=scripts.PASSPHRASE):
    given = [part for name in names for part in ("--operator", f"{name}={place.path / name}.key")]
    said = words(path.read_bytes()) if said is None else said
    answer = f"{said}\n{passphrase}\n" * len(names)
    return ceremony(place, "run", path, "--out", place.path / "out", *given, answer=answer)


def journal(place):
    file = place.path / "offline" / "journal.jsonl"
    return file.read_bytes() if file.exists() else None


def first(place):
    return write(place, "first", scripts.enrolment(*PEOPLE), scripts.ROOT)


def test_from_nothing_to_an_issuing_ca_and_two_transcripts(place):
    path = first(place)
    shown = ceremony(place, "rehearse", path)
    assert (0, None) == (shown.exit_code, journal(place))
    assert "would have: make the root" in shown.stdout
    assert words(path.read_bytes()) in shown.stdout
    assert 0 == hold(place, path, *PEOPLE).exit_code
    assert words(place.path.joinpath("out", "root.cer").read_bytes()) in place.offline("show").stdout

    asked = place.request().stdout
    data = (place.path / "request").read_bytes()
    (place.path / "a.request").write_bytes(data)
    assert words(data) in asked
    assert words(data) in run(commands.bundles, "show", place.path / "request").stdout
    path = write(place, "issuing", scripts.answer(data, said=words(data)))
    before = journal(place)
    for command in ("check", "rehearse"):
        assert 0 == ceremony(place, command, path).exit_code
    assert before == journal(place)
    result = hold(place, path, *PEOPLE, said=fingerprint(path.read_bytes()))
    assert 0 == result.exit_code
    # The machine does not tell those who are to confirm it.
    assert fingerprint(path.read_bytes()) not in result.stdout.replace(f": {fingerprint(path.read_bytes())}", "")
    out = place.path / "out"
    response = decode_response((out / "a.request.response").read_bytes())
    certificate = x509.load_der_x509_certificate(response.payload.answers[0].certificate)
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate((out / "root.cer").read_bytes()))

    # Later, from the journal, without the token: the same octets.
    texts = {name: (out / name).read_bytes() for name in ("issuing.txt", "issuing.pdf")}
    (place.path / "offline-token").rename(place.path / "locked-away")
    assert 0 == ceremony(place, "transcript", "issuing", "--out", place.path / "again").exit_code
    assert texts == {name: (place.path / "again" / name).read_bytes() for name in texts}


def test_plain_commands_are_refused_once_operators_are_enrolled(place):
    hold(place, first(place), *PEOPLE)
    place.request()
    before = journal(place)
    for plain in (
        place.offline("init"),
        place.offline("sign", place.path / "request", "--out", place.path / "response", "--yes"),
    ):
        assert "in a ceremony only" in str(plain.exception)
    assert (before, False) == (journal(place), (place.path / "response").exists())


def test_who_has_another_fingerprint_or_no_key_does_not_confirm(place):
    path = first(place)
    right = words(path.read_bytes())
    for result, says in (
        (hold(place, path, *PEOPLE, said=words(b"another script")), "another script"),
        (hold(place, path, *PEOPLE, said=" ".join(reversed(right.split()))), "misheard"),
        (hold(place, path, *PEOPLE, passphrase="something else"), "passphrase does not open"),
        (hold(place, path, "anna"), "bela did not confirm"),
        (hold(place, path, "anna", "anna"), "confirm twice"),
        (hold(place, path, *PEOPLE, "cleo"), "cleo is not enrolled"),
    ):
        assert says in str(result.exception)
    (place.path / "bela.key").write_bytes(scripts.key_file("anna"))
    assert "is of anna, not of bela" in str(hold(place, path, *PEOPLE).exception)
    with pytest.raises(FileNotFoundError):
        (place.path / "out" / "root.cer").read_bytes()
    assert b"first" not in (journal(place) or b"")


def test_a_script_that_changes_while_it_is_confirmed_is_refused(place, monkeypatch):
    path = first(place)
    real = commands.ceremony._asked

    def asked(plan, name, data):
        found = real(plan, name, data)
        path.write_bytes(path.read_bytes() + b"# changed\n")
        return found

    monkeypatch.setattr(commands.ceremony, "_asked", asked)
    assert "the script was changed" in str(hold(place, path, *PEOPLE).exception)
    assert None is journal(place)


def test_what_is_wrong_with_a_script_is_said_before_anybody_is_asked(place):
    path = write(place, "first", scripts.enrolment(*PEOPLE), scripts.ROOT.replace("112", "113"))
    for command in ("check", "rehearse"):
        assert "instance" in str(ceremony(place, command, path).exception)
    assert "instance" in str(hold(place, path, *PEOPLE).exception)
    assert 0 == hold(place, first(place), *PEOPLE).exit_code
    assert "no ceremony" in str(ceremony(place, "transcript", "x", "--out", place.path).exception)


def test_an_operator_makes_a_key(place):
    file = place.path / "dora.key"
    assert "too short" in str(ceremony(place, "key", "dora", "--out", file, answer="short\nshort\n").exception)
    made = ceremony(place, "key", "dora", "--out", file, answer=f"{scripts.PASSPHRASE}\n" * 2)
    pem = re.search(r"-----BEGIN.*END PUBLIC KEY-----\n", made.stdout, re.DOTALL)[0]
    assert 0o600 == file.stat().st_mode & 0o777
    key = commands.ceremony.operators.open_key(file.read_bytes(), scripts.PASSPHRASE)
    assert spki(load_pem_public_key(pem.encode())) == spki(key.key.public_key())
    assert "exists already" in str(ceremony(place, "key", "dora", "--out", file).exception)


def test_a_pdf_is_read_by_others_as_the_text(place):
    hold(place, first(place), *PEOPLE)
    data = (place.path / "out" / "first.pdf").read_bytes()
    start = int(re.search(rb"startxref\n(\d+)\n%%EOF\n\Z", data)[1])
    assert data[start:].startswith(b"xref\n0 ")
    for number, place_of in enumerate(re.findall(rb"(\d{10}) 00000 n \n", data), 1):
        assert data[int(place_of) :].startswith(b"%d 0 obj\n" % number)
    for length, stream in re.findall(rb"/Length (\d+) >>\nstream\n(.*?)\nendstream", data, re.DOTALL):
        assert int(length) == len(stream)
    shown = (
        b"".join(re.findall(rb"^\((.*)\) Tj T\*$", data, re.MULTILINE)).replace(b"\\(", b"(").replace(b"\\)", b")")
    )
    text = (place.path / "out" / "first.txt").read_text()
    plain = [re.sub(r"\s", "", one) for one in (shown.decode("cp1252"), text)]
    assert plain[0] == plain[1]
    assert ceremonies.SETTINGS.subject in text
