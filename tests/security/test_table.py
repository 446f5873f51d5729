"""SECURITY.md says of each attempt what the tests show."""

from __future__ import annotations

from collections import Counter

from tests.security.table import ATTEMPTS, PAGE, replaced


def test_the_table_is_what_the_attempts_declare() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert replaced(page) == page, "run: python -m tests.security.table --write"


def test_each_attempt_has_a_name_of_its_own() -> None:
    names = Counter(attempt.name for attempt in ATTEMPTS)
    assert [name for name, count in names.items() if count > 1] == []
