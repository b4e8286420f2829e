"""The page of the timestamping authority: files that never change, and what a browser may do with them."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping

from chancery.web.hot import Answer, to_wire

_FILES = {
    b"/": ("index.html", "text/html; charset=utf-8"),
    b"/page.css": ("page.css", "text/css; charset=utf-8"),
    b"/page.js": ("page.js", "text/javascript; charset=utf-8"),
    b"/tsp.js": ("tsp.js", "text/javascript; charset=utf-8"),
}
# Own files and requests to this origin, nothing else; no markup from text, no frame around it, no form sent.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
FIELDS = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-cache"),
)


def load() -> Mapping[bytes, bytes]:
    """Return complete answers by target."""
    folder = importlib.resources.files("chancery.web") / "tsapage"
    return {
        target: to_wire(Answer(200, media_type, (folder / name).read_bytes(), FIELDS))
        for target, (name, media_type) in _FILES.items()
    }
