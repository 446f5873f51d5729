"""The counters of a mapping by the names that CloudWatch has for them. Pure."""

from __future__ import annotations

from millstream.contract.state import MappingStatus


def metrics(status: MappingStatus) -> dict[str, int | float]:
    """CloudWatch's metrics of a mapping, as totals since it was made; IteratorAge in milliseconds.

    Source: AWS, "Monitoring event source mappings", event count metrics. Those that a queue or a
    stream does not have are left out.
    """
    counts: dict[str, int | float] = {
        "PolledEventCount": status.received,
        "FilteredOutEventCount": status.filtered,
        "InvokedEventCount": status.invoked_records,
        "FailedInvokeEventCount": status.failed_records,
        "DestinationDeliveryFailures": status.delivery_failures,
    }
    delivered = status.discarded - status.dropped
    if status.partitions is None:
        counts["DeletedEventCount"] = status.delivered + status.filtered + status.discarded
        return counts
    counts["DroppedEventCount"] = status.dropped
    counts["OnFailureDestinationDeliveredEventCount"] = delivered
    if status.iterator_age_s is not None:
        counts["IteratorAge"] = round(status.iterator_age_s * 1000)
    return counts
