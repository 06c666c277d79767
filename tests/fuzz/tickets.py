"""A worker's way of reading tickets, without a Redis: bytes come out of a queue as they would by kombu's transport.

It starts no worker; `tests/worker/test_tickets.py` does, on a real server.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from models.queues import queue_name
from worker.transport import Channel, Transport

QUEUE = queue_name("openai")


class _Cycle:
    def rotate(self, queue: str) -> None:
        """Kombu takes the queues in turn; here is one."""


def taken(data: bytes) -> list[dict[str, Any]]:
    """What Celery gets to see of a message that somebody has put into a queue: one ticket at most."""
    found: list[dict[str, Any]] = []
    transport = object.__new__(Transport)
    transport._callbacks = {QUEUE: found.append}
    channel = object.__new__(Channel)
    channel.connection = transport
    channel.connection_errors = (OSError,)
    channel._queue_cycle = _Cycle()
    channel._in_poll = None
    channel._pending_reauth_token = lambda _: None
    channel.__dict__["client"] = SimpleNamespace(
        connection=SimpleNamespace(), parse_response=lambda *_, **__: [QUEUE.encode(), data]
    )
    channel._brpop_read()
    return found
