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
Place: TypeAlias = tuple[tuple[str, int], ...]
"""Which element of which array a leaf was found in: pairs of path and index, outermost first."""

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
    leaves: dict[str, list[tuple[Any, Place]]] = {}
    _flatten(event, "", (), leaves)
    return any(_ways(list(pattern.parts), leaves, {}, [MAX_COMBINATIONS]))


def _group(pattern: Mapping[str, object], path: tuple[str, ...]) -> Group:
    if not pattern:
        raise InvalidPattern("Empty objects are not allowed")
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
            raise InvalidPattern(f'"{key}" must be an object or an array')
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
        raise InvalidPattern("Empty arrays are not allowed")
    present = [compile_matcher(value) for value in values if value != {"exists": False}]
    return Field(path, tuple(present), absent=len(present) < len(values))


def _flatten(value: object, path: str, place: Place, leaves: dict[str, list[tuple[Any, Place]]]) -> None:
    """Collect the leaves below a value. Iterative, for an event may be nested deeply."""
    todo: list[tuple[object, str, Place]] = [(value, path, place)]
    while todo:
        here, path, place = todo.pop()
        if isinstance(here, dict):
            for key, inner in here.items():
                todo.append((inner, f"{path}.{key}" if path else key, place))
        elif isinstance(here, list):
            for index, inner in enumerate(here):
                # The elements of an array of scalars are one set of values, not places.
                inside = (*place, (path, index)) if isinstance(inner, dict) else place
                todo.append((inner, path, inside))
        else:
            leaves.setdefault(path, []).append((here, place))


def _ways(
    parts: list[Field | Either], leaves: Leaves, chosen: dict[str, int], budget: list[int]
) -> Iterator[bool]:
    """Each way to make the parts hold, with the array elements that were chosen so far."""
    if not parts:
        yield True
        return
    part, rest = parts[0], parts[1:]
    if isinstance(part, Either):
        for group in part.groups:
            yield from _ways([*group.parts, *rest], leaves, chosen, budget)
        return
    found = leaves.get(part.path, ())
    if part.absent and not found:
        yield from _ways(rest, leaves, chosen, budget)
    tried: set[Place] = set()
    for value, place in found:
        if place in tried or not any(matcher(value) for matcher in part.matchers):
            continue
        tried.add(place)
        budget[0] -= 1
        if budget[0] < 0:
            return
        if all(chosen.get(array, index) == index for array, index in place):
            yield from _ways(rest, leaves, {**chosen, **dict(place)}, budget)
