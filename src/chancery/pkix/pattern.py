r"""
Regular expressions of profiles: a subset without back-references, matched in time linear in the value.

Python's own engine goes back and tries again, and a pattern such as `(a+)+b` makes it try for ever on a value
that a requestor chooses. Here a pattern becomes a nondeterministic automaton whose set of states is followed
through the value once (Thompson, 1968): at most `MAX_STATES` steps a character, whatever the pattern.

    pattern = branch *("|" branch)    branch = *(atom ["?" / "*" / "+" / "{m}" / "{m,n}" / "{m,}"])
    atom    = character / "." / "[" ["^"] ranges "]" / "\d" / "\w" / "\" character / "(" pattern ")"

A pattern stands for the whole value; `\d` is 0-9, `\w` is A-Z, a-z, 0-9 and the underscore.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable

MAX_PATTERN = 256
MAX_STATES = 2048
MAX_REPEAT = 256
_DIGITS = ((48, 57),)
_WORD = ((48, 57), (65, 90), (95, 95), (97, 122))
_ANY = ((0, 0x10FFFF),)
Ranges = tuple[tuple[int, int], ...]
# A node: characters, or a sequence, a choice or a repetition of nodes.
Node = tuple[str, object]


class Pattern:
    """
    A compiled pattern.

    Raises ValueError saying what is wrong with the text, or that it is too large.
    """

    def __init__(self, text: str) -> None:
        if not 1 <= len(text) <= MAX_PATTERN:
            raise ValueError(f"a pattern has 1 to {MAX_PATTERN} characters")
        self.text = text
        self._ranges: list[Ranges | None] = []
        self._next: list[list[int]] = []
        self._built = 0
        end = self._state(None)
        self._end = end
        start = self._build(_Parser(text).pattern(), end)
        self._start = self._closure((start,))

    def matches(self, value: str) -> bool:
        """Tell whether the whole value is one that the pattern describes."""
        states = self._start
        for one in map(ord, value):
            states = self._step(states, one)
            if not states:
                return False
        return self._end in states

    def example(self, wanted: Callable[[int], bool], longest: int, *, long: bool = False) -> str | None:
        """
        Return a shortest (or `long`: longest) value of at most `longest` characters that matches, or None.

        Only characters whose code point is `wanted` are used, letters and digits first.
        """
        layers = [dict.fromkeys(self._start, (-1, ""))]
        best = 0 if self._end in self._start else None
        while len(layers) <= longest and layers[-1] and (best is None or long):
            found: dict[int, tuple[int, str]] = {}
            for state in layers[-1]:
                ranges = self._ranges[state]
                if ranges is not None and (one := _choose(ranges, wanted)) is not None:
                    for target in self._closure(self._next[state]):
                        found.setdefault(target, (state, one))
            layers.append(found)
            if self._end in found:
                best = len(layers) - 1
        if best is None:
            return None
        value, state = "", self._end
        for layer in reversed(layers[1 : best + 1]):
            # Its predecessor in the layer before, by way of what an empty step joins.
            state, one = layer[state]
            value = one + value
        return value

    def _state(self, ranges: Ranges | None) -> int:
        if len(self._next) >= MAX_STATES:
            raise ValueError(f"the pattern needs more than {MAX_STATES} states")
        self._ranges.append(ranges)
        self._next.append([])
        return len(self._next) - 1

    def _build(self, node: Node, after: int) -> int:
        """Return the state from which `node` is read, going on to `after`."""
        kind, value = node
        # What is empty makes no states, and could be repeated for ever.
        self._built += 1
        if self._built > 8 * MAX_STATES:
            raise ValueError("the pattern repeats too much")
        if kind == "ranges":
            state = self._state(value)  # type: ignore[arg-type]  # as the parser made it
            self._next[state].append(after)
            return state
        if kind == "sequence":
            for one in reversed(value):  # type: ignore[call-overload]  # as the parser made it
                after = self._build(one, after)
            return after
        state = self._state(None)
        if kind == "choice":
            self._next[state] += [self._build(one, after) for one in value]  # type: ignore[attr-defined]  # same
            return state
        repeat = value
        assert isinstance(repeat, _Repeat)
        return self._repeat(repeat, state, after)

    def _repeat(self, repeat: _Repeat, state: int, after: int) -> int:
        least, most, node = repeat.least, repeat.most, repeat.node
        if most is None:
            # A loop: `state` is where one more begins, or the end.
            self._next[state] += [self._build(node, state), after]
            following = state
        else:
            following = after
            for _ in range(most - least):
                optional = self._state(None)
                self._next[optional] += [self._build(node, following), after]
                following = optional
        for _ in range(least):
            following = self._build(node, following)
        return following

    def _closure(self, states: Iterable[int]) -> frozenset[int]:
        found: set[int] = set()
        waiting = list(states)
        while waiting:
            state = waiting.pop()
            if state not in found:
                found.add(state)
                if self._ranges[state] is None:
                    waiting += self._next[state]
        return frozenset(found)

    def _step(self, states: frozenset[int], one: int) -> frozenset[int]:
        reached: list[int] = []
        for state in states:
            ranges = self._ranges[state]
            if ranges is not None and any(low <= one <= high for low, high in ranges):
                reached += self._next[state]
        return self._closure(reached)


@dataclasses.dataclass(frozen=True, slots=True)
class _Repeat:
    node: Node
    least: int
    most: int | None


def _choose(ranges: Ranges, wanted: Callable[[int], bool]) -> str | None:
    inside = [one for one in _PREFERRED if any(low <= one <= high for low, high in ranges)]
    inside += [one for low, high in ranges for one in range(low, min(high, low + 256) + 1)]
    return next((chr(one) for one in inside if wanted(one)), None)


_PREFERRED = tuple(map(ord, "a0AbB1zZ9.-_ @"))


class _Parser:
    """Recursive descent over a text of at most MAX_PATTERN characters, which bounds its depth."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def pattern(self) -> Node:
        node = self._branches()
        if self._at < len(self._text):
            raise ValueError(f"{self._text[self._at]!r} at {self._at + 1} is out of place")
        return node

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        one = self._peek()
        if not one:
            raise ValueError("the pattern ends in the middle")
        self._at += 1
        return one

    def _branches(self) -> Node:
        self._depth += 1
        if self._depth > 32:
            raise ValueError("groups are nested more than 32 deep")
        branches = [self._branch()]
        while self._peek() == "|":
            self._take()
            branches.append(self._branch())
        self._depth -= 1
        return branches[0] if len(branches) == 1 else ("choice", branches)

    def _branch(self) -> Node:
        found = []
        while self._peek() and self._peek() not in "|)":
            found.append(self._quantified(self._atom()))
        return "sequence", found

    def _quantified(self, node: Node) -> Node:
        bounds: dict[str, tuple[int, int | None]] = {"?": (0, 1), "*": (0, None), "+": (1, None)}
        if (mark := self._peek()) in bounds:
            self._take()
            least, most = bounds[mark]
        elif mark == "{":
            least, most = self._bounds()
        else:
            return node
        if self._peek() and self._peek() in "?*+{":
            raise ValueError("a repetition of a repetition: put it into a group")
        return "repeat", _Repeat(node, least, most)

    def _bounds(self) -> tuple[int, int | None]:
        end = self._text.find("}", self._at)
        first, comma, second = self._text[self._at + 1 : end].partition(",")
        if end < 0 or not first.isdecimal() or (second and not second.isdecimal()):
            raise ValueError("a repetition is {m}, {m,n} or {m,}")
        self._at = end + 1
        least = int(first)
        most = least if not comma else int(second) if second else None
        if least > MAX_REPEAT or (most is not None and not least <= most <= MAX_REPEAT):
            raise ValueError(f"a repetition is of at most {MAX_REPEAT}, and its first number the smaller")
        return least, most

    def _atom(self) -> Node:
        one = self._take()
        if one == "(":
            if self._text.startswith("?:", self._at):
                self._at += 2
            node = self._branches()
            if not self._peek():
                raise ValueError("a group is not closed")
            self._take()
            return node
        if one == "[":
            return "ranges", self._class()
        if one == ".":
            return "ranges", _ANY
        if one == "\\":
            return "ranges", self._escape()
        if one in "^$":
            raise ValueError("a pattern stands for the whole value: leave ^ and $ out")
        if one in "?*+{})]":
            raise ValueError(f"{one!r} at {self._at} is out of place; write \\{one} for the character")
        return "ranges", ((ord(one), ord(one)),)

    def _escape(self) -> Ranges:
        one = self._take()
        if one == "d":
            return _DIGITS
        if one == "w":
            return _WORD
        if one.isalnum():
            raise ValueError(f"\\{one} is not known here")
        return ((ord(one), ord(one)),)

    def _class(self) -> Ranges:
        negative = self._peek() == "^"
        if negative:
            self._take()
        found: list[tuple[int, int]] = []
        while (one := self._take()) != "]":
            if one == "[":
                raise ValueError("write \\[ for the character in a class")
            low = self._escape() if one == "\\" else ((ord(one), ord(one)),)
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._take()
                high = self._escape() if (last := self._take()) == "\\" else ((ord(last), ord(last)),)
                if len(low) != 1 or len(high) != 1 or low[0][0] > high[0][0]:
                    raise ValueError("a range in a class goes from one character up to another")
                low = ((low[0][0], high[0][0]),)
            found += low
        if not found:
            raise ValueError("an empty class")
        return _complement(found) if negative else tuple(found)


def _complement(ranges: list[tuple[int, int]]) -> Ranges:
    found, at = [], 0
    for low, high in sorted(ranges):
        if at < low:
            found.append((at, low - 1))
        at = max(at, high + 1)
    if at <= 0x10FFFF:
        found.append((at, 0x10FFFF))
    return tuple(found)


@functools.lru_cache(maxsize=256)
def compiled(text: str) -> Pattern:
    """Return the pattern of this text; ValueError when it is not one."""
    return Pattern(text)
