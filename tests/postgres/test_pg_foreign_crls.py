"""Foreign CAs in the database: CRLs come in whole or not at all, only newer ones, and the responder reads them."""

from __future__ import annotations

import asyncio
import datetime
import threading
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pgdata import Office

import foreignkit as kit
import ocspkit
from chancery.asn1.der import integer_octets
from chancery.cli.foreign_crls import MEBIBYTE, Importer
from chancery.config import DatabaseSection, ForeignConfig
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import EventKind, ForeignCRL, RevocationReason, RevokedEntry, StatusState
from chancery.postgres.foreign import PgForeignStore
from chancery.postgres.listen import FOREIGN, ISSUERS, Listener
from chancery.postgres.session import AsyncPool, Session, connect
from chancery.postgres.status import PgStatusReader
from fakes import START, FakeClock

HOUR, event = kit.HOUR, kit.event
SETTINGS = ForeignConfig(database=DatabaseSection(host="/nowhere", user="chancery_foreign"))


class Partner:
    """A foreign CA with its distribution points, its files, and what a responder would say."""

    def __init__(self, database, directory: Path, *urls: str) -> None:
        self.database = database
        self.clock = FakeClock()
        self.session = Session(database.role("foreign"))
        self.store = PgForeignStore(self.session)
        self.store.add("partner", kit.ca().public_bytes(Encoding.DER), urls or (kit.URL,), START, event())
        self.importer = Importer(self.store, self.clock, SETTINGS)
        self._file = directory / "crl"

    def take(self, data: bytes, url: str | None = None):
        self._file.write_bytes(data)
        return self.importer.take("partner", self._file, url)

    def statuses(self, *serials: int):
        keys = [(-1, integer_octets(one)) for one in serials]

        async def read():
            async with AsyncPool(self.database.role("ocsp"), size=1) as pool:
                return await PgStatusReader(pool, self.clock).statuses(keys)

        found = asyncio.run(read())
        return [found[key] for key in keys]

    def events(self) -> list[str]:
        found = Office(self.database).sql(
            "SELECT kind FROM chancery.journal_event WHERE starts_with(kind, 'foreign.') ORDER BY event_id"
        )
        return [row[0] for row in found]


@pytest.fixture
def made(database, tmp_path):
    """Make a partner with these distribution points."""
    found: list[Partner] = []

    def make(*urls: str) -> Partner:
        found.append(Partner(database, tmp_path, *urls))
        return found[-1]

    yield make
    for one in found:
        one.session.close()


@pytest.fixture
def partner(made):
    return made()


def test_what_a_crl_lists_is_revoked_and_everything_else_good_for_its_time(partner):
    done = partner.take(
        kit.crl(kit.revoked(kit.LISTED, x509.ReasonFlags.key_compromise), kit.revoked(kit.HELD), number=5)
    )
    assert (kit.URL, 5, 2) == (done.url, done.number, done.entries)
    listed, held, unlisted = partner.statuses(kit.LISTED, kit.HELD, kit.UNLISTED)
    window = (START - HOUR, START + 23 * HOUR)
    assert (StatusState.REVOKED, RevocationReason.KEY_COMPROMISE) == (listed.state, listed.reason)
    assert (START - HOUR, window) == (listed.revoked_at, listed.window)
    assert (RevocationReason.UNSPECIFIED, None) == (held.reason, held.invalidity_date)
    assert (StatusState.GOOD, None, window) == (unlisted.state, unlisted.revoked_at, unlisted.window)
    assert ["foreign.added", "foreign.crl-imported"] == partner.events()


def test_before_its_first_crl_nothing_is_known_of_a_foreign_ca(partner):
    [one] = partner.statuses(kit.LISTED)
    assert one.window[1] < START


def test_a_newer_crl_takes_the_place_of_the_older_and_its_entries_go(partner):
    partner.take(kit.crl(kit.revoked(kit.LISTED), kit.revoked(kit.HELD), number=5))
    partner.take(kit.crl(kit.revoked(kit.LISTED), number=6, this_update=START))
    listed, held = partner.statuses(kit.LISTED, kit.HELD)
    assert [StatusState.REVOKED, StatusState.GOOD] == [listed.state, held.state]
    office = Office(partner.database)
    assert [2, 1] == [office.count("foreign_crl"), office.count("foreign_revoked")]


