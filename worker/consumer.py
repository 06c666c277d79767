"""Celery's part in a worker process: takes tickets on the main thread until it is told to end, and sends them.

It knows nothing of what a ticket asks for, and no job depends on it: `worker.janitor` rings for what waits.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import celery.worker.state
import redis.exceptions
from kombu.asynchronous import get_event_loop, set_event_loop
from kombu.exceptions import OperationalError

from models.queues import DRAIN, Ticket, queue_name
from worker.app import make_app
from worker.tasks import register

log = logging.getLogger("truckllm.worker")

AGAIN_SECONDS = 1.0
"""How long a consumer that gave up is let lie."""

EXTRA_THREADS = 2
"""Celery threads beyond one a provider, so that a ticket can always be taken and passed on."""


class Consumer:
    """Of the providers that are `served`. `drain(provider, hops)` is what a ticket asks for; it runs on one of Celery's threads."""

    def __init__(self, redis_url: str, served: Sequence[str], drain: Callable[[str, int], None]) -> None:
        self._redis_url = redis_url
        self._served = served
        self._drain = drain
        self._stopping = False
        self._make()

    def _make(self) -> None:
        self._app = make_app(self._redis_url, self._served)
        register(self._app, self._drain)

    def run(self, name: str) -> None:
        """Takes tickets under this name until `stop`. Calls and heartbeats go on, whatever becomes of it meanwhile."""
        while True:
            self._take(name)
            if self._stopping:
                return
            log.error("Celery's consumer has ended by itself; it is started again")
            time.sleep(AGAIN_SECONDS)
            celery.worker.state.should_stop = None
            set_event_loop(None)
            self._make()

    def _take(self, name: str) -> None:
        worker: Any = self._app.Worker(
            hostname=name,
            pool_cls="threads",
            concurrency=len(self._served) + EXTRA_THREADS,
            queues=[queue_name(provider) for provider in self._served],
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            loglevel="WARNING",
            quiet=True,
        )
        # These are signal handlers, and ours know more. Had Celery its own for the moment that it takes to start, a SIGTERM of
        # that moment would end its consumer and nothing else.
        worker.install_platform_tweaks = lambda _worker: None
        if self._stopping:
            return
        with contextlib.suppress(SystemExit):
            worker.start()

    def stop(self) -> None:
        """Has `run` come back soon; for signal handlers, too."""
        self._stopping = True
        celery.worker.state.should_stop = 0

    def wake(self) -> None:
        """Wakes Celery's loop, which would look whether it is to end only when its poll is over."""
        if (hub := get_event_loop()) is not None:
            hub.call_soon(lambda: None)  # type: ignore[no-untyped-call]

    def send(self, provider: str, hops: int) -> None:
        """Sends a ticket, if Redis takes it."""
        ticket = Ticket(provider=provider, hops=hops)
        try:
            self._app.send_task(DRAIN, kwargs=ticket, queue=queue_name(provider), retry=False)
        except (OperationalError, redis.exceptions.RedisError, OSError) as error:
            log.info("could not ring for %s; the janitor does: %s", provider, type(error).__name__)
