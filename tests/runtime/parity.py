"""Handlers for the comparison of our Python bootstrap with awslambdaric: name, source, event."""

from __future__ import annotations

from typing import Any

PLAIN = "def handle(event, context):\n    return {}\n"


def returning(expression: str, before: str = "") -> str:
    """A handler that answers with an expression."""
    return f"{before}\ndef handle(event, context):\n    return {expression}\n"


def doing(*lines: str, before: str = "") -> str:
    """A handler of these lines."""
    body = "\n".join(f"    {line}" for line in lines)
    return f"{before}\ndef handle(event, context):\n{body}\n"


NESTED = """
class Own(Exception):
    pass


def deeper(n):
    if n == 0:
        raise Own("ünï\\n two lines")
    deeper(n - 1)


def handle(event, context):
    try:
        deeper(2)
    except Own as error:
        raise ValueError("outer") from error
"""

LOGGED = """
import logging
logger = logging.getLogger()


def handle(event, context):
    logger.debug("not shown")
    logger.info("not shown either")
    logger.warning("shown %s", "ä")
    logger.error("two\\nlines")
    logging.getLogger("own").critical("by its own logger")
    try:
        1 / 0
    except ZeroDivisionError:
        logger.exception("caught")
"""

LOGGED_AT_INFO = """
import logging
logger = logging.getLogger()
logger.setLevel(logging.INFO)
logging.info("at import")


def handle(event, context):
    logger.debug("not shown")
    logger.info("shown")
    logging.basicConfig(level=logging.DEBUG)
    logger.info("basicConfig changes nothing")
"""

