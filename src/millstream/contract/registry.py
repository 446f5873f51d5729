"""Finds plugins by the entry points that packages declare, ours and third parties' alike."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

GROUP = "millstream."


def plugin_names(kind: str) -> list[str]:
    """Names registered for a kind of plugin: "triggers", "destinations", "sandboxes", "stores"."""
    return sorted({entry.name for entry in entry_points(group=GROUP + kind)})


def load_plugin(kind: str, name: str) -> Any:
    """The class registered under a name.

    Raises:
        KeyError: no package registers it.
    """
    for entry in entry_points(group=GROUP + kind):
        if entry.name == name:
            return entry.load()
    raise KeyError(name)
