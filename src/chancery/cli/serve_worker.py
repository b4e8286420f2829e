"""The issuing worker's process: CA keys, the issuance loop, and the journal's sequencer beside it."""

from __future__ import annotations

import datetime
import gc
import os
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from chancery.audit.log import BATCH, Sequencer
from chancery.audit.memory import CheckpointFile
from chancery.ca.crl import CRLSettings, Timing
from chancery.ca.issuance import Issuing
from chancery.ca.mass import MassSettings
from chancery.ca.worker import Wait, Worker, WorkerSettings
from chancery.cli import build
from chancery.cli.clock import SystemClock, SystemEntropy
from chancery.cli.issuers import Issuers
from chancery.cli.tokens import WorkerTokens
from chancery.cli.worker_metrics import WorkerMetrics
from chancery.config import CRLSection, DeltaSection, WorkerConfig, token_sections
from chancery.errors import OperatorError, PKIError, StandbyError
from chancery.pkix.profile import Profile
from chancery.ports import Event, EventKind, SecondOpinion
from chancery.postgres.issuance import PgIssuanceStore
from chancery.postgres.issuers import PgIssuerStore
from chancery.postgres.journal import PgJournalStore, insert_events
from chancery.postgres.listen import Listener
from chancery.postgres.mass import PgJobStore
from chancery.postgres.revocation import PgRevocationStore
from chancery.postgres.session import Session, sequencer_lock, worker_lock

SEQUENCE_SECONDS = 0.25
RETRY_SECONDS = 2.0
BEAT_SECONDS = 1.0
log = structlog.get_logger()


class Health:
    """
    A file that says who this is and how it is: "pid well", or "pid" and what is wrong.

    It is touched while the loop turns; a file that is old means a loop that hangs.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._wrong: dict[str, str] = {}
        self._written = ("", float("-inf"))
        self._lock = threading.Lock()
        self._clock = SystemClock()

    def say(self, part: str, wrong: str | None) -> None:
        """Note what is wrong with a part, or that nothing is; the issuance loop's word keeps the file fresh."""
        with self._lock:
            if wrong is None:
                self._wrong.pop(part, None)
            else:
                self._wrong[part] = wrong
            text = "; ".join(f"{name}: {what}" for name, what in sorted(self._wrong.items())) or "well"
            last, at = self._written
            now = self._clock.monotonic()
            if self._path is not None and (text != last or (part == "issuance" and now - at > BEAT_SECONDS)):
                temporary = self._path.with_suffix(".new")
                temporary.write_text(f"{os.getpid()} {text}\n")
                temporary.replace(self._path)
                self._written = (text, now)


class WatchedWorker(Worker):
    """A worker that says after each round how it went."""

    health: Health
    metrics: WorkerMetrics

    def run_once(self) -> bool:
        """Do one round; see `Worker.run_once`."""
        try:
            done = super().run_once()
        except PKIError as error:
            self.health.say("issuance", error.detail)
            raise
        away = ", ".join(f"`{label}`" for label in self.tokens_away)
        self.health.say("tokens", f"{away} away, the issuers of the others go on" if away else None)
        self.health.say("issuance", None)
        self.metrics.round()
        return done


def run(config: WorkerConfig) -> None:
    """Run until SIGTERM or SIGINT. OperatorError when token, issuers or database are not as configured."""
    clock, stop = SystemClock(), _stopping()
    name = f"worker-{config.instance}"
    database = build.connection(config.database, name)
    tokens = WorkerTokens({section.label: section for section in token_sections(config)})
    # One connection for the stores of the loop: its lock keeps a second worker of this instance away.
    session = Session(database, [worker_lock(config.instance)])
    session.open()
    journal = Session(build.connection(config.database, f"{name} journal"), [sequencer_lock])
    profiles = build.profiles(config.profiles)
    health, metrics = Health(config.health_file), WorkerMetrics(config.metrics_file, clock)
    issuers = Issuers(config, PgIssuerStore(session), tokens, health.say)
    hierarchy = issuers.first()
    _journal_start(session, profiles, clock, name)
    with ThreadPoolExecutor(config.signing_threads, thread_name_prefix="sign") as signers:
        worker = WatchedWorker(
            Issuing(
                store=PgIssuanceStore(session),
                issuers=hierarchy.issuers,
                default_issuer=hierarchy.default,
                inactive=hierarchy.inactive,
                profiles=profiles,
                clock=clock,
                entropy=SystemEntropy(),
                instance=config.instance,
                worker=name,
                signers=signers,
                signing_threads=config.signing_threads,
                service_keys=frozenset(bytes.fromhex(one) for one in config.service_keys),
                ca_keys=frozenset(bytes.fromhex(one) for one in config.ca_keys),
                weak_keys=build.weak_keys(config.weak_keys),
                second_opinions=_linters(config, profiles),
            ),
            PgRevocationStore(session),
            _settings(config),
            metrics.reporting(_report),
            tokens.reach,
            look=issuers.look,
            jobs=PgJobStore(session),
        )
        worker.health, worker.metrics = health, metrics
        store = PgJournalStore(journal)
        sequencer = _sequencer(config, store, tokens, clock)
        sequencing = threading.Thread(
            target=_sequence, args=(sequencer, store, stop, health, metrics), name="journal"
        )
        sequencing.start()
        listener = Listener(database)
        _settle_collector()
        log.info("working", issuers=sorted(hierarchy.issuers), instance=config.instance)
        try:
            worker.run(_waiter(listener, stop), stop.is_set)
        finally:
            stop.set()
            sequencing.join()
            listener.close()
            session.close()
            journal.close()
            tokens.close()


