"""A batch's books: what a reconciliation found of its jobs, answers and calls, and what doesn't add up.

It reads nothing; `models.store.reconciliation` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.states import TERMINAL


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that doesn't add up: `check` is its name for programs, `number` how often, `custom_ids` the first of the jobs."""

    check: str
    sentence: str
    number: int
    custom_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Calls:
    """The batch's calls of one outcome and currency ("" where no cost is known); `booked_tokens` by the limiter."""

    outcome: str
    currency: str
    calls: int
    booked_tokens: int
    cost_nanos: int


@dataclass(frozen=True, slots=True)
class Books:
    """What was found. `jobs` by state, `results` stored; it all adds up when there are no `differences`."""

    batch_id: int
    status: str
    total: int
    jobs: Mapping[str, int]
    results: int
    calls: tuple[Calls, ...]
    differences: tuple[Difference, ...]

    @property
    def open(self) -> int:
        """Jobs that haven't ended."""
        return sum(number for status, number in self.jobs.items() if status not in TERMINAL)

    @property
    def sentence(self) -> str:
        """All differences, for people; empty when there are none."""
        return "; ".join(difference.sentence for difference in self.differences)
