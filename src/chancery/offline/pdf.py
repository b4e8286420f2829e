r"""
Plain text as a PDF of A4 pages (ISO 32000-1), the same octets for the same text.

It is written here and not by a library: what the offline machine runs beside its root is to be little. A page is
lines in Courier, which every reader has; what its encoding (WinAnsi, Annex D.2) lacks stands as `\u{…}`.
"""

from __future__ import annotations

import textwrap
from typing import Final

COLUMNS: Final = 94
LINES: Final = 66
_HEAD: Final = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"


def pdf(text: str, footer: str) -> bytes:
    """Return the PDF of a text; each page ends with the footer and its number."""
    lines = [part for line in text.splitlines() for part in _wrapped(line)]
    pages = [lines[at : at + LINES] for at in range(0, len(lines), LINES)] or [[]]
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier /Encoding /WinAnsiEncoding >>"
    kids = " ".join(f"{4 + 2 * at} 0 R" for at in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        font,
    ]
    for number, page in enumerate(pages, 1):
        content = _content(page, f"{footer}  {number}/{len(pages)}")
        resources = f"/Resources << /Font << /F 3 0 R >> >> /Contents {3 + 2 * number} 0 R"
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] {resources} >>".encode())
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    return _file(objects)


def _file(objects: list[bytes]) -> bytes:
    """Number the objects from 1, and write where each begins (7.5.4)."""
    out, places = bytearray(_HEAD), []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)


def _content(lines: list[str], footer: str) -> bytes:
    shown = b"".join(b"(%s) Tj T*\n" % _string(line) for line in lines)
    return b"BT /F 9 Tf 11 TL 42 790 Td\n%sET\nBT /F 7 Tf 42 36 Td (%s) Tj ET" % (shown, _string(footer))


def _string(text: str) -> bytes:
    """7.3.4.2: parentheses and backslashes are escaped."""
    octets = _plain(text).encode("cp1252")
    return octets.replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")


def _plain(text: str) -> str:
    return "".join(character if _shown(character) else f"\\u{{{ord(character):x}}}" for character in text)


def _shown(character: str) -> bool:
    try:
        character.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return character.isprintable()


def _wrapped(line: str) -> list[str]:
    if len(_plain(line)) <= COLUMNS:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.wrap(
        _plain(line), COLUMNS, subsequent_indent=indent, drop_whitespace=True, replace_whitespace=False
    )
