"""examples/runtimes as a user runs it: one daemon, a function of every runtime client."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from scripts.languages import PROGRAMS
from tests.daemon.conftest import RunningDaemon
from tests.runtime.languages import NODE, NODE_VARIABLE, interpreters, lay_app

pytestmark = pytest.mark.broker

WITHIN_S = 30.0


def millstream(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "millstream", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)


def test_one_daemon_runs_the_function_of_every_client(
    daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = str(lay_app(daemon.folder, *PROGRAMS))
    monkeypatch.setenv(NODE_VARIABLE, str(interpreters("nodejs")[NODE]))
    checked = millstream("check", app)
    assert checked.returncode == 0, checked.stderr
    daemon.start()
    daemon.started()
    data = str(daemon.data)
    for language in PROGRAMS:
        event = {"from": language, "ä": [1, None]}
        done = millstream("invoke", language, "--payload", json.dumps(event), "--data-dir", data)
        assert done.returncode == 0, done.stdout + done.stderr
        answer = json.loads(done.stdout)
        assert (answer["function"], answer["event"]) == (language, event)
    failed = millstream("invoke", "nodejs", "--payload", '{"fail": true}', "--data-dir", data)
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["errorMessage"] == "the event asks for it"
    logged = millstream("logs", "nodejs", "--data-dir", data).stdout
    assert "INFO\techoing" in logged
    assert daemon.stop() == 0
