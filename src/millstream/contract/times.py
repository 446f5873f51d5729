"""Unix seconds as the texts that documents carry. Pure; no time that a producer makes up raises."""

from __future__ import annotations

from datetime import UTC, datetime

_FIRST = datetime(1, 1, 1, tzinfo=UTC).timestamp()
_LAST = datetime(9999, 12, 31, 23, 59, 59, 999_500, tzinfo=UTC).timestamp()


def iso_ms(at: float) -> str:
    """Unix seconds as ISO 8601 UTC with milliseconds: `2025-11-25T16:35:32.123Z`.

    A time before the year 1 or after the year 9999 becomes the first or last that the form can say, and
    one that is no number the first: producers send microseconds as milliseconds, and worse.
    """
    return _utc(at).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_s(at: float) -> str:
    """The same with whole seconds, rounded down: `2025-11-25T16:35:32Z`."""
    return _utc(at).replace(microsecond=0).isoformat().replace("+00:00", "Z")


def _utc(at: float) -> datetime:
    within = min(max(at, _FIRST), _LAST) if at == at else _FIRST  # NaN alone differs from itself
    return datetime.fromtimestamp(within, UTC)
