"""What a daemon asks of its host before it starts."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, hard))
from millstream.daemon.serve import allow_descriptors
allow_descriptors()
print(resource.getrlimit(resource.RLIMIT_NOFILE) == ({wanted}, hard))
"""


def said(soft: str, wanted: str) -> str:
    program = PROGRAM.format(soft=soft, wanted=wanted)
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return done.stdout


def test_a_daemon_has_as_many_descriptors_as_the_host_allows() -> None:
    assert said("256", "min(hard, 65536)") == "True\n"


def test_what_it_has_already_is_left_as_it_is() -> None:
    assert said("hard", "hard") == "True\n"
