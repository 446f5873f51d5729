"""What a user writes: an app with its functions, sources and mappings.

Declarations are inert: they hold what was given and check nothing, so that the daemon can say
every problem at once, and so that importing the same file inside a sandbox costs next to nothing.
Only the standard library is imported here, and little of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypedDict, TypeVar, Unpack, overload

F = TypeVar("F", bound=Callable[..., Any])


class ImageConfig(TypedDict, total=False):
    """What a function has instead of its image's own."""

    entry_point: Sequence[str]
    command: Sequence[str]
    working_directory: str


class FileSystemConfig(TypedDict):
    """A folder of this host that a function sees, writable."""

    folder: str
    local_mount_path: str  # "/mnt/…"


class LoggingConfig(TypedDict, total=False):
    """A function's logs. The levels are of "JSON" alone."""

    log_format: str  # "Text", "JSON"
    application_log_level: str  # "TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"
    system_log_level: str  # "DEBUG", "INFO", "WARN"


class FunctionOptions(TypedDict, total=False):
    """Options of a function, by AWS's names. Sizes in MB, durations in seconds, paths as of `code`."""

    runtime: str
    memory_size: int
    timeout: int
    ephemeral_storage: int
    environment: Mapping[str, str]
    reserved_concurrent_executions: int
    provisioned_concurrent_executions: int
    architectures: Sequence[str]  # ["x86_64"] or ["arm64"]; this host's, for it runs them
    layers: Sequence[str]  # folders or .zip files, the later over the earlier
    package_type: str  # "Zip", "Image"
    image: str  # an OCI layout's folder, a tar of `docker save`, "docker://NAME:TAG"
    image_config: ImageConfig
    file_system_configs: Sequence[FileSystemConfig]
    logging_config: LoggingConfig
    snap_start: bool  # loaded ahead, as AWS's SnapStart does
    network: Sequence[str]  # all that it may reach: "aws", "host:port"


class HandlerOptions(FunctionOptions, total=False):
    """Options of a function that is declared where it is written."""

    name: str


class SqsOptions(TypedDict, total=False):
    """Options of an SQS source, by AWS's names. Durations in seconds."""

    batch_size: int
    batching_window: int
    report_batch_item_failures: bool
    maximum_concurrency: int
    maximum_retry_attempts: int


class StreamOptions(TypedDict, total=False):
    """Options of every stream, by AWS's names. Durations in seconds; -1: no limit."""

    starting_position: str  # "TRIM_HORIZON", "LATEST"; of Kinesis "AT_TIMESTAMP", too
    batch_size: int
    batching_window: int
    parallelization_factor: int
    maximum_retry_attempts: int
    maximum_record_age: int
    bisect_batch_on_function_error: bool
    report_batch_item_failures: bool
    tumbling_window: int
    on_failure_required: bool


class KinesisOptions(StreamOptions, total=False):
    """Options of a Kinesis source."""

    starting_position_timestamp: float | str
    deaggregate: bool


class KafkaOptions(TypedDict, total=False):
    """Options of a Kafka source: AWS's, and Kafka's own. Durations in seconds; -1: no limit."""

    bootstrap_servers: str | Sequence[str]
    starting_position: str  # "TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"
    starting_position_timestamp: float | str
    consumer_group_id: str
    batch_size: int
    batching_window: float
    maximum_retry_attempts: int
    maximum_record_age: int
    bisect_batch_on_function_error: bool
    report_batch_item_failures: bool
    on_failure_required: bool
    one_partition_per_batch: bool
    client: str  # "auto", "confluent", "kafka-python"
    group_instance_id: str
    isolation_level: str
    session_timeout: int
    transactional_id: str
    security_protocol: str
    sasl_mechanism: str
    sasl_username: str
    sasl_password: str
    ssl_ca_file: str
    ssl_certificate_file: str
    ssl_key_file: str
    ssl_key_password: str
    source_access_configurations: Sequence[Mapping[str, str]]  # {"type": "BASIC_AUTH", "uri": "arn:…"}
    schema_registry_config: Mapping[str, object]


class BasicAuth(TypedDict):
    """A login, as AWS's BASIC_AUTH has it."""

    username: str
    password: str


