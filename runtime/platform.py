"""What the platform says of an environment in the function's log: text lines, or JSON records.

Sources: AWS, "Using CloudWatch Logs with Lambda", "Lambda Telemetry API Event schema reference",
"Configuring advanced logging controls for your Lambda function".
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

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


class Report(msgspec.Struct, frozen=True, gc=False):
    """What is known of one invocation as it ends. Durations in seconds."""

    request_id: str
    duration_s: float
    peak_kb: int
    ending: Ending = SUCCESS
    init_s: float | None = None  # None: the environment was warm, or its init ran within the invocation
    produced_bytes: int = 0
    started_at: float = 0.0  # Unix time
    response_s: float = 0.0  # from the first bytes of the response to its last ones
    restore_s: float | None = None  # None: nothing was restored for it

    @property
    def billed_ms(self) -> int:
        """With the restore's. Source: AWS, "Monitoring for Lambda SnapStart"."""
        return math.ceil(self.duration_s * 1000) + math.ceil((self.restore_s or 0.0) * 1000)

    @property
    def spent(self) -> dict[str, float]:
        """Durations in ms of what came before it, by their names in records."""
        metrics = {} if self.init_s is None else {"initDurationMs": round(self.init_s * 1000, 2)}
        if self.restore_s is not None:
            restore_ms = self.restore_s * 1000
            metrics["restoreDurationMs"] = round(restore_ms, 2)
            metrics["billedRestoreDurationMs"] = math.ceil(restore_ms)
        return metrics


class Observer(Protocol):
    """Takes the same events as records, whatever the log's format is."""

    @property
    def listens(self) -> bool:
        """False while nobody can want them."""

    def platform(self, kind: str, record: Mapping[str, Any]) -> None:
        """One event; `kind` is its type without `platform.`."""


