"""The bootstrap as a program that asks the Runtime API for work: `/var/runtime/bootstrap.py`.

Functions are run by it whose settings only a fresh interpreter honours, among them AWS_LAMBDA_EXEC_WRAPPER,
whose script starts it. Standard library and simplejson only.
Source: AWS, "Using the Lambda runtime API for custom runtimes", "Modifying the runtime environment".
"""

from __future__ import annotations

import contextlib
import http.client
import os
import site
import sys
from typing import Any

from . import encoding, handlers, log_format, snapshotting
from .bootstrap import become_a_runtime
from .context import LambdaContext
from .trace import Trace

BASE = "/2018-06-01/runtime"
ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"
BEFORE, AFTER = "Runtime.BeforeSnapshotError", "Runtime.AfterRestoreError"
EXIT_INIT, EXIT_BEFORE, EXIT_AFTER = 1, 64, 65


class Api:
    """One connection to the Runtime API."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address)

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> http.client.HTTPResponse:
        """Ask once; what it answers is read by the caller. Raises OSError."""
        self._connection.request(method, f"{BASE}/{path}", body, headers)
        return self._connection.getresponse()

    def tell(self, path: str, body: bytes, **headers: str) -> None:
        """Post a result or an error."""
        self.ask("POST", path, body, **headers).read()


def main() -> None:
    """Load the handler, then serve invocations until the process is ended."""
    environment = os.environ
    runtime = environment["LAMBDA_RUNTIME_DIR"]
    layers = environment.pop("_MILLSTREAM_LAYERS").split(os.pathsep)
    if sys.prefix == sys.base_prefix:  # what is installed beside this interpreter is no part of a runtime
        sys.path[:] = [folder for folder in sys.path if folder not in site.getsitepackages()]
    become_a_runtime(environment["LAMBDA_TASK_ROOT"], layers, runtime, environment["_HANDLER"])
    requests = log_format.set_up()
    api = Api(environment["AWS_LAMBDA_RUNTIME_API"])
    handler = _loaded(api)
    about, traced = _about(), Trace()
    while True:
        asked = api.ask("GET", "invocation/next")
        event = asked.read()
        request_id = requests.aws_request_id = asked.headers["Lambda-Runtime-Aws-Request-Id"]
        about["invoked_function_arn"] = asked.headers["Lambda-Runtime-Invoked-Function-Arn"]
        traced.set(asked.headers.get("Lambda-Runtime-Trace-Id", "").encode())
        context = LambdaContext(about, request_id, int(asked.headers["Lambda-Runtime-Deadline-Ms"]))
        kind, answer = handlers.invoke(handler, event, context)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the function may have closed or replaced it
                stream.flush()
        what = "response" if kind == handlers.SUCCESS else "error"
        api.tell(f"invocation/{request_id}/{what}", answer)


def _loaded(api: Api) -> Any:
    """The handler, restored from its snapshot where it has one. Ends the process where it cannot be."""
    path, status = "init/error", EXIT_INIT
    try:
        handler = handlers.load(os.environ["_HANDLER"])
        if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
            status = EXIT_BEFORE
            handlers.run_hooks(snapshotting.run_hooks, snapshotting.BEFORE, BEFORE)
            api.ask("GET", "restore/next").read()
            path, status = "restore/error", EXIT_AFTER
            handlers.run_hooks(snapshotting.run_hooks, snapshotting.AFTER, AFTER)
    except handlers.InitFailed as failed:
        log_format.write_error(failed.document)
        document = failed.document
        api.tell(path, encoding.encode(document), **{ERROR_TYPE: str(document["errorType"])})
        sys.exit(status)
    return handler


def _about() -> dict[str, Any]:
    names = {
        "function_name": "AWS_LAMBDA_FUNCTION_NAME",
        "function_version": "AWS_LAMBDA_FUNCTION_VERSION",
        "memory_limit_in_mb": "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "log_group_name": "AWS_LAMBDA_LOG_GROUP_NAME",
        "log_stream_name": "AWS_LAMBDA_LOG_STREAM_NAME",
    }
    return {name: os.environ.get(variable) for name, variable in names.items()}
