"""What the offline CA's configuration says, as its ceremonies take it; with and without the token."""

from __future__ import annotations

from pathlib import Path

from chancery.ca.issuer import IssuerURLs
from chancery.cli import build
from chancery.cli.clock import SystemClock, SystemEntropy
from chancery.config import OfflineConfig, URLSection, load
from chancery.errors import OperatorError
from chancery.offline.ceremony import Ceremony, RootSettings
from chancery.offline.keys import Token


def without_token(config: Path) -> OfflineConfig:
    """Read the configuration for what the journal alone can say: the token may be locked away."""
    settings = load(config)
    if not isinstance(settings, OfflineConfig):
        raise OperatorError(f"{config} is not the offline CA's", 'give one with process = "offline"')
    return settings


def root_settings(settings: OfflineConfig) -> RootSettings:
    """Return what a ceremony is told of the root."""
    return RootSettings(
        name=settings.name,
        subject=settings.subject,
        instance=settings.instance,
        key_kind=settings.key_kind,
        urls=IssuerURLs(*(settings.urls or URLSection()).of(settings.name)),
        token_label=settings.token.label,
        signature=settings.signature,
    )


def offline_machine(settings: OfflineConfig, token: Token) -> Ceremony:
    """Return the offline machine over a token."""
    return Ceremony(
        token=token,
        settings=root_settings(settings),
        profiles=build.profiles(settings.profiles),
        clock=SystemClock(),
        entropy=SystemEntropy(),
    )
