"""DynamoDB Streams throughput: the mapping end to end against a bare boto3 GetRecords loop.

Both read the same 10,000 changes of one table on one endpoint. The baseline only reads; the mapping
runs a sandboxed function that looks at every new image.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import boto3

from benchmarks.report import Result, case
from benchmarks.streams import mapping_rate
from millstream.aws.clients import client_config
from millstream.cli.embedded import aws_endpoint

ITEMS = 10_000
NOTE_BYTES = 200
WARM_UP = 1_000
REPEATS = 5
PUT = 25  # items of one BatchWriteItem; the service's limit
PAGE = 1_000  # records of one GetRecords; the service's limit

APP = """
from millstream import App, DynamoDB

app = App("bench")


@app.function(timeout=30)
def handle(event, context):
    for record in event["Records"]:
        int(record["dynamodb"]["NewImage"]["quantity"]["N"])


app.map(DynamoDB("bench", starting_position="TRIM_HORIZON", batch_size=100), to=handle)
"""


def run() -> Result:
    """Interleaved: baseline, mapping, and again."""
    rates: list[float] = []
    baselines: list[float] = []
    with tempfile.TemporaryDirectory() as folder, aws_endpoint(Path(folder) / "aws.log") as endpoint_url:
        stream_arn = _fill(_client("dynamodb", endpoint_url))
        streams = _client("dynamodbstreams", endpoint_url)
        _bare_loop(streams, stream_arn)  # warms the endpoint up
        for repeat in range(REPEATS):
            baselines.append(_bare_loop(streams, stream_arn))
            rates.append(mapping_rate(Path(folder) / f"run-{repeat}", endpoint_url, APP, ITEMS))
    return {"benchmark": "dynamodb", "cases": {"batch-100": case(rates, baselines, "records/s")}}


def _client(service: str, endpoint_url: str) -> Any:
    session = boto3.session.Session()
    return session.client(service, endpoint_url=endpoint_url, config=client_config(1))  # type: ignore[call-overload]


def _fill(dynamodb: Any) -> str:
    """The ARN of the stream of a new table with all items put."""
    made = dynamodb.create_table(
        TableName="bench",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )
    for first in range(0, ITEMS, PUT):
        puts = [{"PutRequest": {"Item": _item(n)}} for n in range(first, first + PUT)]
        dynamodb.batch_write_item(RequestItems={"bench": puts})
    arn: str = made["TableDescription"]["LatestStreamArn"]
    return arn


def _item(number: int) -> dict[str, Any]:
    return {"id": {"S": str(number)}, "quantity": {"N": str(number)}, "note": {"S": "x" * NOTE_BYTES}}


def _bare_loop(streams: Any, stream_arn: str) -> float:
    """Records a second of GetRecords on the stream's shards, from the oldest to the newest."""
    count, counted, started_at = 0, 0, 0.0
    for shard in streams.describe_stream(StreamArn=stream_arn)["StreamDescription"]["Shards"]:
        iterator = streams.get_shard_iterator(
            StreamArn=stream_arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while iterator:
            answer = streams.get_records(ShardIterator=iterator, Limit=PAGE)
            if not answer["Records"]:
                break
            count += len(answer["Records"])
            iterator = answer.get("NextShardIterator")
            if count >= WARM_UP and not started_at:
                started_at, counted = time.perf_counter(), count
    if count != ITEMS:
        raise AssertionError(f"{ITEMS} items were put, {count} records were read")
    return (count - counted) / (time.perf_counter() - started_at)
