"""Checks declared options with pydantic and says every problem in a user's words."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from millstream.contract.errors import InvalidConfiguration, Problem

M = TypeVar("M", bound="Options")

_SHOWN = 60  # characters of a found value that a message repeats

_WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "True or False",
    "bool_parsing": "True or False",
    "string_type": "a string",
    "dict_type": "a dictionary",
    "list_type": "a list",
    "tuple_type": "a list",
}


class Options(BaseModel):
    """Base of every options model: frozen, unknown names refused, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)

    def misfits(self) -> list[Problem]:
        """What does not go together among options that are right each by itself.

        Asked of incomplete options too: one that is wrong or missing has its default, or None.
        """
        return []


def parse_options(model: type[M], options: Mapping[str, object], secret: frozenset[str] = frozenset()) -> M:
    """The options as `model`; the values of fields named in `secret` are never repeated.

    Field descriptions (`Field(description="1 to 10000")`) are what a message says was wanted.

    Raises:
        InvalidConfiguration: with one problem for each field that is wrong, by itself or beside others.
    """
    problems: list[Problem] = []
    try:
        parsed = model.model_validate(dict(options))
    except ValidationError as error:
        problems = [_problem(model, details, secret) for details in error.errors(include_url=False)]
        wrong = {problem.field.partition(".")[0] for problem in problems}
        values: dict[str, Any] = {n: None for n, info in model.model_fields.items() if info.is_required()}
        values |= {name: value for name, value in options.items() if name not in wrong}
        parsed = model.model_construct(**values)
    known = {problem.field for problem in problems}
    problems += [problem for problem in parsed.misfits() if problem.field not in known]
    if problems:
        raise InvalidConfiguration(problems)
    return parsed


def shown(value: object) -> str:
    """A found value, short enough for one line."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def unknown_option(name: str, known: list[str]) -> Problem:
    """The problem of an option that nobody knows, with the nearest one that is known."""
    near = difflib.get_close_matches(name, known, n=1)
    wanted = f"{near[0]}?" if near else f"one of {', '.join(sorted(known))}"
    return Problem("", name, wanted, "an unknown option")


def _problem(model: type[Options], details: ErrorDetails, secret: frozenset[str]) -> Problem:
    field = ".".join(str(part) for part in details["loc"]) or "options"
    first = str(details["loc"][0]) if details["loc"] else ""
    if details["type"] == "extra_forbidden":
        known = list(_holder(model, details["loc"]).model_fields)
        near = unknown_option(str(details["loc"][-1]), known)
        return Problem("", field, near.wanted, near.found)
    if details["type"] == "missing":
        return Problem("", field, _description(model, first) or "a value", "nothing")
    found = "a value of the wrong form" if first in secret else shown(details["input"])
    wanted = _description(model, first)
    if not wanted or len(details["loc"]) > 1:
        wanted = _wanted(details)
    return Problem("", field, wanted, found)


def _holder(model: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that the last name of a place belongs to: a nested one, if its value is one."""
    for part in place[:-1]:
        info = model.model_fields.get(str(part))
        model = _nested(info.annotation) or model if info else model
    return model


def _nested(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _nested(each))), None)


def _description(model: type[Options], name: str) -> str:
    info = model.model_fields.get(name)
    return (info.description or "") if info else ""


def _wanted(details: ErrorDetails) -> str:
    if details["type"] in _WANTED:
        return _WANTED[details["type"]]
    context: dict[str, Any] = details.get("ctx") or {}
    if details["type"] == "value_error" and "error" in context:
        return str(context["error"])
    return details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
