"""Celery's way to Redis, without what kombu does for messages that must not be lost: a ticket may be.

It changes nothing else. kombu gives unacknowledged messages back while it closes a connection; with Redis away that fails half way,
and ended the consumer. The janitor rings anyway.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis


class QoS(kombu_redis.QoS):
    """Forgets tickets together with their connection."""

    restore_at_shutdown = False

    def ack(self, delivery_tag: Any) -> None:
        """A ticket is done; one that came by a connection that was given up needs no word any more."""
        if self.channel.connection.client is not None:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]


class Channel(kombu_redis.Channel):
    QoS = QoS


class Transport(kombu_redis.Transport):
    Channel = Channel


def use() -> None:
    """From now on, Celery in this process speaks to Redis by this transport."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
