"""What a function sees of this host in a sandbox: /usr, an interpreter, our runtime, the code."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import os
import re
import sys
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import millstream
from millstream.contract.functions import FunctionSpec
from millstream.runtime import bootstrap, zygote
from millstream.runtime.bootstrap import threads
from millstream.runtime.egress import hosts
from millstream.runtime.fresh import why_fresh
from millstream.runtime.processes import Places

LANG = "/var/lang"
TASK = "/var/task"
OPT = "/opt"
IMAGE, ROOT = "/run/image", "/run/root"
RUNTIME = "/var/runtime"
API_PORT = 9001
"""Where a runtime finds the Runtime API, on the loopback address of its own network."""

PROGRAM_MB = 128
"""What a program may map above its function's memory, for RLIMIT_DATA counts what it never touches.

Beyond what is resident, Go maps 70 MB (its heap comes in arenas of 64 MB), Node.js 40 MB (stacks of eleven
threads, room for young objects), Java 10 MB; about twice the most of it is here.
"""

PROGRAM_STACKS_MB = 8 * 1024
"""For 1,024 threads of a program, each with the C library's usual stack."""

VARIABLES = {"PYTHONDONTWRITEBYTECODE": "1", "TZ": ":UTC", "LANG": "C.UTF-8"}
"""Of the first process in a sandbox; the function's own come later."""

ROOT_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
ETC = (
    "ld.so.cache",
    "ssl/certs",  # not all of ssl and pki: there are keys
    "ssl/cert.pem",
    "ssl/openssl.cnf",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "pki/ca-trust",
    "ca-certificates",
    "alternatives",
    "localtime",
    "mime.types",
    "os-release",
    "protocols",
    "services",
)

OURS = "_millstream"
"""The package of our modules in a sandbox: a name that no module of a function has."""

BUNDLED = ("boto3", "botocore", "s3transfer", "jmespath", "python-dateutil", "urllib3", "six", "simplejson")
"""Distributions of Lambda's Python runtime: boto3 and its dependencies, and its encoder."""

BOTO3 = re.compile(rb"^[ \t]*(?:import|from)[ \t]+boto", re.MULTILINE)
LOOKED_AT = 200
LOOKED_AT_BYTES = 64 * 1024
"""Modules of a package, and bytes of each, that are searched for boto3."""

