"""Turns a declaration into a checked plan: functions to deploy, mappings to run. Nothing starts here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.contract.options import shown, unknown_option
from millstream.contract.ports import (
    DataFormat,
    Destination,
    FilterRules,
    Mismatch,
    QueuePolicy,
    QueueTrigger,
)
from millstream.contract.stream_trigger import StreamTrigger
from millstream.contract.streams import StreamPolicy
from millstream.daemon.loader import Declared
from millstream.daemon.plan_functions import PlannedFunction, plan_function
from millstream.destinations.registry import parse_destination
from millstream.functions.interpreters import Interpreters
from millstream.functions.packages import Packages
from millstream.mappings.filters import Filters, compile_filters
from millstream.triggers.registry import parse_trigger

FUNCTION_SCHEME = "function:"

ANY_RULES = FilterRules("body", ("body",), DataFormat.TEXT, Mismatch.DROP)
"""For the patterns of a source that is wrong itself: whether they are valid does not depend on it."""

MAP_OPTIONS = ["to", "filters", "on_success", "on_failure", "enabled"]


@dataclass(frozen=True, slots=True)
class PlannedMapping:
    """A mapping whose options are right; whether its source exists is known once it is opened."""

    kind: str
    trigger: QueueTrigger | StreamTrigger
    function: str
    filters: Filters
    filter_count: int
    on_success: Destination | None
    on_failure: Destination | None
    enabled: bool
    where: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All that one app declares, checked."""

    app: str
    functions: Mapping[str, PlannedFunction]
    mappings: tuple[PlannedMapping, ...]


class _Problems(list[Problem]):
    """Collects what is wrong, so that all of it is said at once."""

    @contextmanager
    def at(self, where: str) -> Iterator[None]:
        try:
            yield
        except InvalidConfiguration as invalid:
            for p in invalid.problems:
                self.append(Problem(p.where or where, p.field, p.wanted, p.found))


def make_plan(declared: Declared, runtimes: Mapping[str, Path] | None = None) -> Plan:
    """Check a declaration. `runtimes` are the interpreters that the configuration names, by runtime.

    Raises:
        InvalidConfiguration: with every problem of every function and mapping.
    """
    problems = _Problems()
    app = declared.app
    if not isinstance(app["name"], str) or not app["name"]:
        problems.append(Problem(app["where"], "App", "a name", shown(app["name"])))
    private = (Path("~"), declared.folder, Path.cwd())
    interpreters = Interpreters(runtimes or {}, private)
    functions = _functions(declared, interpreters, problems)
    names = {f["options"].get("name") for f in app["functions"]}  # wrong ones too: one problem is enough
    mappings = []
    seen: dict[tuple[str, str, str], str] = {}
    for raw in app["mappings"]:
        mapping = _mapping(raw, names, problems)
        if mapping is None:
            continue
        key = (mapping.kind, mapping.trigger.source, mapping.function)
        if key in seen:
            found = f"the same one at {seen[key]}"
            problems.append(Problem(mapping.where, "map", "one mapping of a source to a function", found))
        seen[key] = mapping.where
        mappings.append(mapping)
    if problems:
        raise InvalidConfiguration(problems)
    return Plan(app["name"], functions, tuple(mappings))


def _functions(
    declared: Declared, interpreters: Interpreters, problems: _Problems
) -> dict[str, PlannedFunction]:
    functions: dict[str, PlannedFunction] = {}
    packages = Packages()
    for raw in declared.app["functions"]:
        where = f"{raw['where']} function {raw['options'].get('name')!r}"
        with problems.at(where):
            if raw["unbound"]:
                wanted = "a function that its file binds to a name: `name = app.function(…)`"
                raise InvalidConfiguration([Problem("", "handler", wanted, raw["unbound"])])
            planned = plan_function(raw["options"], declared.folder, where, interpreters, packages)
            name = planned.options.name
            if name in functions:
                second = Problem("", "name", "a name of its own", f"a second function {name!r}")
                raise InvalidConfiguration([second])
            functions[name] = planned
    return functions


