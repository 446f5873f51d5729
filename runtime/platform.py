"""What the platform says of an environment in the function's log: text lines, or JSON records.

Sources: AWS, "Using CloudWatch Logs with Lambda", "Lambda Telemetry API Event schema reference",
"Configuring advanced logging controls for your Lambda function".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from millstream.contract.functions import FunctionSpec
from millstream.contract.ports import LogSink

LEVELS = {"DEBUG": 0, "INFO": 1, "WARN": 2}
MOST_MB = 1 << 20


@dataclass(frozen=True, slots=True)
class Ending:
    """How a phase ended: `status` success, error, failure or timeout."""

    status: str = "success"
    error_type: str = ""

    @property
    def good(self) -> bool:
        return self.status == "success"

    def text(self) -> str:
        """The fields of a text line that tell of a failure; empty after a success."""
        if self.good:
            return ""
        kind = f"Error Type: {self.error_type}\t" if self.error_type and self.status != "timeout" else ""
        return f"Status: {self.status}\t{kind}"

    def record(self) -> dict[str, Any]:
        """The same for a JSON record."""
        return {"status": self.status, **({"errorType": self.error_type} if self.error_type else {})}


SUCCESS = Ending()


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of one invocation as it ends. Durations in seconds."""

    request_id: str
    duration_s: float
    peak_kb: int
    ending: Ending = SUCCESS
    init_s: float | None = None  # None: the environment was warm, or its init ran within the invocation


class PlatformLog:
    """Writes one environment's platform lines."""

    def __init__(self, function: FunctionSpec, log: LogSink, stream: str, initialization_type: str) -> None:
        self._function = function
        self._log = log
        self._stream = stream
        self._json = function.logging.log_format == "JSON"
        self._least = LEVELS[function.logging.system_log_level]
        self._kind = initialization_type

    def init_start(self, phase: str) -> None:
        """The runtime starts; `phase` is init or invoke."""
        if not self._json:
            if phase == "init":
                self._write(f"INIT_START Runtime Version: {self._function.runtime}")
            return
        about = {"runtimeVersion": self._function.runtime, "functionName": self._function.name}
        about["functionVersion"] = self._function.version
        self._record("INFO", "initStart", {"initializationType": self._kind, "phase": phase, **about})

    def init_report(self, phase: str, init_s: float, ending: Ending) -> None:
        """The init phase ended."""
        init_ms = round(init_s * 1000, 2)
        if not self._json:
            if not ending.good:
                line = f"INIT_REPORT Init Duration: {init_ms:.2f} ms\tPhase: {phase}\t{ending.text()}"
                self._write(line)
            return
        about = {"initializationType": self._kind, "phase": phase, **ending.record()}
        self._record("DEBUG" if ending.good else "WARN", "initRuntimeDone", about)
        level = "WARN" if not ending.good else "DEBUG" if self._kind == "on-demand" else "INFO"
        self._record(level, "initReport", {**about, "metrics": {"durationMs": init_ms}})

    def extension(self, name: str, state: str, events: Sequence[str], error_type: str) -> None:
        """What became of an extension in the init phase."""
        if self._json:
            about: dict[str, Any] = {"name": name, "state": state, "events": list(events)}
            if error_type:
                about["errorType"] = error_type
            self._record("WARN" if error_type else "INFO", "extension", about)
            return
        line = f"EXTENSION\tName: {name}\tState: {state}\tEvents: [{', '.join(events)}]"
        self._write(line + (f"\tError Type: {error_type}" if error_type else ""))

    def start(self, request_id: str) -> None:
        """An invocation starts."""
        if self._json:
            about = {"requestId": request_id, "version": self._function.version}
            self._record("INFO", "start", about)
        else:
            self._write(f"START RequestId: {request_id} Version: {self._function.version}")

    def report(self, report: Report) -> None:
        """An invocation ended."""
        duration_ms = report.duration_s * 1000
        used_mb = min(math.ceil(report.peak_kb / 1024), MOST_MB)
        if self._json:
            self._json_report(report, round(duration_ms, 2), used_mb)
            return
        line = (
            f"REPORT RequestId: {report.request_id}\tDuration: {duration_ms:.2f} ms\t"
            f"Billed Duration: {math.ceil(duration_ms)} ms\tMemory Size: {self._function.memory_size_mb} MB\t"
            f"Max Memory Used: {used_mb} MB\t"
        )
        if report.init_s is not None:
            line += f"Init Duration: {report.init_s * 1000:.2f} ms\t"
        self._write(f"END RequestId: {report.request_id}")
        self._write(line + report.ending.text())

    def _json_report(self, report: Report, duration_ms: float, used_mb: int) -> None:
        about = {"requestId": report.request_id, **report.ending.record()}
        done = {**about, "metrics": {"durationMs": duration_ms}}
        self._record("DEBUG" if report.ending.good else "WARN", "runtimeDone", done)
        metrics: dict[str, Any] = {
            "durationMs": duration_ms,
            "billedDurationMs": math.ceil(duration_ms),
            "memorySizeMB": self._function.memory_size_mb,
            "maxMemoryUsedMB": used_mb,
        }
        if report.init_s is not None:
            metrics["initDurationMs"] = round(report.init_s * 1000, 2)
        self._record("INFO" if report.ending.good else "WARN", "report", {**about, "metrics": metrics})

    def _record(self, level: str, kind: str, record: dict[str, Any]) -> None:
        if LEVELS[level] >= self._least:
            at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            line = msgspec.json.encode({"time": at, "type": f"platform.{kind}", "record": record})
            self._write(line.decode())

    def _write(self, line: str) -> None:
        self._log.write(self._stream, line)
