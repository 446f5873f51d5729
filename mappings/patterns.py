"""Compiles one event pattern into predicates on the flattened leaves of an event. Pure.

    pattern := object;  object := { key: object | [matcher, …] };  keys AND-ed, matchers OR-ed
    "$or"   := [object, object, …]

Events are looked at as EventBridge does: fields of one pattern that meet the same array must be found in
the same element of it. `leaves` finds what a pattern asks for.

Source: Amazon EventBridge, "Creating Amazon EventBridge event patterns"; AWS, "Control which events
Lambda sends to your function", filter rule syntax. The test vectors are in tests/mappings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from millstream.mappings.leaves import Leaves, Place, Undecided
from millstream.mappings.matchers import OPERATORS, InvalidPattern, Matcher, compile_matcher

MOST_TRIES = 20_000
"""Values that all patterns of a mapping may try on one record; what is left undecided then is delivered."""


@dataclass(frozen=True, slots=True)
class Field:
    """A leaf of a pattern: what must hold of the values at a path."""

    path: str
    matchers: tuple[Matcher, ...]
    absent: bool  # one of the matchers is {"exists": false}


@dataclass(frozen=True, slots=True)
class Either:
    """A "$or": one of these groups must hold."""

    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Fields and alternatives that must all hold."""

    parts: tuple[Field | Either, ...]


Chosen: TypeAlias = Mapping[int, int]  # of arrays that fields have met: the element that all of them share


def compile_pattern(pattern: object) -> Group:
    """The compiled form of a decoded pattern.

    Raises:
        InvalidPattern: with EventBridge's reason.
    """
    if not isinstance(pattern, dict):
        raise InvalidPattern("Filter is not an object")
    return _group(pattern, ())


def paths(group: Group) -> Iterator[str]:
    """All paths that a pattern asks for."""
    for part in group.parts:
        if isinstance(part, Either):
            for alternative in part.groups:
                yield from paths(alternative)
        else:
            yield part.path


class Tries:
    """The number of values that may still be tried on one record."""

    def __init__(self, most: int = MOST_TRIES) -> None:
        self._left = most

    def spend(self) -> None:
        """Pay for one value. Raises Undecided."""
        self._left -= 1
        if self._left < 0:
            raise Undecided(f"more than {MOST_TRIES} values to try")


def matches(pattern: Group, leaves: Leaves, tries: Tries) -> bool:
    """True if the pattern holds for an event's leaves.

    Raises:
        Undecided: it takes too many tries.
    """
    entangled: list[Field | Either] = []
    found = _Found(leaves, tries)
    for part in pattern.parts:
        if isinstance(part, Either) or any(place for _, place in leaves.get(part.path, ())):
            entangled.append(part)
        elif not any(True for _ in _choices(part, found, {})):
            return False
    return not entangled or any(True for _ in _solutions(entangled, found, {}))


class _Found:
    """The leaves of an event, by path and by the element of an array that they lie in."""

    def __init__(self, leaves: Leaves, tries: Tries) -> None:
        self._leaves = leaves
        self._by_element: dict[str, dict[tuple[int, int] | None, list[tuple[Any, Place]]]] = {}
        self.tries = tries

    def any(self, path: str) -> bool:
        """True if there is a leaf at the path."""
        return path in self._leaves

    def at(self, path: str, chosen: Chosen) -> Iterable[tuple[Any, Place]]:
        """Leaves at a path; of an array of which an element is chosen, only those in that element."""
        found = self._leaves.get(path, ())
        if not chosen or not found or len(found) == 1:
            return found
        if path not in self._by_element:
            elements = self._by_element[path] = {}
            for leaf in found:
                elements.setdefault(leaf[1][0] if leaf[1] else None, []).append(leaf)
        elements = self._by_element[path]
        arrays = {element[0] for element in elements if element is not None}
        if len(arrays) == 1 and (array := arrays.pop()) in chosen:
            return [*elements.get(None, ()), *elements.get((array, chosen[array]), ())]
        return found


def _group(pattern: Mapping[str, object], path: tuple[str, ...]) -> Group:
    if not pattern:
        raise InvalidPattern("Empty objects are not allowed", ".".join(path))
    parts: list[Field | Either] = []
    for key, value in pattern.items():
        if key == "$or" and _is_or(value):
            assert isinstance(value, list)
            parts.append(Either(tuple(_group(alternative, path) for alternative in value)))
        elif isinstance(value, dict):
            parts += _group(value, (*path, key)).parts
        elif isinstance(value, list):
            parts.append(_field(".".join((*path, key)), value))
        else:
            raise InvalidPattern(f'"{key}" must be an object or an array', ".".join((*path, key)))
    return Group(tuple(parts))


def _is_or(value: object) -> bool:
    """Whether the value of "$or" makes it the operator, and not an ordinary field."""
    return (
        isinstance(value, list)
        and len(value) >= 2
        and all(isinstance(item, dict) and item and not OPERATORS & item.keys() for item in value)
    )


def _field(path: str, values: list[object]) -> Field:
    if not values:
        raise InvalidPattern("Empty arrays are not allowed", path)
    # By identity: 0 equals False, and is none.
    absent = [isinstance(value, dict) and value.get("exists") is False for value in values]
    try:
        matchers = [compile_matcher(value) for value in values]
    except InvalidPattern as invalid:
        raise InvalidPattern(str(invalid), path) from None
    present = [matcher for matcher, is_absent in zip(matchers, absent, strict=True) if not is_absent]
    return Field(path, tuple(present), absent=len(present) < len(values))


def _solutions(parts: list[Field | Either], found: _Found, chosen: Chosen) -> Iterator[Chosen]:
    """Each way to make the parts hold: `chosen`, with the array elements that it needs besides."""
    if not parts:
        yield chosen
        return
    for extended in _choices(parts[0], found, chosen):
        yield from _solutions(parts[1:], found, extended)
        if extended == chosen:
            return  # it binds nothing, so where the rest fails no other choice can help


def _choices(part: Field | Either, found: _Found, chosen: Chosen) -> Iterator[Chosen]:
    """Each way to make one part hold."""
    if isinstance(part, Either):
        for group in part.groups:
            yield from _solutions(list(group.parts), found, chosen)
        return
    if part.absent and not found.any(part.path):
        yield chosen
    tried: set[Place] = set()
    for value, place in found.at(part.path, chosen):
        found.tries.spend()
        if place in tried or not any(matcher(value) for matcher in part.matchers):
            continue
        tried.add(place)
        if all(chosen.get(array, index) == index for array, index in place):
            yield {**chosen, **dict(place)} if place else chosen
