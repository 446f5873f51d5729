"""A declared function stands in the file that declares it, whatever wraps it."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.contract.errors import InvalidConfiguration
from millstream.daemon.loader import load
from millstream.daemon.plan import make_plan

LIBRARY = """
import functools

def wrapping(function):
    @functools.wraps(function)
    def wrapper(event, context):
        return function(event, context)
    return wrapper

def hiding(function):
    def wrapper(event, context):
        return function(event, context)
    return wrapper

class Called:
    def __init__(self, answer=1):
        self.answer = answer
    def __call__(self, event, context):
        return self.answer

def base(answer, event, context):
    return answer

def elsewhere(event, context):
    return 1
"""

PROXY = """
class Proxy:
    def __getattribute__(self, name):
        raise RuntimeError("not now")
proxy = Proxy()
"""

HEAD = """
import functools
from millstream import App
from library.tools import Called, base, elsewhere, hiding, wrapping
app = App("orders")
"""


def handlers(folder: Path, text: str) -> dict[str, tuple[str | None, Path]]:
    """Each function with its handler and its folder."""
    (folder / "library").mkdir(exist_ok=True)
    (folder / "library" / "tools.py").write_text(LIBRARY)
    (folder / "app.py").write_text(HEAD + text)
    plan = make_plan(load(folder / "app.py"))
    found = {}
    for name, planned in plan.functions.items():
        assert planned.code is not None
        found[name] = (planned.options.handler, planned.code.source)
    return found


@pytest.mark.parametrize(
    "text",
    [
        "@app.function\ndef f(event, context): ...",
        "@app.function(timeout=5)\ndef f(event, context): ...",
        "@app.function\n@wrapping\ndef f(event, context): ...",
        "@app.function(timeout=5)\n@wrapping\n@wrapping\ndef f(event, context): ...",
        "@app.function\n@hiding\ndef f(event, context): ...",
        "@wrapping\n@app.function\ndef f(event, context): ...",
        "@hiding\n@app.function\ndef f(event, context): ...",
        "@wrapping\n@app.function\n@hiding\ndef f(event, context): ...",
        "f = app.function(lambda event, context: 1)",
        "f = app.function(functools.partial(base, 1))",
        "f = app.function(Called())",
        "f = app.function(timeout=5)(Called(2))",
        PROXY + "@app.function\n@wrapping\ndef f(event, context): ...",
        "f = Called\nf = app.function(Called())",
    ],
)
def test_a_function_is_known_by_the_name_that_its_file_binds_it_to(tmp_path: Path, text: str) -> None:
    assert handlers(tmp_path, text) == {"f": ("app.f", tmp_path)}


def test_a_function_of_another_module_stands_where_it_is_declared(tmp_path: Path) -> None:
    assert handlers(tmp_path, "app.function(elsewhere)") == {"elsewhere": ("app.elsewhere", tmp_path)}


def test_a_function_that_a_module_of_the_app_declares_is_imported_as_the_app_imports_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "orders").mkdir()
    (tmp_path / "apps.py").write_text("from millstream import App\napp = App('orders')\n")
    (tmp_path / "orders" / "__init__.py").write_text(
        "from apps import app\n@app.function\ndef g(e, c): ...\n"
    )
    (tmp_path / "orders" / "mails.py").write_text("from apps import app\n@app.function\ndef f(e, c): ...\n")
    found = handlers(tmp_path, "import orders.mails\nfrom apps import app")
    assert found == {"f": ("orders.mails.f", tmp_path), "g": ("orders.g", tmp_path)}


def test_decorators_of_powertools_are_none_of_the_handlers_business(tmp_path: Path) -> None:
    text = """
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.data_classes import SQSEvent, event_source
logger = Logger(service="orders")

@app.function(timeout=5)
@logger.inject_lambda_context
@event_source(data_class=SQSEvent)
def f(event, context):
    return 1
"""
    assert handlers(tmp_path, text) == {"f": ("app.f", tmp_path)}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("app.function(functools.partial(base, 1))", "functools.partial("),
        ("app.function(name='g')(Called())", "<library.tools.Called object"),
        ("def make():\n    @app.function\n    def f(event, context): ...\nmake()", "make.<locals>.f"),
    ],
)
def test_a_function_without_a_name_is_one_clear_line(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(InvalidConfiguration) as invalid:
        handlers(tmp_path, text)
    (problem,) = invalid.value.problems
    assert problem.field == "handler"
    assert problem.wanted == "a function that its file binds to a name: `name = app.function(…)`"
    assert problem.found.startswith(found)
    assert problem.where.startswith("app.py:")


def test_a_mapping_may_name_a_function_by_what_wraps_it(tmp_path: Path) -> None:
    text = "from millstream import Sqs\nf = app.function(Called())\napp.map(Sqs('q'), to=f)"
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "tools.py").write_text(LIBRARY)
    (tmp_path / "app.py").write_text(HEAD + text)
    (mapping,) = make_plan(load(tmp_path / "app.py")).mappings
    assert mapping.function == "f"
