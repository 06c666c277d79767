"""Celery's way to Redis, without what kombu does for messages that must not be lost: a ticket may be.

What is no ticket is dropped before Celery sees it: some of it would end the worker, and some would hold one of the places for tickets
under way for ever. It changes nothing else. kombu gives unacknowledged messages back while it closes a connection; with Redis away that
fails half way, and ended the consumer. The janitor rings anyway.
"""

from __future__ import annotations

import logging
from typing import Any

from kombu.connection import Connection as KombuConnection
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

from worker.tasks import clean_message, read_ticket

log = logging.getLogger("truckllm.transport")


AGAIN_SECONDS = 2.0
"""How often a Redis that is away is looked for. kombu's own pauses grow to half a minute, by which all work would come back later."""


class Connection(KombuConnection):
    """Looks for a server that is away at an even pace."""

    def _ensure_connection(self, *arguments: Any, **options: Any) -> Any:
        pace = {"interval_start": AGAIN_SECONDS, "interval_step": 0.0, "interval_max": AGAIN_SECONDS}
        return super()._ensure_connection(*arguments, **{**options, **pace})  # type: ignore[no-untyped-call]


class QoS(kombu_redis.QoS):
    """Forgets tickets together with their connection."""

    restore_at_shutdown = False

    def ack(self, delivery_tag: Any) -> None:
        """A ticket is done; one that came by a connection that was given up needs no word any more."""
        connection = self.channel.connection
        if connection is not None and connection.client is not None:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]


class Channel(kombu_redis.Channel):
    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (
            ValueError,
            TypeError,
            AttributeError,
            LookupError,
            RecursionError,
        ) as error:  # kombu takes what it can't read for the end of the consumer
            log.warning("something in a queue was no ticket, and is dropped: %s", type(error).__name__)
            return True


class Transport(kombu_redis.Transport):
    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        """Hands a ticket on, written anew; drops what is none."""
        ticket = read_ticket(message)
        if ticket is None:
            log.warning("something in a queue was no ticket, and is dropped")
            return
        super()._deliver(clean_message(ticket, queue), queue)  # type: ignore[no-untyped-call]


def use() -> None:
    """From now on, Celery in this process speaks to Redis by this transport."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
