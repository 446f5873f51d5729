"""Warnings about what producers send: as many messages as they like must not fill the log."""

from __future__ import annotations

import logging

EVERY_S = 60.0
"""A warning is logged once in so long for each reason."""

MOST_REASONS = 100
"""Reasons that are told apart; a reason may have in it what a producer wrote."""


class Sparing:
    """Logs a warning once a minute for each sentence and reason, with the number of those left out."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._said_at: dict[tuple[str, str], float] = {}
        self._left_out: dict[tuple[str, str], int] = {}

    def warning(self, sentence: str, why: str, now: float, **fields: object) -> None:
        """Log it, unless the same was logged within the last minute; `now` is in seconds."""
        kind = sentence, why
        said_at = self._said_at.get(kind)
        if said_at is not None and said_at <= now < said_at + EVERY_S:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return
        if said_at is None and len(self._said_at) >= MOST_REASONS:
            self._said_at.clear()
            self._left_out.clear()
        self._said_at[kind] = now
        left_out = self._left_out.pop(kind, 0)
        self._logger.warning(sentence, extra={**fields, "why": why, "left_out": left_out})
