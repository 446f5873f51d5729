"""Tables in the terminal: a plan, and the mappings of a data directory."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from millstream.contract.errors import StateUnavailable
from millstream.contract.state import MappingStatus
from millstream.daemon import data_dir
from millstream.daemon.doctor import Report
from millstream.daemon.imports import Imported
from millstream.daemon.metrics import metrics
from millstream.daemon.plan import Plan
from millstream.daemon.plan_functions import PlannedFunction
from millstream.functions.left_out import left_out
from millstream.store.sqlite import SqliteStore

WIDTH = 120
"""Columns where no terminal says how many it has."""


def console(to_stderr: bool = False) -> Console:
    """A console of the terminal's width."""
    found = Console(stderr=to_stderr)
    return found if found.is_terminal else Console(stderr=to_stderr, width=WIDTH)


def print_report(report: Report, as_json: bool) -> None:
    """What `millstream doctor` found."""
    if as_json:
        print(json.dumps(msgspec.to_builtins(report)))
        return
    out = console()
    signs = {True: "yes", False: "no", None: ""}
    for title, findings in (
        ("host", report.host),
        ("isolation", report.drivers),
        ("runtime", report.runtimes),
    ):
        table = Table(title, "", "", box=None, show_header=True)
        for each in findings:
            table.add_row(each.what, signs[each.ok], escape(each.found))
        out.print(table)
    if report.driver is None:
        out.print("millstream run cannot isolate functions here; --isolation process is there, and weaker")
    else:
        out.print(f"millstream run uses {report.driver}")


def print_plan(plan: Plan) -> None:
    """What `millstream run` would start."""
    out = console()
    out.print(
        f"app {plan.app}: {_count(len(plan.functions), 'function')}, {_count(len(plan.mappings), 'mapping')}"
    )
    functions = Table("function", "handler", "runtime", "memory", "timeout", "code", box=None)
    for name, planned in plan.functions.items():
        options = planned.options
        functions.add_row(
            name,
            options.handler or "-",
            planned.runtime or "image",
            f"{options.memory_size} MB",
            f"{options.timeout} s",
            "\n".join(_made_of(planned)),
        )
    out.print(functions)
    mappings = Table("source", "function", "batch", "window", "filters", "on success", "on failure", box=None)
    for mapping in plan.mappings:
        limits = mapping.trigger.limits
        mappings.add_row(
            f"{mapping.kind} {mapping.trigger.source}",
            mapping.function + ("" if mapping.enabled else " (disabled)"),
            str(limits.size),
            f"{limits.window_s:g} s",
            str(mapping.filter_count or "-"),
            mapping.on_success.name if mapping.on_success else "-",
            mapping.on_failure.name if mapping.on_failure else "-",
        )
    out.print(mappings)


def print_left_out(plan: Plan) -> None:
    """Print a line for each function whose folder has files that are no part of its package."""
    out = console()
    for name, planned in plan.functions.items():
        packages = [] if planned.code is None else [planned.code, *planned.layers]
        if said := left_out(packages):
            out.print(f"{name}: {escape(said)}", highlight=False, soft_wrap=True)


def print_imported(imported: Imported) -> None:
    """Print a line for each handler that could not be imported."""
    out = console()
    if imported.unavailable:
        lines = [f"handlers were not imported: {imported.unavailable}"]
    else:
        lines = [f"{_count(imported.count, 'handler')} imported"] if imported.count else []
        lines += [
            f"{name}: its handler could not be imported here: {why}" for name, why in imported.failed.items()
        ]
    for line in lines:
        out.print(escape(line), highlight=False, soft_wrap=True)


def _made_of(planned: PlannedFunction) -> list[str]:
    """The image and its digest; or the package, and its layers in their order."""
    if planned.image is not None:
        return [str(planned.options.image), planned.image.digest]
    assert planned.code is not None
    return [str(planned.code.source), *(f"+ {layer.source}" for layer in planned.layers)]


def stored_mappings(directory: Path) -> list[dict[str, Any]]:
    """Mappings as a stopped daemon left them.

    Raises:
        StateUnavailable: there is no state, or it cannot be read.
    """
    path = data_dir.database(directory)
    if not path.exists():
        raise StateUnavailable(f"{directory}: wanted a data directory, found none; `millstream run` makes it")

    async def read() -> list[dict[str, Any]]:
        store = SqliteStore.read_only(path)
        try:
            owner = data_dir.daemon_id(directory) or ""
            statuses = {status.uuid: status for status in await store.statuses(owner)}
            rows = [row for row in await store.mappings() if row.retired_at is None]
            statuses = {row.uuid: MappingStatus(row.uuid, "Stopped") for row in rows} | statuses
        finally:
            await store.aclose()
        return [
            {
                "row": msgspec.to_builtins(row),
                "status": msgspec.to_builtins(replace(statuses[row.uuid], state="Stopped")),
                "backlog": None,
                "rate": 0.0,
                "metrics": metrics(statuses[row.uuid]),
            }
            for row in rows
        ]

    return asyncio.run(read())


def print_mappings(mappings: list[dict[str, Any]], as_json: bool) -> None:
    """One row a mapping; its uuid and all counters in the JSON form."""
    if as_json:
        print(json.dumps(mappings))
        return
    console().print(mappings_table(mappings))


def mappings_table(mappings: list[dict[str, Any]]) -> Table:
    """State, waiting, counts, rate and last result of each mapping."""
    table = Table(box=None)
    table.add_column("mapping", no_wrap=True)
    table.add_column("state")
    for name in ("waiting", "done", "filtered", "returned", "given up", "per s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last result", no_wrap=True)
    for mapping in mappings:
        row, status = mapping["row"], mapping["status"]
        waiting = _waiting(mapping["backlog"], status["iterator_age_s"])
        reason = f" ({status['state_reason']})" if status["state_reason"] else ""
        table.add_row(
            escape(f"{row['kind']} {row['source']} → {row['function']}"),
            escape(status["state"] + reason),
            waiting,
            str(status["delivered"]),
            str(status["filtered"]),
            str(status["returned"]),
            str(status["discarded"]),
            f"{mapping['rate']:.0f}",
            escape(status["last_result"]),
        )
    return table


def print_functions(functions: list[dict[str, Any]], as_json: bool) -> None:
    """One row a function; what throttled it, and why nothing is provisioned, in the JSON form."""
    if as_json:
        print(json.dumps(functions))
        return
    table = Table("function", "runtime", box=None)
    for name in ("memory", "environments", "provisioned", "invocations", "errors", "throttles"):
        table.add_column(name, justify="right", no_wrap=True)
    for function in functions:
        wanted, ready = function["provisioned_wanted"], function["provisioned_ready"]
        failed = " failed" if function["provisioned_status"] == "FAILED" else ""
        table.add_row(
            function["name"],
            function["runtime"],
            f"{function['memory_size_mb']} MB",
            f"{function['busy']}/{function['idle']}/{function['frozen']}",
            f"{ready}/{wanted}{failed}" if wanted else "-",
            str(function["invocations"]),
            str(function["errors"]),
            str(sum(function["throttles"].values())),
        )
    out = console()
    out.print(table)
    for function in functions:
        if setting := function["started_fresh_for"]:
            out.print(f"{function['name']}: each environment starts an interpreter of its own, for {setting}")


def _waiting(backlog: int | None, iterator_age_s: float | None) -> str:
    """How many records wait; of a stream, how old the last one was when it was handed over."""
    if backlog is not None:
        return str(backlog)
    return "-" if iterator_age_s is None else f"{iterator_age_s:.1f} s"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