@pytest.mark.parametrize(
    ("number", "at", "hours"), [(5, START, 24), (4, START, 24), (6, START - 2 * HOUR, 24)], ids=str
)
def test_an_older_crl_or_another_of_the_same_number_is_refused_and_journalled(partner, number, at, hours):
    partner.take(kit.crl(kit.revoked(kit.LISTED), number=5))
    with pytest.raises(OperatorError, match="as new as this one"):
        partner.take(kit.crl(number=number, this_update=at, hours=hours))
    assert StatusState.REVOKED is partner.statuses(kit.LISTED)[0].state
    assert ["foreign.added", "foreign.crl-imported", "foreign.crl-refused"] == partner.events()


def test_the_same_crl_again_is_no_change(partner):
    data = kit.crl(kit.revoked(kit.LISTED), number=5)
    assert 1 == partner.take(data).entries
    assert 0 == partner.take(data).entries
    assert 1 == Office(partner.database).count("foreign_crl")


def test_a_delta_adds_removes_and_renews_what_its_base_says(partner):
    hold = x509.ReasonFlags.certificate_hold
    partner.take(kit.crl(kit.revoked(kit.LISTED, hold), kit.revoked(kit.HELD, hold), number=5))
    partner.take(
        kit.crl(
            kit.revoked(kit.LISTED, x509.ReasonFlags.key_compromise),
            kit.revoked(kit.HELD, x509.ReasonFlags.remove_from_crl),
            kit.revoked(kit.UNLISTED),
            number=7,
            base=5,
            this_update=START,
            hours=1,
        )
    )
    found = partner.statuses(kit.LISTED, kit.HELD, kit.UNLISTED)
    assert [StatusState.REVOKED, StatusState.GOOD, StatusState.REVOKED] == [one.state for one in found]
    assert RevocationReason.KEY_COMPROMISE is found[0].reason
    assert {(START, START + HOUR)} == {one.window for one in found}
    partner.clock.advance(7200)
    # The delta has ended: what it said stays, and the complete CRL says until when.
    found = partner.statuses(kit.LISTED, kit.HELD)
    assert [StatusState.REVOKED, StatusState.GOOD] == [one.state for one in found]
    assert {(START, START + 23 * HOUR)} == {one.window for one in found}


def test_a_delta_of_a_base_that_is_not_here_is_refused(partner):
    with pytest.raises(OperatorError, match="complete CRL that this delta continues"):
        partner.take(kit.crl(number=7, base=5))
    partner.take(kit.crl(number=4))
    with pytest.raises(OperatorError, match="complete CRL that this delta continues"):
        partner.take(kit.crl(number=7, base=5, this_update=START))
    partner.take(kit.crl(number=8, this_update=START))
    with pytest.raises(OperatorError, match="complete CRL that this delta continues"):
        partner.take(kit.crl(number=7, base=5, this_update=START))


def test_a_delta_does_not_outlive_the_complete_crl_that_follows(partner):
    partner.take(kit.crl(number=5))
    partner.take(kit.crl(kit.revoked(kit.LISTED), number=6, base=5, this_update=START))
    partner.take(kit.crl(number=7, this_update=START))
    assert StatusState.GOOD is partner.statuses(kit.LISTED)[0].state


def test_all_partitions_together_say_good_and_one_says_revoked(made):
    partner = made(kit.URL, kit.OTHER)
    partner.take(kit.crl(kit.revoked(kit.LISTED), point=kit.idp(users=True)))
    listed, unlisted = partner.statuses(kit.LISTED, kit.UNLISTED)
    # One partition is not here: only what another lists is known.
    assert (StatusState.REVOKED, START + 23 * HOUR) == (listed.state, listed.window[1])
    assert unlisted.window[1] < START
    partner.take(kit.crl(point=kit.idp(kit.OTHER, authorities=True), this_update=START - 3 * HOUR, hours=4))
    listed, unlisted = partner.statuses(kit.LISTED, kit.UNLISTED)
    assert (START - HOUR, START + 23 * HOUR) == listed.window
    assert (StatusState.GOOD, (START - 3 * HOUR, START + HOUR)) == (unlisted.state, unlisted.window)


