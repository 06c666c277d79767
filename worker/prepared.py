"""Claimed jobs that can be sent, and such as no key can serve at this moment.

It decides nothing; `worker.engine` prepares, `worker.waiting` keeps what waits for the limiter.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.request import Request
from models.store.claims import Claimed
from worker.limits.limiter import Want


@dataclass(frozen=True, slots=True)
class Prepared:
    """A claimed job that can be sent: for which model, with what bookings."""

    job: Claimed
    request: Request
    size: tuple[int, int]
    """The request's characters of text, and its inline media."""
    want: Want
    since: float
    """When it was claimed, on the monotonic clock."""

    @property
    def waits_as(self) -> tuple[str, str]:
        """Lane and model: what other jobs of the same kind are claimed by."""
        return self.job.lane, self.job.model


@dataclass(frozen=True, slots=True)
class NoKey:
    """A claimed job that no key can serve at this moment."""

    job: Claimed
