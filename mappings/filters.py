"""FilterCriteria of a mapping: patterns over the records of its source. Pure.

The data of a record is decoded on a copy; what the function sees is never touched.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import TypeAlias

from millstream.contract.clock import Clock
from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.contract.options import shown
from millstream.contract.outside_json import NotJson, read
from millstream.contract.ports import DataFormat, FilterRules, Mismatch
from millstream.contract.records import Record
from millstream.contract.seldom import Seldom
from millstream.contract.slices import Slices
from millstream.mappings.leaves import Budget, Leaves, Picker, RawAt, Undecided, budget_of
from millstream.mappings.matchers import InvalidPattern
from millstream.mappings.patterns import Either, Field, Group, Tries, compile_pattern, matches, paths

logger = logging.getLogger(__name__)

PATTERN_CHARACTERS = 4096
MAX_FILTERS = 10
"""AWS's quota is 5 and can be raised to 10. Source: AWS, CreateEventSourceMapping, FilterCriteria."""


UNDECIDED = "filters cannot decide on a record, it is delivered"


class _Data(Enum):
    """What the data of a record turned out to be."""

    JSON = "json"  # an object or an array
    TEXT = "text"
    UNREADABLE = "unreadable"  # not base64, or not UTF-8
    ABSENT = "absent"  # no data, or null


_Filter: TypeAlias = Mapping[_Data, Group | None]
"""What of a pattern must hold, by the data that a record has. None: nothing can match."""

_BLANKS = " \t\r\n"


class Filters:
    """The patterns of one mapping, OR-ed; falsy if there are none, and then every record matches."""

    def __init__(self, filters: Sequence[_Filter], rules: FilterRules) -> None:
        self._filters = filters
        self._rules = rules
        asked = {path for each in filters for group in each.values() if group for path in paths(group)}
        of_data = {path for path in asked if path == rules.data_key or path.startswith(f"{rules.data_key}.")}
        embedded = rules.data_format is not DataFormat.JSON
        self._asks_data = bool(of_data)
        self._event = Picker(asked - of_data if embedded else asked)
        self._parent = Picker(asked - of_data)
        self._inner = Picker(of_data, rules.data_key)
        self._place = RawAt(rules.data_path)
        self._seldom = Seldom()

    def __bool__(self) -> bool:
        return bool(self._filters)

    def matches(self, record: Record) -> bool:
        """True if any pattern holds. Never raises, whatever the record holds.

        A record on which the patterns cannot be decided within bounds goes on: nothing is lost.
        """
        try:
            return not self._filters or self._decide(record)
        except Undecided:
            return True

    async def split(
        self, records: Sequence[Record], clock: Clock
    ) -> tuple[Sequence[Record], Sequence[Record]]:
        """Records that match and records that do not; what the source itself refused goes on as well.

        Lets others run in between.
        """
        if not self._filters:
            return records, ()
        matched: list[Record] = []
        dropped: list[Record] = []
        slices = Slices(clock)
        for record in records:
            (matched if self._goes_on(record) else dropped).append(record)
            if slices.over:
                await slices.rest()
        return matched, dropped

    def _goes_on(self, record: Record) -> bool:
        try:
            return record.refused is not None or self._decide(record)
        except Undecided as undecided:
            place = {"partition": record.partition, "position": record.position}
            self._seldom.warning(logger, UNDECIDED, str(undecided), **place)
            return True

    def _decide(self, record: Record) -> bool:
        kind, leaves = self._seen(record.event)
        tries = Tries()
        groups = [each[kind] for each in self._filters]
        return any(group is not None and matches(group, leaves, tries) for group in groups)

    def _seen(self, event: bytes) -> tuple[_Data, Leaves]:
        """Return of what kind a record's data is, and the leaves of its event as patterns see them.

        Its data stands under the data key, and what lies beside the data at the top as well.
        """
        budget = budget_of(len(event))
        try:
            leaves = dict(self._event.pick(event, budget))
            way = self._place.find(event)
        except NotJson:
            return _Data.ABSENT, {}
        beside = way[-2] if len(way) > 1 else None
        if beside is not None:
            leaves = {**self._parent.pick(beside, budget), **leaves}
        if not self._asks_data:
            return _Data.ABSENT, leaves  # whatever it is, nothing is asked of it
        data = way[-1] if len(way) == len(self._rules.data_path) else b"null"
        if self._rules.data_format is DataFormat.JSON:
            absent = _Data.ABSENT if data == b"null" else _Data.TEXT
            return (_Data.JSON if data[:1] == b"{" else absent), leaves
        kind, inner = self._decoded(data, budget)
        return kind, {**leaves, **inner}

    def _decoded(self, data: bytes, budget: Budget) -> tuple[_Data, Leaves]:
        """The kind of a record's data, given as the JSON of its event, and its leaves."""
        try:
            value = read(data)
            if value is None:
                return _Data.ABSENT, {}
            base64_ = self._rules.data_format is DataFormat.BASE64
            text = base64.b64decode(value, validate=True).decode() if base64_ else str(value)
            encoded = text.encode()
        except (ValueError, TypeError):  # not JSON, not base64, not UTF-8, not text
            return _Data.UNREADABLE, {}
        if text.lstrip(_BLANKS)[:1] in ("{", "["):
            with suppress(NotJson):
                return _Data.JSON, self._inner.pick(encoded, budget)
        # A bare number or string in JSON is text as well: patterns of strings are for it.
        return _Data.TEXT, {self._rules.data_key: [(text, ())]}


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
        return read(text)
    except NotJson as error:
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