def _mapping(raw: dict[str, Any], names: set[Any], problems: _Problems) -> PlannedMapping | None:
    source = raw["source"]
    if not isinstance(source, dict):
        problems.append(Problem(raw["where"], "source", 'a source such as Sqs("orders")', str(source)))
        return None
    name = next(iter(source["options"].values()), "")  # what a source is given first names it
    where = f"{raw['where']} {source['kind']} {name if isinstance(name, str) else ''}".rstrip()
    before = len(problems)
    problems += [_at(where, unknown_option(name, MAP_OPTIONS)) for name in raw["unknown"]]
    if not isinstance(raw["enabled"], bool):
        problems.append(Problem(where, "enabled", "True or False", shown(raw["enabled"])))
    _check_target(raw["to"], names, where, problems)
    trigger: QueueTrigger | StreamTrigger | None = None
    filters: Filters | None = None
    with problems.at(where):
        trigger = parse_trigger(source["kind"], source["options"])
    if isinstance(raw["filters"], list):
        with problems.at(where):
            rules = ANY_RULES if trigger is None else trigger.filter_rules
            filters = compile_filters(raw["filters"], rules)
    else:
        problems.append(Problem(where, "filters", "a list of patterns", shown(raw["filters"])))
    if trigger is not None:
        problems += _failure_misfits(trigger.policy, raw["on_failure"] is not None, where)
    on_success = _destination(raw["on_success"], "on_success", where, problems)
    on_failure = _destination(raw["on_failure"], "on_failure", where, problems)
    for field in ("on_success", "on_failure"):
        _check_function(raw[field], field, raw["to"], names, where, problems)
    if len(problems) > before or trigger is None or filters is None:
        return None
    return PlannedMapping(
        source["kind"],
        trigger,
        raw["to"],
        filters,
        len(raw["filters"]),
        on_success,
        on_failure,
        raw["enabled"],
        where,
    )


def _failure_misfits(policy: QueuePolicy | StreamPolicy, on_failure: bool, where: str) -> list[Problem]:
    """What a policy needs of `on_failure`, or cannot do with it."""
    match policy:
        case QueuePolicy(max_retries=None) if on_failure:
            wanted = "maximum_retry_attempts= beside it; without, the queue's redrive policy decides"
            return [Problem(where, "on_failure", wanted, "none")]
        case QueuePolicy(max_retries=int()) if not on_failure:
            wanted = "on_failure=, where what is given up goes, beside it"
            return [Problem(where, "maximum_retry_attempts", wanted, "none")]
        case StreamPolicy(on_failure_required=True) if not on_failure:
            return [Problem(where, "on_failure_required", "on_failure= beside it", "none")]
        case _:
            return []


def _check_target(to: Any, names: set[Any], where: str, problems: _Problems) -> None:
    if isinstance(to, dict):
        wanted = "a function declared with @app.function, a Function, or a name"
        problems.append(Problem(where, "to", wanted, f"{to['undeclared']}, which is not declared"))
    elif to not in names:
        known = ", ".join(sorted(str(name) for name in names)) or "none"
        problems.append(Problem(where, "to", f"a declared function ({known})", shown(to)))


def _check_function(
    declared: Any, field: str, to: Any, names: set[Any], where: str, problems: _Problems
) -> None:
    """A destination `function:NAME` is a declared function, and not the mapping's own."""
    target = declared.get("target") if isinstance(declared, dict) else declared
    if not isinstance(target, str) or not target.startswith(FUNCTION_SCHEME):
        return
    name = target.removeprefix(FUNCTION_SCHEME)
    if name == to:
        wanted = "another function than the mapping's own"
        problems.append(Problem(where, f"{field}.target", wanted, shown(name)))
    elif name not in names:
        known = ", ".join(sorted(str(name) for name in names)) or "none"
        problems.append(Problem(where, f"{field}.target", f"a declared function ({known})", shown(name)))


def _destination(declared: Any, field: str, where: str, problems: _Problems) -> Destination | None:
    try:
        return None if declared is None else parse_destination(declared)
    except InvalidConfiguration as invalid:
        problems += [Problem(where, f"{field}.{p.field}", p.wanted, p.found) for p in invalid.problems]
        return None


def _at(where: str, problem: Problem) -> Problem:
    return Problem(where, problem.field, problem.wanted, problem.found)
