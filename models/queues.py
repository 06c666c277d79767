"""All that submit and worker share about Celery: queue names, the task's name, the ticket's shape.

It imports no celery: a producer rings by task name.
"""

from __future__ import annotations

from typing import Any, TypedDict
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

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


TRANSPORT_OPTIONS: dict[str, Any] = {
    "visibility_timeout": 6 * 3600,
    "max_connections": 64,
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "global_keyprefix": "truckllm:",
}
"""How both sides talk to the broker. The shortest visibility_timeout of all apps on a broker wins, so all must use this one;
it is far above a ticket's time budget. kombu's own pool of 10 connections raises when it is empty."""


def broker_url(redis_url: str) -> str:
    """The Redis URL of our configuration (redis://, rediss://, unix://) as kombu reads it.

    kombu would speak TLS without checking certificates unless the URL says otherwise, so it does say otherwise.
    """
    parts = urlsplit(redis_url)
    query = dict(parse_qsl(parts.query))
    number = query.pop("db", "") or (parts.path.strip("/") if parts.scheme != "unix" else "") or "0"
    kept = {name: value for name, value in query.items() if name.startswith("ssl_")}
    user, _, host = parts.netloc.rpartition("@")
    if not user and (query.get("username") or query.get("password")):
        user = f"{quote(query.get('username', ''), safe='')}:{quote(query.get('password', ''), safe='')}"
    login = f"{user}@" if user else ""
    if parts.scheme == "unix":
        return f"redis+socket://{login}{parts.path}?virtual_host={number}"
    if parts.scheme == "rediss":
        kept.setdefault("ssl_cert_reqs", "required")
    tail = f"?{urlencode(kept)}" if kept else ""
    return f"{parts.scheme}://{login}{host}/{number}{tail}"
