"""Makes the virtual environment that a make target needs: `setup.py VENV EXTRA`.

Needs nothing but the standard library. System packages are installed only where this runs as root
on Debian or Ubuntu; otherwise a line says what was left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

MINIMUM = (3, 11)


def main() -> None:
    venv, extra = Path(sys.argv[1]), sys.argv[2]
    if sys.version_info < MINIMUM:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"Python: wanted 3.11 or newer, found {found}; make PYTHON=python3.12 chooses another")
    python = venv / "bin" / "python"
    if not python.exists():
        print(f"creating {venv}", file=sys.stderr)
        make_venv(venv)
    print(f"installing millstream[{extra}]", file=sys.stderr)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--editable", f".[{extra}]"], check=True)
    if not sys.platform.startswith("linux"):
        print("not on Linux: the bwrap sandbox is left out, --isolation process is there", file=sys.stderr)


def make_venv(venv: Path) -> None:
    command = [sys.executable, "-m", "venv", str(venv)]
    if subprocess.run(command, capture_output=True, check=False).returncode == 0:
        return
    # Debian ships venv in a package of its own.
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"venv: wanted Python's venv module, found none; install {package} and run make again")
    print(f"installing {package}", file=sys.stderr)
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(["apt-get", "install", "-y", "-qq", package], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
