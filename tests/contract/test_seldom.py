"""What goes wrong again and again is told once a minute."""

from __future__ import annotations

from millstream.contract.seldom import EVERY_S, Seldom


def test_a_line_about_a_reason_is_due_once_a_minute() -> None:
    now = 100.0
    seldom = Seldom(lambda: now)
    assert [seldom.due("a"), seldom.due("a"), seldom.due("b")] == [True, False, True]
    now += EVERY_S
    assert [seldom.due("a"), seldom.due("a")] == [True, False]
