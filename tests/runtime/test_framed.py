"""The link to our own bootstrap, where its start is cut short."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest

from millstream.runtime.framed import FramedLink
from millstream.runtime.link import Broken
from millstream.runtime.processes import Places, Process
from millstream.runtime.sandboxes.launching import Launch
from millstream.runtime.sandboxes.plain import PlainProcesses


def program(command: Sequence[str], environment: Mapping[str, str], directory: str) -> Launch:
    return Launch(command)


class Interrupted(PlainProcesses):
    """Something happens while its process starts."""

    meanwhile: Callable[[], None]

    async def start_python(self, frames: Sequence[int], output: int) -> Process:
        process = await super().start_python(frames, output)
        self.meanwhile()
        return process


async def test_a_link_that_is_closed_while_it_starts_is_broken(tmp_path: Path) -> None:
    processes = Interrupted(Places(), tmp_path, Launch(["true"]), program, None)
    output = os.open(os.devnull, os.O_WRONLY)
    link = FramedLink(processes, partial(processes.start_python, output=output), b"C", b"{}")
    processes.meanwhile = link.close
    with pytest.raises(Broken):
        await link.start()
    os.close(output)
    processes.kill()
    await processes.gone()
