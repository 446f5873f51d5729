"""Finding a cgroup to limit memory with, on hosts that a folder stands for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from millstream.runtime.sandboxes.cgroups import (
    MB,
    OVERHEAD_BYTES,
    TEMPLATE_BYTES,
    V1,
    V2,
    MemoryGroup,
    Share,
    find_memory_groups,
    watch,
)


def host(tmp_path: Path, kind: str, options: str, own: str) -> tuple[Path, Path]:
    """A /proc and a mounted hierarchy with our own cgroup in it."""
    mount = tmp_path / "cgroup"
    (mount / "unit" / "daemon").mkdir(parents=True)
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    line = f"30 20 0:26 / {mount} rw,nosuid shared:4 - {kind} cgroup {options}\n"
    (proc / "self" / "mountinfo").write_text(f"20 1 8:1 / / rw - ext4 /dev/vda rw\n{line}")
    (proc / "self" / "cgroup").write_text(own)
    return mount, proc


def test_a_host_without_cgroups_has_none(tmp_path: Path) -> None:
    assert find_memory_groups(tmp_path) is None


def test_version_1_is_used_below_our_own_cgroup(tmp_path: Path) -> None:
    mount, proc = host(tmp_path, "cgroup", "rw,memory", "4:memory:/unit\n0::/\n")
    groups = find_memory_groups(proc)
    assert groups is not None
    group = groups.make("f")
    (folder,) = (mount / "unit" / f"millstream-{os.getpid()}").glob("f-*")
    assert (folder / "memory.limit_in_bytes").read_text() == str(TEMPLATE_BYTES)
    assert group.entrance == str(folder / "cgroup.procs")
    share = Share(group, 128, 512)
    assert (folder / "memory.limit_in_bytes").read_text() == str(TEMPLATE_BYTES + 640 * MB + OVERHEAD_BYTES)
    share.close()
    assert (folder / "memory.limit_in_bytes").read_text() == str(TEMPLATE_BYTES)


def test_version_2_passes_the_controller_on(tmp_path: Path) -> None:
    mount, proc = host(tmp_path, "cgroup2", "rw", "0::/unit/daemon\n")
    for folder in (mount, mount / "unit"):
        (folder / "cgroup.subtree_control").write_text("cpu memory")
    (mount / "unit" / f"millstream-{os.getpid()}").mkdir()
    (mount / "unit" / f"millstream-{os.getpid()}" / "cgroup.subtree_control").write_text("")
    groups = find_memory_groups(proc)
    assert groups is not None
    groups.make("f")
    ours = mount / "unit" / f"millstream-{os.getpid()}"
    assert (ours / "cgroup.subtree_control").read_text() == "+memory"
    (folder,) = ours.glob("f-*")
    assert (folder / "memory.max").read_text() == str(TEMPLATE_BYTES)
    assert (folder / "memory.swap.max").read_text() == "0"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_hierarchy_that_we_may_not_write_is_passed_over(tmp_path: Path) -> None:
    mount, proc = host(tmp_path, "cgroup", "rw,memory", "4:memory:/unit\n")
    (mount / "unit").chmod(0o555)
    assert find_memory_groups(proc) is None


def test_what_a_killed_daemon_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    mount, proc = host(tmp_path, "cgroup", "rw,memory", "4:memory:/unit\n")
    (proc / "77").mkdir()
    for pid in (77, 78):
        (mount / "unit" / f"millstream-{pid}" / "abcd").mkdir(parents=True)
    find_memory_groups(proc)
    assert (mount / "unit" / "millstream-77" / "abcd").exists()
    assert not (mount / "unit" / "millstream-78").exists()


@pytest.mark.parametrize(
    ("kind", "options", "own", "events"),
    [
        ("cgroup", "rw,memory", "4:memory:/box\n0::/\n", "memory.oom_control"),
        ("cgroup2", "rw", "0::/box\n", "memory.events"),
    ],
    ids=["v1", "v2"],
)
def test_an_end_for_memory_in_anothers_cgroup_is_known(
    tmp_path: Path, kind: str, options: str, own: str, events: str
) -> None:
    mount, proc = host(tmp_path, kind, options, "0::/unit\n")
    (proc / "77").mkdir()
    (proc / "77" / "cgroup").write_text(own)
    assert watch(77, proc) is None
    (mount / "box").mkdir()
    (mount / "box" / events).write_text("oom_kill 0\n")
    found = watch(77, proc)
    assert found is not None
    assert not found.out_of_memory()
    (mount / "box" / events).write_text("oom_kill 2\n")
    assert [found.out_of_memory() for _ in range(2)] == [True, False]


@pytest.mark.parametrize("names", [V1, V2], ids=["v1", "v2"])
def test_an_end_for_memory_is_known(tmp_path: Path, names: object) -> None:
    assert names in (V1, V2)
    version = V1 if names is V1 else V2
    before = Share(MemoryGroup(tmp_path, version), 128, 512)
    (tmp_path / version.events).write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    after = Share(MemoryGroup(tmp_path, version), 128, 512)
    assert before.out_of_memory()
    assert not after.out_of_memory()
