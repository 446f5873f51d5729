"""The file system of a container image, with nothing but bash in it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from millstream.contract.functions import Image

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
    (folder / "etc").mkdir()
    (folder / "etc" / "os-release").write_text("NAME=bash\n", encoding="utf-8")
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    tmp_path.chmod(0o755)
    return folder


def image(root: Path, *command: str) -> Image:
    return Image(root, command or ("/app/run",), "/app", {"FROM_IMAGE": "yes", "SIZE": "1"})