HANDLERS: dict[str, tuple[str, Any]] = {
    # results
    "echo": (returning("event"), {"a": [1, 2.5, None, True, "ä\U0001f600"]}),
    "nothing": (doing("pass"), None),
    "text": (returning("'text'"), None),
    "number": (returning("1e400 if event else -0.0"), None),
    "huge integer": (returning("10 ** 400"), None),
    "event of a float": (returning("[event, type(event).__name__]"), 1.0),
    "event of text": (returning("event * 2"), "ab"),
    "tuple": (returning("(1, (2,), [3])"), None),
    "keys that are no text": (returning("{1: 1, None: 2, True: 3, 1.5: 4}"), None),
    "key that no JSON has": (returning("{(1, 2): 3}"), None),
    "set": (returning("{1}"), None),
    "bytes": (returning("b'x'"), None),
    "bytes of JSON": (returning("b' {\"a\": [1]} '"), None),
    "bytes of none": (returning("b''"), None),
    "bytes of NaN": (returning("b'NaN'"), None),
    "bytes of infinity": (returning("b'[1, -Infinity]'"), None),
    "bytes that are no text": (returning("b'\"\\xff\"'"), None),
    "bytes of UTF-16": (returning("'{}'.encode('utf-16')"), None),
    "bytes nested too deeply": (returning("b'[' * 100000 + b']' * 100000"), None),
    "bytes that grow as a string": (returning("bytes(2000000)"), None),
    "object": (returning("object()"), None),
    "datetime": (returning("datetime.datetime(2020, 1, 1)", "import datetime"), None),
    "decimal": (returning("[decimal.Decimal('1.10'), decimal.Decimal(3)]", "import decimal"), None),
    "generator": (doing("yield 1"), None),
    "iterator": (returning("iter([1])"), None),
    "not a number": (returning("float('nan')"), None),
    "infinity": (returning("[float('inf'), -float('inf')]"), None),
    "half of a surrogate pair": (returning("'\\ud83d x'"), None),
    "nested deeply": (doing("x = []", "for _ in range(500):", "    x = [x]", "return x"), None),
    "nested too deeply": (doing("x = []", "for _ in range(100000):", "    x = [x]", "return x"), None),
    "refers to itself": (doing("x = []", "x.append(x)", "return x"), None),
    "subclasses": (
        returning("[I(3), S('x'), D(a=1)]", "class I(int): ...\nclass S(str): ...\nclass D(dict): ...\n"),
        None,
    ),
    "enum": (returning("[E.A]", "import enum\nclass E(enum.IntEnum):\n    A = 1\n"), None),
    "largest": (returning("'x' * (6291556 - 2)"), None),
    "too large": (returning("'x' * (6291556 - 1)"), None),
    # errors
    "raises": (doing("raise ValueError('no')"), None),
    "raises without a message": (doing("raise KeyError"), None),
    "raises with a key": (doing("return event['missing']"), {}),
    "raises with several": (doing("raise ValueError(1, 'two', [3])"), None),
    "raises from another": (NESTED, None),
    "divides by zero": (doing("return 1 / 0"), None),
    "recurses": ("def handle(event, context):\n    return handle(event, context)\n", None),
    "asserts": (doing("assert event == 1, 'wanted 1'"), 2),
    "error whose text fails": (
        doing("raise E", before="class E(Exception):\n    def __str__(self):\n        return 'made up'\n"),
        None,
    ),
    "timeout error": (doing("raise TimeoutError('mine')"), None),
    "stops iteration": (doing("raise StopIteration(3)"), None),
    # context
    "context": (
        returning(
            "[context.function_name, context.function_version, context.invoked_function_arn,"
            " context.memory_limit_in_mb, context.log_group_name, context.client_context,"
            " context.identity is None or [context.identity.cognito_identity_id,"
            " context.identity.cognito_identity_pool_id], len(context.aws_request_id),"
            " 0 < context.get_remaining_time_in_millis() <= 10000, type(context).__name__,"
            " getattr(context, 'tenant_id', 'none')]"
        ),
        None,
    ),
    "context has what may be set": (doing("context.mine = 1", "return context.mine"), None),
    "argv and main": (returning("[len(sys.argv) > 0, __name__]", "import sys"), None),
    "first of the path": (returning("sys.path[0]", "import sys"), None),
    "folder": (returning("os.getcwd()", "import os"), None),
    # output
    "prints": (doing("print('a')", "print('b', 'c', sep='-')", "print('no end', end='')", before=""), None),
    "prints to both": (
        doing("print('out')", "print('err', file=sys.stderr)", before="import sys"),
        None,
    ),
    "prints bytes": (doing("os.write(1, b'raw\\n')", "os.write(2, b'more\\n')", before="import os"), None),
    "prints lines at once": (doing("print('a\\nb\\n\\nc')"), None),
    "prints unicode": (doing("print('ä\U0001f600\\u2028x')"), None),
    "logs": (LOGGED, None),
    "logs from info on": (LOGGED_AT_INFO, None),
    "warns": (doing("warnings.warn('careful')", before="import warnings"), None),
    "leaves a thread": (
        doing(
            "threading.Thread(target=time.sleep, args=(5,), daemon=True).start()",
            "return threading.active_count() > 1",
            before="import threading, time",
        ),
        None,
    ),
    "runs a loop": (returning("asyncio.run(go())", "import asyncio\nasync def go():\n    return 5\n"), None),
    "runs a program": (
        returning(
            "subprocess.run(['echo', 'hi'], capture_output=True, text=True).stdout", "import subprocess"
        ),
        None,
    ),
    "pipe between processes": (
        doing(
            "ours, theirs = multiprocessing.Pipe()",
            "process = multiprocessing.Process(target=theirs.send, args=('hi',))",
            "process.start()",
            "process.join()",
            "return ours.recv()",
            before="import multiprocessing",
        ),
        None,
    ),
    # ends
    "exits": (doing("os._exit(3)", before="import os"), None),
    "exits softly": (doing("sys.exit(1)", before="import sys"), None),
    "exits well": (doing("sys.exit(0)", before="import sys"), None),
    "aborts": (doing("os.abort()", before="import os"), None),
    "interrupts": (doing("raise KeyboardInterrupt"), None),
    # loading
    "import error": ("import nothing_of_the_kind\n" + PLAIN, None),
    "syntax error": ("def handle(event, context)\n    pass\n", None),
    "indentation error": ("def handle(event, context):\npass\n", None),
    "raises at import": ("raise RuntimeError('early')\n", None),
    "raises deeper at import": ("def f():\n    raise RuntimeError('early')\nf()\n", None),
    "exits at import": ("import sys\nsys.exit(2)\n", None),
    "no such function": ("def other(event, context): ...\n", None),
    "function that is none": ("handle = 3\n", None),
    "function of a class": (
        "class H:\n    def __call__(self, event, context):\n        return 'called'\nhandle = H()\n",
        None,
    ),
    "takes too little": ("def handle(event):\n    return 1\n", None),
    "logs at import": ("import logging\nlogging.warning('early')\nprint('printed')\n" + PLAIN, None),
}
"""By a name for the test: source and event."""

KEPT: dict[str, str] = {
    "half of a surrogate pair": "no reader of the records that hold it could decode it",
    "too large": "awslambdaric writes of the refusal, and ends; ours goes on",
    "takes too little": "the stack has a line of awslambdaric's own file",
    "function that is none": "the stack has a line of awslambdaric's own file",
    "interrupts": "the interpreter writes the runtime's own lines",
}
"""Handlers whose difference is kept, and why."""
