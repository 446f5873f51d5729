"""Finds the destination that a declaration names."""

from __future__ import annotations

from collections.abc import Mapping

from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.contract.options import shown
from millstream.contract.ports import Destination
from millstream.contract.registry import load_plugin, plugin_names

FORMS = "an ARN (sqs, sns, s3, events, lambda), function:NAME, an http(s) URL, file:PATH, or a Destination"


def parse_destination(declared: object) -> Destination:
    """The checked destination of a string, or of a mapping with `kind`, `target` and options.

    Raises:
        InvalidConfiguration: nothing takes it, or its options are wrong.
    """
    if isinstance(declared, str):
        for name in plugin_names("destinations"):
            kind: type[Destination] = load_plugin("destinations", name)
            if kind.claims(declared):
                return kind.parse({"target": declared})
        raise InvalidConfiguration([Problem("", "target", FORMS, shown(declared.partition("?")[0]))])
    if not isinstance(declared, Mapping):
        raise InvalidConfiguration([Problem("", "target", FORMS, shown(declared))])
    options = dict(declared)
    name = options.pop("kind", None)
    try:
        kind = load_plugin("destinations", str(name))
    except KeyError:
        known = ", ".join(plugin_names("destinations"))
        raise InvalidConfiguration([Problem("", "kind", f"one of {known}", shown(name))]) from None
    return kind.parse(options)
