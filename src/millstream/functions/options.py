"""What can be declared of a function, with AWS's names and limits."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from millstream.contract.errors import Problem
from millstream.contract.functions import FunctionSpec
from millstream.contract.options import Options, shown

ENVIRONMENT_BYTES = 4096
"""Size of all environment variables, names and values. Source: AWS, "Lambda quotas"."""

LAYERS = 5
"""Layers of a function. Source: AWS, "Lambda quotas"."""

IMAGE_ARGUMENTS = 1500
"""Arguments of an entry point or a command. Source: AWS, ImageConfig."""

SNAP_START_STORAGE_MB = 512
"""Largest /tmp of a function with snapshots. Source: AWS, "Improving startup performance with SnapStart"."""

RESERVED_VARIABLES = frozenset(
    {
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_LAMBDA_RUNTIME_API",
        "LAMBDA_TASK_ROOT",
        "LAMBDA_RUNTIME_DIR",
    }
)
"""Source: AWS, "Defined runtime environment variables"."""

_VARIABLE = re.compile(r"[a-zA-Z]([a-zA-Z0-9_])+")
_MOUNT = re.compile(r"/mnt/[a-zA-Z0-9-_.]+")
_SNAP_START = re.compile(r"python3\.\d+|java(11|[2-9]\d|1[2-9])|dotnet([89]|\d\d)")
_ENDPOINT = re.compile(r"(?:[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})")


def _environment(variables: dict[str, str]) -> dict[str, str]:
    for name in variables:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(
                f"names of letters, digits and underscores that begin with a letter, not {shown(name)}"
            )
        if name in RESERVED_VARIABLES:
            raise ValueError(f"no name that the runtime sets itself, such as {name}")
    size = sum(len(name.encode()) + len(value.encode()) for name, value in variables.items())
    if size > ENVIRONMENT_BYTES:
        raise ValueError(f"at most {ENVIRONMENT_BYTES} bytes of names and values, not {size}")
    return variables


def _mount_path(path: str) -> str:
    if not _MOUNT.fullmatch(path) or path in ("/mnt/.", "/mnt/..") or len(path) > 160:
        raise ValueError("/mnt/ and a name of letters, digits, hyphens, underscores or dots")
    return path


def _endpoint(text: str) -> str:
    found = _ENDPOINT.fullmatch(text)
    if text != "aws" and (found is None or not 0 < int(found["port"]) < 65536):
        raise ValueError('"aws" or "host:port"')
    return text


class FileSystemOptions(Options):
    """A folder of the host that the function sees, writable. Source: AWS, FileSystemConfig."""

    folder: str = Field(min_length=1, description="a folder")
    local_mount_path: Annotated[str, AfterValidator(_mount_path)]


class ImageOptions(Options):
    """What a function has instead of its image's own. Source: AWS, ImageConfig."""

    entry_point: list[str] | None = Field(default=None, max_length=IMAGE_ARGUMENTS)
    command: list[str] | None = Field(default=None, max_length=IMAGE_ARGUMENTS)
    working_directory: str | None = Field(default=None, pattern=r"^/", max_length=1000)


class LoggingOptions(Options):
    """Source: AWS, LoggingConfig. Levels are None where they are not given."""

    log_format: Literal["Text", "JSON"] = "Text"
    application_log_level: Literal["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"] | None = None
    system_log_level: Literal["DEBUG", "INFO", "WARN"] | None = None

    def misfits(self) -> list[Problem]:
        """Levels are of JSON logs. Source: AWS, "Configuring advanced logging controls"."""
        given = [self.application_log_level, self.system_log_level]
        if self.log_format != "JSON" and any(given):
            wanted = '"JSON" beside application_log_level or system_log_level'
            return [Problem("", "logging_config.log_format", wanted, shown(self.log_format))]
        return []


