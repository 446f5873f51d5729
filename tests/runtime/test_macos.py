"""`--isolation process` where nothing of Linux is there: what a developer's Mac has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ["plain", "darwin", True]
WANTED = [
    PLAIN, "hi\n", ["failed", "ValueError"], ["failed", "Sandbox.Timedout"], PLAIN,
    ["failed", "Runtime.ExitError"], PLAIN,
]  # fmt: skip


@pytest.mark.broker
def test_functions_run_without_a_call_of_linux(tmp_path: Path) -> None:
    stand_in = tmp_path / "python"
    program = (ROOT / "tests" / "runtime" / "without_linux.py").read_text(encoding="utf-8")
    stand_in.write_text(f"#!{sys.executable}\n{program}", encoding="utf-8")
    stand_in.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "tests.runtime.on_macos", str(tmp_path), str(stand_in)],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["limits"].startswith("reduced: ")
    assert said["found"] == {"framed": WANTED, "fresh": WANTED, "loaded": WANTED}
