"""`millstream doctor`, on this host and on one that cannot isolate functions."""

from __future__ import annotations

import json
import os
import sys

import pytest
from typer.testing import CliRunner

from millstream.cli.main import app
from millstream.contract.errors import SandboxUnavailable
from millstream.daemon.serve import ExitCode
from millstream.functions.runtimes import RUNTIMES, default_runtime
from millstream.runtime.sandboxes.bwrap import BwrapSandbox

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bwrap driver needs Linux")


@pytest.mark.broker
def test_it_says_what_this_host_offers() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["driver"] == "bwrap"
    host = {each["what"]: each["found"] for each in report["host"]}
    assert host["user"].startswith("root; " if os.geteuid() == 0 else f"an ordinary one, {os.geteuid()}; ")
    if os.geteuid() == 0:
        assert host["user"].endswith("each function is a user of its own")
    drivers = {each["what"]: each for each in report["drivers"]}
    assert list(drivers)[:1] == ["bwrap"]
    assert "memory" in drivers["bwrap"]["found"]
    assert "shares of processors" in drivers["bwrap"]["found"]
    assert drivers["docker"]["found"]
    assert drivers["process"]["found"].startswith("reduced")
    runtimes = {each["what"]: each for each in report["runtimes"]}
    assert set(runtimes) == {default_runtime(), *RUNTIMES}
    assert runtimes[default_runtime()]["ok"]
    assert all(
        "or name one by MILLSTREAM_RUNTIME_" in each["found"] for each in runtimes.values() if not each["ok"]
    )


def test_a_host_that_cannot_isolate_is_told_so_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(self: BwrapSandbox) -> None:
        raise SandboxUnavailable("isolation bwrap: no namespaces [here]")

    monkeypatch.setattr(BwrapSandbox, "start", start)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == ExitCode.SANDBOX
    assert "no namespaces [here]" in result.stdout
    assert "millstream run cannot isolate functions here" in result.stdout