def _settle_collector() -> None:
    """What is here now stays: the collector need not look at it again, and need not look often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def _settings(config: WorkerConfig) -> WorkerSettings:
    return WorkerSettings(
        batch=config.batch,
        mass=MassSettings(two_persons_above=config.two_persons_above),
        crl=_crl_settings(config.crl),
        crls={name: _crl_settings(section) for name, section in config.crls.items()},
    )


def _stopping() -> threading.Event:
    """Return what SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _linters(config: WorkerConfig, profiles: Mapping[str, Profile]) -> dict[str, SecondOpinion]:
    """Return the configured linters; OperatorError when a profile wants one that is not there."""
    found = build.linters(config.linters)
    for profile in profiles.values():
        if missing := sorted(set(profile.second_opinions.before_signing) - set(found)):
            raise OperatorError(
                f"the profile {profile.name} wants the linter {missing[0]} before signing, and there is none",
                f"add [linters.{missing[0]}] to the worker's configuration, or take it out of the profile",
            )
    return found


def _report(event: str, detail: Mapping[str, object]) -> None:
    level = log.warning if event in {"paused", "recovered", "token away", "token back"} else log.info
    level(event, **detail)


def _waiter(listener: Listener, stop: threading.Event) -> Wait:
    """Return the worker's wait: short slices, so that a signal is noticed although the waiting is done in C."""

    def wait(seconds: float) -> frozenset[str]:
        clock = SystemClock()
        end = clock.monotonic() + seconds
        while not stop.is_set() and (left := end - clock.monotonic()) > 0:
            if heard := listener.wait(min(left, 0.5)):
                return heard
        return frozenset()

    return wait


def _hours(hours: float | None) -> datetime.timedelta | None:
    return None if hours is None else datetime.timedelta(hours=hours)


def _timing(section: DeltaSection) -> Timing:
    lifetime = datetime.timedelta(hours=section.validity_hours)
    return Timing(lifetime, _hours(section.overlap_hours), _hours(section.period_hours))


def _crl_settings(section: CRLSection) -> CRLSettings:
    return CRLSettings(
        lifetime=datetime.timedelta(hours=section.validity_hours),
        overlap=_hours(section.overlap_hours),
        period=_hours(section.period_hours),
        delta=None if section.delta is None else _timing(section.delta),
    )


def _journal_start(session: Session, profiles: Mapping[str, Profile], clock: SystemClock, name: str) -> None:
    store = PgIssuerStore(session)
    for profile in profiles.values():
        store.add_profile(profile.name, profile.version, profile.sha256, profile.source, clock.now())
    with session.transaction() as connection:
        insert_events(connection, [Event(EventKind.PROCESS_STARTED, clock.now(), name, name, {})])


def _sequencer(config: WorkerConfig, store: PgJournalStore, tokens: WorkerTokens, clock: SystemClock) -> Sequencer:
    file = config.journal.checkpoint_file
    return Sequencer(
        store,
        build.signer(tokens.opened(config.journal_token()), config.journal.key_label),
        config.journal.origin,
        clock,
        remember=None if file is None else CheckpointFile(file),
    )


def _sequence(
    sequencer: Sequencer, store: PgJournalStore, stop: threading.Event, health: Health, metrics: WorkerMetrics
) -> None:
    """
    Append what waits, a few times a second; what cannot be appended now stays and is reported.

    Each time costs a signature and a commit of its own, however few events it is for: they share it. While another
    worker does it, this one stands by: it is well, and goes on when the other one's connection has ended.
    """
    clock, year, standby = SystemClock(), 0, False
    while not stop.is_set():
        try:
            if year != (now := clock.now().year):
                store.begin_year()
                year = now
            appended = sequencer.run_once()
            health.say("journal", None)
            metrics.journal(standby=False)
            if standby:
                log.info("journal taken over")
                standby = False
            if appended < BATCH:
                stop.wait(SEQUENCE_SECONDS)
        except StandbyError as error:
            health.say("journal", None)
            metrics.journal(standby=True)
            if not standby:
                log.info("journal standby", why=error.detail)
                standby = True
            stop.wait(RETRY_SECONDS)
        except (PKIError, OperatorError) as error:
            health.say("journal", str(error))
            log.warning("journal", error=str(error))
            stop.wait(RETRY_SECONDS)
    # What the loop wrote last is sequenced by the next start.
