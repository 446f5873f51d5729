"""The command line: `millstream check`, `run`, `mappings`, `functions`, `invoke`, `logs`, `prune` …"""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

import millstream
from millstream.cli.options import AppFile, AsJson, DataDir, LogFormat, LogLevel, LogsTo, NamedRuntimes
from millstream.contract.errors import InvalidConfiguration, MillstreamError, StateUnavailable
from millstream.contract.plain_text import plain, plain_json
from millstream.daemon import data_dir
from millstream.daemon.control import NoDaemon, Request, ask
from millstream.daemon.log_lines import log_to_stderr
from millstream.daemon.serve import ExitCode, exit_code, serve
from millstream.daemon.settings import (
    BUFFER_MB,
    CONCURRENCY,
    DEFAULT_ACCOUNT,
    DRAIN_S,
    FREEZE_AFTER_S,
    IDLE_S,
    LOG_MAX_MB,
    MAX_AGE_S,
    Settings,
)

LINES = "\n"
"""Control characters that a message of ours may have in it."""

app = typer.Typer(
    help="Event source mappings as AWS Lambda has them, for queues and streams anywhere.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    file: AppFile,
    data_dir: DataDir = Path(".millstream"),
    endpoint_url: Annotated[
        str | None,
        typer.Option(envvar="MILLSTREAM_ENDPOINT_URL", help="AWS endpoint; else AWS_ENDPOINT_URL, else AWS."),
    ] = None,
    localstack: Annotated[
        bool, typer.Option("--localstack", help="Use LocalStack, or a drop-in for it, where it listens.")
    ] = False,
    region: Annotated[
        str | None, typer.Option(envvar="MILLSTREAM_REGION", help="AWS region; else boto3's own.")
    ] = None,
    account_id: Annotated[
        str, typer.Option(envvar="MILLSTREAM_ACCOUNT_ID", help="Account in the functions' ARNs.")
    ] = DEFAULT_ACCOUNT,
    isolation: Annotated[
        str,
        typer.Option(
            envvar="MILLSTREAM_ISOLATION",
            help="bwrap: namespaces, seccomp, limits. docker: the same, in containers of this host's engine. "
            "process: weaker, functions read this host's files.",
        ),
    ] = "bwrap",
    concurrency: Annotated[
        int,
        typer.Option(min=1, envvar="MILLSTREAM_CONCURRENCY", help="Concurrent executions of all functions."),
    ] = CONCURRENCY,
    drain_s: Annotated[
        float, typer.Option(min=0, envvar="MILLSTREAM_DRAIN_S", help="Seconds that a soft stop waits.")
    ] = DRAIN_S,
    idle_s: Annotated[
        float,
        typer.Option(min=1, envvar="MILLSTREAM_IDLE_S", help="Seconds that an unused environment is kept."),
    ] = IDLE_S,
    max_age_s: Annotated[
        float,
        typer.Option(
            min=1, envvar="MILLSTREAM_MAX_AGE_S", help="Seconds that an environment is used, ±10 %."
        ),
    ] = MAX_AGE_S,
    freeze_after_s: Annotated[
        str,
        typer.Option(
            envvar="MILLSTREAM_FREEZE_AFTER_S",
            help="Seconds after which an unused environment is frozen; or never.",
        ),
    ] = str(FREEZE_AFTER_S),
    memory: Annotated[
        int | None,
        typer.Option(
            min=1,
            envvar="MILLSTREAM_MEMORY",
            show_default=False,
            help="MB for all environments; else three quarters of what is free at start.",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            envvar="MILLSTREAM_STORE",
            show_default=False,
            help="postgresql://… shared by several daemons; else SQLite in the data directory.",
        ),
    ] = None,
    buffer_mb: Annotated[
        int,
        typer.Option(min=1, envvar="MILLSTREAM_BUFFER_MB", help="Memory for records of streams, in MB."),
    ] = BUFFER_MB,
    function_logs: Annotated[
        LogsTo,
        typer.Option(
            envvar="MILLSTREAM_FUNCTION_LOGS",
            help="Where functions' lines go: files, json (objects on standard output), both.",
        ),
    ] = LogsTo.files,
    log_max_mb: Annotated[
        int, typer.Option(min=1, envvar="MILLSTREAM_LOG_MAX_MB", help="MB of log files of each function.")
    ] = LOG_MAX_MB,
    log_max_days: Annotated[
        float | None,
        typer.Option(
            min=0.05, envvar="MILLSTREAM_LOG_MAX_DAYS", show_default=False, help="Remove older log files."
        ),
    ] = None,
    runtime: NamedRuntimes = None,
    log_format: Annotated[LogFormat, typer.Option(envvar="MILLSTREAM_LOG_FORMAT")] = LogFormat.text,
    log_level: Annotated[LogLevel, typer.Option(envvar="MILLSTREAM_LOG_LEVEL")] = LogLevel.info,
) -> None:
    """Run the mappings of an app until SIGTERM or Ctrl-C.

    The first signal drains: nothing more is received, what was received is finished. A second one
    stops at once; what was in flight comes again.

    Exit status: 0 stopped and drained, 2 wrong declaration, 3 data directory in use or unusable,
    4 this host cannot isolate functions, 5 stopped before it had drained.
    """
    from millstream.daemon.daemon import Daemon
    from millstream.daemon.loader import load
    from millstream.daemon.plan import make_plan
    from millstream.daemon.settings import aws_region, localstack_endpoint, named_runtimes

    if localstack and endpoint_url:
        raise typer.BadParameter("wanted one of --localstack and --endpoint-url, found both")
    log_to_stderr(log_format.value, log_level.value)
    settings = Settings(
        data_dir=data_dir,
        endpoint_url=localstack_endpoint() if localstack else endpoint_url,
        region=region or aws_region(),
        account_id=account_id,
        isolation=isolation,
        concurrency=concurrency,
        drain_s=drain_s,
        idle_s=idle_s,
        max_age_s=max_age_s,
        freeze_after_s=_freeze_after_s(freeze_after_s),
        memory_mb=memory,
        store=store,
        buffer_mb=buffer_mb,
        function_logs=function_logs.value,
        log_max_mb=log_max_mb,
        log_max_days=log_max_days,
    )
    plan = make_plan(load(file), named_runtimes(runtime or ()))
    raise typer.Exit(serve(Daemon(settings, plan)))


