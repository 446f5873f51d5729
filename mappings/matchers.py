"""The matchers of event patterns: literals and operators, each compiled to a predicate on a leaf. Pure.

Messages of InvalidPattern are EventBridge's own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any, TypeAlias

Matcher: TypeAlias = Callable[[Any], bool]

NUMERIC_LIMIT = 5e9
WILDCARD_LIMIT = 5
"""More wildcards than this in one pattern are too complex, as recorded for six."""


class InvalidPattern(Exception):
    """A pattern is wrong; the message says how, `path` where in it (empty: as a whole)."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason)
        self.path = path


def compile_matcher(value: object) -> Matcher:
    """The predicate of one element of a leaf's array; `{"exists": false}` is the caller's.

    Raises:
        InvalidPattern: with EventBridge's reason.
    """
    if isinstance(value, dict):
        if len(value) != 1:
            raise InvalidPattern("Only one key allowed in match expression")
        ((operator, argument),) = value.items()
        if operator not in _COMPILERS:
            raise InvalidPattern(f"Unrecognized match type {operator}")
        return _COMPILERS[operator](argument)
    if isinstance(value, list):
        raise InvalidPattern("Match value must be String, number, true, false, or null")
    return _literal(value)


def is_number(value: object) -> bool:
    """True for JSON numbers; booleans are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _literal(wanted: object) -> Matcher:
    if is_number(wanted):
        return lambda value: is_number(value) and value == wanted
    if wanted is None or isinstance(wanted, bool):
        return lambda value: value is wanted
    return lambda value: isinstance(value, str) and value == wanted


def _affix(kind: str, argument: object) -> Matcher:
    """prefix and suffix, with and without equals-ignore-case."""
    folded = False
    if isinstance(argument, dict) and list(argument) == ["equals-ignore-case"]:
        argument, folded = argument["equals-ignore-case"], True
    if not isinstance(argument, str):
        raise InvalidPattern(f"{kind} match pattern must be a string")
    text, size = argument, len(argument)
    if folded and kind == "prefix":
        return lambda value: isinstance(value, str) and _alike(value[:size], text)
    if folded:
        return lambda value: isinstance(value, str) and _alike(value[max(len(value) - size, 0) :], text)
    test = str.startswith if kind == "prefix" else str.endswith
    return lambda value: isinstance(value, str) and test(value, text)


def _alike(one: str, other: str) -> bool:
    """True if two texts differ in the case of their characters at most.

    Character by character, as Amazon EventBridge's matcher compares: "ß" is neither "ss" nor "SS".
    Source: aws/event-ruler, equals-ignore-case.
    """
    return len(one) == len(other) and all(
        a == b or a.lower() == b.lower() or a.upper() == b.upper() for a, b in zip(one, other, strict=True)
    )


def _prefix(argument: object) -> Matcher:
    return _affix("prefix", argument)


def _suffix(argument: object) -> Matcher:
    return _affix("suffix", argument)


def _equals_ignore_case(argument: object) -> Matcher:
    if not isinstance(argument, str):
        raise InvalidPattern("equals-ignore-case match pattern must be a string")
    return lambda value: isinstance(value, str) and _alike(value, argument)


def _exists(argument: object) -> Matcher:
    if not isinstance(argument, bool):
        raise InvalidPattern("exists match pattern must be either true or false.")
    return lambda value: argument  # {"exists": false} on a leaf that is there: no


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _numeric(argument: object) -> Matcher:
    if not isinstance(argument, list):
        raise InvalidPattern("Value of numeric must be an array.")
    if len(argument) not in (2, 4):
        raise InvalidPattern("Invalid member in numeric match: wanted [op, number] or [op, low, op, high]")
    tests = []
    for operator, bound in zip(argument[::2], argument[1::2], strict=True):
        if not isinstance(operator, str) or operator not in _COMPARE:
            raise InvalidPattern(f"Unrecognized numeric range operator: {operator}")
        if not is_number(bound):
            raise InvalidPattern(f"Value of {operator} must be numeric")
        if not -NUMERIC_LIMIT <= bound <= NUMERIC_LIMIT:
            raise InvalidPattern(f"Value of {operator} must be between -5.0e9 and 5.0e9")
        tests.append((_COMPARE[operator], bound))
    if len(argument) == 4:
        if argument[0] not in (">", ">="):
            raise InvalidPattern(f"Bad numeric range operator: {argument[0]}")
        if argument[2] not in ("<", "<="):
            raise InvalidPattern(f"Bad numeric range operator: {argument[2]}")
        if argument[1] >= argument[3]:
            raise InvalidPattern("Bottom must be less than top")
    return lambda value: is_number(value) and all(test(value, bound) for test, bound in tests)


def _wildcard(argument: object) -> Matcher:
    if not isinstance(argument, str):
        raise InvalidPattern("wildcard match pattern must be a string")
    pieces, position = [""], 0
    while position < len(argument):
        character = argument[position]
        if character == "\\":
            if argument[position + 1 : position + 2] not in ("*", "\\"):
                raise InvalidPattern(f"Invalid escape character at pos {position}")
            position += 1
            pieces[-1] += argument[position]
        elif character == "*":
            if argument[position + 1 : position + 2] == "*":
                raise InvalidPattern(f"Consecutive wildcard characters at pos {position}")
            pieces.append("")
        else:
            pieces[-1] += character
        position += 1
    if len(pieces) - 1 > WILDCARD_LIMIT:
        reason = "try using fewer wildcard characters or fewer repeating character sequences"
        raise InvalidPattern(f"Rule is too complex - {reason} after a wildcard character")
    return lambda value: isinstance(value, str) and _fits(value, pieces)


def _fits(value: str, pieces: list[str]) -> bool:
    """True if the pieces stand in the value in order, the first at its start and the last at its end.

    Cost: linear, where a regular expression would go back and forth over a hostile value.
    """
    if len(pieces) == 1:
        return value == pieces[0]
    first, *middle, last = pieces
    end = len(value) - len(last)
    if not value.startswith(first) or not value.endswith(last) or end < len(first):
        return False
    position = len(first)
    for piece in middle:
        found = value.find(piece, position, end)
        if found < 0:
            return False
        position = found + len(piece)
    return True


def _cidr(argument: object) -> Matcher:
    if not isinstance(argument, str):
        raise InvalidPattern("prefix match pattern must be a string")
    address, slash, bits = argument.partition("/")
    if not slash or "/" in bits:
        raise InvalidPattern("Malformed CIDR, one '/' required")
    if not bits.isdecimal():
        raise InvalidPattern("Malformed CIDR, mask bits must be an integer")
    try:
        network = ipaddress.ip_network(argument, strict=False)
    except ValueError:
        raise InvalidPattern(f"Nonstandard IP address: {address}") from None

    def inside(value: object) -> bool:
        try:
            return isinstance(value, str) and ipaddress.ip_address(value) in network
        except ValueError:
            return False

    return inside


def _anything_but(argument: object) -> Matcher:
    if isinstance(argument, dict):
        return _anything_but_operator(argument)
    values = argument if isinstance(argument, list) else [argument]
    if not isinstance(argument, list | str) and not is_number(argument):
        raise InvalidPattern("Value of anything-but must be an array or single string/number value.")
    strings = all(isinstance(value, str) for value in values)
    if not values or not (strings or all(is_number(value) for value in values)):
        raise InvalidPattern("Inside anything but list, start|null|boolean is not supported.")
    tests = [_literal(value) for value in values]
    return lambda value: not any(test(value) for test in tests)


def _anything_but_operator(argument: dict[str, object]) -> Matcher:
    if len(argument) != 1:
        raise InvalidPattern("Only one key allowed in match expression")
    ((operator, inner),) = argument.items()
    if operator not in ("prefix", "suffix", "equals-ignore-case", "wildcard"):
        raise InvalidPattern(f"Unsupported anything-but pattern: {operator}")
    values = inner if isinstance(inner, list) else [inner]
    if not values or not all(isinstance(value, str) for value in values):
        reasons = {
            "prefix": "prefix/suffix match pattern must be a string",
            "suffix": "prefix/suffix match pattern must be a string",
            "wildcard": "wildcard match pattern must be a string",
            "equals-ignore-case": (
                "Inside anything-but/equals-ignore-case list, number|start|null|boolean is not supported."
            ),
        }
        raise InvalidPattern(reasons[operator])
    if operator in ("prefix", "suffix") and "" in values:
        raise InvalidPattern("Null prefix/suffix not allowed")
    tests = [_COMPILERS[operator](value) for value in values]
    return lambda value: not any(test(value) for test in tests)


_COMPILERS: dict[str, Callable[[object], Matcher]] = {
    "anything-but": _anything_but,
    "cidr": _cidr,
    "equals-ignore-case": _equals_ignore_case,
    "exists": _exists,
    "numeric": _numeric,
    "prefix": _prefix,
    "suffix": _suffix,
    "wildcard": _wildcard,
}
OPERATORS = frozenset(_COMPILERS)
