"""Echoes its event; fails, waits or exits if the event asks for it."""

from __future__ import annotations

import os
import time
from typing import Any


def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answers with the event and what the function knows of its invocation."""
    print(f"echoing {context.aws_request_id}")
    if event.get("fail"):
        raise ValueError("the event asks for it")
    if "wait" in event:
        time.sleep(event["wait"])
    if "exit" in event:
        os._exit(event["exit"])
    return {
        "function": context.function_name,
        "request_id": context.aws_request_id,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "event": event,
    }
