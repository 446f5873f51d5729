"""Imports a declaration file in a process of its own and prints what it declares, as JSON.

`python -m millstream.daemon.declare FILE FD` writes one JSON object to the descriptor:
`{"apps": […]}` or `{"error": {"where", "kind", "message"}}`. The daemon never imports user code.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from millstream.declarations import App


def main() -> None:
    """Entry point of the process."""
    path, descriptor = Path(sys.argv[1]), int(sys.argv[2])
    answer = declared_in(path)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        json.dump(answer, out, default=repr)


def declared_in(path: Path) -> dict[str, Any]:
    """What the apps of a file declare, or why it cannot be imported."""
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        return {"error": {"where": path.name, "kind": "file", "message": "not a Python file"}}
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001  user code may raise anything
        return {"error": _described(error, path)}
    # Not isinstance, which asks the value itself: a proxy may raise whatever it likes.
    apps = [value for value in vars(module).values() if issubclass(type(value), App)]
    return {"apps": [app.declared() for app in dict.fromkeys(apps)]}


def _described(error: BaseException, path: Path) -> dict[str, str]:
    kind = type(error).__name__
    if isinstance(error, SyntaxError):
        file = os.path.basename(error.filename or path.name)
        return {"where": f"{file}:{error.lineno}", "kind": kind, "message": error.msg}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    own = [f for f in frames if os.path.abspath(f.filename) == str(path.resolve())]
    where = f"{path.name}:{own[-1].lineno}" if own else path.name
    return {"where": where, "kind": kind, "message": str(error).splitlines()[0] if str(error) else ""}


if __name__ == "__main__":
    main()
