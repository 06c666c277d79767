"""The server's clock as seen from here: what time it must be there by now, and how old an answer is that tells it.

It asks nobody; every answer that tells the time narrows down by how much the two clocks differ.
"""

from __future__ import annotations

from collections.abc import Callable

STEADY_SECONDS = 300.0
"""For so long two clocks that nobody sets go alike."""
LONGEST_TRIP = 1.0
"""Seconds that the first question and its answer may take together: which of them it was that took so long, nobody can tell."""


class DistantClock:
    """`steady` is our own clock, which nobody sets."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._heard: tuple[float, float] | None = None  # its time, and ours when it was asked for
        self._ahead: tuple[float, float, float] | None = None  # it is ahead of ours by at least, at most, as of when

    def latest(self) -> float | None:
        """What time it is there at most, unless it was set or it is long ago that it was told."""
        if self._heard is None:
            return None
        told, asked = self._heard
        elapsed = self._steady() - asked
        return told + elapsed if elapsed < STEADY_SECONDS else None

    def age(self, told: float, asked: float) -> float | None:
        """How many seconds ago it was `told`, in answer to a question put when it was `asked` by our own clock, and heard just now.
        Rather too few than too many; None if nothing is known of it."""
        received = self._steady()
        self._heard = told, asked
        least, most = told - received, told - asked
        if self._ahead is not None and received - self._ahead[2] < STEADY_SECONDS:
            low, high, since = self._ahead
            if low <= most and least <= high:  # else it was set
                self._ahead = max(low, least), min(high, most), since if low > least else received
                return self._ahead[0] - least
        self._ahead = least, most, received
        return 0.0 if received - asked <= LONGEST_TRIP else None
