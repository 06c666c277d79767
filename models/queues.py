"""All that submit and worker share about Celery: queue names, the task's name, the ticket's shape.

It imports no celery: a producer rings by task name.
"""

from __future__ import annotations

from typing import TypedDict

DRAIN = "truckllm.drain"
"""Name of the one task: drain a provider's lanes until nothing is claimable or the time budget is over."""

MAX_HOPS = 2
"""How often a ticket may be passed on by a process that drains its provider already."""


class Ticket(TypedDict):
    """The message: provider P has queued jobs. It may be lost, doubled or late without harm."""

    provider: str
    hops: int


def queue_name(provider: str) -> str:
    """The Celery queue of a provider."""
    return f"provider.{provider}"
