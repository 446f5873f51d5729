"""Finds the Python functions that need an interpreter of their own, for a fork would not heed their settings.

The loader and the interpreter read such settings once, as a process starts, and the zygote has started long
before anybody knows the function's.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from millstream.contract.functions import FunctionSpec

WRAPPER = "AWS_LAMBDA_EXEC_WRAPPER"
PREFIXES = ("PYTHON", "LD_", "MALLOC_", "OPENSSL_")
NAMES = frozenset({WRAPPER, "GLIBC_TUNABLES"})
HEEDED = frozenset({
    "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE", "PYTHONIOENCODING",
    "PYTHONUTF8", "PYTHONSAFEPATH",
})  # fmt: skip
"""Settings that our bootstrap heeds itself, or that change nothing about it."""


def why_fresh(function: FunctionSpec) -> str:
    """The setting, or the shared libraries, that a fork would not heed. Empty: there are none."""
    if function.command or function.image is not None:
        return ""
    for name in sorted(function.environment):
        if name in NAMES or (name.startswith(PREFIXES) and name not in HEEDED):
            return name
    return _libraries(function.code, function.opt)


@lru_cache(maxsize=1024)
def _libraries(code: Path, opt: Path | None) -> str:
    """The folder of LD_LIBRARY_PATH that has shared libraries. What is at the two paths never changes."""
    places = [("/var/task", code), ("/var/task/lib", code / "lib")]
    places += [] if opt is None else [("/opt/lib", opt / "lib")]
    for place, folder in places:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        if any(name.startswith("lib") and (name.endswith(".so") or ".so." in name) for name in names):
            return f"shared libraries in {place}"
    return ""
