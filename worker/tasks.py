"""The ticket: the one Celery task, which drains a provider. All it knows is whom to call."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery

from models.queues import DRAIN


def register(app: Celery, drain: Callable[[str, int], None]) -> None:
    """Makes `drain(provider, hops)` the task of this app."""

    @app.task(name=DRAIN, shared=False)  # type: ignore[untyped-decorator]
    def ticket(provider: str, hops: int = 0) -> None:
        drain(provider, hops)
