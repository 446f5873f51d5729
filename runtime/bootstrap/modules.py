"""Which file an `import` of the function finds: the order of AWS's Python runtimes.

Source: AWS, "Working with layers for Python Lambda functions", "Search path for Python runtimes".
"""

from __future__ import annotations

import importlib.machinery
import os
import site
import sys
from collections.abc import Iterable, MutableMapping, Sequence
from types import ModuleType

BUNDLED = frozenset({"boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six"})
"""What Lambda's Python runtime brings. Where a function brings one of them, none of ours stays loaded."""

AWS_LOADS = frozenset({
    "__future__", "__main__", "_collections_abc", "_decimal", "_frozen_importlib",
    "_frozen_importlib_external", "_json", "_weakrefset", "abc", "codecs", "collections", "contextlib",
    "copyreg", "decimal", "encodings", "enum", "functools", "genericpath", "importlib", "io", "json",
    "keyword", "linecache", "logging", "math", "numbers", "operator", "os", "posixpath", "re", "reprlib",
    "stat", "string", "textwrap", "threading", "token", "tokenize", "traceback", "types", "warnings",
    "weakref", "zipimport",
})  # fmt: skip
"""What AWS's own runtime has loaded before it imports a handler: there, too, these win over a package's."""

OURS = "_millstream"


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
    kept = AWS_LOADS - {handler.replace("/", ".").partition(".")[0]}
    kept = kept.union(sys.builtin_module_names, (OURS,))
    first_names = {name.partition(".")[0] for name in loaded} - kept
    brought = {name for folder in folders for name in _modules_in(folder, first_names)}
    if brought & BUNDLED:
        brought |= BUNDLED
    for name in [name for name in loaded if name.partition(".")[0] in brought]:
        del loaded[name]


def _modules_in(folder: str, names: set[str]) -> list[str]:
    """Which of these modules a folder has. A folder without __init__ is no rival of any other."""
    suffixes = tuple(importlib.machinery.all_suffixes())
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name, dot, _ = entry.name.partition(".")
                if name not in names:
                    continue
                if dot:
                    is_module = entry.name.removeprefix(name) in suffixes
                else:
                    is_module = any(os.path.exists(f"{entry.path}/__init__{suffix}") for suffix in suffixes)
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