class PlatformLog:
    """Writes one environment's platform lines."""

    def __init__(
        self,
        function: FunctionSpec,
        log: LogSink,
        stream: str,
        initialization_type: str,
        observer: Observer | None = None,
    ) -> None:
        self._function = function
        self._log = log
        self._stream = stream
        self._json = function.logging.log_format == "JSON"
        self._least = LEVELS[function.logging.system_log_level]
        self._kind = initialization_type
        self._observer = observer

    @property
    def _records(self) -> bool:
        return self._json or (self._observer is not None and self._observer.listens)

    def init_start(self, phase: str) -> None:
        """The runtime starts; `phase` is init or invoke."""
        if not self._json and phase == "init":
            self._write(f"INIT_START Runtime Version: {self._function.runtime}")
        if self._records:
            about = {"runtimeVersion": self._function.runtime, "functionName": self._function.name}
            about["functionVersion"] = self._function.version
            self._record("INFO", "initStart", {"initializationType": self._kind, "phase": phase, **about})

    def init_runtime_done(self, phase: str, ending: Ending) -> None:
        """The runtime is ready, or never will be."""
        if self._records:
            about = {"initializationType": self._kind, "phase": phase, **ending.record()}
            self._record("DEBUG" if ending.good else "WARN", "initRuntimeDone", about)

    def init_report(self, phase: str, init_s: float, ending: Ending) -> None:
        """The init phase ended."""
        init_ms = round(init_s * 1000, 2)
        if not self._json and (not ending.good or self._function.snap_start):
            self._write(f"INIT_REPORT Init Duration: {init_ms:.2f} ms\tPhase: {phase}\t{ending.text()}")
        if self._records:
            level = "WARN" if not ending.good else "DEBUG" if self._kind == "on-demand" else "INFO"
            about = {"initializationType": self._kind, "phase": phase, **ending.record()}
            self._record(level, "initReport", {**about, "metrics": {"durationMs": init_ms}})

    def restore_start(self) -> None:
        """A snapshot is made a runtime."""
        if not self._json:
            self._write(f"RESTORE_START Runtime Version: {self._function.runtime}")
        if self._records:
            about = {"runtimeVersion": self._function.runtime, "functionName": self._function.name}
            self._record("INFO", "restoreStart", {**about, "functionVersion": self._function.version})

    def restore_over(self, restore_s: float, ending: Ending) -> None:
        """It waits for work, or never will."""
        restore_ms = round(restore_s * 1000, 2)
        if not self._json:
            self._write(f"RESTORE_REPORT Restore Duration: {restore_ms:.2f} ms\t{ending.text()}")
        if self._records:
            self._record("DEBUG" if ending.good else "WARN", "restoreRuntimeDone", ending.record())
            about = {**ending.record(), "metrics": {"durationMs": restore_ms}}
            self._record("INFO" if ending.good else "WARN", "restoreReport", about)

    def extension(self, name: str, state: str, events: Sequence[str], error_type: str) -> None:
        """What became of an extension in the init phase."""
        if not self._json:
            line = f"EXTENSION\tName: {name}\tState: {state}\tEvents: [{', '.join(events)}]"
            self._write(line + (f"\tError Type: {error_type}" if error_type else ""))
        if self._records:
            about: dict[str, Any] = {"name": name, "state": state, "events": list(events)}
            if error_type:
                about["errorType"] = error_type
            self._record("WARN" if error_type else "INFO", "extension", about)

    def subscription(self, name: str, state: str, types: Sequence[str]) -> None:
        """An extension subscribed to telemetry."""
        if not self._json:
            names = ", ".join(map(str.title, types))
            self._write(f"TELEMETRY\tName: {name}\tState: {state}\tTypes: [{names}]")
        if self._records:
            about = {"name": name, "state": state, "types": list(types)}
            self._record("INFO", "telemetrySubscription", about)

    def logs_dropped(self, dropped_bytes: int) -> None:
        """Of what the function wrote, so much was above its budget."""
        if not self._json:
            self._write(f"LOGS_DROPPED Dropped Bytes: {dropped_bytes}")
        if self._records:
            self._record(
                "WARN", "logsDropped", dropped("Logs above the limit of a request", 0, dropped_bytes)
            )

    def start(self, request_id: str) -> None:
        """An invocation starts."""
        if not self._json:
            self._write(f"START RequestId: {request_id} Version: {self._function.version}")
        if self._records:
            self._record("INFO", "start", {"requestId": request_id, "version": self._function.version})

    def runtime_done(self, report: Report) -> None:
        """The runtime is done with an invocation; extensions may not be."""
        if not self._records:
            return
        duration_ms = round(report.duration_s * 1000, 2)
        about: dict[str, Any] = {"requestId": report.request_id, **report.ending.record()}
        about["metrics"] = {"durationMs": duration_ms}
        if report.ending.good:
            about["metrics"]["producedBytes"] = report.produced_bytes
            latency_s = max(report.duration_s - report.response_s, 0.0)
            about["spans"] = [
                _span("responseLatency", report.started_at, latency_s),
                _span("responseDuration", report.started_at + latency_s, report.response_s),
            ]
        self._record("DEBUG" if report.ending.good else "WARN", "runtimeDone", about)

    def report(self, report: Report) -> None:
        """An invocation ended."""
        duration_ms = report.duration_s * 1000
        used_mb = min(math.ceil(report.peak_kb / 1024), MOST_MB)
        if not self._json:
            line = (
                f"REPORT RequestId: {report.request_id}\tDuration: {duration_ms:.2f} ms\t"
                f"Billed Duration: {report.billed_ms} ms\t"
                f"Memory Size: {self._function.memory_size_mb} MB\t"
                f"Max Memory Used: {used_mb} MB\t"
            )
            if report.init_s is not None:
                line += f"Init Duration: {report.init_s * 1000:.2f} ms\t"
            if report.restore_s is not None:
                restore_ms = report.restore_s * 1000
                line += f"Restore Duration: {restore_ms:.2f} ms\t"
                line += f"Billed Restore Duration: {math.ceil(restore_ms)} ms\t"
            self._write(f"END RequestId: {report.request_id}")
            self._write(line + report.ending.text())
        if self._records:
            self._record_report(report, duration_ms, used_mb)

    def _record_report(self, report: Report, duration_ms: float, used_mb: int) -> None:
        metrics: dict[str, Any] = {
            "durationMs": round(duration_ms, 2),
            "billedDurationMs": report.billed_ms,
            "memorySizeMB": self._function.memory_size_mb,
            "maxMemoryUsedMB": used_mb,
            **report.spent,
        }
        about = {"requestId": report.request_id, **report.ending.record(), "metrics": metrics}
        self._record("INFO" if report.ending.good else "WARN", "report", about)

    def _record(self, level: str, kind: str, record: dict[str, Any]) -> None:
        if self._observer is not None:
            self._observer.platform(kind, record)
        if self._json and LEVELS[level] >= self._least:
            line = msgspec.json.encode(
                {"time": instant(time.time()), "type": f"platform.{kind}", "record": record}
            )
            self._write(line.decode())

    def _write(self, line: str) -> None:
        self._log.write(self._stream, line)


def instant(at: float) -> str:
    """A Unix time as records have it, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def dropped(reason: str, records: int, size: int) -> dict[str, Any]:
    """The record of platform.logsDropped; 0 records: nobody counted them."""
    return {"reason": reason, "droppedRecords": records, "droppedBytes": size}


def _span(name: str, at: float, duration_s: float) -> dict[str, Any]:
    return {"name": name, "start": instant(at), "durationMs": round(duration_s * 1000, 2)}
