"""What a host says of its memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.runtime.memory import default_budget_mb, runs_short

GB = 1024 * 1024


def host(root: Path, total_kb: int, available_kb: int, files: dict[str, str] | None = None) -> Path:
    info = f"MemTotal: {total_kb:>12} kB\nMemFree:  100 kB\nMemAvailable: {available_kb} kB\nBuffers: 1 kB\n"
    for name, text in {"proc/meminfo": info, **(files or {})}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def pressure(full: float) -> dict[str, str]:
    some = "some avg10=99.00 avg60=0.00 avg300=0.00 total=1\n"
    return {"proc/pressure/memory": f"{some}full avg10={full:.2f} avg60=0.00 avg300=0.00 total=1\n"}


V1 = {"proc/self/cgroup": "4:memory:/docker/x\n3:cpu,cpuacct:/\n0::/\n"}
V2 = {"proc/self/cgroup": "0::/user/a\n"}
LIMIT = str(1024**3)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 3072),
        ({**V2, "sys/fs/cgroup/user/a/memory.max": LIMIT}, 768),
        ({**V2, "sys/fs/cgroup/user/memory.max": LIMIT, "sys/fs/cgroup/user/a/memory.max": "max"}, 768),
        ({**V2, "sys/fs/cgroup/memory.max": LIMIT}, 768),
        ({**V2, "sys/fs/cgroup/memory.max": "max"}, 3072),
        ({**V1, "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": LIMIT}, 768),
        ({**V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": LIMIT}, 768),
        ({**V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, 3072),
    ],
)
def test_the_budget_is_three_quarters_of_what_is_free_or_of_the_containers(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    assert default_budget_mb(host(tmp_path, 8 * GB, 4 * GB, files)) == expected


def test_a_system_that_says_nothing_has_no_budget_and_is_never_short(tmp_path: Path) -> None:
    assert default_budget_mb(tmp_path) is None
    assert not runs_short(tmp_path)


@pytest.mark.parametrize(
    ("available_kb", "files", "short"),
    [
        (4 * GB, {}, False),
        (4 * GB, pressure(9.0), False),
        (4 * GB, pressure(10.0), True),
        (4 * GB, {"proc/pressure/memory": "nonsense"}, False),
        (8 * GB // 20 + 1, {}, False),
        (8 * GB // 20 - 1, {}, True),
    ],
)
def test_a_host_is_short_where_little_is_available_or_all_wait_for_memory(
    tmp_path: Path, available_kb: int, files: dict[str, str], short: bool
) -> None:
    assert runs_short(host(tmp_path, 8 * GB, available_kb, files)) is short
