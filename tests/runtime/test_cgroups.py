"""Finding a cgroup to limit memory with, on hosts that a folder stands for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from millstream.runtime.sandboxes.cgroups import (
    OVERHEAD_BYTES,
    PROCESSES,
    TEMPLATE,
    Group,
    Groups,
    Share,
    pass_on,
)
from millstream.runtime.sandboxes.controllers import MB, Cpu, Memory, Processes, Size
from millstream.runtime.sandboxes.hierarchies import find_groups, watch

TEMPLATE_BYTES = TEMPLATE.memory_bytes


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
    assert find_groups(tmp_path) is None


def test_version_1_is_used_below_our_own_cgroup(tmp_path: Path) -> None:
    mount, proc = host(tmp_path, "cgroup", "rw,memory", "4:memory:/unit\n0::/\n")
    groups = find_groups(proc)
    assert groups is not None
    group = groups.make("f")
    (folder,) = (mount / "unit" / f"millstream-{os.getpid()}").glob("f-*")
    assert (folder / "memory.limit_in_bytes").read_text() == str(TEMPLATE_BYTES)
    assert group.entrances == [str(folder / "cgroup.procs")]
    share = Share(group, 128, 512)
    assert (folder / "memory.limit_in_bytes").read_text() == str(TEMPLATE_BYTES + 640 * MB + OVERHEAD_BYTES)
    assert (folder / "memory.kmem.tcp.limit_in_bytes").read_text() == str(64 * MB)
    share.close()
    assert (folder / "memory.limit_in_bytes").read_text() == str(TEMPLATE_BYTES)


def test_version_2_passes_the_controller_on(tmp_path: Path) -> None:
    mount, proc = host(tmp_path, "cgroup2", "rw", "0::/unit/daemon\n")
    for folder in (mount, mount / "unit"):
        (folder / "cgroup.subtree_control").write_text("cpu memory pids")
    (mount / "unit" / f"millstream-{os.getpid()}").mkdir()
    (mount / "unit" / f"millstream-{os.getpid()}" / "cgroup.subtree_control").write_text("cpu pids")
    groups = find_groups(proc)
    assert groups is not None
    groups.make("f")
    ours = mount / "unit" / f"millstream-{os.getpid()}"
    (folder,) = ours.glob("f-*")
    assert (folder / "memory.max").read_text() == str(TEMPLATE_BYTES)
    assert (folder / "memory.swap.max").read_text() == "0"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_hierarchy_that_we_may_not_write_is_passed_over(tmp_path: Path) -> None:
    mount, proc = host(tmp_path, "cgroup", "rw,memory", "4:memory:/unit\n")
    (mount / "unit").chmod(0o555)
    assert find_groups(proc) is None


def test_what_a_killed_daemon_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    mount, proc = host(tmp_path, "cgroup", "rw,memory", "4:memory:/unit\n")
    (proc / "77").mkdir()
    for pid in (77, 78):
        (mount / "unit" / f"millstream-{pid}" / "abcd").mkdir(parents=True)
    (mount / "unit" / "millstream-79").touch()  # as little can be listed as another user's
    find_groups(proc)
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


@pytest.mark.parametrize("version", [1, 2])
def test_an_end_for_memory_is_known(tmp_path: Path, version: int) -> None:
    memory = Memory(version)
    before = Share(Group([(tmp_path, memory)]), 128, 512)
    (tmp_path / memory.events).write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    after = Share(Group([(tmp_path, memory)]), 128, 512)
    assert before.out_of_memory()
    assert not after.out_of_memory()


def test_each_controller_of_version_1_has_its_own_hierarchy(tmp_path: Path) -> None:
    mount, proc = host(tmp_path, "cgroup", "rw,memory", "4:memory:/unit\n5:pids:/\n6:cpu,cpuacct:/\n")
    lines = (proc / "self" / "mountinfo").read_text()
    for name, options in (("pids", "rw,pids"), ("cpu", "rw,cpu,cpuacct")):
        (tmp_path / name).mkdir()
        lines += f"31 20 0:27 / {tmp_path / name} rw - cgroup cgroup {options}\n"
    (proc / "self" / "mountinfo").write_text(lines)
    groups = find_groups(proc)
    assert groups is not None
    assert groups.controllers == ["memory", "pids", "cpu"]
    group = groups.make("f")
    roots = [mount / "unit", tmp_path / "pids", tmp_path / "cpu"]
    found = [folder for root in roots for folder in root.glob("millstream-*/f-*")]
    assert group.entrances == [str(folder / "cgroup.procs") for folder in found]
    Share(group, 1769, 512)
    assert (found[1] / "pids.max").read_text() == str(PROCESSES + TEMPLATE.processes)
    assert (found[2] / "cpu.shares").read_text() == "1024"
    assert not (found[2] / "cpu.cfs_quota_us").exists()


@pytest.mark.parametrize(
    ("processes", "wanted"), [(1088, "1088"), (40_000, "8192")], ids=["few", "more than its part"]
)
def test_no_function_has_all_processes_that_all_may_have(tmp_path: Path, processes: int, wanted: str) -> None:
    controller = Processes(2, 16384)
    controller.hold_all(tmp_path)
    assert (tmp_path / "pids.max").read_text() == "16384"
    controller.hold(tmp_path, Size(processes=processes))
    assert (tmp_path / "pids.max").read_text() == wanted


def test_a_host_gives_half_of_its_processes_to_functions(tmp_path: Path) -> None:
    mount, proc = host(tmp_path, "cgroup", "rw,pids", "4:pids:/unit\n")
    (proc / "sys" / "kernel").mkdir(parents=True)
    for name, number in (("pid_max", 32768), ("threads-max", 9000)):
        (proc / "sys" / "kernel" / name).write_text(f"{number}\n")
    groups = find_groups(proc)
    assert groups is not None
    groups.make("f")
    assert (mount / "unit" / f"millstream-{os.getpid()}" / "pids.max").read_text() == "4500"


@pytest.mark.parametrize(
    ("version", "quota", "wanted"),
    [
        (1, False, {"cpu.shares": "74"}),
        (1, True, {"cpu.shares": "74", "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "7235"}),
        (2, False, {"cpu.weight": "7"}),
        (2, True, {"cpu.weight": "7", "cpu.max": "7235 100000"}),
    ],
)
def test_a_function_has_processors_by_its_memory(
    tmp_path: Path, version: int, quota: bool, wanted: dict[str, str]
) -> None:
    Cpu(version, quota=quota).hold(tmp_path, Size(cpu_mb=128))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == wanted


def test_groups_that_another_sandbox_of_the_process_removed_are_made_again(tmp_path: Path) -> None:
    groups = Groups([(tmp_path / "ours", Processes(1, 100))])
    groups.make("f")
    assert (tmp_path / "ours" / "pids.max").read_text() == "100"


def test_version_2_is_asked_for_what_a_folder_does_not_yet_pass_on(tmp_path: Path) -> None:
    control = tmp_path / "cgroup.subtree_control"
    control.write_text("cpu pids")
    pass_on(tmp_path, Processes(2, 100))
    assert control.read_text() == "cpu pids"
    pass_on(tmp_path, Memory(2))
    assert control.read_text() == "+memory"
