"""What must not be forged is refused by mypy, not only at run time."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from millstream.contract.records import Batch, Checkpoint, Position, Resolution
from tests.fakes import record

FORGERIES = [
    ("await store.commit(lease, Position('7'))", "Checkpoint"),
    ("await store.commit(lease, batch)", "Checkpoint"),
    ("await queue.settle(batch)", "Resolution"),
    ("tracker.complete(batch)", "Resolution"),
    ("Discarded(Reason.TOO_OLD)", "receipt"),
    ("Resolution(None, batch, ())", "_Seal"),
]


@pytest.mark.parametrize(("line", "says"), FORGERIES, ids=[line for line, _ in FORGERIES])
def test_mypy_refuses(line: str, says: str, tmp_path: Path) -> None:
    source = f"""
        from millstream.contract.ports import QueueReader
        from millstream.contract.state import Lease, StateStore
        from millstream.contract.records import (
            Batch, CursorTracker, Discarded, Position, Reason, Resolution
        )
        async def forge(
            store: StateStore, lease: Lease, batch: Batch, tracker: CursorTracker, queue: QueueReader
        ) -> None:
            {line}
    """
    (tmp_path / "forgery.py").write_text(textwrap.dedent(source))
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert "error" in done.stdout
    assert says in done.stdout


def test_no_other_module_mints_proofs() -> None:
    with pytest.raises(TypeError):
        Checkpoint(object(), "s", Position("1"))  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(TypeError):
        Resolution(object(), Batch((record(1),)), ())  # type: ignore[arg-type]  # the point of the test
