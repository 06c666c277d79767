"""The Redis connection of limiter and breaker, whether its server will do, and the Lua scripts they run on it.

Knows nothing of limits. Nothing here ever sends a command twice: a reservation repeated is a reservation lost.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, RedisError, ResponseError

from models.config_addresses import public_url
from models.errors import ConfigError, StorageError

log = logging.getLogger("truckllm.redis")

TAG = "{truckllm}"
"""Every Redis key starts with this hash tag, so that a cluster keeps them on one node and a pool may span providers."""

RUN_DAYS = 30

OLDEST = (5, 0)
"""Before it a script that has read the clock may not write."""

_NO_SUCH_DATABASE = ("DB index is out of range", "invalid DB index", "SELECT is not allowed")
"""Replies to SELECT, the last one by a Redis Cluster; redis-py raises them at the first command."""

_ROOM = Path(__file__).parent


def connect(url: str, *, timeout: float = 5.0, greet: bool = True) -> redis.asyncio.Redis:
    """A client for `redis://`, `rediss://` or `unix://` that gives up after `timeout` seconds and repeats nothing
    (redis-py's own default is ten repeats, also of a script that was already run). `greet` False: it writes nothing by itself."""
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "decode_responses": False,
        "protocol": 2,
        "redis_connect_func": _greet if greet else None,
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
    except ResponseError:  # not allowed, or not there: then a restart with its data goes unnoticed
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


def misfit(info: Mapping[str, object]) -> str | None:
    """Why a server that says this of itself (`INFO server`) can never serve us; None if it can."""
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST:
        needed = ".".join(map(str, OLDEST))
        return f"is Redis {version}; TruckLLM needs {needed} or newer, or any Valkey"
    if "cluster" in (info.get("redis_mode"), info.get("server_mode")):
        return "is part of a Redis Cluster, which tickets can't use; one server, with replicas if need be, has room for all of it"
    return None


async def examine(url: str) -> None:
    """Looks once, before anything starts, whether the server can do what is needed. One that is away, is loading, or takes no writes
    just now is none of this one's concern. Raises ConfigError if it never will do, StorageError if it refuses the password."""
    shown = public_url(url)
    client = connect(url, greet=False)
    try:
        try:
            info = await client.execute_command("INFO", "server")  # type: ignore[no-untyped-call]
        except ResponseError:
            info = {}
        if isinstance(info, Mapping) and (why := misfit(info)) is not None:
            raise ConfigError(f"redis_url: {shown} {why}")
        await client.execute_command("EVAL", "return 1", 1, TAG)  # type: ignore[no-untyped-call]
    except (NoPermissionError, ResponseError) as error:
        _check_database(shown, error)
        if isinstance(error, NoPermissionError) or "unknown command" in str(error).lower():
            raise ConfigError(
                f"redis_url: {shown} runs no scripts for this user ({error}); limits need EVAL and EVALSHA"
            ) from None
    except (RedisError, OSError, TimeoutError) as error:
        _check_database(shown, error)
        if isinstance(error, AuthenticationError) or isinstance(error.__cause__, AuthenticationError):
            raise StorageError(f"redis_url: {shown} refuses the user or its password: {error}") from None
        log.warning("redis_url: %s does not answer, nothing starts until it does: %s", shown, error)
    finally:
        await client.aclose()


def _check_database(shown: str, error: Exception) -> None:
    """Raises ConfigError where the server refused the number of the database: redis-py passes that on as one error or another."""
    if any(words in str(error) for words in _NO_SUCH_DATABASE):
        raise ConfigError(
            f"redis_url: {shown} has no such database ({error}); most servers have the numbers 0 to 15"
        ) from None


def is_script_error(error: Exception) -> bool:
    """Returns whether one of our scripts failed on a server that works: an outage would pass by itself, this doesn't."""
    failed = ("user_script", "@user_script", "Error running script", "Error compiling script")
    return isinstance(error, ResponseError) and str(error).removeprefix("ERR ").startswith(failed)


def describe(error: Exception) -> str:
    """Returns the error's kind and text on one line, at most 300 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


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
