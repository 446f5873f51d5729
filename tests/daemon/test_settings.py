"""What a configuration names as the interpreters of runtimes."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.contract.errors import InvalidConfiguration
from millstream.daemon.settings import named_runtimes


def test_an_interpreter_is_named_by_a_variable_or_by_a_flag_which_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MILLSTREAM_RUNTIME_NODEJS20_X", "/a/node")
    monkeypatch.setenv("MILLSTREAM_RUNTIME_JAVA8_AL2", "/a/java")
    found = named_runtimes(["nodejs20.x=/b/node", "ruby3.4=/b/ruby"])
    assert found == {
        "nodejs20.x": Path("/b/node"),
        "java8.al2": Path("/a/java"),
        "ruby3.4": Path("/b/ruby"),
    }


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("nodejs20.x", "--runtime: wanted NAME=PATH, found 'nodejs20.x'"),
        ("nodejs20.x=", "--runtime: wanted NAME=PATH, found 'nodejs20.x='"),
        ("nodejs20=/n", "--runtime: wanted nodejs20.x?, found 'nodejs20'"),
        ("provided.al2=/n", "--runtime: wanted "),
    ],
)
def test_a_flag_that_names_nothing_is_one_line(flag: str, says: str) -> None:
    with pytest.raises(InvalidConfiguration) as invalid:
        named_runtimes([flag])
    assert len(invalid.value.problems) == 1
    assert str(invalid.value).startswith(says)


def test_a_variable_of_no_runtime_is_an_error_that_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MILLSTREAM_RUNTIME_NODEJS20", "/a/node")
    with pytest.raises(InvalidConfiguration, match=r"^MILLSTREAM_RUNTIME_NODEJS20: wanted .*NODEJS20_X"):
        named_runtimes([])
