"""Container images, as the bwrap driver shows them to functions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.runtime.bash_image import image, root
from tests.runtime.conftest import MakeRuntime

__all__ = ["root"]

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bwrap driver needs Linux"),
]


async def test_an_image_can_be_written_to_in_tmp_alone(runtime: MakeRuntime, root: Path) -> None:
    async with runtime("bwrap", "", image=image(root), timeout_s=10.0) as it:
        assert await it.answer("echo hello > /tmp/x && echo $(</tmp/x)") == "hello"
        for place in ("/x", "/app/x", "/mnt/x", "/dev/x", "/proc/x"):
            assert await it.answer(f"echo hello > {place} || echo no") != ""
            assert (await it.answer(f"echo hello > {place} || echo no")).endswith("no")
    assert not (root / "app" / "x").exists()


async def test_a_program_that_is_not_in_its_image_is_said(runtime: MakeRuntime, root: Path) -> None:
    async with runtime("bwrap", "", image=image(root, "/app/none"), timeout_s=10.0) as it:
        error = await it.error("")
        assert error["errorType"] == "Runtime.ExitError"
        assert error["errorMessage"].endswith("exit status 127")
        assert "/app/none: No such file or directory" in it.log()


EXTENSION = r"""#!/bin/bash
ask() {  # method, path, body, headers
  exec 3<>/dev/tcp/${AWS_LAMBDA_RUNTIME_API/://}
  printf '%s /2020-01-01/extension/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n' "$1" "$2" "$4" >&3
  printf 'Content-Length: %d\r\n\r\n%s' "${#3}" "$3" >&3
  while IFS= read -r line <&3 || [ -n "$line" ]; do
    line=${line%$'\r'}
    case "${line,,}" in
      lambda-extension-identifier:*) id=${line#*: } ;;
      *eventtype*) echo "heard $line" ;;
    esac
  done
  exec 3>&-
}
ask POST register '{"events":["INVOKE"]}' "Lambda-Extension-Name: ${0##*/}"
echo "from the image: $FROM_IMAGE"
while true; do ask GET event/next "" "Lambda-Extension-Identifier: $id"; done
"""


async def test_an_image_brings_its_extensions(runtime: MakeRuntime, root: Path) -> None:
    folder = root / "opt" / "extensions"
    folder.mkdir(parents=True)
    (folder / "seer").write_text(EXTENSION, encoding="utf-8")
    (folder / "seer").chmod(0o755)
    async with runtime("bwrap", "", image=image(root), timeout_s=10.0) as it:
        assert await it.answer("echo hello") == "hello"
    log = it.log()
    assert "from the image: yes" in log
    assert "EXTENSION\tName: seer\tState: Ready\tEvents: [INVOKE]" in log
    assert 'heard {"eventType":"INVOKE"' in log
