"""Tables, where sources have said what is in them."""

from __future__ import annotations

import msgspec
import pytest

from millstream.cli.tables import print_mappings
from millstream.contract.state import MappingStatus

SAID = "PROBLEM: no topic [/bold] [red]x"


def test_what_a_source_says_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    status = MappingStatus("id", state="Enabled", state_reason=SAID, last_result="[/] as it is")
    row = {"kind": "kafka", "source": "topic[1]", "function": "f"}
    shown = {"row": row, "status": msgspec.to_builtins(status), "backlog": 1, "rate": 0.0}
    print_mappings([shown], as_json=False)
    told = " ".join(capsys.readouterr().out.split())
    assert "topic[1] → f" in told
    assert "[red]x" in told
    assert "[/]" in told
