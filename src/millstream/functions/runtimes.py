"""Names of runtimes, and what on this host runs them."""

from __future__ import annotations

import sys

from millstream.contract.errors import Problem


def default_runtime() -> str:
    """The runtime of the interpreter that runs the daemon: `python3.11`."""
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def check_runtime(runtime: str) -> Problem | None:
    """What is wrong with a runtime's name. None: this host has it."""
    if runtime == default_runtime():
        return None
    wanted = f"{default_runtime()}, the one that this installation of millstream runs on"
    return Problem("", "runtime", wanted, repr(runtime))
