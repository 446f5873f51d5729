"""What a template sandbox of the bwrap driver holds: /usr, an interpreter, our runtime, the code."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import millstream
from millstream.contract.functions import FunctionSpec
from millstream.runtime import bootstrap, zygote
from millstream.runtime.egress import hosts

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
    "protocols",
    "services",
)

BUNDLED = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six")
"""What Lambda's Python runtime brings: boto3 and what it needs."""

BOTO3 = re.compile(rb"^\s*(import|from)\s+boto", re.MULTILINE)
LOOKED_AT = 200
"""Modules of a package that are searched for boto3 before its first environment is made."""

UNPRIVILEGED_ID = 62993
"""The user that a root daemon becomes before it runs a function; no account, so it owns nothing."""

USER = "sbx_user1051"
USER_ID = 993
OUR_ETC = {
    "passwd": f"{USER}:x:{USER_ID}:{USER_ID}::/tmp:/sbin/nologin\n",
    "group": f"{USER}:x:{USER_ID}:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """bwrap's options, and what it mounts read-only and writable: pairs of source and place."""

    options: list[str]
    mounts: list[tuple[str, str]]
    python: str
    writable: list[tuple[str, str]] = field(default_factory=list)


def layout(function: FunctionSpec | None, work_dir: Path) -> Layout:
    """The template of a function; with None, one without code, to try whether the host can do it."""
    options = [
        "--unshare-all", "--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "ALL",
        "--die-with-parent", "--new-session", "--clearenv", "--hostname", "millstream",
        "--dev", "/dev", "--remount-ro", "/dev", "--proc", "/proc",
        "--dir", "/tmp", "--dir", "/opt", "--dir", "/mnt", "--dir", TASK,
        "--setenv", "PYTHONDONTWRITEBYTECODE", "1", "--setenv", "TZ", ":UTC", "--setenv", "LANG", "C.UTF-8",
    ]  # fmt: skip
    mounts = [("/usr", "/usr")]
    for name in ROOT_FOLDERS:
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            mounts.append((str(path), str(path)))
    mounts += [(f"/etc/{name}", f"/etc/{name}") for name in ETC if Path("/etc", name).exists()]
    mounts += [(str(path), str(path)) for path in sorted(Path("/etc").glob("java-*-openjdk"))]
    mounts += [(str(path), f"/etc/{path.name}") for path in _our_etc(work_dir)]
    mounts.append((str(_hosts(function, work_dir)), "/etc/hosts"))
    own = function is not None and function.interpreter is not None
    python, variables, lang = interpreter(f"{RUNTIME}/lang" if own else LANG)
    for name, value in variables.items():
        options += ["--setenv", name, value]
    mounts += lang + runtime_files(RUNTIME)
    if function is not None:
        if function.image is None:
            mounts.append((str(function.code), TASK))
        if function.opt is not None:
            mounts.append((str(function.opt), OPT))
        if function.interpreter is not None:
            mounts.append((str(function.interpreter), LANG))
        if function.image is not None:
            options += ["--dir", ROOT]
            mounts.append((str(function.image.root), IMAGE))
    shared = None if function is None else function.file_system
    writable = [] if shared is None else [(str(shared.folder), shared.local_mount_path)]
    return Layout(options, mounts, python, writable)


def data_mb(function: FunctionSpec) -> int:
    """What one process of a function may map and write to."""
    runs_program = function.command or function.image is not None
    return function.memory_size_mb + (PROGRAM_MB if runs_program else 0)


def mode(function: FunctionSpec) -> str:
    """What the zygote of a function loads ahead: see zygote.py."""
    if function.command or function.image is not None:
        return "bare"
    return "boto3" if _names_boto3(function.code) else "python"


def _names_boto3(code: Path) -> bool:
    """True if a module of the package imports boto3; of a large package, only some are looked at."""
    for path in itertools.islice(code.rglob("*.py"), LOOKED_AT):
        with contextlib.suppress(OSError):
            if BOTO3.search(path.read_bytes()):
                return True
    return False


def _our_etc(work_dir: Path) -> list[Path]:
    folder = work_dir / "etc"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in OUR_ETC.items():
        (folder / name).write_text(text, encoding="ascii")
        (folder / name).chmod(0o644)
    return [folder / name for name in OUR_ETC]


def _hosts(function: FunctionSpec | None, work_dir: Path) -> Path:
    file = work_dir / "etc" / ("hosts" if function is None else f"hosts-{function.name}")
    file.write_text(hosts(() if function is None else function.network), encoding="ascii")
    file.chmod(0o644)
    return file


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
    ours = Path(millstream.__file__).resolve().parent
    files = [
        (Path(bootstrap.__file__).resolve().parent / "bootstrap.py", "bootstrap.py"),
        (Path(zygote.__file__).resolve().parent / "zygote.py", "zygote.py"),
        (Path(zygote.__file__).resolve().parent / "supervisor.py", "supervisor.py"),
        (Path(zygote.__file__).resolve().parent / "image.py", "image.py"),
        (ours / "__init__.py", "millstream/__init__.py"),
        (ours / "declarations.py", "millstream/declarations.py"),
    ]
    for name in BUNDLED:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            path = origin.parent if origin.name == "__init__.py" else origin
            files.append((path, path.name))
    return [(str(path), f"{place}/{name}") for path, name in files]
