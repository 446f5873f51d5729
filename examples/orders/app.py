"""Orders from a queue, images to another function; what cannot be booked goes to a file."""

from __future__ import annotations

import json
from typing import Any

from millstream import App, Function, Sqs

app = App("orders")


@app.function(memory_size=256, timeout=30)
def book(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Books the orders of a batch; names those that it cannot book."""
    failed = []
    for record in event["Records"]:
        order = json.loads(record["body"])
        if order["quantity"] > 0:
            print(f"booked {order['id']}")
        else:
            failed.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failed}


app.map(
    Sqs(
        "orders", batch_size=100, batching_window=5, report_batch_item_failures=True, maximum_retry_attempts=2
    ),
    to=book,
    filters=[{"body": {"type": ["order"]}}],
    on_failure="file:failed-orders.jsonl",
)
app.map(
    Sqs("images"),
    to=Function("thumbs", handler="thumbs.handler", code="functions/thumbs", environment={"SIZE": "64"}),
)
