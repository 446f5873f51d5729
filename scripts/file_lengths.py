"""Fails if a source file has more than 400 lines (style rule 19)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CEILING = 400


def main() -> None:
    names = subprocess.run(["git", "ls-files", "*.py"], check=True, capture_output=True, text=True).stdout
    files = [path for path in map(Path, names.split()) if path.is_file()]
    long = [(path, len(path.read_text(encoding="utf-8").splitlines())) for path in files]
    for path, lines in long:
        if lines > CEILING:
            print(f"{path}: wanted at most {CEILING} lines, found {lines}")
    sys.exit(any(lines > CEILING for _, lines in long))


if __name__ == "__main__":
    main()
