"""Finds the destination that a declaration names."""

from __future__ import annotations

from collections.abc import Mapping

from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.contract.ports import Destination
from millstream.contract.registry import load_plugin, plugin_names
from millstream.destinations.targets import shown_target

KIND = "destinations"


def parse_destination(declared: object) -> Destination:
    """The checked destination of a string, or of a mapping with `kind`, `target` and options.

    Raises:
        InvalidConfiguration: nothing takes it, or its options are wrong.
    """
    if isinstance(declared, str):
        return _claimant(declared).parse({"target": declared})
    if not isinstance(declared, Mapping):
        raise InvalidConfiguration([Problem("", "target", _forms(), shown_target(declared))])
    options = {str(name): value for name, value in declared.items()}
    name = options.pop("kind", None)
    if name not in plugin_names(KIND):
        known = ", ".join(plugin_names(KIND))
        raise InvalidConfiguration([Problem("", "kind", f"one of {known}", shown_target(name))])
    kind: type[Destination] = load_plugin(KIND, str(name))
    return kind.parse(options)


def _claimant(target: str) -> type[Destination]:
    kinds: dict[str, type[Destination]] = {name: load_plugin(KIND, name) for name in plugin_names(KIND)}
    claimants = [name for name, kind in kinds.items() if kind.claims(target)]
    if len(claimants) == 1:
        return kinds[claimants[0]]
    if claimants:
        wanted = f"Destination(kind, target), as {' and '.join(claimants)} both take it"
        raise InvalidConfiguration([Problem("", "target", wanted, shown_target(target))])
    raise InvalidConfiguration([Problem("", "target", _forms(), shown_target(target))])


def _forms() -> str:
    """The form of each kind's target, in the words with which that kind refuses an empty one."""
    forms = []
    for name in plugin_names(KIND):
        kind: type[Destination] = load_plugin(KIND, name)
        try:
            kind.parse({"target": ""})
        except InvalidConfiguration as invalid:
            forms += [problem.wanted for problem in invalid.problems if problem.field == "target"]
    return ", or ".join(forms)
