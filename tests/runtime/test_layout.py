"""Files that a sandbox is given, as they are made on the host."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from millstream.runtime.sandboxes.layout import layout

THREADS, ROUNDS = 8, 25


def test_several_environments_may_be_made_at_once(tmp_path: Path) -> None:
    barrier = Barrier(THREADS)

    def make(folder: Path) -> bool:
        barrier.wait()
        mounts = layout(None, folder, 1000).mounts
        return all(Path(source).exists() for source, _ in mounts)

    with ThreadPoolExecutor(THREADS) as pool:
        for number in range(ROUNDS):
            assert all(pool.map(make, [tmp_path / str(number)] * THREADS))