@app.command()
def check(
    file: AppFile,
    runtime: NamedRuntimes = None,
    imports: Annotated[
        bool, typer.Option("--import/--no-import", help="Import each Python handler once, in a sandbox.")
    ] = True,
    isolation: Annotated[
        str, typer.Option(envvar="MILLSTREAM_ISOLATION", help="As of `millstream run`.")
    ] = "bwrap",
) -> None:
    """Validate an app, import its handlers in a sandbox without network, and print its plan.

    Exit status: 0 `millstream run` would start it, 2 something is wrong.
    """
    import asyncio

    from millstream.cli.tables import print_imported, print_left_out, print_plan
    from millstream.daemon.imports import import_handlers
    from millstream.daemon.loader import load
    from millstream.daemon.plan import make_plan
    from millstream.daemon.settings import named_runtimes

    plan = make_plan(load(file), named_runtimes(runtime or ()))
    imported = asyncio.run(import_handlers(plan, isolation)) if imports else None
    if imported is not None and imported.problems:
        raise InvalidConfiguration(imported.problems)
    print_plan(plan)
    print_left_out(plan)
    if imported is not None:
        print_imported(imported)


@app.command()
def mappings(data_dir: DataDir = Path(".millstream"), as_json: AsJson = False) -> None:
    """Show each mapping: state, waiting records, counts, rate, last result."""
    from millstream.cli.tables import print_mappings, stored_mappings

    try:
        rows = _asked(data_dir, Request("mappings"))["mappings"]
    except NoDaemon:
        rows = stored_mappings(data_dir)
    print_mappings(rows, as_json)


@app.command()
def functions(data_dir: DataDir = Path(".millstream"), as_json: AsJson = False) -> None:
    """Show each function of the running daemon: environments, invocations, errors, throttles.

    Environments are busy/idle/frozen, provisioned ones ready/wanted.
    """
    from millstream.cli.tables import print_functions

    print_functions(_asked(data_dir, Request("functions"))["functions"], as_json)


