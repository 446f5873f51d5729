"""Finds the trigger of a declared source by its kind."""

from __future__ import annotations

from collections.abc import Mapping

from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.contract.ports import QueueTrigger
from millstream.contract.registry import load_plugin, plugin_names
from millstream.contract.stream_trigger import StreamTrigger


def parse_trigger(kind: str, options: Mapping[str, object]) -> QueueTrigger | StreamTrigger:
    """The checked trigger of a source.

    Raises:
        InvalidConfiguration: no package registers the kind, or its options are wrong.
    """
    try:
        trigger: type[QueueTrigger] | type[StreamTrigger] = load_plugin("triggers", kind)
    except KeyError:
        known = ", ".join(plugin_names("triggers"))
        raise InvalidConfiguration([Problem("", "source", f"one of {known}", repr(kind))]) from None
    return trigger.parse(options)
