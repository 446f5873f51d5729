"""Turns what is declared of a function into a checked plan of it. Nothing is deployed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.contract.functions import FileSystem
from millstream.contract.options import parse_options, shown
from millstream.functions.commands import Launch
from millstream.functions.handlers import check_package
from millstream.functions.host import host_architecture
from millstream.functions.images.find import FoundImage, find_image
from millstream.functions.interpreters import Interpreters
from millstream.functions.options import SECRET_FIELDS, FunctionOptions
from millstream.functions.packages import Package, Packages
from millstream.functions.runtimes import default_runtime


@dataclass(frozen=True, slots=True)
class PlannedFunction:
    """A function whose options are right, and whose code or image is there."""

    options: FunctionOptions
    where: str
    runtime: str  # empty with an image
    code: Package | None = None  # None: it has an image
    layers: tuple[Package, ...] = ()
    launch: Launch = field(default_factory=Launch)
    image: FoundImage | None = None
    file_system: FileSystem | None = None


def plan_function(
    declared: Mapping[str, Any], folder: Path, where: str, interpreters: Interpreters, packages: Packages
) -> PlannedFunction:
    """Check one function; its paths are relative to `folder`.

    Raises:
        InvalidConfiguration: with every problem.
    """
    options = parse_options(FunctionOptions, declared, SECRET_FIELDS)
    problems = _architecture(options)
    file_system, wrong = _file_system(options, folder)
    problems += wrong
    try:
        if options.image is not None:
            image = find_image(options.image, options.image_config, folder)
            planned = PlannedFunction(options, where, "", image=image, file_system=file_system)
        else:
            planned = _of_a_package(options, folder, where, file_system, interpreters, packages)
    except InvalidConfiguration as invalid:
        raise InvalidConfiguration([*problems, *invalid.problems]) from invalid
    if problems:
        raise InvalidConfiguration(problems)
    return planned


def _of_a_package(
    options: FunctionOptions,
    folder: Path,
    where: str,
    file_system: FileSystem | None,
    interpreters: Interpreters,
    packages: Packages,
) -> PlannedFunction:
    code = (folder / (options.code or "")).resolve()
    layers = tuple((folder / layer).resolve() for layer in options.layers)
    checked = check_package(code, layers, options, interpreters, packages)
    runtime = options.runtime or default_runtime()
    made_of = (checked.code, checked.layers, checked.launch)
    return PlannedFunction(options, where, runtime, *made_of, file_system=file_system)


def _architecture(options: FunctionOptions) -> list[Problem]:
    here = host_architecture()
    if options.architectures is None or options.architectures == [here]:
        return []
    wanted = f'["{here}"], what this host is'
    return [Problem("", "architectures", wanted, shown(options.architectures))]


def _file_system(options: FunctionOptions, folder: Path) -> tuple[FileSystem | None, list[Problem]]:
    for config in options.file_system_configs:
        place = (folder / config.folder).resolve()
        if not place.is_dir():
            problem = Problem("", "file_system_configs.0.folder", "a folder", f"none at {place}")
            return None, [problem]
        return FileSystem(place, config.local_mount_path), []
    return None, []