def test_a_crl_with_a_serial_twice_leaves_nothing_behind(partner):
    with pytest.raises(OperatorError, match="stands twice"):
        partner.take(kit.crl(kit.revoked(kit.LISTED), kit.revoked(kit.LISTED)))
    office = Office(partner.database)
    assert [0, 0] == [office.count("foreign_crl"), office.count("foreign_revoked")]


def test_an_import_that_breaks_in_the_middle_leaves_the_crl_before_it(partner):
    partner.take(kit.crl(kit.revoked(kit.LISTED), number=5))
    crl = ForeignCRL(6, None, START, START + HOUR, bytes(32), None)

    def broken():
        yield RevokedEntry(b"\x09", START, RevocationReason.UNSPECIFIED, None)
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "an entry that is none")

    with pytest.raises(PKIError, match="an entry that is none"):
        partner.store.add_crl(1, crl, broken(), START, lambda _: event())
    listed, other = partner.statuses(kit.LISTED, 9)
    assert [StatusState.REVOKED, StatusState.GOOD] == [listed.state, other.state]
    assert ["foreign.added", "foreign.crl-imported"] == partner.events()


class Meddler(PgForeignStore):
    """Somebody who can write the file, and does when its signature has been verified."""

    file: Path
    other: bytes

    def add_crl(self, *arguments):
        with self.file.open("r+b") as file:
            file.write(self.other)
        return super().add_crl(*arguments)


def test_what_is_stored_is_what_was_verified_whoever_can_write_the_file(partner, tmp_path):
    meddler = Meddler(partner.session)
    meddler.file, meddler.other = tmp_path / "crl", kit.crl(kit.revoked(kit.UNLISTED))
    partner.importer = Importer(meddler, partner.clock, SETTINGS)
    partner.take(kit.crl(kit.revoked(kit.LISTED)))
    states = [one.state for one in partner.statuses(kit.LISTED, kit.UNLISTED)]
    assert [StatusState.REVOKED, StatusState.GOOD] == states


def test_a_file_that_is_too_large_or_empty_or_of_nobody_is_refused(partner, tmp_path):
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(SETTINGS.max_mebibytes * MEBIBYTE + 1)
    with pytest.raises(OperatorError, match="octets"):
        partner.importer.take("partner", large)
    with pytest.raises(OperatorError, match="empty file"):
        partner.take(b"")
    with pytest.raises(OperatorError, match="no foreign CA nobody"):
        partner.importer.take("nobody", large)
    with pytest.raises(OperatorError, match="with this CRL URL"):
        partner.take(kit.crl(), "http://elsewhere.example.org/")


def test_every_responder_hears_of_another_crl_and_of_another_foreign_ca(partner):
    heard: list[object] = []
    listener = Listener(partner.database.role("ocsp"), (FOREIGN, ISSUERS))
    assert listener.wait(5)
    waiting = threading.Thread(target=lambda: heard.append(listener.wait(10)))
    waiting.start()
    partner.take(kit.crl())
    waiting.join()
    assert [frozenset({"1"})] == heard
    waiting = threading.Thread(target=lambda: heard.append(listener.wait(10)))
    waiting.start()
    partner.store.end("partner", START, event(EventKind.FOREIGN_ENDED))
    waiting.join()
    listener.close()
    assert [frozenset({"1"}), frozenset({""})] == heard


