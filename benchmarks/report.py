"""What a benchmark returns."""

from __future__ import annotations

from statistics import median
from typing import Any, TypeAlias

Result: TypeAlias = dict[str, Any]
"""`{"benchmark": NAME, "cases": {CASE: {"rate", "baseline", "ratio", "unit", …}}}`."""


def case(rates: list[float], baselines: list[float], unit: str, **more: object) -> dict[str, object]:
    """Medians of both, and their ratio."""
    rate, baseline = median(rates), median(baselines)
    return {
        "rate": round(rate, 3),
        "baseline": round(baseline, 3),
        "ratio": round(rate / baseline, 3),
        "unit": unit,
        **more,
    }
