"""Builds the packages of examples/runtimes that the tests run: `python -m scripts.languages`.

Each is built from a copy, into a cache that outlives the checkout, and named by its sources; what is there
is not built again.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.kafka_broker import cache

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "runtimes"

PROGRAMS = {
    "python": (),
    "nodejs": ("npm", "cmake", "make", "g++", "xz"),
    "java": ("javac", "mvn"),
    "go": ("go",),
    "rust": ("cargo",),
    "shell": ("curl",),
}
"""What each language is built with, and a sandbox runs it with."""

NODE_MAJOR, NODE = "22", "22.23.3"
"""aws-lambda-ric 4 wants 22 or newer, and Debian's is older. It is a package of npm's, too."""

MADE = shutil.ignore_patterns("build", "target", "node_modules", "Cargo.lock")
BUILT_WITHIN_S = 600.0


AT_ONCE = 2


def main() -> None:
    with ThreadPoolExecutor(AT_ONCE) as builders:
        for problem in builders.map(_prepare, PROGRAMS):
            if problem:
                print(f"{problem}; tests of what needs it are skipped", file=sys.stderr)


def package(language: str) -> Path:
    """The folder of a language's package, built the first time.

    Raises:
        OSError: one of its programs is not there, or could not build it.
    """
    for program in PROGRAMS[language]:
        if shutil.which(program) is None:
            raise FileNotFoundError(f"wanted {program}, found none")

    def build(unfinished: Path) -> Path:
        copy = unfinished / language
        shutil.copytree(EXAMPLES / language, copy, ignore=MADE)
        _run(["sh", "build.sh"], copy)
        return copy / "build"

    return _kept(f"runtime-{language}-{_digest(language)}", build)


def node() -> Path:
    """A Node.js that runs what the package of nodejs brings: this host's, or one that npm fetches.

    Raises:
        OSError: npm is not there, or could not fetch it.
    """
    here = shutil.which("node")
    if here and _run([here, "--version"], EXAMPLES).startswith(f"v{NODE_MAJOR}."):
        return Path(here)
    name = f"node-linux-{'arm64' if platform.machine() == 'aarch64' else 'x64'}"

    def fetch(unfinished: Path) -> Path:
        (unfinished / "package.json").write_text("{}", encoding="ascii")
        _run(["npm", "install", "--no-package-lock", "--loglevel=error", f"{name}@{NODE}"], unfinished)
        return unfinished / "node_modules" / name

    return _kept(f"node-{NODE}", fetch) / "bin" / "node"


def _prepare(language: str) -> str:
    """Why a language cannot be tested here; empty if it can."""
    try:
        package(language)
        if language == "nodejs":
            node()
    except OSError as error:
        return f"{language}: {error}"
    return ""


def _digest(language: str) -> str:
    """Of all that a package is made from, but for the tools."""
    digest = hashlib.sha256(platform.machine().encode())
    if language == "python":  # its client is compiled for one version
        digest.update(f"{sys.implementation.cache_tag}".encode())
    for folder, folders, files in os.walk(EXAMPLES / language):
        made = MADE(folder, [*folders, *files])
        folders[:] = sorted(set(folders) - made)
        for name in sorted(set(files) - made):
            path = Path(folder, name)
            digest.update(f"{path.relative_to(EXAMPLES)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _kept(name: str, make: Callable[[Path], Path]) -> Path:
    """A folder of the cache, made in a temporary one beside it if it is not there."""
    folder = cache() / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            made = make(Path(unfinished))
            try:
                made.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was quicker
                    raise
    return folder


def _run(command: list[str], folder: Path) -> str:
    """What a program prints. Raises OSError if it fails."""
    environment = {**os.environ, "PYTHON": sys.executable}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=BUILT_WITHIN_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"wanted {' '.join(command)} within {BUILT_WITHIN_S:g} s") from error
    if done.returncode:
        raise OSError(f"wanted {' '.join(command)} to succeed, found: {done.stdout.strip()[-1000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
