"""Deploys a plan's functions: their packages, layers and images become folders that never change."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import InvalidConfiguration, Problem, StateUnavailable
from millstream.contract.functions import FunctionSpec, Image, LoggingConfig
from millstream.daemon.function_network import reach
from millstream.daemon.plan import Plan
from millstream.daemon.plan_functions import PlannedFunction
from millstream.daemon.settings import Settings
from millstream.functions.images.find import deploy_image
from millstream.functions.layers import deploy_layer, merge
from millstream.functions.left_out import named
from millstream.functions.options import LoggingOptions
from millstream.functions.packages import deploy
from millstream.functions.retention import Removed, hold, remove_unused
from millstream.functions.trees import UNZIPPED_BYTES
from millstream.functions.walk import BYTECODE

logger = logging.getLogger(__name__)

CODE, LAYERS, OPT, IMAGES = "code", "layers", "opt", "images"
"""Folders of the data directory, each content by its digest."""

KEPT = 2
"""Folders of each kind that a start leaves, though nobody uses them: the last ones, for a step back."""

TRIES = 3
"""Times that a folder is made which `millstream prune` removes before it is held."""


async def deployed(
    plan: Plan, settings: Settings, held: ExitStack, *, compiled: bool = True
) -> dict[str, FunctionSpec]:
    """Every function of a plan, by its name; their folders are kept until `held` is closed.

    What no function uses is removed. `compiled`: Python has its bytecode with it. Only for who holds the data
    directory.

    Raises:
        InvalidConfiguration: with all that is wrong with what the functions are made from.
        StateUnavailable: the data directory cannot be written.
    """
    client = BlockingClient("deploy", 1)  # an image takes seconds, in which signals must be heard
    try:
        return await client.call(_deploy, plan.functions, settings, held, compiled)
    finally:
        client.close()


def prune(data_dir: Path, keep: int = 0) -> Removed:
    """Remove what no daemon uses of what was deployed, but for the last `keep` of each kind.

    Raises:
        StateUnavailable: the data directory cannot be written.
    """
    removed = Removed()
    for name in (OPT, CODE, LAYERS, IMAGES):
        removed += remove_unused(data_dir / name, keep)
    return removed


def _deploy(
    functions: Mapping[str, PlannedFunction], settings: Settings, held: ExitStack, compiled: bool
) -> dict[str, FunctionSpec]:
    keeper = _Keeper(settings.data_dir, held, compiled)
    specs: dict[str, FunctionSpec] = {}
    problems: list[Problem] = []
    for name, planned in functions.items():
        _say_left_out(name, planned)
        try:
            specs[name] = _spec(planned, settings, keeper)
        except InvalidConfiguration as invalid:
            problems += [Problem(planned.where, p.field, p.wanted, p.found) for p in invalid.problems]
    if problems:
        raise InvalidConfiguration(problems)
    removed = prune(settings.data_dir, KEPT)
    if removed.folders:
        extra = {"folders": removed.folders, "mb": removed.size_bytes >> 20}
        logger.info("packages removed that no function uses", extra=extra)
    return specs


def _say_left_out(name: str, planned: PlannedFunction) -> None:
    """Log what of a function's folder is not in its package; `millstream check` says how much it is."""
    packages = [] if planned.code is None else [planned.code, *planned.layers]
    found = [each for package in packages for each in package.listing.left_out]
    if names := named([each for each in found if each.rule != BYTECODE]):
        logger.info("files left out of a package", extra={"function": name, "left_out": names})


def _spec(planned: PlannedFunction, settings: Settings, keeper: _Keeper) -> FunctionSpec:
    options, launch = planned.options, planned.launch
    made = keeper.made(planned)
    network, variables = reach(options.network, settings.endpoint_url)
    return FunctionSpec(
        name=options.name,
        arn=f"arn:aws:lambda:{settings.region}:{settings.account_id}:function:{options.name}",
        handler=options.handler or "",
        code=made.code,
        runtime=planned.runtime,
        memory_size_mb=options.memory_size,
        timeout_s=float(options.timeout),
        ephemeral_storage_mb=options.ephemeral_storage,
        environment=options.environment,
        reserved_concurrency=options.reserved_concurrent_executions,
        region=settings.region,
        interpreter=launch.interpreter,
        command=launch.command,
        variables={**launch.variables, **variables},
        opt=made.opt,
        image=made.image,
        file_system=planned.file_system,
        network=network,
        logging=_logging(options.logging_config),
        provisioned_concurrency=options.provisioned_concurrent_executions or 0,
        snap_start=options.snap_start,
    )


@dataclass(frozen=True, slots=True)
class _Made:
    """Folders of the data directory; with an image, `code` is its root."""

    code: Path
    opt: Path | None = None
    image: Image | None = None
    layers: tuple[Path, ...] = ()

    def folders(self) -> set[Path]:
        """All that must be kept."""
        return {self.code, *self.layers, *([] if self.opt is None else [self.opt])}


class _Keeper:
    """Makes folders, and holds them from then on."""

    def __init__(self, directory: Path, held: ExitStack, compiled: bool) -> None:
        self._directory, self._held, self._compiled = directory, held, compiled
        self._kept: set[Path] = set()

    def made(self, planned: PlannedFunction) -> _Made:
        """Deploy what a function is made from."""
        for _ in range(TRIES):
            made = _made(planned, self._directory, self._compiled)
            if all(self._keep(folder) for folder in made.folders()):
                return made
        wanted = "wanted packages that stay while they are used"
        raise StateUnavailable(f"{self._directory}: {wanted}, found: removed again and again")

    def _keep(self, folder: Path) -> bool:
        if folder in self._kept:
            return True
        descriptor = hold(folder)
        if descriptor is None:
            return False
        self._held.callback(os.close, descriptor)
        self._kept.add(folder)
        return True


def _made(planned: PlannedFunction, directory: Path, compiled: bool) -> _Made:
    if planned.image is not None:
        image = deploy_image(planned.image, directory / IMAGES)
        return _Made(image.root, image=image)
    assert planned.code is not None
    room = UNZIPPED_BYTES
    layers = []
    for each in planned.layers:
        layer = deploy_layer(each.source, directory / LAYERS, room_bytes=room, known=each, compiled=compiled)
        room -= layer.size_bytes
        layers.append(layer.folder)
    package = planned.code
    code = deploy(package.source, directory / CODE, room_bytes=room, known=package, compiled=compiled)
    return _Made(code.folder, merge(layers, directory / OPT), layers=tuple(layers))


def _logging(options: LoggingOptions) -> LoggingConfig:
    defaults = LoggingConfig()
    return LoggingConfig(
        options.log_format,
        options.application_log_level or defaults.application_log_level,
        options.system_log_level or defaults.system_log_level,
    )
