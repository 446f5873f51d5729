"""Deploys a plan's functions: their packages, layers and images become folders that never change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.contract.functions import FunctionSpec, Image, LoggingConfig
from millstream.daemon.function_network import reach
from millstream.daemon.plan import Plan
from millstream.daemon.plan_functions import PlannedFunction
from millstream.daemon.settings import Settings
from millstream.functions.images.find import deploy_image
from millstream.functions.layers import deploy_layer, merge
from millstream.functions.options import LoggingOptions
from millstream.functions.packages import deploy
from millstream.functions.snapshots import sweep
from millstream.functions.trees import UNZIPPED_BYTES

CODE, LAYERS, OPT, IMAGES = "code", "layers", "opt", "images"
"""Folders of the data directory, each content by its digest."""


async def deployed(plan: Plan, settings: Settings) -> dict[str, FunctionSpec]:
    """Every function of a plan, by its name. Only for who holds the data directory.

    Raises:
        InvalidConfiguration: with all that is wrong with what the functions are made from.
        StateUnavailable: the data directory cannot be written.
    """
    client = BlockingClient("deploy", 1)  # an image takes seconds, in which signals must be heard
    try:
        return await client.call(_deploy, plan.functions, settings)
    finally:
        client.close()


def _deploy(functions: Mapping[str, PlannedFunction], settings: Settings) -> dict[str, FunctionSpec]:
    for name in (CODE, LAYERS, OPT, IMAGES):
        sweep(settings.data_dir / name)
    specs: dict[str, FunctionSpec] = {}
    problems: list[Problem] = []
    for name, planned in functions.items():
        try:
            specs[name] = _spec(planned, settings)
        except InvalidConfiguration as invalid:
            problems += [Problem(planned.where, p.field, p.wanted, p.found) for p in invalid.problems]
    if problems:
        raise InvalidConfiguration(problems)
    return specs


def _spec(planned: PlannedFunction, settings: Settings) -> FunctionSpec:
    options, launch = planned.options, planned.launch
    made = _made(planned, settings.data_dir)
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


def _made(planned: PlannedFunction, directory: Path) -> _Made:
    if planned.image is not None:
        image = deploy_image(planned.image, directory / IMAGES)
        return _Made(image.root, image=image)
    assert planned.code is not None
    room = UNZIPPED_BYTES
    layers = []
    for each in planned.layers:
        layer = deploy_layer(each.source, directory / LAYERS, room_bytes=room, known=each)
        room -= layer.size_bytes
        layers.append(layer.folder)
    code = deploy(planned.code.source, directory / CODE, room_bytes=room, known=planned.code)
    return _Made(code.folder, merge(layers, directory / OPT))


def _logging(options: LoggingOptions) -> LoggingConfig:
    defaults = LoggingConfig()
    return LoggingConfig(
        options.log_format,
        options.application_log_level or defaults.application_log_level,
        options.system_log_level or defaults.system_log_level,
    )
