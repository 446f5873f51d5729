"""Compiles one event pattern into predicates on the flattened leaves of an event. Pure.

    pattern := object;  object := { key: object | [matcher, …] };  keys AND-ed, matchers OR-ed
    "$or"   := [object, object, …]

Events are looked at as EventBridge does: a path leads through objects and the elements of arrays to
leaves (strings, numbers, booleans, null); fields of one pattern that meet the same array must be
found in the same element of it.

Source: Amazon EventBridge, "Creating Amazon EventBridge event patterns"; AWS, "Control which events
Lambda sends to your function", filter rule syntax. The test vectors are in tests/mappings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from millstream.mappings.matchers import OPERATORS, InvalidPattern, Matcher, compile_matcher

Leaf: TypeAlias = "str | int | float | bool | None"
Place: TypeAlias = tuple[tuple[int, int], ...]
"""Which element of which array a leaf was found in: pairs of array and index, outermost first."""

MAX_COMBINATIONS = 10_000
"""Array elements that one pattern may try together; beyond it nothing matches."""


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


Leaves: TypeAlias = Mapping[str, list[tuple[Any, Place]]]
Chosen: TypeAlias = Mapping[int, int]  # of arrays that fields have met: the element that all of them share


def compile_pattern(pattern: object) -> Group:
    """The compiled form of a decoded pattern.

    Raises:
        InvalidPattern: with EventBridge's reason.
    """
    if not isinstance(pattern, dict):
        raise InvalidPattern("Filter is not an object")
    return _group(pattern, ())


def matches(pattern: Group, event: object) -> bool:
    """True if the pattern holds for a decoded event. Never raises, whatever the event holds."""
    leaves = _flatten(event)
    entangled: list[Field | Either] = []
    for part in pattern.parts:
        if isinstance(part, Either) or any(place for _, place in leaves.get(part.path, ())):
            entangled.append(part)
        elif not any(True for _ in _choices(part, leaves, {}, [MAX_COMBINATIONS])):
            return False
    return not entangled or any(True for _ in _solutions(entangled, leaves, {}, [MAX_COMBINATIONS]))


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


def _flatten(event: object) -> Leaves:
    """The leaves of an event by path. Iterative, for an event may be nested deeply."""
    leaves: dict[str, list[tuple[Any, Place]]] = {}
    arrays = 0
    todo: list[tuple[object, str, Place]] = [(event, "", ())]
    while todo:
        here, path, place = todo.pop()
        if isinstance(here, dict):
            for key, inner in here.items():
                todo.append((inner, f"{path}.{key}" if path else key, place))
        elif isinstance(here, list):
            arrays += 1
            for index, inner in enumerate(here):
                # The elements of an array of scalars are one set of values, not places.
                inside = (*place, (arrays, index)) if isinstance(inner, dict | list) else place
                todo.append((inner, path, inside))
        else:
            leaves.setdefault(path, []).append((here, place))
    return leaves


def _solutions(
    parts: list[Field | Either], leaves: Leaves, chosen: Chosen, budget: list[int]
) -> Iterator[Chosen]:
    """Each way to make the parts hold: `chosen`, with the array elements that it needs besides."""
    if not parts:
        yield chosen
        return
    for extended in _choices(parts[0], leaves, chosen, budget):
        yield from _solutions(parts[1:], leaves, extended, budget)
        if extended == chosen:
            return  # it binds nothing, so where the rest fails no other choice can help


def _choices(part: Field | Either, leaves: Leaves, chosen: Chosen, budget: list[int]) -> Iterator[Chosen]:
    """Each way to make one part hold."""
    if isinstance(part, Either):
        for group in part.groups:
            yield from _solutions(list(group.parts), leaves, chosen, budget)
        return
    found = leaves.get(part.path, ())
    if part.absent and not found:
        yield chosen
    tried: set[Place] = set()
    for value, place in found:
        if place in tried or not any(matcher(value) for matcher in part.matchers):
            continue
        tried.add(place)
        budget[0] -= 1
        if budget[0] < 0:
            return
        if all(chosen.get(array, index) == index for array, index in place):
            yield {**chosen, **dict(place)} if place else chosen
