"""Finds the driver that isolates functions."""

from __future__ import annotations

from pathlib import Path

from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.contract.ports import Sandbox
from millstream.contract.registry import load_plugin, plugin_names


def driver(isolation: str, folder: Path) -> Sandbox:
    """The driver of `--isolation`, not started; `folder` is for its own use.

    Raises:
        InvalidConfiguration: there is none of this name.
    """
    try:
        made: Sandbox = load_plugin("sandboxes", isolation)(folder)
    except KeyError:
        known = ", ".join(sorted(plugin_names("sandboxes")))
        raise InvalidConfiguration(
            [Problem("", "--isolation", f"one of {known}", repr(isolation[:80]))]
        ) from None
    return made
