"""Evidence of a timestamp over records in memory: what it proves, and every way in which it must not."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import zipfile

import pytest

from chancery.asn1 import der
from chancery.audit import evidence
from chancery.audit.log import Sequencer
from chancery.cli.timestamp_record import pack, unpack
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import IssuerRecord
from chancery.ports.timestamps import BatchEvent
from fakes import START, FakeClock
from suite import run
from unit.audit.journals import ED25519, ORIGIN, OTHER, P256, MemoryJournal, event
from unit.tsa.kit import TSA, as_der, digests_of, request, root
from unit.tsa.test_tsa_revocation import DAY, crl, entry

DOCUMENT = b"document"


class Records:
    """`ports.timestamps.TokenReader` over what a TSA of fakes recorded and a journal in memory."""

    def __init__(self, tsa: TSA, journal: MemoryJournal) -> None:
        self.tsa, self.journal = tsa, journal
        self.tokens = dict(tsa.store.tokens)
        self.lists = [crl(start=START - DAY, end=START + DAY)]

    def find(self, query):
        return [one for one in self.tokens.values() if query.serial == one.serial]

    def batches(self, lowest, highest, limit):
        index = {event_id: number for number, (event_id, _) in self.journal.leaf_rows.items()}
        found = [
            (json.loads(body)["subject"], BatchEvent(body, index.get(event_id)))
            for event_id, body in self.journal.events.items()
        ]
        fitting = sorted(
            (one for one in found if lowest <= one[0] <= highest), key=lambda one: one[0], reverse=True
        )
        return [one for _, one in fitting][:limit]

    def rows(self, first, last, since, until):
        return [
            self.tokens[serial]
            for serial in sorted(self.tokens)
            if first <= serial <= last and since <= self.tokens[serial].gen_time <= until
        ]

    def certificates(self, serial):
        assert serial == der.integer_octets(0x1234)
        return [as_der(self.tsa.certificate)]

    def issuers(self):
        return [IssuerRecord(1, "root", as_der(root("p256")), None, None, None)]

    def crls(self, issuer_id, at):
        assert (1, START) == (issuer_id, at)
        return self.lists


def world(signer=P256, count=5, before=3, after=4, cert_req=True):
    """Tokens of one batch among other events, sequenced; the responses and the records."""
    tsa, journal = TSA(), MemoryJournal()
    journal.write(*(event(number) for number in range(before)))
    other = request(digest=hashlib.sha256(b"others").digest(), cert_req=cert_req)
    asked = [request(digest=hashlib.sha256(DOCUMENT).digest(), cert_req=cert_req), *[other] * (count - 1)]
    answers = [one.der for one in asyncio.run(tsa.respond_all(asked))]
    journal.write(*tsa.store.events)
    journal.write(*(event(number) for number in range(before, before + after)))
    Sequencer(journal, signer, ORIGIN, FakeClock()).run_once()
    return answers, Records(tsa, journal)


def collected(signer=P256, **options):
    answers, records = world(signer, **options)
    return evidence.collect(answers[0], records, records.journal, ORIGIN, signer.public_key)


def proved(files, signer=P256, document=DOCUMENT, **options):
    anchors = [as_der(root("p256"))]
    return evidence.prove(files, digests=digests_of(document), anchors=anchors, key=signer.public_key, **options)


@pytest.mark.parametrize("signer", [P256, ED25519])
@pytest.mark.parametrize("cert_req", [True, False])
def test_it_proves_token_row_journal_and_revocation_and_openssl_agrees(signer, cert_req, tmp_path):
    files = collected(signer, cert_req=cert_req)
    found = proved(files, signer, origin=ORIGIN)
    assert (START, 3, 8, ORIGIN) == (
        found.stamp.info.gen_time,
        found.leaf_index,
        found.head.size,
        found.head.origin,
    )
    assert found.row.endswith("|127.0.0.1\n")
    assert ["CN=Test TSA"] == [one.subject for one in found.revocation]
    # Of the others' rows there is the hash alone.
    assert hashlib.sha256(b"others").hexdigest().encode() not in b"".join(files.values())
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "document").write_bytes(DOCUMENT)
    (tmp_path / "elsewhere").mkdir()
    if cert_req:
        done = run("sh", tmp_path / "verify.sh", tmp_path / "document")
        assert b"all is right" in done.stdout
        # From another directory, and not with another's row that the same entry covers.
        assert b"all is right" in run("sh", "../verify.sh", "../document", cwd=tmp_path / "elsewhere").stdout
        (tmp_path / "row.txt").write_bytes(files["row.txt"].replace(b"|127.0.0.1", b"|127.0.0.2"))
        assert run("sh", tmp_path / "verify.sh", tmp_path / "document", check=False).returncode
        (tmp_path / "row.txt").write_bytes(files["row.txt"])
        changed = json.loads(files["event.json"])
        changed["actor"] = "somebody"
        (tmp_path / "event.json").write_text(json.dumps(changed, sort_keys=True, separators=(",", ":")))
        assert run("sh", tmp_path / "verify.sh", tmp_path / "document", check=False).returncode


def kind_of(act) -> ErrorType:
    with pytest.raises(PKIError) as caught:
        act()
    return caught.value.type


def test_what_is_not_recorded_or_not_under_a_checkpoint_has_none():
    answers, records = world()
    collect = lambda: evidence.collect(answers[0], records, records.journal, ORIGIN, P256.public_key)
    kept = dict(records.tokens)
    records.tokens.clear()
    assert ErrorType.BAD_CERT_ID == kind_of(collect)
    # A row that was edited is covered by no event.
    records.tokens = {serial: dataclasses.replace(one, client="another") for serial, one in kept.items()}
    assert ErrorType.ADD_INFO_NOT_AVAILABLE == kind_of(collect)
    earlier = {serial: dataclasses.replace(one, gen_time=one.gen_time - DAY) for serial, one in kept.items()}
    records.tokens = earlier
    assert ErrorType.BAD_CERT_ID == kind_of(collect)
    records.tokens = kept
    records.journal.leaf_rows.clear()
    assert ErrorType.ADD_INFO_NOT_AVAILABLE == kind_of(collect)


def test_a_journal_that_is_not_what_was_signed_gives_none():
    answers, records = world()
    records.journal.leaf_rows[7] = (records.journal.leaf_rows[7][0], bytes(32))
    collect = lambda: evidence.collect(answers[0], records, records.journal, ORIGIN, P256.public_key)
    assert ErrorType.SYSTEM_FAILURE == kind_of(collect)
    answers, records = world(OTHER)
    assert ErrorType.NOT_AUTHORIZED == kind_of(
        lambda: evidence.collect(answers[0], records, records.journal, ORIGIN, P256.public_key)
    )


def test_one_that_was_revoked_since_is_exported_and_not_proved():
    answers, records = world()
    records.lists.append(crl(entry(), start=START + DAY, end=START + 2 * DAY))
    files = evidence.collect(answers[0], records, records.journal, ORIGIN, P256.public_key)
    assert ErrorType.CERT_REVOKED == kind_of(lambda: proved(files))
    assert START == proved(files, revocation=False).stamp.info.gen_time


@pytest.mark.parametrize("name", ["row.txt", "rows.bin", "event.json", "event.tlog-proof", "token.tsr"])
def test_every_octet_of_every_file_counts(name):
    files = collected()
    data, whole = files[name], proved(files)
    for at in range(0, len(data), max(1, len(data) // 40)):
        changed = {**files, name: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]}
        if name != "token.tsr":
            with pytest.raises(PKIError):
                proved(changed)
            continue
        # The status, the version and the list of digests are under no signature: then it still says the same.
        with contextlib.suppress(PKIError):
            assert whole == proved(changed)
    del files[name]
    assert ErrorType.BAD_DATA_FORMAT == kind_of(lambda: proved(files))


def test_another_journal_s_key_document_or_root_is_noticed():
    files = collected()
    assert ErrorType.NOT_AUTHORIZED == kind_of(lambda: proved(files, OTHER))
    assert ErrorType.BAD_REQUEST == kind_of(lambda: proved(files, document=b"another"))
    assert ErrorType.NOT_AUTHORIZED == kind_of(lambda: proved(files, origin="another"))
    assert ErrorType.ADD_INFO_NOT_AVAILABLE == kind_of(
        lambda: proved({name: data for name, data in files.items() if not name.endswith(".crl")})
    )


def test_the_row_of_another_token_is_none_for_this_one():
    answers, records = world()
    mine = evidence.collect(answers[0], records, records.journal, ORIGIN, P256.public_key)
    other = evidence.collect(answers[1], records, records.journal, ORIGIN, P256.public_key)
    assert ErrorType.NOT_AUTHORIZED == kind_of(lambda: proved(mine | {"row.txt": other["row.txt"]}))


def test_an_archive_is_the_same_each_time_and_a_foreign_one_is_refused(tmp_path):
    files = collected()
    assert files == unpack(pack(files))
    assert pack(files) == pack(dict(reversed(files.items())))
    twice = tmp_path / "twice.zip"
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("row.txt", b"a")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("row.txt", b"b")
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(300):
            archive.writestr(f"{number}", b"")
    spoilt = []
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        other = tmp_path / f"{method}.zip"
        with zipfile.ZipFile(other, "w", method) as archive:
            archive.writestr("a", bytes(range(256)) * 9)
        packed = bytearray(other.read_bytes())
        packed[31:60] = b"\xff" * 29
        spoilt.append(bytes(packed))
    for data in (b"nonsense", twice.read_bytes(), bomb.read_bytes(), pack(files)[:-9], *spoilt):
        with pytest.raises(OperatorError, match="no evidence"):
            unpack(data)
