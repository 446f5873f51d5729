"""Takes out of a JSON text the leaves that patterns ask for, and looks through the rest. Pure.

A path leads through objects and the elements of arrays to leaves: strings, numbers, booleans, null. Only
what lies on a wanted path is ever decoded, so a large event costs as much as a look through its bytes, and
a hostile one is given up after so many elements and bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import astuple

from millstream.contract.outside_json import read

Place: TypeAlias = tuple[tuple[int, int], ...]
"""Which element of which array a leaf was found in: pairs of array and index, outermost first."""

Leaves: TypeAlias = Mapping[str, list[tuple[Any, Place]]]

MOST_ELEMENTS = 10_000
"""Elements of arrays on wanted paths that are looked at, of one record."""

MOST_COMMAS = 20 * MOST_ELEMENTS
"""An array with more of these in its text is not taken apart to count its elements."""

MOST_LOOKS = 8
"""A record's bytes may be looked through so often, all its levels of nesting together."""

SLOWLY_READ_BYTES = 256 * 1024
"""Largest text that is read slowly, where it is JSON of a kind that msgspec refuses: a few milliseconds."""

_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_REFUSED = (msgspec.MsgspecError, UnicodeError, RecursionError)
_ABSENT = msgspec.Raw(b"")


class Undecided(Exception):
    """A record is too large or too entangled for its leaves to be found, or tried, within bounds."""


@dataclass(slots=True)
class Budget:
    """The budget that one record has."""

    left_bytes: int
    elements: int = MOST_ELEMENTS

    def spend(self, size: int) -> None:
        """Pay for a look through so many bytes. Raises Undecided."""
        self.left_bytes -= size
        if self.left_bytes < 0:
            raise Undecided(f"nested so that its bytes are looked through more than {MOST_LOOKS} times")

    def take_apart(self, text: bytes) -> list[msgspec.Raw]:
        """The elements of an array. Raises Undecided."""
        self.spend(len(text))
        if len(text) > MOST_COMMAS and text.count(b",") > MOST_COMMAS:
            raise Undecided(f"an array of more than {MOST_ELEMENTS} elements on a filtered path")
        elements = _elements(text)
        self.count(len(elements))
        return elements

    def count(self, elements: int) -> None:
        """Pay for elements. Raises Undecided."""
        self.elements -= elements
        if self.elements < 0:
            raise Undecided(f"more than {MOST_ELEMENTS} elements on filtered paths")


def budget_of(size_bytes: int) -> Budget:
    """Return the budget of a record of that size."""
    return Budget(MOST_LOOKS * size_bytes + SLOWLY_READ_BYTES)


@dataclass(slots=True)
class _Node:
    """A place on the way to wanted leaves."""

    leaf: bool = False  # wanted itself
    keys: list[tuple[str, str]] = field(default_factory=list)  # of an object here, and where they lead
    values: Callable[[bytes], list[bytes]] = lambda text: []  # of these keys; empty for one that is absent