class RabbitMqOptions(TypedDict, total=False):
    """Options of a RabbitMQ source: AWS's, and RabbitMQ's own. Durations in seconds."""

    url: str  # "amqps://user:password@host/vhost"; without one, that of MILLSTREAM_RABBITMQ_URL
    virtual_host: str
    basic_auth: BasicAuth
    ca_file: str
    heartbeat: int
    batch_size: int
    batching_window: float
    concurrency: int
    report_batch_item_failures: bool  # items are named by their deliveryTag
    maximum_retry_attempts: int
    requeue: bool
    retry_delay: float
    retry_backoff_max: float
    consumer_timeout: int  # the broker's own
    event_source_arn: str


class RabbitMqStreamOptions(TypedDict, total=False):
    """Options of a RabbitMQ stream: AWS's, and RabbitMQ's own. Durations in seconds; -1: no limit."""

    starting_position: str  # "TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"
    starting_position_timestamp: float | str
    batch_size: int
    batching_window: int
    maximum_retry_attempts: int
    maximum_record_age: int
    bisect_batch_on_function_error: bool
    report_batch_item_failures: bool  # items are named by their offsets
    on_failure_required: bool
    url: str  # "rabbitmq-stream://user:password@host/vhost"; or that of MILLSTREAM_RABBITMQ_STREAM_URL
    virtual_host: str
    basic_auth: BasicAuth
    ca_file: str
    heartbeat: int
    event_source_arn: str


class Source:
    """A source of records of any registered kind: `Source("sqs", queue="orders", batch_size=10)`."""

    def __init__(self, kind: str, **options: Any) -> None:
        self.kind = kind
        self.options = options


class Sqs(Source):
    """An SQS queue, by name, URL or ARN."""

    def __init__(self, queue: str, **options: Unpack[SqsOptions]) -> None:
        super().__init__("sqs", queue=queue, **options)


class Kinesis(Source):
    """A Kinesis data stream, by name or ARN; with a consumer's ARN, by enhanced fan-out."""

    def __init__(self, stream: str, **options: Unpack[KinesisOptions]) -> None:
        super().__init__("kinesis", stream=stream, **options)


class DynamoDB(Source):
    """A DynamoDB stream: its ARN, or the name or ARN of its table."""

    def __init__(self, stream: str, **options: Unpack[StreamOptions]) -> None:
        super().__init__("dynamodb", stream=stream, **options)


class Kafka(Source):
    """A topic of a Kafka cluster, read as a member of a consumer group."""

    def __init__(self, topic: str, **options: Unpack[KafkaOptions]) -> None:
        super().__init__("kafka", topic=topic, **options)


class RabbitMq(Source):
    """A RabbitMQ queue, quorum or classic."""

    def __init__(self, queue: str, **options: Unpack[RabbitMqOptions]) -> None:
        super().__init__("rabbitmq", queue=queue, **options)


class RabbitMqStream(Source):
    """A RabbitMQ stream; each partition of a super stream is one, too."""

    def __init__(self, stream: str, **options: Unpack[RabbitMqStreamOptions]) -> None:
        super().__init__("rabbitmq-stream", stream=stream, **options)


class Destination:
    """A target of invocation records with options of its own.

    Where none are needed, its ARN or URL as a plain string does the same.
    """

    def __init__(self, kind: str, target: str, **options: Any) -> None:
        self.kind = kind
        self.target = target
        self.options = options


class Function:
    """A function that is not in this file: `Function("thumbs", handler="thumbs.handler", code="…")`.

    `code` is a folder or a .zip file, relative to the file that declares it. A function with an `image`
    has neither handler nor code.
    """

    def __init__(
        self,
        name: str,
        *,
        handler: str | None = None,
        code: str | None = None,
        **options: Unpack[FunctionOptions],
    ) -> None:
        package = {"handler": handler, "code": code}
        given = {field: value for field, value in package.items() if value is not None}
        self.options: dict[str, Any] = {**options, "name": name, **given}
        self.where = _caller(2)


