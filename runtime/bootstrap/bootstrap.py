"""What runs a Python handler inside an execution environment. Standard library only.

Frames on the environment's socket are `type (1 byte) · length (4 bytes, big endian) · body`:

    daemon → here   C  configuration, JSON: handler, environment, task_root, paths, limits, context,
                       snap_start
                    A  go on after a snapshot
                    I  invocation: request id (36 bytes) · deadline (8 bytes, Unix ms) · event
    here → daemon   R  handler loaded; `forks`: each runtime is a fork of this one
                    E  handler not loaded: error document
                    S  request id · peak memory (8 bytes, KB) · result
                    F  request id · peak memory (8 bytes, KB) · error document
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
import resource
import socket
import struct
import sys
import time
import traceback
from decimal import Decimal
from typing import Any

import json_records
import snapshotting
import threads

HEADER = struct.Struct("!cI")
NUMBER = struct.Struct("!Q")
READ_BYTES = 65536
REQUEST_ID_BYTES = 36
MAX_RESPONSE_BYTES = 6291556
KB_PER_UNIT = 1 / 1024 if sys.platform == "darwin" else 1  # ru_maxrss is bytes on macOS
RUNTIME = "/var/runtime"
PACKAGES = frozenset({"boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six"})
"""What Lambda's Python runtime brings, and a package may bring in a version of its own."""

NBSP = "\u00a0"


class Connection:
    """Frames over a blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""  # of what was read, behind the last frame

    def send(self, kind: bytes, *parts: bytes) -> None:
        body = b"".join(parts)
        self._sock.sendall(HEADER.pack(kind, len(body)) + body)

    def close(self) -> None:
        self._sock.close()

    def receive(self) -> tuple[bytes, bytes]:
        data = self._rest
        while len(data) < HEADER.size:
            data += self._read(READ_BYTES)
        kind, length = HEADER.unpack_from(data)
        end = HEADER.size + length
        if len(data) < end:
            pieces = [data]
            missing = end - len(data)
            while missing > 0:
                pieces.append(self._read(missing))
                missing -= len(pieces[-1])
            data = b"".join(pieces)
        self._rest = data[end:]
        return kind, data[HEADER.size : end]

    def _read(self, size: int) -> bytes:
        data = self._sock.recv(size)
        if not data:
            os._exit(0)  # the daemon is gone
        return data


class CognitoIdentity:
    """Who called by a mobile SDK: nobody. Source: AWS, "AWS Lambda context object in Python"."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")

    def __init__(self) -> None:
        self.cognito_identity_id = None
        self.cognito_identity_pool_id = None


