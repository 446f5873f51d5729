"""`python -m benchmarks NAME [--json]`: one benchmark beside its baseline, in one run.

With --json the last line of standard output is one object:
`{"benchmark": NAME, "cases": {CASE: {"rate", "baseline", "ratio", "unit"}}}`, ratio = rate / baseline.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from benchmarks import (
    cold_imports,
    coldstart,
    dynamodb,
    flat,
    idle,
    kafka,
    kinesis,
    neighbours,
    rabbitmq,
    runtime,
    shards,
    sqs,
    stall,
)
from benchmarks.report import Result

BENCHMARKS: dict[str, Callable[..., Result]] = {
    "sqs": sqs.run,
    "kinesis": kinesis.run,
    "dynamodb": dynamodb.run,
    "kafka": kafka.run,
    "rabbitmq": rabbitmq.run,
    "shards": shards.run,
    "coldstart": coldstart.run,
    "cold-imports": cold_imports.run,
    "runtime": runtime.run,
    "neighbours": neighbours.run,
    "idle": idle.run,
    "flat": flat.run,
    "stall": stall.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument(
        "--client", choices=["confluent", "kafka-python"], default="confluent", help="of the kafka benchmark"
    )
    given = parser.parse_args()
    options = {"client": given.client} if given.name == "kafka" else {}
    result: Result = BENCHMARKS[given.name](**options)
    out = sys.stderr if given.json else sys.stdout
    for case, figures in result["cases"].items():
        figures_text = "  ".join(f"{name} {value}" for name, value in figures.items())
        print(f"{result['benchmark']} {case}: {figures_text}", file=out)
    if given.json:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
