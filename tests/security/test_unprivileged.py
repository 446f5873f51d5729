"""A root's run of the sandbox tests once more as an ordinary user, whose daemon has no root to start with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USER = 64999  # no function of another test is it: what the kernel counts by user is its alone
NAME = "millstream-test"
IDS = "2000000000:65536"
"""Accounts on the host are unlikely to have these."""

WITHOUT = "test_without_ids_they_are_the_daemons_user_and_that_is_said_with_the_way_out"
CHOSEN = (
    "tests/security/test_isolation.py::test_a_function_holds_no_capability_and_gains_none",
    "tests/security/test_isolation.py::test_the_hosts_loopback_is_out_of_reach",
    "tests/security/test_isolation.py::test_processes_are_bounded_and_end_with_their_environment",
    "tests/security/test_isolation.py::test_tmp_is_private_to_an_environment_and_bounded",
    "tests/security/test_supervisor.py::test_its_supervisor_survives_every_signal[bwrap]",
    "tests/runtime/test_sandboxes.py::TestBwrap",
    "tests/runtime/test_invocations.py::test_a_function_sees_its_event_and_context",
    "tests/runtime/test_invocations.py::test_a_functions_files_are_as_on_aws_whatever_the_daemons_own_are",
    "tests/runtime/test_invocations.py::test_a_timeout_says_so_and_harms_no_further_invocation",
)
ATTACKS = (
    "tests/security/test_probes.py",
    "tests/security/test_deeds.py",
    "tests/security/test_sieges.py",
    "-k",
    "not docker",  # its engine is root's: there is one column for it
)
PACKAGES = ("tests/functions/test_confinement.py",)

SUBORDINATE = (
    "tests/security/subordinate_users.py",
    "tests/security/test_isolation.py::test_a_function_holds_no_capability_and_gains_none",
    "tests/security/test_isolation.py::test_processes_are_bounded_and_end_with_their_environment",
    "tests/security/test_supervisor.py::test_its_supervisor_survives_every_signal[bwrap]",
    "tests/runtime/test_sandboxes.py::TestBwrap",
    "--deselect",
    "tests/security/subordinate_users.py::" + WITHOUT,
)

SUBORDINATE_ATTACKS = ("tests/security/test_sieges.py", "-k", "bwrap")
"""The others come out alike: what the kernel counts by user is split in another way."""

SETTING = """
set -e
mount --make-rprivate /
if [ -n "$ACCOUNT" ]; then  # of the user, with subordinate ids: of this mount namespace alone
    { cat /etc/passwd; echo "$ACCOUNT"; } > "$5/passwd"
    mount --bind "$5/passwd" /etc/passwd
    for file in subuid subgid; do
        echo "$SUBORDINATE" > "$5/$file"
        mount --bind "$5/$file" /etc/$file
    done
fi
# The user may not pass folders of root's that lead to the interpreter and the tests: show these alone.
for path in "$1" "$2" "$3"; do
    mkdir -p "$5/stage$path"; mount --rbind "$path" "$5/stage$path"
done
for path in "$1" "$2" "$3"; do
    top="/$(echo "$path" | cut -d/ -f2)"
    case "$top" in /usr|/tmp) continue;; esac
    mountpoint -q "$top" || mount --rbind "$5/stage$top" "$top"
done
cd "$3"
shift 3
exec setpriv --reuid "$1" --regid "$1" --clear-groups --inh-caps=-all "$3" -m pytest "${@:4}"
"""


pytestmark = [
    pytest.mark.broker,
    pytest.mark.timeout(340),
    pytest.mark.skipif(os.geteuid() != 0, reason="the whole run is an ordinary user's already"),
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("unshare", "setpriv", "bash")), reason="needs util-linux"
    ),
]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user can reach."""
    with tempfile.TemporaryDirectory(prefix="millstream-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("chosen", [CHOSEN, ATTACKS, PACKAGES], ids=["life", "attacks", "packages"])
def test_an_ordinary_users_daemon_isolates_as_well(open_folder: Path, chosen: tuple[str, ...]) -> None:
    run_as_user(open_folder, chosen)


@pytest.mark.skipif(
    shutil.which("newuidmap") is None and not os.environ.get("CI"),
    reason="needs newuidmap (apt install uidmap)",
)
@pytest.mark.parametrize("chosen", [SUBORDINATE, SUBORDINATE_ATTACKS], ids=["life", "attacks"])
def test_with_subordinate_ids_each_function_is_a_user_of_its_own(
    open_folder: Path, chosen: tuple[str, ...]
) -> None:
    run_as_user(open_folder, chosen, account=True, ids=f"{NAME}:{IDS}")


def test_without_subordinate_ids_all_is_the_daemons_user(open_folder: Path) -> None:
    run_as_user(open_folder, (f"tests/security/subordinate_users.py::{WITHOUT}",), account=True)


def run_as_user(open_folder: Path, chosen: tuple[str, ...], *, account: bool = False, ids: str = "") -> None:
    """Run these tests as an ordinary user; `ids` is its line of /etc/subuid and /etc/subgid."""
    scratch = open_folder / "scratch"
    scratch.mkdir()
    os.chown(scratch, USER, USER)
    done = subprocess.run(
        [
            "unshare", "-m", "bash", "-c", SETTING, "bash", sys.base_prefix, sys.prefix, str(ROOT),
            str(USER), str(open_folder), sys.executable,
            "-q", "-p", "no:cacheprovider", f"--basetemp={scratch}/run", *chosen,
        ],
        capture_output=True, text=True, timeout=300, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(scratch), "PYTHONDONTWRITEBYTECODE": "1",
             "PYTHONPATH": str(ROOT / "src"), "SUBORDINATE": ids,
             "ACCOUNT": f"{NAME}:x:{USER}:{USER}::/:/bin/sh" if account else ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
