"""Deploys function code: a snapshot of a folder or .zip file, by its content, compiled, read-only."""

from __future__ import annotations

import ast
import compileall
import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from py_compile import PycInvalidationMode

from millstream.contract.errors import InvalidConfiguration, Problem, StateUnavailable
from millstream.functions.runtimes import check_runtime

UNZIPPED_BYTES = 250 * 1024 * 1024
ZIPPED_BYTES = 50 * 1024 * 1024
"""Largest packages. Source: AWS, "Lambda quotas"."""

ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)
"""What zipfile raises on a file that is damaged, encrypted, or compressed in an unknown way."""

SKIPPED = frozenset({"__pycache__", "node_modules", "venv"})
"""Folders that are no part of a package, like those whose names begin with a dot, and virtualenvs."""


def check_handler(code: Path, handler: str, runtime: str) -> list[Problem]:
    """What is wrong with a function's code, without running it."""
    problems = [wrong] if (wrong := check_runtime(runtime)) else []
    module, dot, function = handler.rpartition(".")
    if not dot or not module or not function:
        problems.append(Problem("", "handler", '"module.function"', repr(handler)))
    if not code.exists():
        problems.append(Problem("", "code", "a folder or a .zip file", f"nothing at {code}"))
    elif code.is_file() and not zipfile.is_zipfile(code):
        problems.append(Problem("", "code", "a folder or a .zip file", f"another kind of file, {code.name}"))
    if problems:
        return problems
    base = module.replace(".", "/")
    names = (f"{base}.py", f"{base}/__init__.py")
    try:
        found = next(((name, text) for name in names if (text := _read(code, name)) is not None), None)
    except OSError as error:
        return [Problem("", "code", "code that can be read", f"{error.strerror}: {error.filename}")]
    except ZIP_ERRORS as error:
        return [Problem("", "code", "a .zip file that can be unpacked", str(error))]
    if found is None:
        return [Problem("", "handler", f"a file {names[0]} in {code}", "none")]
    try:
        ast.parse(found[1], filename=found[0])
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{found[0]}:{line}" if line else found[0]
        return [Problem("", "handler", f"valid Python in {where}", getattr(error, "msg", None) or str(error))]
    return []


def deploy(code: Path, store: Path) -> Path:
    """The folder of a package's snapshot below `store`, made if this content is not there yet.

    Cost: reads the whole package. Raises:
        InvalidConfiguration: it is too large, cannot be read, or holds an entry that must not be unpacked.
        StateUnavailable: `store` cannot be written.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".new-", dir=store))
        try:
            return _deploy(code, store.resolve(), staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        wanted = "wanted room for the functions' code"
        raise StateUnavailable(f"{store}: {wanted}, found: {error.strerror or error}") from error


def _deploy(code: Path, store: Path, staging: Path) -> Path:
    package = staging / "package"
    package.mkdir()
    entries = _readable(_zip_entries(code) if code.is_file() else _folder_entries(code, store))
    digest = hashlib.sha256()
    total = 0
    for name, data, executable in entries:
        total += len(data)
        if total > UNZIPPED_BYTES:
            raise _refused("at most 250 MB unzipped", f"more, at {name}")
        digest.update(f"{name}\0{len(data)}\0{executable}\0".encode())
        digest.update(data)
        target = package / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise _refused("names that are a file or a folder", f"{name}, below a file") from None
        if target.exists():
            raise _refused("each name once", f"{name} twice")
        target.write_bytes(data)
        target.chmod(0o755 if executable else 0o644)
    target = store / digest.hexdigest()[:32]
    if target.exists():
        return target
    # Bytecode is trusted without a look at its source, for a snapshot never changes.
    mode = PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(
        package, quiet=2, invalidation_mode=mode, stripdir=str(package), prependdir="/var/task"
    )
    for folder, _, names in os.walk(package):
        os.chmod(folder, 0o755)
        for name in names:
            if name.endswith(".pyc"):  # written under the daemon's umask
                os.chmod(os.path.join(folder, name), 0o644)
    try:
        package.rename(target)
    except OSError:
        if not target.exists():  # another process may have deployed the same
            raise
    return target


def _readable(entries: Iterator[tuple[str, bytes, bool]]) -> Iterator[tuple[str, bytes, bool]]:
    """The entries; what cannot be read is the user's to mend, unlike a store that cannot be written."""
    while True:
        try:
            entry = next(entries, None)
        except OSError as error:
            found = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
            raise _refused("code that can be read", found) from error
        except ZIP_ERRORS as error:
            raise _refused("a .zip file that can be unpacked", str(error)) from error
        if entry is None:
            return
        yield entry


def _folder_entries(code: Path, store: Path) -> Iterator[tuple[str, bytes, bool]]:
    root = code.resolve()
    ours = (store, store.parent)  # the data directory: state, logs
    for folder, names, files in os.walk(root, onerror=_raise):
        here = Path(folder)
        names[:] = sorted(
            name
            for name in names
            if not name.startswith(".")
            and name not in SKIPPED
            and not (here / name / "pyvenv.cfg").exists()
            and (here / name).resolve() not in ours
        )
        for name in names:
            if (here / name).is_symlink():
                link = (here / name).relative_to(root)
                raise _refused("folders, not links to folders", f"{link}, a link to a folder")
        for name in sorted(files):
            path = here / name
            if name.startswith("."):
                continue
            relative = path.relative_to(root).as_posix()
            if not path.resolve().is_relative_to(root):
                raise _refused("links that stay inside the package", f"{relative}, which leaves it")
            if not path.is_file():
                raise _refused("files and folders only", f"{relative}, of another kind")
            if path.stat().st_size > UNZIPPED_BYTES:
                raise _refused("at most 250 MB unzipped", f"more, at {relative}")
            yield relative, path.read_bytes(), bool(path.stat().st_mode & 0o111)


def _zip_entries(code: Path) -> Iterator[tuple[str, bytes, bool]]:
    if code.stat().st_size > ZIPPED_BYTES:
        raise _refused("a .zip file of at most 50 MB", f"{code.stat().st_size} bytes")
    with zipfile.ZipFile(code) as archive:
        if sum(info.file_size for info in archive.infolist()) > UNZIPPED_BYTES:
            raise _refused("at most 250 MB unzipped", "more")
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            mode = info.external_attr >> 16
            kind = stat.S_IFMT(mode)
            parts = PurePosixPath(info.filename).parts
            if (
                info.filename.startswith("/")
                or ".." in parts
                or "\\" in info.filename
                or "\0" in info.filename
            ):
                raise _refused("names that stay inside the package", f"{info.filename!r} in {code.name}")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused("files and folders only", f"{info.filename!r} of another kind in {code.name}")
            if not info.is_dir():
                yield info.filename, archive.read(info), bool(mode & 0o111)


def _raise(error: OSError) -> None:
    raise error


def _read(code: Path, name: str) -> bytes | None:
    if code.is_dir():
        path = code / name
        return path.read_bytes() if path.is_file() else None
    with zipfile.ZipFile(code) as archive:
        return archive.read(name) if name in archive.namelist() else None


def _refused(wanted: str, found: str) -> InvalidConfiguration:
    return InvalidConfiguration([Problem("", "code", wanted, found)])
