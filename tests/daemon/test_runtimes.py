"""Functions of several runtimes, from their declaration to their answer, in real sandboxes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from millstream.contract.clock import SystemClock
from millstream.contract.errors import InvalidConfiguration
from millstream.contract.functions import FunctionSpec, Success
from millstream.contract.registry import load_plugin
from millstream.daemon.deployment import deployed
from millstream.daemon.loader import load
from millstream.daemon.plan import make_plan
from millstream.daemon.settings import Settings
from millstream.functions.runtimes import RUNTIMES, default_runtime
from millstream.runtime.concurrency import ConcurrencyLedger
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.pool import RuntimePool

pytestmark = pytest.mark.broker

APP = 'from millstream import App, Function, Sqs\napp = App("a")\n'
RIC = "node_modules/aws-lambda-ric"

PYTHON_CLIENT = """
import importlib, json, os, sys, urllib.request
module, _, name = sys.argv[1].rpartition(".")
sys.path.insert(0, os.environ['LAMBDA_TASK_ROOT'])
handler = getattr(importlib.import_module(module), name)
api = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"
while True:
    with urllib.request.urlopen(f"{api}/next") as found:
        event, request = json.load(found), found.headers["Lambda-Runtime-Aws-Request-Id"]
    answer = json.dumps(handler(event, None)).encode()
    urllib.request.urlopen(f"{api}/{request}/response", answer).close()
"""

NODE_CLIENT = """
import { createRequire } from 'node:module';
const root = process.env.LAMBDA_TASK_ROOT;
const require = createRequire(`${root}/x.js`);
const [file, name] = process.argv[2].split('.');
const api = `http://${process.env.AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime/invocation`;
const handler = require(`${root}/${file}.js`)[name];
for (;;) {
  const found = await fetch(`${api}/next`);
  const request = found.headers.get('lambda-runtime-aws-request-id');
  const body = JSON.stringify(await handler(await found.json()));
  await fetch(`${api}/${request}/response`, { method: 'POST', body });
}
"""


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name.removesuffix("*")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755 if name.endswith("*") else 0o644)


async def answer(folder: Path, options: str, isolation: str = "bwrap") -> object:
    """What the function `f` with these options says to an event; skips where nothing runs it here."""
    write(folder, {"app.py": f'{APP}app.map(Sqs("q"), to=Function("f", {options}))\n'})
    try:
        plan = make_plan(load(folder / "app.py"))
    except InvalidConfiguration as invalid:
        if [problem.found for problem in invalid.problems] == ["none on this host"]:
            pytest.skip(str(invalid))
        raise
    with ExitStack() as held:
        functions = await deployed(plan, Settings(data_dir=folder / "data"), held)
        return await _invoked(functions, folder, isolation)


async def _invoked(functions: dict[str, FunctionSpec], folder: Path, isolation: str) -> object:
    sandbox = load_plugin("sandboxes", isolation)(folder / "sandboxes")
    await sandbox.start()
    logs = FunctionLogs(folder / "logs")
    ledger = ConcurrencyLedger(10, list(functions.values()))
    try:
        async with RuntimePool(functions, sandbox, ledger, logs, SystemClock(), 300.0) as pool:
            outcome = await pool.invoke("f", b'{"n": 20}')
    finally:
        await sandbox.aclose()
    logs.flush()
    log = (folder / "logs" / "f.log").read_text()
    if not isinstance(outcome, Success):
        pytest.fail(f"{outcome}\n{log}")
    return msgspec.json.decode(outcome.payload)


@pytest.mark.parametrize("isolation", ["bwrap", "process"])
@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if name.startswith("python")])
async def test_each_python_of_this_host_runs_its_functions(
    tmp_path: Path, runtime: str, isolation: str
) -> None:
    code = "import sys, shared\ndef h(event, context):\n"
    code += "    return [event['n'] + shared.more, '%d.%d' % sys.version_info[:2]]\n"
    write(tmp_path, {"code/f.py": code, "layer/python/shared.py": "more = 1\n"})
    if runtime != default_runtime():
        write(tmp_path, {"code/awslambdaric/__main__.py": PYTHON_CLIENT, "code/awslambdaric/__init__.py": ""})
    options = f'handler="f.h", code="code", runtime="{runtime}", layers=["layer"], timeout=20'
    assert await answer(tmp_path, options, isolation) == [21, runtime.removeprefix("python")]


@pytest.mark.parametrize("isolation", ["bwrap", "process"])
@pytest.mark.parametrize("runtime", ["nodejs20.x", "nodejs22.x", "nodejs24.x"])
async def test_each_node_of_this_host_runs_its_functions(
    tmp_path: Path, runtime: str, isolation: str
) -> None:
    code = "const { more } = require('shared'); exports.h = async (event) => event.n + more;"
    write(
        tmp_path,
        {
            "code/index.js": code,
            f"code/{RIC}/package.json": '{"type": "module", "bin": {"aws-lambda-ric": "./index.mjs"}}',
            f"code/{RIC}/index.mjs": NODE_CLIENT,
            "layer/nodejs/node_modules/shared/index.js": "exports.more = 1;",
        },
    )
    options = f'handler="index.h", code="code", runtime="{runtime}", layers=["layer"], timeout=20'
    assert await answer(tmp_path, f"{options}, memory_size=256", isolation) == 21


@pytest.mark.parametrize("isolation", ["bwrap", "process"])
async def test_a_bootstrap_of_a_layer_runs_a_custom_runtime(tmp_path: Path, isolation: str) -> None:
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("wanted a Python below /usr to write a bootstrap in, found none")
    handler = "def h(event, context):\n    return event['n'] + 1\n"
    write(tmp_path, {"code/f.py": handler, "layer/bootstrap*": f"#!{python}\n{PYTHON_CLIENT}"})
    client = (tmp_path / "layer" / "bootstrap").read_text().replace("sys.argv[1]", "os.environ['_HANDLER']")
    (tmp_path / "layer" / "bootstrap").write_text(client)
    options = 'handler="f.h", code="code", runtime="provided.al2023", layers=["layer"], timeout=20'
    assert await answer(tmp_path, options, isolation) == 21
