"""The table of attempts: `python -m tests.security.table` prints it, `--write` puts it in SECURITY.md."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from tests.security.deeds import DEEDS
from tests.security.outcomes import COLUMNS, Attempt
from tests.security.probes import PROBES
from tests.security.sieges import SIEGES

PAGE = Path(__file__).resolve().parents[2] / "SECURITY.md"
BEGIN, END = "<!-- attempts: begin -->\n", "<!-- attempts: end -->\n"
ATTEMPTS: tuple[Attempt, ...] = (*PROBES, *DEEDS, *SIEGES)


def table() -> str:
    """In Markdown."""
    lines = ["| attempt | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for group, attempts in groupby(ATTEMPTS, key=lambda attempt: attempt.group):
        lines.append(f"| *{group}* |" + " |" * len(COLUMNS))
        lines += [f"| {attempt.name} | {' | '.join(attempt.outcomes)} |" for attempt in attempts]
    return "\n".join(lines) + "\n"


def replaced(page: str) -> str:
    """The page with the table as it is now. Raises ValueError where its markers are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        wanted = f"wanted the lines {BEGIN.strip()} and {END.strip()}"
        raise ValueError(f"{PAGE.name}: {wanted}, found one of them at most")
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table(), end="")
