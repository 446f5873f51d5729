"""Which provider a broker comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers.containers import Container, answers
from tests.brokers.provider import VARIABLE, Unavailable, provided


def made(name: str) -> Callable[[], str]:
    return lambda: name


def lacking(what: str) -> Callable[[], str]:
    def maker() -> str:
        raise Unavailable(f"wanted {what}, found none")

    return maker


def test_a_broker_is_local_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert provided("Mill", local=made("process"), containers=made("container")) == "process"


def test_a_broker_is_a_container_where_it_cannot_be_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert provided("Mill", local=lacking("a mill"), containers=made("container")) == "container"


@pytest.mark.parametrize(("named", "found"), [("local", "process"), ("containers", "container")])
def test_a_named_provider_is_the_one(named: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, named)
    assert provided("Mill", local=made("process"), containers=made("container")) == found


@pytest.mark.parametrize("named", ["local", "containers"])
def test_no_other_provider_stands_in_for_the_named_one(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, named)
    monkeypatch.delenv("CI", raising=False)
    makers = {"local": made("process"), "containers": made("container"), named: lacking("a mill")}
    with pytest.raises(pytest.skip.Exception, match=r"^Mill: wanted a mill, found none$"):
        provided("Mill", **makers)


def test_a_provider_of_another_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "cloud")
    with pytest.raises(pytest.UsageError, match=r"^MILLSTREAM_TEST_BROKERS: local or containers, got cloud$"):
        provided("Mill", local=made("process"), containers=made("container"))


@pytest.mark.parametrize(("ci", "outcome"), [(None, pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_broker_that_nobody_has_is_skipped_at_home_and_fails_on_ci(
    ci: str | None, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("CI", raising=False)
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=r"^Mill: wanted java, found none; wanted an engine, found none$"):
        provided("Mill", local=lacking("java"), containers=lacking("an engine"))


def test_a_container_without_an_engine_is_unavailable_and_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"unix://{tmp_path}/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", address)
    assert not answers(address)
    with pytest.raises(Unavailable, match=f"^wanted a Docker engine, found none at {address}$"):
        Container("kafka", {}, {})
