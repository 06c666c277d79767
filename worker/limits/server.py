"""The Redis connection of limiter and breaker, and the Lua scripts they run on it.

Knows nothing of limits. Nothing here ever sends a command twice: a reservation repeated is a reservation lost.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, NoScriptError

TAG = "{truckllm}"
"""Every Redis key starts with this hash tag, so that a cluster keeps them on one node and a pool may span providers."""

RUN_DAYS = 30

_ROOM = Path(__file__).parent


def connect(url: str, *, timeout: float = 5.0) -> redis.asyncio.Redis:
    """A client for `redis://`, `rediss://` or `unix://` that gives up after `timeout` seconds and repeats nothing
    (redis-py's own default is ten repeats, also of a script that was already run)."""
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "decode_responses": False,
        "protocol": 2,
        "redis_connect_func": _greet,
    }
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    return redis.asyncio.Redis.from_url(url, **options)


async def _greet(connection: Any) -> None:
    """Tells a server which run of it this is, before anything else is asked of it: a restart breaks every connection, so
    that no script takes for complete what was read back from a file. Raises redis errors."""
    await connection.on_connect()
    try:
        run = _run_id(await _ask(connection, "INFO", "server"))
    except NoPermissionError:  # then a restart with its data goes unnoticed
        return
    if run:
        await _ask(connection, "SET", f"{TAG}:run", run, "EX", 86_400 * RUN_DAYS)


async def _ask(connection: Any, *command: object) -> Any:
    await connection.send_command(*command)
    return await connection.read_response()


def _run_id(info: object) -> str:
    text = info.decode(errors="replace") if isinstance(info, bytes) else str(info)
    found = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("run_id:"))
    return next(found, "")[:16]


@cache
def _source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


class Script:
    """A Lua script made of one or more files, run by its hash, or by its text where the server does not know it yet."""

    def __init__(self, *names: str, folder: Path = _ROOM) -> None:
        self.text = "\n".join(_source(folder / name) for name in names)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: redis.asyncio.Redis, *args: object) -> Any:
        """Runs once with `args` as one MessagePack array. Raises redis errors; the reply is as the script gave it."""
        packed = msgspec.msgpack.encode(args)
        try:
            return await client.execute_command("EVALSHA", self.sha, 1, TAG, packed)  # type: ignore[no-untyped-call]
        except NoScriptError:  # it was not run, so this is not a repeat
            return await client.execute_command("EVAL", self.text, 1, TAG, packed)  # type: ignore[no-untyped-call]
