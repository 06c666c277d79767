"""The ticket: its one Celery task, which drains a provider, and the reader of messages that anybody may have put into a queue.

It knows whom to call, and nothing of what a drain does.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from typing import Any

import orjson
from celery import Celery

from models.queues import DRAIN, Ticket

LONGEST = 64 * 1024
"""Characters of a ticket's body; ours have about 150."""


def register(app: Celery, drain: Callable[[str, int], None]) -> None:
    """Makes `drain(provider, hops)` the task of this app."""

    @app.task(name=DRAIN, shared=False)  # type: ignore[untyped-decorator]
    def ticket(provider: str, hops: int = 0) -> None:
        drain(provider, hops)


def read_ticket(message: object) -> Ticket | None:
    """The ticket in a decoded message of a queue, whoever wrote it; None if it is none. Raises nothing."""
    if not isinstance(message, dict) or not isinstance(headers := message.get("headers"), dict):
        return None
    if headers.get("task") != DRAIN or headers.get("compression"):
        return None
    body = message.get("body")
    if not isinstance(body, str) or len(body) > LONGEST:
        return None
    try:
        found = orjson.loads(base64.b64decode(body, validate=True))
    except ValueError:
        return None
    if not isinstance(found, list) or len(found) != 3 or found[0] != [] or not isinstance(found[1], dict):
        return None
    provider, hops = found[1].get("provider"), found[1].get("hops")
    if found[1].keys() != {"provider", "hops"} or not isinstance(provider, str) or type(hops) is not int or hops < 0:
        return None
    return Ticket(provider=provider, hops=hops)


def clean_message(ticket: Ticket, queue: str) -> dict[str, Any]:
    """A ticket as kombu hands it on: nothing in it but the ticket is anybody's word, so that Celery can stumble over nothing."""
    number = uuid.uuid4().hex
    body = json.dumps([[], dict(ticket), {}]).encode()
    return {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": DRAIN, "id": number, "root_id": number, "ignore_result": True},
        "properties": {
            "correlation_id": number,
            "body_encoding": "base64",
            "delivery_mode": 2,
            "delivery_tag": number,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
        },
    }
