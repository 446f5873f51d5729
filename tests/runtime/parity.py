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
    "decimals of every kind": (
        returning(
            "{'id': D('12345678901234567890'), 'n': D('3'), 'many': D('0.1000000000000000000001'),"
            " 'odd': [D('1E+3'), D('-0'), D('sNaN'), D('-NaN'), D('Infinity')]}",
            "from decimal import Decimal as D",
        ),
        None,
    ),
    "named tuples": (
        returning(
            "{'rows': [R(1, 2)], 'all': R([], {})}",
            "import collections\nR = collections.namedtuple('R', 'a b')\n",
        ),
        None,
    ),
    "something with _asdict": (
        returning("[X()]", "class X:\n    def _asdict(self):\n        return {'a': 1}\n"),
        None,
    ),
    "bytes within": (
        returning("{'b64': b'aGk=', 'list': [b'\xc3\xa4'], b'k': 1, 'tail': {b'\xc3\xa4': 2}}"),
        None,
    ),
    "bytes within that are no text": (returning("[b'\xff']"), None),
    "bytearray": (returning("bytearray(b'x')"), None),
    "keys of numbers": (returning("{1.0: 1, float('nan'): 2, -1: 3, 10**20: 4, False: 5}"), None),
    "keys of decimals": (returning("{D('1.10'): 1}", "from decimal import Decimal as D"), None),
    "escapes": (returning("'\\u2028\\u2029</script>\\x7f\\x00\\t\\\"/\\\\'"), None),
    "characters of many scripts": (returning("{'ключ': '漢字 ä 😀'}"), None),
    "floats": (returning("[1e16, 1e-7, 0.1, 1.0, 5e-324, 1e22, 100000.0]"), None),
    "integers beyond a float": (returning("[2 ** 53 + 1, -(2 ** 64)]"), None),
    "order of keys": (returning("{'b': 1, 'a': 2, 'c': {}}"), None),
    "default dictionaries": (
        returning("collections.OrderedDict(b=1, a=collections.Counter('aab'))", "import collections"),
        None,
    ),
    "views of dictionaries": (returning("{'a': 1}.keys()"), None),
    "own json": (
        returning("[X()]", "class X:\n    def for_json(self):\n        return {'a': 1}\n"),
        None,
    ),
    "event of odd numbers": (
        returning("[repr(event), [type(x).__name__ for x in event]]"),
        [1.0, -0.0, 10**30, 1e300, "\u2028", {"b": 1, "a": 2}],
    ),
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
    "context as text": (
        doing(
            "context.aws_request_id = context.log_stream_name = context.memory_limit_in_mb = 'x'",
            "return [repr(context), repr(context.identity), context.w3c()]",
        ),
        None,
    ),
    "context logs": (doing("context.log('a')", "context.log({'b': 1})", "context.log('c\\n')"), None),
    "traced": (
        returning(
            "re.sub('[0-9a-f]{8,}', 'X', os.environ['_X_AMZN_TRACE_ID'])",
            "import os, re",
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
    "formats times": (
        doing(
            "record = logging.makeLogRecord({'created': 0, 'msecs': 7.9, 'msg': 'm'})",
            "text = logging.getLogger().handlers[0].formatter.format(logging.makeLogRecord(",
            "    {'created': 0, 'msecs': 7.9, 'msg': 'm', 'aws_request_id': 'r'}))",
            "converter = logging.Formatter.converter.__name__",
            "return [logging.Formatter('%(asctime)s').format(record), converter, text]",
            before="import logging",
        ),
        None,
    ),
    "writes in pieces, and ends": (
        doing(
            "sys.stdout.write('half')", "sys.stderr.write(' other')", "os._exit(1)", before="import os, sys"
        ),
        None,
    ),
    "replaces its output": (
        doing(
            "old, sys.stdout = sys.stdout, io.StringIO()",
            "logging.warning('hidden')",
            "text, sys.stdout = sys.stdout.getvalue(), old",
            "return len(text) > 10",
            before="import io, logging, sys",
        ),
        None,
    ),
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
    "exits as at a prompt": (doing("exit(1)"), None),
    "quits at import": ("quit(3)\n" + PLAIN, None),
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
    "too large": "awslambdaric writes of the refusal, and ends; ours goes on",
    "takes too little": "the stack has a line of awslambdaric's own file",
    "function that is none": "the stack has a line of awslambdaric's own file",
    "interrupts": "the interpreter writes the runtime's own lines",
}
"""Handlers whose difference is kept, and why."""

EXTRAS = """
import datetime, decimal, logging
logger = logging.getLogger("own")


class Odd:
    def __repr__(self):
        return "odd"


def handle(event, context):
    extra = {"order": 7, "at": datetime.date(2020, 1, 1), "odd": Odd(), "message_id": None}
    logger.info("ä %s", "x", extra=extra)
    logger.warning({"a": decimal.Decimal("1.50"), "b": [1, Odd()]})
    logger.warning({"a": 1}, {"b": 2})
    logger.log(15, "between the levels")
    logger.log(55, "beyond them")
    logger.error("%d", 3, stack_info=True)
    logging.getLogger().debug("at the root", extra={"level": "mine", "timestamp": 0, "taskName": "t"})
    try:
        {}["key"]
    except KeyError:
        logger.exception("caught", extra={"errorType": "mine"})
"""

LOGGING = {
    "extras": EXTRAS,
    **{
        name: HANDLERS[name][0]
        for name in ("logs", "logs from info on", "raises", "raises from another", "raises at import", "set",
                     "logs at import", "import error", "syntax error")
    },
}  # fmt: skip
"""Handlers whose JSON logs are compared."""
