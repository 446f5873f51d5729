"""The command line as a person uses it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers.ministack import Ministack
from tests.daemon.conftest import RunningDaemon, name_of, send, wait_until
from tests.daemon.conftest import daemon as daemon

APP = """
from millstream import App, Sqs

app = App("cli")


@app.function(timeout=5)
def echo(event, context):
    print("heard", event)
    if event == "fail":
        raise ValueError("no")
    return {"echo": event}


app.map(Sqs(QUEUE), to=echo)
"""


def millstream(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "millstream", *arguments]
    return subprocess.run(command, capture_output=True, text=True, input=given, timeout=120, check=False)


def test_help_names_every_command() -> None:
    done = millstream("--help")
    assert done.returncode == 0
    assert all(
        name in done.stdout
        for name in ("run", "check", "mappings", "functions", "invoke", "logs", "prune", "demo")
    )


def test_check_prints_the_plan_and_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.replace("QUEUE", "'orders'"))
    done = millstream("check", str(tmp_path / "app.py"))
    assert done.returncode == 0
    assert "app cli: 1 function, 1 mapping" in done.stdout
    assert "sqs orders" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["app.py"]


def test_check_says_what_it_leaves_out_and_may_import_nothing(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.replace("QUEUE", "'orders'"))
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("x" * 1500)
    done = millstream("check", "--no-import", str(tmp_path / "app.py"))
    assert done.returncode == 0
    assert "echo: left out 1 file, 1.5 kB: .git\n" in done.stdout
    assert "import" not in done.stdout


def test_check_without_a_sandbox_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    (tmp_path / "app.py").write_text(APP.replace("QUEUE", "'orders'"))
    done = millstream("check", "--isolation", "docker", str(tmp_path / "app.py"))
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("handlers were not imported: isolation docker")


@pytest.mark.parametrize("command", ["check", "run"])
def test_an_isolation_that_is_not_there_is_one_line(tmp_path: Path, command: str) -> None:
    (tmp_path / "app.py").write_text(APP.replace("QUEUE", "'orders'"))
    options = ("--data-dir", str(tmp_path / "data")) if command == "run" else ()
    done = millstream(command, "--isolation", "gvisor", str(tmp_path / "app.py"), *options)
    assert done.returncode == 2
    assert done.stderr == "error: --isolation: wanted one of bwrap, docker, process, found 'gvisor'\n"


@pytest.mark.broker
def test_check_imports_each_handler(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.replace("QUEUE", "'orders'"))
    done = millstream("check", str(tmp_path / "app.py"))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 handler imported")
    # Where it is declared the module is there, and where it runs it is not.
    text = "import sys\nif '/var/task' in sys.path:\n    import absent\n"
    (tmp_path / "app.py").write_text(text + APP.replace("QUEUE", "'orders'"))
    done = millstream("check", str(tmp_path / "app.py"))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "error: app.py:10 function 'echo': handler: wanted absent in the package (`pip install"
    )


def test_check_says_what_is_wrong_on_standard_error_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.replace("Sqs(QUEUE)", "Sqs('q', batch_size=0)"))
    done = millstream("check", str(tmp_path / "app.py"))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line == "error: app.py:15 sqs q: batch_size: wanted a whole number from 1 to 10000, found 0"


def test_a_command_without_its_daemon_says_how_to_start_one(tmp_path: Path) -> None:
    done = millstream("invoke", "echo", "--data-dir", str(tmp_path))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}: no daemon answers")
    assert "millstream run FILE" in line


def test_reservations_that_leave_too_little_of_the_account_are_one_line(tmp_path: Path) -> None:
    app = APP.replace("QUEUE", "'q'").replace("timeout=5", "timeout=5, reserved_concurrent_executions=91")
    (tmp_path / "app.py").write_text(app)
    done = millstream(
        "run", str(tmp_path / "app.py"), "--concurrency", "100", "--data-dir", str(tmp_path / "data")
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --concurrency: wanted at most 90 reserved and provisioned")
    assert line.endswith("found 91 reserved and 0 provisioned of 100")


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "inf"])
def test_when_environments_are_frozen_is_a_number_or_never(tmp_path: Path, given: str) -> None:
    (tmp_path / "app.py").write_text(APP.replace("QUEUE", "'q'"))
    done = millstream("run", str(tmp_path / "app.py"), f"--freeze-after-s={given}")
    assert done.returncode == 2
    assert f"wanted seconds, 0.001 or more, or never, found '{given}'" in done.stderr


@pytest.mark.broker
def test_a_running_daemon_is_asked_invoked_and_read(daemon: RunningDaemon, ministack: Ministack) -> None:
    url = ministack.queue(VisibilityTimeout="10")
    app = APP.replace("QUEUE", repr(name_of(url)))
    app = app.replace("timeout=5", "timeout=5, environment={'PYTHONHASHSEED': '1'}")
    daemon.start(app, "--log-format", "json")
    daemon.started()
    at = ("--data-dir", str(daemon.data))

    done = millstream("invoke", "echo", "--payload", '{"a": 1}', *at)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"echo": {"a": 1}})
    done = millstream("invoke", "echo", "--payload", "-", *at, given='"fail"')
    assert done.returncode == 1
    assert json.loads(done.stdout)["errorType"] == "ValueError"
    done = millstream("invoke", "echo", "--payload", "{not json", *at)
    assert done.returncode == 2
    assert "wanted JSON" in done.stderr
    done = millstream("invoke", "nobody", *at)
    assert done.returncode == 1
    assert "wanted one of echo, found 'nobody'" in done.stderr

    (function,) = json.loads(millstream("functions", "--json", *at).stdout)
    assert (function["name"], function["invocations"], function["errors"]) == ("echo", 2, 1)
    assert function["busy"] + function["idle"] + function["frozen"] == 1
    done = millstream("functions", *at)
    assert done.stdout.splitlines()[1].split()[0] == "echo"
    fresh = "echo: each environment starts an interpreter of its own, for PYTHONHASHSEED"
    assert done.stdout.splitlines()[-1] == fresh

    send(ministack, url, 0, 5)
    wait_until("five are handled", lambda: daemon.status()["delivered"] == 5)
    done = millstream("mappings", *at)
    assert f"sqs {name_of(url)} → echo" in done.stdout
    assert "Enabled" in done.stdout
    (mapping,) = json.loads(millstream("mappings", "--json", *at).stdout)
    assert mapping["status"]["delivered"] == 5
    assert mapping["backlog"] == 0

    wait_until("the log is written", lambda: "heard" in millstream("logs", "echo", *at).stdout)
    done = millstream("logs", "nobody", *at)
    assert done.returncode == 1
    assert "wanted a function with a log (echo)" in done.stderr

    assert all(json.loads(line)["level"] for line in daemon.text().splitlines())
    assert daemon.stop() == 0
    (mapping,) = json.loads(millstream("mappings", "--json", *at).stdout)
    assert (mapping["status"]["state"], mapping["status"]["delivered"]) == ("Stopped", 5)
    assert "heard" in millstream("logs", "echo", "-n", "50", *at).stdout


@pytest.mark.broker
def test_logs_are_followed(daemon: RunningDaemon, ministack: Ministack) -> None:
    daemon.start(APP.replace("QUEUE", repr(name_of(ministack.queue()))))
    daemon.started()
    at = ("--data-dir", str(daemon.data))
    millstream("invoke", "echo", "--payload", '"first"', *at)
    command = [sys.executable, "-m", "millstream", "logs", "echo", "-f", *at]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        seen = ""
        while "heard first" not in seen:
            seen = following.stdout.readline()
        millstream("invoke", "echo", "--payload", '"second"', *at)
        while "heard second" not in seen:
            seen = following.stdout.readline()
        following.kill()


@pytest.mark.broker
def test_functions_lines_are_printed_as_json(daemon: RunningDaemon, ministack: Ministack) -> None:
    app = APP.replace("QUEUE", repr(name_of(ministack.queue())))
    daemon.start(app, "--function-logs", "json", "--log-format", "json")
    daemon.started()
    millstream("invoke", "echo", "--payload", '"hello"', "--data-dir", str(daemon.data))
    assert daemon.stop() == 0
    lines = [json.loads(line) for line in daemon.text().splitlines()]
    told = [line["message"] for line in lines if line.get("function") == "echo" and "stream" in line]
    assert any("heard hello" in line for line in told)
    assert any(line.startswith("REPORT") for line in told)
    assert not (daemon.data / "logs").exists()


@pytest.mark.broker
def test_the_demo_loses_nothing() -> None:
    done = millstream("demo", "--json", "--messages", "500")
    assert done.returncode == 0, done.stderr
    tally = json.loads(done.stdout.splitlines()[-1])
    assert tally["sent"] == 500
    assert tally["lost"] == 0
    assert tally["delivered"] + tally["failed_to_destination"] == 500
    assert tally["failed_to_destination"] == 5


def test_pruning_says_what_it_freed(tmp_path: Path) -> None:
    (tmp_path / "data" / "code" / "a").mkdir(parents=True)
    (tmp_path / "data" / "code" / "a" / "file").write_bytes(bytes(1_500_000))
    done = millstream("prune", "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 0
    assert done.stdout == "removed 1, freed 1.5 MB; in use: 0\n"
    done = millstream("prune", "--data-dir", str(tmp_path / "none"))
    assert done.returncode == 3
    assert (
        done.stderr
        == f"error: {tmp_path}/none: wanted a data directory, found none; `millstream run` makes it\n"
    )


@pytest.mark.broker
def test_pruning_leaves_what_a_running_daemon_uses(daemon: RunningDaemon, ministack: Ministack) -> None:
    daemon.start(APP.replace("QUEUE", repr(name_of(ministack.queue()))))
    daemon.started()
    at = ("--data-dir", str(daemon.data))
    assert millstream("prune", *at).stdout == "removed 0, freed 0 bytes; in use: 1\n"
    done = millstream("invoke", "echo", "--payload", "1", *at)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"echo": 1})
    assert daemon.stop() == 0
    assert "removed 1, " in millstream("prune", *at).stdout