class App:
    """Functions, and the mappings that feed them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.where = _caller(2)
        self._functions: list[tuple[object, dict[str, Any], str, dict[str, Any]]] = []
        self._mappings: list[dict[str, Any]] = []

    @overload
    def function(self, handler: F, /) -> F: ...
    @overload
    def function(self, **options: Unpack[HandlerOptions]) -> Callable[[F], F]: ...
    def function(self, handler: Any = None, /, **options: Any) -> Any:  # type: ignore[misc]  # Unpack, spelled out
        """Declare a function of this file as a Lambda function; returns it unchanged.

        The folder of the file is its code package; its handler is the name that the file binds it to.
        """
        where, scope = _caller(2), sys._getframe(1).f_globals

        def declare(function: Callable[..., Any]) -> Any:
            self._functions.append((function, options, where, scope))
            return function

        return declare if handler is None else declare(handler)

    def map(
        self,
        source: Source,
        *,
        to: Callable[..., Any] | Function | str,
        filters: Sequence[Mapping[str, Any] | str] = (),
        on_success: str | Destination | None = None,
        on_failure: str | Destination | None = None,
        enabled: bool = True,
        **unknown: Any,
    ) -> None:
        """Feed a function from a source: an event source mapping.

        `to` is a function declared with `@app.function`, a `Function`, or the name of either.
        `filters` are patterns of AWS's event filtering, as dictionaries or JSON text; a record is
        taken if any of them matches. `on_success` and `on_failure` are destinations of invocation
        records: ARNs, URLs, or a `Destination`.
        """
        self._mappings.append(
            {
                "source": source,
                "to": to,
                "filters": filters,
                "on_success": on_success,
                "on_failure": on_failure,
                "enabled": enabled,
                "unknown": sorted(unknown),
                "where": _caller(2),
            }
        )

    def declared(self) -> dict[str, Any]:
        """All of it as plain values, for the daemon to check."""
        functions, names = [], {}
        for function, options, where, scope in self._functions:
            standing, unbound = _standing(function, scope)
            functions.append({"where": where, "options": {**standing, **options}, "unbound": unbound})
            names[id(function)] = {**standing, **options}.get("name")
        inline: set[int] = set()
        mappings = []
        for mapping in self._mappings:
            to = mapping["to"]
            if isinstance(to, Function) and id(to) not in inline:
                inline.add(id(to))
                functions.append({"where": to.where, "options": to.options, "unbound": None})
            source = mapping["source"]
            mappings.append(
                {
                    **mapping,
                    "source": {"kind": source.kind, "options": source.options}
                    if isinstance(source, Source)
                    else repr(source),
                    "to": _function_name(to, names),
                    "on_success": _destination(mapping["on_success"]),
                    "on_failure": _destination(mapping["on_failure"]),
                }
            )
        return {"name": self.name, "where": self.where, "functions": functions, "mappings": mappings}


def _standing(function: Any, scope: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Find the name of a function in the module that declares it; without one, second, what it is."""
    own, full = getattr(function, "__name__", ""), getattr(function, "__qualname__", None)
    for module in (scope, getattr(_layers(function)[-1], "__globals__", scope)):
        bound = [name for name, value in module.items() if any(each is function for each in _layers(value))]
        if not bound and own == full and callable(module.get(own)):  # something that hides it is bound
            bound = [own]
        if bound:
            name, (within, folder) = own if own in bound else bound[0], _place(module)
            return {"name": name, "handler": f"{within}.{name}", "code": folder}, None
    return ({"name": own} if own else {}), full or repr(function)


def _layers(value: Any) -> list[Any]:
    """A function, and what it wraps, as functools.wraps tells."""
    layers = [value]
    with suppress(Exception):  # a module's global may be a proxy, which raises whatever it likes
        while len(layers) < 50 and "__wrapped__" in getattr(layers[-1], "__dict__", ()):
            layers.append(layers[-1].__wrapped__)
    return layers


def _place(module: Mapping[str, Any]) -> tuple[str, str]:
    """A module's name, and the folder from which it is imported by that name."""
    file, name = module.get("__file__") or "", module.get("__name__") or ""
    parts, path = name.split("."), os.path.splitext(file)[0].split(os.sep)
    if path[-1] == "__init__":
        path.pop()
    if path[-len(parts) :] != parts:
        return os.path.splitext(os.path.basename(file))[0], os.path.dirname(file) or "."
    return name, os.sep.join(path[: -len(parts)]) or "."


def _function_name(to: object, names: Mapping[int, Any]) -> Any:
    if isinstance(to, Function):
        return to.options["name"]
    if isinstance(to, str):
        return to
    return names.get(id(to), {"undeclared": getattr(to, "__name__", repr(to))})


def _destination(declared: object) -> Any:
    if isinstance(declared, Destination):
        return {"kind": declared.kind, "target": declared.target, **declared.options}
    return declared


def _caller(depth: int) -> str:
    """File name and line of the code that declares, for messages."""
    frame = sys._getframe(depth)
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
