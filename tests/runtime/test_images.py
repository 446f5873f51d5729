"""Container images, layers and file systems, as the bwrap driver shows them to functions."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from millstream.contract.functions import FileSystem, Image
from tests.runtime.conftest import MakeRuntime

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bwrap driver needs Linux"),
]

BOOTSTRAP = r"""#!/bin/bash
# Speaks HTTP by itself, for nothing but bash is in the image.
ask() {  # method, path, body; the answer's body is in $body, the request's id in $id
  exec 3<>/dev/tcp/${AWS_LAMBDA_RUNTIME_API/://}
  local size=0 line
  printf '%s /2018-06-01/runtime/invocation/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n' "$1" "$2" >&3
  printf 'Content-Length: %d\r\n\r\n%s' "${#3}" "$3" >&3
  while IFS= read -r line <&3; do
    line=${line%$'\r'}
    [ -z "$line" ] && break
    case "${line,,}" in
      lambda-runtime-aws-request-id:*) id=${line#*: } ;;
      content-length:*) size=${line#*: } ;;
    esac
  done
  IFS= read -r -N "$size" body <&3
  exec 3>&-
}
while true; do
  ask GET next ""
  text=$(eval "${body:1:-1}" 2>&1)
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  ask POST "$id/response" "\"${text//$'\n'/\\n}\""
done
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The file system of an image: bash, its libraries, and a bootstrap that evaluates its event."""
    folder = tmp_path / "image"
    bash = shutil.which("bash") or "/bin/bash"
    said = subprocess.run(["ldd", bash], capture_output=True, text=True, check=True).stdout
    for file in (bash, *re.findall(r"(/\S+) \(0x", said)):
        place = folder / ("bin/bash" if file == bash else file.lstrip("/"))
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    (folder / "app").mkdir()
    (folder / "app" / "run").write_text(BOOTSTRAP, encoding="utf-8")
    (folder / "app" / "run").chmod(0o755)
    (folder / "link").symlink_to("app")
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    tmp_path.chmod(0o755)
    return folder


def image(root: Path, *command: str) -> Image:
    return Image(root, command or ("/app/run",), "/app", {"FROM_IMAGE": "yes", "SIZE": "1"})


async def test_an_image_is_all_that_a_function_sees(runtime: MakeRuntime, root: Path) -> None:
    spec = {"image": image(root), "environment": {"SIZE": "2"}, "timeout_s": 10.0}
    async with runtime("bwrap", "", **spec) as it:
        assert await it.answer("echo $PWD $FROM_IMAGE $SIZE $AWS_LAMBDA_FUNCTION_NAME") == "/app yes 2 f"
        found = (await it.answer("cd / && echo *")).split()
        assert {"app", "bin", "link", "proc", "dev", "tmp", "mnt"} <= set(found)
        assert not {"opt", "etc", "run", "var", "root"} & set(found)
        assert await it.answer("echo $$; cd /link && echo *") == "2\nrun"


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


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that everybody may write to."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


async def test_a_file_system_is_shared_and_kept(runtime: MakeRuntime, shared: Path) -> None:
    code = (
        "def handle(e, c):\n    with open('/mnt/data/x', 'a') as f:\n        f.write(e)\n"
        "    with open('/mnt/data/x') as f:\n        return f.read()\n"
    )
    async with runtime("bwrap", code, file_system=FileSystem(shared, "/mnt/data"), timeout_s=10.0) as it:
        assert await it.answer("a") == "a"
        assert await it.answer("b") == "ab"
    assert (shared / "x").read_text(encoding="utf-8") == "ab"


async def test_layers_are_at_opt(runtime: MakeRuntime, tmp_path: Path) -> None:
    (tmp_path / "opt" / "python").mkdir(parents=True)
    (tmp_path / "opt" / "python" / "shared.py").write_text("name = 'layer'\n", encoding="utf-8")
    code = "import shared\ndef handle(e, c):\n    return shared.name\n"
    async with runtime("bwrap", code, opt=tmp_path / "opt", timeout_s=10.0) as it:
        assert await it.answer() == "layer"