class LambdaContext:
    """The second argument of a handler. Source: AWS, "AWS Lambda context object in Python"."""

    def __init__(self, about: dict[str, str], request_id: str, deadline_ms: int) -> None:
        self.function_name = about["function_name"]
        self.function_version = about["function_version"]
        self.invoked_function_arn = about["invoked_function_arn"]
        self.memory_limit_in_mb = about["memory_limit_in_mb"]
        self.log_group_name = about["log_group_name"]
        self.log_stream_name = about["log_stream_name"]
        self.aws_request_id = request_id
        self.identity = CognitoIdentity()
        self.client_context = None
        self.tenant_id = None
        self._deadline_ms = deadline_ms

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function times out."""
        return max(self._deadline_ms - int(time.time() * 1000), 0)

    def __repr__(self) -> str:
        return f"LambdaContext(aws_request_id={self.aws_request_id}, function_name={self.function_name})"


class _RequestId(logging.Filter):
    """Puts the id of the current request on each log record."""

    aws_request_id = ""

    def filter(self, record: logging.LogRecord) -> bool:
        record.aws_request_id = self.aws_request_id
        return True


class InitFailed(Exception):
    """The handler cannot be loaded; `document` says why."""

    def __init__(self, kind: str, message: str, stack: list[str]) -> None:
        super().__init__(message)
        self.document = {"errorMessage": message, "errorType": kind, "requestId": "", "stackTrace": stack}


def run(sock: socket.socket, supervisor: socket.socket | None = None) -> None:
    """Load the handler that the first frame names, then serve invocations until the socket ends.

    With a `supervisor`, that is done in forks of this process, as it asks for them.
    """
    connection = Connection(sock)
    _, body = connection.receive()
    config = json.loads(body)
    prepare(config)
    prefer_packages(config["task_root"])
    requests = _set_up_logging()
    try:
        handler = load_handler(config["handler"])
        if config["snap_start"]:
            _run_hooks(snapshotting.run_hooks, snapshotting.BEFORE, "Runtime.BeforeSnapshotError")
            own = snapshotting.wait(connection, supervisor)
            if own is not None:
                connection = Connection(own)
                connection.receive()
            _run_hooks(snapshotting.run_hooks, snapshotting.AFTER, "Runtime.AfterRestoreError")
    except InitFailed as failed:
        _log_error(failed.document)
        connection.send(b"E", encode(failed.document))
        return
    connection.send(b"R")
    about = config["context"]
    while True:
        _, frame = connection.receive()
        request_id = frame[:REQUEST_ID_BYTES]
        (deadline_ms,) = NUMBER.unpack_from(frame, REQUEST_ID_BYTES)
        event = frame[REQUEST_ID_BYTES + NUMBER.size :]
        requests.aws_request_id = request_id.decode()
        context = LambdaContext(about, requests.aws_request_id, deadline_ms)
        kind, answer = invoke(handler, event, context)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the function may have closed or replaced it
                stream.flush()
        peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KB_PER_UNIT)
        connection.send(kind, request_id, NUMBER.pack(peak), answer)


def _run_hooks(run_hooks: Any, which: str, kind: str) -> None:
    """Raises InitFailed, of this kind."""
    try:
        run_hooks(which)
    except (Exception, SystemExit) as error:
        message = f"{type(error).__name__}: {error}"
        raise InitFailed(kind, message, _frames(error)) from error


def prepare(config: dict[str, Any]) -> None:
    """Set limits, environment, folder, module path and output of this process."""
    for name, limit in config["limits"].items():
        set_limit(name, limit)
    os.environ.clear()
    os.environ.update(config["environment"])
    time.tzset()
    os.chdir(config["task_root"])
    sys.path[:0] = [config["task_root"]]
    sys.path += [path for path in config["paths"] if path not in sys.path]
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), "utf-8", "replace", line_buffering=True)
    sys.stderr = io.TextIOWrapper(open(2, "wb", closefd=False), "utf-8", "replace", line_buffering=True)


def set_limit(name: str, limit: int) -> None:
    """Set a resource limit, where the system has it and allows it."""
    number = getattr(resource, name, None)
    if number is None:
        return
    _, hard = resource.getrlimit(number)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    stacks = name == "RLIMIT_DATA"
    most = (
        limit + threads.THREADS * threads.SMALL_STACK_BYTES
        if stacks and hard == resource.RLIM_INFINITY
        else limit
    )
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(number, (limit, most))
    if stacks:
        threads.make_room(threads.SMALL_STACK_BYTES)


def prefer_packages(task_root: str) -> None:
    """Forget what the zygote has loaded of the runtime's packages where the function brings one of them."""
    last = sys.path.index(RUNTIME) if RUNTIME in sys.path else len(sys.path)
    for folder in (task_root, *sys.path[:last]):
        if any(name in sys.modules and os.path.isdir(os.path.join(folder, name)) for name in PACKAGES):
            for module in [module for module in sys.modules if module.partition(".")[0] in PACKAGES]:
                del sys.modules[module]
            return


def load_handler(name: str) -> Any:
    """The handler function of `module.function`; slashes in the module are dots.

    Raises:
        InitFailed: with the error document of AWS's Python runtime.
    """
    module_name, dot, function = name.rpartition(".")
    if not dot:
        message = f"Bad handler '{name}': not enough values to unpack (expected 2, got 1)"
        raise InitFailed("Runtime.MalformedHandlerName", message, [])
    dotted = module_name.replace("/", ".")
    _make_room(dotted.partition(".")[0])
    try:
        module = importlib.import_module(dotted)
    except ImportError as error:
        message = f"Unable to import module '{module_name}': {error}"
        raise InitFailed("Runtime.ImportModuleError", message, []) from error
    except SyntaxError as error:
        message = f"Syntax error in module '{module_name}': {error}"
        frame = f'  File "{error.filename}" Line {error.lineno}\n    {error.text}'
        raise InitFailed("Runtime.UserCodeSyntaxError", message, [frame]) from error
    except Exception as error:
        stack = _frames(error)
        raise InitFailed(type(error).__name__, str(error), stack) from error
    try:
        return getattr(module, function)
    except AttributeError as error:
        message = f"Handler '{function}' missing on module '{module_name}'"
        raise InitFailed("Runtime.HandlerNotFound", message, []) from error