class FunctionOptions(Options):
    """Options of one function. Sizes in MB, durations in seconds. Source: AWS, CreateFunction."""

    name: str = Field(
        pattern=r"^[a-zA-Z0-9-_]{1,64}$", description="1 to 64 letters, digits, hyphens or underscores"
    )
    handler: str | None = Field(
        default=None, pattern=r"^[^\s]{1,128}$", description='"module.function", at most 128 characters'
    )
    code: str | None = Field(default=None, min_length=1, description="a folder or a .zip file")
    runtime: str | None = Field(default=None, description='a runtime such as "python3.11"')
    memory_size: int = Field(
        default=128, ge=128, le=10240, description="a whole number of MB from 128 to 10240"
    )
    timeout: int = Field(default=3, ge=1, le=900, description="a whole number of seconds from 1 to 900")
    ephemeral_storage: int = Field(
        default=512, ge=512, le=10240, description="a whole number of MB from 512 to 10240"
    )
    environment: Annotated[dict[str, str], AfterValidator(_environment)] = Field(default_factory=dict)
    reserved_concurrent_executions: int | None = Field(
        default=None, ge=0, description="a whole number, 0 or more"
    )
    provisioned_concurrent_executions: int | None = Field(
        default=None, ge=1, description="a whole number, 1 or more"
    )
    architectures: list[Literal["x86_64", "arm64"]] | None = Field(
        default=None, min_length=1, max_length=1, description='["x86_64"] or ["arm64"]'
    )
    layers: list[str] = Field(
        default_factory=list, max_length=LAYERS, description="a list of at most 5 folders or .zip files"
    )
    package_type: Literal["Zip", "Image"] | None = Field(default=None, description='"Zip" or "Image"')
    image: str | None = Field(
        default=None, min_length=1, description="an OCI layout, a tar of `docker save` or docker://NAME:TAG"
    )
    image_config: ImageOptions | None = Field(
        default=None, description="a dictionary of entry_point, command and working_directory"
    )
    file_system_configs: list[FileSystemOptions] = Field(
        default_factory=list,
        max_length=1,
        description="a list of at most one dictionary of folder and local_mount_path",
    )
    logging_config: LoggingOptions = Field(
        default=LoggingOptions(), description="a dictionary of log_format and its levels"
    )
    snap_start: bool = Field(default=False, description="True or False")
    network: list[Annotated[str, AfterValidator(_endpoint)]] = Field(
        default_factory=list, description='a list of "aws" and "host:port"'
    )

    def misfits(self) -> list[Problem]:
        """Source: AWS, CreateFunction, PackageType and what each type must and must not have."""
        logging = self.logging_config.misfits() if isinstance(self.logging_config, LoggingOptions) else []
        package = self._of_an_image() if self.image or self.package_type == "Image" else self._of_a_zip()
        return package + logging + self._of_snapshots() + self._of_concurrency()

    def _of_an_image(self) -> list[Problem]:
        if not self.image:
            return [Problem("", "image", 'an image, with package_type="Image"', "nothing")]
        problems = [
            Problem("", name, "nothing beside image: the image has it", shown(value))
            for name in ("runtime", "handler", "layers", "code")
            if (value := getattr(self, name))
        ]
        if self.package_type == "Zip":
            problems.append(Problem("", "package_type", '"Image" beside image', "'Zip'"))
        return problems

    def _of_a_zip(self) -> list[Problem]:
        fields = type(self).model_fields
        problems = [
            Problem("", name, fields[name].description or "", "nothing")
            for name in ("handler", "code")
            if getattr(self, name) is None
        ]
        if self.image_config is not None:
            problems.append(Problem("", "image_config", "image beside it", "none"))
        return problems

    def _of_snapshots(self) -> list[Problem]:
        """Source: AWS, "Improving startup performance with Lambda SnapStart", limitations."""
        if not self.snap_start:
            return []
        problems = [
            Problem("", "snap_start", f"no {name} beside it", "both")
            for name in ("image", "file_system_configs", "provisioned_concurrent_executions")
            if getattr(self, name)
        ]
        if self.ephemeral_storage > SNAP_START_STORAGE_MB:
            wanted = f"an ephemeral_storage of {SNAP_START_STORAGE_MB} MB beside it"
            problems.append(Problem("", "snap_start", wanted, f"{self.ephemeral_storage} MB"))
        if self.runtime is not None and not _SNAP_START.fullmatch(self.runtime):
            wanted = "a runtime of Python, of Java 11 or later, or of .NET 8 or later"
            problems.append(Problem("", "snap_start", wanted, shown(self.runtime)))
        return problems

    def _of_concurrency(self) -> list[Problem]:
        """Source: AWS, PutProvisionedConcurrencyConfig."""
        provisioned, reserved = self.provisioned_concurrent_executions, self.reserved_concurrent_executions
        if provisioned is None or reserved is None or provisioned <= reserved:
            return []
        wanted = f"at most reserved_concurrent_executions, {reserved}"
        return [Problem("", "provisioned_concurrent_executions", wanted, str(provisioned))]


SECRET_FIELDS = frozenset({"environment"})
"""Options whose values no message repeats."""


def qualified(function: FunctionSpec) -> str:
    """The function's ARN with its version."""
    return f"{function.arn}:{function.version}"
