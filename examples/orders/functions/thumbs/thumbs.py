"""Makes thumbnails, or would."""

from __future__ import annotations

import os
from typing import Any


def handler(event: dict[str, Any], context: Any) -> None:
    """Prints what it would do for each record."""
    for record in event["Records"]:
        print(f"thumbnail of {record['messageId']} at {os.environ['SIZE']} pixels")