class Picker:
    """Picks the leaves at some paths, with dots between their keys; a key may have dots itself."""

    def __init__(self, paths: Iterable[str], root: str = "") -> None:
        self._root = f".{root}" if root else ""
        self._nodes: dict[str, _Node] = {}  # by path with a dot before each key, so that an empty key is one
        wanted = sorted({f".{path}" for path in paths})
        todo = [self._root]
        while todo:
            here = todo.pop()
            if here in self._nodes:
                continue
            node = self._nodes[here] = _Node(leaf=here in wanted)
            node.keys = _keys(here, wanted)
            node.values = _values([key for key, _ in node.keys])
            todo += [path for _, path in node.keys]

    def pick(self, text: bytes, budget: Budget) -> Leaves:
        """The leaves of a JSON text.

        Raises:
            NotJson: it is none.
            Undecided: the budget is spent.
        """
        try:
            return self._picked(text, budget)
        except _REFUSED:
            return self._walked(_slowly(text), budget)

    def _picked(self, text: bytes, budget: Budget) -> Leaves:
        leaves: dict[str, list[tuple[Any, Place]]] = {}
        arrays = 0
        todo: list[tuple[bytes, str, Place]] = [(text.strip(b" \t\r\n"), self._root, ())]
        while todo:
            here, path, place = todo.pop()
            node, first = self._nodes[path], here[:1]
            if first == b"{":
                budget.spend(len(here))
                for (_, inner), value in zip(node.keys, node.values(here), strict=True):
                    if value:
                        todo.append((value, inner, place))
            elif first == b"[":
                arrays += 1
                for index, raw in enumerate(budget.take_apart(here)):
                    element = bytes(raw)
                    # The elements of an array of scalars are one set of values, not places.
                    if element[:1] in (b"{", b"["):
                        todo.append((element, path, (*place, (arrays, index))))
                    elif node.leaf:
                        leaves.setdefault(path[1:], []).append((read(element), place))
            else:
                value = read(here)
                if node.leaf:
                    leaves.setdefault(path[1:], []).append((value, place))
        return leaves

    def _walked(self, value: object, budget: Budget) -> Leaves:
        """The same of a decoded value."""
        leaves: dict[str, list[tuple[Any, Place]]] = {}
        arrays = 0
        todo: list[tuple[object, str, Place]] = [(value, self._root, ())]
        while todo:
            here, path, place = todo.pop()
            node = self._nodes[path]
            if isinstance(here, dict):
                todo += [(here[key], inner, place) for key, inner in node.keys if key in here]
            elif isinstance(here, list):
                arrays += 1
                budget.count(len(here))
                for index, inner in enumerate(here):
                    inside = (*place, (arrays, index)) if isinstance(inner, dict | list) else place
                    todo.append((inner, path, inside))
            elif node.leaf:
                leaves.setdefault(path[1:], []).append((here, place))
        return leaves


class RawAt:
    """Finds the text of the value at one path through objects."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = keys
        self._steps = [_values([key]) for key in keys]

    def find(self, text: bytes) -> list[bytes]:
        """The texts of the objects on the way, and of the value; as many as there are.

        Raises:
            NotJson: it is none.
            Undecided: it is too large to be read slowly, which it has to be.
        """
        found: list[bytes] = []
        try:
            for step in self._steps:
                if text.lstrip()[:1] != b"{":
                    break
                (text,) = step(text)
                if not text:
                    break
                found.append(text)
        except _REFUSED:
            return self._walk(_slowly(text), self._keys[len(found) :], found)
        return found

    def _walk(self, value: object, keys: tuple[str, ...], found: list[bytes]) -> list[bytes]:
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                break
            value = value[key]
            found.append(json.dumps(value).encode())
        return found


def _slowly(text: bytes) -> Any:
    """The value of a text that msgspec refuses. Raises NotJson and Undecided."""
    if len(text) > SLOWLY_READ_BYTES:
        raise Undecided("no JSON, or of a kind that is too slow to read at its size")
    return read(text)


def _keys(here: str, wanted: list[str]) -> list[tuple[str, str]]:
    """Keys of an object at a place that lead on to wanted paths, and where they lead."""
    start = f"{here}."
    keys: dict[str, str] = {}
    for path in wanted:
        if path.startswith(start):
            rest = path[len(start) :]
            ends = [place for place, character in enumerate(rest) if character == "."] + [len(rest)]
            keys |= {rest[:end]: start + rest[:end] for end in ends}
    return list(keys.items())


def _values(keys: list[str]) -> Callable[[bytes], list[bytes]]:
    """Takes the texts of the values of these keys out of the text of an object; an absent one is empty."""
    names = [f"f{number}" for number in range(len(keys))]
    fields = [
        (name, msgspec.Raw, msgspec.field(default=_ABSENT, name=key))
        for name, key in zip(names, keys, strict=True)
    ]
    try:
        decode = msgspec.json.Decoder(msgspec.defstruct("Picked", fields)).decode
    except ValueError:  # a key with characters that JSON escapes
        return lambda text: [bytes(found.get(key, _ABSENT)) for found in [_object(text)] for key in keys]
    return lambda text: [bytes(raw) for raw in astuple(decode(text))]