def test_a_foreign_ca_has_its_delegates_until_it_ends(partner):
    for days in (10, 20):
        partner.store.add_delegate("partner", kit.delegate_of(days=days), START, event(EventKind.FOREIGN_DELEGATE))

    async def read():
        async with AsyncPool(partner.database.role("ocsp"), size=1) as pool:
            return await PgStatusReader(pool, partner.clock).foreign()

    [one] = asyncio.run(read())
    assert (-1, "partner", None) == (one.record.issuer_id, one.record.name, one.record.key_label)
    ends = [x509.load_der_x509_certificate(der).not_valid_after_utc for der in one.delegates]
    assert [START + 19 * ocspkit.DAY, START + 9 * ocspkit.DAY] == ends
    partner.store.end("partner", START + HOUR, event(EventKind.FOREIGN_ENDED))
    assert [] == asyncio.run(read())
    with pytest.raises(PKIError, match="no foreign CA"):
        partner.store.end("partner", START + HOUR, event())
    with pytest.raises(PKIError, match="no foreign CA"):
        partner.store.add_delegate("partner", kit.delegate_of(), START, event())
    # And can begin again.
    partner.store.add("partner", kit.ca().public_bytes(Encoding.DER), (kit.URL,), START, event())


def test_an_issuer_of_ours_is_not_foreign(partner):
    Office(partner.database)
    der = kit.ca("Somebody else").public_bytes(Encoding.DER)
    for name, given in (("issuing", der), ("other", kit.ca().public_bytes(Encoding.DER))):
        with pytest.raises(PKIError, match="already"):
            partner.store.add(name, given, (kit.URL,), START, event())


def test_a_name_and_a_url_that_are_none_are_said_to_be_none(partner):
    der = kit.ca("Somebody else").public_bytes(Encoding.DER)
    for name, url in (("Not a name", kit.URL), ("other", "http://example.org/" + "x" * 1000)):
        with pytest.raises(PKIError, match="a name has small letters"):
            partner.store.add(name, der, (url,), START, event())


def test_a_foreign_ca_that_is_answered_for_does_not_become_an_issuer_of_ours(partner):
    """Neither its name nor its key; the other direction is above."""
    for name, spki in (("partner", bytes(32)), ("other", None)):
        with pytest.raises(psycopg.errors.ExclusionViolation), connect(partner.database.role("owner")) as owner:
            owner.execute(
                "INSERT INTO chancery.issuer"
                " (name, subject, certificate, spki_sha256, not_before, not_after, added_at)"
                " SELECT %s, 'CN=x', 'x', coalesce(%s, spki_sha256), added_at, added_at + interval '1 day',"
                " added_at FROM chancery.foreign_issuer",
                (name, spki),
            )


def test_r29_entries_that_count_cannot_be_deleted_nor_an_old_end_be_changed(partner):
    partner.take(kit.crl(kit.revoked(kit.LISTED)))
    partner.store.end("partner", START, event())
    with connect(partner.database.role("owner")) as owner:
        for statement in (
            "DELETE FROM chancery.foreign_revoked",
            "UPDATE chancery.foreign_issuer SET ended_at = NULL",
            "UPDATE chancery.foreign_issuer SET name = 'x'",
        ):
            with pytest.raises(psycopg.errors.RestrictViolation):
                owner.execute(statement)


def test_a_large_crl_streams_in_and_out(partner):
    serials = [(1 << 120) + 7919 * n for n in range(20_000)]
    at = START.replace(microsecond=0) - HOUR
    crl = ForeignCRL(6, None, at, at + 24 * HOUR, bytes(32), None)
    lines = (RevokedEntry(integer_octets(one), at, RevocationReason.SUPERSEDED, None) for one in serials)
    assert len(serials) == partner.store.add_crl(1, crl, lines, START, lambda _: event(EventKind.FOREIGN_CRL))
    found = partner.statuses(serials[0], serials[-1], serials[77] + 1)
    assert [StatusState.REVOKED, StatusState.REVOKED, StatusState.GOOD] == [one.state for one in found]
    [point] = partner.store.points()
    assert (6, len(serials), at + datetime.timedelta(days=1)) == (point.number, point.entries, point.next_update)


def test_r29_it_writes_events_of_its_own_acts_only(partner):
    for kind in (EventKind.CERTIFICATE_REVOKED, EventKind.OPERATOR_ENROLLED):
        with pytest.raises(PKIError, match="refused"):
            partner.store.refused(event(kind))
    partner.store.refused(event(EventKind.FOREIGN_REFUSED))
    assert ["foreign.added", "foreign.crl-refused"] == partner.events()
