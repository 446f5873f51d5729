"""FilterCriteria of a mapping: patterns over the records of its source. Pure.

The data of a record is decoded on a copy; what the function sees is never touched.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.contract.options import shown
from millstream.contract.ports import DataFormat, FilterRules, Mismatch
from millstream.contract.records import Record
from millstream.mappings.matchers import InvalidPattern
from millstream.mappings.patterns import Group, compile_pattern, matches

PATTERN_CHARACTERS = 4096
MAX_FILTERS = 10
"""AWS's quota is 5 and can be raised to 10. Source: AWS, CreateEventSourceMapping, FilterCriteria."""

_NOT_THERE = object()


@dataclass(frozen=True, slots=True)
class _Filter:
    """One pattern; `wants_json` None: it says nothing of the data."""

    whole: Group
    without_data: Group | None  # None: it says nothing but of the data
    wants_json: bool | None


class Filters:
    """The patterns of one mapping, OR-ed; falsy if there are none, and then every record matches."""

    def __init__(self, filters: Sequence[_Filter], rules: FilterRules) -> None:
        self._filters = filters
        self._rules = rules

    def __bool__(self) -> bool:
        return bool(self._filters)

    def matches(self, record: Record) -> bool:
        """True if any pattern holds. Never raises, whatever the record holds."""
        if not self._filters:
            return True
        event: dict[str, Any] = msgspec.json.decode(record.event)
        data, is_json = self._decoded(event)
        view = self._view(event, data)
        return any(self._holds(each, view, data, is_json) for each in self._filters)

    def _holds(self, each: _Filter, view: object, data: object, is_json: bool) -> bool:
        if each.wants_json is None or (data is not _NOT_THERE and each.wants_json == is_json):
            return matches(each.whole, view)
        if self._rules.mismatch is Mismatch.DROP:
            return False
        return each.without_data is None or matches(each.without_data, view)

    def _decoded(self, event: dict[str, Any]) -> tuple[object, bool]:
        """The record's data as patterns see it, and whether it is a JSON object."""
        data: Any = event
        for key in self._rules.data_path:
            if not isinstance(data, dict) or key not in data:
                return _NOT_THERE, False
            data = data[key]
        if self._rules.data_format is DataFormat.JSON:
            return data, isinstance(data, dict)
        try:
            text = base64.b64decode(data, validate=True) if self._base64 else data.encode()
            text.decode()
        except (ValueError, AttributeError, TypeError):  # not base64, not UTF-8, not text
            return _NOT_THERE, False
        try:
            decoded = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return text.decode(), False
        # A bare number or string in JSON is text as well: patterns of strings are for it.
        return (decoded, True) if isinstance(decoded, dict | list) else (text.decode(), False)

    @property
    def _base64(self) -> bool:
        return self._rules.data_format is DataFormat.BASE64

    def _view(self, event: dict[str, Any], data: object) -> dict[str, Any]:
        """The event with its data under the data key, and what lies beside the data at the top as well."""
        view = dict(event)
        parent: Any = event
        for key in self._rules.data_path[:-1]:
            parent = parent.get(key, {}) if isinstance(parent, dict) else {}
        if parent is not event and isinstance(parent, dict):
            view = {**parent, **view}
        view.pop(self._rules.data_key, None)
        if data is not _NOT_THERE:
            view[self._rules.data_key] = data
        return view


def compile_filters(filters: Sequence[object], rules: FilterRules) -> Filters:
    """The compiled filters; each is a dictionary, or its JSON text.

    Raises:
        InvalidConfiguration: with one problem for each wrong filter.
    """
    problems = []
    compiled = []
    if len(filters) > MAX_FILTERS:
        problems.append(Problem("", "filters", f"at most {MAX_FILTERS} filters", str(len(filters))))
    for number, declared in enumerate(filters):
        try:
            compiled.append(_compile(_pattern(declared), rules))
        except InvalidPattern as invalid:
            wanted = f"a valid filter pattern ({invalid})"
            problems.append(Problem("", f"filters.{number}", wanted, shown(declared)))
    if problems:
        raise InvalidConfiguration(problems)
    return Filters(compiled, rules)


def _pattern(declared: object) -> object:
    text = declared if isinstance(declared, str) else json.dumps(declared)
    if len(text) > PATTERN_CHARACTERS:
        raise InvalidPattern(f"at most {PATTERN_CHARACTERS} characters, not {len(text)}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidPattern(f"not JSON: {error}") from None


def _compile(pattern: object, rules: FilterRules) -> _Filter:
    try:
        whole = compile_pattern(pattern)
    except RecursionError:
        raise InvalidPattern("nested too deeply") from None
    assert isinstance(pattern, dict)
    key = rules.data_key
    dotted = any(name.startswith(f"{key}.") for name in pattern)
    if key not in pattern and not dotted:
        return _Filter(whole, whole, None)
    wants_json = dotted or isinstance(pattern[key], dict)
    rest = {name: part for name, part in pattern.items() if name != key and not name.startswith(f"{key}.")}
    return _Filter(whole, compile_pattern(rest) if rest else None, wants_json)