@app.command()
def invoke(
    name: Annotated[str, typer.Argument(help="The function.", show_default=False)],
    payload: Annotated[
        str, typer.Option(help="The event, as JSON; @FILE reads it, - reads standard input.")
    ] = "{}",
    data_dir: DataDir = Path(".millstream"),
) -> None:
    """Invoke a function of the running daemon and print its answer.

    Exit status: 0 it answered, 1 it failed (its error document is printed).
    """
    import msgspec

    text = _payload(payload)
    try:
        msgspec.json.decode(text.encode())
    except msgspec.DecodeError as error:
        found = f"{str(error)[:80]}"
        raise typer.BadParameter(f"wanted JSON, found: {found}", param_hint="--payload") from None
    answer = _asked(data_dir, Request("invoke", name, text))
    typer.echo(plain_json(str(answer["payload"])) if sys.stdout.isatty() else answer["payload"])
    if "function_error" in answer:
        typer.echo(f"function error: {answer['function_error']}, request {answer['request_id']}", err=True)
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="The function.", show_default=False)],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines from the end.")] = 50,
    raw: Annotated[
        bool, typer.Option("--raw", help="As the function wrote it: a terminal obeys what is in it.")
    ] = False,
    data_dir: DataDir = Path(".millstream"),
) -> None:
    """Print a function's log; works while the daemon is stopped, too.

    Control characters are shown as escapes (\\x1b), but tabs; so are those that turn the direction of a text.
    """
    from millstream.cli.follow import log_lines, raw_line, shown_line

    for line in log_lines(_logs(data_dir), name, lines, follow):
        typer.echo(raw_line(line) if raw else shown_line(line))


@app.command()
def prune(data_dir: DataDir = Path(".millstream")) -> None:
    """Remove deployed packages, layers and images that no running daemon uses.

    A start leaves the two of each kind that were used last; without a daemon all of them go, and the next
    start makes what it needs.
    """
    from millstream.daemon.deployment import prune as remove
    from millstream.functions.left_out import size_of

    if not data_dir.is_dir():
        raise StateUnavailable(f"{data_dir}: wanted a data directory, found none; `millstream run` makes it")
    removed = remove(data_dir)
    typer.echo(f"removed {removed.folders}, freed {size_of(removed.size_bytes)}; in use: {removed.in_use}")


@app.command()
def doctor(runtime: NamedRuntimes = None, as_json: AsJson = False) -> None:
    """Show what this host offers to functions: isolation, the limits that hold, runtimes.

    Exit status: 0 `millstream run` can isolate functions here, 4 it cannot.
    """
    import asyncio

    from millstream.cli.tables import print_report
    from millstream.daemon.doctor import examine
    from millstream.daemon.settings import named_runtimes

    report = asyncio.run(examine(named_runtimes(runtime or ())))
    print_report(report, as_json)
    if report.driver is None:
        raise typer.Exit(ExitCode.SANDBOX)


@app.command()
def demo(
    messages: Annotated[int, typer.Option(min=1, help="Messages to send.")] = 2000,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object last, on standard output.")
    ] = False,
    isolation: Annotated[
        str, typer.Option(envvar="MILLSTREAM_ISOLATION", help="As of `millstream run`.")
    ] = "bwrap",
) -> None:
    """Watch messages go through two mappings, on an AWS endpoint of its own; no account, no Docker.

    Exit status: 0 nothing was lost, 1 something was.
    """
    from millstream.cli.demo import run_demo

    log_to_stderr("text", "WARNING")
    raise typer.Exit(run_demo(messages, as_json, isolation))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"millstream {millstream.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Event source mappings as AWS Lambda has them, for queues and streams anywhere."""


def _asked(directory: Path, request: Request) -> dict[str, list[dict[str, object]]]:
    try:
        answer = ask(data_dir.control_socket(directory), request)
    except NoDaemon as error:
        raise NoDaemon(f"{directory}: {error}; `millstream run FILE` starts one") from error
    if "error" in answer:
        raise MillstreamError(answer["error"])
    return answer


def _freeze_after_s(given: str) -> float | None:
    if given == "never":
        return None
    with suppress(ValueError):
        if 0.001 <= (seconds := float(given)) < math.inf:
            return seconds
    wanted = "wanted seconds, 0.001 or more, or never"
    raise typer.BadParameter(f"{wanted}, found {given!r}", param_hint="--freeze-after-s")


def _logs(directory: Path) -> Path:
    return data_dir.logs(directory)


def _payload(given: str) -> str:
    if given == "-":
        return sys.stdin.read()
    if given.startswith("@"):
        try:
            return Path(given[1:]).read_text(encoding="utf-8")
        except OSError as error:
            raise typer.BadParameter(f"{given[1:]}: {error.strerror}", param_hint="--payload") from None
    return given


def main() -> None:
    """Entry point: every error that we expect is one clear line on standard error."""
    try:
        app()
    except InvalidConfiguration as invalid:
        for problem in invalid.problems:
            typer.echo(f"error: {plain(str(problem), LINES)}", err=True)
        sys.exit(exit_code(invalid))
    except MillstreamError as error:
        typer.echo(f"error: {plain(str(error), LINES)}", err=True)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        sys.exit(ExitCode.OK)
    except KeyboardInterrupt:
        sys.exit(130)
