"""Reads a declaration file without importing it here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millstream.contract.errors import InvalidConfiguration, Problem

IMPORT_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Declared:
    """One app as its file declares it, not yet checked."""

    folder: Path
    app: dict[str, Any]


def load(file: Path) -> Declared:
    """The app that a file declares.

    Raises:
        InvalidConfiguration: there is no such file, it cannot be imported, or it does not
            declare exactly one App.
    """
    if not file.is_file():
        raise InvalidConfiguration(
            [Problem("", str(file), "a Python file that declares an App", "no such file")]
        )
    answer = _import_elsewhere(file.resolve())
    if "error" in answer:
        error = answer["error"]
        found = f"{error['kind']}: {error['message']}" if error["message"] else error["kind"]
        raise InvalidConfiguration([Problem(error["where"], "import", "a file that can be imported", found)])
    apps = answer["apps"]
    if len(apps) != 1:
        names = ", ".join(app["name"] for app in apps) or "none"
        raise InvalidConfiguration([Problem(file.name, "App", "one App in the file's globals", names)])
    return Declared(file.resolve().parent, apps[0])


def _import_elsewhere(file: Path) -> dict[str, Any]:
    reader, writer = os.pipe()
    # -B: the folder is a package of functions, which is read and not written to.
    command = [sys.executable, "-B", "-m", "millstream.daemon.declare", str(file), str(writer)]
    # The pipe is small and the answer may not be: it is read while the process writes.
    with subprocess.Popen(
        command, pass_fds=(writer,), stdin=subprocess.DEVNULL, stdout=sys.stderr
    ) as process:
        os.close(writer)
        try:
            with os.fdopen(reader, encoding="utf-8") as answer:
                text = answer.read()
            process.wait(IMPORT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            text = ""
        finally:
            process.kill()
    if not text:
        found = f"it ended with status {process.returncode} before it was imported"
        raise InvalidConfiguration([Problem(file.name, "import", "a file that can be imported", found)])
    answer_object: dict[str, Any] = json.loads(text)
    return answer_object
