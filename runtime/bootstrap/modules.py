"""The order in which an `import` of the function looks for a file: that of AWS's Python runtimes.

Source: AWS, "Working with layers for Python Lambda functions", "Search path for Python runtimes".
"""

from __future__ import annotations

import importlib.machinery
import os
import site
import sys
from collections.abc import Container, Iterable, MutableMapping, Sequence
from types import ModuleType

BUNDLED = frozenset({"boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six"})
"""Packages of Lambda's Python runtime. Where a function brings one of them, none of ours stays loaded."""

AWS_LOADS = frozenset({
    "__future__", "__main__", "_collections_abc", "_decimal", "_frozen_importlib",
    "_frozen_importlib_external", "_json", "_weakrefset", "abc", "codecs", "collections", "contextlib",
    "copyreg", "decimal", "encodings", "enum", "functools", "genericpath", "importlib", "io", "json",
    "keyword", "linecache", "logging", "math", "numbers", "operator", "os", "posixpath", "re", "reprlib",
    "stat", "string", "textwrap", "threading", "token", "tokenize", "traceback", "types", "warnings",
    "weakref", "zipimport",
})  # fmt: skip
"""Modules that AWS's own runtime has loaded ahead of a handler: there, too, they win over a package's."""

OURS = "_millstream"
SUFFIXES = tuple(importlib.machinery.all_suffixes())


def order(task_root: str, layers: Sequence[str], runtime: str, python_path: str) -> list[str]:
    """Make the function's package the first, and what the runtime brings the last place to look.

    The folders that come before the standard library; those of PYTHONPATH are among them.
    """
    named = (folder for folder in python_path.split(os.pathsep) if folder not in ("", runtime))
    first = list(dict.fromkeys([task_root, *layers, *named]))
    rest = [folder for folder in sys.path if folder not in ("", runtime, *first)]
    sys.path[:] = [*first, *rest, runtime]
    return first


def give_way(
    folders: Iterable[str], handler: str = "", loaded: MutableMapping[str, ModuleType] | None = None
) -> None:
    """Forget each module that is loaded and that one of these folders has a file of.

    That of a `handler`, `module.function`, is the function's in any case.
    """
    loaded = sys.modules if loaded is None else loaded
    own = handler.replace("/", ".").partition(".")[0]
    brought = {
        name for folder in folders for name in _modules_in(folder, loaded) if name == own or _may_go(name)
    }
    if not brought:
        return
    if brought & BUNDLED:
        brought |= BUNDLED
    for name in [name for name in loaded if name.partition(".")[0] in brought]:
        del loaded[name]


def _may_go(name: str) -> bool:
    return name not in AWS_LOADS and name != OURS


def _modules_in(folder: str, loaded: Container[str]) -> list[str]:
    """List the loaded modules that a folder has files of. A folder without __init__ is no rival of any.

    Of what is loaded nothing but these is looked at: a look is a write to memory that forks share.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name, dot, _ = entry.name.partition(".")
                if name not in loaded or name in sys.builtin_module_names:
                    continue
                if dot:
                    is_module = entry.name.removeprefix(name) in SUFFIXES
                else:
                    is_module = any(os.path.exists(f"{entry.path}/__init__{suffix}") for suffix in SUFFIXES)
                if is_module:
                    found.append(name)
    except OSError:  # it is not there
        return []
    return found


def name_interactive_ones() -> None:
    """Make `exit`, `quit`, `copyright` and `help` known; the rest of what `site` does is left out here."""
    site.setquit()
    site.setcopyright()
    site.sethelper()
