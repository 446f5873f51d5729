"""What is wrong with a declared stream, said in one clear line each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon.test_plan import said

HEAD = """
from millstream import App, DynamoDB, Kinesis

app = App("test")


@app.function
def handle(event, context):
    return None


"""

START = 'starting_position="LATEST"'


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            'Kinesis("s")',
            'starting_position: wanted "TRIM_HORIZON", "LATEST" or "AT_TIMESTAMP", found nothing',
        ),
        ('Kinesis("s", starting_position="NOW")', 'starting_position: wanted "TRIM_HORIZON"'),
        ('Kinesis("s", starting_position="AT_TIMESTAMP")', "starting_position_timestamp: wanted a time"),
        (
            f'Kinesis("s", {START}, starting_position_timestamp=1.0)',
            "starting_position_timestamp: wanted none",
        ),
        (f'Kinesis("s", {START}, starting_position_timestamp=9e12)', "starting_position_timestamp: wanted"),
        (f'Kinesis("arn:aws:sqs:us-east-1:000000000000:q", {START})', "stream: wanted"),
        (f'Kinesis("s", {START}, parallelization_factor=11)', "parallelization_factor: wanted"),
        (f'Kinesis("s", {START}, maximum_record_age=59)', "maximum_record_age: wanted"),
        (f'Kinesis("s", {START}, tumbling_window=901)', "tumbling_window: wanted"),
        (
            f'Kinesis("s", {START}, tumbling_window=60, parallelization_factor=2)',
            "parallelization_factor: wanted 1 beside tumbling_window, found 2",
        ),
        (f'Kinesis("s", {START}, maximum_concurrency=2)', "maximum_concurrency: wanted"),
        (f'Kinesis("s", {START}, on_failure_required=True)', "on_failure_required: wanted on_failure="),
        ('DynamoDB("tbl", starting_position="AT_TIMESTAMP")', "starting_position: wanted"),
        (f'DynamoDB("arn:aws:kinesis:us-east-1:000000000000:stream/s", {START})', "stream: wanted"),
    ],
)
def test_one_wrong_option_of_a_stream_is_one_clear_line(tmp_path: Path, source: str, says: str) -> None:
    lines = said(tmp_path, f"{HEAD}app.map({source}, to=handle)\n")
    assert len(lines) == 1, lines
    assert says in lines[0]
    assert lines[0].startswith("app.py:12 ")


def test_problems_of_single_options_and_of_their_company_are_said_together(tmp_path: Path) -> None:
    wrong = 'Kinesis("s", starting_position="AT_TIMESTAMP", batch_size=0, maximum_record_age=5)'
    lines = said(tmp_path, f"{HEAD}app.map({wrong}, to=handle)\n")
    fields = sorted(line.split(": ")[1] for line in lines)
    assert fields == ["batch_size", "maximum_record_age", "starting_position_timestamp"]
