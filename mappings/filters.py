"""FilterCriteria of a mapping: patterns over the records of its source. Pure.

The data of a record is decoded on a copy; what the function sees is never touched.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, TypeAlias

import msgspec

from millstream.contract.clock import Clock
from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.contract.options import shown
from millstream.contract.ports import DataFormat, FilterRules, Mismatch
from millstream.contract.records import Record
from millstream.mappings.matchers import InvalidPattern
from millstream.mappings.patterns import Either, Field, Group, compile_pattern, matches

PATTERN_CHARACTERS = 4096
MAX_FILTERS = 10
"""AWS's quota is 5 and can be raised to 10. Source: AWS, CreateEventSourceMapping, FilterCriteria."""


SLICE_S = 0.003
"""How long the filters work before others have their turn."""


class _Data(Enum):
    """What the data of a record turned out to be."""

    JSON = "json"  # an object or an array
    TEXT = "text"
    UNREADABLE = "unreadable"  # not base64, or not UTF-8
    ABSENT = "absent"  # no data, or null


_Filter: TypeAlias = Mapping[_Data, Group | None]
"""What of a pattern must hold, by the data that a record has. None: nothing can match."""


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
        event = _event(record)
        kind, data = self._decoded(event)
        view = self._view(event, kind, data)
        groups = [each[kind] for each in self._filters]
        return any(group is not None and matches(group, view) for group in groups)

    async def split(
        self, records: Sequence[Record], clock: Clock
    ) -> tuple[Sequence[Record], Sequence[Record]]:
        """Records that match and records that do not; what the source itself refused goes on as well.

        Lets others run after each few milliseconds.
        """
        if not self._filters:
            return records, ()
        matched: list[Record] = []
        dropped: list[Record] = []
        slice_ends_at = clock.monotonic() + SLICE_S
        for record in records:
            goes_on = record.refused is not None or self.matches(record)
            (matched if goes_on else dropped).append(record)
            if clock.monotonic() >= slice_ends_at:
                await clock.sleep(0.0)
                slice_ends_at = clock.monotonic() + SLICE_S
        return matched, dropped

    def _decoded(self, event: dict[str, Any]) -> tuple[_Data, object]:
        """The record's data as patterns see it."""
        data: Any = event
        for key in self._rules.data_path:
            data = data.get(key) if isinstance(data, dict) else None
        if data is None:
            return _Data.ABSENT, None
        if self._rules.data_format is DataFormat.JSON:
            return _Data.JSON if isinstance(data, dict) else _Data.TEXT, data
        try:
            base64_ = self._rules.data_format is DataFormat.BASE64
            text = base64.b64decode(data, validate=True).decode() if base64_ else str(data)
        except (ValueError, TypeError):  # not base64, not UTF-8, not text
            return _Data.UNREADABLE, None
        decoded = _json(text)
        # A bare number or string in JSON is text as well: patterns of strings are for it.
        return (_Data.JSON, decoded) if isinstance(decoded, dict | list) else (_Data.TEXT, text)

    def _view(self, event: dict[str, Any], kind: _Data, data: object) -> dict[str, Any]:
        """The event with its data under the data key, and what lies beside the data at the top as well."""
        parent: Any = event
        for key in self._rules.data_path[:-1]:
            parent = parent.get(key) if isinstance(parent, dict) else None
        view = {**parent, **event} if isinstance(parent, dict) else dict(event)
        if kind is _Data.UNREADABLE:
            view.pop(self._rules.data_key, None)
        elif kind is not _Data.ABSENT:
            view[self._rules.data_key] = data
        return view


def _event(record: Record) -> dict[str, Any]:
    event = _json(record.event)
    return event if isinstance(event, dict) else {}


def _json(text: str | bytes) -> object:
    """The value in a JSON text. None: null, or it is none, or deeper than can be decoded."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    try:  # half a surrogate pair, which JavaScript writes, and numbers of any size
        value: object = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


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
            field = f"filters.{number}.{invalid.path}".rstrip(".")
            problems.append(Problem("", field, wanted, _shown(declared)))
    if problems:
        raise InvalidConfiguration(problems)
    return Filters(compiled, rules)


def _shown(declared: object) -> str:
    try:
        return shown(declared)
    except (ValueError, RecursionError):  # numbers too long to print, or values nested too deeply
        return f"a {type(declared).__name__}"


def _pattern(declared: object) -> object:
    try:
        text = declared if isinstance(declared, str) else json.dumps(declared)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPattern(f"not JSON: {error}") from None
    if len(text) > PATTERN_CHARACTERS:
        raise InvalidPattern(f"at most {PATTERN_CHARACTERS} characters, not {len(text)}")
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidPattern(f"not JSON: {error}") from None


def _compile(pattern: object, rules: FilterRules) -> _Filter:
    try:
        whole = compile_pattern(pattern)
    except RecursionError:
        raise InvalidPattern("nested too deeply") from None
    return {kind: _for_data(whole, kind, rules) for kind in _Data}


def _for_data(group: Group, kind: _Data, rules: FilterRules) -> Group | None:
    """What is left of a group where the data is of that kind, by the format matrix. None: it cannot hold.

    Source: AWS, "Control which events Lambda sends to your function", properly filtering.
    """
    if kind is _Data.ABSENT:
        return group  # no data is of no wrong format
    parts: list[Field | Either] = []
    for part in group.parts:
        if isinstance(part, Either):
            groups = [_for_data(each, kind, rules) for each in part.groups]
            possible = tuple(each for each in groups if each is not None)
            if not possible:
                return None
            if all(each.parts for each in possible):  # else it holds in any case
                parts.append(Either(possible))
        elif _fits(part, kind, rules.data_key):
            parts.append(part)
        elif rules.mismatch is Mismatch.DROP:
            return None
    return Group(tuple(parts))


def _fits(field: Field, kind: _Data, data_key: str) -> bool:
    """Whether a field of a pattern asks nothing of the data, or what can be asked of that kind."""
    if field.path == data_key:
        return kind is _Data.TEXT
    return kind is _Data.JSON or not field.path.startswith(f"{data_key}.")
