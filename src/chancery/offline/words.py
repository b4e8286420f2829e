"""
A fingerprint that is read aloud: seventeen short words, the last of which checks the others.

The first sixteen are the octets of the first half of a SHA-256, one word each (128 bits); the last is one octet
of the hash of those sixteen, so that a word misheard, left out or moved is noticed before anything is compared.
The list is our own: 256 common words of four to seven letters, no two of which begin with the same four letters or
differ in one letter.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from chancery.offline.bundle import fingerprint

WORDS: Final = tuple(
    """
    acorn actor adult agent album alley amber anchor ankle apple apron arena armor arrow aspen atlas attic aunt
    autumn awake badge bagel baker bamboo banjo barley basil beaver bench berry bison blanket bloom board bonus
    border bottle brave bread brick bronze brush bucket butter cabin cactus camel candle canoe cargo carpet
    castle cedar cello cement chalk cheese cherry chimney circle citrus clay clover coach cobalt coffee comet
    copper coral cotton cousin crane cricket crown cube curtain cycle daisy dance debit decade delta desert
    dinner dolphin donkey dozen dragon drum duchess eagle earth easel echo eight elbow elder empire engine
    equal escape evening extra fabric falcon farmer feather fence fiddle finger flame flute forest fossil
    fourth frost fungus gallon garden gentle glacier globe gnome goblet golden gravel grocer guitar gypsum
    hammer harbor hazel helmet heron hidden hockey honey hotel human hunter hybrid iceberg iguana inch indigo
    infant iron island ivory jacket jaguar jelly jewel jigsaw jungle junior kayak kernel kettle kidney kiosk
    kitten knight koala ladder lagoon lantern laurel lemon letter lilac linen lizard lobster lunar magnet mango
    marble meadow melon metal midday mirror mohair mosaic muffin mustard napkin nectar needle nephew nickel
    noodle nougat number nutmeg oasis object ocean octave office olive onion opera orange orbit orchid osprey
    otter oxygen oyster palace parrot pebble pencil pepper piano picnic pigeon pilot planet plume pocket pollen
    potato prism puzzle quarry quill rabbit radish ranch ribbon river robin saddle salmon sandal school shadow
    silver siren spider spruce sugar summit temple thunder tiger tomato trumpet velvet violin walnut window
    zebra
    """.split()  # noqa: SIM905 - a list to be read
)


def words(data: bytes) -> str:
    """Return the seventeen words that `data` reads as."""
    half = hashlib.sha256(data).digest()[:16]
    return " ".join(WORDS[octet] for octet in (*half, _check(half)))


def same_fingerprint(said: str, data: bytes) -> bool:
    """
    Tell whether somebody said the fingerprint of `data`, in digits or words, however spaced; in constant time.

    Raises ValueError for words that were misheard or mistyped: they are nobody's fingerprint.
    """
    parts = said.lower().replace("-", " ").split()
    if any(part.isalpha() for part in parts):
        said_words = [_octet(part) for part in parts]
        if len(said_words) != 17 or said_words[-1] != _check(bytes(said_words[:-1])):
            raise ValueError("the last word does not fit the others: one was misheard, left out or moved")
        return hmac.compare_digest(" ".join(parts).encode(), words(data).encode())
    return hmac.compare_digest("".join(parts).encode(), fingerprint(data).replace(" ", "").encode())


def _octet(word: str) -> int:
    try:
        return WORDS.index(word)
    except ValueError:
        raise ValueError(f"{word!r} is not a word of a fingerprint") from None


def _check(half: bytes) -> int:
    return hashlib.sha256(b"chancery words/1" + half).digest()[0]