USER = "sbx_user1051"
USER_ID = 993
OUR_ETC = {
    "passwd": USER + ":x:{user}:{user}::/tmp:/sbin/nologin\n",
    "group": USER + ":x:{user}:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What stands where in a sandbox. Mounts are pairs of source and place, read-only but for `writable`."""

    mounts: list[tuple[str, str]]
    python: str
    variables: dict[str, str]
    folders: list[str]  # empty, for what is mounted there later
    symlinks: list[tuple[str, str]] = field(default_factory=list)  # pairs of target and place
    writable: list[tuple[str, str]] = field(default_factory=list)


def layout(function: FunctionSpec | None, work_dir: Path, user: int = USER_ID) -> Layout:
    """What a function sees; with None, without code, to try whether the host can do it.

    `user` is the id that it sees as its own.
    """
    symlinks, mounts = [], [("/usr", "/usr")]
    for name in ROOT_FOLDERS:
        path = Path("/", name)
        if path.is_symlink():
            symlinks.append((os.readlink(path), str(path)))
        elif path.exists():
            mounts.append((str(path), str(path)))
    mounts += [(f"/etc/{name}", f"/etc/{name}") for name in ETC if Path("/etc", name).exists()]
    mounts += [(str(path), str(path)) for path in sorted(Path("/etc").glob("java-*-openjdk"))]
    mounts += [(str(path), f"/etc/{path.stem}") for path in _our_etc(work_dir, user)]
    mounts.append((str(hosts_file(function, work_dir)), "/etc/hosts"))
    own = function is not None and function.interpreter is not None
    python, variables, lang = interpreter(f"{RUNTIME}/lang" if own else LANG)
    mounts += lang + runtime_files(RUNTIME)
    folders = ["/tmp", OPT, "/mnt", TASK]
    if function is not None:
        if function.image is None:
            mounts.append((str(function.code), TASK))
        if function.opt is not None:
            mounts.append((str(function.opt), OPT))
        if function.interpreter is not None:
            mounts.append((str(function.interpreter), LANG))
        if function.image is not None:
            folders.append(ROOT)
            mounts.append((str(function.image.root), IMAGE))
    return Layout(mounts, python, {**VARIABLES, **variables}, folders, symlinks, shared(function))


def places() -> Places:
    """The places where the processes of a sandbox find things."""
    return Places(port=API_PORT, python=interpreter(LANG)[0])


def shared(function: FunctionSpec | None) -> list[tuple[str, str]]:
    """The function's file system, if it has one: what is mounted writable."""
    if function is None or function.file_system is None:
        return []
    return [(str(function.file_system.folder), function.file_system.local_mount_path)]


def data_mb(function: FunctionSpec) -> int:
    """What one process of a function may map and write to."""
    runs_program = function.command or function.image is not None or why_fresh(function)
    return function.memory_size_mb + (PROGRAM_MB if runs_program else 0)


def stacks_mb(function: FunctionSpec, *, counted: bool) -> int:
    """Megabytes that stacks of threads may map above that. `counted`: a cgroup counts what is touched."""
    if function.command or function.image is not None or why_fresh(function):
        return PROGRAM_STACKS_MB if counted else 0
    stack_bytes = threads.STACK_BYTES if counted else threads.SMALL_STACK_BYTES
    return threads.THREADS * stack_bytes // (1024 * 1024)


def mode(function: FunctionSpec) -> str:
    """What the zygote of a function loads ahead: see zygote.py."""
    if function.command or function.image is not None or why_fresh(function):
        return "bare"
    return "boto3" if _names_boto3(function.code) else "python"


def _names_boto3(code: Path) -> bool:
    """True if a module of the package imports boto3; of a large package, only some are looked at."""
    for path in itertools.islice(code.rglob("*.py"), LOOKED_AT):
        with contextlib.suppress(OSError), path.open("rb") as file:
            if BOTO3.search(file.read(LOOKED_AT_BYTES)):
                return True
    return False


def _our_etc(work_dir: Path, user: int) -> list[Path]:
    return [_written(work_dir, f"{name}.{user}", text.format(user=user)) for name, text in OUR_ETC.items()]


def hosts_file(function: FunctionSpec | None, work_dir: Path) -> Path:
    """The hosts file of a function's environments."""
    name = "hosts" if function is None else f"hosts-{function.name}"
    return _written(work_dir, name, hosts(() if function is None else function.network))


def _written(work_dir: Path, name: str, text: str) -> Path:
    """A file with this text; one that has it is left alone, for environments are reading it."""
    file = work_dir / "etc" / name
    if not file.exists() or file.read_text(encoding="ascii") != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f"{file.name}.{threading.get_ident()}.new")  # containers are made in threads
        new.write_text(text, encoding="ascii")
        new.chmod(0o644)
        new.replace(file)
    return file


def first_files(place: str) -> list[tuple[str, str]]:
    """Mounts of what the first process runs, below `place`."""
    packages = {"bootstrap": bootstrap, "zygote": zygote}
    return [(package.__path__[0], f"{place}/{OURS}/{name}") for name, package in packages.items()]


def start(place: str, module: str) -> list[str]:
    """Arguments of an interpreter that starts `main` of a module of ours, with what is below `place`."""
    code = f"import sys; sys.path.append({place!r}); from {OURS}.{module} import main; main()"
    return ["-P", "-c", code]


def interpreter(lang: str) -> tuple[str, dict[str, str], list[tuple[str, str]]]:
    """The daemon's own interpreter: its path inside, variables that it needs, mounts.

    It is at `lang` unless it is below /usr, which every sandbox has.
    """
    executable = f"bin/python{sys.version_info.major}.{sys.version_info.minor}"
    prefix = os.path.realpath(sys.base_prefix)
    if prefix == "/usr" or prefix.startswith("/usr/"):
        return f"{prefix}/{executable}", {}, []
    variables = {"PYTHONHOME": lang, "LD_LIBRARY_PATH": f"{lang}/lib"}
    return f"{lang}/{executable}", variables, [(prefix, lang)]


def runtime_files(place: str) -> list[tuple[str, str]]:
    """Mounts of the bootstrap, the declarations and what Lambda's runtime brings, below `place`."""
    ours, begin = Path(millstream.__file__).resolve().parent, Path(bootstrap.__path__[0])
    files = [
        (ours / "__init__.py", "millstream/__init__.py"),
        (ours / "declarations.py", "millstream/declarations.py"),
        (begin / "start.py", "bootstrap.py"),
        (begin / "snapshot_restore_py.py", "snapshot_restore_py.py"),
    ]
    files += [(path, path.name) for name in BUNDLED for path in _of_a_distribution(name)]
    return first_files(place) + [(str(path), f"{place}/{name}") for path, name in files]


@cache
def _of_a_distribution(name: str) -> list[Path]:
    """The folders and modules that a distribution has in its site, its dist-info among them."""
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return []
    tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
    found = (Path(str(distribution.locate_file(top))).resolve() for top in sorted(tops))
    return [path for path in found if path.exists()]
