"""Shell scripts as runtimes and as extensions, and what those print."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXTENSION = r"""#!/bin/sh
api="http://$AWS_LAMBDA_RUNTIME_API/2020-01-01/extension"
name=${0##*/}
%(before)s
events='{"events":[%(events)s]}'
id=$(curl -sS -D - -o /dev/null "$api/register" -H "Lambda-Extension-Name: $name" -d "$events" |
  tr -d '\r' | sed -n 's/^Lambda-Extension-Identifier: //p')
%(registered)s
while true; do
  event=$(curl -sS "$api/event/next" -H "Lambda-Extension-Identifier: $id")
  echo "$name heard $event"
  case "$event" in *SHUTDOWN*) %(shutdown)s; exit 0 ;; esac
  %(invoke)s
done
"""

MakeLayer = Callable[..., Path]


@pytest.fixture
def layer(tmp_path: Path) -> MakeLayer:
    """`layer(name=parts)`: a folder for /opt with an extension for each name."""

    def make(**extensions: dict[str, str]) -> Path:
        folder = tmp_path / "opt" / "extensions"
        folder.mkdir(parents=True)
        usual = {
            "before": ":",
            "events": '"INVOKE","SHUTDOWN"',
            "registered": ":",
            "invoke": ":",
            "shutdown": ":",
        }
        for name, parts in extensions.items():
            (folder / name).write_text(EXTENSION % {**usual, **parts}, encoding="utf-8")
            (folder / name).chmod(0o755)
        return folder.parent

    return make


def heard(log: str, name: str) -> list[dict[str, Any]]:
    """The events that an extension has printed."""
    return [json.loads(text) for text in re.findall(rf"{name} heard (\{{.*\}})", log)]


def reasons(log: str, name: str) -> list[str]:
    return [event["shutdownReason"] for event in heard(log, name) if event["eventType"] == "SHUTDOWN"]


SHELL = r"""#!/bin/sh
api="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime"
while true; do
  head=${TMPDIR:-/tmp}/head.$$
  event=$(curl -sS -D "$head" "$api/invocation/next")
  id=$(grep -i '^lambda-runtime-aws-request-id:' "$head" | tr -d '\r' | cut -d' ' -f2)
  case "$event" in
    '"fail"') curl -sS -X POST "$api/invocation/$id/error" \
        -H 'Lambda-Runtime-Function-Error-Type: Shell.Failed' \
        -d '{"errorMessage":"it did","errorType":"Shell.Failed"}' ;;
    '"exit"') exit 3 ;;
    '"descriptors"') curl -sS -X POST "$api/invocation/$id/response" -d "$(ulimit -n)" ;;
    '"text"') curl -sS -X POST "$api/invocation/$id/response" -d 'no json' ;;
    *) curl -sS -X POST "$api/invocation/$id/response" -d "{\"echo\":$event}" ;;
  esac >/dev/null
done
"""


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    """A package with a shell script as its bootstrap."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "bootstrap").write_text(SHELL, encoding="utf-8")
    (folder / "bootstrap").chmod(0o755)
    return folder


def of_shell() -> dict[str, object]:
    return {"command": ("/var/task/bootstrap",), "runtime": "provided.al2023", "timeout_s": 10.0}
