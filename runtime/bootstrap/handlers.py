"""Finds a handler and runs it, with the error documents of AWS's Python runtime.

Source: awslambdaric 4.2.2.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from .context import LambdaContext
from .encoding import decode, encode, too_large
from .log_format import write_error

SUCCESS, FAILURE = b"S", b"F"
OURS = os.path.dirname(__file__)


class InitFailed(Exception):
    """The handler cannot be loaded; `document` says why."""

    def __init__(self, kind: str, message: str, stack: list[str]) -> None:
        super().__init__(message)
        self.document = {"errorMessage": message, "errorType": kind, "requestId": "", "stackTrace": stack}


def load(name: str) -> Any:
    """The handler function of `module.function`; slashes in the module are dots.

    Raises:
        InitFailed: with the error document of AWS's Python runtime.
    """
    module_name, dot, function = name.rpartition(".")
    if not dot:
        message = f"Bad handler '{name}': not enough values to unpack (expected 2, got 1)"
        raise InitFailed("Runtime.MalformedHandlerName", message, [])
    if module_name.partition(".")[0] in sys.builtin_module_names:
        message = f"Cannot use built-in module {module_name} as a handler module"
        raise InitFailed("Runtime.BuiltInModuleConflict", message, [])
    try:
        module = importlib.import_module(module_name.replace("/", "."))
    except ImportError as error:
        message = f"Unable to import module '{module_name}': {error}"
        raise InitFailed("Runtime.ImportModuleError", message, []) from error
    except SyntaxError as error:
        message = f"Syntax error in module '{module_name}': {error}"
        frame = f'  File "{error.filename}" Line {error.lineno}\n    {error.text}'
        raise InitFailed("Runtime.UserCodeSyntaxError", message, [frame]) from error
    except Exception as error:
        raise InitFailed(type(error).__name__, str(error), frames(error)) from error
    try:
        return getattr(module, function)
    except AttributeError as error:
        message = f"Handler '{function}' missing on module '{module_name}'"
        raise InitFailed("Runtime.HandlerNotFound", message, []) from error


def run_hooks(run: Callable[[str], None], which: str, kind: str) -> None:
    """Run the hooks around a snapshot. Raises InitFailed, of this kind."""
    try:
        run(which)
    except (Exception, SystemExit) as error:
        message = f"{type(error).__name__}: {error}"
        raise InitFailed(kind, message, frames(error)) from error


def invoke(handler: Any, event: bytes, context: LambdaContext) -> tuple[bytes, bytes]:
    """Run the handler; SUCCESS with the result's bytes, or FAILURE with those of an error document."""
    request_id = context.aws_request_id
    try:
        decoded = decode(event)
    except Exception as error:
        message = f"Unable to unmarshal input: {error}"
        return FAILURE, _document("Runtime.UnmarshalError", message, request_id, [])
    try:
        result = handler(decoded, context)
    except Exception as error:
        return FAILURE, _document(type(error).__name__, str(error), request_id, frames(error))
    try:
        answer = encode(result)
    except Exception as error:
        message = f"Unable to marshal response: {error}"
        return FAILURE, _document("Runtime.MarshalError", message, request_id, [])
    refused = too_large(len(answer))
    return (SUCCESS, answer) if refused is None else (FAILURE, encode(refused))


def _document(kind: str, message: str, request_id: str, stack: list[str]) -> bytes:
    document = {"errorMessage": message, "errorType": kind, "requestId": request_id, "stackTrace": stack}
    write_error(document)
    return encode(document)


def frames(error: BaseException) -> list[str]:
    """The traceback's frames as text: not the runtime's own at its start, no markers below lines."""
    extracted = traceback.extract_tb(error.__traceback__)
    while extracted and os.path.dirname(extracted[0].filename) == OURS:
        del extracted[0]
    bare = [(frame.filename, frame.lineno or 0, frame.name, frame.line) for frame in extracted]
    return traceback.format_list(bare)
