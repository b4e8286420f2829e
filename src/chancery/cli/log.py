"""One JSON object a line on standard error, the process's name in each; warnings included."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import MutableMapping

import msgspec
import structlog


def configure(process: str) -> None:
    """Send structlog, the standard logger and Python's warnings through one JSON renderer."""

    def named(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.setdefault("process", process)
        return event

    shared: list[structlog.typing.Processor] = [
        # By itself: what looks through all context variables for it costs more than the rest of the line.
        named,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, render],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processor=render))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    # Request lines are logged once, by the servers themselves.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    warnings.simplefilter("default")


_encoder = msgspec.json.Encoder(order="sorted", enc_hook=repr)


def render(_logger: object, _method: str, event: MutableMapping[str, object]) -> str:
    """Sorted by name; what is not JSON by nature as its repr; what is not Unicode escaped."""
    try:
        return _encoder.encode(event).decode()
    except UnicodeEncodeError:
        return json.dumps(event, sort_keys=True, default=repr)