def _make_room(name: str) -> None:
    """Let a function's module have a name that the runtime itself has loaded: `queue.py`, `bootstrap.py`."""
    loaded = sys.modules.get(name)
    root = os.getcwd()
    if loaded is None or not any(os.path.exists(os.path.join(root, name + end)) for end in (".py", "")):
        return
    for other in [other for other in sys.modules if other == name or other.startswith(f"{name}.")]:
        del sys.modules[other]


def invoke(handler: Any, event: bytes, context: LambdaContext) -> tuple[bytes, bytes]:
    """Run the handler; the kind of the answering frame and its document."""
    request_id = context.aws_request_id
    try:
        decoded = json.loads(event)
    except (ValueError, RecursionError) as error:
        return b"F", _document(
            "Runtime.UnmarshalError", f"Unable to unmarshal input: {error}", request_id, []
        )
    try:
        result = handler(decoded, context)
    except Exception as error:
        stack = _frames(error)
        return b"F", _document(type(error).__name__, str(error), request_id, stack)
    try:
        answer = encode(result)
    except Exception as error:
        message = f"Unable to marshal response: {error}"
        return b"F", _document("Runtime.MarshalError", message, request_id, [])
    if len(answer) > MAX_RESPONSE_BYTES:
        limit = f"Response payload size exceeded maximum allowed payload size ({MAX_RESPONSE_BYTES} bytes)."
        too_large = {"errorMessage": limit, "errorType": "Function.ResponseSizeTooLarge"}
        return b"F", encode(too_large)
    return b"S", answer


def encode(value: Any) -> bytes:
    """JSON; what Python calls JSON and is none, for NaN or Infinity in it, as the text that it is.

    Half of a surrogate pair, which UTF-8 cannot hold, becomes a question mark.
    """
    if isinstance(value, bytes):
        return value  # the daemon sees whether it is JSON
    text = json.dumps(value, default=_decimal)
    if "\\ud" in text:  # a pair, or half of one
        text = json.dumps(value, default=_decimal, ensure_ascii=False)
    if ("NaN" in text or "Infinity" in text) and _not_finite(value):
        text = json.dumps(text)
    return text.encode("utf-8", "replace")


def _not_finite(value: Any) -> bool:
    try:
        json.dumps(value, default=_decimal, allow_nan=False)
    except ValueError:
        return True
    return False


def _decimal(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _document(kind: str, message: str, request_id: str, stack: list[str]) -> bytes:
    document = {"errorMessage": message, "errorType": kind, "requestId": request_id, "stackTrace": stack}
    _log_error(document)
    return encode(document)


def _frames(error: BaseException) -> list[str]:
    """The traceback's frames as text: not the runtime's own at its start, no markers below lines."""
    frames = traceback.extract_tb(error.__traceback__)
    while frames and frames[0].filename == __file__:
        del frames[0]
    bare = [(frame.filename, frame.lineno or 0, frame.name, frame.line) for frame in frames]
    return traceback.format_list(bare)


def _log_error(document: dict[str, Any]) -> None:
    """The `[ERROR]` block; its frames are indented with no-break spaces, as on AWS. Or one JSON record."""
    if _logs_json():
        record = {
            "timestamp": time.strftime(json_records.JSON_TIME, time.gmtime()),
            "level": "ERROR",
            **document,
        }
        with contextlib.suppress(Exception):
            print(json.dumps(record, ensure_ascii=False), flush=True)
        return
    message = document["errorMessage"]
    lines = [f"[ERROR] {document['errorType']}" + (f": {message}" if message else "")]
    lines.append("Traceback (most recent call last):")
    for frame in document["stackTrace"]:
        for line in frame.rstrip("\n").split("\n"):
            text = line.lstrip(" ")
            lines.append(NBSP * (len(line) - len(text)) + text)
    with contextlib.suppress(Exception):  # the function may have closed or replaced it
        print("\n".join(lines), flush=True)


def _logs_json() -> bool:
    return os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"


def _set_up_logging() -> _RequestId:
    requests = _RequestId()
    handler = logging.StreamHandler(sys.stdout)
    level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
    level = "DEBUG" if level == "TRACE" else level
    if level in logging.getLevelNamesMapping():
        logging.getLogger().setLevel(level)
    form = "[%(levelname)s]\t%(asctime)s.%(msecs)dZ\t%(aws_request_id)s\t%(message)s"
    formatter = json_records.JsonFormatter() if _logs_json() else logging.Formatter(form, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.addFilter(requests)
    logging.getLogger().addHandler(handler)
    return requests


if __name__ == "__main__":
    run(socket.socket(fileno=int(sys.argv[1])))
